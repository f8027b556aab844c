"""Differences between methods on the same splits: interval, p-value, and p-values corrected for their number.

p is of the corrected resampled t-test (Nadeau & Bengio 2003, doi:10.1023/A:1024068626366), the test whose
interval `intervals.py` gives: p < 0.05 where the 95 % interval leaves 0 out. `p_holm` is corrected over all
pairs of a family (Holm 1979, "A simple sequentially rejective multiple test procedure", Scand J Stat 6:65):
whatever the methods depend on, at most 5 % of families of equal methods have a p_holm below 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.protocol import MethodResult, difference
from bjepa.model.evaluation.splits import Splits

COLUMNS = ("metric", "method", "against", "mean", "ci_low", "ci_high", "p", "p_holm")
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """`method - against`, in the units of the metric."""

    method: str
    against: str
    metric: str
    estimate: Estimate
    p: float  # two-sided; NaN where the metric is not defined
    p_holm: float = math.nan

    @property
    def is_shown(self) -> bool:
        """Whether the two differ after the correction."""
        return self.p_holm < ALPHA

    @property
    def is_worse(self) -> bool:
        """Whether the method is worse, by itself: what speaks against a model is not corrected away."""
        return self.p < ALPHA and self.estimate.mean < 0

    @property
    def is_lost(self) -> bool:
        """Whether the difference is there by itself, and not after the correction."""
        return self.p < ALPHA <= self.p_holm


def paired_differences(
    results: Sequence[MethodResult], pairs: Sequence[tuple[str, str]], metric: str, splits: Splits
) -> list[PairedDifference]:
    """The differences of one family, in the order of `pairs` (method, against)."""
    by_name = {result.name: result for result in results}
    found = []
    for one, other in pairs:
        estimate = difference(by_name[one], by_name[other], metric, splits)
        p = p_of_interval(estimate, splits.n_splits)
        found.append(PairedDifference(method=one, against=other, metric=metric, estimate=estimate, p=p))
    corrected = holm([d.p for d in found])
    return [replace(d, p_holm=p) for d, p in zip(found, corrected, strict=True)]


def p_of_interval(estimate: Estimate, n_splits: int) -> float:
    """Two-sided p of "the difference is 0", of the t-test whose interval (not cut) this is."""
    from scipy.stats import t

    if not math.isfinite(estimate.mean):
        return math.nan
    half = (estimate.high - estimate.low) / 2
    if half == 0:
        return 1.0 if estimate.mean == 0 else 0.0
    df = n_splits - 1
    return float(2 * t.sf(abs(estimate.mean) / half * t.ppf(0.975, df), df))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p-values. NaN stays NaN and is not counted."""
    p = np.array(p_values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(
        1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1, dtype=np.float64))
    )
    return corrected.tolist()


def difference_rows(found: Sequence[PairedDifference]) -> list[tuple[object, ...]]:
    """Rows of differences.tsv, header first."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    rows += [(d.metric, d.method, d.against, *d.estimate, d.p, d.p_holm) for d in found]
    return rows
