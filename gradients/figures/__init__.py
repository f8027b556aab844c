"""The pictures of a gradient run."""
