"""From connectivity to a gradient atlas: affinity, diffusion map, alignment, cross-check."""

from bjepa.gradients.atlas_io import GradientTable, load_gradients

__all__ = [
    "GradientTable",
    "load_gradients",
]
