"""95 % intervals of a mean over splits, and of a difference between two methods on the same splits.

The k test folds are disjoint but the training parts overlap, so the k scores are not independent and the
naive standard error s / sqrt(k) is too small. The corrected resampled t interval allows for it:

    mean ± t(k - 1, 0.975) * s * sqrt(1 / k + n_test / n_fitted)

s: standard deviation over splits; n_fitted: participants the scored model was fitted on.
Source: Nadeau & Bengio 2003, "Inference for the generalization error", Mach Learn 52:239,
doi:10.1023/A:1024068626366. Cut to the values that the metric can take.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and its 95 % interval; NaN where a split has no value."""

    mean: float
    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        return self.low <= value <= self.high


def corrected_resampled_t(
    values: Sequence[float],
    *,
    n_test: float,
    n_fitted: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean over splits with its interval. `values`: one per split, two or more."""
    from scipy.stats import t

    k = len(values)
    mean, s = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, k - 1)) * s * math.sqrt(1 / k + n_test / n_fitted)
    if not math.isfinite(mean):
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]))
