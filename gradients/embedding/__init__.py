"""From an affinity matrix to components: diffusion map, Laplacian eigenmaps, principal components."""

from bjepa.gradients.embedding.diffusion import diffusion_map
from bjepa.gradients.embedding.embed import APPROACHES, Approach, embed
from bjepa.gradients.embedding.embedding import SMALL_GAP, Embedding

__all__ = ["APPROACHES", "SMALL_GAP", "Approach", "Embedding", "diffusion_map", "embed"]
