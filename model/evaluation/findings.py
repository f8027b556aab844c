"""What a comparison says in plain sentences, and what it warns of. docs/compare.md explains each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bjepa.model.evaluation.comparison import Comparison
from bjepa.model.evaluation.metrics import LABELS
from bjepa.model.evaluation.paired import ALPHA, PairedDifference
from bjepa.model.evaluation.roles import ADJUSTED, CONFOUNDS, CONTROL, LINEAR_FC, PROBE, UNTRAINED
from bjepa.model.evaluation.wording import and_list, format_estimate, format_p, short

FEW = 100  # participants; below it, an interval of R² is commonly 0.3 wide and more


class Finding(NamedTuple):
    """One sentence of the report."""

    text: str
    warning: bool


def find(comparison: Comparison) -> list[Finding]:
    """All sentences: the models first, then who finds the target, confounds, and how far to trust it all."""
    return [
        *_on_the_models(comparison),
        *_on_chance(comparison),
        *_on_the_control(comparison),
        *_on_confounds(comparison),
        *_on_pretraining(comparison),
        *_on_calibration(comparison),
        *_on_trust(comparison),
    ]


def called(comparison: Comparison, name: str, *, first: bool = False) -> str:
    """How a sentence names a result; `first`: at its beginning."""
    if comparison.models == [PROBE] == [name]:
        return "The embedding" if first else "the embedding"
    return name


def _on_the_models(comparison: Comparison) -> Iterator[Finding]:
    for model in comparison.models:
        compared = [
            d for d in comparison.differences if d.method == model and d.against not in comparison.models
        ]
        subject = called(comparison, model, first=True)
        if not [d for d in compared if d.against != CONFOUNDS]:
            yield Finding(
                f"No baseline was run beside {called(comparison, model)}, so its score says little. "
                "Add --methods.",
                True,
            )
            continue
        better = [d for d in compared if d.is_shown and d.estimate.mean > 0]
        worse = [d for d in compared if d.is_shown and d.estimate.mean < 0]
        open_ = [d for d in compared if not d.is_shown]
        if better:
            yield Finding(f"{subject} beats {_listed(comparison, better)}.", False)
        if worse:
            yield Finding(f"{subject} is worse than {_listed(comparison, worse)}.", True)
        if open_:
            yield Finding(f"{subject} does not beat {_listed(comparison, open_)}.", True)
        yield from _what_it_means(comparison, model, {d.against: d for d in compared})
    between = [d for d in comparison.differences if d.against in comparison.models]
    if between:
        shown = [f"{d.method} − {d.against} {_numbers(d)}" for d in between]
        yield Finding(f"Between the models: {'; '.join(shown)}.", False)


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
    if UNTRAINED in against and not beaten(UNTRAINED):
        yield Finding(
            f"{subject} is not better than the same encoder with random weights ({UNTRAINED}): its "
            "pretraining adds nothing that is shown here.",
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
        yield Finding(f"{subject} does no better than the confounds alone.", True)


def _listed(comparison: Comparison, differences: Sequence[PairedDifference]) -> str:
    """`fc-ridge: R² 0.45 against 0.30, difference …`, or a list with the differences alone."""
    label = LABELS[comparison.metric]
    if len(differences) == 1:
        (d,) = differences
        one, other = (short(comparison.estimate(name).mean) for name in (d.method, d.against))
        return f"{d.against}: {label} {one} against {other}, difference {_numbers(d)}"
    return f"{and_list([f'{d.against} ({_numbers(d)})' for d in differences])} (differences in {label})"


def _numbers(d: PairedDifference) -> str:
    """`+0.15 [0.05, 0.25]`, and the p-values where they disagree."""
    text = format_estimate(d.estimate, signed=True)
    if d.p < ALPHA <= d.p_holm:
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
            numbers = "; ".join(f"{name} {_with_p(comparison, name)}" for name in names)
            yield Finding(
                f"{numbers}: {verdict[len(names) > 1]} ({label}; chance is {comparison.chance:g}).",
                bool(set(names) & set(comparison.models)) and names is below,
            )


def _with_p(comparison: Comparison, name: str) -> str:
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
        names = and_list(list(comparison.cohort.columns)) if comparison.cohort.columns else "confounds"
        if comparison.finds(CONFOUNDS):
            text = f"The confounds alone ({names}) predict {comparison.cohort.target_name}: {said}."
            yield Finding(f"{text} Read the adjusted scores.", True)
        else:
            yield Finding(f"The confounds alone ({names}) are not shown to predict it: {said}.", False)
    for d in comparison.adjusted:
        name = d.against
        if comparison.finds(name) and not comparison.finds(d.method):
            yield Finding(
                f"{name} is no longer shown to find {comparison.cohort.target_name} once the confounds are "
                f"regressed out: {label} {short(comparison.estimate(name).mean)}, then "
                f"{format_estimate(comparison.estimate(d.method))}.",
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


def _on_pretraining(comparison: Comparison) -> Iterator[Finding]:
    n = len(comparison.cohort.participant_id)
    for model, seen in comparison.pretrained_on.items():
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
            f"“Beats” and “is worse” mean a p-value below {ALPHA:g} after Holm's correction for {k} "
            "differences. Intervals, and p-values of single scores, are not corrected.",
            False,
        )
