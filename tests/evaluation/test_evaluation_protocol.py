"""Readout, metrics, intervals and methods: against scikit-learn written out by hand, laws, planted leaks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bjepa.model.baselines import two_steps
from bjepa.model.baselines.connectivity import fc_edges
from bjepa.model.baselines.linear import PENALTIES, fit_linear, linear_readout
from bjepa.model.baselines.static_mean import static_means
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.comparison import compare
from bjepa.model.evaluation.findings import find
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.intervals import corrected_resampled_t
from bjepa.model.evaluation.metrics import METRICS, score
from bjepa.model.evaluation.protocol import MethodResult, difference, evaluate_method
from bjepa.model.evaluation.scan_data import average_by_participant, load_scan_data
from bjepa.model.evaluation.splits import Splits, make_splits
from bjepa.preproc.errors import InputError

N, D, N_TEST = 47, 83, 9  # wide: more features than participants


def cohort_with(target: NDArray[Any], classes: tuple[str, ...] = ()) -> Cohort:
    ids = [f"{i:03d}" for i in range(len(target))]
    task: Task = "classification" if classes else "regression"
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=target,
        group=ids,
        task=task,
        classes=list(classes),
        target_name="age",
    )


def evaluate_features(name: str, x: NDArray[np.float32], cohort: Cohort, splits: Splits) -> MethodResult:
    method = Method(summary="", inputs=lambda data, participants: x, fit_predict=fit_linear)
    return evaluate_method(name, method, x, cohort, splits)


def wide(task: Task, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Features (N + N_TEST, D) of very different sizes, of which the first two carry the target."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N + N_TEST, D)) * np.logspace(-1, 1, D) + rng.normal(size=D)
    signal = 8 * x[:, 0] - 7 * x[:, 1] + 0.3 * rng.normal(size=N + N_TEST)
    y = 40 + 5 * signal if task == "regression" else np.digitize(signal, np.quantile(signal, [0.4, 0.7]))
    return x.astype(np.float32), y


def pipeline(task: Task, penalty: float) -> Any:
    alpha = penalty * D
    last = (
        Ridge(alpha=alpha)
        if task == "regression"
        else LogisticRegression(C=1 / alpha, solver="newton-cholesky", tol=1e-8)
    )
    return make_pipeline(StandardScaler(), last)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_readout_equals_scikit_learn_by_hand(task: Task) -> None:
    x, y = wide(task)
    fold = np.arange(N) % 4
    found = linear_readout(x[:N], y[:N], fold, x[N:], task=task)

    loss = np.empty((4, len(PENALTIES)))
    for f in range(4):
        for j, penalty in enumerate(PENALTIES):
            fitted = pipeline(task, penalty).fit(x[:N][fold != f].astype(float), y[:N][fold != f])
            held_out = x[:N][fold == f].astype(float)
            if task == "regression":
                loss[f, j] = np.mean((fitted.predict(held_out) - y[:N][fold == f]) ** 2)
            else:
                loss[f, j] = sk.log_loss(y[:N][fold == f], fitted.predict_proba(held_out), labels=[0, 1, 2])
    best = loss.mean(axis=0).argmin()
    good = loss.mean(axis=0) <= loss.mean(axis=0)[best] + 0.5 * loss[:, best].std(ddof=1) / 2
    assert found.penalty == PENALTIES[good].max()
    fitted = pipeline(task, found.penalty).fit(x[:N].astype(float), y[:N])
    expected = fitted.predict(x[N:]) if task == "regression" else fitted.predict_proba(x[N:])
    assert_allclose(found.prediction, expected, rtol=1e-4, atol=1e-4)


def test_law_features_may_be_rescaled_and_reordered() -> None:
    x, y = wide("regression")
    fold, order = np.arange(N) % 3, np.random.default_rng(4).permutation(D)
    found = linear_readout(x[:N], y[:N], fold, x[N:], task="regression")
    changed = (x * 3 + 5)[:, order]
    again = linear_readout(changed[:N], y[:N], fold, changed[N:], task="regression")
    assert_allclose(again.prediction, found.prediction, rtol=1e-4)


def test_unknown_values_become_the_training_mean() -> None:
    x, y = wide("regression")
    holes = x.copy()
    holes[N:, 7] = np.nan
    filled = x.copy()
    filled[N:, 7] = x[:N, 7].mean()
    fold = np.arange(N) % 3
    found = linear_readout(holes[:N], y[:N], fold, holes[N:], task="regression").prediction
    assert_allclose(
        found, linear_readout(filled[:N], y[:N], fold, filled[N:], task="regression").prediction, rtol=1e-5
    )
    holes[:, 8] = np.nan  # unknown in everyone: no information, no failure
    assert np.isfinite(linear_readout(holes[:N], y[:N], fold, holes[N:], task="regression").prediction).all()


def test_law_test_participants_teach_nothing() -> None:
    """Whatever the other test rows are, and however extreme, a prediction stays the same: nothing leaks."""
    x, y = wide("regression")
    cohort = cohort_with(y)
    splits = make_splits(cohort, seed=0)
    (first, *_) = splits
    spoilt_x, spoilt_y = x.copy(), y.copy()
    spoilt_x[first.test[1:]] *= 1e4  # a scaler fitted on all would shrink everyone
    spoilt_y[first.test] -= 1e6
    found = evaluate_features("a", x, cohort, splits).prediction
    spoilt = evaluate_features("a", spoilt_x, cohort_with(spoilt_y), splits).prediction
    assert found[0][0] == spoilt[0][0]
    assert not np.isclose(found[1][0], spoilt[1][0])  # there they do train


def test_planted_effect_is_found_and_a_shuffled_one_is_not() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(90, 20)).astype(np.float32)
    y = x[:, 0] + 0.5 * rng.normal(size=90)
    cohort = cohort_with(y)
    found = evaluate_features("a", x, cohort, make_splits(cohort))
    assert found.estimates["r2"].low > 0.3 and found.estimates["r"].mean > 0.8
    shuffled = cohort_with(rng.permutation(y))
    null = evaluate_features("a", x, shuffled, make_splits(shuffled))
    assert null.estimates["r2"].low <= 0 and null.estimates["r2"].mean < 0.1


def test_classification_finds_three_classes() -> None:
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, size=80)
    x = (rng.normal(size=(80, 11)) + 2 * np.eye(11)[y]).astype(np.float32)
    cohort = cohort_with(y, ("a", "b", "c"))
    found = evaluate_features("a", x, cohort, make_splits(cohort))
    assert np.concatenate(found.prediction).shape == (80, 3) and found.estimates["auc"].low > 0.7
    assert_allclose(np.concatenate(found.prediction).sum(axis=1), 1)


def test_metrics_are_named_right() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=31)
    prediction = 2 * y + 3 + rng.normal(size=31)  # correlates well, and is far off
    found = score("regression", y, prediction)
    assert set(found) == set(METRICS["regression"])
    assert_allclose(found["r"], np.corrcoef(y, prediction)[0, 1])
    assert_allclose(found["r2"], 1 - np.sum((y - prediction) ** 2) / np.sum((y - y.mean()) ** 2))
    assert found["r2"] < -1 and found["r"] > 0.8
    assert_allclose(found["spearman"], np.corrcoef(stats.rankdata(y), stats.rankdata(prediction))[0, 1])
    assert_allclose(
        [found["mae"], found["mse"]], [abs(y - prediction).mean(), ((y - prediction) ** 2).mean()]
    )
    assert math.isnan(score("regression", y, np.full(31, 4.0))["r"])

    label = np.array([0, 0, 0, 0, 1, 1, 0])
    p = np.array([0.1, 0.6, 0.2, 0.3, 0.9, 0.4, 0.35])
    binary = score("classification", label, np.stack([1 - p, p], axis=1))
    pairs = [(a, b) for a in p[label == 1] for b in p[label == 0]]
    assert_allclose(binary["auc"], np.mean([a > b for a, b in pairs]))
    assert_allclose(binary["accuracy"], 5 / 7)
    assert_allclose(binary["balanced_accuracy"], (4 / 5 + 1 / 2) / 2)
    assert_allclose(binary["f1"], 2 * 0.5 * 0.5 / (0.5 + 0.5))  # of class 1


def test_interval_by_the_formula() -> None:
    values = [0.2, 0.5, 0.45, 0.3]
    found = corrected_resampled_t(values, n_test=10, n_fitted=30)
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * math.sqrt(1 / 4 + 1 / 3)
    assert_allclose(found, [np.mean(values), np.mean(values) - half, np.mean(values) + half])
    assert corrected_resampled_t(values, n_test=10, n_fitted=30, bounds=(0.1, 0.5))[1:] == (0.1, 0.5)
    assert math.isnan(corrected_resampled_t([math.nan, 1.0], n_test=1, n_fitted=1).low)
    assert found.covers(0.36) and not found.covers(2)


def test_scans_of_a_participant_are_averaged() -> None:
    features = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan]])
    found = average_by_participant(features, ["b", "a", "b"], ["a", "b"])
    np.testing.assert_array_equal(found, np.array([[3, np.nan], [3, 2]], np.float32))


def test_features_of_the_baselines(write_cohort: Any) -> None:
    rng = np.random.default_rng(8)
    phases = [rng.normal(size=(n, 6)).astype(np.float32) for n in (20, 19)]
    valid = np.ones((2, 6), bool)
    valid[1, 4] = False
    data = load_scan_data(write_cohort([phases, [phases[0]]], valid=valid))
    unscaled = [p * (np.arange(6) + 2.0) + np.arange(6) * 10 + 100 for p in phases]
    means = static_means(data)
    assert_allclose(means[0], np.concatenate(unscaled).mean(axis=0), rtol=1e-5)
    assert math.isnan(means[1, 4]) and np.isfinite(means[1, [0, 1, 2, 3, 5]]).all()

    upper = np.triu_indices(6, 1)
    z = [np.arctanh(np.atleast_2d(np.corrcoef(p.T))[upper]) for p in phases]
    edges = fc_edges(data)
    assert_allclose(edges[0], np.mean(z, axis=0), rtol=1e-4)
    missing = np.isnan(edges)[1, :]
    assert_allclose(missing, (upper[0] == 4) | (upper[1] == 4))


def test_static_mean_refuses_what_has_no_means(write_cohort: Any) -> None:
    scans = [[np.ones((5, 6), np.float32)]]
    data = load_scan_data(write_cohort(scans, scaling="zscore-scan"))
    with pytest.raises(InputError, match=r"static-mean needs the scans' means.*zscore-scan"):
        static_means(data)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_connectomes_are_read(tmp_path: Path) -> None:
    fc = np.random.default_rng(9).normal(size=(3, 5, 5))
    fc += fc.transpose(0, 2, 1)
    data = load_scan_data(save(tmp_path / "a.npz", fc=fc, participant_id=np.array(["sub-1", "2", "3"])))
    assert data.participant_id == ["1", "2", "3"] and data.edges is not None
    assert_allclose(data.edges[1], [fc[1, i, j] for i in range(5) for j in range(i + 1, 5)], rtol=1e-6)
    with pytest.raises(InputError, match=r"static-mean needs series"):
        static_means(data)
    ids, edges = np.array([b"sub-1", b"2"]), np.ones((2, 4))
    assert load_scan_data(save(tmp_path / "b.npz", features=edges, participant_id=ids)).participant_id == [
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    "arrays, says",
    [
        (
            {"fc": np.ones((2, 3, 3)), "participant_id": np.array(["1", None], object)},
            r"array of Python objects",
        ),
        ({"fc": np.ones((2, 3, 3))}, r"holds the arrays \['fc'\]; `participant_id` and one of"),
        ({"fc": np.ones((2, 3, 3)), "participant_id": np.array(["1"])}, r"one id for each"),
        (
            {"fc": np.arange(18.0).reshape(2, 3, 3), "participant_id": np.array(["1", "2"])},
            r"not a symmetric",
        ),
        ({"features": np.full((1, 3), np.inf), "participant_id": np.array(["1"])}, r"3 infinite values"),
    ],
)
def test_connectomes_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_scan_data(save(tmp_path / "a.npz", **arrays))


def test_files_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(InputError, match=r"text.npz is not a readable .npz"):
        load_scan_data(tmp_path / "text.npz")
    with pytest.raises(InputError, match=r"absent does not exist"):
        load_scan_data(tmp_path / "absent")


def test_report_says_what_the_embedding_is_worth() -> None:
    rng = np.random.default_rng(10)
    good = rng.normal(size=(120, 9)).astype(np.float32)
    cohort = cohort_with(good[:, 0] + 0.3 * rng.normal(size=120))
    splits = make_splits(cohort, n_splits=4)
    noise = rng.normal(size=(120, 9)).astype(np.float32)

    def say(**features: NDArray[np.float32]) -> str:
        results = [evaluate_features(n.replace("_", "-"), x, cohort, splits) for n, x in features.items()]
        return "\n".join(f.text for f in find(compare(results, cohort, splits)))

    assert "worse than fc-ridge" in say(probe=noise, fc_ridge=good)
    assert "beats fc-ridge" in say(probe=good, fc_ridge=noise)
    assert "does not beat fc-ridge" in say(probe=noise, fc_ridge=noise[::-1].copy())
    equal = say(probe=good, static_mean=good + 1e-3 * noise)
    assert "only equals static-mean" in equal and "control static-mean predicts age" in equal
    assert "No baseline was run" in say(probe=good)
    probe, other = (evaluate_features("a", x, cohort, splits) for x in (good, noise))
    gap = difference(probe, other, "r2", splits)
    assert_allclose(gap.mean, probe.estimates["r2"].mean - other.estimates["r2"].mean)


def test_penalties_are_those_documented() -> None:
    assert PENALTIES[0] == 1e3 and PENALTIES[-1] == 1e-3 and two_steps.TOLERANCE == 0.5
