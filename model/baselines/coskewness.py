"""Connectivity in the subspace of the regions that preserves co-skewness best.

What the source says (Marraffini, Mahuas, Borrell, Shevchenko & Wassermann 2026, "The variance brain
foundation models forgot: third-order statistics predict cognition where billion-parameter models fail",
arXiv:2606.04010; its abstract, the text was not available to us): a linear pipeline "projects the fMRI signal
into the subspace that best preserves its co-skewness and computes FC there", and predicts cognition better
than FC and than three pretrained models on every data set and parcellation tried.

What is our choice, everything else:
  1. co-skewness tensor of each participant's standardised series, C_ijk = mean_t x_i x_j x_k; its rows' inner
     products M = C_(1) C_(1)', divided by their trace so that a participant with spikes weighs as any other
     (moments.py)
  2. the subspace of dimension k: the leading eigenvectors U of the mean M over *development* participants. No
     other projection of that rank preserves, on average, more of |C|² along one axis of the tensor; it is the
     first step of the higher-order SVD (De Lathauwer et al. 2000, SIAM J Matrix Anal Appl 21:1253,
     doi:10.1137/S0895479896305696), which C, symmetric, needs along one axis only
  3. functional connectivity there: correlations of the k projected signals, U' S U scaled to a diagonal of 1,
     Fisher z, upper triangle; then ridge or logistic regression on standardised edges, as `fc-*`
  4. k of R regions: one of DIMENSIONS, chosen with the penalty in the inner folds. With all of them the
     subspace is no restriction, but edges are between its axes, not between regions
The subspace knows no target, so the inner folds share it. Missing regions: as in tangent.py.

A limit of step 2: third moments of short scans do not repeat, and what is sampling error is largest along the
axes of most variance. On 37 scans of 234 frames (STAGES, 400 regions) the tensors of a scan's two halves have
a mean cosine of 0.01 (connectivity: r = 0.50); the 50 leading axes share 74 % with the 50 leading principal
components (chance 13 %), and two halves of the participants agree to 42 %.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.scan_maps import as_fisher_z
from bjepa.model.baselines.linear import LOGISTIC, RIDGE, RIDGE_CLASSES
from bjepa.model.baselines.moments import (
    Moments,
    completed,
    correlations_and_coskewness,
    mean_matrix,
    unpacked,
)
from bjepa.model.baselines.prepared import Candidate, candidate
from bjepa.model.baselines.two_steps import TwoSteps
from bjepa.model.evaluation.fold import Fold, Method

Array = NDArray[np.float64]
DIMENSIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the number of regions, rounded up; 2 at least
MIN_VARIANCE = 1e-9  # of a projected signal


def edges_in_subspace(fold: Fold) -> list[Candidate]:
    """Fisher z between the axes of the subspace, one candidate for each of DIMENSIONS."""
    own, others = fold.inputs, fold.test_inputs
    axes = coskewness_axes(own)
    mean = mean_matrix(own.second, own.n_rois)
    projected, test = _projected(own, axes, mean), _projected(others, axes, mean)
    candidates = []
    for k in sorted({max(2, math.ceil(share * own.n_rois)) for share in DIMENSIONS}):
        candidates.append(
            candidate(fold, _edges(projected, k), _edges(test, k), settings={"n_dimensions": k})
        )
    return candidates


def coskewness_axes(moments: Moments) -> Array:
    """Axes (R, R) in columns, the one along which the participants' co-skewness is largest first."""
    assert moments.third is not None
    _, vectors = np.linalg.eigh(unpacked(moments.third.mean(axis=0, dtype=np.float64), moments.n_rois))
    axes: Array = vectors[:, ::-1]
    return axes


def _projected(moments: Moments, axes: Array, mean: Array) -> NDArray[np.float32]:
    """Correlations between regions as covariances between axes, (n, R, R) float32."""
    return np.stack([(axes.T @ completed(s, mean) @ axes).astype(np.float32) for s in moments.second])


def _edges(covariance: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Fisher z (n, k (k - 1) / 2) between the first k axes."""
    upper = np.triu_indices(k, k=1)
    edges = np.empty((len(covariance), len(upper[0])), dtype=np.float32)
    for row, matrix in enumerate(covariance):
        deviation = np.sqrt(np.maximum(np.diag(matrix)[:k], MIN_VARIANCE))
        edges[row] = as_fisher_z(matrix[:k, :k] / deviation / deviation[:, None])[upper]
    return edges


COSKEW_RIDGE = Method(
    summary="connectivity in the subspace that preserves co-skewness best, ridge regression",
    inputs=correlations_and_coskewness,
    fit_predict=TwoSteps(
        prepare=edges_in_subspace, solver={"regression": RIDGE, "classification": RIDGE_CLASSES}
    ),
    needs_series=True,
)
COSKEW_LOGISTIC = Method(
    summary="connectivity in the subspace that preserves co-skewness best, logistic regression",
    inputs=correlations_and_coskewness,
    fit_predict=TwoSteps(prepare=edges_in_subspace, solver={"classification": LOGISTIC}),
    tasks=("classification",),
    needs_series=True,
)
