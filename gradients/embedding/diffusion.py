"""Diffusion map of an affinity matrix, exact.

Order of operations (d(X) is the vector of row sums of X):
  1. L  = A / (d(A)_i d(A)_j)^alpha            anisotropic normalisation; alpha 0.5 in the paper
  2. M  = L / d(L)_i                           Markov matrix, rows sum to 1; not symmetric
  3. S  = L / (d(L)_i d(L)_j)^(1/2)            its symmetric conjugate, same eigenvalues: eigenpairs.py
  4. psi = u / u_0                             right eigenvectors of M; the first, constant, is dropped
  5. gradients = psi * multiplier              lambda / (1 - lambda) at time 0 (all times), else lambda^t
psi has mean 0 and mean square 1 under the stationary distribution of M.
S is formed, L and M are not: with q = d(A)^-alpha and s = q / d(L)^(1/2), S_ij = s_i A_ij s_j.

Source: Coifman & Lafon 2006, doi:10.1016/j.acha.2006.04.006; time 0: Margulies et al. 2016,
doi:10.1073/pnas.1608282113.
Differs from BrainSpace, which hands the non-symmetric M to a symmetric Lanczos solver started at random:
its single components move with the seed. Differs also in taking the largest eigenvalues, not the largest in
magnitude (the same where none is negative, as with the kernel normalized_angle), and in refusing a
disconnected graph.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.embedding.eigenpairs import Solver, largest_eigenpairs
from bjepa.gradients.embedding.embedding import Embedding, largest_entry_positive
from bjepa.gradients.embedding.graph import (
    as_affinity,
    check_count,
    kept_regions,
    refuse_zero,
    relative_residuals,
    restrict,
)
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
_BLOCK = 1024  # rows of a sparse matrix at a time


def diffusion_map(
    affinity: Any,
    *,
    n_components: int = 30,
    alpha: float = 0.5,
    diffusion_time: float = 0,
    scale_by_eigenvalues: bool = True,
    keep_largest: bool = False,
    solver: Solver = "auto",
) -> Embedding:
    """Diffusion map of `affinity`.

    Parameters
    ----------
    affinity
        (R, R), dense or scipy sparse, symmetric, not negative, finite, connected. Not modified.
    n_components
        1 to R - 1.
    alpha
        0 to 1: how much the density of regions is divided out.
    diffusion_time
        0 (sum over all times) or a positive number of steps.
    scale_by_eigenvalues
        If false, gradients are the eigenvectors psi themselves.
    keep_largest
        Of a graph in several pieces embed the largest one; other rows are NaN.
    solver
        `auto`, `dense` or `iterative`; both are exact (see eigenpairs.py).

    Returns
    -------
    Embedding
        float64. Sign: the entry of largest magnitude in each component is positive.

    Raises
    ------
    InputError
        Not such a matrix or option; graph in several pieces; fewer non-zero eigenvalues than components.
    """
    _check_options(alpha, diffusion_time)
    affinity = as_affinity(affinity)
    kept = kept_regions(affinity, keep_largest=keep_largest)
    affinity = restrict(affinity, kept)  # (K, K)
    n_rois = affinity.shape[0]
    check_count(n_components, n_rois)

    with one_blas_thread():
        q = np.asarray(affinity.sum(axis=1)) ** -alpha  # (K,)
        degree = q * (affinity @ q)  # d(L)
        root = np.sqrt(degree)
        conjugate = scaled(affinity, q / root)  # S
        wanted = min(n_components + 2, n_rois)  # the trivial one, and the first that is left out
        values, vectors, used = largest_eigenpairs(conjugate, wanted, solver=solver)
        del conjugate
        # u_0 is known: the root of the stationary distribution. The solver's own carries rounding.
        psi = vectors[:, 1 : n_components + 1] / (root / np.linalg.norm(root))[:, None]  # (K, C)
        values, next_value = values[1 : n_components + 1], values[n_components + 1 :]
        _check_eigenvalues(values, diffusion_time, n_rois=n_rois)
        image = (q / degree)[:, None] * (affinity @ (q[:, None] * psi))  # M psi

    multipliers = _multipliers(values, diffusion_time)
    gradients = largest_entry_positive(psi)
    if scale_by_eigenvalues:
        gradients = gradients * np.abs(multipliers)  # the sign of an odd power of lambda < 0 is arbitrary too
    return Embedding(
        gradients=gradients,
        eigenvalues=values,
        multipliers=multipliers,
        residuals=relative_residuals(image, psi, values),
        next_eigenvalue=float(next_value[0]) if len(next_value) else float("nan"),
        approach="dm",
        solver=used,
    ).in_all_regions(kept)


def scaled(matrix: Any, factors: Array) -> Any:
    """factors_i matrix_ij factors_j (n, n), dense or sparse as the matrix; exactly symmetric if that is."""
    if isinstance(matrix, np.ndarray):
        product: Array = np.multiply.outer(factors, factors)
        product *= matrix
        return product
    result = matrix.copy()
    for start in range(0, len(factors), _BLOCK):
        ends = result.indptr[start : start + _BLOCK + 1]
        own = slice(ends[0], ends[-1])
        of_rows = np.repeat(factors[start : start + _BLOCK], np.diff(ends))
        result.data[own] *= of_rows * factors[result.indices[own]]
    return result


def _check_options(alpha: float, diffusion_time: float) -> None:
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha}.", hint="0.5 is the usual value.")
    if not (diffusion_time >= 0 and np.isfinite(diffusion_time)):
        raise InputError(f"diffusion_time must be 0 or positive, got {diffusion_time}.")


def _check_eigenvalues(values: Array, diffusion_time: float, *, n_rois: int) -> None:
    refuse_zero(values, 1.0, n_rois=n_rois)
    if values[0] >= 1 - n_rois * np.finfo(np.float64).eps and diffusion_time == 0:
        raise InputError(
            "an eigenvalue of the Markov matrix is 1 to rounding error: the affinity hangs together only by "
            "links that are too weak to count, and the sum over all times is infinite.",
            hint="Lower the sparsity, set such links to zero, or use a positive diffusion time.",
        )
    if diffusion_time != int(diffusion_time) and (values < 0).any():
        raise InputError(
            f"diffusion_time must be whole where eigenvalues are negative, got {diffusion_time}.",
            hint="Use the kernel normalized_angle, whose eigenvalues are positive, or fewer components.",
        )


def _multipliers(values: Array, diffusion_time: float) -> Array:
    multipliers: Array = values / (1 - values) if diffusion_time == 0 else values**diffusion_time
    vanished = np.abs(multipliers) < np.finfo(np.float64).tiny
    if vanished.any():
        raise InputError(
            f"diffusion_time {diffusion_time:g} leaves nothing of component {int(vanished.argmax()) + 1} "
            f"(eigenvalue {values[vanished.argmax()]:.3g}, whose power is 0).",
            hint="Use a shorter diffusion time, or fewer components.",
        )
    return multipliers
