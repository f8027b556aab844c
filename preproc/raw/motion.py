"""How the head moved during a run: rigid realignment by least squares, a matrix a volume.

Each frame F is fitted by the reference R, rigidly moved and scaled in intensity:
    F(M p) = level + gain * R(p)      over the points p where R's gradient is largest
solved by Gauss-Newton steps in the inverse compositional form (Baker and Matthews 2004, IJCV 56:221): the
derivatives are those of the reference, so they are computed once a run and are nearly free of noise.
`level` and `gain` take up what makes whole frames brighter (a signal that is not steady yet). Points that lie
outside the frame's grid are left out, points that fit badly count less (Huber's weights).

Order of operations:
  1. reference: the frame in the middle of the steady ones
  2. first pass: every frame smoothed by 10 mm, from the better of identity and the previous frame's matrix;
     then by 4 mm, from there
  3. reference: the mean of up to 60 frames, moved back
  4. second pass: every frame smoothed by 4 mm, from its matrix of the first pass
  5. matrices are told relative to the frame whose head lies nearest to the median place

Volumes are interpolated by cubic B-splines. The file is read two and a half times, one frame in memory.
Why not a library: of those in reach (antspyx, SimpleITK, dipy; nilearn has none) the fastest is 20 times
slower and none is nearer than 0.03 mm to ours; benchmarks/realignment.py measures it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.raw.rigid import invert_rigid, rigid_matrix, rigid_params
from bjepa.preproc.raw.volumes import MovedMean, read_spline, spline_of, stream_volumes
from bjepa.preproc.stream import BoldFile

F = NDArray[np.float64]

_FINE, _COARSE = 4.0, 10.0  # mm, full width at half maximum of the smoothing
_N_FINE, _N_COARSE = 20_000, 4_000  # points, at most
_N_MEAN = 60  # frames in the mean: with more, the noise that is left in it does not matter
_MAX_STEPS = 30
_SMALL = 2e-3  # mm: a step that moves no point of the head further is the last
_RADIUS = 50.0  # mm, from the centre of the head to its cortex (Power 2012)
_LEAST_INSIDE = 0.3  # of the points must lie in the frame's grid
_HUBER = 1.345  # robust standard deviations: 95 % efficient on Gaussian noise


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the head was in each frame.

    params : (T, 6) trans_x, trans_y, trans_z in mm and rot_x, rot_y, rot_z in rad (see rigid.py), RAS, about
        `centre`: how the head lies in the frame, relative to the reference. A head that moved to its right
        has a positive trans_x. (FSL's MCFLIRT tells the way back to the reference: about the negative of these.)
    matrices : (T, 4, 4) the same: a world point of the reference to the point of the same anatomy in frame t
    centre : (3,) mm, the centre of the run's grid
    """

    params: F
    matrices: F
    centre: F


def estimate_motion(bold: BoldFile, *, skip: int = 0) -> Motion:
    """Realign a run. Frames before `skip` do not enter the reference; their own motion is estimated too."""
    centre = bold.affine[:3, :3] @ ((np.array(bold.shape[:3]) - 1) / 2) + bold.affine[:3, 3]
    n_steady = bold.n_frames - skip
    middle = skip + n_steady // 2
    volume = next(frame for number, frame in enumerate(stream_volumes(bold)) if number == middle)
    fine = _Reference(_smooth(volume, bold, _FINE), bold.affine, centre, _N_FINE)
    coarse = _Reference(_smooth(volume, bold, _COARSE), bold.affine, centre, _N_COARSE)
    averaged = set(skip + np.linspace(0, n_steady - 1, min(_N_MEAN, n_steady)).round().astype(int))
    mean = MovedMean(bold)

    matrices = np.tile(np.eye(4), (bold.n_frames, 1, 1))
    matrix = np.eye(4)
    for number, volume in enumerate(stream_volumes(bold)):
        frame = spline_of(_smooth(volume, bold, _COARSE))
        start = min((np.eye(4), matrix), key=lambda m: coarse.misfit(frame, m))
        matrix = coarse.align(frame, start)
        frame = spline_of(_smooth(volume, bold, _FINE))
        matrix = matrices[number] = fine.align(frame, matrix)
        if number in averaged:
            mean.add(frame, matrix)

    fine = _Reference(mean.volume(), bold.affine, centre, _N_FINE)
    for number, volume in enumerate(stream_volumes(bold)):
        matrices[number] = fine.align(spline_of(_smooth(volume, bold, _FINE)), matrices[number])
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

    def __init__(self, volume: F, affine: F, centre: F, n_points: int) -> None:
        self._affine, self._centre = affine, centre
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

    def align(self, frame: F, matrix: F) -> F:
        """The matrix (4, 4) that moves the reference's points onto a frame (spline), from a guess of it."""
        for _ in range(_MAX_STEPS):
            values, inside = self._read(frame, matrix)
            if inside.mean() < _LEAST_INSIDE:
                return matrix
            solution = _robust_fit(self._design[inside], values)
            step = solution[:6] / solution[6]
            matrix = matrix @ invert_rigid(rigid_matrix(step, self._centre))
            if np.abs(step[:3]).sum() + _RADIUS * np.abs(step[3:]).sum() < _SMALL:
                break
        return matrix

    def misfit(self, frame: F, matrix: F) -> float:
        """Mean square of what gain and level leave of a frame, relative to its variance."""
        values, inside = self._read(frame, matrix)
        if inside.mean() < _LEAST_INSIDE:
            return np.inf
        return 1 - float(np.corrcoef(self._design[inside, 6], values)[0, 1])

    def _read(self, frame: F, matrix: F) -> tuple[F, NDArray[np.bool_]]:
        where = (np.linalg.inv(self._affine) @ matrix @ self._points)[:3]
        last = np.array(frame.shape)[:, None] - 1.0
        inside = ((where >= 0) & (where <= last)).all(axis=0)
        return read_spline(frame, where[:, inside]), inside


def _robust_fit(design: F, values: F) -> F:
    """Coefficients (8,) of least squares, once more with what fits badly weighing less."""
    solution = np.linalg.solve(design.T @ design, design.T @ values)
    residual = np.abs(values - design @ solution)
    limit = _HUBER * float(np.median(residual)) / 0.6745
    weighted = design * np.minimum(1.0, limit / np.maximum(residual, max(limit, 1e-300)))[:, None]
    return np.asarray(np.linalg.solve(weighted.T @ design, weighted.T @ values))


def _smooth(volume: F, bold: BoldFile, fwhm: float) -> F:
    from scipy.ndimage import gaussian_filter

    sizes = np.linalg.norm(bold.affine[:3, :3], axis=0)
    return np.asarray(gaussian_filter(volume, fwhm / 2.3548 / sizes, mode="nearest", truncate=3.0))


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
