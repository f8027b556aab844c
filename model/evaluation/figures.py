"""The figures of a comparison, as SVG in the page's colours. All intervals are 95 %.

Blue are the models in question, orange what a score should not come from (levels, confounds, random weights),
black the baselines. Names longer than LONGEST are cut in figures; the tables have them whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.figures.style import legend_above
from bjepa.model.evaluation.comparison import Comparison
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.learning_curve import CurvePoint
from bjepa.model.evaluation.metrics import CHANCE, LABELS
from bjepa.model.evaluation.paired import PairedDifference
from bjepa.model.evaluation.roles import ADJUSTED, role_of
from bjepa.model.evaluation.wording import format_p, short
from bjepa.model.page_figures import CURVES, EIGHT_CURVES, INK, MUTED, SHADE, panels

LONGEST = 42  # letters of a name
MOST_POINTS = 1500  # of a scatter plot
LOWEST = {"r2": -0.5}  # scores below are drawn at this edge, as an arrow
SECOND = {"regression": "mae", "classification": "balanced_accuracy"}  # shown beside the main metric
ROW = 0.235  # inches


def ordered(comparison: Comparison) -> list[str]:
    """Results from the best to the worst, adjusted ones under those they belong to."""
    plain = [name for name in comparison.names if not name.endswith(ADJUSTED)]
    plain.sort(key=lambda name: -_or_lowest(comparison.estimate(name).mean))
    return [n for name in plain for n in (name, name + ADJUSTED) if n in comparison.names]


def scores_figure(comparison: Comparison) -> str:
    """Main metric, and one in other units, of every result."""
    names, metrics = ordered(comparison), (comparison.metric, SECOND[comparison.cohort.task])
    with panels(2, height=0.9 + ROW * len(names)) as (axes, done):
        for number, (axis, metric) in enumerate(zip(axes, metrics, strict=True)):
            estimates = [comparison.result(name).estimates[metric] for name in names]
            _rows(axis, [cut(name) for name in names] if number == 0 else [""] * len(names))
            lowest = max(min(_known(estimates, 1), default=0.0), LOWEST.get(metric, -math.inf))
            for place, (name, estimate) in enumerate(zip(names, estimates, strict=True)):
                if metric == "mae" and name.endswith(ADJUSTED):
                    continue  # the error of what confounds leave of the target, which varies less
                _interval(axis, place, estimate, lowest, **_look(comparison, name))
            axis.set_xlabel(_axis_label(metric, comparison))
            _line(axis, *_reference(comparison, metric))
    return done[0]


def differences_figure(comparison: Comparison) -> str:
    """Forest plot of the paired differences, a block for each model."""
    blocks: dict[str, list[PairedDifference]] = {}
    single = {d.against for d in comparison.differences}
    by_reference = not comparison.models  # all against one
    for d in comparison.differences:
        blocks.setdefault(d.against if by_reference else d.method, []).append(d)
    rows: list[PairedDifference | str] = []
    for name, block in blocks.items():
        rows.append(f"… minus {cut(name)}" if by_reference else f"{cut(name)} minus …")
        block.sort(key=lambda d: -_or_lowest(d.estimate.mean))
        rows += block
    with panels(1, height=0.9 + ROW * len(rows)) as ((axis,), done):
        labels = [
            row if isinstance(row, str) else cut(row.method if by_reference else row.against) for row in rows
        ]
        _rows(axis, labels)
        for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
            if isinstance(row, str):
                tick.set(color=INK, fontweight="bold")
        for place, row in enumerate(rows):
            if isinstance(row, str):
                continue
            colour = EIGHT_CURVES[3] if row.is_worse else CURVES[2] if row.is_shown else INK
            _interval(axis, place, row.estimate, -math.inf, color=colour, marker="o", filled=row.is_shown)
            axis.annotate(
                format_p(row.p_holm, name=""),
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK if row.is_shown else MUTED,
            )
        axis.annotate(
            "p, Holm",
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(6, 3),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
        _line(axis, 0.0, "no difference")
        better = "the model" if comparison.models else "it"
        against = f" than {next(iter(single))}" if by_reference and len(single) == 1 else ""
        axis.set_xlabel(f"difference in {LABELS[comparison.metric]}; above 0 {better} is better{against}")
    return done[0]


def learning_curve_figure(comparison: Comparison) -> str:
    """Main metric over the participants that were learnt from; points are moved aside by a little."""
    curves: Mapping[str, Sequence[CurvePoint]] = comparison.curves
    largest = max(point.n_train for points in curves.values() for point in points)
    with panels(1, height=3.6 + 0.18 * math.ceil(len(curves) / 4)) as ((axis,), done):
        lowest = LOWEST.get(comparison.metric, -math.inf)
        styles = _styles_of_curves(comparison)
        for number, (name, points) in enumerate(curves.items()):
            colour, marker = styles[name]
            aside = 0.006 * largest * (number - (len(curves) - 1) / 2)
            x = np.array([point.n_train for point in points]) + aside
            y = np.array([point.estimates[comparison.metric] for point in points])  # (points, 3)
            shown = np.maximum(y, lowest)
            axis.plot(x, shown[:, 0], color=colour, marker=marker, ms=4, label=cut(name))
            axis.vlines(x, shown[:, 1], shown[:, 2], color=colour, lw=1)
        _line(axis, comparison.chance, f"chance, {comparison.chance:g}", horizontal=True)
        axis.set_xlim(0, 1.05 * largest)
        axis.set_xlabel("participants learnt from (mean over splits)")
        axis.set_ylabel(_axis_label(comparison.metric, comparison))
        legend_above(axis, 4)
    return done[0]


def _styles_of_curves(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Colour and marker of each curve: models blue, controls orange, baselines black and others."""
    palette = {
        "model": (CURVES[0], EIGHT_CURVES[4], EIGHT_CURVES[7]),
        "baseline": (INK, CURVES[2], EIGHT_CURVES[3], *EIGHT_CURVES[5:7]),
        "control": (CURVES[1],),
    }
    markers = {"model": "Dd", "baseline": "oPX*", "control": "s^v"}
    count = dict.fromkeys(palette, 0)
    styles = {}
    for name in comparison.curves:
        role = role_of(name, comparison.models)
        kind = role if role in palette else "control"
        colours, number = palette[kind], count[kind]
        turn = number // len(colours)
        styles[name] = colours[number % len(colours)], markers[kind][turn % len(markers[kind])]
        count[kind] += 1
    return styles


