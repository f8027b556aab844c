"""The target encoder follows the context encoder: target <- ema * target + (1 - ema) * context."""

import torch
from torch import Tensor, nn

from bjepa.model.config import ObjectiveConfig


def ema_at(update: int, *, n_updates: int, accumulation: int, config: ObjectiveConfig) -> float:
    """Share of the old target that update number `update` (from 0) keeps.

    "linear" reaches `ema_end` at the last update. "released" divides by the number of batches instead of the
    number of updates: with 8 batches an update and 0.996 to 1.0 it ends at 0.9965.
    """
    if config.ema_schedule == "released":
        progress = update / (n_updates * accumulation)
    else:
        progress = update / max(1, n_updates - 1)
    return config.ema_start + (config.ema_end - config.ema_start) * progress


@torch.no_grad()
def ema_update(target: nn.Module, context: nn.Module, ema: float) -> None:
    """Move the parameters of `target` towards those of `context`, in place.

    The frozen time table, the same in both, is left alone: averaging it with itself moves it by rounding.
    """
    pairs = [
        (t, c) for t, c in zip(target.parameters(), context.parameters(), strict=True) if c.requires_grad
    ]
    old: list[Tensor] = [t for t, _ in pairs]
    new: list[Tensor] = [c for _, c in pairs]
    torch._foreach_mul_(old, ema)
    torch._foreach_add_(old, new, alpha=1 - ema)
