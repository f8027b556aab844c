"""LoRA: a frozen linear layer plus a trained product of two thin matrices.

    y = W x + b + (alpha / r) B A x        A (r, n_in) normal with variance 1 / n_in, B (n_out, r) zero

At the start B is 0, so the layer is what it was; afterwards the product can be added to W (`merge_lora`), and
nothing is left to pay. Only A and B are trained.

Written here because it is these hundred lines: the package peft does it for the models of transformers, and
wants that package, accelerate and a configuration of its own.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1.
There on the attention's matrices alone; here on the MLP's too, as He et al. 2022 (arXiv:2110.04366) and
Dettmers et al. 2023 (arXiv:2305.14314) found better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bjepa.model.encoder import Encoder
from bjepa.preproc.errors import InputError

WRAPPED = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # of each block


class LoRALinear(nn.Module):
    """A linear layer, frozen, with its low-rank change.

    Parameters
    ----------
    base : nn.Linear
        Kept as it is, and frozen.
    rank : int
        r, from 1 to the smaller side of the weight.
    alpha : float
        The change is scaled with alpha / r, so that r can vary at one learning rate.
    generator
        Draws A.
    """

    def __init__(
        self, base: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        largest = min(base.in_features, base.out_features)
        if not 1 <= rank <= largest:
            raise InputError(f"lora_rank must be from 1 to {largest} for this model, got {rank}.")
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        down = torch.randn(rank, base.in_features, generator=generator) / base.in_features**0.5
        self.down = nn.Parameter(down.to(base.weight))  # A
        self.up = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))  # B

    def forward(self, x: Tensor) -> Tensor:
        """(…, n_in) -> (…, n_out)."""
        change: Tensor = F.linear(F.linear(x, self.down), self.up)
        out: Tensor = self.base(x) + self.scale * change
        return out

    @property
    def weight(self) -> Tensor:
        """W with the change, (n_out, n_in)."""
        return self.base.weight + self.scale * (self.up @ self.down)

    @property
    def bias(self) -> Tensor | None:
        """b, which does not change."""
        return self.base.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain linear layer that does the same."""
        plain = nn.Linear(self.base.in_features, self.base.out_features, bias=self.base.bias is not None)
        plain = plain.to(self.base.weight)
        plain.weight.copy_(self.weight)
        if plain.bias is not None:
            plain.bias.copy_(self.base.bias)
        return plain


def add_lora(
    encoder: Encoder, *, rank: int, alpha: float | None = None, generator: torch.Generator | None = None
) -> None:
    """Freeze `encoder` and wrap the WRAPPED layers of its blocks, in place; `alpha` is by default 2 r."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        for name in WRAPPED:
            base = block.get_submodule(name)
            assert isinstance(base, nn.Linear)
            wrapped = LoRALinear(
                base, rank=rank, alpha=2.0 * rank if alpha is None else alpha, generator=generator
            )
            _replace(block, name, wrapped)


def merge_lora(encoder: Encoder) -> None:
    """Put the changes into the weights and take the wrapping off, in place: an ordinary encoder again."""
    for block in encoder.blocks:
        for name in WRAPPED:
            layer = block.get_submodule(name)
            if isinstance(layer, LoRALinear):
                _replace(block, name, layer.merged())


def _replace(block: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(block.get_submodule(parent), last, layer)
