"""Split-half stability: agreement of the halves per component, of subspaces, and of the places of regions."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.figures.regions import strip
from bjepa.gradients.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    by_network,
    component_axis,
    legend_above,
    network_colour,
    null_band,
    subspace_axis,
    tidy,
)

if TYPE_CHECKING:
    from bjepa.gradients.quality.stability import Stability


def stability_figure(stability: "Stability") -> Figure:
    """r between halves (with intervals, null as a grey band), by structure where known, and subspaces."""
    table = stability.table
    structures = [name for name in ("cortex", "subcortex") if (table["structure"] == name).any()]
    n_panels = 3 if structures else 2
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, n_panels, width_ratios=[1.5, 1.1, 1] if structures else [1.5, 1])
    whole = table[table["structure"] == "all"]
    _draw_r(panels[0], whole, "r_unaligned", ORANGE, "as computed")
    _draw_r(panels[0], whole, "r", BLUE, "after alignment")
    if structures:
        for name, colour in zip(structures, (BLUE, "#1f2328"), strict=False):
            rows = table[table["structure"] == name]
            label = f"{name} ({int(rows['n_regions'].iloc[0])})"
            _draw_r(panels[1], rows, "r", colour, label, with_null=name == structures[-1])
    for axes in panels[:-1]:
        axes.set_ylabel("|r| between halves")
        axes.set_ylim(0, 1.02)
    legend_above(panels[0], 3)
    if structures:
        legend_above(panels[1], 3)
    _draw_subspaces(panels[-1], stability.subspaces)
    return figure


def _draw_r(axes: Any, rows: Any, column: str, colour: str, label: str, *, with_null: bool = True) -> None:
    number = rows["component"].to_numpy()
    axes.fill_between(
        number, rows[f"{column}_low"], rows[f"{column}_high"], color=colour, alpha=0.2, linewidth=0
    )
    axes.plot(number, rows[column], "o-", color=colour, markersize=4, linewidth=1, label=label)
    if with_null and column == "r":
        null_band(axes, rows["r_null"].to_numpy())
    component_axis(axes, int(number.max()), n_ticks=10)
    tidy(axes)


def _draw_subspaces(axes: Any, subspaces: Any) -> None:
    number = subspaces["n_components"].to_numpy()
    axes.fill_between(
        number, subspaces["cosine_low"], subspaces["cosine_high"], color=BLUE, alpha=0.2, linewidth=0
    )
    axes.plot(number, subspaces["cosine_min"], "o-", color=BLUE, markersize=4, linewidth=1)
    subspace_axis(axes, number)
    axes.set_ylabel("smallest principal cosine")
    axes.set_ylim(0, 1.02)
    tidy(axes)


def displacement_figure(stability: "Stability") -> Figure:
    """How far each region moves between halves: by network where known, and by structure."""
    regions = stability.regions
    moved = regions["displacement"].to_numpy(dtype=np.float64)
    networks = _known(regions, "network7")
    structures = _known(regions, "structure")
    order, edges, labels = by_network(networks, len(moved))
    rows = [order[edges[n] : edges[n + 1]] for n in range(len(labels))]
    colours = [network_colour(label, n) if networks else BLUE for n, label in enumerate(labels)]
    if networks is None:
        labels = ["all regions"]
    kinds = sorted(set(structures)) if structures else []
    if len(kinds) > 1:
        rows += [np.flatnonzero(np.array(structures) == kind) for kind in kinds]
        labels = labels + [f"all {kind}" for kind in kinds]
        colours += [GREY] * len(kinds)
    figure = Figure(figsize=(11, 0.32 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots()
    strip(axes, [moved[some] for some in rows], labels, colours)
    axes.set_xlim(left=0)
    axes.set_xlabel("displacement between halves (1: distance of a typical region from the centre)")
    return figure


def _known(table: Any, column: str) -> list[str] | None:
    if column not in table:
        return None
    cells = [str(cell) for cell in table[column]]
    return cells if any(cell not in ("", "n/a", "nan", "None") for cell in cells) else None
