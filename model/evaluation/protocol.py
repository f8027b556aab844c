"""One protocol for every method: same splits, metrics and intervals; a method sees one Fold at a time."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.confounds import regress_out
from bjepa.model.evaluation.fold import Fold, Inputs, Method, Prediction
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.metrics import METRICS, bounds, score
from bjepa.model.evaluation.splits import Split, Splits

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached. Lists have one entry a split."""

    name: str
    scores: list[dict[str, float]]  # by metric
    estimates: dict[str, Estimate]  # by metric
    prediction: list[NDArray[np.float64]]  # of split.test: (m,) values or (m, n_classes) probabilities
    target: list[NDArray[Any]]  # of split.test: (m,) what the prediction was scored against
    settings: list[dict[str, Any]]  # what the method chose
    p_values: dict[str, float] = field(default_factory=dict)  # by metric, where targets were permuted


def evaluate_method(
    name: str,
    method: Method,
    inputs: Inputs,
    cohort: Cohort,
    splits: Splits,
    *,
    seed: int = 0,
    device: str = "cpu",
    max_epochs: int | None = None,
    confounds: NDArray[np.float64] | None = None,
    each: Callable[[Splits], Iterator[Split]] = iter,
) -> MethodResult:
    """Cross-validate one method.

    Parameters
    ----------
    inputs
        What `method.inputs` gave, in the order of the cohort.
    seed
        The randomness of a method in split s comes from (seed, s).
    confounds : (n_participants, C), optional
        Regressed out inside each fold: see model/evaluation/confounds.py.
    each
        Wraps the splits (a progress bar).
    """
    predictions, targets, scores, settings = [], [], [], []
    for split in each(splits):
        fold, target = fold_of(
            inputs, cohort, split, seed=seed, device=device, max_epochs=max_epochs, confounds=confounds
        )
        found = method.fit_predict(fold)
        _refuse_misfit(name, found, fold, split)
        predictions.append(found.values)
        targets.append(target)
        settings.append(found.settings)
        scores.append(score(cohort.task, target, found.values))
    return MethodResult(
        name=name,
        scores=scores,
        estimates={m: _estimate([s[m] for s in scores], splits, m) for m in METRICS[cohort.task]},
        prediction=predictions,
        target=targets,
        settings=settings,
    )


def fold_of(
    inputs: Inputs,
    cohort: Cohort,
    split: Split,
    *,
    seed: int = 0,
    device: str = "cpu",
    max_epochs: int | None = None,
    confounds: NDArray[np.float64] | None = None,
) -> tuple[Fold, NDArray[Any]]:
    """What a method may see of a split; and the targets of the test part, which it may not."""
    inside, test = split.development, split.test
    target, test_target = cohort.target[inside], cohort.target[test]
    inputs_inside: Any = inputs[inside]
    test_inputs: Any = inputs[test]
    if confounds is not None and cohort.task == "regression":
        target, test_target = regress_out(confounds[inside], target, confounds[test], test_target)
    elif confounds is not None:
        inputs_inside, test_inputs = regress_out(
            confounds[inside], inputs_inside, confounds[test], test_inputs
        )
    fold = Fold(
        task=cohort.task,
        classes=cohort.classes,
        inputs=inputs_inside,
        target=target,
        inner_fold=split.fold[inside],
        is_val=np.isin(inside, split.val),
        test_inputs=test_inputs,
        seed=int(np.random.SeedSequence([seed, split.number]).generate_state(1)[0] >> 1),  # below 2**31
        device=device,
        max_epochs=max_epochs,
    )
    return fold, test_target


def can_adjust(inputs: Inputs, cohort: Cohort) -> bool:
    """Whether confounds can be regressed out: always of a target that is a number; of inputs in an array."""
    return cohort.task == "regression" or isinstance(inputs, np.ndarray)


def difference(one: MethodResult, other: MethodResult, metric: str, splits: Splits) -> Estimate:
    """Mean difference `one - other` over the splits they share, with its interval."""
    values = [a[metric] - b[metric] for a, b in zip(one.scores, other.scores, strict=True)]
    n_fitted, n_test = _sizes(splits)
    return corrected_resampled_t(values, n_test=n_test, n_fitted=n_fitted)


def pooled(result: MethodResult) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(target, prediction) of all test parts, one after the other."""
    return np.concatenate(result.target), np.concatenate(result.prediction)


def _refuse_misfit(name: str, found: Prediction, fold: Fold, split: Split) -> None:
    m = len(split.test)
    shape = (m,) if fold.task == "regression" else (m, len(fold.classes))
    if found.values.shape != shape or not np.isfinite(found.values).all():
        raise FloatingPointError(
            f"{name} gave {found.values.shape} predictions in split {split.number}, "
            f"{np.isfinite(found.values).mean():.0%} of them finite; {shape} finite ones are needed."
        )


def _estimate(values: list[float], splits: Splits, metric: str) -> Estimate:
    n_fitted, n_test = _sizes(splits)
    return corrected_resampled_t(values, n_test=n_test, n_fitted=n_fitted, bounds=bounds(metric))


def _sizes(splits: Splits) -> tuple[float, float]:
    """Participants that the scored models are fitted on, and that they are tested on: means over splits."""
    n_test = float(np.mean([len(split.test) for split in splits]))
    return splits.fold.shape[1] - n_test, n_test


def table_rows(
    results: list[MethodResult], cohort: Cohort, splits: Splits
) -> Mapping[str, list[tuple[Any, ...]]]:
    """Rows, header first, of scores.tsv, summary.tsv and predictions.tsv."""
    return {
        "scores": [("method", "split", "metric", "value"), *_score_rows(results)],
        "summary": [
            tuple("method metric mean ci_low ci_high n_train n_val n_test n_splits p_permutation".split()),
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
        (
            *(result.name, metric, estimate.mean, estimate.low, estimate.high),
            *(*sizes, splits.n_splits, result.p_values.get(metric, float("nan"))),
        )
        for result in results
        for metric, estimate in result.estimates.items()
    ]


def _prediction_rows(results: list[MethodResult], cohort: Cohort, splits: Splits) -> list[tuple[Any, ...]]:
    header: tuple[Any, ...] = ("method", "split", "participant_id", "target", "prediction")
    header += tuple(f"probability_{c}" for c in cohort.classes)
    rows: list[tuple[Any, ...]] = [header]
    for result in results:
        for split, target, prediction in zip(splits, result.target, result.prediction, strict=True):
            for participant, true, predicted in zip(split.test, target, prediction, strict=True):
                start = (result.name, split.number, cohort.written_id[participant])
                if cohort.task == "regression":
                    rows.append((*start, true, predicted))
                else:
                    rows.append(
                        (*start, cohort.classes[true], cohort.classes[int(predicted.argmax())], *predicted)
                    )
    return rows
