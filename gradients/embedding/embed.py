"""One name for all approaches: `embed(affinity, approach=...)`."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from bjepa.gradients.embedding.diffusion import diffusion_map
from bjepa.gradients.embedding.embedding import Embedding
from bjepa.preproc.errors import InputError

Approach = Literal["dm", "le", "pca"]
APPROACHES: tuple[Approach, ...] = get_args(Approach)


def embed(
    affinity: ArrayLike,
    *,
    approach: Approach = "dm",
    n_components: int = 30,
    alpha: float = 0.5,
    diffusion_time: float = 0,
    scale_by_eigenvalues: bool = True,
    keep_largest: bool = False,
) -> Embedding:
    """Components of an affinity matrix (R, R) by one of APPROACHES."""
    if approach != "dm" or keep_largest:
        raise InputError(f"approach must be 'dm', got {approach!r}.")
    return diffusion_map(
        np.asarray(affinity),
        n_components=n_components,
        alpha=alpha,
        diffusion_time=diffusion_time,
        scale_by_eigenvalues=scale_by_eigenvalues,
    )
