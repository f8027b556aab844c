"""report.html of an evaluation: what it means in sentences, the table with intervals, a figure per method."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.metrics import CHANCE, LABELS, MAIN_METRIC, METRICS
from bjepa.model.evaluation.protocol import MethodResult, difference, pooled
from bjepa.model.evaluation.splits import Splits
from bjepa.preproc.html import figure_uri, write_page

PROBE, CONTROL = "probe", "static-mean"
FEW = 100  # participants; below it, an interval of R² is commonly 0.3 wide and more


class Finding(NamedTuple):
    """One sentence of the report."""

    text: str
    warning: bool


def write_report(
    path: Path,
    results: list[MethodResult],
    cohort: Cohort,
    splits: Splits,
    *,
    summaries: dict[str, str],
    facts: dict[str, str],
) -> None:
    """Write the page. `summaries`: a line on each method; `facts`: what was evaluated, for the last table."""
    metrics = METRICS[cohort.task]
    write_page(
        path,
        "evaluation.html",
        package="bjepa.model.evaluation",
        target=cohort.target_name,
        task=cohort.task,
        n=len(cohort.participant_id),
        n_splits=splits.n_splits,
        positive_class=cohort.classes[-1] if len(cohort.classes) == 2 else "",
        findings=findings(results, cohort, splits),
        metrics=[LABELS[m] for m in metrics],
        rows=[
            (r.name, summaries[r.name], [format_estimate(r.estimates[m]) for m in metrics]) for r in results
        ],
        figures=[(r.name, _figure(r, cohort), _caption(r, cohort), _alternative(r, cohort)) for r in results],
        facts=facts,
    )


def findings(results: list[MethodResult], cohort: Cohort, splits: Splits) -> list[Finding]:
    """Plain sentences on the main metric: which methods find the target, and what a model adds."""
    metric = MAIN_METRIC[cohort.task]
    chance, label = CHANCE[metric], LABELS[metric]
    found = []
    for result in results:
        estimate = result.estimates[metric]
        above = estimate.low > chance
        verdict = "finds the target" if above else "is not shown to do better than chance"
        found.append(
            Finding(
                f"{result.name} {verdict}: {label} {format_estimate(estimate)}, chance is {chance:g}.", False
            )
        )
    by_name = {r.name: r for r in results}
    if CONTROL in by_name and by_name[CONTROL].estimates[metric].low > chance:
        found.append(
            Finding(
                f"The control {CONTROL} predicts {cohort.target_name} from regional levels alone. Levels "
                "carry scanner, site and physiology; part of every other score may come from them.",
                True,
            )
        )
    if PROBE in by_name:
        found += _on_the_probe(by_name, cohort, splits, metric)
    if len(cohort.participant_id) < FEW:
        found.append(
            Finding(
                f"{len(cohort.participant_id)} participants are few: read the intervals, not the means.", True
            )
        )
    return found


def _on_the_probe(
    by_name: dict[str, MethodResult], cohort: Cohort, splits: Splits, metric: str
) -> list[Finding]:
    """The sentences a reader needs about an embedding: better than FC? more than levels?"""
    others = [name for name in by_name if name != PROBE]
    if not others:
        text = "No baseline was run beside the embedding, so its score says little. Add --methods."
        return [Finding(text, True)]
    found = []
    probe, label = by_name[PROBE], LABELS[metric]
    for name in others:
        gap = difference(probe, by_name[name], metric, splits)
        what = (
            f"{label} {probe.estimates[metric].mean:.2f} against {by_name[name].estimates[metric].mean:.2f}"
        )
        numbers = f"{what}, difference {format_estimate(gap, signed=True)}"
        if gap.low > 0:
            found.append(Finding(f"The embedding beats {name}: {numbers}.", False))
        elif gap.high < 0:
            found.append(Finding(f"The embedding is worse than {name}: {numbers}.", True))
        elif name == CONTROL and by_name[name].estimates[metric].low > CHANCE[metric]:
            found.append(
                Finding(
                    f"The embedding only equals {name}: {numbers}. It may hold no more than regional levels.",
                    True,
                )
            )
        else:
            found.append(Finding(f"The embedding does not beat {name}: {numbers}.", True))
    return found


def format_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """`0.41 [0.22, 0.60]`: mean and 95 % interval, three significant digits for large numbers."""
    if not np.isfinite(estimate.mean):
        return "undefined (equal predictions)"
    mean = _short(estimate.mean, signed=signed)
    return f"{mean} [{_short(estimate.low)}, {_short(estimate.high)}]"


def _short(value: float, *, signed: bool = False) -> str:
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
    if float(text) == 0:
        text = text.lstrip("-")
    text = f"+{text}" if signed and float(text) > 0 else text
    return text.replace("-", "−")


def _figure(result: MethodResult, cohort: Cohort) -> str:
    from matplotlib.figure import Figure  # no pyplot, no display

    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axes = figure.subplots()
    if cohort.task == "regression":
        _draw_scatter(axes, result, cohort)
    else:
        _draw_roc(axes, result, cohort)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_uri(figure)


def _draw_scatter(axes: Any, result: MethodResult, cohort: Cohort) -> None:
    low, high = float(cohort.target.min()), float(cohort.target.max())
    axes.plot([low, high], [low, high], color="0.6", lw=1, ls="--", label="equal")
    axes.axhline(float(cohort.target.mean()), color="0.8", lw=1, label="mean of all")
    axes.scatter(*pooled(result), s=18, alpha=0.7, color="#1f5fa8", lw=0)
    axes.set_xlabel(f"{cohort.target_name}, true")
    axes.set_ylabel(f"{cohort.target_name}, predicted out of fold")
    axes.legend(frameon=False, fontsize=8)


def _draw_roc(axes: Any, result: MethodResult, cohort: Cohort) -> None:
    from sklearn.metrics import roc_curve

    axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", label="chance")
    shown = [1] if len(cohort.classes) == 2 else range(len(cohort.classes))
    for number in shown:
        target, prediction = pooled(result)
        false, true, _ = roc_curve(target == number, prediction[:, number])
        axes.step(false, true, where="post", lw=1.8, label=cohort.classes[number])
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=8, title="positive class", title_fontsize=8)


def _caption(result: MethodResult, cohort: Cohort) -> str:
    metric = MAIN_METRIC[cohort.task]
    what = "a point is a participant" if cohort.task == "regression" else "ROC curve, all test folds pooled"
    return f"{result.name}: {what}. {LABELS[metric]} {format_estimate(result.estimates[metric])}."


def _alternative(result: MethodResult, cohort: Cohort) -> str:
    kind = "Predicted against true values" if cohort.task == "regression" else "ROC curve"
    return f"{kind} of {cohort.target_name} by {result.name}"
