"""The linear readout of every method: standardise, then ridge or logistic regression with an L2 penalty.

    fit_linear   ridge (regression), logistic regression (classification)
    fit_ridge    ridge in both tasks: in classification least squares on the classes coded -1 and 1 (one
                 output for two classes, else one a class), made into probabilities by `link.py`
What is prepared: prepared.py. How the penalty is chosen, on mean squared error or log loss: two_steps.py.

Penalties are given per feature, that is in units of the mean squared length of a standardised row, so that
one grid serves 32 embedding features and 100,000 edges alike. scikit-learn's alpha is penalty * D, its C the
inverse of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.logistic import fit_logistic, probabilities
from bjepa.model.baselines.prepared import Part, standardised
from bjepa.model.baselines.two_steps import Solver, TwoSteps
from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.fold import Fold

Array = NDArray[np.float64]
PENALTIES = np.logspace(3, -3, 13)  # from the strongest to the weakest
PENALTY = "penalty_per_feature"


def ridge_regression(part: Part, target: NDArray[Any], strengths: Array, n_classes: int) -> Array:
    """Predictions (S, P, m, 1) of targets (P, n) by ridge regression with each penalty."""
    return _least_squares(part, target.astype(np.float64)[:, :, None], strengths)


def ridge_on_classes(part: Part, target: NDArray[Any], strengths: Array, n_classes: int) -> Array:
    """Decision values (S, P, m, O) of classes (P, n): ridge regression on classes coded -1 and 1."""
    return _least_squares(part, coded(target, n_classes), strengths)


def _least_squares(part: Part, y: Array, strengths: Array) -> Array:
    """y (P, n, O) by ridge regression: on principal axes a division for each."""
    n_targets, n, n_outputs = y.shape
    mean = y.mean(axis=1, keepdims=True)  # (P, 1, O)
    flat = (y - mean).transpose(1, 0, 2).reshape(n, -1)  # (n, P * O)
    covariance = part.train.T @ flat  # (k, P * O)
    out = np.empty((len(strengths), n_targets, len(part.test), n_outputs))
    for s, penalty in enumerate(strengths):
        coefficient = covariance / (part.squared + penalty * part.scale)[:, None]
        values = part.test @ coefficient  # (m, P * O)
        out[s] = values.reshape(-1, n_targets, n_outputs).transpose(1, 0, 2) + mean
    return out


def logistic_regression(part: Part, target: NDArray[Any], strengths: Array, n_classes: int) -> Array:
    """Probabilities (S, P, m, C) of classes (P, n) by logistic regression with each penalty."""
    n_targets, n_strengths = len(target), len(strengths)
    weight, offset = fit_logistic(
        part, np.tile(target, (n_strengths, 1)), np.repeat(strengths * part.scale, n_targets), n_classes
    )
    logits = (part.test @ weight.reshape(len(weight), -1)).reshape(-1, *offset.shape) + offset  # (m, SP, O)
    p = probabilities(logits)
    if n_classes == 2:
        p = np.concatenate([1 - p, p], axis=2)
    return p.transpose(1, 0, 2).reshape(n_strengths, n_targets, len(part.test), n_classes)


def coded(target: NDArray[Any], n_classes: int) -> Array:
    """Classes (P, n) as -1 and 1, (P, n, O): one output for two classes, else one a class."""
    positive = np.arange(n_classes) if n_classes > 2 else np.array([1])
    return np.where(target[:, :, None] == positive, 1.0, -1.0)


def squared_error(out: Array, target: NDArray[Any]) -> Array:
    """Mean squared error (S, P) of predictions (S, P, m, 1)."""
    error: Array = ((out[..., 0] - target) ** 2).mean(axis=2)
    return error


def squared_error_of_classes(out: Array, target: NDArray[Any]) -> Array:
    """Mean squared error (S, P) of decision values (S, P, m, O)."""
    n_classes = out.shape[3] if out.shape[3] > 1 else 2
    error: Array = ((out - coded(target, n_classes)) ** 2).mean(axis=(2, 3))
    return error


def log_loss(out: Array, target: NDArray[Any]) -> Array:
    """Mean log loss (S, P) of probabilities (S, P, m, C)."""
    own = np.take_along_axis(out, np.broadcast_to(target, out.shape[:3])[..., None], axis=3)[..., 0]
    loss: Array = -np.log(np.maximum(own, np.finfo(np.float64).eps)).mean(axis=2)
    return loss


RIDGE = Solver(fit=ridge_regression, loss=squared_error, strengths=PENALTIES, strength=PENALTY)
RIDGE_CLASSES = Solver(
    fit=ridge_on_classes, loss=squared_error_of_classes, strengths=PENALTIES, strength=PENALTY, linked=True
)
LOGISTIC = Solver(fit=logistic_regression, loss=log_loss, strengths=PENALTIES, strength=PENALTY)

fit_linear = TwoSteps(prepare=standardised, solver={"regression": RIDGE, "classification": LOGISTIC})
fit_ridge = TwoSteps(prepare=standardised, solver={"regression": RIDGE, "classification": RIDGE_CLASSES})


@dataclass(frozen=True)
class Readout:
    """Predictions for the test part: values (n_test,), or probabilities (n_test, n_classes)."""

    prediction: Array
    penalty: float


def linear_readout(
    features: NDArray[np.float32],
    target: NDArray[Any],
    inner_fold: NDArray[np.int64],
    test_features: NDArray[np.float32],
    *,
    task: Task,
) -> Readout:
    """Choose the penalty inside the development part, fit to all of it, predict the test part.

    Shapes: features (n, D), target (n,) values, or class numbers from 0 on, inner_fold (n,) the validation
    fold of each participant, test_features (n_test, D).
    """
    classes = [str(c) for c in range(int(target.max()) + 1)] if task == "classification" else []
    found = fit_linear(
        Fold(
            task=task,
            classes=classes,
            inputs=features,
            target=target,
            inner_fold=inner_fold,
            is_val=inner_fold == inner_fold[0],
            test_inputs=test_features,
            seed=0,
        )
    )
    return Readout(found.values, found.settings[PENALTY])
