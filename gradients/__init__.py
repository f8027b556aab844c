"""From connectivity to a gradient atlas: affinity, diffusion map, alignment, cross-check."""
