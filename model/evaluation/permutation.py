"""Permutation p-values: how often a method scores as well when inputs and targets do not belong together.

    p = (1 + number of rearrangements that score as well or better) / (1 + number of rearrangements)

One-sided, for r2 and r, or auc. The score is that of the report, the mean over splits, and the whole
procedure runs anew each time, the choice of the penalty too. An r that is not defined (all predictions equal)
counts as 0.

**What is exchanged.** Folds are stratified by the target, so targets may not simply be shuffled over the
fixed folds: the mean of a shuffled fold differs more from the others than that of a stratified one, so chance
looks worse than it is. Of 200 data sets of 40 participants without any effect, p of r2 was 0.05 or less in
84 %; in 5.1 % of 1,500 when done as follows. Target, fold and group stay together, and the *inputs* are dealt
anew to them, which is right for all splits. Where each participant is tested once (k-fold, leave-out), inputs
are exchanged within the test parts alone: all parts keep their participants, and what a method prepares
without targets is computed once. Where groups have several members, groups of one size within a part change
places, and members within their group, as in Winkler et al. 2015, "Multi-level block permutation", NeuroImage
123:253, doi:10.1016/j.neuroimage.2015.05.092. Confounds stay with the target in regression, where it is
adjusted for them, else with the inputs, which are.

Source of p: Phipson & Smyth 2010, "Permutation p-values should never be zero", doi:10.2202/1544-6115.1585.
P rearrangements, n participants.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.two_steps import TwoSteps
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.fold import Fold, Inputs, Method
from bjepa.model.evaluation.protocol import fold_of
from bjepa.model.evaluation.splits import Splits

Array = NDArray[np.float64]
PERMUTED: dict[Task, tuple[str, ...]] = {"regression": ("r2", "r"), "classification": ("auc",)}
N_PERMUTATIONS = 200  # the least p is 0.005
STREAM = 0x9E37  # apart from the seeds of splits and methods
NUMBERS_AT_ONCE = 2**23  # of one array: 64 MB
LONG = 10  # minutes: whoever waits longer is told
log = logging.getLogger(__name__)


def permutation_test(
    method: Method,
    inputs: Inputs,
    cohort: Cohort,
    splits: Splits,
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
    device: str = "cpu",
    max_epochs: int | None = None,
    confounds: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """p of each metric in PERMUTED; arguments as `protocol.evaluate_method`.

    A method in two steps (all linear ones) is refitted to all rearrangements together where the splits allow
    it; any other is simply run n_permutations + 1 times.
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be 1 or more, got {n_permutations}.")
    order = rearrangements(cohort, splits, n_permutations, seed)
    run = _all_at_once if _tested_once(splits) and isinstance(method.fit_predict, TwoSteps) else _one_by_one
    options = {"seed": seed, "device": device, "max_epochs": max_epochs}
    scores = run(method, inputs, cohort, splits, order, confounds, options)  # (1 + P, n_metrics)
    return dict(zip(PERMUTED[cohort.task], _p_values(scores).tolist(), strict=True))


def rearrangements(cohort: Cohort, splits: Splits, n_permutations: int, seed: int) -> NDArray[np.int64]:
    """(1 + P, n): which participant's inputs come to each place; the first row is the order as it is."""
    rng = np.random.default_rng([seed, STREAM])
    n = len(cohort.target)
    parts = [split.test for split in splits] if _tested_once(splits) else [np.arange(n)]
    group = np.unique(np.array(cohort.group), return_inverse=True)[1]
    order = np.tile(np.arange(n), (1 + n_permutations, 1))
    for row in order[1:]:
        for part in parts:
            row[part] = _exchange(part, group[part], rng)
    return order


