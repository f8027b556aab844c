"""The transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

B scans, K tokens, D width, H heads. LayerNorm eps 1e-6 and exact (erf) GELU, as released: eps 1e-5 moves
encoder tokens by 4e-5, the tanh GELU by 8e-6. No dropout, no drop path.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bjepa.model.config import Attention

NORM_EPS = 1e-6


class Block(nn.Module):
    """Pre-norm transformer block, (B, K, D) -> (B, K, D)."""

    def __init__(self, dim: int, *, num_heads: int, mlp_ratio: float, attention: Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads=num_heads, attention=attention)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x_BKD: Tensor, present_BK: Tensor | None = None) -> Tensor:
        """`present_BK` is False at padding, which no token attends to; None when there is none."""
        x_BKD = x_BKD + self.attn(self.norm1(x_BKD), present_BK)
        out: Tensor = x_BKD + self.mlp(self.norm2(x_BKD))
        return out


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens given."""

    def __init__(self, dim: int, *, num_heads: int, attention: Attention) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BKD: Tensor, present_BK: Tensor | None) -> Tensor:
        B, K, D = x_BKD.shape
        qkv = self.qkv(x_BKD).view(B, K, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, K, D/H)
        mask = None if present_BK is None else present_BK[:, None, None, :]  # (B, 1, 1, K): keys only
        attend = F.scaled_dot_product_attention if self.attention == "sdpa" else attention_math
        mixed_BHKd = attend(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(mixed_BHKd.transpose(1, 2).reshape(B, K, D))
        return out


def attention_math(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v written out, the reference for the fused kernels. (B, H, K, d) each."""
    score = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, H, K, K)
    if attn_mask is not None:
        score = score.masked_fill(~attn_mask, -torch.inf)
    mixed: Tensor = score.softmax(dim=-1) @ v
    return mixed


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
