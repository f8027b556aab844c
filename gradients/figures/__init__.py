"""The pictures of a gradient run: a function each returns a matplotlib Figure, or None: nothing to draw."""
