"""preproc/raw/compcor.py: scipy's cosines, sklearn's PCA, fMRIPrep's own table, and laws."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.fft import idct
from sklearn.decomposition import PCA

from bjepa.preproc.raw import compcor
from bjepa.preproc.raw.compcor import components, cosine_drifts, covariance_over_time

T, V, T_R = 97, 41, 2.3


@pytest.fixture(scope="module")
def series() -> NDArray[np.float32]:
    """(T, V): three signals in common, noise, drifts, levels of 300 to 900, gains of 1 to 30."""
    rng = np.random.default_rng(7)
    common = rng.normal(size=(T, 3)) @ rng.normal(size=(3, V)) * [[2.0]]
    values = common + rng.normal(size=(T, V)) + np.linspace(-3, 3, T)[:, None] * rng.normal(size=V)
    found = np.asarray(values * rng.uniform(1, 30, V) + rng.uniform(300, 900, V), dtype=np.float32)
    found.flags.writeable = False
    return found


def _filtered(series: NDArray[np.float32], drifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps 1 and 2 by least squares."""
    design = np.column_stack([drifts, np.ones(len(series))])
    values = np.asarray(series, dtype=np.float64)
    values = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return np.asarray(values / values.std(axis=0), dtype=np.float64)


@pytest.mark.parametrize(("n", "t_r", "expected"), [(97, 2.3, 2), (490, 0.8, 5), (168, 2.0, 4), (40, 1.0, 0)])
def test_drifts_are_scipys_cosines_slower_than_128_s(n: int, t_r: float, expected: int) -> None:
    drifts = cosine_drifts(n, t_r)
    assert drifts.shape == (n, expected)
    for k in range(expected):
        assert_allclose(drifts[:, k], idct(np.eye(n)[k + 1], norm="ortho"), atol=1e-12)
        assert 2 * n * t_r / (k + 1) > compcor.PERIOD


def test_drifts_are_those_of_a_table_of_fmriprep(shared: Path) -> None:
    table = pd.read_csv(shared / "data/confounds/nilearn/test-v21_desc-confounds_timeseries.tsv", sep="\t")
    theirs = table["cosine00"].to_numpy()  # the first 30 frames of a longer run, 3 of them not steady
    n_steady = next(n for n in range(40, 400) if abs(cosine_drifts(n, 256 / n)[0, 0] - theirs[3]) < 1e-9)
    assert_allclose(theirs[3:], cosine_drifts(n_steady, 256 / n_steady)[: len(theirs) - 3, 0], atol=1e-9)


def test_components_are_those_of_sklearn(series: NDArray[np.float32]) -> None:
    drifts = cosine_drifts(T, T_R)
    found = components(covariance_over_time(series, drifts))
    filtered = _filtered(series, drifts)
    pca = PCA(svd_solver="full").fit(filtered)
    n = found.values.shape[1]
    assert n == int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), 0.5)) + 1 == 2
    assert_allclose(found.explained, pca.explained_variance_ratio_[:n], rtol=1e-8)
    assert_allclose(found.cumulated, np.cumsum(pca.explained_variance_ratio_)[:n], rtol=1e-8)
    assert_allclose(found.singular_values, pca.singular_values_[:n], rtol=1e-8)
    scores = pca.transform(filtered)[:, :n]
    scores /= np.linalg.norm(scores, axis=0)
    assert_allclose(np.abs(found.values), np.abs(scores), atol=1e-8)
    # orthonormal, free of drifts and mean, the largest entry positive
    assert_allclose(found.values.T @ found.values, np.eye(n), atol=1e-12)
    assert_allclose(found.values.T @ drifts, 0, atol=1e-9)
    assert (found.values[np.abs(found.values).argmax(axis=0), range(n)] > 0).all()


def test_what_is_common_comes_out(series: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(5)
    wave = np.sin(2 * np.pi * 0.07 * np.arange(T) * T_R)
    noisy = 500 + 4 * wave[:, None] * rng.choice([-1, 1], V) + rng.normal(size=(T, V)) * 2
    found = components(covariance_over_time(noisy.astype(np.float32), cosine_drifts(T, T_R)))
    assert abs(np.corrcoef(found.values[:, 0], wave)[0, 1]) > 0.99


def test_law_parts_add_up(series: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    drifts = cosine_drifts(T, T_R)
    whole = covariance_over_time(series, drifts)
    parts = covariance_over_time(series[:, :11], drifts) + covariance_over_time(series[:, 11:], drifts)
    assert_allclose(parts, whole, atol=1e-8)
    monkeypatch.setattr(compcor, "_CHUNK", 7)
    assert_allclose(covariance_over_time(series, drifts), whole, atol=1e-8)


def test_law_gain_level_and_drift_of_a_voxel_do_not_matter(series: NDArray[np.float32]) -> None:
    drifts = cosine_drifts(T, T_R)
    rng = np.random.default_rng(2)
    changed = series * rng.uniform(0.5, 2, V) + rng.uniform(0, 50, V)
    changed = (changed + 20 * drifts @ rng.normal(size=(2, V))).astype(np.float32)
    assert_allclose(
        covariance_over_time(changed.astype(np.float32), drifts),
        covariance_over_time(series, drifts),
        atol=2e-3,
    )


def test_voxels_that_do_not_vary_count_for_nothing(series: NDArray[np.float32]) -> None:
    drifts = cosine_drifts(T, T_R)
    constant = np.full((T, 4), 812.345, np.float32)
    rounded = constant * (1 + 1e-7 * np.random.default_rng(0).normal(size=(T, 4))).astype(np.float32)
    more = np.concatenate([series, constant, rounded], axis=1)
    assert_allclose(covariance_over_time(more, drifts), covariance_over_time(series, drifts), atol=1e-9)
    none = components(covariance_over_time(constant, drifts))
    assert none.values.shape == (T, 0) and none.explained.size == 0
