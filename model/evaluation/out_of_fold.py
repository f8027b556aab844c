"""The predictions of one method for participants who were not in the fit, over all test parts of the splits.

With repeated splits a participant is tested more than once, and relatives share a group: pairs of true and
predicted values are not independent. Intervals here resample *groups*, with all pairs they bring. They hold
for these fitted models: what another training part would have changed, the intervals over splits tell.

p pairs, g groups, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.protocol import MethodResult, pooled
from bjepa.model.evaluation.splits import Splits

N_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Pairs of true and predicted values, split by split."""

    row: NDArray[np.int64]  # (p,) number of the participant in the cohort
    split: NDArray[np.int64]  # (p,)
    target: NDArray[Any]  # (p,) values, or class numbers
    values: NDArray[np.float64]  # (p,) values, or probabilities (p, c)
    group: NDArray[np.int64]  # (p,) 0 .. g - 1

    @property
    def n_groups(self) -> int:
        """Groups that were tested."""
        return int(self.group.max()) + 1


def out_of_fold(result: MethodResult, cohort: Cohort, splits: Splits) -> OutOfFold:
    """All pairs of a result; the true values are those that it was scored against."""
    tests = [split.test for split in splits]
    row = np.concatenate(tests)
    names = [cohort.group[int(r)] for r in row]
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    target, values = pooled(result)
    return OutOfFold(
        row=row,
        split=np.repeat(np.arange(len(tests)), [len(test) for test in tests]),
        target=target,
        values=values,
        group=np.array([number[name] for name in names], dtype=np.int64),
    )


def mean_over_splits(pairs: OutOfFold) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(rows of those who were tested, in order; the mean of their predictions): one row a participant."""
    rows, place = np.unique(pairs.row, return_inverse=True)
    total = np.zeros((len(rows), *pairs.values.shape[1:]))
    np.add.at(total, place, pairs.values)
    count = np.bincount(place).reshape(-1, *[1] * (total.ndim - 1))
    return rows, total / count


def resample_groups(
    sums: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    biased: Collection[int] = (),
) -> list[Estimate]:
    """Percentile intervals (95 %) of statistics that are functions of sums over pairs.

    `sums` (g, k): what each group adds to k sums. `statistic`: k sums (n, k) -> n values of m statistics
    (n, m). Returns m estimates; the mean is the statistic of the sample itself. Values that are not defined
    in a resample (a class is absent) are left out of its quantiles. `biased`: numbers of statistics that
    noise makes larger, so resampling, which adds noise, does too; their quantiles are moved back by that.
    """
    rng, g = np.random.default_rng(seed), len(sums)
    drawn = []
    block = max(1, 2_000_000 // g)  # resamples at a time: 16 MB
    for start in range(0, n_resamples, block):
        n = min(block, n_resamples - start)
        times = rng.multinomial(g, np.full(g, 1 / g), size=n)  # (n, g) how often each group is drawn
        drawn.append(statistic(times @ sums))
    values = np.concatenate(drawn)
    estimates = []
    of_sample = statistic(sums.sum(axis=0, keepdims=True))[0]
    for number, (own, resampled) in enumerate(zip(of_sample, values.T, strict=True)):
        known = resampled[np.isfinite(resampled)]
        if not np.isfinite(own) or not len(known):
            estimates.append(Estimate(float("nan"), float("nan"), float("nan")))
        else:
            low, high = np.quantile(known, [0.025, 0.975]) + (own - known.mean()) * (number in biased)
            estimates.append(Estimate(float(own), float(low), float(high)))
    return estimates


def sums_of_groups(pairs: OutOfFold, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each group adds to each sum, (g, k); `terms` (p, k)."""
    sums = np.zeros((pairs.n_groups, terms.shape[1]))
    np.add.at(sums, pairs.group, terms)
    return sums
