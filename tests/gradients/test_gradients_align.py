"""gradients/alignment/procrustes.py: turns undone; BrainSpace's and SciPy's Procrustes, laws, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import null_space, orthogonal_procrustes
from scipy.stats import ortho_group

from bjepa.gradients.alignment import Method, align_gradients, correlations, principal_cosines, turn_towards
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


@pytest.fixture
def reference() -> Array:
    reference = np.random.default_rng(0).normal(size=(17, 4)) * [3, 2, 1.9, 1]
    reference.flags.writeable = False
    return reference


def test_undoes_a_rotation_with_reflection(reference: Array) -> None:
    turn = ortho_group(4, seed=2).rvs() @ np.diag([-1, 1, 1, 1])
    assert_allclose(align_gradients(reference @ turn, reference), reference, atol=1e-12)


def test_equals_brainspace(reference: Array) -> None:
    from brainspace.gradient.alignment import procrustes

    other = reference[::-1] + np.random.default_rng(1).normal(size=reference.shape)
    assert_allclose(align_gradients(other, reference), procrustes(other.copy(), reference.copy()), atol=1e-12)


def test_law_distances_between_regions_stay(reference: Array) -> None:
    other = np.random.default_rng(3).normal(size=(17, 6))
    aligned = align_gradients(other, reference)
    assert_allclose(aligned @ aligned.T, other @ other.T, atol=1e-12)
    assert_allclose(aligned[:, 4:], other[:, 4:])  # the reference has four


def test_law_regions_in_another_order(reference: Array) -> None:
    other = np.random.default_rng(3).normal(size=(17, 6))
    rows = np.arange(17) % 5 != 1
    order = np.random.default_rng(4).permutation(17)
    for n in (2, 4, 6):
        aligned = align_gradients(other, reference, n_components=n, rows=rows)
        moved = align_gradients(other[order], reference[order], n_components=n, rows=rows[order])
        assert_allclose(moved, aligned[order], atol=1e-12)


def test_only_the_leading_components_take_part(reference: Array) -> None:
    other = np.random.default_rng(4).normal(size=(17, 4))
    aligned = align_gradients(other, reference, n_components=2)
    assert_allclose(aligned[:, 2:], other[:, 2:])
    assert_allclose(aligned[:, :2], align_gradients(other[:, :2], reference[:, :2]))


def test_two_maps_are_found_among_six_components(reference: Array) -> None:
    hidden = np.hstack([reference, np.random.default_rng(5).normal(size=(17, 3))])  # (17, 7)
    hidden = np.linalg.qr(hidden)[0] * np.linalg.norm(hidden, axis=0)  # lengths stay, columns orthogonal
    maps = hidden[:, [4, 1]]
    mixed = hidden.copy()
    mixed[:, :6] = hidden[:, :6] @ ortho_group(6, seed=1).rvs()
    aligned = align_gradients(mixed, maps, n_components=6)
    assert_allclose(aligned[:, :2], maps, atol=1e-12)
    assert_array_equal(aligned[:, 6], mixed[:, 6])
    assert_allclose(aligned @ aligned.T, mixed @ mixed.T, atol=1e-12)


def test_the_rectangular_turn_is_the_best_and_its_rest_the_nearest_to_the_identity(reference: Array) -> None:
    rng = np.random.default_rng(6)
    moving, fixed = rng.normal(size=(17, 7)), reference[:, :3]
    turn = turn_towards(moving, fixed, n_components=5)[:5, :5]
    best = np.trace(turn[:, :3].T @ moving[:, :5].T @ fixed)
    rest = null_space(turn[:, :3].T)  # (5, 2)
    nearest = rest @ orthogonal_procrustes(rest, np.eye(5)[:, 3:])[0]
    assert_allclose(turn[:, 3:], nearest, atol=1e-5)
    for seed in range(50):
        other = ortho_group(5, seed=seed).rvs()[:, :3]
        assert np.trace(other.T @ moving[:, :5].T @ fixed) < best
    assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)


def test_where_the_rest_is_free_it_does_not_hang_on_rounding() -> None:
    rng = np.random.default_rng(7)
    moving = np.linalg.qr(rng.normal(size=(17, 5)))[0]
    for scale in (0, 1e-15, 1e-14):
        maps = moving[:, [3, 4]] + scale * rng.normal(size=(17, 2))
        turn = turn_towards(moving, maps, n_components=5)
        assert_allclose(turn, np.eye(5)[:, [3, 4, 2, 0, 1]], atol=1e-4)  # component 3 keeps its place


def test_rows_decide_and_all_rows_are_turned(reference: Array) -> None:
    rng = np.random.default_rng(8)
    rows = np.arange(17) >= 5
    other = reference @ ortho_group(4, seed=3).rvs()
    other[:5] += 10 * rng.normal(size=(5, 4))  # would spoil the turn
    other[1] = np.nan
    cortex = np.where(rows[:, None], reference, np.nan)
    aligned = align_gradients(other, cortex, rows=rows)
    assert_allclose(aligned[5:], reference[5:], atol=1e-12)
    assert np.isnan(aligned[1]).all() and np.isfinite(np.delete(aligned, 1, axis=0)).all()
    turn = turn_towards(other[5:], reference[5:])
    assert_allclose(aligned[0], other[0] @ turn, atol=1e-12)


def test_sign_turns_columns_to_correlate(reference: Array) -> None:
    flipped = reference * [1, -1, -1, 1] + 50
    assert_allclose(align_gradients(flipped, reference, method="sign"), flipped * [1, -1, -1, 1])
    against = np.where(np.arange(17)[:, None] < 3, -100 * flipped, flipped)  # rows that must not decide
    signs = turn_towards(against, reference, method="sign", rows=np.arange(17) >= 3)
    assert_array_equal(signs, np.diag([1, -1, -1, 1]))


def test_correlations_are_those_of_numpy(reference: Array) -> None:
    other = np.random.default_rng(9).normal(size=(17, 3)) + 1e3
    r = correlations(reference, np.hstack([other, np.full((17, 1), 0.1)]))
    assert_allclose(r[:, :3], np.corrcoef(reference.T, other.T)[:4, 4:], atol=1e-12)
    assert np.isnan(r[:, 3]).all()


def test_principal_cosines_of_known_planes() -> None:
    basis = np.eye(5)
    tilted = np.stack([basis[0], np.cos(0.3) * basis[1] + np.sin(0.3) * basis[3]], axis=1)
    mixed = tilted @ [[2.0, 1.0], [-1.0, 5.0]]  # another basis of the same plane
    assert_allclose(principal_cosines(basis[:, :3], mixed), [1, np.cos(0.3)], atol=1e-12)


def test_refuses(reference: Array) -> None:
    with pytest.raises(InputError, match="16 regions, the reference 17"):
        align_gradients(reference[1:], reference)
    with pytest.raises(InputError, match=r"reference must be finite, got \(17, 4\) with 1 rows"):
        align_gradients(reference, np.where(reference == reference.max(), np.nan, reference))
    with pytest.raises(InputError, match="1 to 4"):
        align_gradients(reference, reference, n_components=5)
    with pytest.raises(InputError, match="17 booleans, got int64"):
        align_gradients(reference, reference, rows=np.arange(17))
    with pytest.raises(InputError, match="3 regions cannot decide how 4"):
        align_gradients(reference, reference, rows=np.arange(17) < 3)
    wrong: Method = "procrutes"  # type: ignore[assignment]
    with pytest.raises(InputError, match="one of"):
        align_gradients(reference, reference, method=wrong)
