"""model/evaluation/learning_curve.py and paired.py: the end of a curve is the result; parts are nested."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import stats

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.intervals import corrected_resampled_t
from bjepa.model.evaluation.learning_curve import COLUMNS, curve_rows, learning_curve, nested_part
from bjepa.model.evaluation.paired import holm, p_of_interval, paired_differences
from bjepa.model.evaluation.protocol import evaluate_method, fold_of
from bjepa.model.evaluation.splits import make_splits
from bjepa.preproc.errors import InputError

LINEAR = Method(summary="", inputs=lambda data, participants: None, fit_predict=fit_linear)


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


def wide(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 37))
    return x.astype(np.float32), x[:, :6].sum(axis=1) + rng.normal(size=n)


@pytest.mark.parametrize("classes", [(), ("a", "b", "c")])
def test_the_end_is_the_result_and_more_participants_help(classes: tuple[str, ...]) -> None:
    x, y = wide(149)
    cohort = cohort_of(np.digitize(y, np.quantile(y, [0.5, 0.8])) if classes else y, classes)
    splits = make_splits(cohort, n_splits=4, seed=1)
    points = learning_curve(LINEAR, x, cohort, splits, fractions=(0.3, 0.65, 1), seed=7)
    result = evaluate_method("a", LINEAR, x, cohort, splits, seed=7)
    assert points[-1].estimates == result.estimates
    assert points[-1].n_train == pytest.approx(149 * 3 / 4)
    assert [p.fraction for p in points] == [0.3, 0.65, 1]
    assert points[0].n_train == pytest.approx(0.3 * 149 * 0.75, abs=1)
    metric = "auc" if classes else "r2"
    first, _, last = (p.estimates[metric].mean for p in points)
    assert last > first + 0.03


def test_interval_knows_how_many_it_was_fitted_on() -> None:
    x, y = wide(90)
    cohort = cohort_of(y)
    splits = make_splits(cohort, n_splits=3)
    said: list[int] = []

    def fit(fold: Fold) -> Prediction:
        said.append(len(fold.inputs))
        return Prediction(fold.test_inputs[:, 0].astype(float))

    method = Method(summary="", inputs=lambda data, participants: None, fit_predict=fit)
    (point,) = learning_curve(method, x, cohort, splits, fractions=(0.5,))
    r2 = evaluate_method("a", method, x, cohort, splits)
    expected = corrected_resampled_t([s["r2"] for s in r2.scores], n_test=30, n_fitted=30, bounds=(-9, 1))
    assert said[:3] == [30, 30, 30] and point.n_train == 30
    assert_allclose(point.estimates["r2"], expected)


def test_parts_are_nested_grouped_and_like_the_whole() -> None:
    rng = np.random.default_rng(2)
    family = rng.integers(0, 60, size=131)  # 1 to 7 members
    target = (rng.random(60) < 0.35).astype(np.int64)[family]
    cohort = cohort_of(target, ("no", "yes"), [f"f{f}" for f in family])
    splits = make_splits(cohort, n_splits=4)
    for split in splits:
        fold, _ = fold_of(np.arange(131)[:, None], cohort, split)
        groups = [cohort.group[int(r)] for r in split.development]
        parts = [set(nested_part(fold, groups, f, seed=0, split=split.number)) for f in (0.25, 0.5, 0.75, 1)]
        assert all(small < large for small, large in itertools.pairwise(parts))
        assert parts[-1] == set(range(len(groups)))
        for part in parts:
            inside, outside = ({groups[i] for i in rows} for rows in (part, parts[-1] - part))
            assert not inside & outside
        half = sorted(parts[1])
        assert len({groups[i] for i in half}) == math.ceil(len(set(groups)) / 2)
        assert len(np.unique(fold.inner_fold[half])) == 3 and fold.is_val[half].any()
    other = nested_part(fold, groups, 0.5, seed=1, split=split.number)
    assert set(other) != parts[1]


def test_small_parts_keep_classes_and_inner_folds_in_their_shares() -> None:
    target = np.repeat([0, 1], [70, 30])
    cohort = cohort_of(target, ("no", "yes"))
    split = next(iter(make_splits(cohort, n_splits=5)))
    fold, _ = fold_of(np.zeros((100, 2)), cohort, split)
    groups = [cohort.group[int(r)] for r in split.development]
    parts = [nested_part(fold, groups, 0.5, seed=seed, split=0) for seed in range(30)]
    assert {len(part) for part in parts} == {40}
    of_class = [fold.target[part].sum() for part in parts]
    assert np.mean((np.array(of_class) - 12) ** 2) < 2  # 4.2 if drawn freely
    in_folds = [list(Counter(fold.inner_fold[part].tolist()).values()) for part in parts]
    assert np.mean((np.array(in_folds) - 10) ** 2) < 1.5  # 3.8


def test_parts_too_small_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    x, _ = wide(40)
    cohort = cohort_of(np.arange(40) % 2, ("a", "b"))
    splits = make_splits(cohort, n_splits=3)
    caplog.set_level("INFO")
    points = learning_curve(LINEAR, x, cohort, splits, fractions=(0.08, 1))
    assert [p.fraction for p in points] == [1] and "8 % of the participants are too few" in caplog.text
    with pytest.raises(InputError, match="A learning curve needs more: 8% of"):
        learning_curve(LINEAR, x, cohort, splits, fractions=(0.08,))


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (0, 1), (0.5, 20), (0.5, 0.5)])
def test_refuses_what_is_no_share(fractions: tuple[float, ...]) -> None:
    x, y = wide(30)
    cohort = cohort_of(y)
    with pytest.raises(InputError, match=r"must ascend within \(0, 1\]"):
        learning_curve(LINEAR, x, cohort, make_splits(cohort, n_splits=3), fractions=fractions)


def test_law_test_targets_are_not_reached() -> None:
    """Whatever a method is given to fit on is of the development part."""
    x, y = wide(60)
    cohort = cohort_of(y)
    splits = make_splits(cohort, n_splits=3)
    seen: list[NDArray[Any]] = []

    def fit(fold: Fold) -> Prediction:
        seen.append(fold.target)
        return fit_linear(fold)

    method = Method(summary="", inputs=lambda data, participants: None, fit_predict=fit)
    learning_curve(method, x, cohort, splits, fractions=(0.6, 1))
    for number, split in enumerate([*splits, *splits]):
        assert set(seen[number]) <= set(y[split.development])


def test_rows_of_the_table() -> None:
    x, y = wide(60)
    cohort = cohort_of(y)
    points = learning_curve(LINEAR, x, cohort, make_splits(cohort, n_splits=3), fractions=(0.5, 1))
    header, *rows = curve_rows({"fc-ridge": points})
    assert header == COLUMNS and len(rows) == 2 * 5
    assert rows[0][:3] == ("fc-ridge", 20, "r") and rows[7][:3] == ("fc-ridge", 40, "r2")
    assert rows[7][3:] == tuple(points[1].estimates["r2"])


def test_holm_is_closed_testing_with_bonferroni() -> None:
    """Holm's p is the largest Bonferroni p of all families that a test is in (Marcus et al. 1976)."""
    p = [0.02, 0.004, 0.5, 0.018, 0.021]  # 3 * 0.02 is less than 4 * 0.018: the larger one counts
    expected = [
        max(
            min(1.0, len(family) * min(p[j] for j in family))
            for size in range(1, 6)
            for family in itertools.combinations(range(5), size)
            if i in family
        )
        for i in range(5)
    ]
    assert_allclose(holm(p), expected)
    with_gap = holm([0.02, math.nan, 0.04])
    assert math.isnan(with_gap[1]) and with_gap[0] == 0.04 and with_gap[2] == 0.04
    assert holm([]) == []


