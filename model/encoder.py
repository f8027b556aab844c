"""The encoder: patches of regional time series to tokens.

    patch embedding + position  ->  keep the tokens of the index list  ->  blocks  ->  LayerNorm

B scans, R regions, L frames, p frames a patch, T = L / p, N = R * T tokens numbered roi * T + t, D embed_dim.
The context encoder and the target encoder are two of these.
"""

import torch
from torch import Tensor, nn

from bjepa.model.blocks import NORM_EPS, Block
from bjepa.model.config import ModelConfig
from bjepa.model.positions import Positions
from bjepa.model.tokens import clear_padding, gather_tokens, is_present


class Encoder(nn.Module):
    """Vision transformer over regions x time, with one token a region and patch; no class token."""

    def __init__(self, config: ModelConfig, gradients: Tensor) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.patch_size, config.embed_dim)
        self.positions = Positions(gradients, n_patches=config.n_patches, width=config.embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                attention=config.attention,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=NORM_EPS)

    def forward(self, x_BRL: Tensor, index_BK: Tensor | None = None) -> Tensor:
        """Tokens after the final norm.

        Parameters
        ----------
        x_BRL : (B, n_rois, n_frames) float32
        index_BK : (B, K) int64, optional
            Token numbers to keep, -1 for padding. Without it all N tokens go through.

        Returns
        -------
        (B, K, D) or (B, N, D) float32, zeros at padding.
        """
        expected = (self.config.n_rois, self.config.n_frames)
        if x_BRL.ndim != 3 or tuple(x_BRL.shape[1:]) != expected:
            raise ValueError(
                f"x must be (batch, n_rois, n_frames) = (B, {expected[0]}, {expected[1]}), "
                f"got {tuple(x_BRL.shape)}. Scans are stored time first: transpose them."
            )
        tokens = self.patch_embed(x_BRL) + self.positions()  # (B, N, D)
        present = None
        if index_BK is not None:
            tokens = gather_tokens(tokens, index_BK)  # (B, K, D)
            present = is_present(index_BK)
        for block in self.blocks:
            tokens = block(tokens, present)
        return clear_padding(self.norm(tokens).float(), present)


class PatchEmbedding(nn.Module):
    """Each piece of `patch_size` frames of one region, linearly to `embed_dim` features."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(patch_size, embed_dim)

    def forward(self, x_BRL: Tensor) -> Tensor:
        """(B, R, L) -> (B, N, D), region by region."""
        pieces = x_BRL.reshape(len(x_BRL), -1, self.patch_size)  # (B, N, p)
        out: Tensor = self.proj(pieces)
        return out


def init_weights(module: nn.Module, *, std: float, generator: torch.Generator | None) -> None:
    """Linear weights normal with `std`, biases 0, LayerNorm weight 1 and bias 0.

    The released code draws by an inverse CDF clamped to [-2, 2], which is 100 std: no truncation, but 3 to 8
    weights of a fresh ViT-B become exactly -2. A plain normal draw has the same distribution without those.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
