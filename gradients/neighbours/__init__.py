"""Gradients of very many nodes, such as the vertices of a hemisphere: graphs of nearest neighbours."""

from bjepa.gradients.neighbours.graph import MAX_MEMORY_GB, embed_neighbours, sparse_affinity

__all__ = ["MAX_MEMORY_GB", "embed_neighbours", "sparse_affinity"]
