"""One set of gradients turned towards another, so that components can be compared."""

from bjepa.gradients.alignment.procrustes import METHODS, Method, align_gradients, principal_cosines

__all__ = ["METHODS", "Method", "align_gradients", "principal_cosines"]
