"""gradients/diffusion.py: closed form, general eigensolver, BrainSpace, published maps, laws, refusals."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.embedding import Embedding, diffusion_map
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
HCP = "brainspace_main_group_schaefer_400_7Networks_mean_connectivity.csv"


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


def test_hcp_equals_the_general_eigensolver(hcp: Array, hcp_map: Embedding) -> None:
    affinity = compute_affinity(hcp)
    degree = affinity.sum(axis=1)
    kernel = affinity / np.sqrt(degree[:, None] * degree)
    values = np.sort(np.linalg.eigvals(kernel / kernel.sum(axis=1)[:, None]).real)[::-1]
    assert_allclose(hcp_map.eigenvalues, values[1:31], atol=1e-10)
    assert_allclose(hcp_map.next_eigenvalue, values[31], atol=1e-10)
    assert hcp_map.residuals.max() < 1e-10


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


def test_ring_in_closed_form() -> None:
    # neighbours at distance 1 and 2 on a ring: the Markov matrix is circulant
    n, w0, w1, w2 = 13, 1.0, 0.7, 0.2
    steps = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    steps = np.minimum(steps, n - steps)
    ring = np.select([steps == 0, steps == 1, steps == 2], [w0, w1, w2], 0.0)
    ours = diffusion_map(ring, n_components=4, scale_by_eigenvalues=False)

    angle = 2 * np.pi * np.array([1, 2]) / n
    wave = (w0 + 2 * w1 * np.cos(angle) + 2 * w2 * np.cos(2 * angle)) / (w0 + 2 * w1 + 2 * w2)
    assert_allclose(ours.eigenvalues, wave.repeat(2), atol=1e-12)
    place = np.outer(np.arange(n), angle)  # (n, 2)
    for number in range(2):
        closed = np.sqrt(2) * np.stack([np.cos(place[:, number]), np.sin(place[:, number])], axis=1)
        pair = ours.gradients[:, 2 * number : 2 * number + 2]
        assert_allclose(pair @ pair.T, closed @ closed.T, atol=1e-8)  # the pair may rotate
    assert ours.near_degenerate_pairs() == [(1, 2), (3, 4)]


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


def test_law_regions_in_another_order(affinity: Array) -> None:
    order = np.random.default_rng(1).permutation(23)
    moved = diffusion_map(affinity[np.ix_(order, order)], n_components=6)
    assert_allclose(moved.gradients, diffusion_map(affinity, n_components=6).gradients[order], atol=1e-10)


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


REFUSED: list[tuple[Array, dict[str, float], str]] = [
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
]


@pytest.mark.parametrize(("matrix", "options", "says"), REFUSED)
def test_refuses(matrix: Array, options: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        diffusion_map(matrix, **{"n_components": 2} | options)  # type: ignore[arg-type]
