"""From connectivity to a gradient atlas: affinity, diffusion map, alignment, cross-check."""

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import align_gradients
from bjepa.gradients.atlas_io import GradientTable, load_gradients
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.embedding import diffusion_map

__all__ = [
    "GradientTable",
    "align_gradients",
    "compute_affinity",
    "diffusion_map",
    "functional_connectivity",
    "load_gradients",
]
