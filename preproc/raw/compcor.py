"""aCompCor: what varies together in white matter and fluid, where no brain activity should be.

Order of operations, for the series of each mask's voxels, steady frames only:
  1. cosine drifts slower than 128 s and the mean are regressed out
  2. every voxel is divided by its standard deviation over time
  3. principal components over time: M = U S V', through the eigenvectors of M M'
  4. the first components are retained that together explain half of the variance
The sign of a component, which nothing determines, is such that its entry of largest magnitude is positive.

Source: Behzadi et al. 2007, doi:10.1016/j.neuroimage.2007.04.042; drifts, threshold and names as fMRIPrep has
them. Differs from its code: the sign, and voxels that do not vary (beyond rounding) are left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERIOD = 128.0  # s: slower is drift
EXPLAINED = 0.5  # share of the variance that the retained components explain
_CHUNK = 4096  # voxels worked on at once
_CONSTANT = 1e-6  # SD over mean of a voxel that only rounds: float32 keeps 7 digits

F = NDArray[np.float64]


def cosine_drifts(n_frames: int, t_r: float) -> F:
    """(n_frames, n_drifts) cosines slower than PERIOD, sqrt(2 / n_frames) high; none for a short run.

    Their number is floor(2 n_frames t_r / PERIOD) - 1: fMRIPrep counts the mean among them. nilearn's and
    SPM's bases, which do not, have one more.
    """
    n_drifts = max(int(np.floor(2 * n_frames * t_r / PERIOD)) - 1, 0)
    phase = np.pi * (np.arange(n_frames) + 0.5) / n_frames  # (n_frames,)
    return np.asarray(
        np.sqrt(2 / n_frames) * np.cos(phase[:, None] * np.arange(1, n_drifts + 1)), dtype=np.float64
    )


@dataclass(frozen=True, eq=False)
class Components:
    """values (n_frames, n_retained), of norm 1; of each: singular value, share of the variance, cumulated."""

    values: F
    singular_values: F
    explained: F
    cumulated: F


def covariance_over_time(series: NDArray[np.float32], drifts: F) -> F:
    """M M' (n_frames, n_frames) of the filtered and scaled series (n_frames, n_voxels).

    Covariances of voxels apart add up to that of all of them.
    """
    n_frames = len(series)
    basis, _ = np.linalg.qr(np.column_stack([drifts, np.ones(n_frames)]))  # orthonormal, with the mean
    total = np.zeros((n_frames, n_frames))
    for first in range(0, series.shape[1], _CHUNK):
        part = series[:, first : first + _CHUNK].astype(np.float64)
        level = np.abs(part.mean(axis=0))
        part -= basis @ (basis.T @ part)
        deviation = part.std(axis=0)
        varies = deviation > _CONSTANT * level
        part = part[:, varies] / deviation[varies]
        total += part @ part.T
    return total


def components(covariance: F) -> Components:
    """The components that together explain EXPLAINED of the variance; none where nothing varies."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]  # the largest first
    if values[0] == 0:
        return Components(np.empty((len(values), 0)), *(np.empty(0) for _ in range(3)))
    explained = values / values.sum()
    cumulated = np.cumsum(explained)
    n = int(np.searchsorted(cumulated, EXPLAINED)) + 1
    kept = vectors[:, :n]
    largest = np.argmax(np.abs(kept), axis=0)
    kept = kept * np.where(kept[largest, np.arange(n)] < 0, -1.0, 1.0)
    return Components(kept, np.sqrt(values[:n]), explained[:n], cumulated[:n])
