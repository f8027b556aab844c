"""The one training loop of all networks that predict a target: readouts, fine-tuning, deep baselines.

Order of operations:
  1. targets of a regression get mean 0 and variance 1, by mean and SD of the training participants
  2. each epoch: samples in a new order (from `seed`), batches, `accumulate` batches to an update
  3. before each update: loss and gradient must be finite; the gradient is clipped; the rate of the schedule
     is set, times `lr_scale` of each group of parameters; AdamW
  4. after each epoch: loss of the validation participants, each with the mean prediction of its samples
  5. stop after `patience` epochs without a lower validation loss; the weights of the best epoch come back

A sample counts as much as another in the training loss, a participant as much as another in the validation
loss. An update of `accumulate` batches weighs them by their samples: 4 x 2 samples give the gradient of 8.
A last batch of one sample joins the one before it, for batch norm cannot do with one.
Test participants are not here: `predict_network` sees them once, afterwards.

n samples of p participants, B of a batch.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_settings import FitSettings, lr_factor_at
from bjepa.model.readouts.predict_network import (
    Fitted,
    autocast,
    predict_network,
    read_samples,
)
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)
Groups = list[dict[str, Any]]
__all__ = ["FitSettings", "Fitted", "fit_network", "lr_factor_at", "plain_groups", "predict_network"]


def fit_network(
    network: nn.Module,
    train: Samples,
    val: Samples,
    *,
    task: Task,
    settings: FitSettings,
    seed: int,
    device: str = "cpu",
    max_epochs: int | None = None,
    parameter_groups: Callable[[nn.Module], Groups] | None = None,
    loss_extra: Callable[[nn.Module], Tensor] | None = None,
    make_optimizer: Callable[[Groups], torch.optim.Optimizer] | None = None,
) -> Fitted:
    """Train `network` in place, as above.

    Parameters
    ----------
    network
        `network(*samples.read(numbers))` -> (B, 1) in regression, (B, n_classes) logits in classification.
    seed
        Of the order of the samples and of dropout; the weights are drawn by who made the network.
    max_epochs
        At most so many of `settings.epochs`; schedule and warm-up shrink with them.
    parameter_groups
        Groups for the optimizer, each with `params` and maybe `lr_scale` (default 1) and `weight_decay`
        (default `settings.weight_decay`). Default: biases, norms and other vectors do not decay.
    loss_extra
        Added to the loss of each batch, after its forward pass.
    make_optimizer
        From the groups, each with its `lr`; default AdamW (betas 0.9 and 0.999).

    Raises
    ------
    InputError
        No samples; inputs or targets that are not finite; fewer targets than participants.
    FloatingPointError
        Loss or gradient is not finite. Raised before the update.
    """
    _refuse_unfit(train, task, "training")
    _refuse_unfit(val, task, "validation")
    assert train.target is not None and val.target is not None
    mean, std = _mean_and_std(train) if task == "regression" else (0.0, 1.0)
    epochs = settings.epochs if max_epochs is None else max(1, min(settings.epochs, max_epochs))
    network.to(device)
    groups = (parameter_groups or plain_groups)(network)
    optimizer = (make_optimizer or _adamw)(
        [{"lr": settings.lr, "weight_decay": settings.weight_decay, "lr_scale": 1.0} | g for g in groups]
    )
    order = np.random.default_rng(seed)
    n_updates = len(_updates(np.arange(len(train)), settings))  # of an epoch
    n_warmup = settings.warmup_epochs * epochs / settings.epochs * n_updates
    best_loss, best_epoch, best_state = math.inf, 0, copy.deepcopy(network.state_dict())
    history: list[dict[str, float]] = []
    now = Fitted(network, mean, std, 0, history, settings.precision)
    with _seeded(seed, device):
        for epoch in range(1, epochs + 1):
            network.train()
            total = 0.0
            for number, batches in enumerate(_updates(order.permutation(len(train)), settings)):
                update = (epoch - 1) * n_updates + number
                factor = lr_factor_at(update, n_updates=epochs * n_updates, n_warmup=n_warmup)
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * factor * group["lr_scale"]
                optimizer.zero_grad(set_to_none=True)
                n_samples = sum(map(len, batches))
                loss = 0.0
                for numbers in batches:
                    inputs = read_samples(train, numbers, device)
                    target = train.target[train.participant[numbers]]
                    with autocast(device, settings.precision):
                        output = network(*inputs)
                    batch_loss = _loss(output.float(), target, task, mean, std, settings.label_smoothing)
                    if loss_extra is not None:
                        batch_loss = batch_loss + loss_extra(network)
                    share = len(numbers) / n_samples
                    (batch_loss * share).backward()  # type: ignore[no-untyped-call]
                    loss += float(batch_loss.detach()) * share
                _check_and_clip(optimizer, loss, settings.clip_grad, epoch, number)
                optimizer.step()
                total += loss * n_samples
            predicted = predict_network(now, val, task=task, device=device, batch_size=settings.batch_size)
            val_loss = _validation_loss(predicted, val.target, task, std)
            rate = settings.lr * factor
            history.append(
                {"epoch": epoch, "train_loss": total / len(train), "val_loss": val_loss, "lr": rate}
            )
            if val_loss < best_loss:
                best_loss, best_epoch = val_loss, epoch
                best_state = copy.deepcopy(network.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    network.load_state_dict(best_state)
    network.eval()
    log.debug("fitted %d epochs, best %d with validation loss %.4g", len(history), best_epoch, best_loss)
    return replace(now, best_epoch=best_epoch)


def plain_groups(network: nn.Module) -> Groups:
    """Two groups of what is trained: matrices decay, biases, norms and other vectors do not."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups)