def _exchange(
    rows: NDArray[np.int64], group: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows in a new order: groups of one size change places, members change within."""
    places = [np.flatnonzero(group == g) for g in np.unique(group)]
    if len(places) == len(rows):
        return rng.permutation(rows)
    moved = np.empty_like(rows)
    for size in sorted({len(p) for p in places}):
        same = [p for p in places if len(p) == size]
        for place, source in zip(same, rng.permutation(len(same)), strict=True):
            moved[place] = rng.permutation(rows[same[source]])
    return moved


def _tested_once(splits: Splits) -> bool:
    """Whether the test parts are disjoint and have everyone."""
    tested = np.concatenate([split.test for split in splits])
    return bool(len(tested) == splits.fold.shape[1] == len(np.unique(tested)))


def _one_by_one(
    method: Method,
    inputs: Inputs,
    cohort: Cohort,
    splits: Splits,
    order: NDArray[np.int64],
    confounds: NDArray[np.float64] | None,
    options: dict[str, Any],
) -> Array:
    """Scores (1 + P, n_metrics) by running the method for each rearrangement of the inputs."""
    scores = np.zeros((len(order), len(PERMUTED[cohort.task])))
    began = time.monotonic()
    for number, rows in enumerate(order):
        if number == 1 and (minutes := (time.monotonic() - began) * len(order[1:]) / 60) > LONG:
            log.warning(
                "permutation test of %r: about %.0f minutes for %d refits; folds without repeats are quicker",
                method.summary,
                minutes,
                len(order[1:]),
            )
        own = confounds if confounds is None or cohort.task == "regression" else confounds[rows]
        moved: Any = inputs[rows]
        for split in splits:
            fold, target = fold_of(moved, cohort, split, confounds=own, **options)
            values = method.fit_predict(fold).values
            scores[number] += metrics_of_many(cohort.task, target[None], values[None])[0]
    return scores / splits.n_splits


def _all_at_once(
    method: Method,
    inputs: Inputs,
    cohort: Cohort,
    splits: Splits,
    order: NDArray[np.int64],
    confounds: NDArray[np.float64] | None,
    options: dict[str, Any],
) -> Array:
    """The same: inputs stay, and the targets come to them from the other side."""
    steps = method.fit_predict
    assert isinstance(steps, TwoSteps)
    scores = np.zeros((len(order), len(PERMUTED[cohort.task])))
    nothing = np.zeros((len(cohort.target), 1))
    came_from = np.argsort(order, axis=1)  # place of each participant's inputs: whose target they meet
    for split in splits:
        fold, _ = fold_of(inputs, cohort, split, confounds=confounds, **options)
        candidates = steps.prepare(fold)
        pairs = []
        for places in came_from:
            own = confounds if confounds is None or cohort.task == "classification" else confounds[places]
            moved = replace(cohort, target=cohort.target[places])
            met, test_target = fold_of(nothing, moved, split, confounds=own, **options)
            pairs.append((met.target, test_target))
        size = _targets_at_once(fold)
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            values, _ = steps.solve(candidates, fold, np.stack([target for target, _ in some]))
            test_targets = np.stack([target for _, target in some])
            scores[start : start + size] += metrics_of_many(cohort.task, test_targets, values)
    return scores / splits.n_splits


def _targets_at_once(fold: Fold) -> int:
    penalties = 13  # about: a solver has as many outputs
    return max(1, NUMBERS_AT_ONCE // (len(fold.target) * penalties * fold.n_outputs))


def metrics_of_many(task: Task, target: NDArray[Any], prediction: Array) -> Array:
    """PERMUTED metrics (P, n_metrics), as `metrics.score`, of targets (P, m) and predictions (P, m[, C])."""
    if task == "classification":
        positive = range(prediction.shape[2]) if prediction.shape[2] > 2 else [1]
        auc: Array = np.mean([_auc(target == c, prediction[:, :, c]) for c in positive], axis=0)
        return auc[:, None]
    y = target - target.mean(axis=1, keepdims=True)
    f = prediction - prediction.mean(axis=1, keepdims=True)
    yy, ff, yf = (y**2).sum(axis=1), (f**2).sum(axis=1), (y * f).sum(axis=1)
    r2 = 1 - ((target - prediction) ** 2).sum(axis=1) / yy
    size = np.maximum(np.ptp(target, axis=1), np.abs(prediction).max(axis=1))
    varies = np.ptp(prediction, axis=1) > 1e-9 * size  # as in metrics.py
    r = np.where(varies, yf / np.sqrt(yy * np.where(varies, ff, 1)), 0)
    return np.stack([r2, r], axis=1)


def _auc(positive: NDArray[np.bool_], value: Array) -> Array:
    """(P,) area under the ROC curve from the positives' ranks; ties count half."""
    from scipy.stats import rankdata

    n = positive.sum(axis=1)
    ranks = np.where(positive, rankdata(value, axis=1), 0).sum(axis=1)
    auc: Array = (ranks - n * (n + 1) / 2) / (n * (positive.shape[1] - n))
    return auc


def _p_values(scores: Array) -> Array:
    """Of scores (1 + P, n_metrics), the first row the observed ones; differences by rounding are none."""
    observed = scores[0]
    as_good = scores[1:] >= observed - 1e-9 * np.maximum(1, np.abs(observed))
    p: Array = (1 + as_good.sum(axis=0)) / len(scores)
    return p
