"""Groups and single participants beside the group of all: agreement, variance explained, planes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.figures.regions import draw_plane, strip
from bjepa.gradients.figures.style import BLUE, N_SHOWN, ORANGE, component_axis, legend_above, tidy

if TYPE_CHECKING:
    from bjepa.gradients.groups import Groups
    from bjepa.gradients.individuals import Individuals

MAX_GROUPS = 8  # drawn; the others are in their files


def groups_figure(groups: "Groups") -> Figure:
    """Of each group: r with the template per component, and the distribution of regions on gradient 1."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    drawn = groups.groups[:MAX_GROUPS]
    for group, colour in zip(drawn, _colours(len(drawn)), strict=True):
        number = np.arange(1, len(group.r) + 1)
        label = f"{group.name} ({_size(group)})"
        left.plot(number, np.abs(group.r), "o-", color=colour, markersize=4, linewidth=1, label=label)
        middle.plot(number, 100 * np.asarray(group.variance), "o-", color=colour, markersize=3, linewidth=1)
        values = np.sort(group.embedding.gradients[:, 0])
        values = values[np.isfinite(values)]
        right.plot(values, np.arange(1, len(values) + 1) / len(values), color=colour, linewidth=1.4)
    left.set_ylabel("|r| with the gradients of all")
    left.set_ylim(0, 1.02)
    legend_above(left, 3)
    middle.set_ylabel("variance of own connectivity\nexplained by 1 to k (%)")
    middle.set_ylim(0, 100)
    for axes in (left, middle):
        component_axis(axes, len(drawn[0].r), n_ticks=10)
    right.set_xlabel("gradient 1")
    right.set_ylabel("share of regions below")
    right.locator_params(nbins=5)
    tidy(left, middle, right)
    return figure


def group_planes_figure(groups: "Groups", networks: list[str] | None) -> Figure | None:
    """The plane of gradients 1 and 2 of each group, on the same axes; None: one component."""
    drawn = groups.groups[:MAX_GROUPS]
    if drawn[0].embedding.gradients.shape[1] < 2:
        return None
    n_columns = min(4, len(drawn))
    n_rows = -(-len(drawn) // n_columns)
    figure = Figure(figsize=(11, (4.2 if n_columns < 3 else 2.9) * n_rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(n_rows, n_columns, sharex=True, sharey=True)).ravel()
    for axes, group in zip(panels, drawn, strict=False):
        draw_plane(axes, group.embedding.gradients, networks, 0, 1)
        axes.set_title(f"{group.name} ({_size(group)})", fontsize=10)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    if networks is not None:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def individuals_figure(individuals: "Individuals") -> Figure:
    """r of each participant with the group, variance explained, and r against the amount of data."""
    table = individuals.table
    columns = [f"r_{k}" for k in range(1, N_SHOWN + 1) if f"r_{k}" in table]
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    r = [table[column].to_numpy(dtype=np.float64) for column in columns]
    strip(left, r, [f"gradient {column[2:]}" for column in columns], [BLUE] * len(columns))
    left.set_xlabel("r of a participant with the group")
    shares = [100 * table[name].to_numpy(dtype=np.float64) for name in ("variance_fc", "variance_template")]
    strip(middle, shares, ["of own\nconnectivity", "of the group's\ngradients"], [BLUE, ORANGE])
    middle.set_xlabel("variance explained by own gradients (%)")
    right.scatter(table["n_frames"], table["r_mean"], s=14, color=BLUE, alpha=0.7, linewidth=0)
    right.set_xlabel("frames of the participant")
    right.set_ylabel("mean r with the group")
    right.locator_params(nbins=5)
    tidy(right)
    return figure


def _size(group: Any) -> str:
    return f"{group.n_participants}" if group.n_participants else f"{group.n_scans} scans"


def _colours(n: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["tab10"](number) for number in range(n)]
