"""Confounds inside the folds: against least squares written out, laws, a planted confound that vanishes."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.confounds import design_matrix, regress_out
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.protocol import evaluate_method, fold_of
from bjepa.model.evaluation.splits import make_splits
from bjepa.preproc.errors import InputError


def cohort_with(target: NDArray[Any], classes: tuple[str, ...] = (), **columns: list[str]) -> Cohort:
    ids = [f"{i:03d}" for i in range(len(target))]
    task: Task = "classification" if classes else "regression"
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=target,
        group=ids,
        task=task,
        classes=list(classes),
        target_name="score",
        columns=columns,
    )


def test_regress_out_equals_least_squares_by_hand() -> None:
    rng = np.random.default_rng(0)
    design, test_design = rng.normal(size=(23, 2)) * [1, 300] + [0, 4000], rng.normal(size=(7, 2)) * 5
    values, test_values = rng.normal(size=(23, 4, 3)), rng.normal(size=(7, 4, 3))
    left, test_left = regress_out(design, values, test_design, test_values)
    with_one = np.column_stack([np.ones(23), design])
    weights = np.linalg.lstsq(with_one, values.reshape(23, 12), rcond=None)[0]
    explained = np.column_stack([np.ones(7), test_design]) @ weights
    expected = test_values.reshape(7, 12) - explained + values.reshape(23, 12).mean(axis=0)
    assert_allclose(test_left, expected.reshape(7, 4, 3), atol=1e-9)
    assert_allclose(left.mean(axis=0), values.mean(axis=0))  # the level stays
    assert_allclose(np.corrcoef(design[:, 0], left[:, 2, 1])[0, 1], 0, atol=1e-12)


def test_law_what_is_left_has_nothing_more_to_remove_and_nan_stays() -> None:
    rng = np.random.default_rng(1)
    design, values = rng.normal(size=(31, 3)), rng.normal(size=(31, 5)).astype(np.float32)
    values[4, 2] = np.nan
    once, test_once = regress_out(design, values, design[:9], values[:9])
    twice, _ = regress_out(design, once, design[:9], test_once)
    assert once.dtype == np.float32 and np.isnan(once[4, 2]) and np.isnan(once).sum() == 1
    full = [0, 1, 3, 4]
    assert_allclose(twice[:, full], once[:, full], atol=1e-5)
    assert_allclose(test_once, once[:9], atol=1e-6)


def test_design_of_numbers_and_text() -> None:
    cohort = cohort_with(np.arange(5.0), age=list("34567"), site=["b", "a", "c", "a", "b"], one=["x"] * 5)
    found = design_matrix(cohort, ["age", "site"])
    assert_array_equal(found, [[3, 1, 0], [4, 0, 0], [5, 0, 1], [6, 0, 0], [7, 1, 0]])
    with pytest.raises(InputError, match=r"confound 'one' is 'x' in all 5"):
        design_matrix(cohort, ["one"])
    with pytest.raises(InputError, match=r"--confounds names the target 'score'"):
        design_matrix(cohort, ["score"])


METHOD = Method(summary="", inputs=lambda data, participants: None, fit_predict=fit_linear)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_score_that_is_the_confounds_alone_vanishes(task: Task) -> None:
    """Features hold motion and nothing else; the target depends on motion and on a part nobody measures."""
    rng = np.random.default_rng(2)
    motion = rng.normal(size=150)
    features = (motion[:, None] + 0.3 * rng.normal(size=(150, 9))).astype(np.float32)
    values = motion + 0.7 * rng.normal(size=150)
    target: NDArray[Any] = values if task == "regression" else (values > 0).astype(np.int64)
    cohort = cohort_with(target, ("no", "yes") if task == "classification" else ())
    splits = make_splits(cohort, seed=1)
    plain = evaluate_method("a", METHOD, features, cohort, splits)
    adjusted = evaluate_method("a", METHOD, features, cohort, splits, confounds=motion[:, None])
    metric, chance = ("r2", 0.0) if task == "regression" else ("auc", 0.5)
    assert plain.estimates[metric].low > chance + 0.1
    assert adjusted.estimates[metric].low <= chance + 0.02 and adjusted.estimates[metric].mean < chance + 0.12


def test_what_is_not_the_confounds_stays() -> None:
    rng = np.random.default_rng(3)
    motion, trait = rng.normal(size=(2, 140))
    features = np.column_stack([trait + 0.2 * rng.normal(size=140) for _ in range(6)]).astype(np.float32)
    cohort = cohort_with(trait + 3 * motion)
    splits = make_splits(cohort, seed=1)
    plain = evaluate_method("a", METHOD, features, cohort, splits)
    adjusted = evaluate_method("a", METHOD, features, cohort, splits, confounds=motion[:, None])
    assert plain.estimates["r2"].mean < 0.2 and adjusted.estimates["r2"].low > 0.8


def test_law_the_confounds_of_the_test_part_teach_nothing() -> None:
    rng = np.random.default_rng(4)
    motion, features = rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    cohort = cohort_with(rng.normal(size=40))
    split = next(iter(make_splits(cohort)))
    fold, _ = fold_of(features, cohort, split, confounds=motion)
    other = motion.copy()
    other[split.test] *= 1e3
    again, _ = fold_of(features, cohort, split, confounds=other)
    assert_array_equal(again.target, fold.target)
    other[split.train[0]] *= 1e3
    assert not np.allclose(fold_of(features, cohort, split, confounds=other)[0].target, fold.target)