def _updates(numbers: NDArray[np.int64], settings: FitSettings) -> list[list[NDArray[np.int64]]]:
    """Samples in their order -> batches, `accumulate` of them to an update."""
    starts = list(range(0, len(numbers), settings.batch_size))
    if len(starts) > 1 and len(numbers) - starts[-1] == 1:
        starts.pop()  # the last one joins the batch before
    batches = np.split(numbers, starts[1:])
    return [batches[i : i + settings.accumulate] for i in range(0, len(batches), settings.accumulate)]


def _loss(
    output: Tensor, target: NDArray[Any], task: Task, mean: float, std: float, label_smoothing: float
) -> Tensor:
    if task == "regression":
        wanted = torch.as_tensor((target - mean) / std, dtype=torch.float32, device=output.device)
        return F.mse_loss(output.squeeze(1), wanted)
    wanted = torch.as_tensor(target, dtype=torch.int64, device=output.device)
    return F.cross_entropy(output, wanted, label_smoothing=label_smoothing)


def _validation_loss(predicted: NDArray[np.float64], target: NDArray[Any], task: Task, std: float) -> float:
    """Mean squared error of standardised targets, or log loss, over participants."""
    if task == "regression":
        return float(np.mean(((predicted - target) / std) ** 2))
    true = predicted[np.arange(len(target)), target.astype(np.int64)]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def _check_and_clip(
    optimizer: torch.optim.Optimizer, loss: float, clip_grad: float | None, epoch: int, number: int
) -> None:
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, clip_grad or math.inf))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"Epoch {epoch}, update {number}: the loss is {loss}, the gradient's norm {norm}. Nothing was "
            "updated. A smaller lr, a longer warm-up or precision float32 may help."
        )


def _refuse_unfit(samples: Samples, task: Task, part: str) -> None:
    if len(samples) == 0:
        raise InputError(f"The {part} part has no samples.", hint="Every part needs a participant.")
    if samples.target is None or len(samples.target) != samples.n_participants:
        found = "none" if samples.target is None else len(samples.target)
        raise InputError(f"The {part} part needs {samples.n_participants} targets, one each; got {found}.")
    if task == "regression" and not np.isfinite(samples.target).all():
        raise InputError(f"The {part} part has targets that are not finite.")


def _mean_and_std(samples: Samples) -> tuple[float, float]:
    """Of the participants' targets; SD 1 where all are the same."""
    target = np.asarray(samples.target, dtype=np.float64)
    return float(target.mean()), float(target.std()) or 1.0


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Dropout draws from `seed`, and the process-wide generators are afterwards as they were."""
    kind = torch.device(device)
    devices = [kind.index or 0] if kind.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
