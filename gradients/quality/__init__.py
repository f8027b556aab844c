"""How good are these gradients? Stability, variance explained, nulls, comparison, cross-check."""
