"""DiffusionMap: the gradients of a connectivity matrix as a scikit-learn estimator.

Rows of X are regions (samples), columns what they are connected to (features). `fit` goes the way of the
command bjepa-gradients: sparsify the rows, affinity (affinity.py), diffusion map (embedding/diffusion.py).
Like scikit-learn's SpectralEmbedding it has no `transform`: regions that were not fitted have no place.
n regions, m features, C components.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from bjepa.gradients.affinity import KERNELS, Kernel, compute_affinity
from bjepa.gradients.embedding import Embedding, diffusion_map
from bjepa.preproc.errors import InputError

PRECOMPUTED = "precomputed"
SPARSITY = 0.9  # of a square X, unless told otherwise; as the command's


class DiffusionMap(BaseEstimator):  # type: ignore[misc]
    """Diffusion map of regions, from their connectivity or from their affinity.

    Parameters
    ----------
    n_components : int
        C.
    kernel : one of KERNELS, or "precomputed"
        Affinity of two rows; `precomputed`: X is the affinity (n, n) itself, dense or scipy sparse.
    sparsity : float in [0, 1), or None
        Share of every row that is set to zero first. None: 0.9 where X is square, a connectivity matrix, as
        the command does; 0 where it is not, a table of features. What was used is `sparsity_`.
    alpha : float in [0, 1]
        How much the density of regions is divided out.
    diffusion_time : float
        0 (sum over all times) or a positive number of steps.
    scale_by_eigenvalues : bool
        If false, components are the plain eigenvectors.
    keep_largest : bool
        Of a graph in several pieces embed the largest one; rows of other regions are NaN.

    Attributes
    ----------
    embedding_ : (n, C) float64, the gradients; the entry of largest magnitude of each is positive
    eigenvalues_ : (C,) of the Markov matrix, descending
    residuals_ : (C,) of its eigenpairs, relative: how exact they are
    affinity_ : (n, n)
    sparsity_ : float, or None where X was the affinity
    n_features_in_ : int, m; and feature_names_in_ where X names its columns

    Examples
    --------
    >>> gradients = DiffusionMap(n_components=10).fit_transform(fc)  # doctest: +SKIP
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        kernel: str = "normalized_angle",
        sparsity: float | None = None,
        alpha: float = 0.5,
        diffusion_time: float = 0,
        scale_by_eigenvalues: bool = True,
        keep_largest: bool = False,
    ) -> None:
        self.n_components = n_components
        self.kernel = kernel
        self.sparsity = sparsity
        self.alpha = alpha
        self.diffusion_time = diffusion_time
        self.scale_by_eigenvalues = scale_by_eigenvalues
        self.keep_largest = keep_largest

    def fit(self, X: Any, y: object = None) -> DiffusionMap:
        """Compute the components of the rows of X (n, m); `y` is there for pipelines and not used.

        Raises
        ------
        InputError
            (a ValueError) As `compute_affinity` and `diffusion_map`; unknown kernel; `sparsity` given for an
            affinity.
        """
        from sklearn.utils.validation import check_non_negative, validate_data

        precomputed = self.kernel == PRECOMPUTED
        if not precomputed and self.kernel not in KERNELS:
            raise InputError(f"kernel must be one of {(*KERNELS, PRECOMPUTED)}, got {self.kernel!r}.")
        if precomputed and self.sparsity is not None:
            raise InputError(
                f"sparsity is {self.sparsity}, but kernel 'precomputed' takes the affinity as it is.",
                hint="Leave sparsity out, or name another kernel.",
            )
        X = validate_data(
            self,
            X,
            accept_sparse="csr" if precomputed else False,
            dtype=np.float64,
            ensure_min_samples=3,
            # the angle or correlation of rows of one value says nothing but their sign
            ensure_min_features=1 if self.kernel == "gaussian" else 2,
        )
        if precomputed:
            check_non_negative(X, f"X in {type(self).__name__}")
        self.sparsity_ = self._used_sparsity(X)
        self.affinity_ = X.copy() if precomputed else self._affinity(X, self.sparsity_)
        result: Embedding = diffusion_map(
            self.affinity_,
            n_components=self.n_components,
            alpha=self.alpha,
            diffusion_time=self.diffusion_time,
            scale_by_eigenvalues=self.scale_by_eigenvalues,
            keep_largest=self.keep_largest,
        )
        self.embedding_ = result.gradients
        self.eigenvalues_ = result.eigenvalues
        self.residuals_ = result.residuals
        return self

    def fit_transform(self, X: Any, y: object = None) -> NDArray[np.float64]:
        """`fit`, and its `embedding_` (n, C)."""
        return self.fit(X).embedding_

    def _used_sparsity(self, X: Any) -> float | None:
        if self.kernel == PRECOMPUTED or self.sparsity is not None:
            return self.sparsity
        return SPARSITY if X.shape[0] == X.shape[1] else 0.0

    def _affinity(self, X: NDArray[np.float64], sparsity: float | None) -> NDArray[np.float64]:
        assert sparsity is not None
        kernel: Kernel = next(name for name in get_args(Kernel) if name == self.kernel)
        return compute_affinity(X, kernel=kernel, sparsity=sparsity)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        precomputed = self.kernel == PRECOMPUTED  # an affinity is square, may be sparse, is not negative
        tags.input_tags.pairwise = tags.input_tags.sparse = tags.input_tags.positive_only = precomputed
        return tags
