"""One update of the weights: batches in, new weights and named numbers out.

Order: loss of each batch and its gradient (adding up), check that all is finite, optimizer, target encoder.
The check comes once, before the update: a broken batch leaves the weights as they were.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bjepa.model.batch import Batch
from bjepa.model.config import ObjectiveConfig, OptimizerConfig
from bjepa.model.distributed import World, whole, without_sync
from bjepa.model.ema import ema_update
from bjepa.model.jepa import JEPA
from bjepa.model.masking import KINDS
from bjepa.model.objective import Objective, objective
from bjepa.model.regularizers import TERMS, listening

ALONE = World()
FUSED = ("cpu", "cuda")  # devices on which AdamW is one kernel


class StepResult(NamedTuple):
    """What an update tells."""

    loss: float
    per_kind: dict[str, float]  # KINDS -> the same error within that kind; NaN where none was hidden
    grad_norm: float  # before clipping
    parts: dict[str, float]  # terms of the regularizer, unweighted; empty without one


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
    fused = all(p.device.type in FUSED for group in groups for p in cast(list[Tensor], group["params"]))
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


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
    weights: Sequence[float] | None = None,
    network: nn.Module | None = None,
    world: World = ALONE,
    sketch_seed: int = 0,
) -> StepResult:
    """Update `jepa` once with the mean gradient over the scans of `batches`, of all processes.

    Parameters
    ----------
    batches
        Each passes through the network by itself.
    lr, weight_decay, ema
        Values for this update.
    max_grad_norm
        0 leaves gradients as they are.
    precision : "fp32" or "bf16"
        "bf16" runs matrix products under autocast; weights, norms, targets and loss stay float32.
    weights
        Of each batch's loss in the mean; over all processes they add up to 1, and a batch of weight 0 counts
        nowhere. None: by the number of scans.
    network
        What is called in place of `jepa` (`spread`), which holds the weights all the same.
    world
        The processes that make this update together.
    sketch_seed
        Draws what the regularizer draws: the same for all batches and processes.

    Raises
    ------
    NonFiniteLossError
        In all processes, before anything was changed.
    """
    network = network or jepa
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
    optimizer.zero_grad(set_to_none=True)
    if weights is None:
        n_scans = sum(len(batch.series) for batch in batches)
        weights = [len(batch.series) / n_scans for batch in batches]
    tallies, finite = [], []
    terms = TERMS[objective_config.regularizer]
    for number, (batch, weight) in enumerate(zip(batches, weights, strict=True), 1):
        with nullcontext() if number == len(batches) else without_sync(network):
            with autocast(batch.x.device, precision), listening(jepa.context_encoder) as context:
                predicted, targets = network(
                    batch.x,
                    batch.masks.context_index,
                    batch.masks.target_index,
                    visible_index=batch.masks.visible_index,
                    t_r=batch.t_r,
                )
            batch_loss = objective(
                predicted,
                targets,
                batch.masks,
                config=objective_config,
                context_BKD=context[0],
                sketch_seed=sketch_seed,
            )
            # the processes' gradients are averaged, not added
            (batch_loss.loss * (weight * world.size)).backward()  # type: ignore[no-untyped-call]
        # nothing is looked at before the end: a device is not waited for between batches
        tallies.append(_tally(batch_loss, batch, weight, terms))
        finite.append(_finite_scans(predicted.detach(), targets))

    trained = [p for group in optimizer.param_groups for p in group["params"]]
    # with no limit this only measures
    norm = whole(nn.utils.clip_grad_norm_(trained, max_grad_norm or math.inf))
    tally = world.total(torch.stack(tallies).sum(dim=0))
    grad_norm, loss, *rest = torch.cat([norm.reshape(1), tally]).tolist()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise _non_finite(loss, grad_norm, batches, finite, world)
    optimizer.step()
    ema_update(jepa.target_encoder, jepa.context_encoder, ema)
    n_kinds = len(KINDS)
    sums, counts, parts = rest[:n_kinds], rest[n_kinds : 2 * n_kinds], rest[2 * n_kinds :]
    per_kind = [total / n if n else math.nan for total, n in zip(sums, counts, strict=True)]
    return StepResult(
        loss, dict(zip(KINDS, per_kind, strict=True)), grad_norm, dict(zip(terms, parts, strict=True))
    )


def _tally(batch_loss: Objective, batch: Batch, weight: float, terms: Sequence[str]) -> Tensor:
    """(7 + terms,): the batch's part of the loss; errors summed over the scans that have a kind, and how many
    do; its part of the regularizer's terms."""
    n_with_kind = batch.masks.block_weight.sum(dim=(0, 2)) * (weight > 0)  # each scan's sums to 1, or 0
    summed = torch.where(n_with_kind > 0, batch_loss.per_kind * n_with_kind, 0.0)
    loss = batch_loss.loss.detach()
    parts = [batch_loss.parts.get(term, torch.zeros_like(loss)) * weight for term in terms]
    return torch.cat(
        [torch.stack([loss * weight]), summed, n_with_kind, *(p.reshape(1) for p in parts)]
    ).float()


def _finite_scans(predicted_BMD: Tensor, targets_BMD: Tensor) -> Tensor:
    """(B,) bool."""
    return (predicted_BMD.sum(dim=(1, 2)) + targets_BMD.sum(dim=(1, 2))).isfinite()


def _non_finite(
    loss: float, grad_norm: float, batches: Sequence[Batch], finite: Sequence[Tensor], world: World
) -> NonFiniteLossError:
    """Names the scans, of whatever process, whose tokens are not finite; all of the update if none is."""
    series = [s for batch in batches for s in batch.series]
    broken = [
        s for s, is_finite in zip(series, torch.cat(list(finite)).tolist(), strict=True) if not is_finite
    ]
    named = world.union(broken) or world.union(series)
    what = f"the gradient's norm is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
    return NonFiniteLossError(what, named)


def autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext[None]:
    """bfloat16 autocast, or nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
