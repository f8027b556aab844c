"""What a comparison leaves behind beside the tables of scores: the page, the paragraph, tables and figures.

report.html   sentences first, then scores, differences, learning curves, confounds, calibration
summary.txt   the paragraph that a paper could quote
differences.tsv calibration.tsv [learning_curve.tsv] [confound_checks.tsv]
figures/*.svg the page's first figures as files, in the colours of the light page
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bjepa.model.evaluation import figures
from bjepa.model.evaluation.comparison import Comparison
from bjepa.model.evaluation.findings import Finding, find
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.metrics import LABELS, METRICS
from bjepa.model.evaluation.paired import ALPHA
from bjepa.model.evaluation.quotable import quotable
from bjepa.model.evaluation.roles import ADJUSTED, CONFOUNDS, role_of
from bjepa.model.evaluation.wording import format_estimate, format_p, short
from bjepa.model.page_figures import standalone
from bjepa.preproc.files import write_text
from bjepa.preproc.html import write_page

ROLES = {
    "model": "the model in question",
    "baseline": "baseline",
    "control": "control: levels",
    "untrained": "control: random weights",
    "confounds": "control: confounds",
    "adjusted": "confounds regressed out",
}


def write_report(folder: Path, comparison: Comparison, *, facts: Mapping[str, str]) -> None:
    """Write report.html, summary.txt and figures/ into `folder`. `facts`: what was evaluated, in words."""
    drawn = _figures(comparison)
    for name, svg in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", standalone(svg))
    text = quotable(comparison)
    write_text(folder / "summary.txt", text + "\n")
    cohort = comparison.cohort
    plain = [name for name in figures.ordered(comparison) if not name.endswith(ADJUSTED)]
    write_page(
        folder / "report.html",
        "evaluation.html",
        package="bjepa.model.evaluation",
        target=cohort.target_name,
        task=cohort.task,
        n=len(cohort.participant_id),
        splits=comparison.splits.description,
        n_splits=comparison.splits.n_splits,
        n_classes=len(cohort.classes),
        positive_class=cohort.classes[-1] if len(cohort.classes) == 2 else "",
        n_permutations=comparison.n_permutations,
        tiles=_tiles(comparison),
        paragraphs=text.split("\n\n"),
        topics=_topics(find(comparison)),
        has_models=bool(comparison.models),
        metric=LABELS[comparison.metric],
        metrics=[LABELS[m] for m in METRICS[cohort.task]],
        rows=[_row(comparison, name) for name in figures.ordered(comparison)],
        drawn=drawn,
        differences=[_difference_row(d) for d in comparison.differences],
        n_curves=len(comparison.curves),
        confounds=comparison.confounds,
        adjusted=_adjusted_rows(comparison),
        checks=_check_table(comparison),
        measures=_measures(comparison, plain),
        predictions=[_prediction(comparison, name) for name in plain],
        facts=facts,
    )


def _topics(found: list[Finding]) -> list[tuple[str, list[Finding]]]:
    """Sentences under their headings, in their order."""
    topics: dict[str, list[Finding]] = {}
    for finding in found:
        topics.setdefault(finding.topic, []).append(finding)
    return list(topics.items())


def _figures(comparison: Comparison) -> dict[str, str]:
    drawn = {"scores": figures.scores_figure(comparison)}
    if comparison.differences:
        drawn["differences"] = figures.differences_figure(comparison)
    if any(comparison.curves.values()):
        drawn["learning_curve"] = figures.learning_curve_figure(comparison)
    return drawn


def _tiles(comparison: Comparison) -> list[tuple[str, str]]:
    """(value, what it is): the numbers to see first."""
    label = LABELS[comparison.metric]
    shown = [*comparison.models[:2], *([comparison.best_baseline] if comparison.best_baseline else [])]
    tiles = [(short(comparison.estimate(name).mean), f"{label}, {figures.cut(name, 26)}") for name in shown]
    return [
        *tiles,
        (f"{comparison.chance:g}", f"{label} at chance"),
        (f"{len(comparison.cohort.participant_id):,}", "participants"),
        (str(comparison.splits.n_splits), "splits, the same for all"),
        (str(len(comparison.names)), "results"),
    ]


def _row(comparison: Comparison, name: str) -> dict[str, Any]:
    result = comparison.result(name)
    return {
        "name": name,
        "role": ROLES[role_of(name, comparison.models)],
        "summary": comparison.summaries.get(name, ""),
        "values": [format_estimate(result.estimates[m]) for m in METRICS[comparison.cohort.task]],
        "p": format_p(result.p_values.get(comparison.metric, math.nan), name=""),
    }


def _difference_row(d: Any) -> dict[str, Any]:
    return {
        "method": d.method,
        "against": d.against,
        "value": format_estimate(d.estimate, signed=True),
        "p": format_p(d.p, name=""),
        "p_holm": format_p(d.p_holm, name=""),
        "shown": d.is_shown,
    }


def _adjusted_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Without and with confounds regressed out; the confounds alone, and those that could not be adjusted."""
    with_it = {d.against: d for d in comparison.adjusted}
    rows = []
    for name in comparison.names:
        if name.endswith(ADJUSTED) or not (comparison.adjusted or CONFOUNDS in comparison.names):
            continue
        d = with_it.get(name)
        why = (
            ""
            if name == CONFOUNDS
            else "not possible: reads series"
            if name in comparison.not_adjusted
            else ""
        )
        rows.append(
            {
                "name": "confounds alone" if name == CONFOUNDS else name,
                "without": format_estimate(comparison.estimate(name)),
                "with": format_estimate(comparison.estimate(d.method)) if d else why,
                "difference": format_estimate(d.estimate, signed=True) if d else "",
            }
        )
    return rows


