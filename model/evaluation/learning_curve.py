"""How a method's score grows with the participants it learns from: is it at its end, or would more help?

In each split the test part stays as it is and the development part is thinned to nested random parts: 20 % of
it lies in its 40 %, and so on; 100 % is the result itself. Groups stay whole. Their order is drawn so that
each part holds classes (or low, middle and high values) and inner folds about as the whole does. Confounds
are not regressed out here.

The interval of a point is that of the results (corrected resampled t), with the number that this point was
fitted on. Points of a curve share participants and test parts, so their intervals tell of each alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.fold import Fold, Inputs, Method
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.metrics import METRICS, bounds, score
from bjepa.model.evaluation.protocol import fold_of
from bjepa.model.evaluation.splits import Splits
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)
FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
COLUMNS = ("method", "n_train", "metric", "mean", "ci_low", "ci_high")
N_BANDS = 3  # of a continuous target: low, middle, high
LEAST_OUTSIDE = 2  # participants of each class (or in all) that every inner fold must leave to fit on


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A method's scores when it learns from a part of the participants."""

    fraction: float  # of the development part
    n_train: float  # participants fitted on, mean over splits
    estimates: dict[str, Estimate]  # by metric


def learning_curve(
    method: Method,
    inputs: Inputs,
    cohort: Cohort,
    splits: Splits,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    device: str = "cpu",
    max_epochs: int | None = None,
) -> list[CurvePoint]:
    """Scores of one method for growing parts of the development part.

    Parameters
    ----------
    inputs
        What `method.inputs` gave, in the order of the cohort.
    fractions
        In (0, 1], of the groups of the development part, ascending.
    seed
        Of the method, as in `evaluate_method`, so that the point at 1 is its result; and of the parts.

    Returns
    -------
    A point for each fraction. Those that leave too few participants to choose settings on (fewer than two of
    a class outside an inner fold) are left out, which the log tells.

    Raises
    ------
    InputError
        Fractions that are not ascending or not in (0, 1]; none that is large enough.
    """
    if (
        not fractions
        or list(fractions) != sorted(set(fractions))
        or not 0 < fractions[0] <= fractions[-1] <= 1
    ):
        raise InputError(
            f"fractions must ascend within (0, 1], got {tuple(fractions)}.",
            hint="They are shares: 0.2, not 20.",
        )
    points = []
    for fraction in fractions:
        scores, sizes = [], []
        for split in splits:
            fold, target = fold_of(inputs, cohort, split, seed=seed, device=device, max_epochs=max_epochs)
            groups = [cohort.group[int(row)] for row in split.development]
            part = nested_part(fold, groups, fraction, seed=seed, split=split.number)
            if not _suffices(fold, part):
                break
            smaller = replace(
                fold,
                inputs=fold.inputs[part],
                target=fold.target[part],
                inner_fold=fold.inner_fold[part],
                is_val=fold.is_val[part],
            )
            scores.append(score(cohort.task, target, method.fit_predict(smaller).values))
            sizes.append((len(part), len(target)))
        if len(scores) < splits.n_splits:
            log.info("learning curve: %.0f %% of the participants are too few to fit on", 100 * fraction)
            continue
        n_train, n_test = np.mean(sizes, axis=0).tolist()
        estimates = {
            m: corrected_resampled_t(
                [s[m] for s in scores], n_test=n_test, n_fitted=n_train, bounds=bounds(m)
            )
            for m in METRICS[cohort.task]
        }
        points.append(CurvePoint(fraction=fraction, n_train=n_train, estimates=estimates))
    if not points:
        raise InputError(
            f"A learning curve needs more: {fractions[-1]:.0%} of the development part are too few.",
            hint="Use larger fractions, or leave the learning curve out.",
        )
    return points


def nested_part(
    fold: Fold, groups: Sequence[str], fraction: float, *, seed: int, split: int
) -> NDArray[np.int64]:
    """Rows of the development part that are in its part `fraction`, ascending; (1) is all of them."""
    names = sorted(set(groups))
    order = _order_of_groups(fold, groups, names, np.random.default_rng([seed, split]))
    kept = {names[g] for g in order[: int(np.ceil(fraction * len(names) - 1e-9))]}
    return np.flatnonzero([group in kept for group in groups])


def _order_of_groups(
    fold: Fold, groups: Sequence[str], names: list[str], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of the groups, drawn so that each beginning of the order holds every stratum in its share.

    A stratum is a class or band of the target within an inner fold; a group is where its first member is.
    The groups of a stratum of size n get the places 0, 1/n, 2/n, … of a unit, shifted at random.
    """
    first = np.array([groups.index(name) for name in names])
    if fold.task == "classification":
        band = fold.target[first].astype(np.int64)
    else:
        edges = np.quantile(fold.target, np.arange(1, N_BANDS) / N_BANDS)
        band = np.searchsorted(edges, fold.target[first])
    stratum = np.stack([fold.inner_fold[first], band], axis=1)
    place = np.empty(len(names))
    for kind in np.unique(stratum, axis=0):
        members = np.flatnonzero((stratum == kind).all(axis=1))
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _suffices(fold: Fold, part: NDArray[np.int64]) -> bool:
    """Whether settings can be chosen on `part`: outside each inner fold, enough of each class or in all."""
    inner, target = fold.inner_fold[part], fold.target[part]
    if len(np.unique(inner)) < len(np.unique(fold.inner_fold)) or not fold.is_val[part].any():
        return False
    for number in np.unique(inner):
        left = target[inner != number]
        if fold.task == "regression":
            counts = [len(np.unique(left))]
        else:
            counts = np.bincount(left, minlength=len(fold.classes)).tolist()
        if min(counts) < LEAST_OUTSIDE:
            return False
    return True


def curve_rows(curves: Mapping[str, Sequence[CurvePoint]]) -> list[tuple[Any, ...]]:
    """Rows of learning_curve.tsv, header first; n_train is the mean over splits."""
    rows: list[tuple[Any, ...]] = [COLUMNS]
    for method, points in curves.items():
        for point in points:
            rows += [(method, point.n_train, metric, *e) for metric, e in point.estimates.items()]
    return rows
