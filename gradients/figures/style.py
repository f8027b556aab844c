"""What all pictures share: colours, the order of networks, limits of colour, and drawing without a screen.

Colours of networks: Yeo et al. 2011, doi:10.1152/jn.00338.2011 (Limbic darkened to be seen on white). Red and
blue are the two ends of a gradient (RdBu_r); colours end at the 98th percentile of magnitude, 0 is white.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

NETWORK_COLOURS = {
    "Vis": "#781286",
    "SomMot": "#4682b4",
    "DorsAttn": "#00760e",
    "SalVentAttn": "#c43afa",
    "Limbic": "#a9b665",
    "Cont": "#e69422",
    "Default": "#cd3e4e",
    "Subcortex": "#1f2328",
}
BLUE, RED, ORANGE, GREY = "#1f5fa8", "#a8201f", "#e69422", "#8a95a3"
DIVERGING = "RdBu_r"
MANY_DOTS = 2000  # more are drawn as pixels
MANY_REGIONS = 5000  # of more (vertices) no R x R matrix is drawn, and none is named
N_SHOWN = 3  # gradients that are drawn one by one


def by_network(
    networks: list[str] | None, n_rois: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Order of regions by network, the edges of the blocks, and their names."""
    if networks is None:
        return np.arange(n_rois), np.array([0, n_rois]), [""]
    known = [name for name in NETWORK_COLOURS if name in networks]
    labels = known + sorted(set(networks) - set(known))
    rank = np.array([labels.index(name) for name in networks])
    edges = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(labels)))])
    return np.argsort(rank, kind="stable"), edges, labels


def network_colour(label: str, number: int) -> Any:
    """The colour of a network: the published one, else one of twenty by its place among the networks."""
    import matplotlib

    return NETWORK_COLOURS.get(label) or matplotlib.colormaps["tab20"](number % 20)


def colours_of_regions(networks: list[str] | None, n_rois: int) -> NDArray[np.float64]:
    """(R, 4) one colour a region."""
    from matplotlib.colors import to_rgba

    order, edges, labels = by_network(networks, n_rois)
    colours = np.tile(to_rgba(BLUE), (n_rois, 1))
    if networks is not None:
        for number, label in enumerate(labels):
            colours[order[edges[number] : edges[number + 1]]] = to_rgba(network_colour(label, number))
    return colours


def colour_limit(values: NDArray[np.float64]) -> float:
    """98th percentile of magnitude, 1 where there is none; NaN is left out."""
    known = np.abs(values[np.isfinite(values)])
    return float(np.quantile(known, 0.98)) or 1.0 if len(known) else 1.0


def tidy(*panels: Any) -> None:
    """Two spines, small ticks."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)


def component_axis(axes: Any, n_components: int, *, n_ticks: int = 15) -> None:
    """Whole numbers from 1 along x, at most `n_ticks` of them."""
    axes.set_xticks(np.arange(1, n_components + 1)[:: max(1, -(-n_components // n_ticks))])
    axes.set_xlim(0.5, n_components + 0.5)
    axes.set_xlabel("component")


def subspace_axis(axes: Any, number: NDArray[np.int64]) -> None:
    """Sizes of the spaces along x, logarithmic: the first few matter most."""
    axes.set_xscale("log")
    axes.set_xticks(number if len(number) < 10 else [k for k in (1, 2, 3, 5, 10, 20, 30) if k in number])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("first k components, as a space")


def null_band(axes: Any, null: NDArray[np.float64]) -> None:
    """Grey from 0 to the 95th percentile of the null, of components 1, 2, ...: what chance gives."""
    edges = np.arange(len(null) + 1) + 0.5
    axes.stairs(null, edges, fill=True, color="#dfe3e8", zorder=0, label="null (95 %)")
    axes.stairs(null, edges, color=GREY, linewidth=1, linestyle=(0, (3, 2)), baseline=None, zorder=1)


def legend_above(axes: Any, n_columns: int) -> None:
    """The legend over the panel, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=n_columns,
        frameon=False,
        fontsize=8,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.1,
    )


@contextmanager
def agg() -> Iterator[None]:
    """Draw without a screen, and give the caller's backend back."""
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("agg", force=True)
    try:
        yield
    finally:
        matplotlib.use(before, force=True)
