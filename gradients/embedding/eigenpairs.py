"""The largest eigenpairs of a symmetric matrix: all of them, exact, the same in every run.

dense      LAPACK (dsyevr) for the pairs that are asked for. Nothing can be left out.
iterative  Lanczos (ARPACK) from a fixed start at tolerance 0, then a certificate, so that it is as good:
  1. residual      ||S u - l u|| <= 1e-10 |l| for every pair
  2. orthonormal   to 1e-10
  3. complete      a second run from another start, on the matrix whose found pairs are moved to the bottom
                   of the spectrum, finds nothing larger than the last pair. If it does (Lanczos sees one
                   vector of an exactly multiple eigenvalue, rounding shows it the others) the missed vector
                   joins the others (Rayleigh-Ritz), until nothing is missed
If a certificate fails: three times as many Lanczos vectors, then dense up to MAX_DENSE rows, else an error.

Memory of the iterative way: the matrix, and some 3 `n_pairs` vectors; a sparse matrix stays sparse.
BLAS runs in one thread here, so the same matrix gives the same bytes whatever the number of threads; another
BLAS or processor differs by rounding. Products of a large matrix read each half of it only once (dsymv).

Source: Lehoucq, Sorensen & Yang 1998, ARPACK Users' Guide, doi:10.1137/1.9780898719628; deflation and
Rayleigh-Ritz: Saad 2011, Numerical Methods for Large Eigenvalue Problems, doi:10.1137/1.9781611970739.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Solver = Literal["auto", "dense", "iterative"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
Product = Callable[[Array], Array]  # of the matrix and a vector (n,)

MAX_RESIDUAL = 1e-10  # relative
MAX_DENSE = 10_000  # rows: 0.8 GB a matrix, three of them, minutes
# ms for 32 pairs of an affinity, dense / iterative with its certificate, on 2 cores: 300 rows 4.2 / 4.8,
# 400 6.9 / 4.8, 450 8.6 / 7.0, 600 15 / 9, 1,000 48 / 17, 2,000 300 / 64, 4,000 4,150 / 490
ITERATIVE_FROM = 350
_SHARE_ITERATIVE = 0.2  # more pairs than this share of the rows: dense
_MISSED = 1e-12  # of the largest value: closer to the last pair is a tie, and nothing is missed


def largest_eigenpairs(
    symmetric: Any, n_pairs: int, *, solver: Solver = "auto", origin: float = 0.0
) -> tuple[Array, Array, Literal["dense", "iterative"]]:
    """The `n_pairs` largest eigenvalues of a symmetric matrix, and their unit eigenvectors.

    Parameters
    ----------
    symmetric
        (n, n) float64 array, scipy sparse array, or LinearOperator. Not modified.
    n_pairs
        1 to n.
    solver
        `auto`: iterative for sparse matrices and from ITERATIVE_FROM rows on, where few pairs are wanted.
    origin
        Residuals are relative to |value - origin|: for values that are a difference from it.

    Returns
    -------
    values (n_pairs,) descending, vectors (n, n_pairs), and the solver that was used.

    Raises
    ------
    InputError
        Another solver; `iterative` for nearly all pairs; no certified pairs and too many rows for `dense`.
    """
    n = symmetric.shape[0]
    if solver not in SOLVERS:
        raise InputError(f"solver must be one of {SOLVERS}, got {solver!r}.")
    if not 1 <= n_pairs <= n:
        raise InputError(f"n_pairs must be 1 to {n}, got {n_pairs}.")
    few = n_pairs <= _SHARE_ITERATIVE * n
    if solver == "iterative" and n_pairs > n - 2:
        raise InputError(
            f"the iterative solver finds at most {n - 2} pairs of {n} rows, got {n_pairs}.",
            hint="Use the solver dense, or auto.",
        )
    with one_blas_thread():
        if solver == "dense" or (solver == "auto" and not (few and n >= ITERATIVE_FROM)):
            if solver == "dense" or n <= MAX_DENSE:
                return *_dense(symmetric, n_pairs), "dense"
        product = _product(symmetric)
        for n_vectors in (2 * n_pairs + 1, 6 * n_pairs + 20):
            values, vectors, problem = _iterative(product, n, n_pairs, min(n, max(20, n_vectors)), origin)
            if not problem:
                return values, vectors, "iterative"
            log.info("iterative eigensolver: %s", problem)
        if n <= MAX_DENSE:
            log.warning("iterative eigensolver: %s; the dense one is used (%d rows).", problem, n)
            return *_dense(symmetric, n_pairs), "dense"
    raise InputError(
        f"the {n_pairs} largest eigenpairs of {n} rows cannot be certified: {problem}. The dense solver "
        f"takes at most {MAX_DENSE} rows.",
        hint="Ask for fewer components (--n-components).",
    )


def _dense(symmetric: Any, n_pairs: int) -> tuple[Array, Array]:
    from scipy.linalg import eigh

    n = symmetric.shape[0]
    matrix = symmetric if isinstance(symmetric, np.ndarray) else symmetric @ np.eye(n)
    values, vectors = eigh(matrix, subset_by_index=(n - n_pairs, n - 1), driver="evr")
    return values[::-1], np.ascontiguousarray(vectors[:, ::-1])


def _product(symmetric: Any) -> Product:
    if not isinstance(symmetric, np.ndarray):
        return lambda x: np.asarray(symmetric @ x)
    from scipy.linalg.blas import dsymv

    columns = np.ascontiguousarray(symmetric, dtype=np.float64).T  # contiguous as BLAS wants it, no copy
    return lambda x: np.asarray(dsymv(1.0, columns, x))


def _iterative(
    product: Product, n: int, n_pairs: int, n_vectors: int, origin: float
) -> tuple[Array, Array, str]:
    """Pairs by Lanczos, and what is wrong with them ("" if nothing is)."""
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence

    values, vectors = np.zeros(0), np.zeros((n, 0))
    try:
        values, vectors = _lanczos(product, n, n_pairs, n_vectors, start=_start(n, seed=0), tolerance=0)
        for attempt in range(1, n_pairs + 2):
            missed = _left_out(product, values, vectors, seed=attempt)
            if missed is None:
                break
            values, vectors = _rayleigh_ritz(product, np.column_stack([vectors, missed]), n_pairs)
        else:
            return values, vectors, "the search for eigenvalues left out does not end"
    except ArpackNoConvergence:
        return values, vectors, f"no convergence with {n_vectors} Lanczos vectors"
    except ArpackError as error:
        return values, vectors, f"ARPACK says: {error}"
    return values, vectors, _not_certified(product, values, vectors, origin)


def _lanczos(
    product: Product, n: int, n_pairs: int, n_vectors: int, *, start: Array, tolerance: float
) -> tuple[Array, Array]:
    """Largest eigenpairs, descending."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    # ARPACK draws a new start where the space of the first is exhausted; older ones do it from a fixed seed
    random = {"rng": np.random.default_rng(0)} if "rng" in inspect.signature(eigsh).parameters else {}
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, n_pairs, which="LA", v0=start, ncv=n_vectors, tol=tolerance, **random)
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[:, order]


