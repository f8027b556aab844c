"""Our affinity and components against BrainSpace's, on the same connectivity, in numbers.

dm   BrainSpace gives the non-symmetric Markov matrix to a symmetric solver, so what it returns depends on its
     seed: single components may rotate while the space that they span agrees
le   BrainSpace solves the same symmetric problem, exactly
pca  BrainSpace uses scikit-learn's PCA, which is exact for few regions and randomized for many (over 500)
Exactness is told by the residual of each eigenpair in the matrix of its problem, written out here once more;
agreement by the principal cosines between the two subspaces. The functions of BrainSpace are called
themselves: its GradientMaps(approach="PCA"), in capitals, would run a diffusion map. R regions, C components.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.gradients.affinity import Kernel, without_ties
from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.embedding import Embedding
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
SEEDS = range(5)
MIN_SUBSPACE_COSINE, MAX_AFFINITY_DIFF, MAX_RESIDUAL = 0.999, 1e-6, 1e-10


def cross_check(
    fc: Array | None,
    affinity: Any,
    ours: Embedding,
    *,
    kernel: Kernel,
    sparsity: float,
    alpha: float | None = None,
) -> dict[str, Any]:
    """The content of cross_check.json.

    Diffusion maps are compared before scaling by diffusion time, which changes lengths of components only.
    Where `ours` holds only the largest piece of the graph, BrainSpace gets the affinity of its regions.

    Parameters
    ----------
    fc
        (R, R) connectivity, dense.
    affinity
        (R, R) of it, dense.
    ours
        Components before any alignment; its `approach` says what is compared.
    kernel, sparsity
        Of the affinity.
    alpha
        Of a diffusion map, 0.5 if None; the other approaches have none.

    Returns
    -------
    dict
        affinity_max_abs_diff : largest difference of one affinity value
        abs_r : (C,) |Pearson r| of each component with BrainSpace's, random_state 0
        abs_r_min_over_seeds : (C,) the smallest over random_state 0 to 4
        eigenvalue_rel_diff : (C,) random_state 0
        residual, residual_brainspace : (C,) ||M g - lambda g|| / (|lambda| ||g||); random_state 0
        subspace_cosine_min : smallest principal cosine of the C-dimensional subspaces, over the seeds
        versions : of bjepa, brainspace, numpy, scipy
        agrees : bool

    Raises
    ------
    InputError
        More components than BrainSpace computes; a sparse affinity, whose connectivity was never formed.
    """
    import brainspace
    import scipy
    from brainspace.gradient.kernels import compute_affinity as brainspace_affinity

    if fc is None or not isinstance(affinity, np.ndarray):
        raise InputError(
            "--cross-check: BrainSpace needs the whole connectivity matrix, but only the nearest neighbours "
            "of each row were formed.",
            hint="Leave --cross-check or --n-neighbors out.",
        )
    kept, n_components = ours.kept, ours.gradients.shape[1]
    check_possible(int(kept.sum()), n_components)
    # equal values at the cut: let it keep the same ones
    theirs = brainspace_affinity(
        without_ties(fc, sparsity=sparsity), kernel=kernel, sparsity=sparsity or None
    )
    affinity_diff = float(np.abs(affinity - theirs).max())
    theirs, gradients = theirs[np.ix_(kept, kept)], ours.gradients[kept]

    alpha = 0.5 if alpha is None else alpha
    problem = _problem(theirs, ours.approach, alpha)  # (K, K)
    abs_r = np.empty((len(SEEDS), n_components))
    cosine, eigenvalues, residual = np.empty(len(SEEDS)), np.empty(abs_r.shape), np.empty(abs_r.shape)
    for row, seed in enumerate(SEEDS):
        maps, eigenvalues[row] = _brainspace(theirs, ours.approach, n_components, alpha, seed)
        abs_r[row] = np.abs(_column_correlation(maps, gradients))
        cosine[row] = principal_cosines(maps, gradients).min()
        error = np.linalg.norm(problem @ maps - maps * eigenvalues[row], axis=0)
        residual[row] = error / (np.abs(eigenvalues[row]) * np.linalg.norm(maps, axis=0))

    eigenvalue_diff = np.abs(eigenvalues[0] - ours.eigenvalues) / np.abs(ours.eigenvalues)
    return {
        "affinity_max_abs_diff": affinity_diff,
        "abs_r": abs_r[0].tolist(),
        "abs_r_min_over_seeds": abs_r.min(axis=0).tolist(),
        "eigenvalue_rel_diff": eigenvalue_diff.tolist(),
        "residual": ours.residuals.tolist(),
        "residual_brainspace": residual[0].tolist(),
        "subspace_cosine_min": float(cosine.min()),
        "versions": {
            "bjepa": bjepa.__version__,
            "brainspace": str(brainspace.__version__),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "agrees": bool(
            cosine.min() >= MIN_SUBSPACE_COSINE
            and affinity_diff <= MAX_AFFINITY_DIFF
            and ours.residuals.max() <= MAX_RESIDUAL
        ),
    }


def check_possible(n_rois: int, n_components: int) -> None:
    """Refuse what BrainSpace cannot compute."""
    if n_components > n_rois - 2:
        raise InputError(
            f"--cross-check: BrainSpace computes at most {n_rois - 2} components of {n_rois} regions, "
            f"got n_components = {n_components}.",
            hint="Ask for fewer components, or leave --cross-check out.",
        )


def _brainspace(
    affinity: Array, approach: str, n_components: int, alpha: float, seed: int
) -> tuple[Array, Array]:
    """BrainSpace's components (K, C) and the eigenvalues (C,) of its problem."""
    from brainspace.gradient.embedding import PCAMaps, diffusion_mapping, laplacian_eigenmaps

    if approach == "le":
        maps, eigenvalues = laplacian_eigenmaps(affinity, n_components=n_components, random_state=seed)
        return maps, eigenvalues
    if approach == "pca":
        fitted = PCAMaps(n_components=n_components, random_state=seed).fit(affinity)
        return fitted.maps_, fitted.lambdas_
    maps, multipliers = diffusion_mapping(
        affinity, n_components=n_components, alpha=alpha, diffusion_time=0, random_state=seed
    )
    return maps, multipliers / (1 + multipliers)  # from lambda / (1 - lambda) back to lambda


def _problem(affinity: Array, approach: str, alpha: float) -> Array:
    """The matrix whose eigenvectors the components are."""
    n = len(affinity)
    if approach == "pca":
        centred = affinity - affinity.mean(axis=0)
        gram: Array = centred @ centred.T / (n - 1)
        return gram
    if approach == "le":
        links = affinity * (1 - np.eye(n))
        laplacian: Array = np.eye(n) - links / links.sum(axis=1, keepdims=True)
        return laplacian
    degree = affinity.sum(axis=1)
    kernel = affinity / np.outer(degree, degree) ** alpha
    markov: Array = kernel / kernel.sum(axis=1, keepdims=True)
    return markov


def _column_correlation(first: Array, second: Array) -> Array:
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    r: Array = (first * second).sum(axis=0) / (np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0))
    return r
