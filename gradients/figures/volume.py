"""Gradients in the volume: axial slices of the label volume, or a glass brain of the regions' coordinates.

Both are drawn by nilearn, which writes left, right and the height of each slice (z in mm) beside them.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.figures.style import DIVERGING, MANY_REGIONS, N_SHOWN, agg, colour_limit
from bjepa.gradients.painting import paint
from bjepa.gradients.regions import Regions

N_SLICES = 7


def volume_figure(gradients: NDArray[np.float64], regions: Regions) -> Figure | None:
    """Gradients 1 to 3 (R, C): slices where there is a label volume, else regions at their coordinates.

    None where neither is known, or where there are too many regions for dots (vertices).
    """
    shown = gradients[:, :N_SHOWN]
    if regions.labels_img is not None:
        return _slices(shown, regions.labels_img)
    centres = region_centres(regions)
    if centres is None or len(centres) > MANY_REGIONS:
        return None
    return _glass_brain(shown, centres)


def region_centres(regions: Regions) -> NDArray[np.float64] | None:
    """(R, 3) mm, None where the table has no coordinates for all regions."""
    columns = [regions.column(name) for name in ("x", "y", "z")]
    if None in columns:
        return None
    try:
        centres = np.array(columns, dtype=np.float64).T
    except ValueError:
        return None
    return centres if np.isfinite(centres).all() else None


def _slices(gradients: NDArray[np.float64], labels_img: Any) -> Figure:
    import nibabel
    from nilearn import plotting

    nib: Any = nibabel
    labels = np.asarray(labels_img.dataobj) > 0
    z = nib.affines.apply_affine(labels_img.affine, np.argwhere(labels))[:, 2]  # mm, of labelled voxels
    cuts = np.linspace(np.quantile(z, 0.06), np.quantile(z, 0.97), N_SLICES)

    inside = nib.Nifti1Image(labels.astype(np.float32), labels_img.affine)

    def draw(number: int, figure: Any, place: tuple[float, float, float, float], limit: float) -> None:
        painted = paint(gradients[:, [number]], labels_img)[..., 0]  # 0 outside, and where there is no value
        display = plotting.plot_stat_map(
            nib.Nifti1Image(painted, labels_img.affine),
            bg_img=None,
            display_mode="z",
            cut_coords=[round(float(cut)) for cut in cuts],
            axes=place,
            figure=figure,
            black_bg=False,
            cmap=DIVERGING,
            vmax=limit,
            resampling_interpolation="nearest",
            threshold=1e-12,  # 0 is outside the label volume
            dim=0,
            annotate=False,
            colorbar=False,
        )
        display.add_contours(inside, levels=[0.5], colors="#8a95a3", linewidths=0.5)
        display.annotate(size=8)

    return _rows(gradients, 2.1, draw)


def _glass_brain(gradients: NDArray[np.float64], centres: NDArray[np.float64]) -> Figure:
    from nilearn import plotting

    def draw(number: int, figure: Any, place: tuple[float, float, float, float], limit: float) -> None:
        known = np.isfinite(gradients[:, number])
        plotting.plot_markers(
            gradients[known, number],
            centres[known],
            node_size=26,
            node_cmap=DIVERGING,
            node_vmin=-limit,
            node_vmax=limit,
            alpha=1,
            display_mode="lyrz",
            axes=place,
            figure=figure,
            colorbar=False,
            node_kwargs={"edgecolors": "#777", "linewidths": 0.3, "rasterized": len(centres) > 100},
        )

    return _rows(gradients, 2.3, draw)


def _rows(gradients: NDArray[np.float64], height: float, draw: Any) -> Figure:
    """One row and one colour bar a gradient."""
    n_maps = gradients.shape[1]
    with agg():
        import matplotlib.pyplot as plt
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        figure = plt.figure(figsize=(11, (height + 0.25) * n_maps))
        for number in range(n_maps):
            limit = colour_limit(gradients[:, number])
            bottom, tall = 1 - (number + 1) / n_maps, 0.9 / n_maps
            draw(number, figure, (0.03, bottom, 0.9, tall), limit)
            figure.text(0.005, bottom + tall / 2, f"gradient {number + 1}", rotation=90, va="center")
            bar = figure.add_axes((0.945, bottom + 0.15 * tall, 0.012, 0.7 * tall))
            figure.colorbar(ScalarMappable(Normalize(-limit, limit), DIVERGING), cax=bar, extend="both")
            bar.tick_params(labelsize=8)
        plt.close(figure)
    drawn: Figure = figure
    return drawn