def _check_table(comparison: Comparison) -> dict[str, Any]:
    """Methods in rows, confounds in columns; cells are (text, whether shown after the correction).

    With more than two classes a cell is of the class with the smallest p; the table of the file has them all.
    """
    columns = list(dict.fromkeys((c.confound, c.statistic) for c in comparison.checks))
    several = len(comparison.cohort.classes) > 2
    rows: dict[str, list[tuple[str, bool]]] = {}
    for method in dict.fromkeys(c.method for c in comparison.checks):
        for confound, _ in columns:
            found = [c for c in comparison.checks if (c.method, c.confound) == (method, confound)]
            c = min(found, key=lambda check: check.p if math.isfinite(check.p) else 2.0)
            text = f"{format_estimate(c.estimate)}, {format_p(c.p_holm)}"
            if not math.isfinite(c.p):
                text = "no variation"
            elif several:
                text = f"{figures.cut(c.class_name, 16)}: {text}"
            rows.setdefault(method, []).append((text, c.p_holm < ALPHA))
    words = {"partial_r": "partial r", "partial_eta_squared": "partial η²"}
    return {"columns": [f"{name}, {words[kind]}" for name, kind in columns], "rows": list(rows.items())}


def _measures(comparison: Comparison, names: list[str]) -> list[tuple[str, list[str]]]:
    """Cells of the calibration table: the measures with their intervals."""
    wanted: tuple[str, ...] = ("slope", "intercept", "mean_error")
    if comparison.cohort.task == "classification":
        wanted = ("brier", "brier_base_rate", "ece", "ece_if_calibrated")

    def cell(estimate: Estimate) -> str:
        return "not defined" if not math.isfinite(estimate.mean) else format_estimate(estimate)

    return [(name, [cell(comparison.calibrations[name].measures[m]) for m in wanted]) for name in names]


def _prediction(comparison: Comparison, name: str) -> dict[str, str]:
    """A figure with its caption and its text for those who do not see it."""
    target, label = comparison.cohort.target_name, LABELS[comparison.metric]
    said = f"{label} {format_estimate(comparison.estimate(name))}"
    if comparison.cohort.task == "regression":
        n = len(comparison.pairs[name].row)
        shown = figures.n_drawn(comparison.pairs[name].row)
        caption = f"{said}." if shown == n else f"{said}. {shown:,} of {n:,} points are drawn."
        alternative = f"True {target} against its prediction by {name}, with the line fitted to them. {said}."
    else:
        caption = f"{said}. Left: ROC curve. Right: reliability."
        alternative = f"ROC curve and reliability of {target} predicted by {name}. {said}."
    return {
        "name": name,
        "svg": figures.prediction_figure(comparison, name),
        "caption": caption,
        "alternative": alternative,
    }
