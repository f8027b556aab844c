"""Every frame of a run read once at the places where its voxels' anatomy lies.

The value of a voxel p of the reference in frame t is that of the cubic B-spline through the frame at
matrices[t] @ p. The spline goes through the stored values, so a head that did not move gives them back.
Beyond the border the frame is mirrored: a spline of a volume that ends in zeros would ring along its edge.

A place is inside a frame when it lies within its voxels: at most half a voxel beyond the centres of the outer
ones. Elsewhere the value is 0, and `always_inside` tells the voxels for which this never happens.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.raw.slice_timing import SliceTiming, shift_volumes
from bjepa.preproc.raw.volumes import is_inside, read_spline, spline_of, stream_volumes
from bjepa.preproc.stream import BoldFile

F = NDArray[np.float64]


def stream_resampled(
    bold: BoldFile, matrices: F, voxels: NDArray[np.intp], *, slice_timing: SliceTiming | None = None
) -> Iterator[F]:
    """Yield, frame by frame, values (n_voxels,) float64 in the scan's own units; one frame in memory.

    Parameters
    ----------
    matrices : (T, 4, 4) world point of the reference to that of the same anatomy in frame t, mm
    voxels : (n_voxels,) positions in the run's grid, raveled in Fortran order
    slice_timing : shift each slice in time first; then about ten frames are in memory

    Raises InputError when the file is truncated or damaged.
    """
    points = _points(bold.shape[:3], bold.affine, voxels)
    volumes = stream_volumes(bold)
    if slice_timing is not None:
        volumes = shift_volumes(volumes, slice_timing)
    to_voxel = np.linalg.inv(bold.affine)
    for volume, matrix in zip(volumes, matrices, strict=True):
        where = (to_voxel @ matrix @ points)[:3]
        values = read_spline(spline_of(volume), where)
        values[~_inside(where, bold.shape[:3])] = 0.0
        yield values


def always_inside(
    shape: tuple[int, int, int], affine: F, matrices: F, voxels: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(n_voxels,) whether the anatomy at each voxel lies inside the grid in every frame."""
    points, to_voxel = _points(shape, affine, voxels), np.linalg.inv(affine)
    inside = np.ones(len(voxels), dtype=bool)
    for matrix in matrices:
        inside &= _inside((to_voxel @ matrix @ points)[:3], shape)
    return inside


def _inside(where: F, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    inside = [is_inside(places, n) for places, n in zip(where, shape, strict=True)]
    return np.asarray(np.logical_and.reduce(inside))


def _points(shape: tuple[int, int, int], affine: F, voxels: NDArray[np.intp]) -> F:
    """(4, n_voxels) world points, mm, with a last row of ones."""
    index = np.stack(np.unravel_index(voxels, shape, order="F"))
    return np.asarray(affine @ np.vstack([index, np.ones(len(voxels))]))
