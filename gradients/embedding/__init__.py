"""From an affinity matrix to components: diffusion map, Laplacian eigenmaps, principal components."""

from bjepa.gradients.embedding.diffusion import diffusion_map
from bjepa.gradients.embedding.eigenpairs import SOLVERS, Solver, largest_eigenpairs
from bjepa.gradients.embedding.embed import APPROACHES, Approach, embed
from bjepa.gradients.embedding.embedding import SMALL_GAP, Embedding
from bjepa.gradients.embedding.laplacian import laplacian_eigenmaps
from bjepa.gradients.embedding.pca import principal_components

__all__ = [
    "APPROACHES",
    "SMALL_GAP",
    "SOLVERS",
    "Approach",
    "Embedding",
    "Solver",
    "diffusion_map",
    "embed",
    "laplacian_eigenmaps",
    "largest_eigenpairs",
    "principal_components",
]
