"""Diffusion map of an affinity matrix, exact.

Order of operations (d(X) is the vector of row sums of X):
  1. L  = A / (d(A)_i d(A)_j)^alpha            anisotropic normalisation; alpha 0.5 in the paper
  2. M  = L / d(L)_i                           Markov matrix, rows sum to 1; not symmetric
  3. S  = L / (d(L)_i d(L)_j)^(1/2)            its symmetric conjugate, same eigenvalues: dense eigh
  4. psi = u / u_0                             right eigenvectors of M; the first, constant, is dropped
  5. gradients = psi * multiplier              lambda / (1 - lambda) at time 0 (all times), else lambda^t
psi has mean 0 and mean square 1 under the stationary distribution of M.

Source: Coifman & Lafon 2006, doi:10.1016/j.acha.2006.04.006; time 0: Margulies et al. 2016,
doi:10.1073/pnas.1608282113.
Differs from BrainSpace, which hands the non-symmetric M to a symmetric Lanczos solver started at random:
its single components move with the seed. Differs also in taking the largest eigenvalues, not the largest in
magnitude (the same where none is negative, as with the kernel normalized_angle), and in refusing a
disconnected graph.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.embedding.embedding import Embedding
from bjepa.preproc.errors import InputError


def diffusion_map(
    affinity: ArrayLike,
    *,
    n_components: int = 30,
    alpha: float = 0.5,
    diffusion_time: float = 0,
    scale_by_eigenvalues: bool = True,
) -> Embedding:
    """Diffusion map of `affinity`, by a dense symmetric eigensolver.

    Parameters
    ----------
    affinity
        (R, R), symmetric, not negative, finite, connected. Not modified.
    n_components
        1 to R - 1.
    alpha
        0 to 1: how much the density of regions is divided out.
    diffusion_time
        0 (sum over all times) or a positive number of steps.
    scale_by_eigenvalues
        If false, gradients are the eigenvectors psi themselves.

    Returns
    -------
    Embedding
        float64. Sign: the entry of largest magnitude in each component is positive.

    Raises
    ------
    InputError
        Not such a matrix or option; graph in several pieces; fewer non-zero eigenvalues than components.
    """
    affinity = np.asarray(affinity, dtype=np.float64)
    _check_options(n_components, alpha, diffusion_time)
    _check_affinity(affinity, n_components)

    degree = affinity.sum(axis=1)  # (R,)
    kernel = affinity / np.outer(degree, degree) ** alpha  # (R, R)
    degree = kernel.sum(axis=1)
    root = np.sqrt(degree)
    conjugate = kernel / np.outer(root, root)

    values, vectors = _largest_eigenpairs(conjugate, n_components + 2)  # descending; (k,), (R, k)
    # u_0 is known: the root of the stationary distribution. The solver's own carries rounding.
    psi = vectors[:, 1 : n_components + 1] / (root / np.linalg.norm(root))[:, None]  # (R, C)
    values, next_value = values[1 : n_components + 1], values[n_components + 1 :]
    _check_eigenvalues(values, diffusion_time, n_rois=len(affinity))

    markov = kernel / degree[:, None]
    error = np.linalg.norm(markov @ psi - psi * values, axis=0)  # (C,)
    residuals = error / (np.abs(values) * np.linalg.norm(psi, axis=0))

    multipliers = values / (1 - values) if diffusion_time == 0 else values**diffusion_time
    gradients = largest_entry_positive(psi)
    if scale_by_eigenvalues:
        gradients = gradients * np.abs(multipliers)  # the sign of an odd power of lambda < 0 is arbitrary too
    return Embedding(
        gradients=gradients,
        eigenvalues=values,
        multipliers=multipliers,
        residuals=residuals,
        next_eigenvalue=float(next_value[0]) if len(next_value) else float("nan"),
    )


def largest_entry_positive(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn each column so that its entry of largest magnitude is positive (the first of equal ones)."""
    # rounded: a column with +x and -x must not be decided by the last bit
    magnitude = np.round(np.abs(gradients) / np.abs(gradients).max(axis=0), 9)
    largest = magnitude.argmax(axis=0)  # (C,)
    signs = np.sign(gradients[largest, np.arange(gradients.shape[1])])
    turned: NDArray[np.float64] = gradients * signs
    return turned


