"""Linear methods against scikit-learn, nilearn and formulas written out, and the laws of their parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from bjepa.model.baselines.coskewness import coskewness_axes, edges_in_subspace
from bjepa.model.baselines.kernels import (
    correlation_kernel,
    fit_krr,
    fit_svm,
    hinge_loss,
    support_vector_classes,
    support_vector_regression,
)
from bjepa.model.baselines.linear import (
    fit_linear,
    fit_ridge,
    logistic_regression,
    ridge_on_classes,
    ridge_regression,
)
from bjepa.model.baselines.link import apply_link, fit_link
from bjepa.model.baselines.methods import METHODS
from bjepa.model.baselines.moments import (
    Moments,
    completed,
    correlations_and_coskewness,
    coskewness_products,
    mean_matrix,
    shrunk_correlations,
    unpacked,
)
from bjepa.model.baselines.prepared import Part, standardised
from bjepa.model.baselines.tangent import geometric_mean, tangent_vectors
from bjepa.model.baselines.two_steps import TwoSteps
from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.scan_data import load_scan_data

N, N_TEST, D = 41, 7, 93  # wide: more features than participants
Array = NDArray[np.float64]


def fold_with(inputs: Any, test_inputs: Any, target: NDArray[Any], n_classes: int = 0) -> Fold:
    inner = np.arange(len(target)) % 4
    return Fold(
        task="classification" if n_classes else "regression",
        classes=[f"c{c}" for c in range(n_classes)],
        inputs=inputs,
        target=target,
        inner_fold=inner,
        is_val=inner == 0,
        test_inputs=test_inputs,
        seed=0,
    )


def wide(n_classes: int = 0, *, d: int = D) -> Fold:
    """Features of very different sizes, of which the first two carry the target."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N + N_TEST, d)) * np.logspace(-1, 1, d) + rng.normal(size=d)
    signal = x[:, 0] / 0.1 - x[:, 1] / 0.12 + 0.5 * rng.normal(size=len(x))
    y: NDArray[Any] = 40 + 5 * signal
    if n_classes:
        y = np.digitize(signal, np.quantile(signal, np.arange(1, n_classes) / n_classes))
    return fold_with(x[:N].astype(np.float32), x[N:].astype(np.float32), y[:N], n_classes)


def final_part(fold: Fold) -> tuple[Part, Array, Array]:
    """The last part as prepared, and the standardised features by scikit-learn."""
    scaler = StandardScaler().fit(fold.inputs.astype(float))
    part = standardised(fold)[0].final
    return part, scaler.transform(fold.inputs.astype(float)), scaler.transform(fold.test_inputs.astype(float))


@pytest.mark.parametrize("d", [11, D])  # fewer and more features than participants
def test_principal_axes_keep_all_inner_products(d: int) -> None:
    part, z, z_test = final_part(wide(d=d))
    assert_allclose(part.train @ part.train.T, z @ z.T, atol=1e-7 * d)
    assert_allclose(part.test @ part.train.T, z_test @ z.T, atol=1e-7 * d)
    assert_allclose(part.train.T @ part.train, np.diag(part.squared), atol=1e-7 * d)
    assert part.train.shape[1] == min(d, N - 1) and part.scale == d


