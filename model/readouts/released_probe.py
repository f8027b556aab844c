"""The released code's linear probe, for comparability: batch norm without weights, a linear layer, LARS.

Order of operations on embeddings (n, D), as in the released example:
  1. LayerNorm (eps 1e-6, weight 1, bias 0, never trained), then BatchNorm (eps 1e-6, no weights)
  2. linear layer, weights normal with SD 0.01
  3. LARS for 50 epochs in batches of 64; the rate falls by a cosine
Differs from it: the rate is chosen on the validation part from RATES, the released one among them; so is the
best epoch; samples are shuffled; targets of a regression are standardised; embeddings are not computed anew,
so scans do not start at random; the rate falls to 0, not to 1e-6.
The released rate, 1e-3 * 64 / 256, cannot move the head: LARS changes a matrix by rate * trust, 2.5e-7 of its
length in an update, so that after 50 epochs of 400 participants it is within 0.1 % of what was drawn.

LARS: You et al. 2017, "Large batch training of convolutional networks", arXiv:1708.03888, algorithm 1:
    d = grad + wd * w;  v <- m * v + lr * trust * |w| / |d| * d;  w <- w - v
with the rate outside of the momentum, as in the released code and MoCo v3 (equal while the rate is constant).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bjepa.model.evaluation.fold import Fold, Prediction
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_network import FitSettings, Fitted, fit_network, predict_network

log = logging.getLogger(__name__)
EPS = 1e-6
HEAD_STD = 0.01
BATCH_SIZE, EPOCHS = 64, 50
RATES = tuple(base * BATCH_SIZE / 256 for base in (1e-3, 0.1, 1.0, 10.0, 100.0))
RELEASED_PROBE = FitSettings(
    epochs=EPOCHS,
    batch_size=BATCH_SIZE,
    lr=RATES[0],
    weight_decay=0.05,
    warmup_epochs=0,
    patience=EPOCHS,  # all of them, as released
    clip_grad=None,
)


class ReleasedHead(nn.Module):
    """(B, D) -> (B, n_outputs)."""

    def __init__(self, width: int, n_outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=EPS)
        self.head = nn.Linear(width, n_outputs)
        nn.init.normal_(self.head.weight, std=HEAD_STD, generator=generator)
        bound = width**-0.5  # torch's default, drawn by our generator
        nn.init.uniform_(self.head.bias, -bound, bound, generator=generator)

    def forward(self, x_BD: Tensor) -> Tensor:
        """As on top of the file."""
        normed = nn.functional.layer_norm(x_BD, x_BD.shape[-1:], eps=EPS)
        out: Tensor = self.head(self.norm(normed))
        return out


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates: a matrix moves by `lr * trust * |w|`, whatever the size of its gradient.

    Vectors (biases) move by plain momentum, without weight decay.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        if closure is not None:
            raise ValueError("LARS takes no closure.")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad
                if parameter.ndim > 1:
                    change = change + group["weight_decay"] * parameter
                    size, length = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(change)
                    if size > 0 and length > 0:
                        change = change * (group["trust"] * size / length)
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(change)
                parameter.add_(state["momentum"], alpha=-group["lr"])


def fit_released_probe(
    fold: Fold, *, settings: FitSettings = RELEASED_PROBE, rates: Sequence[float] = RATES
) -> Prediction:
    """Fit on the training part of a fold whose inputs are embeddings (n, D), choose by the validation part.

    `rates` replace `settings.lr`; one that diverges is left out. Unknown values (NaN) become a feature's mean
    over the training part. Raises FloatingPointError where all rates diverge.
    """
    train, val = ~fold.is_val, fold.is_val
    known = np.isfinite(fold.inputs[train])
    mean = np.where(known, fold.inputs[train], 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)

    def samples(features: Any, target: Any = None) -> Samples:
        filled = np.where(np.isfinite(features), features, mean).astype(np.float32)
        return Samples.of_arrays(filled, target=target)

    def fit(rate: float) -> Fitted:
        generator = torch.Generator().manual_seed(fold.seed)
        return fit_network(
            ReleasedHead(fold.inputs.shape[1], fold.n_outputs, generator=generator),
            samples(fold.inputs[train], fold.target[train]),
            samples(fold.inputs[val], fold.target[val]),
            task=fold.task,
            settings=replace(settings, lr=rate),
            seed=fold.seed,
            device=fold.device,
            max_epochs=fold.max_epochs,
            make_optimizer=LARS,
        )

    fits: dict[float, Fitted] = {}
    for rate in rates:
        try:
            fits[rate] = fit(rate)
        except FloatingPointError:  # the bias moves by plain momentum: a large rate may diverge
            log.info("released probe: rate %g diverged and is left out", rate)
    if not fits:
        raise FloatingPointError(f"The released probe diverged at every rate of {list(rates)}.")
    rate = min(fits, key=lambda rate: min(epoch["val_loss"] for epoch in fits[rate].history))
    values = predict_network(fits[rate], samples(fold.test_inputs), task=fold.task, device=fold.device)
    told = {"lr": rate, "best_epoch": fits[rate].best_epoch, "n_features": int(fold.inputs.shape[1])}
    return Prediction(values, told)