def test_p_belongs_to_its_interval() -> None:
    values = [0.05, 0.11, -0.02, 0.08]
    estimate = corrected_resampled_t(values, n_test=10, n_fitted=30)
    t = np.mean(values) / (np.std(values, ddof=1) * math.sqrt(1 / 4 + 1 / 3))
    assert_allclose(p_of_interval(estimate, 4), 2 * stats.t.sf(t, 3))
    at_edge = corrected_resampled_t([v - estimate.low for v in values], n_test=10, n_fitted=30)
    assert_allclose(p_of_interval(at_edge, 4), 0.05)
    assert p_of_interval(corrected_resampled_t([0.0, 0.0], n_test=1, n_fitted=2), 2) == 1
    assert math.isnan(p_of_interval(corrected_resampled_t([math.nan, 0.0], n_test=1, n_fitted=2), 2))


def test_pairs_form_one_family() -> None:
    x, y = wide(80)
    cohort = cohort_of(y)
    splits = make_splits(cohort, n_splits=4)
    rng = np.random.default_rng(3)
    noise, little = (rng.normal(size=x.shape).astype(np.float32) for _ in range(2))
    results = [
        evaluate_method(name, LINEAR, inputs, cohort, splits)
        for name, inputs in (("good", x), ("noise", noise), ("also", x + 0.05 * little))
    ]
    found = paired_differences(results, [("good", "noise"), ("good", "also")], "r2", splits)
    (better, equal) = found
    assert better.is_shown and better.estimate.low > 0 and better.p_holm == pytest.approx(2 * better.p)
    assert not equal.is_shown and equal.p_holm >= equal.p
    (mirrored,) = paired_differences(results, [("noise", "good")], "r2", splits)
    assert_allclose(mirrored.estimate, [-better.estimate.mean, -better.estimate.high, -better.estimate.low])
    assert_allclose(mirrored.p, better.p)
