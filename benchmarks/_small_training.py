"""Training of a small model on series in memory, for a given time: what learning.py and fingerprint.py share.

The same masks, objective, schedules and updates as bjepa-train; schedules run on the share of the time that
has passed, so that they end where they should on a machine of any speed, and the run ends on time.

S scans, R regions, F frames of a scan, L frames of a window, T patches, D features.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model import JEPA
from bjepa.model.batch import Batch
from bjepa.model.config import Recipe, read_table, recipe_from_table
from bjepa.model.ema import ema_at
from bjepa.model.mask_samplers_released import released_masks
from bjepa.model.masking import Masks, collate_masks, sample_mask
from bjepa.model.monitors import describe
from bjepa.model.schedules import lr_at, weight_decay_at
from bjepa.model.train_step import make_optimizer, train_step

TICKS = 10_000  # of the clock that the schedules see
WARM_UP = 0.05  # share of the time

Array = NDArray[np.float32]

# What the released code has, on the size of `small`: masks, loss, initial weights, learning rate, and an
# average whose share of the old ends at 0.9965, as with its 8 batches an update
RELEASED: dict[str, dict[str, Any]] = {
    "model": {"init_std": 0.02, "patch_init_std": 0.02},
    "mask": {"sampler": "released"},
    "objective": {
        "loss": "smooth_l1_pooled",
        "regularizer": "none",
        "ema_start": 0.996,
        "ema_end": 0.9965,
    },
    "optimizer": {"start_lr": 5e-5, "lr": 1e-3, "final_lr": 1e-6, "final_weight_decay": 0.4},
}


@dataclass(frozen=True)
class Trained:
    """How far it came."""

    n_updates: int
    n_series: int
    loss: float  # mean of the last tenth, without the regularizer's term where there is one


def make_recipe(
    name: str, *, n_rois: int, n_gradients: int, seed: int, changes: dict[str, dict[str, Any]] | None = None
) -> Recipe:
    """`released` (on the size of `small`), or a recipe's name or file; `changes` section by section."""
    table = read_table("small" if name == "released" else name)
    layers = [{"model": {"n_rois": n_rois, "n_gradients": n_gradients}, "train": {"seed": seed}}]
    layers = [RELEASED, *layers] if name == "released" else layers
    if name == "released":
        for key in ("regularizer_weight", "covariance_weight", "n_projections"):
            table["objective"].pop(key, None)
    for layer in [*layers, changes or {}]:
        for section, values in layer.items():
            table.setdefault(section, {}).update(values)
    return recipe_from_table(table, origin=name)


def new_model(recipe: Recipe, gradients: NDArray[np.floating[Any]]) -> JEPA:
    """With the weights that the recipe's seed draws."""
    generator = torch.Generator().manual_seed(recipe.train.seed)
    jepa = JEPA(recipe.model, gradients[:, : recipe.model.n_gradients], generator=generator)
    jepa.normed_targets = recipe.objective.target_norm == "layer"
    return jepa