def _start(n: int, *, seed: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, n)


def _left_out(product: Product, values: Array, vectors: Array, *, seed: int) -> Array | None:
    """An eigenvector (n,) that is not among `vectors`, of a value above the last one; None: there is none.

    Looked for among vectors orthogonal to those found, whose values are moved below all that matters.
    """
    n, scale = len(vectors), float(np.abs(values).max())
    down = values - values[-1] + scale

    def rest(x: Array) -> Array:
        moved: Array = product(x) - vectors @ (down * (vectors.T @ x))
        return moved

    start = _start(n, seed=seed)
    start -= vectors @ (vectors.T @ start)
    n_vectors = min(n, 20)
    largest, _ = _lanczos(rest, n, 1, n_vectors, start=start, tolerance=1e-8)  # the value to 1e-8 or better
    if largest[0] - values[-1] <= _MISSED * scale:
        return None
    _, missed = _lanczos(rest, n, 1, n_vectors, start=start, tolerance=0)
    return missed[:, 0]


def _rayleigh_ritz(product: Product, vectors: Array, n_pairs: int) -> tuple[Array, Array]:
    """The best pairs in the space that `vectors` span."""
    basis = np.linalg.qr(vectors)[0]  # (n, k)
    image = np.stack([product(column) for column in basis.T], axis=1)
    small = basis.T @ image
    values, turns = np.linalg.eigh((small + small.T) / 2)
    return values[::-1][:n_pairs], basis @ turns[:, ::-1][:, :n_pairs]


def _not_certified(product: Product, values: Array, vectors: Array, origin: float) -> str:
    image = np.stack([product(column) for column in vectors.T], axis=1)  # (n, k)
    errors = np.linalg.norm(image - vectors * values, axis=0)  # (k,)
    size = np.abs(values - origin)
    # a value that is 0 to rounding has no relative residual
    rounding = len(vectors) * np.finfo(np.float64).eps * float(np.abs(values).max())
    allowed = np.where(size <= rounding, rounding, MAX_RESIDUAL * size)
    if (errors > allowed).any():
        worst = int((errors / allowed).argmax())
        return (
            f"pair {worst + 1} (eigenvalue {values[worst]:.3g}) has a relative residual of "
            f"{errors[worst] / max(size[worst], rounding):.1e}, above {MAX_RESIDUAL:g}"
        )
    skew = float(np.abs(vectors.T @ vectors - np.eye(len(values))).max())
    return f"vectors are orthonormal only to {skew:.1e}" if skew > MAX_RESIDUAL else ""
