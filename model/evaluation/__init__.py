"""How good is it? Embeddings, splits, baselines, metrics with intervals, and a page that says it plainly."""
