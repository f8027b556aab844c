"""Second and third moments of each participant's series, for methods that fit a space to them in the fold.

Series are centred and scaled to length 1 each (gradients/connectivity/series.py), so a participant's numbers
are their own and know no one else. Moments of a participant's series (scans, phases) are averaged.

    ledoit_wolf   shrunk correlation, positive definite
    correlation   Pearson's r
    coskewness    of x with variance 1, the tensor C_ijk = mean_t x_i x_j x_k, as inner products of its rows:
                  M_ii' = sum_jk C_ijk C_i'jk = X' (G∘G) X / T², G = X X' over frames, so that the (R, R, R)
                  tensor is never there; over its trace, the square of the tensor's length

Symmetric matrices are kept as their upper triangles with the diagonal, float32, P = R (R + 1) / 2 numbers.
NaN where a region is missing, in coskewness 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.covariance import ledoit_wolf
from bjepa.gradients.connectivity.series import unit_series
from bjepa.model.evaluation.recordings import Recordings, recordings_of
from bjepa.model.evaluation.scan_data import ScanData

Array = NDArray[np.float64]
BLOCK = 1024  # frames at a time: the inner products of all frames would not fit of long scans


@dataclass(frozen=True)
class Moments:
    """Packed matrices of each participant, (n, P) each. `moments[rows]` is some of the participants."""

    second: NDArray[np.float32]  # correlation, shrunk or not
    third: NDArray[np.float32] | None  # inner products of the co-skewness tensor's rows

    def __len__(self) -> int:
        return len(self.second)

    def __getitem__(self, rows: NDArray[np.int64]) -> Moments:
        return Moments(self.second[rows], None if self.third is None else self.third[rows])

    @property
    def n_rois(self) -> int:
        """Regions."""
        return int((8 * self.second.shape[1] + 1) ** 0.5 - 1) // 2


def shrunk_correlations(data: ScanData, participants: Sequence[str]) -> Moments:
    """Ledoit-Wolf correlations of the participants, in their order."""
    return Moments(_averaged(recordings_of(data, participants), _ledoit_wolf_of), None)


def correlations_and_coskewness(data: ScanData, participants: Sequence[str]) -> Moments:
    """Correlations and co-skewness of the participants, in their order."""
    recordings = recordings_of(data, participants)
    return Moments(_averaged(recordings, _correlation_of), _averaged(recordings, coskewness_products))


def _averaged(recordings: Recordings, moment: Callable[[Array], Array]) -> NDArray[np.float32]:
    """(n, P): the mean of a participant's matrices, at each place over those that know it."""
    upper = np.triu_indices(recordings.n_rois)
    averaged = np.empty((len(recordings), len(upper[0])), dtype=np.float32)
    for row, numbers in enumerate(recordings.series):
        total, count = np.zeros(len(upper[0])), np.zeros(len(upper[0]))
        for number in numbers:
            unit, missing = unit_series(recordings.read(int(number)), where=f"series {number}")
            matrix = moment(unit)
            matrix[missing] = matrix[:, missing] = 0 if moment is coskewness_products else np.nan
            known = np.isfinite(matrix[upper])
            total += np.where(known, matrix[upper], 0)
            count += known
        averaged[row] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return averaged


def _correlation_of(unit: Array) -> Array:
    return unit.T @ unit


def _ledoit_wolf_of(unit: Array) -> Array:
    """Over the regions that are there: those that are missing are columns of 0."""
    there = unit.any(axis=0)
    r = np.eye(unit.shape[1])
    if there.any():
        r[np.ix_(there, there)] = ledoit_wolf(unit[:, there])
    return r


def coskewness_products(unit: Array) -> Array:
    """M (R, R) of series (T, R) that are centred and of length 1; its trace is 1, or 0 of no series."""
    products = np.zeros((unit.shape[1],) * 2)
    for start in range(0, len(unit), BLOCK):
        frames = unit[start : start + BLOCK]
        products += frames.T @ ((frames @ unit.T) ** 2 @ unit)
    trace = np.trace(products)
    scaled: Array = products / trace if trace > 0 else products
    return scaled


def unpacked(packed: NDArray[np.float32], n_rois: int) -> Array:
    """Symmetric matrix (R, R) float64 of its upper triangle (P,)."""
    upper = np.triu_indices(n_rois)
    matrix = np.empty((n_rois, n_rois))
    matrix[upper] = packed
    matrix.T[upper] = packed
    return matrix


def mean_matrix(packed: NDArray[np.float32], n_rois: int) -> Array:
    """Mean (R, R) of packed correlations (n, P), at each place over those that know it.

    A region that is missing in all is uncorrelated with the others.
    """
    known = np.isfinite(packed)
    total = np.where(known, packed, 0).sum(axis=0, dtype=np.float64)
    mean = unpacked(total / np.maximum(known.sum(axis=0), 1), n_rois)
    np.fill_diagonal(mean, 1.0)
    return mean


def completed(packed: NDArray[np.float32], mean: Array) -> Array:
    """A participant's correlations (R, R), those of missing regions as the mean predicts them.

    The missing regions m follow the present ones p by the mean's regression B = mean_mp mean_pp^-1:
    S_mp = B S_pp, S_mm = mean_mm - B mean_pm + B S_pp B'. So the result is positive definite if S_pp is.
    """
    matrix = unpacked(packed, len(mean))
    missing = np.isnan(np.diag(matrix))
    if not missing.any():
        return matrix
    if missing.all():
        return mean.copy()
    there = ~missing
    own = matrix[np.ix_(there, there)]
    by = np.linalg.lstsq(mean[np.ix_(there, there)], mean[np.ix_(there, missing)], rcond=None)[0].T
    matrix[np.ix_(missing, there)] = by @ own
    matrix[np.ix_(there, missing)] = own @ by.T
    left = mean[np.ix_(missing, missing)] - by @ mean[np.ix_(there, missing)]
    matrix[np.ix_(missing, missing)] = left + by @ own @ by.T
    return matrix
