"""Permutation p-values: the quick way equals refitting, nothing gives uniform p, folds stay as they are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.model.baselines.kernels import fit_krr, fit_svm
from bjepa.model.baselines.linear import fit_linear, fit_ridge
from bjepa.model.baselines.prepared import Candidate
from bjepa.model.baselines.two_steps import TwoSteps
from bjepa.model.evaluation import permutation
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.metrics import score
from bjepa.model.evaluation.permutation import metrics_of_many, permutation_test, rearrangements
from bjepa.model.evaluation.protocol import evaluate_method
from bjepa.model.evaluation.splits import make_splits

N, D = 43, 17
FITS = {"linear": fit_linear, "ridge": fit_ridge, "svm": fit_svm, "krr": fit_krr}


def cohort_of(target: NDArray[Any], *, n_classes: int = 0, group: list[str] | None = None) -> Cohort:
    ids = [f"{i:03d}" for i in range(len(target))]
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=target,
        group=ids if group is None else group,
        task="classification" if n_classes else "regression",
        classes=[f"c{c}" for c in range(n_classes)],
        target_name="age",
    )


def method_of(fit: Any) -> Method:
    return Method(summary="", inputs=lambda data, participants: None, fit_predict=fit)


def data(n_classes: int = 0, *, effect: float = 0.6, seed: int = 0) -> tuple[NDArray[np.float32], Cohort]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    signal = effect * x[:, :3].sum(axis=1) + rng.normal(size=N)
    y: NDArray[Any] = 50 + 10 * signal
    if n_classes:
        y = np.digitize(signal, np.quantile(signal, np.arange(1, n_classes) / n_classes))
    return x.astype(np.float32), cohort_of(y, n_classes=n_classes)


def scores_of(run: Any, fit: Any, x: Any, cohort: Cohort, confounds: Any = None) -> NDArray[np.float64]:
    splits = make_splits(cohort, n_splits=4)
    order = rearrangements(cohort, splits, 7, seed=3)
    options = {"seed": 3, "device": "cpu", "max_epochs": None}
    scores: NDArray[np.float64] = run(method_of(fit), x, cohort, splits, order, confounds, options)
    return scores


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("with_confounds", [False, True])
def test_all_at_once_equals_one_by_one(name: str, n_classes: int, with_confounds: bool) -> None:
    x, cohort = data(n_classes)
    confounds = np.random.default_rng(1).normal(size=(N, 2)) + x[:, :2] if with_confounds else None
    quick = scores_of(permutation._all_at_once, FITS[name], x, cohort, confounds)
    plain = scores_of(permutation._one_by_one, FITS[name], x, cohort, confounds)
    assert quick.shape == (8, 1 if n_classes else 2)
    assert len(np.unique(quick[:, 0].round(9))) > 5  # rearrangements do something
    # libsvm stops at a tolerance that depends on the order of the rows
    assert_allclose(quick, plain, atol=2e-2 if name == "svm" else 1e-6)
    assert_array_equal(permutation._p_values(quick), permutation._p_values(plain))


def test_observed_score_is_that_of_the_report() -> None:
    for n_classes in (0, 2):
        x, cohort = data(n_classes)
        splits = make_splits(cohort, n_splits=4)
        found = evaluate_method("a", method_of(fit_linear), x, cohort, splits, seed=3)
        scores = scores_of(permutation._all_at_once, fit_linear, x, cohort)
        metrics = permutation.PERMUTED[cohort.task]
        assert_allclose(scores[0], [found.estimates[metric].mean for metric in metrics])


def test_metrics_of_many_are_the_metrics() -> None:
    rng = np.random.default_rng(4)
    y, f = rng.normal(size=(2, 5, 19))
    f[3] = 2.5  # r is not defined: 0
    for target, prediction, found in zip(y, f, metrics_of_many("regression", y, f), strict=True):
        expected = score("regression", target, prediction)
        assert_allclose(found, [expected["r2"], np.nan_to_num(expected["r"])])
    for n_classes in (2, 4):
        label = np.stack([rng.permutation(np.arange(19) % n_classes) for _ in range(5)])
        p = rng.dirichlet(np.ones(n_classes), size=(5, 19)).round(1)  # ties
        p[..., 0] += 1 - p.sum(axis=-1)
        for target, prediction, found in zip(
            label, p, metrics_of_many("classification", label, p), strict=True
        ):
            assert_allclose(found, [score("classification", target, prediction)["auc"]])


@pytest.mark.parametrize("n_classes", [0, 2])
def test_a_strong_effect_has_the_least_p(n_classes: int) -> None:
    x, cohort = data(n_classes)
    x += 3 * (cohort.target[:, None] - cohort.target.mean()) / cohort.target.std()
    found = permutation_test(
        method_of(fit_ridge), x, cohort, make_splits(cohort, n_splits=4), n_permutations=39
    )
    assert found == dict.fromkeys(("auc",) if n_classes else ("r2", "r"), 1 / 40)


def test_nothing_gives_uniform_p() -> None:
    """80 data sets without an effect. Targets shuffled over stratified folds give a mean p of r2 of 0.06."""
    p = []
    for seed in range(80):
        x, cohort = data(effect=0, seed=100 + seed)
        splits = make_splits(cohort, n_splits=4, seed=seed)
        p.append(
            list(
                permutation_test(
                    method_of(fit_ridge), x, cohort, splits, n_permutations=19, seed=seed
                ).values()
            )
        )
    values = np.array(p)
    assert (np.abs(values.mean(axis=0) - 0.525) < 0.1).all()  # 3 standard errors; 0.525: mean of 1/20 … 20/20
    for level in (0.25, 0.5, 0.75):
        assert (np.abs((values <= level).mean(axis=0) - level) < 0.17).all()
    assert 0.05 <= values.min() and values.max() <= 1


def test_inputs_stay_in_their_test_part() -> None:
    _, cohort = data()
    splits = make_splits(cohort, n_splits=4)
    order = rearrangements(cohort, splits, 30, seed=0)
    assert_array_equal(order[0], np.arange(N))
    for split in splits:
        assert_array_equal(np.sort(order[:, split.test], axis=1), np.tile(split.test, (31, 1)))
    assert (order[1:] != order[0]).any(axis=1).all() and len({tuple(row) for row in order}) == 31
    assert_array_equal(order, rearrangements(cohort, splits, 30, seed=0))
    assert (order[1:] != rearrangements(cohort, splits, 30, seed=1)[1:]).any()


def test_families_change_places_as_a_whole() -> None:
    sizes = [3, 1, 3, 2, 2, 1, 1, 3, 2, 3, 1, 2, 3, 2, 1, 3, 2, 1, 3, 2, 1, 1]
    group = [f"f{g:02d}" for g, size in enumerate(sizes) for _ in range(size)]
    rng = np.random.default_rng(0)
    shuffled = [group[i] for i in rng.permutation(len(group))]  # members are not neighbours
    cohort = cohort_of(rng.normal(size=len(group)), group=shuffled)
    splits = make_splits(cohort, n_splits=4)
    order = rearrangements(cohort, splits, 25, seed=0)
    family = np.array(shuffled)
    moved = 0
    for row in order[1:]:
        assert_array_equal(np.sort(row), np.arange(len(group)))
        for name in set(shuffled):
            source = family[row[family == name]]  # who comes to a family's places: one family of that size
            assert len(set(source)) == 1
            moved += source[0] != name
    assert moved > 100


def test_other_splits_and_other_methods_are_simply_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cohort = data(effect=4)
    holdout = make_splits(cohort, scheme="holdout", n_splits=3)
    repeats = make_splits(cohort, n_splits=3, n_repeats=2)
    sites = make_splits(cohort, scheme="leave-out", leave_out=[f"s{i % 3}" for i in range(N)])
    calls = []

    def counted(fold: Fold) -> Prediction:
        calls.append(fold)
        return fit_ridge(fold)

    for splits in (holdout, repeats):
        found = permutation_test(method_of(fit_ridge), x, cohort, splits, n_permutations=9)
        assert found == {"r2": 0.1, "r": 0.1}
        order = rearrangements(cohort, splits, 9, seed=0)
        first = next(iter(splits)).test
        assert (~np.isin(order[1:, first], first)).any()  # over all participants
    found = permutation_test(method_of(counted), x, cohort, sites, n_permutations=9)
    assert found == permutation_test(method_of(fit_ridge), x, cohort, sites, n_permutations=9)
    assert len(calls) == 10 * 3
    assert len({fold.seed for fold in calls}) == 3  # of a split, the same each time

    prepared = []

    def prepare(fold: Fold) -> list[Candidate]:
        prepared.append(fold)
        return fit_ridge.prepare(fold)

    steps = TwoSteps(prepare=prepare, solver=fit_ridge.solver)
    permutation_test(method_of(steps), x, cohort, sites, n_permutations=9)
    assert len(prepared) == 3  # once a split
    monkeypatch.setattr(permutation, "NUMBERS_AT_ONCE", 1)  # one target at a time
    assert permutation_test(method_of(fit_ridge), x, cohort, sites, n_permutations=9) == found


def test_confounds_explain_an_effect_away() -> None:
    """A target that follows the inputs through a confound alone: p is small without, and not with it."""
    rng = np.random.default_rng(2)
    confound = rng.normal(size=N)
    x = (confound[:, None] + 0.3 * rng.normal(size=(N, D))).astype(np.float32)
    for n_classes in (0, 2):
        y: NDArray[Any] = confound + 0.3 * rng.normal(size=N)
        if n_classes:
            y = (y > np.median(y)).astype(np.int64)
        cohort = cohort_of(y, n_classes=n_classes)
        splits = make_splits(cohort, n_splits=4)
        without = permutation_test(method_of(fit_ridge), x, cohort, splits, n_permutations=39)
        adjusted = permutation_test(
            method_of(fit_ridge), x, cohort, splits, n_permutations=39, confounds=confound[:, None]
        )
        assert max(without.values()) == 1 / 40 and min(adjusted.values()) > 0.1


def test_number_of_permutations_is_checked() -> None:
    x, cohort = data()
    with pytest.raises(ValueError, match="n_permutations must be 1 or more, got 0"):
        permutation_test(method_of(fit_ridge), x, cohort, make_splits(cohort), n_permutations=0)


def test_inputs_are_not_changed() -> None:
    x, cohort = data()
    x.flags.writeable = False
    cohort.target.flags.writeable = False
    same = replace(cohort)
    permutation_test(method_of(fit_svm), x, same, make_splits(same), n_permutations=3)
