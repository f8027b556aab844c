"""How the head moved during a run: rigid realignment by least squares, a matrix a volume.

Each frame F is fitted by the reference R, rigidly moved and scaled in intensity:
    F(M p) = level + gain * R(p)      over the points p where R's gradient is largest
solved by Gauss-Newton steps in the inverse compositional form (Baker and Matthews 2004, IJCV 56:221): the
derivatives are those of the reference, so they are computed once a run and are nearly free of noise.
`level` and `gain` take up what makes whole frames brighter (a signal that is not steady yet). Points that lie
outside the frame's grid are left out, points that fit badly count less (Welsch's weights).

Order of operations:
  1. reference: the frame in the middle of the steady ones
  2. first pass: every frame, from the better of no motion and the previous frame's matrix
  3. reference: the mean of up to 40 frames, moved back
  4. second pass: every frame, from its matrix of the first pass, at more points
  5. matrices are told relative to the frame whose head lies nearest to the median place

Volumes are smoothed by 4 mm and interpolated by cubic B-splines; the file is read two and a half times, one
frame in memory. In simulated runs every head is found from 20 mm and 14 degrees away; a coarser level before
does not find those that are missed from 30 mm and 20 degrees.
Why not a library: antspyx needs 27 times as long and errs by 0.020 mm where this errs by 0.011 (median, head
moving by 8 mm, benchmarks/realignment.py); SimpleITK and dipy take 0.6 and 2.5 s a volume; nilearn has none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.rigid import invert_rigid, rigid_matrix, rigid_params
from bjepa.preproc.raw.volumes import MovedMean, read_spline, spline_of, stream_volumes
from bjepa.preproc.stream import BoldFile

F = NDArray[np.float64]

_SMOOTH = 4.0  # mm, full width at half maximum of the smoothing
_N_FIRST, _N_LAST = 6_000, 25_000  # points, at most; what interpolation adds averages out
_N_MEAN = 40  # frames in the mean: with more, the noise that is left in it does not matter
_MAX_STEPS = 30
_SMALL = 0.03  # mm: a step that moves no point of the head further is the last, the next is a tenth of it
_TOO_FAR = 100.0  # mm: no step is that long
_RADIUS = 50.0  # mm, from the centre of the head to its cortex (Power 2012)
_LEAST_INSIDE = 0.3  # of the points must lie in the frame's grid
_WELSCH = 2.0  # robust standard deviations; Huber's weights err by half as much again


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the head was in each frame.

    params : (T, 6) trans_x, trans_y, trans_z in mm and rot_x, rot_y, rot_z in rad (see rigid.py), RAS, about
        `centre`: how the head lies in the frame, relative to the reference. A head that moved to its right
        has a positive trans_x. (FSL's MCFLIRT tells the way back to the reference: about minus these.)
    matrices : (T, 4, 4) the same: a world point of the reference to the point of the same anatomy in frame t
    centre : (3,) mm, the centre of the run's grid
    """

    params: F
    matrices: F
    centre: F


def estimate_motion(bold: BoldFile, *, skip: int = 0) -> Motion:
    """Realign a run. Frames before `skip` do not enter the reference; their own motion is estimated too.

    Raises InputError for a file that is damaged, and for volumes that are empty.
    """
    centre = bold.affine[:3, :3] @ ((np.array(bold.shape[:3]) - 1) / 2) + bold.affine[:3, 3]
    n_steady = bold.n_frames - skip
    middle = skip + n_steady // 2
    volume = next(frame for number, frame in enumerate(stream_volumes(bold)) if number == middle)
    reference = _Reference(_smooth(volume, bold), bold, centre, _N_FIRST)
    averaged = set(skip + np.linspace(0, n_steady - 1, min(_N_MEAN, n_steady)).round().astype(int))
    mean = MovedMean(bold)

    matrices = np.tile(np.eye(4), (bold.n_frames, 1, 1))
    matrix = np.eye(4)
    for number, volume in enumerate(stream_volumes(bold)):
        frame = spline_of(_smooth(volume, bold))
        start = reference.best(frame, [np.eye(4), matrix])
        matrix = matrices[number] = reference.best(frame, [start, reference.align(frame, start)])
        if number in averaged:
            mean.add(frame, matrix)

    reference = _Reference(mean.volume(), bold, centre, _N_LAST)
    for number, volume in enumerate(stream_volumes(bold)):
        matrices[number] = reference.align(spline_of(_smooth(volume, bold)), matrices[number])
    matrices = matrices @ invert_rigid(matrices[skip + _most_usual(matrices[skip:], centre)])
    return Motion(np.stack([rigid_params(m, centre) for m in matrices]), matrices, centre)


def framewise_displacement(params: F, radius: float = 50.0) -> F:
    """(T,) mm, NaN in the first frame: sum of the six parameters' steps, rotations as arcs (Power 2012).

    Parameters
    ----------
    params : (T, 6) trans in mm, rot in rad
    radius : mm, of the sphere on which rotations are arcs
    """
    steps = np.abs(np.diff(params, axis=0)) * np.array([1.0, 1.0, 1.0, radius, radius, radius])
    return np.concatenate([[np.nan], steps.sum(axis=1)])


