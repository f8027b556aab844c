"""The atlas on a run's own grid: each voxel takes the label that lies at its place in the template.

A BOLD voxel's centre p goes through the chain of transforms, BOLD -> T1w -> template, and takes the label of
the nearest atlas voxel there. Nothing is inverted and no label is interpolated. Labels are not cut by a mask
of the signal (that loses regions next to dropout): how much of a region is really seen is its coverage, found
on the way back: the share of the region's atlas voxels whose places in the run hold data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas

Points = NDArray[np.float64]  # (n, 3) mm
PointMap = Callable[[Points], Points]

_SLAB = 200_000  # points mapped at once: 30 MB


@dataclass(frozen=True, eq=False)
class RunSpace:
    """Where a run lies: its grid, and the ways to the template and back (points, mm)."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]  # voxel to mm
    to_template: PointMap
    from_template: PointMap


def subject_labels(atlas: Atlas, space: RunSpace) -> NDArray[np.int16]:
    """The label volume (x, y, z) int16 of `atlas` on the grid of the run; 0 outside all regions."""
    labels = np.zeros(int(np.prod(space.shape)), dtype=np.int16)  # C order
    for start in range(0, len(labels), _SLAB):
        stop = min(start + _SLAB, len(labels))
        voxels = np.stack(np.unravel_index(np.arange(start, stop), space.shape), axis=1)
        places = space.to_template(apply_affine(space.affine, voxels))
        labels[start:stop] = values_at(atlas.labels, atlas.labels_img.affine, places)
    return labels.reshape(space.shape)


def region_coverage(atlas: Atlas, space: RunSpace, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n_rois,) share of each region's atlas voxels that lie on voxels of the run where `valid` (x, y, z)."""
    labelled = np.argwhere(atlas.labels > 0)  # (n_labelled, 3)
    region = atlas.labels[atlas.labels > 0].astype(np.intp) - 1
    places = space.from_template(apply_affine(atlas.labels_img.affine, labelled))
    seen = values_at(valid, space.affine, places)
    total = np.bincount(region, minlength=atlas.n_rois)
    found = np.bincount(region, weights=seen, minlength=atlas.n_rois)
    return np.asarray(found / np.maximum(total, 1), dtype=np.float64)


def values_at(volume: NDArray, affine: NDArray[np.float64], points: Points) -> NDArray:  # type: ignore[type-arg]
    """Values (n,) of the voxels nearest to `points`; 0 outside the volume."""
    voxels = np.rint(apply_affine(np.linalg.inv(affine), points)).astype(np.intp)  # (n, 3)
    inside = ((voxels >= 0) & (voxels < volume.shape)).all(axis=1)
    values = np.zeros(len(points), dtype=volume.dtype)
    values[inside] = volume[tuple(voxels[inside].T)]
    return values


def pull_image(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    target_affine: NDArray[np.float64],
    points_to_image: PointMap,
) -> NDArray[np.float32]:
    """The image (x, y, z) seen on another grid, linearly interpolated, 0 outside: for pictures only."""
    from scipy.ndimage import map_coordinates

    pulled = np.zeros(int(np.prod(shape)), dtype=np.float32)
    to_voxel = np.linalg.inv(affine)
    for start in range(0, len(pulled), _SLAB):
        stop = min(start + _SLAB, len(pulled))
        voxels = np.stack(np.unravel_index(np.arange(start, stop), shape), axis=1)
        places = points_to_image(apply_affine(target_affine, voxels))
        where = apply_affine(to_voxel, places).T
        pulled[start:stop] = map_coordinates(data, where, order=1, mode="constant", output=np.float32)
    return pulled.reshape(shape)