def prediction_figure(comparison: Comparison, name: str) -> str:
    """Regression: predicted against true. Classification: ROC curve, and reliability."""
    if comparison.cohort.task == "regression":
        with panels(1, width=3.4, height=3.2) as ((axis,), done):
            _scatter(axis, comparison, name)
        return done[0]
    with panels(2, width=5.2, height=2.8) as ((roc, reliability), done):
        _roc(roc, comparison, name)
        _reliability(reliability, comparison, name)
    return done[0]


def _scatter(axis: Any, comparison: Comparison, name: str) -> None:
    pairs, target_name = comparison.pairs[name], comparison.cohort.target_name
    true, said = pairs.target.astype(np.float64), pairs.values
    shown = np.linspace(0, len(true) - 1, min(len(true), MOST_POINTS)).astype(int)
    low, high = float(min(true.min(), said.min())), float(max(true.max(), said.max()))
    axis.plot([low, high], [low, high], color=MUTED, lw=1, ls="--", label="equal")
    axis.scatter(said[shown], true[shown], s=9, color=_look(comparison, name)["color"], alpha=0.55, lw=0)
    measures = comparison.calibrations[name].measures
    slope, intercept = measures["slope"].mean, measures["intercept"].mean
    if math.isfinite(slope):
        ends = np.array([said.min(), said.max()])
        axis.plot(ends, intercept + slope * ends, color=INK, lw=1.3, label=f"fit, slope {slope:.2f}")
    margin = 0.04 * (high - low)
    axis.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axis.set_xlabel(f"{cut(target_name)}, predicted")
    axis.set_ylabel(f"{cut(target_name)}, true")
    legend_above(axis, 2)


