"""The pictures of a gradient run, each a matplotlib figure: matrices, plane, brain, scree, cross-check.

R regions, C components. Colours of networks: Yeo et al. 2011 (Limbic darkened to be seen on white).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.atlas_io import paint
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.regions import Regions

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
_BAR = "#1f5fa8"


def matrices(fc: NDArray[np.float64], affinity: NDArray[np.float64], networks: list[str] | None) -> Figure:
    """Connectivity and affinity (R, R) side by side, regions ordered by network."""
    order, edges, labels = _by_network(networks, len(fc))
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    off_diagonal = ~np.eye(len(fc), dtype=bool)
    limit = float(np.quantile(np.abs(fc[off_diagonal]), 0.99))
    low, high = np.quantile(affinity[off_diagonal], [0.01, 0.99])
    contents = (
        (panels[0], fc, "mean connectivity", "RdBu_r", -limit, limit),
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


def _by_network(networks: list[str] | None, n_rois: int) -> tuple[NDArray[np.int64], Any, list[str]]:
    """Order of regions by network, the edges of the blocks, and their names."""
    if networks is None:
        return np.arange(n_rois), np.array([0, n_rois]), [""]
    known = [name for name in NETWORK_COLOURS if name in networks]
    labels = known + sorted(set(networks) - set(known))
    rank = np.array([labels.index(name) for name in networks])
    edges = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(labels)))])
    return np.argsort(rank, kind="stable"), edges, labels


def plane(gradients: NDArray[np.float64], networks: list[str] | None) -> Figure:
    """Every region at its place on the first gradients: 1 against 2, and 1 against 3 if there is one."""
    pairs = [(0, second) for second in range(1, min(3, gradients.shape[1]))]
    figure = Figure(figsize=(5.2 * len(pairs) + 1.2, 4.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(pairs)))
    order, edges, labels = _by_network(networks, len(gradients))
    for axes, (first, second) in zip(panels, pairs, strict=True):
        for number, label in enumerate(labels):
            rows = order[edges[number] : edges[number + 1]]
            axes.scatter(
                gradients[rows, first],
                gradients[rows, second],
                s=22,
                color=_colour(label, number) if networks is not None else _BAR,
                edgecolor="white",
                linewidth=0.4,
                label=f"{label} ({len(rows)})",
            )
        axes.axhline(0, color="#bbb", linewidth=0.6, zorder=0)
        axes.axvline(0, color="#bbb", linewidth=0.6, zorder=0)
        axes.locator_params(nbins=5)
        axes.tick_params(labelsize=8)
        axes.set_xlabel(f"gradient {first + 1}")
        axes.set_ylabel(f"gradient {second + 1}")
        axes.spines[["top", "right"]].set_visible(False)
    if networks is not None:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _colour(label: str, number: int) -> Any:
    import matplotlib

    return NETWORK_COLOURS.get(label) or matplotlib.colormaps["tab20"](number % 20)


def scree(result: Embedding) -> Figure:
    """Eigenvalues, with brackets over neighbours that are nearly equal."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots()
    number = np.arange(1, len(result.eigenvalues) + 1)
    axes.plot(number, result.eigenvalues, "o-", color=_BAR, markersize=5, linewidth=1)
    lift = 0.03 * float(np.ptp(result.eigenvalues)) or 0.01
    pairs = result.near_degenerate_pairs()
    for place, (first, second) in enumerate(pairs):
        height = result.eigenvalues[first - 1] + lift
        axes.plot(
            [first, first, second, second],
            [height, height + lift, height + lift, height],
            color="#a8201f",
            linewidth=1.2,
            label="closer than 5 %: free to rotate" if place == 0 else None,
        )
    if pairs:
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlabel("component")
    axes.set_ylabel("eigenvalue λ of the Markov matrix")
    axes.set_xticks(number[:: max(1, len(number) // 15)])
    axes.set_ylim(min(0.0, float(result.eigenvalues.min()) * 1.1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def brain(gradients: NDArray[np.float64], regions: Regions) -> Figure | None:
    """Gradients 1 to 3 on the brain: axial slices of the label volume, else regions at their coordinates.

    None where neither is known.
    """
    shown = gradients[:, :3]
    if regions.labels_img is not None:
        return _slices(shown, regions.labels_img)
    centres = _centres(regions)
    return None if centres is None else _dots(shown, centres)


def _slices(gradients: NDArray[np.float64], labels_img: Any) -> Figure:
    import nibabel
    from nilearn import plotting

    nib: Any = nibabel
    labels = np.asarray(labels_img.dataobj) > 0
    z = nib.affines.apply_affine(labels_img.affine, np.argwhere(labels))[:, 2]  # mm, of labelled voxels
    cuts = np.linspace(np.quantile(z, 0.06), np.quantile(z, 0.97), 7)
    n_maps = gradients.shape[1]
    with _agg():
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(11, 2.1 * n_maps))
        for number in range(n_maps):
            axes = figure.add_axes((0.0, 1 - (number + 1) / n_maps, 0.97, 0.95 / n_maps))
            painted = paint(gradients[:, [number]], labels_img)[..., 0].astype(np.float32)
            display = plotting.plot_stat_map(
                nib.Nifti1Image(painted, labels_img.affine),
                bg_img=None,
                display_mode="z",
                cut_coords=[round(float(cut)) for cut in cuts],
                axes=axes,
                figure=figure,
                black_bg=False,
                cmap="RdBu_r",
                vmax=float(np.quantile(np.abs(gradients[:, number]), 0.98)),
                resampling_interpolation="nearest",
                threshold=1e-12,  # 0 is outside the label volume
                dim=0,
                annotate=False,
            )
            display.annotate(size=8)
            display.title(f"gradient {number + 1}", size=11, x=0.0, y=1.0, color="#1c2430", bgcolor="white")
        plt.close(figure)
    drawn: Figure = figure
    return drawn


@contextmanager
def _agg() -> Iterator[None]:
    """Draw without a screen, and give the caller's backend back."""
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("agg", force=True)
    try:
        yield
    finally:
        matplotlib.use(before, force=True)


def _centres(regions: Regions) -> NDArray[np.float64] | None:
    """(R, 3) mm, None where the table has no coordinates for all regions."""
    columns = [regions.column(name) for name in ("x", "y", "z")]
    if None in columns:
        return None
    try:
        centres = np.array(columns, dtype=np.float64).T
    except ValueError:
        return None
    return centres if np.isfinite(centres).all() else None


def _dots(gradients: NDArray[np.float64], centres: NDArray[np.float64]) -> Figure:
    n_maps = gradients.shape[1]
    figure = Figure(figsize=(10, 3 * n_maps), layout="constrained")
    panels = np.atleast_2d(figure.subplots(n_maps, 3))
    left, right = centres[:, 0] < 0, centres[:, 0] >= 0
    views = (("left side", left, 1, 2), ("from above", left | right, 0, 1), ("right side", right, 1, 2))
    for number in range(n_maps):
        limit = float(np.quantile(np.abs(gradients[:, number]), 0.98)) or 1.0
        for axes, (title, rows, first, second) in zip(panels[number], views, strict=True):
            axes.scatter(
                centres[rows, first],
                centres[rows, second],
                c=gradients[rows, number],
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                s=34,
                edgecolor="#777",
                linewidth=0.3,
            )
            axes.set_aspect("equal")
            axes.set_axis_off()
            axes.set_title(f"gradient {number + 1}, {title}", fontsize=10)
        panels[number, 0].invert_xaxis()  # a left hemisphere is seen with the front to the left
    return figure


def cross_check_figure(check: dict[str, Any]) -> Figure:
    """Agreement of single components with BrainSpace, and both residuals."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    number = np.arange(1, len(check["abs_r"]) + 1)
    left.vlines(number, check["abs_r_min_over_seeds"], check["abs_r"], color="#c0cad6", linewidth=4)
    left.plot(number, check["abs_r"], "o", color=_BAR, markersize=5, label="seed 0")
    left.plot(
        number, check["abs_r_min_over_seeds"], "_", color="#a8201f", markersize=9, label="lowest of seeds 0-4"
    )
    left.set_ylabel("|r| with BrainSpace's component")
    span = max(1 - min(check["abs_r_min_over_seeds"]), 1e-3)
    left.set_ylim(1 - 1.15 * span, 1 + 0.1 * span)
    right.semilogy(
        number, check["residual_brainspace"], "o-", color="#e69422", label="BrainSpace", markersize=4
    )
    right.semilogy(number, check["residual"], "o-", color=_BAR, label="bjepa", markersize=4)
    right.set_ylabel("relative residual of the eigenpair")
    for axes in (left, right):
        axes.set_xlabel("component")
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
