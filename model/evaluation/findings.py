"""What a comparison says in plain sentences, and what it warns of. docs/compare.md explains each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bjepa.model.evaluation.comparison import Comparison
from bjepa.model.evaluation.metrics import LABELS
from bjepa.model.evaluation.paired import ALPHA, PairedDifference
from bjepa.model.evaluation.roles import (
    ADJUSTED,
    CONFOUNDS,
    CONTROL,
    LINEAR_FC,
    PROBE,
    UNTRAINED,
    untrained_as,
)
from bjepa.model.evaluation.wording import and_list, format_estimate, format_p, short

TOPICS = CHANCE_TOPIC, CONFOUND_TOPIC, TRUST_TOPIC = (
    "Who finds the target",
    "Levels and confounds",
    "How far to trust it",
)
MANY = 4  # results; of more a sentence tells the means alone
FEW = 100  # participants; below it, an interval of R² is commonly 0.3 wide and more


class Finding(NamedTuple):
    """One sentence of the report."""

    text: str
    warning: bool
    topic: str = ""  # heading on the page: the name of a model, or one of TOPICS


def find(comparison: Comparison) -> list[Finding]:
    """All sentences: on each model, who finds the target, confounds, and how far to trust it all."""
    found: list[Finding] = []
    for model in comparison.models:
        about = (*_on_a_model(comparison, model), *_on_pretraining(comparison, model))
        found += [finding._replace(topic=model) for finding in about]
    for topic, about_it in (
        (CHANCE_TOPIC, _on_chance(comparison)),
        (CONFOUND_TOPIC, (*_on_the_control(comparison), *_on_confounds(comparison))),
        (TRUST_TOPIC, (*_on_calibration(comparison), *_on_trust(comparison))),
    ):
        found += [finding._replace(topic=topic) for finding in about_it]
    return found


def called(comparison: Comparison, name: str, *, first: bool = False) -> str:
    """How a sentence names a result; `first`: at its beginning."""
    if comparison.models == [PROBE] == [name]:
        return "The embedding" if first else "the embedding"
    return name


def _on_a_model(comparison: Comparison, model: str) -> Iterator[Finding]:
    of_model = [d for d in comparison.differences if d.method == model]
    compared = [d for d in of_model if d.against not in comparison.models]
    subject = called(comparison, model, first=True)
    if not [d for d in compared if d.against != CONFOUNDS]:
        yield Finding(
            f"No baseline was run beside {called(comparison, model)}, so its score says little. "
            "Add --methods.",
            True,
        )
        return
    for differences, verdict, warning in (
        ([d for d in compared if d.is_shown and d.estimate.mean > 0], "beats", False),
        ([d for d in compared if d.is_worse], "is worse than", True),
        ([d for d in compared if not d.is_shown and not d.is_worse], "does not beat", True),
    ):
        if differences:
            yield Finding(f"{subject} {verdict} {_listed(comparison, differences)}.", warning)
    yield from _on_all_baselines(comparison, model)
    yield from _what_it_means(comparison, model, {d.against: d for d in compared})
    if between := [d for d in of_model if d.against in comparison.models]:
        shown = and_list([f"{d.against} by {_numbers(d)}" for d in between])
        yield Finding(f"{subject} differs in {LABELS[comparison.metric]} from {shown}.", False)


def _what_it_means(
    comparison: Comparison, model: str, against: dict[str, PairedDifference]
) -> Iterator[Finding]:
    """The warnings: no more than connectivity, than untrained weights, than levels."""

    def beaten(name: str) -> bool:
        return against[name].is_shown and against[name].estimate.mean > 0

    subject = called(comparison, model, first=True)
    linear = [name for name in LINEAR_FC if name in against]
    if linear and not beaten(linear[0]):
        yield Finding(
            f"{subject} is not shown to know more of {comparison.cohort.target_name} than a correlation "
            f"matrix and linear regression do ({linear[0]}).",
            True,
        )
    elif not linear:
        yield Finding(
            f"Linear connectivity ({' or '.join(LINEAR_FC)}) was not run: whether "
            f"{called(comparison, model)} is more than that is not known.",
            True,
        )
    untrained = untrained_as(model)
    if untrained in against and not beaten(untrained):
        yield Finding(
            f"{subject} is not better than the same encoder with random weights ({untrained}): its "
            "pretraining adds nothing that is shown here.",
            True,
        )
    elif untrained not in against and any(name.startswith(UNTRAINED) for name in against):
        yield Finding(
            f"No untrained encoder was read out as {called(comparison, model)} is ({untrained}): whether its "
            "pretraining adds anything is not known.",
            True,
        )
    rest = [name for name in against if name not in (CONTROL, CONFOUNDS)]
    if CONTROL in against and beaten(CONTROL) and rest and not any(map(beaten, rest)):
        yield Finding(f"{subject} beats static means only: no baseline is shown to be worse.", True)
    if CONTROL in against and not beaten(CONTROL) and comparison.finds(CONTROL):
        yield Finding(
            f"{subject} only equals {CONTROL}, or is worse: it may hold no more than regional levels.", True
        )
    if CONFOUNDS in against and not beaten(CONFOUNDS) and comparison.finds(CONFOUNDS):
        yield Finding(f"{subject} is not shown to do better than the confounds alone.", True)


def _on_all_baselines(comparison: Comparison, model: str) -> Iterator[Finding]:
    """Every test passed by itself: then "all" needs no correction (Berger 1982, intersection-union tests)."""
    baselines = [comparison.difference(model, name) for name in comparison.having("baseline")]
    found = [d for d in baselines if d is not None]
    if len(found) > 1 and all(d.p < ALPHA and d.estimate.mean > 0 for d in found):
        closest = min(found, key=lambda d: d.estimate.mean)
        yield Finding(
            f"{called(comparison, model, first=True)} is ahead of all {len(found)} baselines, each with "
            f"p < {ALPHA:g} by itself, which is enough to say “all”; the closest is {closest.against}, "
            f"{format_estimate(closest.estimate, signed=True)}.",
            False,
        )


def _listed(comparison: Comparison, differences: Sequence[PairedDifference]) -> str:
    """`fc-ridge: R² 0.45 against 0.30, difference …`; of several the differences, of many the means alone."""
    label = LABELS[comparison.metric]
    if len(differences) == 1:
        (d,) = differences
        one, other = (short(comparison.estimate(name).mean) for name in (d.method, d.against))
        return f"{d.against}: {label} {one} against {other}, difference {_numbers(d)}"
    if len(differences) <= MANY:
        told = [f"{d.against} ({_numbers(d)})" for d in differences]
    else:
        told = [f"{d.against} ({short(d.estimate.mean, signed=True)}{'*' * d.is_lost})" for d in differences]
    star = "; * p < 0.05 by itself" if len(differences) > MANY and any(d.is_lost for d in differences) else ""
    return f"{and_list(told)} (differences in {label}{star})"


def _numbers(d: PairedDifference) -> str:
    """`+0.15 [0.05, 0.25]`, and the p-values where they disagree."""
    text = format_estimate(d.estimate, signed=True)
    if d.is_lost:
        text += f", {format_p(d.p)} by itself, {format_p(d.p_holm, name='')} corrected"
    return text


def _on_chance(comparison: Comparison) -> Iterator[Finding]:
    label = LABELS[comparison.metric]
    plain = [name for name in comparison.names if not name.endswith(ADJUSTED) and name != CONFOUNDS]
    above = [name for name in plain if comparison.finds(name)]
    below = [name for name in plain if not comparison.finds(name)]
    for names, verdict in (
        (above, ("finds the target", "find the target")),
        (below, ("is not shown to do better than chance", "are not shown to do better than chance")),
    ):
        if names:
            many = len(names) > MANY
            numbers = "; ".join(f"{name} {_with_p(comparison, name, brief=many)}" for name in names)
            yield Finding(
                f"{numbers}: {verdict[len(names) > 1]} ({label}; chance is {comparison.chance:g}).",
                bool(set(names) & set(comparison.models)) and names is below,
            )


def _with_p(comparison: Comparison, name: str, *, brief: bool) -> str:
    if brief:
        return short(comparison.estimate(name).mean)
    p = comparison.result(name).p_values.get(comparison.metric)
    said = format_estimate(comparison.estimate(name))
    return said if p is None else f"{said}, permutation {format_p(p)}"


def _on_the_control(comparison: Comparison) -> Iterator[Finding]:
    if CONTROL not in comparison.names:
        return
    target = comparison.cohort.target_name
    if comparison.finds(CONTROL):
        yield Finding(
            f"The control {CONTROL} predicts {target} from regional levels alone. Levels carry scanner, site "
            "and physiology; part of every other score may come from them.",
            True,
        )
    else:
        yield Finding(
            f"The control {CONTROL} is at chance: regional levels do not give {target} away.", False
        )


def _on_confounds(comparison: Comparison) -> Iterator[Finding]:
    label = LABELS[comparison.metric]
    if CONFOUNDS in comparison.names:
        said = f"{label} {format_estimate(comparison.estimate(CONFOUNDS))}"
        names = and_list(comparison.confounds) if comparison.confounds else "confounds"
        if comparison.finds(CONFOUNDS):
            text = f"The confounds alone ({names}) predict {comparison.cohort.target_name}: {said}."
            yield Finding(f"{text} Read the adjusted scores.", True)
        else:
            yield Finding(f"The confounds alone ({names}) are not shown to predict it: {said}.", False)
    gone = [d for d in comparison.adjusted if comparison.finds(d.against) and not comparison.finds(d.method)]
    if gone:
        names = f"{and_list([d.against for d in gone])} {'is' if len(gone) == 1 else 'are'}"
        means = [short(comparison.estimate(d.against).mean) for d in gone]
        left = [format_estimate(comparison.estimate(d.method)) for d in gone]
        scores = "; ".join(f"{before}, then {after}" for before, after in zip(means, left, strict=True))
        yield Finding(
            f"{names} no longer shown to find {comparison.cohort.target_name} once the confounds are "
            f"regressed out: {label} {scores}.",
            True,
        )
    for confound in dict.fromkeys(c.confound for c in comparison.checks):
        going = [c for c in comparison.checks if c.confound == confound and c.p_holm < ALPHA]
        if going:
            what = "partial r" if going[0].statistic == "partial_r" else "partial η²"
            names = and_list(
                [
                    f"{c.method}{f' ({c.class_name})' if c.class_name else ''} {short(c.estimate.mean)}"
                    for c in going
                ]
            )
            yield Finding(
                f"Predictions go with {confound} beyond what {comparison.cohort.target_name} explains: "
                f"{names} ({what}).",
                True,
            )
    if comparison.not_adjusted:
        yield Finding(
            f"Confounds could not be regressed out of {and_list(list(comparison.not_adjusted))}: "
            "their scores stand as they are.",
            True,
        )


def _on_pretraining(comparison: Comparison, model: str) -> Iterator[Finding]:
    if model not in comparison.pretrained_on:
        return
    n, seen = len(comparison.cohort.participant_id), comparison.pretrained_on[model]
    subject = called(comparison, model, first=True)
    if seen is None:
        yield Finding(
            f"Whom {called(comparison, model)} was pretrained on is not known: these participants may be "
            "among them.",
            False,
        )
    elif seen:
        yield Finding(
            f"{subject} was pretrained on scans of {seen} of these {n} participants, without their "
            f"{comparison.cohort.target_name}. Scores in people it has not seen may be lower.",
            True,
        )
    else:
        yield Finding(f"{subject} was pretrained on none of these participants.", False)


def _on_calibration(comparison: Comparison) -> Iterator[Finding]:
    wanted = [*comparison.models, *([comparison.best_baseline] if comparison.best_baseline else [])]
    for name in wanted:
        measures = comparison.calibrations[name].measures
        subject = called(comparison, name, first=True)
        if comparison.cohort.task == "regression":
            slope = measures["slope"]
            if slope.low == slope.low and not slope.covers(1) and comparison.finds(name):
                how = "too far apart" if slope.mean < 1 else "too close to their mean"
                yield Finding(
                    f"Predictions of {called(comparison, name)} are {how}: true values change by "
                    f"{format_estimate(slope)} for each unit of the prediction.",
                    False,
                )
        elif measures["ece"].mean > measures["ece_if_calibrated"].high:
            yield Finding(
                f"{subject} is not calibrated: its probabilities are off by {short(measures['ece'].mean)} on "
                f"average, {short(measures['ece_if_calibrated'].high)} at most would be noise.",
                False,
            )


def _on_trust(comparison: Comparison) -> Iterator[Finding]:
    n, k = len(comparison.cohort.participant_id), len(comparison.differences)
    if n < FEW:
        yield Finding(f"{n} participants are few: read the intervals, not the means.", True)
    if len(comparison.models) > 1:
        yield Finding(
            f"{len(comparison.models)} models are compared on the same test parts: the best of them looks "
            "better than it is. Choose on other participants.",
            False,
        )
    if k > 1:
        yield Finding(
            f"“Beats” means a p-value below {ALPHA:g} after Holm's correction for all that a model is "
            f"compared with; “is worse” means p < {ALPHA:g} by itself, as nobody gains by finding that. "
            "Intervals, and p-values of single scores, are not corrected.",
            False,
        )
