"""Pretraining inside a fold: what the networks that learn from the fold's own scans share.

Order of operations of a method that pretrains:
  1. `region_scaling` on the scans of the development part
  2. the network's weights from `fold.seed`
  3. `pretrain`: each epoch all series of the development part in a new order, without any target
  4. frozen features of development and test participants, each by itself; `linear.py` reads them out
The test part is read in step 4 only. Its targets are not in a Fold at all.

How long a window is follows from the lengths of all the cohort's series, so that it is the same in every fold
and no scan is left out: lengths tell of the protocol, not of the person, and no signal is looked at.

T frames, R regions, L frames of a window, B windows of a batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.gradients import compute_affinity, diffusion_map, functional_connectivity
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.recordings import Recordings
from bjepa.model.readouts.fit_network import lr_factor_at, plain_groups
from bjepa.model.readouts.model_scaling import ReadSeries
from bjepa.model.train_step import FUSED
from bjepa.preproc.errors import InputError

MAX_FRAMES = 160  # of a window: the paper's, and those of recipe `small`
N_GRADIENTS = 10  # of a fold's own gradient atlas; fewer of few regions
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How long and how fast. AdamW; linear warm-up, then a cosine to 0."""

    epochs: int  # an epoch is one window, or one pair of views, of each series
    batch_size: int
    lr: float  # peak
    warmup: float = 0.1  # share of the updates
    weight_decay: float = 0.05  # of matrices
    clip_grad: float = 1.0  # largest norm


def pretrain(
    network: nn.Module,
    n_series: int,
    loss_of: Callable[[NDArray[np.int64], np.random.Generator], Tensor],
    *,
    settings: PretrainSettings,
    seed: int,
    max_epochs: int | None = None,
    after_update: Callable[[], None] | None = None,
) -> list[float]:
    """Train `network` in place; the mean loss of each epoch.

    Parameters
    ----------
    loss_of
        Of the series with these places (b,), 0 .. n_series - 1; b is 2 or more unless there is one series.
        What it draws (windows, masks, views) comes from the generator.
    max_epochs
        At most so many of `settings.epochs`; the schedule shrinks with them.
    after_update
        Called after each update, for instance to move a target network.

    Raises
    ------
    FloatingPointError
        The loss or the gradient is not finite. Raised before the update.
    """
    epochs = settings.epochs if max_epochs is None else max(1, min(settings.epochs, max_epochs))
    rng = np.random.default_rng((seed, 1))
    groups: list[dict[str, Any]] = [
        {"weight_decay": settings.weight_decay} | group for group in plain_groups(network)
    ]
    trained = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=trained[0].device.type in FUSED)
    n_batches = max(1, n_series // settings.batch_size)  # a remainder joins the others
    n_updates, losses = epochs * n_batches, []
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for number, places in enumerate(np.array_split(rng.permutation(n_series), n_batches)):
            update = epoch * n_batches + number
            factor = lr_factor_at(update, n_updates=n_updates, n_warmup=settings.warmup * n_updates)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * factor
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(places, rng)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(trained, settings.clip_grad))
            value = float(loss.detach())
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise FloatingPointError(
                    f"Pretraining, update {update}: the loss is {value}, the gradient's norm {norm}."
                )
            optimizer.step()
            if after_update is not None:
                after_update()
            total += value * len(places)
        losses.append(total / n_series)
    network.eval()
    log.debug("pretrained %d epochs on %d series: %.4g to %.4g", epochs, n_series, losses[0], losses[-1])
    return losses


@dataclass(frozen=True)
class Windows:
    """Windows of L frames of scaled series (`series`: by number), read when they are needed."""

    recordings: Recordings
    series: ReadSeries
    n_frames: int

    def random(
        self, places: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.bool_], Tensor]:
        """A window of each of these series: (B, R, L) float32; regions that are there (B, R); t_r (B,), s."""
        numbers = self.recordings.numbers[places]
        cut = []
        for number in numbers:
            series = self.series(int(number))
            start = int(rng.integers(len(series) - self.n_frames + 1))
            cut.append(series[start : start + self.n_frames].T)
        reader = self.recordings.reader
        scans = reader.series_scan[numbers]
        t_r = torch.tensor([reader.scans["t_r_out"][scan] for scan in scans], dtype=torch.float32)
        return torch.from_numpy(np.stack(cut)), reader.valid[scans], t_r


def window_frames(fold: Fold, patch_size: int, *, min_patches: int = 2) -> int:
    """The largest multiple of the patch that the cohort's shortest series holds, MAX_FRAMES at most.

    Raises InputError where that is less than `min_patches` patches.
    """
    lengths = np.concatenate(
        [part.reader.series_length[part.numbers] for part in (fold.inputs, fold.test_inputs)]
    )
    shortest = int(lengths.min())
    n_patches = min(shortest, MAX_FRAMES) // patch_size
    if n_patches < min_patches:
        raise InputError(
            f"The shortest series has {shortest} frames; {min_patches} patches of {patch_size} frames are "
            "needed.",
            hint=f"Leave out participants whose series have fewer than {min_patches * patch_size} frames.",
        )
    return n_patches * patch_size


def fold_gradients(recordings: Recordings) -> NDArray[np.float64]:
    """A gradient atlas (R, C) of these participants: mean Fisher-z connectivity, affinity, diffusion map.

    C is N_GRADIENTS, or R - 2 where that is less. Of each row of connectivity the largest 10 % are kept, and
    8 where that is less: a row of few regions must keep its graph in one piece.
    """
    fc = functional_connectivity(recordings)
    n_rois = len(fc)
    affinity = compute_affinity(fc, sparsity=max(0.0, min(0.9, 1 - 8 / n_rois)))
    return diffusion_map(affinity, n_components=max(1, min(N_GRADIENTS, n_rois - 2))).gradients
