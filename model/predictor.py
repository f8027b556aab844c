"""The predictor: from the context's tokens and the places of the targets to the targets' tokens.

    [context tokens made narrow + their positions, mask token + positions of the targets]
    -> blocks -> LayerNorm -> the target part, made wide

B scans, K context tokens, M targets (one list: all kinds see each other), D embed_dim, W predictor width.
"""

import torch
from torch import Tensor, nn

from bjepa.model.blocks import NORM_EPS, Block
from bjepa.model.config import ModelConfig
from bjepa.model.positions import Positions
from bjepa.model.tokens import PADDING, clear_padding, gather_positions, is_present


class Predictor(nn.Module):
    """Narrow transformer with a position table of its own."""

    def __init__(self, config: ModelConfig, gradients: Tensor) -> None:
        super().__init__()
        width = config.predictor_embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embed = nn.Linear(config.embed_dim, width)
        self.positions = Positions(gradients, n_patches=config.n_patches, width=width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=config.predictor_num_heads,
                mlp_ratio=config.mlp_ratio,
                attention=config.attention,
            )
            for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.proj = nn.Linear(width, config.embed_dim)

    def forward(self, tokens_BKD: Tensor, context_index_BK: Tensor, target_index_BM: Tensor) -> Tensor:
        """Predicted target tokens.

        Parameters
        ----------
        tokens_BKD : (B, K, D) float32
            Of the context encoder.
        context_index_BK, target_index_BM : int64
            Token numbers, -1 for padding.

        Returns
        -------
        (B, M, D) float32, zeros at padding.
        """
        if tokens_BKD.shape[:2] != context_index_BK.shape:
            raise ValueError(
                f"tokens {tuple(tokens_BKD.shape)} and context_index {tuple(context_index_BK.shape)} must "
                "agree in their first two sizes (scans, context tokens)."
            )
        positions_NW = self.positions()
        context = self.embed(tokens_BKD) + gather_positions(positions_NW, context_index_BK)  # (B, K, W)
        queries = self.mask_token + gather_positions(positions_NW, target_index_BM)  # (B, M, W)
        sequence = torch.cat([context, queries], dim=1)  # (B, K + M, W)
        present = is_present(torch.cat([context_index_BK, target_index_BM], dim=1))
        for block in self.blocks:
            sequence = block(sequence, present)
        n_context = context_index_BK.shape[1]
        predicted = self.proj(self.norm(sequence[:, n_context:])).float()  # (B, M, D)
        return clear_padding(predicted, None if present is None else target_index_BM != PADDING)
