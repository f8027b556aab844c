"""The encoder: patches of regional time series to tokens.

    patch embedding + position of the listed tokens  ->  blocks  ->  LayerNorm

B scans, R regions, L frames, p frames a patch, T = L / p, N = R * T tokens numbered roi * T + t, D embed_dim.
Inside, the tokens of all scans lie back to back without padding: (n, D), see model/tokens.py.
The context encoder and the target encoder are two of these.
"""

import torch
from torch import Tensor, nn

from bjepa.model.blocks import NORM_EPS, At, Block, run_blocks
from bjepa.model.config import ModelConfig
from bjepa.model.positions import Positions
from bjepa.model.tokens import TokenList, find_tokens


class Encoder(nn.Module):
    """Vision transformer over regions x time, with one token a region and patch; no class token."""

    def __init__(self, config: ModelConfig, gradients: Tensor) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # activation checkpointing
        self.patch_embed = PatchEmbedding(config.patch_size, config.embed_dim)
        self.positions = Positions(
            gradients,
            n_patches=config.n_patches,
            width=config.embed_dim,
            region_position=config.region_position,
            time_position=config.time_position,
        )
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

    def forward(
        self,
        x_BRL: Tensor,
        index: Tensor | TokenList | None = None,
        *,
        at: Tensor | TokenList | None = None,
        t_r: Tensor | None = None,
    ) -> Tensor:
        """Tokens after the final norm.

        Parameters
        ----------
        x_BRL : (B, n_rois, n_frames) float32
        index : (B, K) int64 or TokenList, optional
            Token numbers that go through, -1 for padding. Without it all N tokens do.
        at : (B, M) int64 or TokenList, optional
            Token numbers that are wanted of them; the rest only serves as keys and values. Needs an `index`
            sorted within each scan, or none. Without it: those of `index`.
        t_r : (B,) float32, optional
            Seconds between frames; needed if model.time_position is "seconds".

        Returns
        -------
        (B, K, D), (B, M, D) with `at`, or (B, N, D) float32, zeros at padding.
        """
        expected = (self.config.n_rois, self.config.n_frames)
        if x_BRL.ndim != 3 or tuple(x_BRL.shape[1:]) != expected:
            raise ValueError(
                f"x must be (batch, n_rois, n_frames) = (B, {expected[0]}, {expected[1]}), "
                f"got {tuple(x_BRL.shape)}. Scans are stored time first: transpose them."
            )
        n_tokens = self.config.n_tokens
        if index is None:
            tokens = TokenList.all_of(len(x_BRL), n_tokens, device=x_BRL.device)
            pieces = pieces_of(x_BRL, self.config.patch_size)
        else:
            tokens = TokenList.of(index)
            pieces = pieces_of(x_BRL, self.config.patch_size).index_select(0, tokens.number(n_tokens))
        x_nD = self.patch_embed(pieces) + self.positions.of(tokens, t_r)
        wanted = tokens if at is None else TokenList.of(at)
        where = None if at is None else At(find_tokens(wanted, tokens, n_tokens=n_tokens), wanted.lengths)
        x_nD = run_blocks(self.blocks, x_nD, tokens.lengths, at=where, recompute=self.recompute)
        return wanted.unpack(self.norm(x_nD).float())


class PatchEmbedding(nn.Module):
    """Each piece of `patch_size` frames of one region, linearly to `embed_dim` features."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(patch_size, embed_dim)

    def forward(self, pieces_np: Tensor) -> Tensor:
        """(n, p) -> (n, D)."""
        out: Tensor = self.proj(pieces_np)
        return out


def pieces_of(x_BRL: Tensor, patch_size: int) -> Tensor:
    """(B, R, L) -> (B * N, p): the signal of every token, scan after scan, region by region."""
    return x_BRL.reshape(-1, patch_size)


def init_weights(module: nn.Module, *, std: float, generator: torch.Generator | None) -> None:
    """Linear weights and learned regions normal with `std`, biases 0, LayerNorm weight 1 and bias 0.

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
        elif isinstance(part, Positions) and part.region_position == "learned":
            nn.init.normal_(part.region, std=std, generator=generator)