def test_inner_parts_are_fitted_without_the_fold_they_predict() -> None:
    fold = wide()
    (prepared,) = standardised(fold)
    for number, part in enumerate(prepared.inner):
        np.testing.assert_array_equal(part.held_out, np.flatnonzero(fold.inner_fold == number))
        np.testing.assert_array_equal(part.rows, np.flatnonzero(fold.inner_fold != number))
        assert_allclose(part.train.mean(axis=0), 0, atol=1e-9)
        z = StandardScaler().fit(fold.inputs[part.rows].astype(float))
        rows = z.transform(fold.inputs[part.held_out].astype(float))
        assert_allclose(
            part.test @ part.train.T, rows @ z.transform(fold.inputs[part.rows].astype(float)).T, atol=1e-5
        )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_logistic_regressions_equal_scikit_learn(n_classes: int) -> None:
    fold = wide(n_classes)
    part, z, z_test = final_part(fold)
    rng = np.random.default_rng(0)
    targets = np.stack([fold.target, rng.permutation(fold.target), np.sort(fold.target)])
    strengths = np.array([100.0, 1.0, 1e-3])  # the last: classes are told apart, weights large
    found = logistic_regression(part, targets, strengths, n_classes)
    for s, strength in enumerate(strengths):
        for p, target in enumerate(targets):
            by_hand = LogisticRegression(C=1 / (strength * D), solver="newton-cholesky", tol=1e-10)
            expected = by_hand.fit(z, target).predict_proba(z_test)
            assert_allclose(found[s, p], expected, rtol=1e-5, atol=1e-7)


def test_many_ridge_regressions_equal_scikit_learn() -> None:
    fold = wide(3)
    part, z, z_test = final_part(fold)
    values = np.random.default_rng(0).normal(size=(2, N)) + 9
    found = ridge_regression(part, values, np.array([10.0, 1e-3]), 0)
    on_classes = ridge_on_classes(part, np.stack([fold.target] * 2), np.array([1.0]), 3)
    for s, alpha in enumerate([10 * D, 1e-3 * D]):
        for p in range(2):
            assert_allclose(
                found[s, p, :, 0], Ridge(alpha=alpha).fit(z, values[p]).predict(z_test), rtol=1e-6
            )
    sign = np.where(fold.target[:, None] == np.arange(3), 1, -1)
    assert_allclose(on_classes[0, 1], Ridge(alpha=D).fit(z, sign).predict(z_test), rtol=1e-5, atol=1e-6)


def test_support_vector_machines_equal_scikit_learn() -> None:
    fold, three = wide(), wide(3)
    part, z, z_test = final_part(fold)
    scaled, test = z / np.sqrt(D), z_test / np.sqrt(D)
    mean, deviation = fold.target.mean(), fold.target.std()
    found = support_vector_regression(part, fold.target[None], np.array([0.1, 3.0]), 0)
    for s, c in enumerate([0.1, 3.0]):
        by_hand = SVR(kernel="linear", C=c, epsilon=0.1).fit(scaled, (fold.target - mean) / deviation)
        assert_allclose(found[s, 0, :, 0], mean + deviation * by_hand.predict(test), rtol=1e-4)
    values = support_vector_classes(part, three.target[None], np.array([1.0]), 3)
    for c in range(3):  # each against the rest
        by_class = SVC(kernel="linear", C=1.0).fit(scaled, three.target == c)
        assert_allclose(values[0, 0, :, c], by_class.decision_function(test), rtol=1e-3, atol=1e-3)
    own = values[0, 0, np.arange(N_TEST), 1]
    assert_allclose(
        hinge_loss(values[..., 1:2], np.ones((1, N_TEST), int))[0, 0], np.maximum(0, 1 - own).mean()
    )


def test_kernel_ridge_equals_the_correlation_kernel_with_a_free_offset() -> None:
    fold = wide()
    part = correlation_kernel(fold)[0].final
    k = np.corrcoef(np.concatenate([fold.inputs, fold.test_inputs]).astype(float))
    own, test = k[:N, :N], k[N:, :N]
    centred = own - own.mean(axis=0) - own.mean(axis=1)[:, None] + own.mean()
    assert_allclose(part.scale, np.trace(centred) / N)
    for penalty in (0.01, 1.0):
        alpha = penalty * part.scale
        found = ridge_regression(part, fold.target[None], np.array([penalty]), 0)[0, 0, :, 0]
        solve = np.linalg.inv(own + alpha * np.eye(N))  # offset by generalised least squares
        offset = solve.sum(axis=0) @ fold.target / solve.sum()
        assert_allclose(found, offset + test @ solve @ (fold.target - offset), rtol=1e-6)
        sklearn = KernelRidge(kernel="precomputed", alpha=alpha).fit(own, fold.target - offset)
        assert_allclose(found, offset + sklearn.predict(test), rtol=1e-6)