def _roc(axis: Any, comparison: Comparison, name: str) -> None:
    from sklearn.metrics import roc_curve

    pairs, classes = comparison.pairs[name], comparison.cohort.classes
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    for number, colour in _colours_of_classes(comparison, name):
        false, true, _ = roc_curve(pairs.target == number, pairs.values[:, number])
        axis.step(false, true, where="post", color=colour, label=cut(classes[number], 12))
    axis.set(
        xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    if len(classes) > 2:
        axis.legend(frameon=False, fontsize=7.5, loc="lower right", handlelength=1.2)


def _reliability(axis: Any, comparison: Comparison, name: str) -> None:
    classes = comparison.cohort.classes
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    for number, colour in _colours_of_classes(comparison, name):
        bins = [b for b in comparison.calibrations[name].bins if b.class_name == classes[number]]
        x, y = [b.predicted for b in bins], [b.observed for b in bins]
        axis.plot(x, [e.mean for e in y], color=colour, marker="o", ms=4, lw=1)
        axis.vlines(x, [e.low for e in y], [e.high for e in y], color=colour, lw=1)
    positive = cut(classes[-1], 14) if len(classes) == 2 else "a class"
    axis.set(xlabel=f"predicted probability of {positive}", ylabel=f"share that are {positive}")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _colours_of_classes(comparison: Comparison, name: str) -> list[tuple[int, str]]:
    classes = comparison.cohort.classes
    if len(classes) == 2:
        return [(1, _look(comparison, name)["color"])]
    return [(number, EIGHT_CURVES[number % 8]) for number in range(len(classes))]


def _look(comparison: Comparison, name: str) -> dict[str, Any]:
    """Colour and marker of a result by its role; hollow when adjusted."""
    role = role_of(name.removesuffix(ADJUSTED), comparison.models)
    colour = {"model": CURVES[0], "baseline": INK}.get(role, CURVES[1])
    marker = {"model": "D", "baseline": "o"}.get(role, "s")
    return {"color": colour, "marker": marker, "filled": not name.endswith(ADJUSTED)}


def _interval(
    axis: Any, place: int, estimate: Estimate, lowest: float, *, color: str, marker: str, filled: bool
) -> None:
    """A dot and its interval; an arrow at the edge where the dot lies below `lowest`."""
    mean, low, high = estimate
    if not math.isfinite(mean):
        return
    axis.plot(
        [max(low, lowest), max(high, lowest)], [place, place], color=color, lw=1.5, solid_capstyle="butt"
    )
    if mean < lowest:
        axis.plot([lowest], [place], color=color, marker="<", ms=6)
    else:
        axis.plot(
            [mean], [place], color=color, marker=marker, ms=5.5, mfc=color if filled else SHADE, mew=1.2
        )


def _rows(axis: Any, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    for tick in axis.get_yticklabels():
        tick.set_color(INK)


def _line(axis: Any, at: float, label: str, *, horizontal: bool = False) -> None:
    """A dashed line with its name, at chance or at no difference; it is always in view."""
    draw = axis.axhline if horizontal else axis.axvline
    draw(at, color=MUTED, lw=1, ls="--", zorder=0)
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": MUTED}
    if horizontal:
        axis.annotate(label, (0, at), xycoords=("axes fraction", "data"), xytext=(4, 3), ha="left", **style)
    else:
        axis.annotate(label, (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), ha="center", **style)


def _axis_label(metric: str, comparison: Comparison) -> str:
    label, target = LABELS[metric], cut(comparison.cohort.target_name, 20)
    if metric == "mae":
        return f"{label}, in the units of {target}; less is better"
    return f"{label} of {target}" if comparison.cohort.task == "regression" else label


def _reference(comparison: Comparison, metric: str) -> tuple[float, str]:
    """What is scored without looking at a scan, and how that is called."""
    if metric == "mae":
        target = comparison.cohort.target
        errors = [abs(target[s.test] - target[s.development].mean()).mean() for s in comparison.splits]
        return float(np.mean(errors)), f"always the mean, {short(float(np.mean(errors)))}"
    chance = 1 / len(comparison.cohort.classes) if metric == "balanced_accuracy" else CHANCE[metric]
    return chance, f"chance, {chance:.2g}"


def _known(estimates: Sequence[Estimate], part: int) -> list[float]:
    return [e[part] for e in estimates if math.isfinite(e[part])]


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def cut(name: str, longest: int = LONGEST) -> str:
    """The name, its middle left out where it is too long."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"


def n_drawn(pairs: NDArray[Any]) -> int:
    """Points of a scatter plot that are drawn."""
    return min(len(pairs), MOST_POINTS)