def train_for(
    jepa: JEPA, series_SRF: Array, recipe: Recipe, *, seconds: float, t_r: float, progress: Any = None
) -> Trained:
    """Random windows of random scans, `batch_size * accumulation` an update, until the time is over."""
    train, optimizer_config = recipe.train, recipe.optimizer
    optimizer = make_optimizer(jepa, optimizer_config)
    batches = _batches(series_SRF, recipe, t_r=t_r)
    objective_config = recipe.objective
    losses: list[float] = []
    began = time.monotonic()
    while (passed := (time.monotonic() - began) / seconds) < 1:
        tick = int(passed * TICKS)
        clock = {"n_updates": TICKS, "config": optimizer_config}
        result = train_step(
            jepa,
            [next(batches) for _ in range(train.accumulation)],
            optimizer,
            objective_config=objective_config,
            lr=lr_at(tick, n_warmup=int(WARM_UP * TICKS), **clock),
            weight_decay=weight_decay_at(tick, **clock),
            ema=ema_at(tick, n_updates=TICKS, accumulation=train.accumulation, config=objective_config),
            max_grad_norm=optimizer_config.max_grad_norm,
            sketch_seed=1_000_003 * train.seed + len(losses),
        )
        losses.append(_prediction_loss(result, recipe))
        if progress is not None:
            progress(passed, len(losses), losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return Trained(len(losses), len(losses) * train.batch_size * train.accumulation, float(np.mean(last)))


def tokens_of_scans(jepa: JEPA, series_SRF: Array, *, batch_size: int = 16) -> Array:
    """(S, R, T of all windows, D): the target encoder on consecutive windows, a remainder left out."""
    config, found = jepa.config, []
    starts = range(0, series_SRF.shape[2] - config.n_frames + 1, config.n_frames)
    with torch.no_grad():
        for first in range(0, len(series_SRF), batch_size):
            some = series_SRF[first : first + batch_size]
            windows = [
                jepa.target_encoder(torch.from_numpy(some[:, :, s : s + config.n_frames].copy()))
                for s in starts
            ]
            shape = (len(some), config.n_rois, config.n_patches, config.embed_dim)
            found.append(torch.cat([w.reshape(shape) for w in windows], dim=2).numpy())
    return np.concatenate(found)


@torch.no_grad()
def look(jepa: JEPA, series_SRF: Array, recipe: Recipe, *, n_masks: int = 4) -> dict[str, float]:
    """The monitors (docs/training.md) on the first window of all scans, mean over a few masks."""
    config, rng = recipe.model, np.random.default_rng(0)
    x = torch.from_numpy(series_SRF[:, :, : config.n_frames].copy())
    found: list[dict[str, float]] = []
    for _ in range(n_masks):
        mask = sample_mask(
            config.n_rois, config.n_patches, config=replace(recipe.mask, sampler="paper"), generator=rng
        )
        context, target = (i[None].expand(len(x), -1) for i in (mask.context_index, mask.target_index))
        found.append(describe(*jepa(x, context, target)))
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def _batches(series_SRF: Array, recipe: Recipe, *, t_r: float) -> Iterator[Batch]:
    model, train = recipe.model, recipe.train
    rng = np.random.default_rng((train.seed, 1))
    generator = torch.Generator().manual_seed(train.seed)
    counter = 0
    while True:
        scans = rng.permutation(len(series_SRF))[: train.batch_size]
        starts = rng.integers(0, series_SRF.shape[2] - model.n_frames + 1, len(scans))
        clips = [series_SRF[i, :, s : s + model.n_frames] for i, s in zip(scans, starts, strict=True)]
        x = torch.from_numpy(np.stack(clips))
        masks = _masks(len(x), recipe, rng, counter, generator)
        yield Batch(x, masks, scans.tolist(), torch.full((len(x),), t_r))
        counter += 1


def _masks(
    n: int, recipe: Recipe, rng: np.random.Generator, counter: int, generator: torch.Generator
) -> Masks:
    """Of the regions that data.drop_rois leaves, others in every scan: fewer tokens while learning."""
    model, share = recipe.model, recipe.data.drop_rois
    if recipe.mask.sampler == "released":
        return released_masks(n, model.n_rois, model.n_patches, counter=counter, generator=generator)
    drawn = []
    for _ in range(n):
        kept = None
        if share:
            kept = np.zeros(model.n_rois, dtype=bool)
            kept[rng.permutation(model.n_rois)[: max(2, round(model.n_rois * (1 - share)))]] = True
        drawn.append(
            sample_mask(model.n_rois, model.n_patches, config=recipe.mask, generator=rng, valid_rois=kept)
        )
    return collate_masks(drawn, n_tokens=model.n_tokens)


def _prediction_loss(result: Any, recipe: Recipe) -> float:
    """The loss without its regularizer."""
    config, parts = recipe.objective, result.parts
    penalty = parts.get("variance", 0.0) + config.covariance_weight * parts.get("covariance", 0.0)
    return float(result.loss - config.regularizer_weight * (penalty + parts.get("normality", 0.0)))