def _largest_eigenpairs(
    symmetric: NDArray[np.float64], n_pairs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `n_pairs` largest eigenvalues (or all there are), descending, and their unit eigenvectors."""
    from scipy.linalg import eigh

    n = len(symmetric)
    first = max(0, n - n_pairs)
    values, vectors = eigh(symmetric, subset_by_index=(first, n - 1), driver="evr")
    return values[::-1], vectors[:, ::-1]


def _check_options(n_components: int, alpha: float, diffusion_time: float) -> None:
    if n_components < 1:
        raise InputError(f"n_components must be at least 1, got {n_components}.")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha}.", hint="0.5 is the usual value.")
    if not (diffusion_time >= 0 and np.isfinite(diffusion_time)):
        raise InputError(f"diffusion_time must be 0 or positive, got {diffusion_time}.")


def _check_affinity(affinity: NDArray[np.float64], n_components: int) -> None:
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise InputError(f"affinity must be square, got shape {affinity.shape}.")
    if not np.isfinite(affinity).all() or (affinity < 0).any():
        n_bad, n_negative = np.count_nonzero(~np.isfinite(affinity)), np.count_nonzero(affinity < 0)
        raise InputError(
            f"affinity must be finite and not negative, got {n_bad} non-finite and {n_negative} negative."
        )
    if not np.allclose(affinity, affinity.T, rtol=1e-10, atol=1e-12 * affinity.max(initial=0.0)):
        raise InputError("affinity must be symmetric.", hint="Use compute_affinity, or (A + A.T) / 2.")
    n_rois = len(affinity)
    if n_components > n_rois - 1:
        raise InputError(
            f"n_components must be at most {n_rois - 1} for {n_rois} regions, got {n_components}.",
            hint="Ask for fewer components (--n-components).",
        )
    _check_connected(affinity)


def _check_connected(affinity: NDArray[np.float64]) -> None:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n_pieces, piece = connected_components(csr_array(affinity > 0), directed=False)
    if n_pieces == 1:
        return
    sizes = np.bincount(piece)
    order = np.argsort(-sizes, kind="stable")
    small = []
    for number in order[1:6]:
        rows = np.flatnonzero(piece == number) + 1
        shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        small.append(f"{sizes[number]} (regions {shown})")
    more = f" and {n_pieces - 6} more" if n_pieces > 6 else ""
    raise InputError(
        f"the affinity falls into {n_pieces} pieces without a link: one of {sizes[order[0]]} regions, "
        f"others of {'; '.join(small)}{more}. A diffusion cannot cross between them.",
        hint="Lower the sparsity, use the kernel normalized_angle, or leave these regions out.",
    )


def _check_eigenvalues(values: NDArray[np.float64], diffusion_time: float, *, n_rois: int) -> None:
    zero = np.abs(values) <= n_rois * np.finfo(np.float64).eps  # the largest eigenvalue is 1
    if zero.any():
        n_real = int(zero.argmax())
        raise InputError(
            f"n_components = {len(values)}, but the affinity has only {n_real} positive eigenvalues above "
            "rounding error; a component beyond them is arbitrary.",
            hint=f"Ask for at most {n_real} components (--n-components)." if n_real else "",
        )
    if diffusion_time != int(diffusion_time) and (values < 0).any():
        raise InputError(
            f"diffusion_time must be whole where eigenvalues are negative, got {diffusion_time}.",
            hint="Use the kernel normalized_angle, whose eigenvalues are positive, or fewer components.",
        )
