"""model/evaluation/calibration.py: against scikit-learn, SciPy and draws whose calibration is known; laws."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from bjepa.model.evaluation.calibration import (
    COLUMNS,
    calibrate,
    calibration_rows,
    equal_count_bins,
    wilson_interval,
)
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.out_of_fold import OutOfFold, mean_over_splits, out_of_fold
from bjepa.model.evaluation.protocol import MethodResult
from bjepa.model.evaluation.splits import Splits


def cohort_of(target: NDArray[Any], classes: tuple[str, ...] = (), group: list[str] | None = None) -> Cohort:
    ids = [f"{i:04d}" for i in range(len(target))]
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=target,
        group=ids if group is None else group,
        task="classification" if classes else "regression",
        classes=list(classes),
        target_name="age",
    )


def splits_of(cohort: Cohort, tests: list[list[int]]) -> Splits:
    """Splits that test these rows."""
    fold = np.ones((len(tests), len(cohort.target)), dtype=np.int64)
    fold[:, 0] = 2
    for number, test in enumerate(tests):
        fold[number, test] = 0
    tested, validates = np.zeros(len(tests), np.int64), np.full(len(tests), 2)
    return Splits(
        participant_id=cohort.participant_id,
        fold=fold,
        test_fold=tested,
        val_fold=validates,
        description="by hand",
    )


def result_of(values: NDArray[np.float64], cohort: Cohort, tests: list[list[int]]) -> MethodResult:
    return MethodResult(
        name="a",
        scores=[],
        estimates={},
        prediction=[values[test] for test in tests],
        target=[cohort.target[test] for test in tests],
        settings=[],
    )


def pairs_of(values: NDArray[np.float64], cohort: Cohort, n_splits: int = 3) -> OutOfFold:
    tests = [list(range(s, len(cohort.target), n_splits)) for s in range(n_splits)]
    return out_of_fold(result_of(values, cohort, tests), cohort, splits_of(cohort, tests))


def said_yes(p: NDArray[np.float64], outcome: NDArray[np.int64]) -> tuple[OutOfFold, Cohort]:
    cohort = cohort_of(outcome, ("no", "yes"))
    return pairs_of(np.stack([1 - p, p], axis=1), cohort), cohort


def test_bins_and_brier_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.7, 1.9, size=111)
    pairs, cohort = said_yes(p, (rng.random(111) < p**2).astype(np.int64))
    found = calibrate(pairs, cohort, n_bins=7)
    share, mean = calibration_curve(cohort.target, p, n_bins=7, strategy="quantile")
    assert_allclose([b.observed.mean for b in found.bins], share)
    assert_allclose([b.predicted for b in found.bins], mean)
    assert_allclose(found.measures["brier"].mean, brier_score_loss(cohort.target, p))
    base = np.full(111, cohort.target.mean())
    assert_allclose(found.measures["brier_base_rate"].mean, brier_score_loss(cohort.target, base))
    count = np.array([b.n for b in found.bins])
    assert count.sum() == 111 and np.ptp(count) <= 1 and {b.class_name for b in found.bins} == {"yes"}
    assert_allclose(found.measures["ece"].mean, np.average(abs(share - mean), weights=count))


def test_three_classes_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.5, 1.0, 2.0], size=101)
    target = np.array([rng.choice(3, p=row) for row in p])
    cohort = cohort_of(target, ("a", "b", "c"))
    found = calibrate(pairs_of(p, cohort), cohort, n_bins=4)
    assert_allclose(found.measures["brier"].mean, brier_score_loss(target, p, labels=[0, 1, 2]))
    for number, name in enumerate("abc"):
        share, mean = calibration_curve(target == number, p[:, number], n_bins=4, strategy="quantile")
        assert_allclose([b.observed.mean for b in found.bins if b.class_name == name], share)
        assert_allclose([b.predicted for b in found.bins if b.class_name == name], mean)


def test_wilson_equals_scipy() -> None:
    for hits, n in ((0, 9), (3, 17), (41, 41)):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert_allclose(wilson_interval(hits / n, n), expected, atol=1e-12)


def test_regression_equals_least_squares_and_its_interval() -> None:
    rng = np.random.default_rng(2)
    said = rng.normal(50, 6, size=211)
    true = 10 + 0.8 * said + rng.normal(0, 4, size=211)
    cohort = cohort_of(true)
    found = calibrate(pairs_of(said, cohort), cohort).measures
    line = stats.linregress(said, true)
    assert_allclose([found["slope"].mean, found["intercept"].mean], [line.slope, line.intercept])
    assert_allclose(found["mean_error"].mean, (said - true).mean())
    width = found["slope"].high - found["slope"].low
    assert_allclose(width, 2 * 1.96 * line.stderr, rtol=0.15)  # the textbook's, where its assumptions hold
    width = found["mean_error"].high - found["mean_error"].low
    assert_allclose(width, 2 * 1.96 * stats.sem(said - true), rtol=0.1)


def test_law_units_of_the_target() -> None:
    """In months in place of years the slope is the same, intercept and error twelve times as large."""
    rng = np.random.default_rng(3)
    true = rng.normal(9, 4, size=53)
    said = true + rng.normal(0, 2, size=53)
    years, months = (
        calibrate(pairs_of(f * said, c), c).measures for f in (1, 12) for c in [cohort_of(f * true)]
    )
    assert_allclose(months["slope"], years["slope"], rtol=1e-9)
    assert_allclose(months["intercept"], 12 * np.array(years["intercept"]), rtol=1e-6)
    assert_allclose(months["mean_error"], 12 * np.array(years["mean_error"]), rtol=1e-9)


def test_draws_from_the_predictions_are_calibrated_and_bold_ones_are_not() -> None:
    rng = np.random.default_rng(14)
    p = rng.uniform(0.02, 0.98, size=900)
    outcome = (rng.random(900) < p).astype(np.int64)
    good = calibrate(*said_yes(p, outcome)).measures
    assert good["ece"].mean < good["ece_if_calibrated"].high
    odds = (p / (1 - p)) ** 4
    bold = calibrate(*said_yes(odds / (1 + odds), outcome)).measures
    assert bold["ece"].mean > 2 * bold["ece_if_calibrated"].high
    assert bold["brier"].low > good["brier"].high - 0.02 and bold["brier"].mean > good["brier"].mean


def test_interval_of_ece_if_calibrated_holds_what_it_says() -> None:
    """Of many outcomes drawn from the predictions, about 95 % have an ECE within the interval."""
    rng = np.random.default_rng(5)
    p = rng.uniform(0.1, 0.9, size=60)
    inside = []
    band = calibrate(*said_yes(p, np.arange(60) % 2), n_bins=3).measures["ece_if_calibrated"]
    number = equal_count_bins(p, 3)
    for _ in range(400):
        gap = (rng.random(60) < p) - p
        inside.append(band.covers(sum(abs(gap[number == b].sum()) for b in range(3)) / 60))
    assert 0.90 <= np.mean(inside) <= 0.99


def test_ece_lies_in_its_interval_though_resampling_raises_it() -> None:
    rng = np.random.default_rng(8)
    p = rng.dirichlet(np.ones(6), size=104)  # many classes, few in each: mostly noise
    target = np.array([rng.choice(6, p=row) for row in p])
    cohort = cohort_of(target, tuple("abcdef"))
    ece = calibrate(pairs_of(p, cohort), cohort).measures["ece"]
    assert 0 <= ece.low < ece.mean < ece.high < 0.2


def test_law_relatives_widen_the_intervals() -> None:
    """Each participant four times over, as a family, is no more evidence than once."""
    rng = np.random.default_rng(6)
    p = rng.uniform(0.1, 0.9, size=40)
    outcome = (rng.random(40) < p).astype(np.int64)
    once = calibrate(*said_yes(p, outcome), n_bins=2)
    families = cohort_of(np.repeat(outcome, 4), ("no", "yes"), [str(i // 4) for i in range(160)])
    said = np.repeat(np.stack([1 - p, p], axis=1), 4, axis=0)
    four = calibrate(pairs_of(said, families), families, n_bins=2)
    for name in ("brier", "ece"):
        assert_allclose(four.measures[name], once.measures[name], rtol=0.15)
    assert_allclose([b.observed for b in four.bins], [b.observed for b in once.bins])


def test_repeated_splits_are_joined() -> None:
    cohort = cohort_of(np.array([5.0, 7.0, 9.0, 4.0]))
    tests = [[0, 2], [1, 2], [2]]
    result = result_of(np.empty(4), cohort, tests)
    result.prediction[:] = [np.array([6.0, 8.0]), np.array([7.0, 9.0]), np.array([13.0])]
    pairs = out_of_fold(result, cohort, splits_of(cohort, tests))
    assert pairs.split.tolist() == [0, 0, 1, 1, 2] and pairs.target.tolist() == [5, 9, 7, 9, 9]
    rows, mean = mean_over_splits(pairs)
    assert rows.tolist() == [0, 1, 2] and mean.tolist() == [6, 7, 10]  # participant 3 was never tested
    assert pairs.n_groups == 3


def test_equal_predictions_have_no_slope_and_one_bin() -> None:
    cohort = cohort_of(np.arange(9.0))
    found = calibrate(pairs_of(np.full(9, 4.0) + 1e-14, cohort), cohort).measures
    assert math.isnan(found["slope"].mean) and math.isnan(found["slope"].low)
    assert_allclose(found["mean_error"].mean, 0, atol=1e-9)
    found_p = calibrate(*said_yes(np.full(30, 0.4), np.arange(30) % 2))
    assert [b.n for b in found_p.bins] == [30]
    assert_allclose(found_p.measures["ece"].mean, 0.1)


def test_rows_of_the_table_and_same_numbers_twice() -> None:
    rng = np.random.default_rng(7)
    p = rng.uniform(size=45)
    pairs, cohort = said_yes(p, (rng.random(45) < p).astype(np.int64))
    header, *rows = calibration_rows({"a": calibrate(pairs, cohort, seed=3)})
    assert header == COLUMNS and len({len(r) for r in rows}) == 1 and len(rows[0]) == len(COLUMNS)
    assert [r[1] for r in rows] == ["brier", "brier_base_rate", "ece", "ece_if_calibrated"] + ["observed"] * 2
    assert [r[3] for r in rows[-2:]] == [1, 2]
    again = calibration_rows({"a": calibrate(pairs, cohort, seed=3)})[1:]
    assert [r[-3:] for r in rows] == [r[-3:] for r in again]
    other = calibration_rows({"a": calibrate(pairs, cohort, seed=4)})[1:]
    assert other[0][6] == rows[0][6] and other[0][7] != rows[0][7]
    assert other[3][1] == "ece_if_calibrated" and other[3][6] != rows[3][6]


@pytest.mark.parametrize("n, n_bins", [(30, 2), (104, 5), (900, 10)])
def test_bins_grow_with_the_cohort(n: int, n_bins: int) -> None:
    p = np.linspace(0.01, 0.99, n)
    assert len(calibrate(*said_yes(p, np.arange(n) % 2)).bins) == n_bins
