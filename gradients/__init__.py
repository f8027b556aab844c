"""From connectivity to a gradient atlas: affinity, diffusion map, alignment, cross-check.

The estimator is loaded when first used, so that importing this package does not import scikit-learn.
"""

from typing import TYPE_CHECKING, Any

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import align_gradients
from bjepa.gradients.atlas_io import GradientTable, load_gradients
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.embedding import diffusion_map, laplacian_eigenmaps, principal_components

if TYPE_CHECKING:
    from bjepa.gradients.estimator import DiffusionMap

__all__ = [
    "DiffusionMap",
    "GradientTable",
    "align_gradients",
    "compute_affinity",
    "diffusion_map",
    "functional_connectivity",
    "laplacian_eigenmaps",
    "load_gradients",
    "principal_components",
]


def __getattr__(name: str) -> Any:
    if name != "DiffusionMap":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bjepa.gradients.estimator import DiffusionMap

    return DiffusionMap
