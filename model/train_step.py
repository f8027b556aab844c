"""One update of the weights: batches in, new weights and named numbers out.

Order: loss of each batch and its gradient (adding up), check that all is finite, optimizer, target encoder.
The check comes before the update: a broken batch leaves the weights as they were.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bjepa.model.batch import Batch
from bjepa.model.config import ObjectiveConfig, OptimizerConfig
from bjepa.model.ema import ema_update
from bjepa.model.jepa import JEPA
from bjepa.model.masking import KINDS
from bjepa.model.objective import objective


class StepResult(NamedTuple):
    """What an update tells."""

    loss: float
    per_kind: dict[str, float]  # KINDS -> the same error within that kind; NaN where none was hidden
    grad_norm: float  # before clipping


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is not finite; `series` numbers the culprits. Nothing was updated."""

    def __init__(self, message: str, series: list[int]) -> None:
        super().__init__(message)
        self.series = series


def make_optimizer(jepa: JEPA, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over context encoder and predictor, in the four groups of the released code.

    Groups 0 and 1 (matrices of encoder and predictor, and the mask token) decay; 2 and 3 (biases, norms)
    never.
    """

    def split(module: nn.Module, *, decays: bool) -> list[nn.Parameter]:
        return [p for p in module.parameters() if p.requires_grad and (p.ndim > 1) == decays]

    parts = (jepa.context_encoder, jepa.predictor)
    groups = [
        {"params": split(part, decays=decays), "decays": decays, "weight_decay": 0.0}
        for decays in (True, False)
        for part in parts
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def train_step(
    jepa: JEPA,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    objective_config: ObjectiveConfig,
    lr: float,
    weight_decay: float,
    ema: float,
    max_grad_norm: float = 0.0,
    precision: str = "fp32",
) -> StepResult:
    """Update `jepa` once with the mean gradient over the scans of `batches`.

    Parameters
    ----------
    batches
        Each passes through the network by itself; its loss weighs as its number of scans.
    lr, weight_decay, ema
        Values for this update.
    max_grad_norm
        0 leaves gradients as they are.
    precision : "fp32" or "bf16"
        "bf16" runs matrix products under autocast; weights, norms, targets and loss stay float32.

    Raises
    ------
    NonFiniteLossError
        Before anything was changed.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
    optimizer.zero_grad(set_to_none=True)
    n_scans = sum(len(batch.series) for batch in batches)
    losses, kinds = [], []
    for batch in batches:
        with autocast(batch.x.device, precision):
            predicted, targets = jepa(batch.x, batch.masks.context_index, batch.masks.target_index)
        batch_loss = objective(predicted, targets, batch.masks, config=objective_config)
        value = batch_loss.loss.item()
        if not math.isfinite(value):
            broken = _series_with_non_finite(predicted, targets, batch)
            raise NonFiniteLossError(f"the loss is {value}", broken)
        (batch_loss.loss * (len(batch.series) / n_scans)).backward()  # type: ignore[no-untyped-call]
        losses.append(value * len(batch.series) / n_scans)
        kinds.append(batch_loss.per_kind)

    trained = [p for group in optimizer.param_groups for p in group["params"]]
    # with no limit this only measures
    grad_norm = float(nn.utils.clip_grad_norm_(trained, max_grad_norm or math.inf))
    if not math.isfinite(grad_norm):
        raise NonFiniteLossError(
            f"the gradient's norm is {grad_norm}", [s for b in batches for s in b.series]
        )
    optimizer.step()
    ema_update(jepa.target_encoder, jepa.context_encoder, ema)
    per_kind = torch.stack(kinds).nanmean(dim=0).tolist()
    return StepResult(sum(losses), dict(zip(KINDS, per_kind, strict=True)), grad_norm)


def autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext[None]:
    """bfloat16 autocast, or nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _series_with_non_finite(predicted: Tensor, targets: Tensor, batch: Batch) -> list[int]:
    bad = ~(predicted.isfinite() & targets.isfinite()).flatten(1).all(dim=1)
    return [series for series, is_bad in zip(batch.series, bad.tolist(), strict=True) if is_bad]
