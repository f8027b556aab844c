"""Laplacian eigenmaps of an affinity matrix: eigenvectors of the graph's Laplacian with small eigenvalues.

Order of operations:
  1. W = A with diagonal 0, d = its row sums    a region's affinity with itself is no link
  2. normalized      (d_i - W) v = m d_i v      symmetric: 1 - W / (d_i d_j)^(1/2); v = u / d^(1/2), |u| = 1
     not normalized  (d_i - W) v = m v, |v| = 1
  3. the smallest eigenvalues m, ascending; the first is 0 (v constant) and is dropped
Solved as the largest eigenvalues of W / (d_i d_j)^(1/2), which are 1 - m, or of c + W - d_i, which are c - m,
c the largest degree (eigenpairs.py).
With W for A, these are the vectors of a diffusion map with alpha 0, each of another length.

Source: Belkin & Niyogi 2003, doi:10.1162/089976603321780317; as in scikit-learn's spectral_embedding and
BrainSpace's laplacian_eigenmaps, lengths included. Differs in refusing a disconnected graph.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.embedding.diffusion import scaled
from bjepa.gradients.embedding.eigenpairs import Solver, largest_eigenpairs
from bjepa.gradients.embedding.embedding import Embedding, largest_entry_positive
from bjepa.gradients.embedding.graph import (
    as_affinity,
    check_count,
    kept_regions,
    relative_residuals,
    restrict,
)


def laplacian_eigenmaps(
    affinity: Any,
    *,
    n_components: int = 30,
    normalized: bool = True,
    keep_largest: bool = False,
    solver: Solver = "auto",
) -> Embedding:
    """Laplacian eigenmaps of `affinity` (R, R).

    Parameters
    ----------
    normalized
        By the degrees of the regions.
    affinity, n_components, keep_largest, solver
        As in `diffusion_map`.

    Returns
    -------
    Embedding
        float64. Eigenvalues ascend from 0. Residuals are those of d^-1 (d - W) (normalized) or d - W,
        relative to the eigenvalue: where it is small, so is what they are compared with. Sign: the entry of
        largest magnitude in each component is positive.

    Raises
    ------
    InputError
        Not such a matrix or option; graph in several pieces.
    """
    affinity = as_affinity(affinity)
    kept = kept_regions(affinity, keep_largest=keep_largest)
    links = _without_diagonal(restrict(affinity, kept))  # W (K, K)
    n_rois = links.shape[0]
    check_count(n_components, n_rois)

    with one_blas_thread():
        degree: NDArray[np.float64] = np.asarray(links.sum(axis=1))  # (K,)
        if normalized:
            matrix, zero, weight = scaled(links, degree**-0.5), 1.0, degree
        else:
            zero, weight = float(degree.max()), np.ones(n_rois)
            matrix = _with_diagonal(links, zero - degree)
        wanted = min(n_components + 2, n_rois)
        values, vectors, used = largest_eigenpairs(matrix, wanted, solver=solver, origin=zero)
        del matrix
        eigenvalues = zero - values[1:]
        eigenvalues, next_value = eigenvalues[:n_components], eigenvalues[n_components:]
        maps = vectors[:, 1 : n_components + 1] / np.sqrt(weight)[:, None]  # (K, C)
        image = (degree[:, None] * maps - links @ maps) / weight[:, None]
    return Embedding(
        gradients=largest_entry_positive(maps),
        eigenvalues=eigenvalues,
        multipliers=np.ones(n_components),
        residuals=relative_residuals(image, maps, eigenvalues),
        next_eigenvalue=float(next_value[0]) if len(next_value) else float("nan"),
        approach="le",
        solver=used,
        origin=1.0 if normalized else float(degree.mean()),
    ).in_all_regions(kept)


def _without_diagonal(affinity: Any) -> Any:
    if isinstance(affinity, np.ndarray):
        links = affinity.copy()
        np.fill_diagonal(links, 0.0)
        return links
    return _with_diagonal(affinity, -affinity.diagonal())


def _with_diagonal(matrix: Any, added: NDArray[np.float64]) -> Any:
    """`matrix` with a vector added to its diagonal."""
    if isinstance(matrix, np.ndarray):
        result = matrix.copy()
        result[np.diag_indices_from(result)] += added
        return result
    from scipy.sparse import dia_array

    total = (matrix + dia_array((added[None, :], [0]), shape=matrix.shape)).tocsr()
    total.eliminate_zeros()
    return total
