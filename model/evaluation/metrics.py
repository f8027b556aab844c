"""Metrics, named for what they are, computed by scikit-learn and SciPy.

    regression       r (Pearson), spearman, r2 (coefficient of determination: 1 - SS_res / SS_tot, below 0
                     when worse than the mean; not r squared), mae, mse (units of the target, their square)
    classification   accuracy, balanced_accuracy, auc (area under the ROC curve) and f1, both of the last
                     class; of more than two classes, each against the rest, and the mean over classes
A correlation with predictions that are all equal is not defined: NaN.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Task

METRICS: dict[Task, tuple[str, ...]] = {
    "regression": ("r", "spearman", "r2", "mae", "mse"),
    "classification": ("accuracy", "balanced_accuracy", "auc", "f1"),
}
MAIN_METRIC: dict[Task, str] = {"regression": "r2", "classification": "auc"}
CHANCE = {"r": 0.0, "spearman": 0.0, "r2": 0.0, "auc": 0.5}  # the others' chance depends on the target
LABELS = {
    "r": "Pearson r",
    "spearman": "Spearman ρ",
    "r2": "R²",
    "mae": "MAE",
    "mse": "MSE",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "f1": "F1",
}
_BOUNDS = {"r": (-1.0, 1.0), "spearman": (-1.0, 1.0), "r2": (-math.inf, 1.0)}
_BOUNDS |= {"mae": (0.0, math.inf), "mse": (0.0, math.inf)}


def bounds(metric: str) -> tuple[float, float]:
    """Smallest and largest value that a metric can take."""
    return _BOUNDS.get(metric, (0.0, 1.0))


def score(task: Task, target: NDArray[np.generic], prediction: NDArray[np.float64]) -> dict[str, float]:
    """All METRICS of a task.

    `target` (n,): values, or class numbers. `prediction`: values (n,), or probabilities (n, n_classes).
    """
    if task == "regression":
        return _score_regression(target.astype(np.float64), prediction)
    return _score_classification(target.astype(np.int64), prediction)


def _score_regression(target: NDArray[np.float64], prediction: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    # relative: predictions of a model shrunk to the mean differ by rounding alone, and so would their r
    constant = np.ptp(prediction) <= 1e-9 * max(float(np.ptp(target)), float(np.abs(prediction).max()))
    return {
        "r": math.nan if constant else float(pearsonr(target, prediction).statistic),
        "spearman": math.nan if constant else float(spearmanr(target, prediction).statistic),
        "r2": float(r2_score(target, prediction)),
        "mae": float(mean_absolute_error(target, prediction)),
        "mse": float(mean_squared_error(target, prediction)),
    }


def _score_classification(target: NDArray[np.int64], probability: NDArray[np.float64]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

    predicted = probability.argmax(axis=1)
    if probability.shape[1] == 2:
        auc = roc_auc_score(target, probability[:, 1])
        f1 = f1_score(target, predicted, pos_label=1, average="binary", zero_division=0)
    else:
        auc = roc_auc_score(target, probability, multi_class="ovr", average="macro")
        f1 = f1_score(target, predicted, average="macro", zero_division=0)
    return {
        "accuracy": float(accuracy_score(target, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(target, predicted)),
        "auc": float(auc),
        "f1": float(f1),
    }