class _Reference:
    """What frames are aligned to: values and derivatives of a volume at its most telling points."""

    def __init__(self, volume: F, bold: BoldFile, centre: F, n_points: int) -> None:
        affine = bold.affine
        self._affine, self._centre = affine, centre
        volume = volume / max(float(np.abs(volume).max()), 1e-300)  # whatever the scan's units
        gradient = _gradient(volume) @ np.linalg.inv(affine)[:3, :3]  # (x, y, z, 3), per mm
        inner = np.zeros(volume.shape, dtype=bool)
        inner[tuple(slice(1, -1) if n > 4 else slice(None) for n in volume.shape)] = True
        steepness = np.where(inner, np.linalg.norm(gradient, axis=3), -1.0).ravel()
        n_points = min(n_points, int(inner.sum()) // 3)
        chosen = np.sort(np.argpartition(-steepness, n_points)[:n_points])
        voxels = np.stack(np.unravel_index(chosen, volume.shape))  # (3, n)
        self._points = np.vstack([affine[:3] @ np.vstack([voxels, np.ones(n_points)]), np.ones(n_points)])
        slopes = gradient.reshape(-1, 3)[chosen]
        turns = np.cross(self._points[:3].T - centre, slopes)
        values = volume.ravel()[chosen]
        self._design = np.column_stack([slopes, turns, values, np.ones(n_points)])  # (n, 8)
        size = np.linalg.norm(self._design, axis=0)
        if not (size > 0).all() or np.linalg.cond(self._design / size) > 1e6:
            raise InputError(
                f"{bold.path}: the volumes do not show how the head moves: empty, or too few slices.",
                hint="Look at the run; leave it out.",
            )

    def align(self, frame: F, guess: F) -> F:
        """The matrix (4, 4) that moves the reference's points onto a frame (spline), from a guess of it.

        The guess itself where there is no way from it.
        """
        matrix = guess
        for _ in range(_MAX_STEPS):
            values, inside = self._read(frame, matrix)
            if inside.mean() < _LEAST_INSIDE:
                return guess
            solution = _robust_fit(self._design[inside], values)
            step = solution[:6] / max(solution[6], 1e-12)
            extent = np.abs(step[:3]).sum() + _RADIUS * np.abs(step[3:]).sum()  # mm
            if extent > _TOO_FAR:  # an empty frame, or one that is not of this head
                return guess
            matrix = matrix @ invert_rigid(rigid_matrix(step, self._centre))
            if extent < _SMALL:
                break
        return matrix

    def best(self, frame: F, matrices: list[F]) -> F:
        """The matrix under which the reference correlates best with a frame (spline); the first of equals."""
        return max(matrices, key=lambda matrix: self._correlation(frame, matrix))

    def _correlation(self, frame: F, matrix: F) -> float:
        values, inside = self._read(frame, matrix)
        if inside.mean() < _LEAST_INSIDE or np.ptp(values) == 0:
            return -1.0
        return float(np.corrcoef(self._design[inside, 6], values)[0, 1])

    def _read(self, frame: F, matrix: F) -> tuple[F, NDArray[np.bool_]]:
        where = (np.linalg.inv(self._affine) @ matrix @ self._points)[:3]
        last = np.array(frame.shape)[:, None] - 1.0
        inside = np.asarray(((where >= 0) & (where <= last)).all(axis=0))
        return read_spline(frame, where[:, inside]), inside


def _robust_fit(design: F, values: F) -> F:
    """Coefficients (8,) of least squares, then twice more with what fits badly weighing less."""
    solution = _least_squares(design, design, values)
    for _ in range(2):
        residual = values - design @ solution
        limit = _WELSCH * float(np.median(np.abs(residual))) / 0.6745
        if limit == 0:
            break
        solution = _least_squares(design, design * np.exp(-((residual / limit) ** 2))[:, None], values)
    return solution


def _least_squares(design: F, weighted: F, values: F) -> F:
    return np.asarray(np.linalg.lstsq(weighted.T @ design, weighted.T @ values, rcond=None)[0])


def _smooth(volume: F, bold: BoldFile) -> F:
    from scipy.ndimage import gaussian_filter

    sizes = np.linalg.norm(bold.affine[:3, :3], axis=0)
    return np.asarray(gaussian_filter(volume, _SMOOTH / 2.3548 / sizes, mode="nearest", truncate=3.0))


def _gradient(volume: F) -> F:
    """(x, y, z, 3) derivatives of the cubic spline through a volume, per voxel."""
    from scipy.ndimage import convolve1d, spline_filter1d

    slopes = [
        convolve1d(spline_filter1d(volume, 3, axis, mode="mirror"), [0.5, 0, -0.5], axis, mode="mirror")
        for axis in range(3)
    ]
    return np.stack(slopes, axis=3)


def _most_usual(matrices: F, centre: F) -> int:
    """Number of the frame whose parameters lie nearest to the median."""
    params = np.stack([rigid_params(m, centre) for m in matrices]) * np.array([1, 1, 1, 50.0, 50.0, 50.0])
    return int(np.argmin(np.abs(params - np.median(params, axis=0)).sum(axis=1)))
