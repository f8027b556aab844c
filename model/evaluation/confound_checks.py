"""Does a prediction go with motion, site or age beyond what the target itself explains?

For every method the mean out-of-fold prediction of each participant (a value; the probability of a class) is
set against each confound, the target held constant by a linear model (classes: a level each):

  a number    partial correlation of prediction and confound; interval by Fisher's z, p by Student's t
  text        partial η²: the share of what the target leaves of the prediction that the levels (sites)
              explain; interval by inverting the non-central F, p by the F-test
              (Steiger 2004, "Beyond the F test", Psychol Methods 9:164, doi:10.1037/1082-989X.9.2.164)
The number of independent cases is that of the groups. A confound that goes with a prediction beyond the
target is used by the method, or goes with what it uses: such a score need not hold where it differs.
`p_holm` is corrected for all methods and confounds of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort, finite_number
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.out_of_fold import OutOfFold, mean_over_splits
from bjepa.model.evaluation.paired import holm

COLUMNS = ("method", "class", "confound", "statistic", "value", "ci_low", "ci_high", "p", "p_holm", "n")
Statistic = Literal["partial_r", "partial_eta_squared"]


@dataclass(frozen=True, kw_only=True)
class ConfoundCheck:
    """One prediction and one confound."""

    method: str
    class_name: str  # whose probability; "" in regression
    confound: str
    statistic: Statistic
    estimate: Estimate
    p: float
    n: int  # participants
    p_holm: float = math.nan


def check_confounds(
    predictions: Sequence[tuple[str, OutOfFold]], cohort: Cohort, confounds: Sequence[str]
) -> list[ConfoundCheck]:
    """All methods against all confounds (columns of the cohort that have several values)."""
    found = []
    for method, pairs in predictions:
        rows, mean = mean_over_splits(pairs)
        n_groups = len({cohort.group[int(row)] for row in rows})
        covariates = _covariates(cohort, rows)
        shown = _shown(cohort, mean)
        for name in confounds:
            values = [cohort.columns[name][int(row)] for row in rows]
            if len(set(values)) < 2:
                continue
            numbers = [number for number in map(finite_number, values) if number is not None]
            for class_name, said in shown:
                left = _left(covariates, said)
                if len(numbers) == len(values):
                    statistic: Statistic = "partial_r"
                    estimate, p = _partial_r(left, _left(covariates, np.array(numbers)), covariates, n_groups)
                else:
                    statistic = "partial_eta_squared"
                    estimate, p = _partial_eta_squared(left, values, covariates, n_groups)
                found.append(
                    ConfoundCheck(
                        method=method,
                        class_name=class_name,
                        confound=name,
                        statistic=statistic,
                        estimate=estimate,
                        p=p,
                        n=len(rows),
                    )
                )
    corrected = holm([check.p for check in found])
    return [replace(check, p_holm=p) for check, p in zip(found, corrected, strict=True)]


def check_rows(found: Sequence[ConfoundCheck]) -> list[tuple[object, ...]]:
    """Rows of confound_checks.tsv, header first."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for c in found:
        rows.append(
            (c.method, c.class_name or "n/a", c.confound, c.statistic, *c.estimate, c.p, c.p_holm, c.n)
        )
    return rows


def _shown(cohort: Cohort, mean: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """What is set against the confounds: values, or the probability of the positive class or of each."""
    if cohort.task == "regression":
        return [("", mean)]
    numbers = [1] if len(cohort.classes) == 2 else range(len(cohort.classes))
    return [(cohort.classes[number], mean[:, number]) for number in numbers]


def _covariates(cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, k): a constant and the target; of classes a column for each but the first."""
    target = cohort.target[rows]
    if cohort.task == "regression":
        return np.column_stack([np.ones(len(rows)), (target - target.mean()) / (target.std() or 1)])
    return np.column_stack([np.ones(len(rows)), *((target == c) * 1.0 for c in np.unique(target)[1:])])


def _left(covariates: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a linear model of the covariates leaves of the values, (n,); exactly 0 where it is rounding."""
    left = values - covariates @ np.linalg.lstsq(covariates, values, rcond=None)[0]
    return left if np.ptp(left) > 1e-9 * (np.abs(values).max() or 1) else np.zeros_like(left)


def _partial_r(
    left: NDArray[np.float64], confound: NDArray[np.float64], covariates: NDArray[np.float64], n: int
) -> tuple[Estimate, float]:
    from scipy.stats import t

    size = math.sqrt(float(left @ left) * float(confound @ confound))
    df = n - 1 - covariates.shape[1]  # a constant is one of the covariates
    if size == 0 or df < 2:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    r = float(np.clip(left @ confound / size, -1, 1))
    if abs(r) == 1:
        return Estimate(r, r, r), 0.0
    half = 1.959963984540054 / math.sqrt(df - 1)  # n - 3 less one for each covariate but the constant
    p = float(2 * t.sf(abs(r) * math.sqrt(df / (1 - r * r)), df))
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)), p


def _partial_eta_squared(
    left: NDArray[np.float64], levels: Sequence[str], covariates: NDArray[np.float64], n: int
) -> tuple[Estimate, float]:
    from scipy.stats import f as f_distribution

    names = sorted(set(levels))
    dummies = np.array([[level == name for name in names[1:]] for level in levels], dtype=np.float64)
    full = np.column_stack([covariates, dummies])
    k, before = len(names) - 1, float(left @ left)
    df = n - full.shape[1]
    if before == 0 or df < 2:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    rest = left - full @ np.linalg.lstsq(full, left, rcond=None)[0]
    share = float(np.clip(1 - rest @ rest / before, 0, 1 - 1e-12))
    f = share / k / ((1 - share) / df)
    p = float(f_distribution.sf(f, k, df))
    low, high = (_noncentrality(f, k, df, level) for level in (0.975, 0.025))
    return Estimate(share, low / (low + k + df + 1), high / (high + k + df + 1)), p


def _noncentrality(f: float, k: int, df: int, level: float) -> float:
    """The non-centrality at which an F of this size or less has probability `level`; 0 if there is none."""
    from scipy.optimize import brentq
    from scipy.stats import ncf

    def excess(noncentrality: float) -> float:
        return float(ncf.cdf(f, k, df, noncentrality)) - level

    if excess(1e-9) <= 0:
        return 0.0
    upper = max(10.0, 2 * k * f)
    while excess(upper) > 0:
        upper *= 2
    return float(brentq(excess, 1e-9, upper, xtol=1e-6))
