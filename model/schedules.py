"""Learning rate and weight decay, as functions of the update's number.

`update` counts updates of the weights from 0; `n_updates` is their number in the whole run. Update u uses the
curve at u + 1, as the released code does (it steps both schedules once before training).
"""

import math

from bjepa.model.config import OptimizerConfig


def lr_at(update: int, *, n_updates: int, n_warmup: int, config: OptimizerConfig) -> float:
    """Linear from `start_lr` to `lr` over `n_warmup` updates, then a cosine down to `final_lr`."""
    n = update + 1
    if n < n_warmup:
        return config.start_lr + n / max(1, n_warmup) * (config.lr - config.start_lr)
    progress = min(1.0, (n - n_warmup) / max(1, n_updates - n_warmup))
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def weight_decay_at(update: int, *, n_updates: int, config: OptimizerConfig) -> float:
    """A cosine from `weight_decay` to `final_weight_decay`."""
    progress = min(1.0, (update + 1) / n_updates)
    first, final = config.weight_decay, config.final_weight_decay
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))


def lr_factor(config: OptimizerConfig, *, series_per_update: int) -> float:
    """What the learning rates are multiplied with, for they are meant for `lr_batch` series an update.

    "linear" keeps the way per series (Goyal et al. 2017, arXiv 1706.02677), "sqrt" the noise of Adam's steps
    (Malladi et al. 2022, arXiv 2205.10287).
    """
    ratio = series_per_update / config.lr_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_scaling]
