"""embedding/eigenpairs.py: closed forms, numpy's eigh, multiple eigenvalues, certificate, same bytes."""

import logging
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, kron
from scipy.sparse.linalg import LinearOperator
from threadpoolctl import threadpool_limits

from bjepa.gradients.embedding import Solver, diffusion_map, eigenpairs, largest_eigenpairs
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
BOTH: list[Solver] = ["dense", "iterative"]


def circle(n: int) -> Any:
    """Neighbours on a ring of n nodes (n, n)."""
    return csr_array(np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1))


def torus(n_a: int, n_b: int, *, own: float, a: float, b: float) -> tuple[Any, Array, list[Array]]:
    """Affinity of a lopsided torus; eigenvalues of its Markov matrix; projectors on their eigenspaces.

    Every combination of a wave along each direction is an eigenvector, with sine and cosine the same value.
    """
    affinity = (
        own * eye_array(n_a * n_b)
        + a * kron(circle(n_a), eye_array(n_b))
        + b * kron(eye_array(n_a), circle(n_b))
    )
    waves = [np.exp(2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n) for n in (n_a, n_b)]
    values = [np.cos(2 * np.pi * np.arange(n) / n) for n in (n_a, n_b)]
    every = (own + 2 * a * values[0][:, None] + 2 * b * values[1]) / (own + 2 * a + 2 * b)
    vectors = np.kron(waves[0], waves[1])  # (n_a n_b, n_a n_b), columns in the order of every.ravel()
    order = np.argsort(-every.ravel(), kind="stable")
    descending = every.ravel()[order]
    starts = np.flatnonzero(np.append(True, np.diff(descending) < -1e-9))
    spaces = np.split(vectors[:, order], starts[1:], axis=1)
    return csr_array(affinity), descending, [(space @ space.conj().T).real for space in spaces]


def grid(sizes: tuple[int, ...], weights: tuple[float, ...]) -> Any:
    """All nodes linked that differ in one coordinate only: very multiple eigenvalues."""
    total = csr_array((np.prod(sizes), np.prod(sizes)))
    for axis, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        factors = [eye_array(other) for other in sizes]
        factors[axis] = csr_array(np.full((size, size), weight))
        product = factors[0]
        for factor in factors[1:]:
            product = kron(product, factor)
        total = total + product
    return csr_array(total)


@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize("dense", [True, False])
def test_torus_in_closed_form(solver: Solver, dense: bool) -> None:
    affinity, values, spaces = torus(11, 17, own=0.8, a=1.0, b=0.6)
    sizes = [round(space.trace()) for space in spaces]
    assert sizes[:6] == [1, 2, 2, 2, 4, 4]  # double and more
    n_components = sum(sizes[:7]) - 1
    given = affinity.toarray() if dense else affinity
    ours = diffusion_map(given, n_components=n_components, solver=solver, scale_by_eigenvalues=False)
    assert ours.solver == solver
    assert_allclose(ours.eigenvalues, values[1 : n_components + 1], atol=1e-8)
    assert_allclose(ours.next_eigenvalue, values[n_components + 1], atol=1e-8)
    start = 0
    for size, space in zip(sizes[1:7], spaces[1:7], strict=True):
        own = ours.gradients[:, start : start + size]
        assert_allclose(own @ own.T / len(own), space, atol=1e-8)  # within it they may rotate
        start += size
    assert ours.residuals.max() <= 1e-10


@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize("n_pairs", [12, 26])
def test_every_copy_of_a_multiple_eigenvalue_is_found(solver: Solver, n_pairs: int) -> None:
    matrix = grid((7, 5, 4, 3), (0.9, 1.1, 1.3, 1.7))  # one Lanczos run leaves copies out
    expected = np.linalg.eigvalsh(matrix.toarray())[::-1][:n_pairs]
    values, vectors, used = largest_eigenpairs(matrix, n_pairs, solver=solver)
    assert used == solver
    assert_allclose(values, expected, atol=1e-10)
    assert_allclose(matrix @ vectors, vectors * values, atol=1e-10)
    assert_allclose(vectors.T @ vectors, np.eye(n_pairs), atol=1e-10)


