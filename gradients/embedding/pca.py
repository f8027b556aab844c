"""Principal components of an affinity matrix: regions are samples, their affinities features.

Order of operations:
  1. B = A - mean of each column
  2. G = B B' / (R - 1)                     Gram matrix of the regions; its eigenvalues are the variances
  3. scores g = u * ((R - 1) l)^(1/2)       of the largest eigenvalues l, u unit eigenvectors (eigenpairs.py)
The same scores as B v with the eigenvectors v of the covariance B' B / (R - 1). Of a sparse affinity neither
B nor G is formed.

Source: Hotelling 1933, doi:10.1037/h0071325; as scikit-learn's PCA and BrainSpace's PCAMaps on the affinity.
(BrainSpace's GradientMaps(approach="PCA"), in capitals, runs a diffusion map instead.)
A graph in several pieces is no obstacle here.
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

Array = NDArray[np.float64]


def principal_components(
    affinity: Any, *, n_components: int = 30, keep_largest: bool = False, solver: Solver = "auto"
) -> Embedding:
    """Principal components of `affinity` (R, R).

    Parameters
    ----------
    affinity
        Dense or scipy sparse, symmetric, not negative, finite. Not modified.
    keep_largest
        Use the regions of the largest connected piece only.
    n_components, solver
        As in `diffusion_map`.

    Returns
    -------
    Embedding
        float64. Gradients are the scores, eigenvalues the variances they explain (divided by R - 1),
        residuals those of G. Sign: the entry of largest magnitude in each component is positive.

    Raises
    ------
    InputError
        Not such a matrix or option; fewer components with variance than asked for.
    """
    affinity = as_affinity(affinity)
    n_all = affinity.shape[0]
    kept = kept_regions(affinity, keep_largest=True) if keep_largest else np.ones(n_all, dtype=np.bool_)
    affinity = restrict(affinity, kept)
    n_rois = affinity.shape[0]
    check_count(n_components, n_rois)

    with one_blas_thread():
        gram = _gram(affinity)
        values, vectors, used = largest_eigenpairs(gram, n_components + 1, solver=solver)
        kept_values, next_value = values[:n_components], values[n_components:]
        refuse_zero(kept_values, float(np.abs(values).max()), n_rois=n_rois)
        lengths = np.sqrt((n_rois - 1) * kept_values)
        scores = vectors[:, :n_components] * lengths  # (K, C)
        image = gram @ scores
    return Embedding(
        gradients=largest_entry_positive(scores),
        eigenvalues=kept_values,
        multipliers=lengths,
        residuals=relative_residuals(image, scores, kept_values),
        next_eigenvalue=float(next_value[0]),
        approach="pca",
        solver=used,
    ).in_all_regions(kept)


def _gram(affinity: Any) -> Any:
    """G (K, K): an array, or of a sparse affinity a LinearOperator."""
    n = affinity.shape[0]
    if isinstance(affinity, np.ndarray):
        centred = affinity - affinity.mean(axis=0)
        gram: Array = centred @ centred.T  # numpy sees the transpose and calls syrk: symmetric, half the work
        gram /= n - 1
        return gram
    from scipy.sparse.linalg import LinearOperator

    mean = np.asarray(affinity.sum(axis=0)) / n  # (K,)

    def product(x: Array) -> Array:
        x = x.reshape(n, -1)
        of_columns = affinity @ x - np.multiply.outer(mean, x.sum(axis=0))  # B' x, as A = A'
        image: Array = (affinity @ of_columns - mean @ of_columns) / (n - 1)
        return image

    return LinearOperator((n, n), matvec=product, matmat=product, dtype=np.float64)