@pytest.mark.parametrize("fit", [fit_linear, fit_ridge, fit_svm, fit_krr])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_every_method_finds_a_plain_effect_in_both_tasks(fit: TwoSteps, n_classes: int) -> None:
    rng = np.random.default_rng(5)
    signal = rng.normal(size=120)
    cut = np.quantile(signal, np.arange(1, n_classes) / n_classes) if n_classes else signal
    y: NDArray[Any] = np.digitize(signal, cut) if n_classes else 10 * signal + 50
    x = rng.normal(size=(120, 30))
    x[:, :10] += 2 * (y if n_classes else signal)[:, None]
    x = x.astype(np.float32)
    found = fit(fold_with(x[:80], x[80:], y[:80], n_classes))
    if not n_classes:
        assert found.values.shape == (40,) and np.corrcoef(found.values, y[80:])[0, 1] > 0.8
        assert 0.5 < np.polyfit(found.values, y[80:], 1)[0] < 2  # in the target's unit
        return
    assert found.values.shape == (40, n_classes)
    assert_allclose(found.values.sum(axis=1), 1)
    score = found.values[:, 1] if n_classes == 2 else found.values
    assert roc_auc_score(y[80:], score, multi_class="ovr") > 0.85


def test_settings_are_plain_numbers_of_the_grid() -> None:
    assert fit_ridge(wide()).settings.keys() == {"penalty_per_feature", "n_features"}
    settings = fit_svm(wide(2)).settings
    assert settings["C"] in (0.01, 0.1, 1.0, 10.0) and settings["n_features"] == D
    assert all(type(value) in (int, float) for value in settings.values())


@pytest.mark.parametrize("fit", [fit_linear, fit_ridge, fit_svm, fit_krr])
def test_a_class_that_is_in_one_inner_fold_alone_does_no_harm(fit: TwoSteps) -> None:
    fold = wide(3)
    target = np.where(fold.inner_fold == 2, 2, fold.target % 2)
    found = fit(replace(fold, target=target))
    assert np.isfinite(found.values).all()
    assert_allclose(found.values.sum(axis=1), 1)


@pytest.mark.parametrize("fit", [fit_ridge, fit_svm, fit_krr])
def test_constant_and_unknown_features_are_no_information(fit: TwoSteps) -> None:
    fold = wide()
    spoilt, spoilt_test = fold.inputs.astype(float), fold.test_inputs.astype(float)
    spoilt[:, 8] = 0.1  # its mean is not 0.1 exactly
    spoilt_test[:, 8] = 7.0  # another value where nothing was learnt
    spoilt[:, 9] = np.nan
    spoilt[3, 20] = spoilt_test[:, 21] = np.nan
    found = fit(replace(fold, inputs=spoilt, test_inputs=spoilt_test))
    assert np.isfinite(found.values).all()
    if fit is not fit_krr:  # whose rows are scaled by all of a participant's edges
        again = fit(replace(fold, inputs=spoilt, test_inputs=np.where(np.arange(D) == 8, 0.1, spoilt_test)))
        assert_allclose(again.values, found.values)


def soft_loss(theta: Array, f: Array, y: NDArray[np.int64]) -> float:
    """Log loss of the link with softened targets, written out."""
    n_classes = f.shape[1]
    logits = theta[0] * f + np.concatenate([[0], theta[1:]])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    total = 0.0
    for row, c in enumerate(y):
        n_c = (y == c).sum()
        soft = np.full(n_classes, 1 / (n_c + n_classes))
        soft[c] = (n_c + 1) / (n_c + n_classes)
        total -= soft @ log_p[row]
    return total


