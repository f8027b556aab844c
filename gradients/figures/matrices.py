"""Connectivity and affinity side by side, regions ordered by network."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.figures.style import DIVERGING, by_network


def matrices_figure(
    fc: NDArray[np.float64], affinity: NDArray[np.float64], networks: list[str] | None
) -> Figure:
    """`fc` and `affinity`: (R, R). NaN is white. Colours end at the 99th percentile off the diagonal."""
    order, edges, labels = by_network(networks, len(fc))
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    off_diagonal = ~np.eye(len(fc), dtype=bool)
    limit = float(np.nanquantile(np.abs(fc[off_diagonal]), 0.99))
    low, high = np.nanquantile(affinity[off_diagonal], [0.01, 0.99])
    contents = (
        (panels[0], fc, "connectivity", DIVERGING, -limit, limit),
        (panels[1], affinity, "affinity", "magma", float(low), float(high)),
    )
    for axes, matrix, title, colours, lowest, highest in contents:
        image = axes.imshow(
            matrix[np.ix_(order, order)], cmap=colours, vmin=lowest, vmax=highest, interpolation="nearest"
        )
        figure.colorbar(image, ax=axes, shrink=0.75, extend="both")
        axes.set_title(title)
        axes.tick_params(length=0, labelsize=8)
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color="#555", linewidth=0.5)
            axes.axvline(edge - 0.5, color="#555", linewidth=0.5)
        if networks is not None:
            middles = (edges[:-1] + edges[1:] - 1) / 2
            axes.set_xticks(middles, labels, rotation=55, ha="right", rotation_mode="anchor")
            axes.set_yticks(middles, labels)
        else:
            axes.set_xlabel("region, in the order of the columns")
    return figure
