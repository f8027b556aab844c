"""Heads on top of the encoder, one a split: each explains participants that it has not seen.

    linear     ridge or logistic regression on the frozen, pooled tokens; penalty chosen inside the
               development part, as `bjepa-evaluate probe`
    finetune   encoder and head trained together on the training part, stopped by the validation part, as
               `bjepa-evaluate finetune`

The score of the same heads on the same participants tells whether there is anything to explain.

n participants, F pooled features, O outputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.linear import linear_readout
from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.metrics import MAIN_METRIC, bounds, score
from bjepa.model.evaluation.splits import Splits
from bjepa.model.explain.output_network import LinearOutput, OutputNetwork
from bjepa.model.readouts.pooling import Pooling

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """An output a split, and what they are worth."""

    outputs: list[OutputNetwork]
    output_of: NDArray[np.int64]  # (n,) number of the output that did not see the participant
    metric: str
    estimate: Estimate  # of the metric, over splits
    settings: dict[str, Any]  # what was chosen, for run.json


def linear_heads(
    encoder: Encoder,
    features: NDArray[np.float32],
    cohort: Cohort,
    splits: Splits,
    *,
    class_number: int,
    pooling: Pooling = "mean",
    network_R: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Heads:
    """Fit a linear map a split to `features` (n, F), NaN where unknown, in the order of the cohort."""
    outputs: list[OutputNetwork] = []
    penalties, predictions = [], []
    for split in splits:
        inside = split.development
        readout = linear_readout(
            features[inside],
            cohort.target[inside],
            split.fold[inside],
            features[split.test],
            task=cohort.task,
        )
        weight, bias, fill = fit_linear_map(
            features[inside],
            cohort.target[inside],
            readout.penalty,
            task=cohort.task,
            class_number=class_number,
        )
        outputs.append(
            LinearOutput(encoder, weight, bias, pooling=pooling, network_R=network_R, fill_F=fill)
            .to(device)
            .eval()
        )
        penalties.append(readout.penalty)
        predictions.append(readout.prediction)
    return scored(outputs, predictions, cohort, splits, {"head": "linear", "penalty_per_feature": penalties})


def scored(
    outputs: list[OutputNetwork],
    predictions: list[Array],
    cohort: Cohort,
    splits: Splits,
    settings: dict[str, Any],
) -> Heads:
    """Heads with their score; `predictions` of the test part of each split."""
    metric = MAIN_METRIC[cohort.task]
    output_of = np.full(len(cohort.participant_id), -1, dtype=np.int64)
    values = []
    for split, prediction in zip(splits, predictions, strict=True):
        output_of[split.test] = split.number
        values.append(score(cohort.task, cohort.target[split.test], prediction)[metric])
    n_test = float(np.mean([len(split.test) for split in splits]))
    estimate = corrected_resampled_t(
        values, n_test=n_test, n_fitted=len(output_of) - n_test, bounds=bounds(metric)
    )
    return Heads(outputs=outputs, output_of=output_of, metric=metric, estimate=estimate, settings=settings)


def combination(n_outputs: int, class_number: int) -> Array:
    """(O,) weights of a classifier's logits that give the output explained; 1 for a regression."""
    if n_outputs == 1:
        return np.ones(1)
    weights = np.full(n_outputs, -1.0 if n_outputs == 2 else -1 / n_outputs)
    weights[class_number] += 2.0 if n_outputs == 2 else 1.0
    return weights


def fit_linear_map(
    features: NDArray[np.float32],
    target: NDArray[Any],
    penalty: float,
    *,
    task: Task,
    class_number: int,
) -> tuple[Array, float, Array]:
    """Weight (F,), bias and training mean (F,): imputation, standardising and regression as one linear map.

    The model that `linear_readout` fits with this `penalty` per feature, as scikit-learn has it.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    x = features.astype(np.float64)
    known = np.isfinite(x)
    mean = np.where(known, x, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    x = np.where(known, x, mean) - mean
    spread = x.std(axis=0)
    spread[spread <= 1e-12 * np.maximum(np.abs(mean), 1e-300)] = np.inf  # constant: of no use
    standard, alpha = x / spread, penalty * x.shape[1]
    if task == "regression":
        fitted = Ridge(alpha=alpha).fit(standard, target)
        weight, bias = fitted.coef_, float(fitted.intercept_)
    else:
        fitted = LogisticRegression(C=1 / alpha, solver="newton-cg", tol=1e-6).fit(standard, target)
        coefficient, intercept = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:  # scikit-learn gives the logit of the second
            sign = 1.0 if fitted.classes_[1] == class_number else -1.0
            weight, bias = sign * coefficient[0], float(sign * intercept[0])
        else:
            row = int(np.flatnonzero(fitted.classes_ == class_number)[0])
            weight = coefficient[row] - coefficient.mean(axis=0)
            bias = float(intercept[row] - intercept.mean())
    weight = weight / spread
    return weight, bias - float(weight @ mean), mean
