"""Floating-point operations of a step, counted: a multiplication and an addition are two.

Matrix products alone (linear layers, q k^T, scores v); norms, GELU, softmax and the optimizer are below 1 %.
The gradient of a product costs two more of its size, so what is trained counts three times; the target
encoder keeps no graph and counts once. What activation checkpointing computes again is not counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bjepa.model.config import ModelConfig


class StepFlops(NamedTuple):
    """Operations of a batch, forward and backward."""

    context_encoder: int
    predictor: int
    target_encoder: int

    @property
    def total(self) -> int:
        """All three parts."""
        return sum(self)


def step_flops(
    config: ModelConfig,
    *,
    context_lengths: Sequence[int],
    target_lengths: Sequence[int],
    visible_lengths: Sequence[int] | None = None,
    all_tokens: bool = False,
) -> StepFlops:
    """Of one batch; each list has one count a scan.

    Parameters
    ----------
    visible_lengths
        Tokens that exist; None: all of every scan.
    all_tokens
        As if the last blocks of predictor and target encoder answered for every token.
    """
    D, W = config.embed_dim, config.predictor_embed_dim
    n_scans = len(context_lengths)
    visible = [config.n_tokens] * n_scans if visible_lengths is None else visible_lengths
    sequence = [k + m for k, m in zip(context_lengths, target_lengths, strict=True)]
    asked = None if all_tokens else target_lengths
    n_context, n_target = sum(context_lengths), sum(target_lengths)

    positions_D = 2 * config.n_rois * config.n_gradients * (D // 2)
    positions_W = 2 * config.n_rois * config.n_gradients * (W // 2)
    if config.region_position != "gradient":
        positions_D = positions_W = 0
    patches = 2 * config.patch_size * D
    encoder = n_context * patches + positions_D + _blocks(D, config.depth, config.mlp_ratio, context_lengths)
    predictor = (
        2 * n_context * D * W
        + 2 * positions_W  # for context and targets
        + _blocks(W, config.predictor_depth, config.mlp_ratio, sequence, asked)
        + 2 * n_target * W * config.target_dim
    )
    target = sum(visible) * patches + positions_D + _blocks(D, config.depth, config.mlp_ratio, visible, asked)
    return StepFlops(3 * encoder, 3 * predictor, 0 if config.predicts == "signal" else target)


def _blocks(
    dim: int, depth: int, mlp_ratio: float, lengths: Sequence[int], asked: Sequence[int] | None = None
) -> int:
    """Forward through `depth` blocks; the last answers for the `asked` alone."""
    whole = _block(dim, mlp_ratio, lengths, lengths)
    return (depth - 1) * whole + (whole if asked is None else _block(dim, mlp_ratio, lengths, asked))


def _block(dim: int, mlp_ratio: float, keys: Sequence[int], queries: Sequence[int]) -> int:
    hidden = int(dim * mlp_ratio)
    keys_and_values = 2 * sum(keys) * 2 * dim * dim
    rest = 2 * sum(queries) * (2 * dim * dim + 2 * dim * hidden)  # query, output, MLP
    attention = sum(4 * m * n * dim for m, n in zip(queries, keys, strict=True))
    return keys_and_values + rest + attention
