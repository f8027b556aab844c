"""How an atlas is looked at: regions in the order of networks, three planes in mm, colours.

Everything is decided by the table of regions (centres, networks), so all pictures of a study show the same
planes in the same order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas

_MARGIN = 18.0  # mm around the outermost region centres
_PLANES = (
    (0, 1, 2),
    (1, 0, 2),
    (2, 0, 1),
)  # sagittal, coronal, axial: axis across the plane; to the right; up


def has_volume(atlas: Atlas) -> bool:
    """Whether the atlas has a label volume to slice: surface atlases and mere lists of regions have none."""
    return atlas.kind == "volume" and atlas.labels_img is not None


def region_order(atlas: Atlas) -> NDArray[np.int64]:
    """(n_rois,) columns sorted by structure, network and hemisphere; within these, column order."""
    table = atlas.table
    keys = [table[c].astype(str).to_numpy() for c in ("hemisphere", "network7", "structure")]
    order: NDArray[np.int64] = np.lexsort(keys)
    return order


def region_groups(atlas: Atlas, order: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Runs of equal network in `order`: name, first row, row after the last."""
    table = atlas.table.iloc[order]
    names = np.where(table["network7"].isin(["n/a", ""]), table["structure"], table["network7"]).astype(str)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.append(starts[1:], len(names))
    return [(str(names[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def plane_positions(atlas: Atlas, width: int, height: int) -> list[tuple[NDArray[np.float64], str]]:
    """For each plane the positions of its pixels (height, width, 3) in mm, first row on top, and a title.

    The planes go through the lower quartile of the centres in x (left hemisphere) and the medians in y and z,
    at one scale: the same planes for all scans.
    """
    centres = atlas.table[["x", "y", "z"]].to_numpy(np.float64)
    low, high = np.nanmin(centres, axis=0) - _MARGIN, np.nanmax(centres, axis=0) + _MARGIN
    left = np.nanquantile(centres[:, 0], 0.25)
    through = np.array([left, *np.nanmedian(centres[:, 1:], axis=0)])
    middle = (low + high) / 2
    extent = high - low
    step = max(max(extent[across] / width, extent[up] / height) for _, across, up in _PLANES)
    planes = []
    for fixed, across, up in _PLANES:
        points = np.empty((height, width, 3))
        points[..., fixed] = through[fixed]
        points[..., across] = middle[across] + (np.arange(width) - (width - 1) / 2) * step
        points[..., up] = (middle[up] - (np.arange(height) - (height - 1) / 2) * step)[:, None]
        planes.append((points, f"{'xyz'[fixed]} = {through[fixed]:.0f} mm"))
    return planes


def label_plane(atlas: Atlas, points: NDArray[np.float64]) -> NDArray[np.int16]:
    """Labels at positions (..., 3) in mm, nearest voxel; 0 outside."""
    labels = np.asarray(atlas.labels_img.dataobj)
    voxels = voxels_at(points, atlas.labels_img.affine)
    in_range = (voxels > -0.5) & (voxels < np.array(labels.shape) - 0.5)  # (..., 3)
    inside = np.asarray(np.all(in_range, axis=-1))
    i, j, k = np.moveaxis(np.rint(np.where(inside[..., None], voxels, 0)).astype(np.intp), -1, 0)
    return np.where(inside, labels[i, j, k], 0).astype(np.int16)


def voxels_at(points: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional voxel coordinates (..., 3) of positions (..., 3) in mm."""
    inverse = np.linalg.inv(affine)
    voxels: NDArray[np.float64] = points @ inverse[:3, :3].T + inverse[:3, 3]
    return voxels


def network_palette(atlas: Atlas) -> NDArray[np.uint8]:
    """(n_rois + 1, 3), row 0 = background (black): one colour a network, evenly spaced in hue."""
    names = atlas.table["network7"].astype(str).to_numpy()
    known, member = np.unique(names, return_inverse=True)
    hue = np.arange(len(known)) / max(1, len(known))
    palette = np.stack(
        [150 + 105 * np.cos(2 * np.pi * (hue - shift)) for shift in (0, 1 / 3, 2 / 3)], axis=1
    )  # (n_networks, 3)
    return np.vstack([np.zeros((1, 3)), palette[member]]).astype(np.uint8)


def fc_channels(fc: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Red, green and blue (n_rois, n_rois) of correlations: blue -1, white 0, red +1, NaN grey."""
    scale = np.arange(-128, 128) / 127.0
    fade = np.clip(np.abs(scale), 0, 1)[:, None] ** 0.8
    ends = np.where(scale[:, None] < 0, np.array([[26, 84, 170]]), np.array([[178, 24, 43]]))
    colours = (np.array([[247, 247, 247]]) * (1 - fade) + ends * fade).astype(np.uint8)
    unknown = ~np.isfinite(fc)
    index = (np.clip(np.where(unknown, 0.0, fc), -1, 1) * 127 + 128).astype(np.uint8)
    red, green, blue = (np.where(unknown, np.uint8(120), colours[index, c]) for c in range(3))
    return red, green, blue


def fc_picture(fc: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n_rois, n_rois, 3) of a correlation matrix, in the colours of `fc_channels`."""
    return np.stack(fc_channels(fc), axis=-1)
