"""Regions on the gradients: the plane of the first ones, and their distribution in every network."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.figures.style import BLUE, MANY_DOTS, N_SHOWN, by_network, network_colour, tidy


def plane_figure(gradients: NDArray[np.float64], networks: list[str] | None) -> Figure | None:
    """Every region at its place: gradient 1 against 2, and 1 against 3 if there is one; None: only one."""
    pairs = [(0, second) for second in range(1, min(N_SHOWN, gradients.shape[1]))]
    if not pairs:
        return None
    figure = Figure(figsize=(5.2 * len(pairs) + 1.2, 4.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(pairs)))
    for axes, (first, second) in zip(panels, pairs, strict=True):
        draw_plane(axes, gradients, networks, first, second)
    if networks is not None:
        handles, labels = panels[0].get_legend_handles_labels()
        legend: Any = figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
        for handle in legend.legend_handles:
            handle.set_sizes([24])
    return figure


def draw_plane(
    axes: Any, gradients: NDArray[np.float64], networks: list[str] | None, first: int, second: int
) -> None:
    """One panel; `first` and `second` count from 0. Rows that are NaN have no place."""
    order, edges, labels = by_network(networks, len(gradients))
    is_many = len(gradients) > MANY_DOTS
    for number, label in enumerate(labels):
        rows = order[edges[number] : edges[number + 1]]
        axes.scatter(
            gradients[rows, first],
            gradients[rows, second],
            s=3 if is_many else 22,
            color=network_colour(label, number) if networks is not None else BLUE,
            edgecolor="none" if is_many else "white",
            linewidth=0.4,
            label=f"{label} ({len(rows)})",
            rasterized=is_many,
        )
    axes.axhline(0, color="#bbb", linewidth=0.6, zorder=0)
    axes.axvline(0, color="#bbb", linewidth=0.6, zorder=0)
    axes.locator_params(nbins=5)
    axes.set_xlabel(f"gradient {first + 1}")
    axes.set_ylabel(f"gradient {second + 1}")
    tidy(axes)


def networks_figure(
    gradients: NDArray[np.float64], networks: list[str] | None, *, also: int | None = None
) -> Figure | None:
    """Gradients 1 to 3 in every network: a dot a region, box from quartile to quartile, line at the median.

    `also`: one more gradient (from 0). None where networks are not known.
    """
    if networks is None:
        return None
    shown = list(range(min(N_SHOWN, gradients.shape[1])))
    shown += [] if also is None or also in shown else [also]
    order, edges, labels = by_network(networks, len(gradients))
    rows = {label: order[edges[n] : edges[n + 1]] for n, label in enumerate(labels)}
    figure = Figure(figsize=(11, 0.32 * len(labels) + 1.1), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for component, axes in zip(shown, panels, strict=True):
        strip(
            axes,
            [gradients[rows[label], component] for label in labels],
            labels,
            [network_colour(label, number) for number, label in enumerate(labels)],
        )
        axes.axvline(0, color="#bbb", linewidth=0.6, zorder=0)
        axes.set_xlabel(f"gradient {component + 1}")
    return figure


def strip(axes: Any, values: list[NDArray[np.float64]], labels: list[str], colours: list[Any]) -> None:
    """Horizontal strips, the first on top: dots (spread evenly), quartiles, median. NaN is left out."""
    for place, (some, colour) in enumerate(zip(values, colours, strict=True)):
        known = some[np.isfinite(some)]
        # golden ratio: evenly spread, the same in every run
        spread = (np.arange(len(known)) * 0.618034 % 1 - 0.5) * 0.6
        axes.scatter(
            known,
            place + spread,
            s=5,
            color=colour,
            alpha=0.55,
            linewidth=0,
            rasterized=len(known) > MANY_DOTS,
        )
        if len(known):
            low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
            axes.add_patch(_box(low, high, place, colour))
            axes.plot([middle, middle], [place - 0.36, place + 0.36], color=colour, linewidth=2.2)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=5)
    tidy(axes)


def _box(low: float, high: float, place: int, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((low, place - 0.3), high - low, 0.6, fill=False, edgecolor=colour, linewidth=1)
