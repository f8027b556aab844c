"""Our affinity and diffusion map against BrainSpace's, on the same connectivity, in numbers.

BrainSpace gives the non-symmetric Markov matrix to a symmetric solver, so what it returns depends on its
seed: single components may rotate while the space that they span agrees. Exactness is therefore told by the
residual of each eigenpair, agreement by the principal cosines between the two subspaces. C components.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.gradients.affinity import Kernel
from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.embedding import Embedding
from bjepa.preproc.errors import InputError

SEEDS = range(5)
MIN_SUBSPACE_COSINE, MAX_AFFINITY_DIFF, MAX_RESIDUAL = 0.999, 1e-6, 1e-10


def cross_check(
    fc: NDArray[np.float64],
    affinity: NDArray[np.float64],
    ours: Embedding,
    *,
    kernel: Kernel,
    sparsity: float,
    alpha: float,
) -> dict[str, Any]:
    """The content of cross_check.json.

    Both maps are compared before scaling by diffusion time, which changes lengths of components only.

    Returns
    -------
    dict
        affinity_max_abs_diff : largest difference of one affinity value
        abs_r : (C,) |Pearson r| of each component with BrainSpace's, random_state 0
        abs_r_min_over_seeds : (C,) the smallest over random_state 0 to 4
        eigenvalue_rel_diff : (C,) of the Markov matrix's eigenvalues, random_state 0
        residual, residual_brainspace : (C,) ||M g - lambda g|| / (|lambda| ||g||); random_state 0
        subspace_cosine_min : smallest principal cosine of the C-dimensional subspaces, over the seeds
        versions : of bjepa, brainspace, numpy, scipy
        agrees : bool

    Raises
    ------
    InputError
        More components than BrainSpace computes (regions - 2).
    """
    import brainspace
    import scipy
    from brainspace.gradient.embedding import diffusion_mapping
    from brainspace.gradient.kernels import compute_affinity as brainspace_affinity

    n_rois, n_components = ours.gradients.shape
    check_possible(n_rois, n_components)
    theirs = brainspace_affinity(fc.copy(), kernel=kernel, sparsity=sparsity or None)

    markov = _markov(theirs, alpha)
    abs_r = np.empty((len(SEEDS), n_components))
    cosine, eigenvalues, residual = np.empty(len(SEEDS)), np.empty(abs_r.shape), np.empty(abs_r.shape)
    for row, seed in enumerate(SEEDS):
        maps, lambdas = diffusion_mapping(
            theirs, n_components=n_components, alpha=alpha, diffusion_time=0, random_state=seed
        )
        eigenvalues[row] = lambdas / (1 + lambdas)  # from lambda / (1 - lambda) back to lambda
        abs_r[row] = np.abs(_column_correlation(maps, ours.gradients))
        cosine[row] = principal_cosines(maps, ours.gradients).min()
        error = np.linalg.norm(markov @ maps - maps * eigenvalues[row], axis=0)
        residual[row] = error / (np.abs(eigenvalues[row]) * np.linalg.norm(maps, axis=0))

    eigenvalue_diff = np.abs(eigenvalues[0] - ours.eigenvalues) / np.abs(ours.eigenvalues)
    affinity_diff = float(np.abs(affinity - theirs).max())
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


def _markov(affinity: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    degree = affinity.sum(axis=1)
    kernel = affinity / np.outer(degree, degree) ** alpha
    markov: NDArray[np.float64] = kernel / kernel.sum(axis=1, keepdims=True)
    return markov


def _column_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    r: NDArray[np.float64] = (first * second).sum(axis=0) / (
        np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    )
    return r
