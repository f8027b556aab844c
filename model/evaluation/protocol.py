"""One protocol for every method: same splits, same readout, same metrics, same intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.linear import linear_readout
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.metrics import METRICS, bounds, score
from bjepa.model.evaluation.splits import Split, Splits


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached."""

    name: str
    scores: list[dict[str, float]]  # one per split, by metric
    estimates: dict[str, Estimate]  # by metric
    prediction: NDArray[np.float64]  # out of fold: (n,) values or (n, n_classes) probabilities
    penalties: list[float]  # chosen, one per split
    n_features: int


def evaluate_method(name: str, features: NDArray[np.float32], cohort: Cohort, splits: Splits) -> MethodResult:
    """Cross-validate the linear readout of `features` (n_participants, D), in the order of the cohort."""
    n = len(cohort.participant_id)
    shape = (n,) if cohort.task == "regression" else (n, len(cohort.classes))
    prediction = np.empty(shape)
    scores, penalties = [], []
    for split in splits:
        inside = split.development
        readout = linear_readout(
            features[inside],
            cohort.target[inside],
            splits.fold[inside],
            features[split.test],
            task=cohort.task,
        )
        prediction[split.test] = readout.prediction
        penalties.append(readout.penalty)
        scores.append(score(cohort.task, cohort.target[split.test], readout.prediction))
    return MethodResult(
        name=name,
        scores=scores,
        estimates={m: _estimate([s[m] for s in scores], splits, m) for m in METRICS[cohort.task]},
        prediction=prediction,
        penalties=penalties,
        n_features=features.shape[1],
    )


def difference(one: MethodResult, other: MethodResult, metric: str, splits: Splits) -> Estimate:
    """Mean difference `one - other` over the splits they share, with its interval."""
    values = [a[metric] - b[metric] for a, b in zip(one.scores, other.scores, strict=True)]
    n_fitted, n_test = _sizes(splits)
    return corrected_resampled_t(values, n_test=n_test, n_fitted=n_fitted)


def _estimate(values: list[float], splits: Splits, metric: str) -> Estimate:
    n_fitted, n_test = _sizes(splits)
    return corrected_resampled_t(values, n_test=n_test, n_fitted=n_fitted, bounds=bounds(metric))


def _sizes(splits: Splits) -> tuple[float, float]:
    """Participants that the scored models are fitted on, and that they are tested on: means over splits."""
    n_test = len(splits.fold) / splits.n_splits
    return len(splits.fold) - n_test, n_test


def table_rows(
    results: list[MethodResult], cohort: Cohort, splits: Splits
) -> Mapping[str, list[tuple[Any, ...]]]:
    """Rows, header first, of scores.tsv, summary.tsv and predictions.tsv."""
    return {
        "scores": [("method", "split", "metric", "value"), *_score_rows(results)],
        "summary": [
            ("method", "metric", "mean", "ci_low", "ci_high", "n_train", "n_val", "n_test", "n_splits"),
            *_summary_rows(results, splits),
        ],
        "predictions": _prediction_rows(results, cohort, splits),
    }


def _score_rows(results: list[MethodResult]) -> list[tuple[Any, ...]]:
    return [
        (result.name, split, metric, value)
        for result in results
        for split, scores in enumerate(result.scores)
        for metric, value in scores.items()
    ]


def _summary_rows(results: list[MethodResult], splits: Splits) -> list[tuple[Any, ...]]:
    """Sizes are of the median split: folds differ by a participant or a group."""

    def median(part: list[int]) -> int:
        return int(np.median(part))

    every: list[Split] = list(splits)
    sizes = (
        median([len(s.train) for s in every]),
        median([len(s.val) for s in every]),
        median([len(s.test) for s in every]),
    )
    return [
        (result.name, metric, estimate.mean, estimate.low, estimate.high, *sizes, splits.n_splits)
        for result in results
        for metric, estimate in result.estimates.items()
    ]


def _prediction_rows(results: list[MethodResult], cohort: Cohort, splits: Splits) -> list[tuple[Any, ...]]:
    if cohort.task == "regression":
        header: tuple[Any, ...] = ("method", "split", "participant_id", "target", "prediction")
        return [
            header,
            *(
                (result.name, int(splits.fold[i]), p, cohort.target[i], result.prediction[i])
                for result in results
                for i, p in enumerate(cohort.written_id)
            ),
        ]
    header = ("method", "split", "participant_id", "target", "prediction")
    header += tuple(f"probability_{c}" for c in cohort.classes)
    return [
        header,
        *(
            (
                result.name,
                int(splits.fold[i]),
                p,
                cohort.classes[cohort.target[i]],
                cohort.classes[int(result.prediction[i].argmax())],
                *result.prediction[i],
            )
            for result in results
            for i, p in enumerate(cohort.written_id)
        ),
    ]
