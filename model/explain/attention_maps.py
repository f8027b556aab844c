"""Attention of one window: what each region receives in a layer, and what arrives at it through all layers.

received   column means of the attention of one layer: how much the tokens of a region are looked at, by all
           tokens alike. As Brain-JEPA shows it (Dong et al. 2024, arXiv 2409.19407): mean over heads, mean
           over a region's patches. They average per network and normalise there.
rollout    Abnar & Zuidema 2020 (arXiv 2005.00928): each layer becomes 0.5 A + 0.5 I, for the residual takes
           part as much as the attention, rows add up to 1, and the layers are multiplied. Only what arrives
           at the readout is wanted, the mean over tokens: a row vector r = 1/n goes back through the layers,
               r <- 0.5 r A_l + 0.5 r,   l = depth, ..., 1,
           which costs a vector in place of an n x n matrix.

Both are told in multiples of what uniform attention would give (1 / n for every token): 1 is no preference,
and the mean over regions is 1.

n tokens of the window, D width, R regions, T patches, depth layers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.blocks import Block
from bjepa.model.encoder import Encoder
from bjepa.model.explain.attention_columns import CHUNK, weighted_columns
from bjepa.model.explain.windows import Window
from bjepa.model.readouts.windows import token_index

RESIDUAL = 0.5  # share of the residual connection in rollout


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """(R,) float64 each, in multiples of uniform attention; NaN in regions without tokens."""

    received: dict[int, NDArray[np.float64]]  # by layer, from 1
    rollout: NDArray[np.float64] | None


@torch.no_grad()
def attention_maps(
    encoder: Encoder, window: Window, *, layers: Iterable[int], rollout: bool, chunk: int = CHUNK
) -> AttentionMaps:
    """Run one window through the encoder (as it is: mode, device) and look at its attention.

    Parameters
    ----------
    layers
        Numbers from 1 of the layers whose `received` is wanted.
    rollout
        Whether it is wanted; it looks at every layer.
    """
    n_patches = encoder.config.n_patches
    x, present, t_r = window.tensors(next(encoder.parameters()).device)
    index = token_index(present, n_patches=n_patches)
    with _inputs_of_blocks(encoder) as inputs:
        encoder(x, index, t_r=t_r)
    n = len(inputs[0])
    token = np.arange(n) if index is None else index[0].cpu().numpy()

    def of_regions(columns_n: Tensor) -> NDArray[np.float64]:
        sums = np.bincount(token // n_patches, weights=columns_n.cpu().numpy(), minlength=len(window.valid_R))
        return np.where(window.valid_R, sums * n / n_patches, np.nan)

    wanted, received = set(layers), {}
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    readout = uniform.to(x.device)  # what is left to explain, seen from above
    for number in range(len(inputs), 0, -1):
        if not rollout and number not in wanted:
            continue
        q, k = queries_and_keys(encoder.blocks[number - 1], inputs[number - 1])
        columns = weighted_columns(q, k, torch.stack([uniform.to(x.device), readout]), chunk=chunk)
        if number in wanted:
            received[number] = of_regions(columns[0])
        readout = (1 - RESIDUAL) * columns[1] + RESIDUAL * readout
    return AttentionMaps(
        received=dict(sorted(received.items())), rollout=of_regions(readout) if rollout else None
    )


def queries_and_keys(block: nn.Module, x_nD: Tensor) -> tuple[Tensor, Tensor]:
    """(n, H, d) each, of the tokens that enter a block."""
    if not isinstance(block, Block):
        raise TypeError(f"attention is read from a Block, got {type(block).__name__}.")
    q, k, _ = block.attn.qkv_of(block.norm1(x_nD))
    return q, k


@contextmanager
def _inputs_of_blocks(encoder: Encoder) -> Iterator[list[Tensor]]:
    """The tokens (n, D) that enter each block, filled by the next forward pass of one scan."""
    inputs: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0].detach())

    handles = [block.register_forward_pre_hook(keep) for block in encoder.blocks]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
