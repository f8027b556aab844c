"""How one connectivity matrix becomes gradients: the options that decide the numbers, and the two steps.

Group, halves of the participants, groups of them, single participants: all go the same way.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import Kernel, compute_affinity
from bjepa.gradients.embedding import Approach, Embedding, embed
from bjepa.gradients.embedding.embed import DM_DEFAULTS, check_approach


@dataclass(frozen=True, kw_only=True)
class GradientOptions:
    """What decides the numbers; stored with them.

    `alpha`, `diffusion_time` and `scale_by_eigenvalues` belong to the diffusion map; None is its default.

    Raises
    ------
    InputError
        Another approach; one of these options for an approach that does not have it.
    """

    n_components: int = 30
    sparsity: float = 0.9
    kernel: Kernel = "normalized_angle"
    approach: Approach = "dm"
    alpha: float | None = None
    diffusion_time: float | None = None
    scale_by_eigenvalues: bool | None = None
    keep_largest: bool = False

    def __post_init__(self) -> None:
        check_approach(
            self.approach,
            alpha=self.alpha,
            diffusion_time=self.diffusion_time,
            scale_by_eigenvalues=self.scale_by_eigenvalues,
        )

    def parameters(self) -> dict[str, Any]:
        """All options by name, as they are written into files: of a diffusion map with its defaults."""
        found = asdict(self)
        if self.approach == "dm":
            found |= {name: default for name, default in DM_DEFAULTS.items() if found[name] is None}
        return found


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
