"""Whole volumes of a run, one at a time, and the cubic spline through one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.stream import BoldFile, stream_frames

F = NDArray[np.float64]

_EDGE = 0.5 + 1e-6  # voxels


def stream_volumes(bold: BoldFile) -> Iterator[F]:
    """Each volume (x, y, z) float64 in the scan's own units (slope and intercept applied); a new array each.

    Values that are not finite become 0: one of them would spoil every voxel that is interpolated near it.
    Raises InputError when the file is truncated or damaged.
    """
    every = np.arange(int(np.prod(bold.shape[:3])))
    for values in stream_frames(bold, every):
        volume = values * bold.slope + bold.inter
        if not np.isfinite(volume).all():
            volume = np.nan_to_num(volume, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        yield volume.reshape(bold.shape[:3], order="F")


def spline_of(volume: F) -> F:
    """Coefficients (x, y, z) of the cubic B-spline through `volume`, which is mirrored beyond its borders."""
    from scipy.ndimage import spline_filter

    return np.asarray(spline_filter(volume, order=3, mode="mirror"))


def read_spline(coefficients: F, where: F) -> F:
    """Values (n,) of a spline at `where` (3, n), in voxels."""
    from scipy.ndimage import map_coordinates

    return np.asarray(map_coordinates(coefficients, where, order=3, mode="mirror", prefilter=False))


def is_inside(places: F, n: int) -> NDArray[np.bool_]:
    """Whether places along an axis of n voxels lie within its voxels.

    That is at most half a voxel (and a rounding error) beyond the centres of the outer ones.
    """
    return np.asarray((places >= -_EDGE) & (places <= n - 1 + _EDGE))


class MovedMean:
    """Mean of frames, each moved onto the reference by its matrix, read by its cubic spline.

    A voxel counts the frames in whose grid it lies; where no frame has it, the mean is 0.
    """

    def __init__(self, bold: BoldFile) -> None:
        self._affine = bold.affine
        self._sum, self._count = np.zeros(bold.shape[:3]), np.zeros(bold.shape[:3])

    def add(self, coefficients: F, matrix: F) -> None:
        """A frame by the coefficients of its spline, and (4, 4) from the reference's points to its own."""
        from scipy.ndimage import affine_transform

        to_voxel = np.linalg.inv(self._affine) @ matrix @ self._affine
        moved = affine_transform(coefficients, to_voxel, order=3, mode="mirror", prefilter=False)
        x, y, z = np.ogrid[tuple(slice(n) for n in moved.shape)]
        seen = np.ones(moved.shape, dtype=bool)
        for row, n in zip(to_voxel[:3], moved.shape, strict=True):
            place = row[0] * x + row[1] * y + row[2] * z + row[3]
            seen &= is_inside(place, n)
        self._sum += np.where(seen, moved, 0.0)
        self._count += seen

    def volume(self) -> F:
        """The mean so far (x, y, z)."""
        return np.asarray(self._sum / np.maximum(self._count, 1))