@pytest.mark.parametrize("solver", BOTH)
def test_equals_numpy_with_eigenvalues_of_both_signs(solver: Solver) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(83, 83))
    matrix = matrix + matrix.T - 9 * np.eye(83)
    matrix.flags.writeable = False
    expected, axes = np.linalg.eigh(matrix)
    assert expected[-47] < 0 < expected[-1]
    operator = LinearOperator((83, 83), matvec=lambda x: matrix @ x, dtype=np.float64)
    for given in (matrix, csr_array(matrix), operator):
        values, vectors, _ = largest_eigenpairs(given, 47, solver=solver)
        assert_allclose(values, expected[::-1][:47], atol=1e-11)
        same = np.abs((vectors * axes[:, ::-1][:, :47]).sum(axis=0))
        assert_allclose(same, 1, atol=1e-9)


def test_auto_takes_what_is_faster() -> None:
    small, large = csr_array(circle(41)), csr_array(circle(607))
    assert largest_eigenpairs(small, 5)[2] == "dense"
    assert (
        largest_eigenpairs(large + 600 * csr_array(([1.0], ([3], [3])), shape=(607, 607)), 1)[2]
        == "iterative"
    )
    assert largest_eigenpairs(large, 200)[2] == "dense"  # many pairs


def low_rank(n: int) -> Array:
    """Its fifth eigenvalue is too small for a relative residual of 1e-10."""
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(n, 5)))[0]
    matrix: Array = (axes * [1.0, 0.8, 0.6, 0.4, 1e-9]) @ axes.T
    return (matrix + matrix.T) / 2


def test_what_cannot_be_certified_is_solved_densely(caplog: pytest.LogCaptureFixture) -> None:
    matrix = low_rank(61)
    assert largest_eigenpairs(matrix, 4, solver="iterative")[2] == "iterative"
    with caplog.at_level(logging.WARNING):
        values, _, used = largest_eigenpairs(matrix, 5, solver="iterative")
    assert used == "dense"
    assert "pair 5 (eigenvalue 1e-09) has a relative residual" in caplog.text
    assert_allclose(values, [1.0, 0.8, 0.6, 0.4, 1e-9], atol=1e-14)


def test_refuses_what_can_neither_be_certified_nor_solved_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenpairs, "MAX_DENSE", 60)
    with pytest.raises(InputError, match=r"cannot be certified: pair 5 .*at most 60 rows"):
        largest_eigenpairs(low_rank(61), 5, solver="iterative")


def test_a_wrong_pair_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = eigenpairs._lanczos

    def inexact(*args: Any, **options: Any) -> tuple[Array, Array]:
        values, vectors = exact(*args, **options)
        return values, vectors + 1e-8 * np.roll(vectors, 1, axis=0)

    monkeypatch.setattr(eigenpairs, "_lanczos", inexact)
    monkeypatch.setattr(eigenpairs, "MAX_DENSE", 60)
    with pytest.raises(InputError, match="relative residual"):
        largest_eigenpairs(np.diag(np.linspace(1, 2, 61) ** 9), 4, solver="iterative")


def test_residuals_are_relative_to_the_distance_from_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.eye(61) - low_rank(61)[::-1, ::-1]  # the largest are 1 - 0, many times, exactly the origin
    values, _, used = largest_eigenpairs(matrix, 3, solver="iterative", origin=1.0)
    assert used == "iterative"
    assert_allclose(values, 1, atol=1e-14)
    monkeypatch.setattr(eigenpairs, "MAX_DENSE", 60)
    near = np.diag(np.linspace(0, 1, 61)) + np.diag(np.full(60, 0.01), 1) + np.diag(np.full(60, 0.01), -1)
    largest = np.linalg.eigvalsh(near)[-1]
    with pytest.raises(InputError, match="pair 1"):
        largest_eigenpairs(near, 3, solver="iterative", origin=largest + 1e-9)


@pytest.mark.parametrize("solver", BOTH)
def test_same_bytes_in_every_run_and_with_any_number_of_threads(solver: Solver) -> None:
    points = np.random.default_rng(2).normal(size=(700, 40))
    affinity = np.exp(-((points[:, None] - points) ** 2).mean(axis=2))
    runs = []
    for n_threads in (1, 2, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            runs.append(diffusion_map(affinity, n_components=7, solver=solver))
    for run in runs[1:]:
        assert_array_equal(run.gradients, runs[0].gradients)
        assert_array_equal(run.residuals, runs[0].residuals)


@pytest.mark.parametrize(
    ("n_pairs", "solver", "says"),
    [
        (3, "lanczos", "solver must be one of"),
        (0, "auto", "1 to 13, got 0"),
        (14, "auto", "1 to 13, got 14"),
        (12, "iterative", "at most 11 pairs of 13 rows, got 12"),
    ],
)
def test_refuses(n_pairs: int, solver: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        largest_eigenpairs(circle(13), n_pairs, solver=solver)
