"""gradients/estimator.py: scikit-learn's own checks, the numbers of the command's path, refusals."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from bjepa.gradients import DiffusionMap, compute_affinity, diffusion_map
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
EMPTY_ROW = "it rounds features to integers, which leaves a row of zeros: no direction, so no angle; refused"


def expected_failures(estimator: DiffusionMap) -> dict[str, str]:
    return {} if estimator.kernel == "gaussian" else {"check_estimators_dtypes": EMPTY_ROW}


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [DiffusionMap(), DiffusionMap(kernel="gaussian", alpha=1, diffusion_time=2)],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture
def fc() -> Array:
    series = np.random.default_rng(0).normal(size=(90, 41)) @ np.random.default_rng(1).normal(size=(41, 41))
    fc: Array = np.asarray(np.corrcoef(series.T))
    np.fill_diagonal(fc, 0)
    fc.flags.writeable = False
    return fc


def test_same_numbers_as_the_command(fc: Array) -> None:
    affinity, expected = embed_connectivity(fc, GradientOptions(n_components=6))
    ours = DiffusionMap(n_components=6)
    assert_array_equal(ours.fit_transform(fc), expected.gradients)
    assert_array_equal(ours.embedding_, expected.gradients)
    assert_array_equal(ours.eigenvalues_, expected.eigenvalues)
    assert_array_equal(ours.residuals_, expected.residuals)
    assert_array_equal(ours.affinity_, affinity)
    assert (ours.sparsity_, ours.n_features_in_) == (0.9, 41)
    assert ours.residuals_.max() < 1e-10


def test_every_option_reaches_its_step(fc: Array) -> None:
    shape: dict[str, Any] = {"alpha": 0.2, "diffusion_time": 3, "scale_by_eigenvalues": False}
    ours = clone(DiffusionMap(4, kernel="cosine", sparsity=0.6, **shape)).fit(fc)
    affinity = compute_affinity(fc, kernel="cosine", sparsity=0.6)
    expected = diffusion_map(affinity, n_components=4, **shape)
    assert_array_equal(ours.embedding_, expected.gradients)
    split = np.kron(np.diag([1.0, 1.0]), np.exp(-np.abs(np.subtract.outer(np.arange(7.0), np.arange(7)))))[
        :12, :12
    ]
    kept = DiffusionMap(2, kernel="precomputed", keep_largest=True).fit(split)
    assert_array_equal(np.isnan(kept.embedding_).any(axis=1), np.arange(12) >= 7)


def test_features_that_are_no_square_matrix_stay_whole(fc: Array) -> None:
    features = pd.DataFrame(fc[:, :9], columns=[f"target_{k}" for k in range(9)])
    ours = DiffusionMap(3).fit(features)
    assert ours.sparsity_ == 0
    assert list(ours.feature_names_in_) == list(features.columns)
    expected = diffusion_map(compute_affinity(fc[:, :9], sparsity=0), n_components=3)
    assert_allclose(ours.embedding_, expected.gradients, atol=1e-10)
    piped = make_pipeline(StandardScaler(), DiffusionMap(3, sparsity=0.3)).fit_transform(features)
    scaled = StandardScaler().fit_transform(features)
    assert_array_equal(piped, DiffusionMap(3, sparsity=0.3).fit(scaled).embedding_)


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_precomputed_affinity(fc: Array, kind: Any) -> None:
    affinity = compute_affinity(fc, kernel="cosine", sparsity=0.5)
    given = kind(affinity)
    ours = DiffusionMap(4, kernel="precomputed").fit(given)
    assert_allclose(ours.embedding_, diffusion_map(affinity, n_components=4).gradients, atol=1e-10)
    assert ours.sparsity_ is None
    assert ours.affinity_ is not given
    assert ours.__sklearn_tags__().input_tags.pairwise
    assert not DiffusionMap().__sklearn_tags__().input_tags.pairwise


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kernel": "rbf"}, "kernel must be one of .*'precomputed'"),
        ({"kernel": "precomputed", "sparsity": 0.5}, "takes the affinity as it is"),
        ({"kernel": "precomputed"}, "Negative values in data passed to X in DiffusionMap"),
        ({"sparsity": 90}, "sparsity must be in"),
        ({"n_components": 41}, "at most 40 for 41 regions"),
        ({"alpha": 2}, "alpha must be in"),
    ],
)
def test_refuses(fc: Array, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        DiffusionMap(**options).fit(fc)
    assert isinstance(refused.value, InputError) or "Negative" in says


def test_the_package_does_not_import_scikit_learn() -> None:
    code = "import sys, bjepa.gradients; assert 'sklearn' not in sys.modules; bjepa.gradients.DiffusionMap"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError, match="Diffusionmap"):
        from bjepa.gradients import Diffusionmap  # noqa: F401
