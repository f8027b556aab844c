"""Predictions of a network that was fitted: the mean over each participant's samples.

n samples of p participants, B of a batch.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_settings import Precision
from bjepa.preproc.errors import InputError


@dataclass(frozen=True)
class Fitted:
    """A network with the weights of its best epoch, in eval mode, and what its outputs mean."""

    network: nn.Module
    target_mean: float  # of the training participants; 0 in classification
    target_std: float  # 1 in classification
    best_epoch: int  # from 1
    history: list[dict[str, float]]  # per epoch: epoch, train_loss, val_loss, lr (of its last update)
    precision: Precision = "float32"  # predictions are computed in it too


def predict_network(
    fitted: Fitted, samples: Samples, *, task: Task, device: str = "cpu", batch_size: int = 64
) -> NDArray[np.float64]:
    """Mean over each participant's samples: (p,) in units of the target, or probabilities (p, n_classes).

    Raises InputError where a participant has no sample, or an input is not finite.
    """
    network, precision = fitted.network.to(device).eval(), fitted.precision
    count = np.bincount(samples.participant, minlength=samples.n_participants)
    if (count == 0).any():
        raise InputError(f"{np.count_nonzero(count == 0)} of {len(count)} participants have no sample.")
    parts = []
    for start in range(0, len(samples), batch_size):
        numbers = np.arange(start, min(start + batch_size, len(samples)))
        with torch.no_grad(), autocast(device, precision):
            output = network(*read_samples(samples, numbers, device))
        parts.append(output.double().cpu())
    outputs = torch.cat(parts)
    if not bool(torch.isfinite(outputs).all()):
        raise FloatingPointError("The network's predictions are not finite; a smaller lr may help.")
    if task == "regression":
        values = outputs.squeeze(1).numpy() * fitted.target_std + fitted.target_mean
    else:
        values = outputs.softmax(dim=1).numpy()
    total = np.zeros((samples.n_participants, *values.shape[1:]))
    np.add.at(total, samples.participant, values)
    averaged: NDArray[np.float64] = total / count.reshape(-1, *[1] * (values.ndim - 1))
    return averaged


def read_samples(samples: Samples, numbers: NDArray[np.int64], device: str) -> tuple[Tensor, ...]:
    """The network's arguments, on the device; InputError names participants whose values are not finite."""
    inputs = samples.read(numbers)
    for tensor in inputs:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            finite = torch.isfinite(tensor.reshape(len(tensor), -1)).all(dim=1).cpu().numpy()
            owners = sorted(set(samples.participant[numbers[~finite]].tolist()))
            raise InputError(
                f"A network's inputs of participants number {', '.join(map(str, owners))} have non-finite "
                "values.",
                hint="Missing regions should be 0 for a network.",
            )
    return tuple(tensor.to(device) for tensor in inputs)


def autocast(device: str, precision: Precision) -> torch.autocast | nullcontext[None]:
    """bfloat16 where that is wanted: matrix products alone, weights and loss stay float32."""
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return nullcontext()
