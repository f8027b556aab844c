"""Attention within each scan of a packed batch: softmax(q k^T / sqrt(d)) v.

The scans lie back to back (model/tokens.py) and no token attends to another scan's, so nothing is padded.
One result, several ways to it, by `model.attention` and what the device has:

    sdpa        torch's fused kernels: all scans at once where their lengths are equal; else torch's varlen
                kernel on CUDA in half precision, a mask of keys on other CUDA, one scan at a time on a CPU;
                in bfloat16 on a CPU: products for 256 queries at a time (see IN_CHUNKS)
    flash_attn  the package flash-attn (2 or 3), CUDA in half precision; elsewhere as sdpa (same mathematics)
    math        the formula written out, one scan at a time: the reference; (H, m, n) scores in memory

m queries, n keys of all scans, H heads, d features of a head.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bjepa.model.config import Attention
from bjepa.preproc.errors import InputError

Lengths = tuple[int, ...]
HALF = (torch.bfloat16, torch.float16)
# On a CPU torch's fused kernel gains nothing from bfloat16 (4,500 tokens, 6 heads, 2 cores: 0.17 s, as in
# float32), products do (0.08 s; with gradient, 1,456 tokens: 0.036 s against 0.094). Scores are rounded to
# bfloat16, as everything between two layers is. Queries at a time:
IN_CHUNKS = 256


@torch.compiler.disable  # type: ignore[untyped-decorator]  # lengths differ in every batch
def attend(
    q_mHd: Tensor,
    k_nHd: Tensor,
    v_nHd: Tensor,
    *,
    query_lengths: Lengths,
    key_lengths: Lengths,
    attention: Attention,
) -> Tensor:
    """(m, H, d): what each query makes of the keys of its own scan."""
    spans = (q_mHd, k_nHd, v_nHd, query_lengths, key_lengths)
    on_gpu_in_half = q_mHd.is_cuda and q_mHd.dtype in HALF
    if attention == "math":
        return _one_scan_at_a_time(*spans, attention_math)
    if attention == "flash_attn" and on_gpu_in_half:
        return _varlen(flash_attn_varlen(), *spans)
    if q_mHd.device.type == "cpu" and q_mHd.dtype == torch.bfloat16:
        return _one_scan_at_a_time(*spans, _in_chunks)
    if len(set(query_lengths)) == len(set(key_lengths)) == 1:
        return _all_at_once(*spans)
    if on_gpu_in_half and (varlen := torch_varlen()) is not None:
        return _varlen(varlen, *spans)
    if q_mHd.is_cuda:
        return _padded(*spans)
    return _one_scan_at_a_time(*spans, F.scaled_dot_product_attention)


def attention_math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula written out; (…, m, d), (…, n, d), (…, n, d) -> (…, m, d)."""
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (…, m, n)
    mixed: Tensor = score.softmax(dim=-1) @ v
    return mixed


def _in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula for some queries at a time; (1, H, m, d), (1, H, n, d) -> (1, H, m, d).

    Scores are not kept for the gradient but computed again.
    """
    k_HnD, v_HnD = k[0].contiguous(), v[0].contiguous()
    mixed = [
        checkpoint(attention_math, q_HcD, k_HnD, v_HnD, use_reentrant=False, preserve_rng_state=False)
        for q_HcD in torch.split(q[0], IN_CHUNKS, dim=1)
    ]
    return torch.cat(mixed, dim=1)[None]


def _one_scan_at_a_time(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_lengths: Lengths,
    key_lengths: Lengths,
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    parts = zip(_split(q, query_lengths), _split(k, key_lengths), _split(v, key_lengths), strict=True)
    mixed = [
        kernel(*(t.transpose(0, 1)[None] for t in part))[0].transpose(0, 1)  # (1, H, m, d) -> (m, H, d)
        for part in parts
    ]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _all_at_once(q: Tensor, k: Tensor, v: Tensor, query_lengths: Lengths, key_lengths: Lengths) -> Tensor:
    B = len(query_lengths)
    q, k, v = (t.view(B, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))  # (B, H, m or n, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def _padded(q: Tensor, k: Tensor, v: Tensor, query_lengths: Lengths, key_lengths: Lengths) -> Tensor:
    """Queries and keys padded to the longest scan; padding is masked as a key, and dropped as a query."""

    def pad(t: Tensor, lengths: Lengths) -> Tensor:  # (B, H, longest, d)
        return torch.nn.utils.rnn.pad_sequence(list(_split(t, lengths)), batch_first=True).transpose(1, 2)

    longest = torch.arange(max(key_lengths), device=q.device)
    is_key = longest < torch.tensor(key_lengths, device=q.device)[:, None]  # (B, longest)
    mixed = F.scaled_dot_product_attention(
        pad(q, query_lengths), pad(k, key_lengths), pad(v, key_lengths), attn_mask=is_key[:, None, None]
    ).transpose(1, 2)  # (B, longest, H, d)
    return torch.cat([one[:n] for one, n in zip(mixed, query_lengths, strict=True)])


def _split(t: Tensor, lengths: Lengths) -> tuple[Tensor, ...]:
    return torch.split(t, list(lengths))


def _varlen(
    kernel: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_lengths: Lengths,
    key_lengths: Lengths,
) -> Tensor:
    """A kernel that takes packed sequences and where each begins; torch's and flash-attn's agree in this."""

    def begins(lengths: Lengths) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=q.device)

    return kernel(q, k, v, begins(query_lengths), begins(key_lengths), max(query_lengths), max(key_lengths))


@cache
def torch_varlen() -> Callable[..., Tensor] | None:
    """`torch.nn.attention.varlen.varlen_attn`, where this torch has it."""
    try:
        found: Callable[..., Tensor] = import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return found


@cache
def flash_attn_varlen() -> Callable[..., Tensor]:
    """`flash_attn_varlen_func` of flash-attn 3, else 2; InputError where neither is installed."""
    for name in ("flash_attn_interface", "flash_attn"):
        try:
            module: Any = import_module(name)
        except ImportError:
            continue
        kernel: Callable[..., Any] = module.flash_attn_varlen_func

        def varlen(*args: Any, kernel: Callable[..., Any] = kernel) -> Tensor:
            out = kernel(*args)
            mixed: Tensor = out[0] if isinstance(out, tuple) else out  # some versions add the log-sum-exp
            return mixed

        return varlen
    raise InputError(
        "model.attention = 'flash_attn' needs the package flash-attn, which is not installed.",
        hint="pip install 'bjepa[gpu]', or model.attention = 'sdpa': torch's own fused kernels.",
    )


def check_attention(attention: Attention, *, device: torch.device, precision: str) -> None:
    """Refuse to train with flash-attn where it cannot run. (A model made with it is read anywhere.)"""
    if attention != "flash_attn":
        return
    flash_attn_varlen()
    if device.type != "cuda" or precision != "bf16":
        raise InputError(
            f"model.attention = 'flash_attn' needs CUDA and train.precision = 'bf16'; here: {device.type}, "
            f"{precision}.",
            hint="Take model.attention = 'sdpa'.",
        )
