"""embedding/diffusion.py, graph.py: general eigensolver, BrainSpace, published maps, laws, pieces."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.embedding import Embedding, Solver, diffusion_map
from bjepa.gradients.embedding.embedding import largest_entry_positive
from bjepa.gradients.embedding.graph import pieces, relative_residuals
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
HCP = "brainspace_main_group_schaefer_400_7Networks_mean_connectivity.csv"
ENIGMA = "enigma_funcMatrix_with_sctx_schaefer_400.csv"  # 400 cortical, 14 subcortical regions


def markov(affinity: Array, alpha: float) -> Array:
    """Written out element by element, not as the module does."""
    n = len(affinity)
    kernel = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            kernel[i, j] = affinity[i, j] / (affinity[i].sum() ** alpha * affinity[j].sum() ** alpha)
    return np.array([row / row.sum() for row in kernel])


@pytest.fixture
def affinity() -> Array:
    points = np.random.default_rng(0).normal(size=(23, 5))
    affinity = compute_affinity(points, sparsity=0.2)
    affinity.flags.writeable = False
    return affinity


@pytest.fixture(scope="module")
def hcp(shared: Path) -> Array:
    return np.loadtxt(shared / "data/group_fc" / HCP, delimiter=",")


@pytest.fixture(scope="module")
def hcp_map(hcp: Array) -> Embedding:
    return diffusion_map(compute_affinity(hcp), n_components=30)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_equals_the_general_eigensolver(affinity: Array, alpha: float) -> None:
    values, vectors = np.linalg.eig(markov(affinity, alpha))
    order = np.argsort(-values.real)[1:7]
    ours = diffusion_map(affinity, n_components=6, alpha=alpha, scale_by_eigenvalues=False)
    assert_allclose(ours.eigenvalues, values[order].real, atol=1e-10)
    theirs = vectors[:, order].real
    theirs *= np.linalg.norm(ours.gradients, axis=0) * np.sign((theirs * ours.gradients).sum(axis=0))
    assert_allclose(ours.gradients, theirs, atol=1e-8)
    assert ours.residuals.max() < 1e-10


@pytest.mark.parametrize("name", [HCP, ENIGMA])
@pytest.mark.parametrize("solver", ["dense", "iterative"])
def test_real_matrices_equal_the_general_eigensolver(shared: Path, name: str, solver: Solver) -> None:
    affinity = compute_affinity(np.loadtxt(shared / "data/group_fc" / name, delimiter=","))
    ours = diffusion_map(affinity, n_components=30, solver=solver, scale_by_eigenvalues=False)
    degree = affinity.sum(axis=1)
    kernel = affinity / np.sqrt(degree[:, None] * degree)
    values, vectors = np.linalg.eig(kernel / kernel.sum(axis=1)[:, None])
    order = np.argsort(-values.real)[1:32]
    assert_allclose([*ours.eigenvalues, ours.next_eigenvalue], values[order].real, atol=1e-10)
    theirs = vectors[:, order[:30]].real
    theirs *= np.linalg.norm(ours.gradients, axis=0) * np.sign((theirs * ours.gradients).sum(axis=0))
    apart = np.minimum(ours.relative_gaps(), np.append(1, ours.relative_gaps()[:-1])) > 1e-3
    assert apart.sum() >= 29
    assert_allclose(ours.gradients[:, apart], theirs[:, apart], atol=1e-10)
    assert ours.residuals.max() <= 1e-10
    assert ours.solver == solver


@pytest.mark.parametrize("seed", [0, 3])
def test_hcp_spans_the_same_space_as_brainspace(hcp: Array, hcp_map: Embedding, seed: int) -> None:
    from brainspace.gradient.embedding import diffusion_mapping
    from brainspace.gradient.kernels import compute_affinity as brainspace_affinity

    theirs = brainspace_affinity(hcp.copy(), kernel="normalized_angle", sparsity=0.9)
    maps, lambdas = diffusion_mapping(theirs, n_components=30, alpha=0.5, diffusion_time=0, random_state=seed)
    assert principal_cosines(maps, hcp_map.gradients).min() >= 0.999
    assert_allclose(hcp_map.multipliers, lambdas, rtol=0.01)  # its solver is not exact
    assert_allclose(np.linalg.norm(hcp_map.gradients, axis=0), np.linalg.norm(maps, axis=0), rtol=0.03)


def test_hcp_holds_the_published_gradients(shared: Path, hcp_map: Embedding) -> None:
    folder = shared / "data/group_fc"
    parcel = np.loadtxt(folder / "brainspace_schaefer_400_conte69.csv").astype(int)
    vertices = [np.loadtxt(folder / f"brainspace_conte69_32k_fc_gradient{k}.csv") for k in (0, 1)]
    published = np.array([[np.nanmean(v[parcel == n]) for v in vertices] for n in range(1, 401)])  # (400, 2)
    published -= published.mean(axis=0)
    first_three = hcp_map.gradients[:, :3] - hcp_map.gradients[:, :3].mean(axis=0)
    cosines = principal_cosines(first_three, published)
    assert cosines[0] >= 0.98
    assert cosines[1] >= 0.95


def test_hcp_names_the_pair_that_rotates(hcp_map: Embedding) -> None:
    assert hcp_map.near_degenerate_pairs()[0] == (1, 2)
    assert hcp_map.relative_gaps()[0] == pytest.approx(0.0142, abs=2e-4)


@pytest.mark.parametrize("solver", ["dense", "iterative"])
def test_ring_in_closed_form(solver: Solver) -> None:
    # neighbours at distance 1 and 2 on a ring: the Markov matrix is circulant
    n, w0, w1, w2 = 13, 1.0, 0.7, 0.2
    steps = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    steps = np.minimum(steps, n - steps)
    ring = np.select([steps == 0, steps == 1, steps == 2], [w0, w1, w2], 0.0)
    ours = diffusion_map(ring, n_components=4, scale_by_eigenvalues=False, solver=solver)

    angle = 2 * np.pi * np.array([1, 2]) / n
    wave = (w0 + 2 * w1 * np.cos(angle) + 2 * w2 * np.cos(2 * angle)) / (w0 + 2 * w1 + 2 * w2)
    assert_allclose(ours.eigenvalues, wave.repeat(2), atol=1e-12)
    place = np.outer(np.arange(n), angle)  # (n, 2)
    for number in range(2):
        closed = np.sqrt(2) * np.stack([np.cos(place[:, number]), np.sin(place[:, number])], axis=1)
        pair = ours.gradients[:, 2 * number : 2 * number + 2]
        assert_allclose(pair @ pair.T, closed @ closed.T, atol=1e-8)  # the pair may rotate
    assert ours.near_degenerate_pairs() == [(1, 2), (3, 4)]


@pytest.mark.parametrize("kind", [csr_array, csc_array, coo_array])
@pytest.mark.parametrize("solver", ["dense", "iterative"])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_sparse_equals_dense(kind: Any, solver: Solver, alpha: float) -> None:
    affinity = compute_affinity(np.random.default_rng(5).normal(size=(41, 9)), kernel="cosine", sparsity=0.7)
    assert np.count_nonzero(affinity) < 0.7 * affinity.size
    given = kind(affinity)
    ours = diffusion_map(given, n_components=5, alpha=alpha, solver=solver)
    expected = diffusion_map(affinity, n_components=5, alpha=alpha, solver="dense")
    assert_allclose(ours.gradients, expected.gradients, atol=1e-10)
    assert_allclose(ours.next_eigenvalue, expected.next_eigenvalue, atol=1e-12)
    assert ours.residuals.max() < 1e-10
    assert_array_equal(given.toarray(), affinity)  # as it was


def test_stored_zeros_are_no_links() -> None:
    split = csr_array(two_pieces())
    split.data[:] = 0.5
    joined = split + csr_array(([1.0, 1.0], ([2, 7], [7, 2])), shape=(9, 9))
    joined.data[joined.data == 1.0] = 0.0
    assert joined.nnz == split.nnz + 2
    with pytest.raises(InputError, match="2 pieces"):
        diffusion_map(joined, n_components=2)
    assert joined.nnz == split.nnz + 2  # as it was


def test_links_in_one_direction_are_refused() -> None:
    upper = csr_array(np.triu(np.ones((5, 5))))
    with pytest.raises(InputError, match="symmetric"):
        diffusion_map(upper, n_components=1)


def test_components_are_orthonormal_under_the_stationary_distribution(affinity: Array) -> None:
    ours = diffusion_map(affinity, n_components=22, alpha=1, scale_by_eigenvalues=False)
    degree = affinity.sum(axis=1)
    stationary = (affinity / np.outer(degree, degree)).sum(axis=1)
    stationary /= stationary.sum()
    assert_allclose(stationary @ ours.gradients, 0, atol=1e-12)
    assert_allclose(ours.gradients.T @ (stationary[:, None] * ours.gradients), np.eye(22), atol=1e-10)
    assert np.isnan(ours.next_eigenvalue)  # all components: none is left out


def test_diffusion_time_sets_lengths_only(affinity: Array) -> None:
    plain = diffusion_map(affinity, n_components=5, scale_by_eigenvalues=False)
    at_zero = diffusion_map(affinity, n_components=5, diffusion_time=0)
    at_three = diffusion_map(affinity, n_components=5, diffusion_time=3)
    assert_allclose(at_zero.gradients, plain.gradients * plain.eigenvalues / (1 - plain.eigenvalues))
    assert_allclose(at_three.gradients, plain.gradients * plain.eigenvalues**3)
    assert_allclose(at_three.multipliers, plain.eigenvalues**3)


def test_sign_largest_entry_is_positive(affinity: Array) -> None:
    gradients = diffusion_map(affinity, n_components=22).gradients
    largest = np.abs(gradients).argmax(axis=0)
    assert (gradients[largest, np.arange(22)] > 0).all()


@pytest.mark.parametrize("solver", ["dense", "iterative"])
def test_law_regions_in_another_order(affinity: Array, solver: Solver) -> None:
    order = np.random.default_rng(1).permutation(23)
    moved = diffusion_map(affinity[np.ix_(order, order)], n_components=6, solver=solver)
    expected = diffusion_map(affinity, n_components=6).gradients[order]
    assert_allclose(moved.gradients, expected, atol=1e-10)


def test_law_units_do_not_matter(hcp: Array, hcp_map: Embedding) -> None:
    rescaled = diffusion_map(compute_affinity(1000 * hcp), n_components=30)
    assert_allclose(rescaled.gradients, hcp_map.gradients, atol=1e-7)
    doubled = diffusion_map(7 * compute_affinity(hcp), n_components=30)
    assert_allclose(doubled.gradients, hcp_map.gradients, atol=1e-9)


def two_pieces() -> Array:
    split = np.zeros((9, 9))
    split[:6, :6] = 0.5
    split[6:, 6:] = 0.5
    return split


def three_pieces() -> Array:
    """Regions 3, 7 and 10 apart from eight others, and 7 and 10 from 3."""
    split = np.zeros((11, 11))
    rows = np.array([0, 1, 3, 4, 5, 7, 8, 10])
    points = np.random.default_rng(6).normal(size=(8, 3))
    split[np.ix_(rows, rows)] = np.exp(-((points[:, None] - points) ** 2).sum(axis=2))
    split[2, 2] = split[6, 6] = split[9, 9] = 1.0
    split[6, 9] = split[9, 6] = 0.4
    return split


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_keep_largest_embeds_the_largest_piece(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    split = three_pieces()
    with pytest.raises(
        InputError, match=r"one of 8 regions, others of 2 \(regions 7, 10\); 1 .*--keep-largest"
    ):
        diffusion_map(kind(split), n_components=3)
    with caplog.at_level(logging.WARNING):
        ours = diffusion_map(kind(split), n_components=3, keep_largest=True)
    assert "3 of 11 regions have no link" in caplog.text
    assert "no gradients: 3, 7, 10." in caplog.text
    rows = np.array([0, 1, 3, 4, 5, 7, 8, 10])
    assert_array_equal(np.flatnonzero(ours.kept), rows)
    assert np.isnan(ours.gradients[~ours.kept]).all()
    alone = diffusion_map(split[np.ix_(rows, rows)], n_components=3)
    assert_allclose(ours.gradients[rows], alone.gradients, atol=1e-12)
    assert_allclose(ours.eigenvalues, alone.eigenvalues, atol=1e-14)


def test_keep_largest_changes_nothing_in_one_piece(affinity: Array, caplog: pytest.LogCaptureFixture) -> None:
    ours = diffusion_map(affinity, n_components=4, keep_largest=True)
    assert_array_equal(ours.gradients, diffusion_map(affinity, n_components=4).gradients)
    assert ours.kept.all() and not caplog.text


def test_keep_largest_never_guesses_between_equal_pieces() -> None:
    equal = np.kron(np.eye(3), np.full((3, 3), 0.5))
    with pytest.raises(InputError, match="3 pieces of the affinity have 3 regions each"):
        diffusion_map(equal, n_components=1, keep_largest=True)


def test_a_chain_of_many_links_is_one_piece() -> None:
    chain = np.eye(700) + np.diag(np.ones(699), 1) + np.diag(np.ones(699), -1)
    order = np.random.default_rng(8).permutation(700)
    assert not diffusion_map(chain[np.ix_(order, order)], n_components=1).residuals[0] > 1e-10


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_pieces_of_a_large_graph(kind: Any) -> None:
    star = np.zeros((1301, 1301))
    star[0, 1:1200] = star[1:1200, 0] = 1  # many are reached at once
    star[1199, 1250] = star[1250, 1199] = 1  # and the way on is through the last of them
    piece = pieces(kind(star))
    expected = np.zeros(1301, dtype=int)
    expected[1200:1250], expected[1251:] = np.arange(1, 51), np.arange(51, 101)
    assert_array_equal(piece, expected)


def test_sign_is_not_decided_by_the_last_bit() -> None:
    column = np.array([[0.2, -1 + 1e-13, 1.0]]).T
    assert_allclose(largest_entry_positive(column), [[-0.2], [1.0], [-1.0]], atol=1e-12)


def test_residuals_are_relative() -> None:
    vectors, values = np.array([[3.0, 0.0], [4.0, 2.0]]), np.array([-2.0, 10.0])
    image = vectors * values + [[0.3, 4.0], [0.4, 3.0]]
    assert_allclose(relative_residuals(image, vectors, values), [0.05, 0.25])


REFUSED: list[tuple[Array, dict[str, Any], str]] = [
    (np.ones((4, 3)), {}, "square"),
    (np.array([[1.0, 0.5], [0.4, 1.0]]), {"n_components": 1}, "symmetric"),
    (np.array([[1.0, np.nan], [np.nan, 1.0]]), {"n_components": 1}, "2 non-finite"),
    (np.array([[1.0, -0.5], [-0.5, 1.0]]), {"n_components": 1}, "2 negative"),
    (np.eye(5) + 1, {"n_components": 5}, "at most 4 for 5 regions"),
    (np.eye(5) + 1, {"n_components": 0}, "at least 1"),
    (np.eye(5) + 1, {"alpha": 1.5}, "alpha"),
    (np.eye(5) + 1, {"diffusion_time": -1}, "diffusion_time"),
    (two_pieces(), {}, r"2 pieces .* one of 6 regions, others of 3 \(regions 7, 8, 9\)"),
    (np.ones((6, 6)), {}, "only 0 positive eigenvalues"),
    (1.5 - np.eye(4), {"diffusion_time": 0.5}, "whole"),
    (two_pieces(), {"keep_largest": True, "n_components": 6}, "at most 5 for 6 regions"),
    (two_pieces() + 1e-20, {"n_components": 1}, "1 to rounding"),
    (
        np.eye(5) + np.exp(-np.arange(5.0))[:, None] * np.exp(-np.arange(5.0)),
        {"diffusion_time": 1e5},
        "power is 0",
    ),
]


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize(("matrix", "options", "says"), REFUSED)
def test_refuses(kind: Any, matrix: Array, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        diffusion_map(kind(matrix), **{"n_components": 2} | options)
