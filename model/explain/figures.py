"""The pictures of an explanation: networks as bars with intervals, layers, and the cortical surface."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.figures.style import BLUE, NETWORK_COLOURS, ORANGE, network_colour, tidy
from bjepa.gradients.figures.surface_view import surface_figure
from bjepa.gradients.figures.surfaces import SurfaceLabels
from bjepa.model.explain.explanation import Explanation
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.networks import DIFFERENCE, Scheme

STRUCTURE_COLOURS = {"cortex": BLUE, "subcortex": ORANGE}
SMALLEST = 2.0**-4  # of a ratio on the surface: colours end here


def networks_figure(found: Explanation, scheme: Scheme, measures: Sequence[Measure]) -> Figure:
    """A panel a measure: a bar a network from the expected to the mean, its interval, a dot a participant."""
    names = _ordered(scheme.networks)
    figure = Figure(figsize=(11, 0.30 * len(names) + 1.1), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    place = np.arange(len(names))[::-1]
    for axes, measure in zip(panels, measures, strict=True):
        rows = {row.network: row.estimate for row in found.rows(scheme.name, measure)}
        means_nK = scheme.means(found.maps[measure.name])
        for y, name in zip(place, names, strict=True):
            estimate = rows[name]
            colour = colour_of(name, scheme.networks.index(name))
            axes.barh(
                y,
                estimate.mean - measure.expected,
                left=measure.expected,
                color=colour,
                alpha=0.75,
                height=0.7,
            )
            values = means_nK[:, scheme.networks.index(name)]
            axes.plot(
                values, np.full(len(values), y), ".", color="#1f2328", alpha=0.25, markersize=3, zorder=3
            )
            if np.isfinite(estimate.low):
                axes.plot([estimate.low, estimate.high], [y, y], color="#1f2328", linewidth=1.6, zorder=4)
        axes.axvline(measure.expected, color="#777", linewidth=0.9, linestyle=(0, (3, 2)))
        axes.set_title(measure.label, fontsize=10)
        axes.set_xlabel(measure.unit, fontsize=9)
        axes.locator_params(axis="x", nbins=5)
        tidy(axes)
    panels[0].set_yticks(place, names)
    return figure


def layers_figure(found: Explanation, scheme: Scheme) -> Figure | None:
    """Attention received by each network (rows) in each layer (columns); None for one layer."""
    measures = [m for m in found.measures if m.layer is not None]
    if len(measures) < 2:
        return None
    names = _ordered(scheme.networks)
    ratio = np.array(
        [
            [row.estimate.mean for name in names for row in found.rows(scheme.name, m) if row.network == name]
            for m in measures
        ]
    ).T  # (K, layers)
    figure = Figure(figsize=(2.6 + 0.55 * len(measures), 0.28 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    limit = max(float(np.nanmax(np.abs(np.log2(ratio)))), 0.01)
    image = axes.imshow(np.log2(ratio), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(measures)), [str(m.layer) for m in measures])
    axes.set_xlabel("layer", fontsize=9)
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, format=lambda value, _: as_ratio(value))
    bar.set_label("× uniform attention", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def surface_picture(found: Explanation, surface: SurfaceLabels, measures: Sequence[Measure]) -> Figure:
    """Group maps of measures that are ratios, a row each; red is above what is expected, blue below."""
    columns = [np.log2(np.maximum(found.group_map(m), SMALLEST)) for m in measures]
    titles = [m.label.replace(", ", ",\n") for m in measures]
    return surface_figure(np.stack(columns, axis=1), surface, titles=titles, tick=as_ratio)


def signed_surface_picture(found: Explanation, surface: SurfaceLabels, measures: Sequence[Measure]) -> Figure:
    """Group maps of signed measures, a row each; red raises the output, blue lowers it."""
    columns = np.stack([found.group_map(m) for m in measures], axis=1)
    titles = [f"{m.label}\n({m.unit})" for m in measures]
    return surface_figure(columns, surface, titles=titles, tick=lambda value: f"{value:.2g}")


def as_ratio(log2_ratio: float) -> str:
    """`×1.4` of a binary logarithm."""
    return f"×{2.0**log2_ratio:.4g}"


def colour_of(name: str, number: int) -> Any:
    """The published colour of a network, that of its seven-network parent, or one by its number."""
    if name in STRUCTURE_COLOURS:
        return STRUCTURE_COLOURS[name]
    parents = [known for known in NETWORK_COLOURS if name.startswith(known)]
    return network_colour(max(parents, key=len) if parents else name, number)


def _ordered(networks: Sequence[str]) -> list[str]:
    """From sensory to association networks, as everywhere; difference and unknown names last."""
    known = list(NETWORK_COLOURS)

    def rank(name: str) -> tuple[int, str]:
        parents = [i for i, one in enumerate(known) if name.startswith(one)]
        return (max(parents) if parents else len(known) - 1, name)

    return sorted((n for n in networks if n != DIFFERENCE), key=rank)
