"""Are the predictions right in size? A model may rank participants well and still be off.

Classification, of the positive class of two, of each class against the rest with more:
  reliability   bins of equal count by predicted probability; in each the mean prediction and the share that
                are of the class, with Wilson's interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) for
                as many independent cases as there are groups in the bin
  brier         mean squared difference of probability and outcome, summed over classes, halved for two
                (Brier 1950); `brier_base_rate` is that of always saying the classes' shares
  ece           expected calibration error: |share - mean prediction| over the bins, weighted by their counts
                (Naeini et al. 2015), the mean over classes. Noise alone makes it positive:
                `ece_if_calibrated` is what it would be if outcomes were drawn from the predictions
                (Bröcker & Smith 2007, doi:10.1175/WAF993.1). Resampling adds noise of its own, so the
                interval of ece is moved back by as much as the resampled mean is above it
Regression:
  slope, intercept   of true on predicted values by least squares; 1 and 0 are ideal. A slope below 1:
                     predictions are too far apart; above 1: too close to their mean
  mean_error         predicted minus true, in the units of the target; 0 is ideal
Intervals of measures: 95 %, groups resampled (`out_of_fold.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.out_of_fold import N_RESAMPLES, OutOfFold, resample_groups, sums_of_groups

COLUMNS = ("method", "measure", "class", "bin", "n", "predicted", "value", "ci_low", "ci_high")
MOST_BINS, PAIRS_PER_BIN = 10, 20
NORMAL_975 = 1.959963984540054  # 97.5th percentile of the standard normal


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Participants of like predictions."""

    class_name: str
    n: int  # pairs
    predicted: float  # mean probability
    observed: Estimate  # share that are of the class


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one method."""

    n: int  # pairs of true and predicted
    bins: list[Bin]  # empty in regression
    measures: dict[str, Estimate]


def calibrate(pairs: OutOfFold, cohort: Cohort, *, seed: int = 0, n_bins: int | None = None) -> Calibration:
    """Calibration of out-of-fold predictions. `n_bins`: default, about PAIRS_PER_BIN participants in each."""
    if cohort.task == "regression":
        return Calibration(n=len(pairs.row), bins=[], measures=_of_values(pairs, seed))
    if n_bins is None:
        n_bins = int(np.clip(len(np.unique(pairs.row)) // PAIRS_PER_BIN, 2, MOST_BINS))
    return _of_probabilities(pairs, cohort.classes, n_bins, seed)


def calibration_rows(found: Mapping[str, Calibration]) -> list[tuple[object, ...]]:
    """Rows of calibration.tsv, header first; `class` and `bin` are n/a where a measure is of all."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for method, calibration in found.items():
        for name, value in calibration.measures.items():
            rows.append((method, name, "n/a", "n/a", calibration.n, math.nan, *value))
        seen: dict[str, int] = {}
        for part in calibration.bins:
            number = seen[part.class_name] = seen.get(part.class_name, 0) + 1
            rows.append((method, "observed", part.class_name, number, part.n, part.predicted, *part.observed))
    return rows


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of n independent cases (Wilson 1927); within [0, 1], never empty."""
    z2 = NORMAL_975**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_975 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def equal_count_bins(predicted: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    """Bin of each prediction, (p,): 0, 1, … without gaps; equal predictions are in one bin."""
    edges = np.quantile(predicted, np.arange(1, n_bins) / n_bins)
    return np.unique(np.searchsorted(edges, predicted), return_inverse=True)[1]


def _of_values(pairs: OutOfFold, seed: int) -> dict[str, Estimate]:
    true, said = pairs.target.astype(np.float64), pairs.values
    centre = true.mean()  # sums of squares of small numbers
    t, s = true - centre, said - centre
    sums = sums_of_groups(pairs, np.stack([np.ones_like(t), t, s, t * s, s * s], axis=1))
    flat = np.ptp(said) <= 1e-9 * max(float(np.ptp(true)), 1e-300)  # as in metrics.py: equal but for rounding

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        n, sum_t, sum_s, sum_ts, sum_ss = total.T
        variance = sum_ss - sum_s**2 / n
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (sum_ts - sum_t * sum_s / n) / np.where(variance > 0, variance, np.nan)
        slope = np.full_like(slope, np.nan) if flat else slope
        intercept = (centre + sum_t / n) - slope * (centre + sum_s / n)
        return np.stack([slope, intercept, (sum_s - sum_t) / n], axis=1)

    names = ("slope", "intercept", "mean_error")
    return dict(zip(names, resample_groups(sums, statistic, seed=seed), strict=True))


def _of_probabilities(pairs: OutOfFold, classes: list[str], n_bins: int, seed: int) -> Calibration:
    outcome = (pairs.target[:, None] == np.arange(len(classes))).astype(np.float64)  # (p, c)
    shown = [1] if len(classes) == 2 else list(range(len(classes)))
    number = np.stack([equal_count_bins(pairs.values[:, c], n_bins) for c in shown], axis=1)  # (p, shown)
    bins = [
        _bin(pairs, classes[c], outcome[:, c], pairs.values[:, c], number[:, i] == b)
        for i, c in enumerate(shown)
        for b in range(number[:, i].max() + 1)
    ]
    half = 0.5 if len(classes) == 2 else 1.0
    belongs = [number[:, [i]] == np.arange(n_bins) for i in range(len(shown))]  # each (p, n_bins)
    excess = outcome - pairs.values  # (p, c); its sum over a bin: (share - mean prediction) * count
    gap = np.concatenate([excess[:, [c]] * b for c, b in zip(shown, belongs, strict=True)], axis=1)
    error = half * ((pairs.values - outcome) ** 2).sum(axis=1)
    count, c = np.ones(len(error)), len(classes)
    sums = sums_of_groups(pairs, np.column_stack([count, error, outcome, gap]))

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        n, shares = total[:, 0], total[:, 2 : 2 + c] / total[:, [0]]
        base = half * (1 - (shares**2).sum(axis=1))  # of always saying the shares
        ece = np.abs(total[:, 2 + c :]).sum(axis=1) / n / len(shown)
        return np.stack([total[:, 1] / n, base, ece], axis=1)

    names = ("brier", "brier_base_rate", "ece")
    estimates = resample_groups(sums, statistic, seed=seed, biased=[names.index("ece")])
    measures = dict(zip(names, estimates, strict=True))
    ece = measures["ece"]
    measures["ece"] = ece._replace(low=max(0.0, ece.low))
    measures["ece_if_calibrated"] = _ece_of_calibrated(pairs, shown, belongs, seed)
    return Calibration(n=len(pairs.row), bins=bins, measures=measures)


def _bin(
    pairs: OutOfFold,
    name: str,
    outcome: NDArray[np.float64],
    predicted: NDArray[np.float64],
    inside: NDArray[np.bool_],
) -> Bin:
    share = float(outcome[inside].mean())
    independent = len(np.unique(pairs.group[inside]))
    observed = Estimate(share, *wilson_interval(share, independent))
    return Bin(
        class_name=name, n=int(inside.sum()), predicted=float(predicted[inside].mean()), observed=observed
    )


def _ece_of_calibrated(
    pairs: OutOfFold, shown: list[int], belongs: list[NDArray[np.bool_]], seed: int
) -> Estimate:
    """ECE over draws of the outcomes from the predictions; a participant draws once for all its splits."""
    rng = np.random.default_rng([seed, 1])
    rows, place = np.unique(pairs.row, return_inverse=True)
    below = np.cumsum(pairs.values, axis=1)[:, :-1]  # (p, c - 1) where one class ends and the next begins
    weights = [b.astype(np.float64) for b in belongs]
    expected = [pairs.values[:, c] @ w for c, w in zip(shown, weights, strict=True)]
    eces = []
    for _ in range(N_RESAMPLES):
        drawn = (rng.random(len(rows))[place, None] > below).sum(axis=1)  # (p,) class numbers
        gaps = [(drawn == c) @ w - e for c, w, e in zip(shown, weights, expected, strict=True)]
        eces.append(np.abs(gaps).sum() / len(pairs.row) / len(shown))
    return Estimate(float(np.mean(eces)), *np.quantile(eces, [0.025, 0.975]).tolist())
