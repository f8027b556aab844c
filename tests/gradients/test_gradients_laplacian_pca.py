"""embedding/laplacian.py, pca.py, embed.py: scikit-learn, BrainSpace, scipy, closed form, laws, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.embedding import (
    APPROACHES,
    Approach,
    Embedding,
    Solver,
    diffusion_map,
    embed,
    laplacian_eigenmaps,
    principal_components,
)
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
BOTH: list[Solver] = ["dense", "iterative"]
HCP = "brainspace_main_group_schaefer_400_7Networks_mean_connectivity.csv"


@pytest.fixture
def affinity() -> Array:
    points = np.random.default_rng(0).normal(size=(31, 6))
    affinity = compute_affinity(points, kernel="cosine", sparsity=0.4)
    affinity.flags.writeable = False
    return affinity


@pytest.fixture(scope="module")
def hcp(shared: Path) -> Array:
    return compute_affinity(np.loadtxt(shared / "data/group_fc" / HCP, delimiter=","))


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize("normalized", [True, False])
def test_laplacian_solves_the_generalised_problem(
    affinity: Array, normalized: bool, solver: Solver, kind: Any
) -> None:
    ours = laplacian_eigenmaps(kind(affinity), n_components=6, normalized=normalized, solver=solver)
    links = affinity - np.diag(np.diag(affinity))
    degree = np.diag(links.sum(axis=1))
    values, vectors = eigh(degree - links, degree if normalized else np.eye(31))
    assert_allclose([*ours.eigenvalues, ours.next_eigenvalue], values[1:8], atol=1e-12)
    vectors = vectors[:, 1:7] * np.sign((vectors[:, 1:7] * ours.gradients).sum(axis=0))
    assert_allclose(ours.gradients, vectors, atol=1e-10)  # unit length: u' D u = 1, or u' u = 1
    assert ours.residuals.max() < 1e-10
    assert (ours.approach, ours.solver) == ("le", solver)
    assert ours.origin == (1 if normalized else pytest.approx(np.trace(degree) / 31))


def test_laplacian_equals_scikit_learn(affinity: Array) -> None:
    from sklearn.manifold import spectral_embedding

    ours = laplacian_eigenmaps(affinity, n_components=5)
    theirs = spectral_embedding(affinity, n_components=5, drop_first=True, random_state=0)
    theirs *= np.sign((theirs * ours.gradients).sum(axis=0))
    assert_allclose(ours.gradients, theirs, atol=1e-10)


@pytest.mark.parametrize("normalized", [True, False])
def test_hcp_laplacian_equals_brainspace(hcp: Array, normalized: bool) -> None:
    from brainspace.gradient.embedding import laplacian_eigenmaps as brainspace_eigenmaps

    ours = laplacian_eigenmaps(hcp, n_components=30, normalized=normalized)
    maps, values = brainspace_eigenmaps(hcp, n_components=30, norm_laplacian=normalized, random_state=0)
    assert_allclose(ours.eigenvalues, values, rtol=1e-11)
    assert_allclose(ours.gradients, maps, atol=1e-9)  # signs too
    assert ours.residuals.max() <= 1e-10


def test_laplacian_is_a_diffusion_map_without_alpha(affinity: Array) -> None:
    links = affinity - np.diag(np.diag(affinity))
    ours = laplacian_eigenmaps(affinity, n_components=4)
    diffused = diffusion_map(links, n_components=4, alpha=0, scale_by_eigenvalues=False)
    assert_allclose(ours.eigenvalues, 1 - diffused.eigenvalues, atol=1e-12)
    lengths = np.linalg.norm(ours.gradients, axis=0) / np.linalg.norm(diffused.gradients, axis=0)
    assert_allclose(ours.gradients, diffused.gradients * lengths, atol=1e-10)
    assert_allclose(ours.relative_gaps(), diffused.relative_gaps(), atol=1e-10)  # so the same pairs are close
    assert ours.near_degenerate_pairs() == diffused.near_degenerate_pairs()


@pytest.mark.parametrize("solver", BOTH)
def test_laplacian_of_a_ring_in_closed_form(solver: Solver) -> None:
    n = 37
    ring = 5 * np.eye(n) + np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1)
    ours = laplacian_eigenmaps(ring, n_components=4, solver=solver)
    assert_allclose(ours.eigenvalues, (1 - np.cos(2 * np.pi * np.array([1, 2]) / n)).repeat(2), atol=1e-12)
    assert ours.near_degenerate_pairs() == [(1, 2), (2, 3), (3, 4)]  # 1 - l: 0.986 0.986 0.943 0.943


def test_small_eigenvalues_of_the_laplacian_are_certified_by_themselves(affinity: Array) -> None:
    weak = np.kron(np.eye(2), affinity)
    weak[3, 40] = weak[40, 3] = 1e-8
    ours = laplacian_eigenmaps(weak, n_components=1, solver="iterative")
    assert ours.eigenvalues[0] < 1e-8 and ours.residuals[0] > 1e-10
    assert ours.solver == "dense"  # Lanczos has no residual of 1e-10 of it either


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("solver", BOTH)
def test_principal_components_equal_scikit_learn(affinity: Array, solver: Solver, kind: Any) -> None:
    from sklearn.decomposition import PCA

    ours = principal_components(kind(affinity), n_components=6, solver=solver)
    theirs = PCA(7, svd_solver="full")
    scores = theirs.fit_transform(affinity)[:, :6]
    assert_allclose([*ours.eigenvalues, ours.next_eigenvalue], theirs.explained_variance_, rtol=1e-11)
    assert_allclose(ours.gradients, scores * np.sign((scores * ours.gradients).sum(axis=0)), atol=1e-10)
    assert_allclose(ours.multipliers, np.linalg.norm(ours.gradients, axis=0), rtol=1e-12)
    assert_allclose(ours.gradients.mean(axis=0), 0, atol=1e-12)
    assert ours.residuals.max() < 1e-10
    assert (ours.approach, ours.solver) == ("pca", solver)


def test_hcp_principal_components_equal_brainspace(hcp: Array) -> None:
    from brainspace.gradient.embedding import PCAMaps

    ours = principal_components(hcp, n_components=30)
    theirs = PCAMaps(n_components=30, random_state=0).fit(hcp)
    assert_allclose(ours.eigenvalues, theirs.lambdas_, rtol=1e-10)
    maps = theirs.maps_ * np.sign((theirs.maps_ * ours.gradients).sum(axis=0))
    assert_allclose(ours.gradients, maps, atol=1e-9)
    assert ours.residuals.max() <= 1e-10


@pytest.mark.parametrize("approach", APPROACHES)
def test_laws_of_every_approach(affinity: Array, approach: Approach) -> None:
    ours = embed(affinity, approach=approach, n_components=5)
    assert ours.approach == approach
    largest = np.abs(ours.gradients).argmax(axis=0)
    assert (ours.gradients[largest, np.arange(5)] > 0).all()
    order = np.random.default_rng(1).permutation(31)
    moved = embed(affinity[np.ix_(order, order)], approach=approach, n_components=5)
    assert_allclose(moved.gradients, ours.gradients[order], atol=1e-9)
    points = np.random.default_rng(0).normal(size=(31, 6))
    scaled = embed(
        compute_affinity(800 * points, kernel="cosine", sparsity=0.4), approach=approach, n_components=5
    )
    assert_allclose(scaled.gradients, ours.gradients, atol=1e-9)
    assert_array_equal(embed(affinity, approach=approach, n_components=5).gradients, ours.gradients)


@pytest.mark.parametrize("approach", APPROACHES)
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_keep_largest_of_every_approach(affinity: Array, approach: Approach, kind: Any) -> None:
    split = np.zeros((36, 36))
    split[:31, :31] = affinity
    split[31:, 31:] = 0.5
    ours = embed(kind(split), approach=approach, n_components=3, keep_largest=True)
    alone = embed(affinity, approach=approach, n_components=3)
    assert_array_equal(np.flatnonzero(~ours.kept), np.arange(31, 36))
    assert_allclose(ours.gradients[:31], alone.gradients, atol=1e-9)
    assert np.isnan(ours.gradients[31:]).all()
    if approach == "pca":  # pieces are no obstacle
        assert embed(kind(split), approach=approach, n_components=3).kept.all()
    else:
        with pytest.raises(InputError, match="2 pieces"):
            embed(kind(split), approach=approach, n_components=3)


def test_embed_is_the_function_of_the_approach(affinity: Array) -> None:
    own: dict[Approach, Callable[..., Embedding]] = {
        "dm": diffusion_map,
        "le": laplacian_eigenmaps,
        "pca": principal_components,
    }
    for approach, function in own.items():
        expected = function(affinity, n_components=4, solver="iterative")
        ours = embed(affinity, approach=approach, n_components=4, solver="iterative")
        assert_array_equal(ours.gradients, expected.gradients)
        assert ours.solver == "iterative"
    options: dict[str, Any] = {"alpha": 1, "diffusion_time": 2, "scale_by_eigenvalues": False}
    assert_array_equal(
        embed(affinity, n_components=4, **options).gradients,
        diffusion_map(affinity, n_components=4, **options).gradients,
    )


@pytest.mark.parametrize("approach", ["le", "pca"])
@pytest.mark.parametrize("option", [{"alpha": 0}, {"diffusion_time": 0}, {"scale_by_eigenvalues": False}])
def test_options_of_the_diffusion_map_are_refused(affinity: Array, approach: Approach, option: Any) -> None:
    for refusing in (
        lambda: embed(affinity, approach=approach, n_components=2, **option),
        lambda: GradientOptions(approach=approach, **option),
    ):
        with pytest.raises(
            InputError, match=f"{next(iter(option))}: approach '{approach}' has no such option"
        ):
            refusing()
    assert GradientOptions(approach=approach).parameters()["alpha"] is None


def test_options_reach_the_approach_and_the_files(affinity: Array) -> None:
    parameters = GradientOptions(diffusion_time=3).parameters()
    assert parameters["alpha"] == 0.5 and parameters["scale_by_eigenvalues"] is True
    assert parameters["diffusion_time"] == 3 and parameters["approach"] == "dm"
    fc = np.random.default_rng(3).normal(size=(29, 29))
    for approach in APPROACHES:
        options = GradientOptions(approach=approach, n_components=3, sparsity=0.5)
        made, ours = embed_connectivity(fc, options)
        assert_array_equal(ours.gradients, embed(made, approach=approach, n_components=3).gradients)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"approach": "PCA"}, "approach must be one of"),
        ({"approach": "le", "n_components": 31}, "at most 30 for 31 regions"),
        ({"approach": "pca", "n_components": 31}, "at most 30 for 31 regions"),
        ({"approach": "pca", "n_components": 0}, "at least 1"),
        ({"approach": "le", "solver": "exact"}, "solver must be one of"),
    ],
)
def test_refuses(affinity: Array, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        embed(affinity, **options)


def test_refuses_components_without_variance() -> None:
    with pytest.raises(InputError, match="only 2 positive eigenvalues"):
        principal_components(np.kron(np.diag([1.0, 2.0, 3.0]), np.ones((3, 3))), n_components=3)
