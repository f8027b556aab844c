"""quality/variance.py: scikit-learn's regressions, planted connectivity, laws, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.stats import ortho_group

from bjepa.gradients.quality.variance import variance_explained
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
N_ROIS = 23


@pytest.fixture
def gradients() -> Array:
    gradients = np.random.default_rng(0).normal(size=(N_ROIS, 4)) * [3.0, 1.0, 1e-3, 1e-6] + [0.1, 5, 0, 0]
    gradients.flags.writeable = False
    return gradients


@pytest.fixture
def fc(gradients: Array) -> Array:
    rng = np.random.default_rng(1)
    fc = 0.3 * gradients[:, :2] @ gradients[:, :2].T + rng.normal(size=(N_ROIS, N_ROIS))
    fc = fc + fc.T
    np.fill_diagonal(fc, 0)
    fc.flags.writeable = False
    return fc


def test_equals_sklearn_regressions_without_the_own_row(fc: Array, gradients: Array) -> None:
    from sklearn.linear_model import LinearRegression

    for k in (1, 3, 4):
        left = total = 0.0
        for j in range(N_ROIS):
            others = np.arange(N_ROIS) != j
            x, y = gradients[others, :k] / np.linalg.norm(gradients[:, :k], axis=0), fc[others, j]
            left += float(np.square(y - LinearRegression().fit(x, y).predict(x)).sum())
            total += float(np.square(y - y.mean()).sum())
        assert_allclose(variance_explained(fc, gradients)[k - 1], 1 - left / total, rtol=1e-9)


def test_planted_low_rank_connectivity_is_explained_by_its_components(gradients: Array) -> None:
    low_rank = 2 + gradients[:, :2] @ np.diag([1, -0.5]) @ gradients[:, :2].T
    np.fill_diagonal(low_rank, 0)  # of rank R
    share = variance_explained(low_rank, gradients)
    assert share[0] < 0.999
    assert_allclose(share[1:], 1, atol=1e-10)


def test_law_the_diagonal_does_not_matter(fc: Array, gradients: Array) -> None:
    expected = variance_explained(fc, gradients)
    for diagonal in (1.0, 8.4, np.nan):
        other = fc.copy()
        np.fill_diagonal(other, diagonal)
        assert_allclose(variance_explained(other, gradients), expected, rtol=1e-12)


def test_laws_turn_scale_and_shift(fc: Array, gradients: Array) -> None:
    expected = variance_explained(fc, gradients)
    assert (np.diff(expected) >= 0).all()
    turned = np.column_stack(
        [gradients[:, :3] / [3, 1, 1e-3] @ ortho_group(3, seed=2).rvs(), gradients[:, 3]]
    )
    assert_allclose(variance_explained(fc, turned)[2:], expected[2:], rtol=1e-9)
    assert abs(variance_explained(fc, turned)[0] - expected[0]) > 0.01
    assert_allclose(variance_explained(7 * fc - 3, gradients * [-2, 1e-5, 4, 9] + 1), expected, rtol=1e-8)


def test_law_order_of_regions_and_regions_without_gradients(fc: Array, gradients: Array) -> None:
    order = np.random.default_rng(3).permutation(N_ROIS)
    expected = variance_explained(fc, gradients)
    assert_allclose(variance_explained(fc[np.ix_(order, order)], gradients[order]), expected, rtol=1e-10)
    some = np.arange(N_ROIS) % 5 != 2
    lacking = np.where(some[:, None], gradients, np.nan)
    assert_allclose(
        variance_explained(fc, lacking),
        variance_explained(fc[np.ix_(some, some)], gradients[some]),
        rtol=1e-12,
    )


def test_a_component_that_adds_nothing(fc: Array, gradients: Array) -> None:
    first, second = gradients[:, 0], gradients[:, 1]
    doubled = np.column_stack([first, 2 * first - 1, np.full(N_ROIS, 3.0), second])
    share = variance_explained(fc, doubled)
    expected = variance_explained(fc, np.column_stack([first, second]))
    assert_allclose(share, expected[[0, 0, 0, 1]], rtol=1e-10)
    alone = np.column_stack([np.arange(N_ROIS) == 4, first])  # one region decides the component
    assert (variance_explained(fc, alone) > 0).all()


def test_as_many_components_as_regions_allow(fc: Array, gradients: Array) -> None:
    assert_allclose(variance_explained(fc[:5, :5], gradients[:5])[2:], 1, atol=1e-9)


def test_refuses(fc: Array, gradients: Array) -> None:
    with pytest.raises(InputError, match="got"):
        variance_explained(fc[:, 1:], gradients)
    with pytest.raises(InputError, match="finite"):
        variance_explained(np.where(fc == fc.max(), np.nan, fc), gradients)
    with pytest.raises(InputError, match="no variance"):
        variance_explained(np.full((N_ROIS, N_ROIS), 0.1), gradients)
