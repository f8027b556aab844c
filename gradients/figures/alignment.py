"""Alignment with a reference, comparison with a file: agreement per component, beside that of chance."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.figures.style import (
    BLUE,
    MANY_DOTS,
    ORANGE,
    RED,
    colours_of_regions,
    component_axis,
    legend_above,
    null_band,
    subspace_axis,
    tidy,
)

if TYPE_CHECKING:
    from bjepa.gradients.alignment import Alignment
    from bjepa.gradients.quality.compare import Comparison


def alignment_figure(alignment: "Alignment", networks: list[str] | None) -> Figure:
    """|r| with the reference before and after the turn, and gradient 1 of every region against its own."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    number = np.arange(1, len(alignment.r) + 1)
    null_band(left, alignment.r_null)
    left.plot(
        number, np.abs(alignment.r_before), "o-", color=ORANGE, markersize=4, linewidth=1, label="before"
    )
    left.plot(
        number, np.abs(alignment.r), "o-", color=BLUE, markersize=4, linewidth=1, label="after alignment"
    )
    left.set_ylabel("|r| with the reference")
    left.set_ylim(0, 1.02)
    component_axis(left, len(number))
    legend_above(left, 3)

    colours = colours_of_regions(networks, len(alignment.gradients))
    ours, theirs = alignment.gradients[:, 0], alignment.reference_values[:, 0]
    is_many = len(ours) > MANY_DOTS
    for rows, filled in ((alignment.rows, True), (~alignment.rows, False)):
        if not rows.any():
            continue
        right.scatter(
            theirs[rows],
            ours[rows],
            s=3 if is_many else 16,
            facecolor=colours[rows] if filled else "none",
            edgecolor="none" if filled else colours[rows],
            alpha=0.8,
            linewidth=0.6,
            rasterized=is_many,
        )
    right.set_title(f"r = {alignment.r[0]:.3f}", fontsize=10)
    right.set_xlabel("gradient 1 of the reference")
    right.set_ylabel("gradient 1 here")
    right.locator_params(nbins=5)
    tidy(left, right)
    return figure


def comparison_figure(comparison: "Comparison") -> Figure:
    """Agreement with a file per component (same number, best match, after alignment) and of subspaces."""
    table, subspaces = comparison.table, comparison.subspaces
    number = table["component"].to_numpy()
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.8, 1])
    null_band(left, table["r_null"].to_numpy(dtype=np.float64))
    left.plot(number, table["r"].abs(), "o", color=ORANGE, markersize=4, label="same number")
    left.plot(number, table["r_best"].abs(), "_", color=RED, markersize=9, label="best match")
    left.plot(
        number, table["r_aligned"].abs(), "o-", color=BLUE, markersize=4, linewidth=1, label="after alignment"
    )
    for k, match, r in zip(number, table["best_match"], table["r_best"].abs(), strict=True):
        if match != k and len(number) <= 40:
            left.annotate(
                str(match), (k, r), (0, 3), textcoords="offset points", ha="center", fontsize=7, color=RED
            )
    left.set_ylabel("|r| with the file's component")
    left.set_ylim(0, 1.08)
    component_axis(left, int(number.max()))
    legend_above(left, 4)
    _draw_cosines(right, subspaces)
    tidy(left, right)
    return figure


def _draw_cosines(axes: Any, subspaces: Any) -> None:
    number = subspaces["n_components"].to_numpy()
    axes.plot(number, subspaces["cosine_mean"], "o-", color=ORANGE, markersize=4, linewidth=1, label="mean")
    axes.plot(number, subspaces["cosine_min"], "o-", color=BLUE, markersize=4, linewidth=1, label="smallest")
    subspace_axis(axes, number)
    axes.set_ylabel("principal cosine")
    axes.set_ylim(0, 1.02)
    legend_above(axes, 2)
