"""Connectivity in the tangent space of the development part's mean: where a participant is, seen from there.

Correlation matrices are a curved space; ridge and logistic regression want a flat one. Order of operations:
  1. Ledoit-Wolf correlation of each participant (moments.py); missing regions are completed by the mean
  2. geometric mean G of the *development* participants, by fixed-point steps from the arithmetic mean:
     G <- G^1/2 exp(mean log(G^-1/2 S G^-1/2)) G^1/2, until the mean tangent vector is SETTLED of their size
  3. tangent vector of every participant: upper triangle of log(G^-1/2 S G^-1/2), off-diagonals times √2, so
     that lengths are those of the matrices
  4. ridge or logistic regression; vectors are centred and not divided by their deviations, which would undo
     the metric
Test participants change neither G nor anything else. G does not know any target, so the inner folds that
choose the penalty share it.
Source: Varoquaux et al. 2010, "Detection of brain functional-connectivity difference in post-stroke patients
using group-level covariance modeling", MICCAI, doi:10.1007/978-3-642-15705-9_25; the mean as Pennec et al.
2006, Int J Comput Vis 66:41, doi:10.1007/s11263-005-3222-z. nilearn's ConnectivityMeasure(kind="tangent") is
the same (the tests compare with it), but takes series, not matrices, and one mean for all.

n development participants, R regions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.tangent import of_eigenvalues
from bjepa.model.baselines.linear import LOGISTIC, RIDGE, RIDGE_CLASSES
from bjepa.model.baselines.moments import completed, mean_matrix, shrunk_correlations
from bjepa.model.baselines.prepared import Candidate, candidate
from bjepa.model.baselines.two_steps import TwoSteps
from bjepa.model.evaluation.fold import Fold, Method

Array = NDArray[np.float64]
SETTLED = 1e-3  # mean tangent vector over the vectors' root mean square length
MAX_STEPS = 30
MIN_EIGENVALUE = 1e-6  # shrunk correlations are far above


def tangent_vectors(fold: Fold) -> list[Candidate]:
    """Tangent vectors of a fold's Moments, seen from the geometric mean of its development part."""
    own, others = fold.inputs, fold.test_inputs
    mean = mean_matrix(own.second, own.n_rois)
    start = _power(mean, 1.0)  # positive definite, whatever the missing regions have left of it
    matrices = [completed(packed, start) for packed in own.second]
    whitening = _power(geometric_mean(matrices, start), -0.5)
    test = [completed(packed, start) for packed in others.second]
    return [candidate(fold, _vectors(matrices, whitening), _vectors(test, whitening), standardise=False)]


def geometric_mean(matrices: list[Array], start: Array) -> Array:
    """Geometric mean (R, R) of positive definite matrices (R, R); `start` is near it."""
    mean = start
    for _ in range(MAX_STEPS):
        whitening, root = _power(mean, -0.5), _power(mean, 0.5)
        total, length = np.zeros_like(mean), 0.0
        for matrix in matrices:
            tangent = _log(whitening @ matrix @ whitening)
            total += tangent
            length += float(np.vdot(tangent, tangent))
        step = total / len(matrices)
        mean = root @ of_eigenvalues(np.exp, step) @ root
        mean = (mean + mean.T) / 2
        if np.linalg.norm(step) <= SETTLED * np.sqrt(length / len(matrices)):
            break
    return mean


def _vectors(matrices: list[Array], whitening: Array) -> NDArray[np.float32]:
    """(n, P) float32 tangent vectors."""
    upper = np.triu_indices(len(whitening))
    weight = np.where(upper[0] == upper[1], 1.0, np.sqrt(2))
    vectors = np.empty((len(matrices), len(weight)), dtype=np.float32)
    for row, matrix in enumerate(matrices):
        vectors[row] = weight * _log(whitening @ matrix @ whitening)[upper]
    return vectors


def _log(matrix: Array) -> Array:
    return of_eigenvalues(lambda values: np.log(np.maximum(values, MIN_EIGENVALUE)), (matrix + matrix.T) / 2)


def _power(matrix: Array, exponent: float) -> Array:
    return of_eigenvalues(lambda values: np.maximum(values, MIN_EIGENVALUE) ** exponent, matrix)


TANGENT_RIDGE = Method(
    summary="connectivity in the tangent space at the training mean, ridge regression",
    inputs=shrunk_correlations,
    fit_predict=TwoSteps(
        prepare=tangent_vectors, solver={"regression": RIDGE, "classification": RIDGE_CLASSES}
    ),
    needs_series=True,
)
TANGENT_LOGISTIC = Method(
    summary="connectivity in the tangent space at the training mean, logistic regression",
    inputs=shrunk_correlations,
    fit_predict=TwoSteps(prepare=tangent_vectors, solver={"classification": LOGISTIC}),
    tasks=("classification",),
    needs_series=True,
)
