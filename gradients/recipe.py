"""How one connectivity matrix becomes gradients: the options that decide the numbers, and the two steps.

Group, halves of the participants, groups of them, single participants: all go the same way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import Kernel, compute_affinity
from bjepa.gradients.embedding import Approach, Embedding, embed


@dataclass(frozen=True, kw_only=True)
class GradientOptions:
    """What decides the numbers; stored with them."""

    n_components: int = 30
    sparsity: float = 0.9
    kernel: Kernel = "normalized_angle"
    approach: Approach = "dm"
    alpha: float = 0.5
    diffusion_time: float = 0
    scale_by_eigenvalues: bool = True
    keep_largest: bool = False


def embed_connectivity(
    fc: NDArray[np.float64], options: GradientOptions
) -> tuple[NDArray[np.float64], Embedding]:
    """Affinity (R, R) of a connectivity matrix (R, R), and its components.

    Raises
    ------
    InputError
        As `compute_affinity` and `embed`.
    """
    affinity = compute_affinity(fc, kernel=options.kernel, sparsity=options.sparsity)
    return affinity, embed(
        affinity,
        approach=options.approach,
        n_components=options.n_components,
        alpha=options.alpha,
        diffusion_time=options.diffusion_time,
        scale_by_eigenvalues=options.scale_by_eigenvalues,
        keep_largest=options.keep_largest,
    )
