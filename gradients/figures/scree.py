"""How many components: eigenvalues, close pairs, and how much of connectivity the components explain."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.embedding import SMALL_GAP, Embedding
from bjepa.gradients.figures.style import BLUE, RED, component_axis, tidy

_EIGENVALUE = {
    "dm": "eigenvalue λ of the Markov matrix",
    "le": "eigenvalue of the Laplacian",
    "pca": "variance of the component",
}


def scree_figure(result: Embedding, variance: NDArray[np.float64] | None = None) -> Figure:
    """Eigenvalues with brackets over neighbours that are nearly equal; `variance` (C,): cumulative share."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    if variance is None:
        axes = figure.subplots()
    else:
        axes, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        _draw_variance(right, variance)
    number = np.arange(1, len(result.eigenvalues) + 1)
    axes.plot(number, result.eigenvalues, "o-", color=BLUE, markersize=5, linewidth=1)
    lift = 0.03 * float(np.ptp(result.eigenvalues)) or 0.01
    pairs = result.near_degenerate_pairs()
    for place, (first, second) in enumerate(pairs):
        height = max(result.eigenvalues[first - 1], result.eigenvalues[second - 1]) + lift
        axes.plot(
            [first, first, second, second],
            [height, height + lift, height + lift, height],
            color=RED,
            linewidth=1.2,
            label=f"closer than {100 * SMALL_GAP:.0f} %: free to rotate" if place == 0 else None,
        )
    if pairs:
        axes.legend(frameon=False, loc="upper right")
    axes.set_ylabel(_EIGENVALUE.get(result.approach, "eigenvalue"))
    component_axis(axes, len(number))
    axes.set_ylim(min(0.0, float(result.eigenvalues.min()) * 1.1))
    tidy(axes)
    return figure


def _draw_variance(axes: object, variance: NDArray[np.float64]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    number = np.arange(1, len(variance) + 1)
    axes.plot(number, 100 * variance, "o-", color=BLUE, markersize=4, linewidth=1)
    axes.set_ylabel("variance of connectivity explained\nby components 1 to k (%)")
    axes.set_ylim(0, 100)
    component_axis(axes, len(number), n_ticks=10)
    tidy(axes)
