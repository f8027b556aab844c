"""The predictor: from the context's tokens and the places of the targets to the targets' tokens.

    [context tokens made narrow + their positions, mask token + positions of the targets]
    -> blocks -> LayerNorm -> the target part, made wide

B scans, K context tokens, M targets (one list: all kinds see each other), D embed_dim, W predictor width.
Inside, the tokens of all scans lie back to back without padding: (n, W), see model/tokens.py.
"""

import torch
from torch import Tensor, nn

from bjepa.model.blocks import NORM_EPS, At, Block, run_blocks
from bjepa.model.config import ModelConfig
from bjepa.model.positions import Positions
from bjepa.model.tokens import TokenList


class Predictor(nn.Module):
    """Narrow transformer with a position table of its own."""

    def __init__(self, config: ModelConfig, gradients: Tensor) -> None:
        super().__init__()
        width = config.predictor_embed_dim
        self.recompute = False  # activation checkpointing
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embed = nn.Linear(config.embed_dim, width)
        self.positions = Positions(
            gradients,
            n_patches=config.n_patches,
            width=width,
            region_position=config.region_position,
            time_position=config.time_position,
        )
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
        self.proj = nn.Linear(width, config.target_dim)

    def forward(
        self,
        tokens_BKD: Tensor,
        context_index: Tensor | TokenList,
        target_index: Tensor | TokenList,
        *,
        t_r: Tensor | None = None,
    ) -> Tensor:
        """Predicted target tokens.

        Parameters
        ----------
        tokens_BKD : (B, K, D) float32
            Of the context encoder.
        context_index, target_index : (B, K), (B, M) int64 or TokenList
            Token numbers, -1 for padding.
        t_r : (B,) float32, optional
            Seconds between frames; needed if model.time_position is "seconds".

        Returns
        -------
        (B, M, D) float32, zeros at padding; (B, M, patch_size) if model.predicts is "signal".
        """
        context, target = TokenList.of(context_index), TokenList.of(target_index)
        expected = (len(context.lengths), context.n_places)
        if tuple(tokens_BKD.shape[:2]) != expected:
            raise ValueError(
                f"tokens {tuple(tokens_BKD.shape)} and context_index {expected} must agree in their first "
                "two sizes (scans, context tokens)."
            )
        context_nW = self.embed(context.pack(tokens_BKD)) + self.positions.of(context, t_r)
        queries_mW = self.mask_token[0] + self.positions.of(target, t_r)
        # scan by scan: its context, then its targets
        order = torch.cat([context.scan_n, target.scan_n]).argsort(stable=True)
        place = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device))
        x_nW = torch.cat([context_nW, queries_mW]).index_select(0, order)
        x_mW = run_blocks(
            self.blocks,
            x_nW,
            tuple(k + m for k, m in zip(context.lengths, target.lengths, strict=True)),
            at=At(place[len(context_nW) :], target.lengths),
            recompute=self.recompute,
        )
        return target.unpack(self.proj(self.norm(x_mW)).float())
