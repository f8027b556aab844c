"""How a network is fitted, and the learning rate of each update."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from bjepa.preproc.errors import InputError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a network is fitted. Raises InputError on values that make no sense."""

    epochs: int = 100  # at most
    batch_size: int = 16
    accumulate: int = 1  # batches in one update
    lr: float = 1e-3  # peak, after the warm-up; a cosine takes it to 0
    weight_decay: float = 0.05
    warmup_epochs: float = 5
    patience: int = 20  # epochs without a better validation loss
    clip_grad: float | None = 1.0  # largest norm of the gradient; None: not clipped
    precision: Precision = "float32"
    label_smoothing: float = 0.0  # of classes, in the training loss

    def __post_init__(self) -> None:
        low = {"epochs": 1, "batch_size": 1, "accumulate": 1, "patience": 1, "warmup_epochs": 0}
        low |= {"weight_decay": 0, "label_smoothing": 0}
        for name, least in low.items():
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}.")
        for name in ("lr", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be above 0, got {value}.")
        if self.precision not in get_args(Precision):
            allowed = " or ".join(get_args(Precision))
            raise InputError(f"precision must be {allowed}, got {self.precision!r}.")
        if self.label_smoothing >= 1:
            raise InputError(f"label_smoothing must be below 1, got {self.label_smoothing}.")
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs = {self.warmup_epochs} is more than epochs = {self.epochs}.",
                hint="The peak would never be reached.",
            )


def lr_factor_at(update: int, *, n_updates: int, n_warmup: float) -> float:
    """Share of the peak rate in update 0 .. n_updates - 1: linear up over `n_warmup`, then a cosine to 0.

    The first update after the warm-up has the peak; the last one is a step before 0.
    """
    if update + 1 < n_warmup:
        return (update + 1) / n_warmup
    start = max(0.0, math.ceil(n_warmup) - 1)
    return 0.5 * (1 + math.cos(math.pi * (update - start) / max(1.0, n_updates - start)))
