"""Functional connectivity of scans and of groups, one scan in memory at a time."""

from bjepa.gradients.connectivity.functional import functional_connectivity

__all__ = ["functional_connectivity"]
