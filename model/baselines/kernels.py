"""Connectivity with kernels: kernel ridge on the correlation of two participants' connectomes, and an SVM.

    fit_krr   the kernel of two participants is Pearson's r of their edges; ridge with it, offset free
              (He et al. 2020, "Deep neural networks and kernel regression achieve comparable accuracies for
              functional connectivity prediction of behavior and demographics", NeuroImage 206:116276)
    fit_svm   standardised edges, linear kernel: SVR (epsilon 0.1 of the standardised target) or SVC, one
              class against the rest where there are more than two

Both are solved on rows rotated onto their principal axes (prepared.py), whose inner products are the kernel:
    krr   a row, minus its mean and divided by its length, is a unit vector, and r of two rows their inner
          product. Centring on the training mean is what an offset that is not penalised amounts to
    svm   kernel = inner products / n_features, so that C means the same for 2,000 edges and for 100,000
In classification krr is least squares on classes; probabilities of both come from `link.py`.
Differs from He et al.: the penalty is one of 13 in units of the rows' mean squared length, chosen by the rule
of two_steps.py; edges that are unknown become the training mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.connectivity import participant_edges
from bjepa.model.baselines.linear import RIDGE, RIDGE_CLASSES, coded, squared_error
from bjepa.model.baselines.prepared import Candidate, Part, candidate, standardised
from bjepa.model.baselines.two_steps import Solver, TwoSteps
from bjepa.model.evaluation.fold import Fold, Method

Array = NDArray[np.float64]
SVM_C = np.logspace(-2, 1, 4)  # rows have a mean squared length of 1; beyond 10 the margin is as good as hard
EPSILON = 0.1  # standard deviations of the target


def correlation_rows(train: Array, test: Array) -> tuple[Array, Array]:
    """Rows (n, D) and (m, D) as unit vectors whose inner products are correlations; constant rows are 0."""
    return _unit(train), _unit(test)


def _unit(rows: Array) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: Array = centred / np.where(length > 0, length, 1)
    return unit


def correlation_kernel(fold: Fold) -> list[Candidate]:
    """Edges (n, D) of a fold, prepared so that inner products are correlations, centred on who trains."""
    return [candidate(fold, fold.inputs, fold.test_inputs, standardise=False, rows=correlation_rows)]


def support_vector_regression(part: Part, target: NDArray[Any], strengths: Array, n_classes: int) -> Array:
    """Predictions (S, P, m, 1) of targets (P, n) by a linear SVR with each C."""
    from sklearn.svm import SVR

    kernel, test_kernel = _linear_kernels(part)
    out = np.empty((len(strengths), len(target), len(part.test), 1))
    for p, values in enumerate(target.astype(np.float64)):
        mean, deviation = values.mean(), values.std() or 1.0
        for s, c in enumerate(strengths):
            fitted = SVR(kernel="precomputed", C=c, epsilon=EPSILON).fit(kernel, (values - mean) / deviation)
            out[s, p, :, 0] = mean + deviation * fitted.predict(test_kernel)
    return out


def support_vector_classes(part: Part, target: NDArray[Any], strengths: Array, n_classes: int) -> Array:
    """Decision values (S, P, m, O) of classes (P, n) by a linear SVC with each C."""
    from sklearn.svm import SVC

    kernel, test_kernel = _linear_kernels(part)
    sign = coded(target, n_classes)  # (P, n, O)
    out = np.empty((len(strengths), len(target), len(part.test), sign.shape[2]))
    for p, o in np.ndindex(len(target), sign.shape[2]):
        if len(np.unique(sign[p, :, o])) == 1:  # a class that nobody has who trains here
            out[:, p, :, o] = sign[p, 0, o]
            continue
        for s, c in enumerate(strengths):
            fitted = SVC(kernel="precomputed", C=c).fit(kernel, sign[p, :, o])
            out[s, p, :, o] = fitted.decision_function(test_kernel)
    return out


def _linear_kernels(part: Part) -> tuple[Array, Array]:
    train, test = part.train / part.scale**0.5, part.test / part.scale**0.5
    return train @ train.T, test @ train.T


def hinge_loss(out: Array, target: NDArray[Any]) -> Array:
    """Mean hinge loss (S, P) of decision values (S, P, m, O)."""
    n_classes = out.shape[3] if out.shape[3] > 1 else 2
    loss: Array = np.maximum(0, 1 - coded(target, n_classes) * out).mean(axis=(2, 3))
    return loss


SVR_SOLVER = Solver(fit=support_vector_regression, loss=squared_error, strengths=SVM_C, strength="C")
SVC_SOLVER = Solver(fit=support_vector_classes, loss=hinge_loss, strengths=SVM_C, strength="C", linked=True)

fit_krr = TwoSteps(prepare=correlation_kernel, solver={"regression": RIDGE, "classification": RIDGE_CLASSES})
fit_svm = TwoSteps(prepare=standardised, solver={"regression": SVR_SOLVER, "classification": SVC_SOLVER})

FC_KRR = Method(
    summary="functional connectivity, kernel ridge regression on the correlation of connectomes",
    inputs=participant_edges,
    fit_predict=fit_krr,
)
FC_SVM = Method(
    summary="functional connectivity (Fisher z, upper triangle), linear support vector machine",
    inputs=participant_edges,
    fit_predict=fit_svm,
)