@pytest.mark.parametrize("n_classes", [2, 4])
def test_link_minimises_the_loss_it_states(n_classes: int) -> None:
    rng = np.random.default_rng(8)
    y = rng.integers(0, n_classes, size=(3, 60))
    values = rng.normal(size=(3, 60, n_classes)) + 1.5 * np.eye(n_classes)[y] + [0, 3, 0, 0][:n_classes]
    if n_classes == 2:
        values = values[:, :, 1:] - values[:, :, :1]
    slope, offset = fit_link(values, y, n_classes)
    for b in range(3):
        f = values[b] if n_classes > 2 else np.concatenate([np.zeros((60, 1)), values[b]], axis=1)
        best = minimize(soft_loss, np.r_[1.0, np.zeros(n_classes - 1)], args=(f, y[b]), tol=1e-12)
        assert_allclose(np.r_[slope[b], offset[b, 1:]], best.x, rtol=1e-3, atol=1e-3)
    probability = apply_link(values, slope, offset)
    assert_allclose(probability.sum(axis=2), 1)
    assert_allclose(
        probability.mean(axis=1), [np.bincount(t, minlength=n_classes) / 60 for t in y], atol=0.03
    )


def test_link_never_turns_the_order_round() -> None:
    y = np.array([[0] * 20 + [1] * 10])
    wrong = np.where(y == 1, -1.0, 1.0)[:, :, None] + np.random.default_rng(9).normal(size=(1, 30, 1))
    slope, offset = fit_link(wrong, y, 2)
    assert slope[0] > 0
    p = apply_link(wrong, slope, offset)[0, :, 1]
    np.testing.assert_array_equal(np.argsort(p), np.argsort(wrong[0, :, 0]))
    assert_allclose(p, 1 / 3, atol=0.02)  # knows nothing: the share of the class
    apart = np.where(y == 1, 1.0, -1.0)[:, :, None]  # told apart: finite, by the softened targets
    p = apply_link(apart, *fit_link(apart, y, 2))[0, :, 1]
    assert_allclose(p[[0, -1]], [1 / 22, 11 / 12], atol=1e-6)


def series_of(n: int, n_frames: int, n_rois: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_rois, n_rois)) / 3 + np.eye(n_rois)
    own = rng.normal(size=(n, n_rois, n_rois)) / 8
    return [rng.normal(size=(n_frames, n_rois)) @ (mixing + own[i]) for i in range(n)]


def moments_of(series: list[Array], moment: Callable[[Array], Array]) -> Moments:
    upper = np.triu_indices(series[0].shape[1])
    packed = np.stack([moment(x)[upper] for x in series]).astype(np.float32)
    return Moments(packed, None)


def shrunk(x: Array) -> Array:
    from sklearn.covariance import LedoitWolf

    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return np.asarray(LedoitWolf().fit(z).covariance_)


