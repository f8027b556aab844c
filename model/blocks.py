"""The transformer block: x + attention(norm(x)), then x + mlp(norm(x)), on packed tokens.

The last block of a stack may be asked for some tokens only (`at`): then queries, and all that follows them,
are computed for those alone. The numbers are the same, for a token's output needs the others' keys and values
but not their outputs.

n tokens of all scans back to back (model/tokens.py), m of them asked for, D width, H heads.
LayerNorm eps 1e-6 and exact (erf) GELU, as released: eps 1e-5 moves encoder tokens by 4e-5, the tanh GELU by
8e-6. No dropout, no drop path.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bjepa.model.attention import Lengths, attend
from bjepa.model.config import Attention

NORM_EPS = 1e-6


class At(NamedTuple):
    """The tokens that are asked for, scan after scan."""

    where_m: Tensor  # (m,) int64, places among the n
    lengths: Lengths  # of each scan


class Block(nn.Module):
    """Pre-norm transformer block, (n, D) -> (n, D), or (m, D) with `at`."""

    def __init__(self, dim: int, *, num_heads: int, mlp_ratio: float, attention: Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads=num_heads, attention=attention)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x_nD: Tensor, lengths: Lengths, at: At | None = None) -> Tensor:
        """`lengths` of the scans that lie back to back; they do not see each other."""
        q, k, v, asked = self.project(x_nD, None if at is None else at.where_m)
        mixed = attend(
            q,
            k,
            v,
            query_lengths=lengths if at is None else at.lengths,
            key_lengths=lengths,
            attention=self.attn.attention,
        )
        return self.finish(asked, mixed)

    def project(self, x_nD: Tensor, where_m: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (m, H, d), keys and values (n, H, d), and the tokens that go on (m, D)."""
        normed = self.norm1(x_nD)
        if where_m is None:
            return *self.attn.qkv_of(normed), x_nD
        return *self.attn.qkv_of(normed, where_m), x_nD.index_select(0, where_m)

    def finish(self, x_mD: Tensor, mixed_mHd: Tensor) -> Tensor:
        """Residual, then the MLP with its own."""
        x_mD = x_mD + self.attn.proj(mixed_mHd.flatten(1))
        out: Tensor = x_mD + self.mlp(self.norm2(x_mD))
        return out

    def compile_parts(self) -> None:
        """Compile what lies before and after the attention, once for all numbers of tokens."""
        self.project = torch.compile(self.project, dynamic=True)  # type: ignore[method-assign]
        self.finish = torch.compile(self.finish, dynamic=True)  # type: ignore[method-assign]


class SelfAttention(nn.Module):
    """The weights of multi-head attention."""

    def __init__(self, dim: int, *, num_heads: int, attention: Attention) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def qkv_of(self, x_nD: Tensor, where_m: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q (m, H, d), k and v (n, H, d); m = n without `where_m`."""
        D = x_nD.shape[1]
        if where_m is None:
            q, k, v = self._heads(self.qkv(x_nD), 3)
            return q, k, v
        weight, bias = self.qkv.weight, self.qkv.bias
        (q,) = self._heads(F.linear(x_nD.index_select(0, where_m), weight[:D], bias[:D]), 1)
        k, v = self._heads(F.linear(x_nD, weight[D:], bias[D:]), 2)
        return q, k, v

    def _heads(self, projected: Tensor, n: int) -> tuple[Tensor, ...]:
        return torch.unbind(projected.view(len(projected), n, self.num_heads, -1), dim=1)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


def run_blocks(
    blocks: Iterable[nn.Module], x_nD: Tensor, lengths: Lengths, *, at: At | None, recompute: bool
) -> Tensor:
    """All blocks; the last gives only the tokens `at`, where given.

    With `recompute` (activation checkpointing) a block keeps its input alone and runs again for the gradient.
    """
    stack = list(blocks)
    for number, block in enumerate(stack, 1):
        asked = at if number == len(stack) else None
        if recompute and torch.is_grad_enabled():
            x_nD = checkpoint(block, x_nD, lengths, asked, use_reentrant=False, preserve_rng_state=False)
        else:
            x_nD = block(x_nD, lengths, asked)
    return x_nD
