"""The paragraph that a paper could quote: who, how, how well, against what. One for each model."""

from __future__ import annotations

import bjepa
from bjepa.model.evaluation.comparison import Comparison
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.metrics import LABELS
from bjepa.model.evaluation.roles import ADJUSTED, CONTROL, untrained_as
from bjepa.model.evaluation.wording import and_list, format_estimate, format_p

BESIDE = {"regression": ("r", "mae"), "classification": ("balanced_accuracy",)}  # the main metric


def quotable(comparison: Comparison) -> str:
    """Plain text, paragraphs with an empty line between them; without a model, of the best baseline."""
    subjects = comparison.models or [n for n in [comparison.best_baseline] if n] or comparison.names[:1]
    return "\n\n".join(_paragraph(comparison, name) for name in subjects)


def _paragraph(comparison: Comparison, name: str) -> str:
    sentences = [
        _result(comparison, name),
        _best_baseline(comparison, name),
        _controls(comparison, name),
        _adjusted(comparison, name),
        _pretrained(comparison, name),
        f"Intervals are 95 %, corrected resampled t over splits (Nadeau & Bengio 2003); bjepa "
        f"{bjepa.__version__}, splits {comparison.splits.sha256[:12]}.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _result(comparison: Comparison, name: str) -> str:
    cohort, splits = comparison.cohort, comparison.splits
    grouped = "participant" if comparison.grouped_by == "participant_id" else comparison.grouped_by
    sizes = [(len(split.development), len(split.test)) for split in splits]
    fitted, tested = (sorted(part)[len(part) // 2] for part in zip(*sizes, strict=True))
    classes = ""
    if cohort.classes:
        counts = [f"{int((cohort.target == c).sum())} {label}" for c, label in enumerate(cohort.classes)]
        classes = f": {', '.join(counts)}"
    summary = comparison.summaries.get(name, "")
    described = f"{name} ({summary})" if summary else name
    scores = [_score(comparison, name, comparison.metric)]
    scores += [_score(comparison, name, metric) for metric in BESIDE[cohort.task]]
    p = comparison.result(name).p_values.get(comparison.metric)
    permuted = ""
    if p is not None:
        permuted = f" (permutation {format_p(p)}, {comparison.n_permutations} permutations)"
    n, target = len(cohort.participant_id), cohort.target_name
    return (
        f"{target[:1].upper()}{target[1:]} was predicted by {described} in cross-validation grouped by "
        f"{grouped} ({splits.description}; n = {n} participants{classes}; about {fitted} to fit "
        f"and {tested} to test in a split) with {scores[0]}{permuted}, {', '.join(scores[1:])}."
    )


def _score(comparison: Comparison, name: str, metric: str) -> str:
    estimate: Estimate = comparison.result(name).estimates[metric]
    unit = f" (in the units of {comparison.cohort.target_name})" if metric == "mae" else ""
    return f"{LABELS[metric]} {format_estimate(estimate)}{unit}"


def _best_baseline(comparison: Comparison, name: str) -> str:
    best, label = comparison.best_baseline, LABELS[comparison.metric]
    if best is None or best == name:
        return ""
    n_baselines = len(comparison.having("baseline"))
    which = "The baseline" if n_baselines == 1 else f"The best of {n_baselines} baselines,"
    comma = "" if n_baselines == 1 else ","
    text = f"{which} {best}{comma} reached {label} {format_estimate(comparison.estimate(best))}"
    found = comparison.difference(name, best)
    if found is None:
        return f"{text}."
    corrected = ""
    if (n := comparison.n_corrected_for(found)) > 1:
        corrected = f"; {format_p(found.p_holm)} by Holm's correction for {n} differences"
    return (
        f"{text}; the paired difference in {label} was {format_estimate(found.estimate, signed=True)} "
        f"({format_p(found.p)}{corrected})."
    )


def _controls(comparison: Comparison, name: str) -> str:
    label = LABELS[comparison.metric]
    untrained = untrained_as(name)
    words = {CONTROL: "static regional means", untrained: "the encoder without pretraining"}
    told = [
        f"{words[n]} {format_estimate(comparison.estimate(n))}"
        for n in (CONTROL, untrained)
        if n in comparison.names and n != name
    ]
    return f"Controls reached, in {label}: {'; '.join(told)}." if told else ""


def _adjusted(comparison: Comparison, name: str) -> str:
    adjusted = name + ADJUSTED
    if adjusted not in comparison.names:
        return ""
    confounds = and_list(comparison.confounds)
    said = format_estimate(comparison.estimate(adjusted))
    return f"With {confounds} regressed out inside the folds, it was {LABELS[comparison.metric]} {said}."


def _pretrained(comparison: Comparison, name: str) -> str:
    seen = comparison.pretrained_on.get(name)
    if not seen:
        return ""
    return f"Scans of {seen} of these participants were in its pretraining data."