def test_tangent_space_equals_nilearn() -> None:
    from nilearn.connectome import ConnectivityMeasure

    series = [(x - x.mean(axis=0)) / x.std(axis=0) for x in series_of(17, 80, 9)]
    measure = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False).fit(series[:12])
    moments = moments_of(series, shrunk)
    own, test = moments[np.arange(12)], moments[np.arange(12, 17)]
    mean = geometric_mean([completed(m, np.eye(9)) for m in own.second], np.eye(9))
    assert_allclose(mean, measure.mean_, rtol=1e-3, atol=1e-4)

    fold = fold_with(own, test, np.arange(12.0))
    part = tangent_vectors(fold)[0].final
    x, x_test = measure.transform(series[:12]), measure.transform(series[12:])
    expected = (
        (x_test - x.mean(axis=0)) @ (x - x.mean(axis=0)).T * 2
    )  # nilearn: diagonal / √2, not others * √2
    assert_allclose(part.test @ part.train.T, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def test_law_geometric_mean() -> None:
    matrices = [shrunk(x) for x in series_of(6, 60, 7)]
    mean = geometric_mean(matrices, np.mean(matrices, axis=0))
    a = np.random.default_rng(1).normal(size=(7, 7)) / 4 + np.eye(7)
    moved = geometric_mean([a @ m @ a.T for m in matrices], a @ np.mean(matrices, axis=0) @ a.T)
    assert_allclose(moved, a @ mean @ a.T, rtol=1e-3, atol=1e-4)
    inverse = geometric_mean([np.asarray(np.linalg.inv(m), dtype=float) for m in matrices], np.eye(7))
    assert_allclose(np.linalg.inv(inverse), mean, rtol=1e-2, atol=1e-3)
    assert np.abs(mean - np.mean(matrices, axis=0)).max() > 0.005  # another mean


def test_missing_regions_are_as_the_mean_predicts_them() -> None:
    full = [shrunk(x) for x in series_of(5, 90, 6)]
    upper = np.triu_indices(6)
    packed = np.stack([m[upper] for m in full]).astype(np.float32)
    gone = (upper[0] == 4) | (upper[1] == 4) | (upper[0] == 1) | (upper[1] == 1)
    packed[2, gone] = np.nan
    mean = mean_matrix(packed, 6)
    assert_allclose(mean[4, 0], np.mean([full[i][4, 0] for i in (0, 1, 3, 4)]), rtol=1e-5)
    assert_allclose(mean[3, 0], np.mean([m[3, 0] for m in full]), rtol=1e-5)
    whole = completed(packed[2], mean)
    keep = np.ix_([0, 2, 3, 5], [0, 2, 3, 5])
    assert_allclose(whole[keep], full[2][keep], rtol=1e-5)
    assert_allclose(whole, whole.T)
    assert np.linalg.eigvalsh(whole)[0] > 0
    # a participant who is as the mean where they are known is as the mean elsewhere
    as_mean = np.where(gone, np.nan, mean[upper]).astype(np.float32)
    assert_allclose(completed(as_mean, mean), mean, atol=1e-6)
    nobody = np.full_like(packed[:1], np.nan)
    assert_allclose(completed(nobody[0], mean_matrix(nobody, 6)), np.eye(6))


def test_coskewness_products_are_those_of_the_tensor() -> None:
    rng = np.random.default_rng(2)
    x = rng.exponential(size=(2100, 5)) @ rng.normal(size=(5, 5))  # longer than a block of frames
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    tensor = np.einsum("ti,tj,tk->ijk", z, z, z) / len(z)
    expected = np.einsum("ijk,ljk->il", tensor, tensor)
    found = coskewness_products(z / np.sqrt(len(z)))
    assert_allclose(found, expected / np.trace(expected), rtol=1e-8, atol=1e-12)


def test_subspace_holds_the_skewed_sources_and_not_the_loud_ones() -> None:
    rng = np.random.default_rng(4)
    n_rois, directions = 8, np.linalg.qr(rng.normal(size=(8, 8)))[0]
    packed = []
    for _ in range(5):
        sources = rng.normal(size=(4000, n_rois)) * np.r_[1, 1, 1, 1, 1, 1, 2, 2]
        sources[:, :2] = rng.exponential(size=(4000, 2)) - 1  # quiet and skewed
        unit = sources @ directions.T
        unit = (unit - unit.mean(axis=0)) / np.linalg.norm(unit - unit.mean(axis=0), axis=0)
        packed.append(coskewness_products(unit)[np.triu_indices(n_rois)].astype(np.float32))
    axes = coskewness_axes(Moments(np.stack(packed), np.stack(packed)))
    assert_allclose(axes.T @ axes, np.eye(n_rois), atol=1e-6)
    total = sum(unpacked(p, n_rois) for p in packed)
    kept = np.trace(axes[:, :2].T @ total @ axes[:, :2])
    for seed in range(20):  # no other plane preserves more
        other = np.linalg.qr(np.random.default_rng(seed).normal(size=(n_rois, 2)))[0]
        assert np.trace(other.T @ total @ other) < kept
    assert kept / np.trace(total) > 0.7
    loudest = directions[:, 6:]  # most of the variance
    assert np.trace(loudest.T @ total @ loudest) < 0.3 * kept


def test_moments_are_averaged_over_phases_and_know_missing_regions(write_cohort: Any) -> None:
    rng = np.random.default_rng(6)
    phases = [rng.normal(size=(n, 6)).astype(np.float32) for n in (33, 29)]
    valid = np.ones((3, 6), bool)
    valid[1, 4] = False
    data = load_scan_data(write_cohort([phases, [phases[0]], [phases[1]]], valid=valid))
    found = correlations_and_coskewness(data, ["02", "00", "01"])
    assert len(found) == 3 and found.n_rois == 6 and found.third is not None
    one, two = np.corrcoef(phases[0].T), np.corrcoef(phases[1].T)
    assert_allclose(unpacked(found.second[0], 6), two, atol=1e-5)
    assert_allclose(unpacked(found.second[1], 6), (one + two) / 2, atol=1e-5)
    missing = np.isnan(unpacked(found.second[2], 6))
    assert missing[4].all() and missing[:, 4].all() and missing.sum() == 11
    assert_allclose(unpacked(found.third[2], 6)[4], 0)
    assert_allclose([np.trace(unpacked(t, 6)) for t in found.third], 1, rtol=1e-5)
    lw = shrunk_correlations(data, ["01"]).second[0]
    rest = [0, 1, 2, 3, 5]
    assert_allclose(unpacked(lw, 6)[np.ix_(rest, rest)], shrunk(phases[0][:, rest].astype(float)), atol=1e-5)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("family", ["tangent", "coskew"])
def test_methods_on_series_find_a_planted_coupling(write_cohort: Any, family: str, task: Task) -> None:
    rng = np.random.default_rng(7)
    n = 60
    coupling = rng.uniform(0, 0.9, size=n)
    scans = []
    for c in coupling:
        x = rng.exponential(size=(120, 6))
        x[:, 1] = c * x[:, 0] + np.sqrt(1 - c**2) * x[:, 1]
        scans.append([(x * rng.uniform(1, 9)).astype(np.float32)])  # gains differ
    data = load_scan_data(write_cohort(scans))
    names = [f"{family}-ridge"] + ([f"{family}-logistic"] if task == "classification" else [])
    for name in names:
        method = METHODS[name]
        inputs = method.inputs(data, [f"{i:02d}" for i in range(n)])
        own, test = np.arange(45), np.arange(45, n)
        y = (coupling > 0.45).astype(int) if task == "classification" else coupling
        found = method.fit_predict(
            fold_with(inputs[own], inputs[test], y[own], 2 * (task == "classification"))
        )
        if task == "regression":
            assert np.corrcoef(found.values, y[test])[0, 1] > 0.8
        else:
            assert roc_auc_score(y[test], found.values[:, 1]) > 0.75


def test_subspaces_of_all_sizes_are_candidates() -> None:
    rng = np.random.default_rng(3)
    second = moments_of(series_of(12, 50, 11), lambda x: np.asarray(np.corrcoef(x.T))).second
    third = np.stack([np.cov(rng.normal(size=(11, 30)))[np.triu_indices(11)] for _ in range(12)])
    moments = Moments(second, third.astype(np.float32))
    fold = fold_with(moments[np.arange(9)], moments[np.arange(9, 12)], np.arange(9.0))
    candidates = edges_in_subspace(fold)
    assert [c.settings["n_dimensions"] for c in candidates] == [2, 3, 6, 11]
    assert [c.n_features for c in candidates] == [1, 3, 15, 55]
    found = METHODS["coskew-ridge"].fit_predict(fold)
    assert found.settings["n_dimensions"] in (2, 3, 6, 11) and found.values.shape == (3,)
