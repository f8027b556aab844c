"""How far our numbers are from those that the released implementation produced.

    python benchmarks/reference_parity.py [--reference ../shared/reference]

Needs the recorded arrays (reference_tiny.npz and .pth.tar), which are not part of the project. Everything
that they hold is computed anew from the recorded weights and inputs, in float32 on the CPU: positions,
tokens, targets, predictions, loss, gradients, four updates with their schedules, AdamW's moments, the
container read and written, and the sampler's check values. Prints the largest difference of each item beside
its limit; exit status 1 if one is exceeded.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model import JEPA, ModelConfig, load_official_checkpoint
from bjepa.model.batch import Batch
from bjepa.model.checkpoint import load_tensors
from bjepa.model.config import ObjectiveConfig, OptimizerConfig
from bjepa.model.ema import ema_at
from bjepa.model.hub import load_strictly
from bjepa.model.mask_samplers_released import released_masks
from bjepa.model.masking import Masks
from bjepa.model.objective import objective
from bjepa.model.official import PARTS as PART_NAMES
from bjepa.model.official import from_official
from bjepa.model.official_export import to_official
from bjepa.model.schedules import lr_at, weight_decay_at
from bjepa.model.train_step import make_optimizer, train_step

PARTS = ("encoder", "predictor", "target_encoder")
POOLED = ObjectiveConfig(loss="smooth_l1_pooled", ema_schedule="released")
# (regions, scans) -> per batch: width of the context list, sum of its numbers, and the same of the targets
SAMPLER = {
    (24, 2): [(36, 6416, 74, 16643), (36, 6950, 54, 13746), (63, 14416, 47, 10754)],
    (450, 16): [
        (752, 19913073, 1175, 42369400),
        (704, 17402572, 827, 28840297),
        (772, 18261465, 810, 27503528),
    ],
}


class Item(NamedTuple):
    """One line of the table."""

    name: str
    difference: float  # largest, absolute
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether it is within the limit; NaN is not."""
        return self.difference <= self.limit


def main() -> int:
    """Print the table."""
    default = Path(os.environ.get("BJEPA_SHARED", "../shared")) / "reference"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, default=default, help=f"default: {default}")
    folder = parser.parse_args().reference
    if not (folder / "reference_tiny.npz").is_file():
        sys.exit(f"There is no {folder / 'reference_tiny.npz'}; give --reference DIR.")
    items = list(compare(folder))
    for item in items:
        verdict = "" if item.is_met else "   EXCEEDED"
        print(f"{item.name:36} {item.difference:9.1e}   limit {item.limit:.0e}{verdict}")
    print(f"\nitems: {len(items)}\nmax_difference: {max(item.difference for item in items):.1e}")
    return int(not all(item.is_met for item in items))


def compare(folder: Path) -> Iterator[Item]:
    """Everything in the reference folder, computed anew."""
    with np.load(folder / "reference_tiny.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    yield from _forward(arrays)
    yield from _updates(arrays, folder)
    yield from _schedules(arrays)
    yield from _sampler()


def _forward(arrays: dict[str, NDArray[Any]]) -> Iterator[Item]:
    jepa = _start(arrays)
    yield _item("encoder positions", jepa.context_encoder.positions(), arrays["encoder_pos_embed"], 1e-6)
    yield _item("predictor positions", jepa.predictor.positions(), arrays["predictor_pos_embed"], 1e-6)
    fresh = JEPA(jepa.config, arrays["gradient"])  # the frozen halves are computed, not loaded
    for part, name in (("encoder", "pos_embed_proj"), ("predictor", "predictor_2dpe_proj")):
        ours = fresh.predictor if part == "predictor" else fresh.context_encoder
        yield _item(f"{part} emb_h", ours.positions.time, arrays[f"{part}/{name}.emb_h"], 1e-6)
    x = torch.from_numpy(arrays["x"][:, 0])
    yield _item("encoder_tokens", jepa.context_encoder(x), arrays["encoder_tokens"], 3e-6)
    batch = _batch(arrays, 0, 0)
    context, target = batch.masks.context_index, batch.masks.target_index
    yield _item("context_tokens", jepa.context_encoder(batch.x, context), arrays["context_tokens"], 3e-6)
    predicted, targets = jepa(batch.x, context, target)
    yield _item("predicted", predicted, arrays["predicted"], 3e-6)
    yield _item("targets", targets, arrays["targets"], 3e-6)
    loss = objective(predicted, targets, batch.masks, config=POOLED).loss
    yield _item("loss", loss, arrays["loss"], 1e-6)
    (loss / 2).backward()
    found = {name: p.grad for name, p in jepa.named_parameters() if p.grad is not None}
    yield _of_states("gradients", found, _state(arrays, "grad/", PARTS[:2]), 1e-6)


def _updates(arrays: dict[str, NDArray[Any]], folder: Path) -> Iterator[Item]:
    config = OptimizerConfig(start_lr=2e-4, lr=1e-3, final_lr=1e-6, weight_decay=0.04, final_weight_decay=0.4)
    n_updates, n_warmup, accumulation = 16, 4, 2
    jepa = _start(arrays)
    optimizer = make_optimizer(jepa, config)
    losses, rates, decays = [], [], []
    for update in range(4):
        rates.append(lr_at(update, n_updates=n_updates, n_warmup=n_warmup, config=config))
        decays.append(weight_decay_at(update, n_updates=n_updates, config=config))
        batches = [_batch(arrays, update, micro) for micro in range(accumulation)]
        for batch in batches:  # the recorded losses are those of each batch
            with torch.no_grad():
                tokens = jepa(batch.x, batch.masks.context_index, batch.masks.target_index)
                losses.append(float(objective(*tokens, batch.masks, config=POOLED).loss))
        train_step(
            jepa,
            batches,
            optimizer,
            objective_config=POOLED,
            lr=rates[-1],
            weight_decay=decays[-1],
            ema=ema_at(update, n_updates=n_updates, accumulation=accumulation, config=POOLED),
        )
    yield _item("losses of 8 batches", losses, arrays["train/micro_losses"], 1e-6)
    yield _item("learning rates", rates, arrays["train/lr"], 1e-12)
    yield _item("weight decays", decays, arrays["train/wd"], 1e-12)
    state = jepa.state_dict()
    for part, limit in zip(PARTS, (1e-6, 1e-6, 2e-7), strict=True):
        yield _of_states(f"{part} after 4 updates", state, _state(arrays, "after/", (part,)), limit)
    container = folder / "reference_tiny.pth.tar"
    moments = load_tensors(container)["opt"]["state"]
    ours = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    for name, limit in (("exp_avg", 1e-7), ("exp_avg_sq", 1e-9)):
        pairs = zip(ours, (moments[i] for i in sorted(moments)), strict=True)
        gaps = [float((mine[name].flatten() - theirs[name].flatten()).abs().max()) for mine, theirs in pairs]
        yield Item(f"AdamW {name}", max(gaps), limit)
    read = load_official_checkpoint(
        container,
        gradients=arrays["gradient"],
        n_frames=40,
        patch_size=4,
        num_heads=2,
        predictor_num_heads=2,
    )
    yield _of_states("container .pth.tar", read.state_dict(), _state(arrays, "after/", PARTS), 0.0)
    theirs = load_tensors(container)
    for part in PARTS:
        ours_again = to_official(part, getattr(read, PART_NAMES[part]).state_dict())
        expected = {name.removeprefix("module."): t for name, t in theirs[part].items()}
        yield _of_states(f"{part} written as released", ours_again, expected, 0.0)


def _schedules(arrays: dict[str, NDArray[Any]]) -> Iterator[Item]:
    """300 epochs of 1,000 batches, 8 an update, 40 epochs of warm-up."""
    config, updates = OptimizerConfig(), arrays["schedule/step"].tolist()
    rates = [lr_at(u, n_updates=37500, n_warmup=5000, config=config) for u in updates]
    decays = [weight_decay_at(u, n_updates=37500, config=config) for u in updates]
    yield _item("learning rate of a whole run", rates, arrays["schedule/lr"], 1e-12)
    yield _item("weight decay of a whole run", decays, arrays["schedule/wd"], 1e-12)


def _sampler() -> Iterator[Item]:
    for (n_rois, n_scans), expected in SAMPLER.items():
        generator, gap = torch.Generator().manual_seed(0), 0
        for counter, numbers in enumerate(expected):
            masks = released_masks(n_scans, n_rois, 10, counter=counter, generator=generator)
            lists = (masks.context_index, masks.target_index)
            found = [v for one in lists for v in (one.shape[1], int(one.sum()))]
            gap = max(gap, *(abs(a - b) for a, b in zip(found, numbers, strict=True)))
        yield Item(f"released sampler, {n_rois} x 10, B {n_scans}", float(gap), 0.0)


def _start(arrays: dict[str, NDArray[Any]]) -> JEPA:
    config = ModelConfig(
        n_rois=24,
        n_frames=40,
        patch_size=4,
        n_gradients=6,
        embed_dim=32,
        depth=3,
        num_heads=2,
        predictor_embed_dim=16,
        predictor_depth=2,
        predictor_num_heads=2,
    )
    jepa = JEPA(config, arrays["gradient"])
    load_strictly(jepa, _state(arrays, "", PARTS), origin="reference_tiny.npz")
    return jepa


def _state(arrays: dict[str, NDArray[Any]], prefix: str, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The arrays `prefix + part/name` under our names."""
    state: dict[str, torch.Tensor] = {}
    for part in parts:
        start = f"{prefix}{part}/"
        found = {k.removeprefix(start): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(start)}
        state |= from_official(part, found)
    return state


def _batch(arrays: dict[str, NDArray[Any]], update: int, micro: int) -> Batch:
    x, context, target = (
        torch.from_numpy(arrays[f"step{update}/micro{micro}/{name}"]) for name in ("x", "context", "target")
    )
    masks = Masks(context, target, torch.ones(len(target), 3, target.shape[1]))
    return Batch(x[:, 0], masks, [0, 1], torch.full((2,), 2.0))


def _item(name: str, found: Any, expected: NDArray[Any], limit: float) -> Item:
    values = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if values.shape != expected.shape:
        return Item(f"{name}: shape {values.shape}", float("inf"), limit)
    return Item(name, float(np.abs(values - expected).max()), limit)


def _of_states(
    name: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float
) -> Item:
    """Over all tensors of `expected`; names and shapes must be the same."""
    if {k: v.shape for k, v in found.items() if k in expected} != {k: v.shape for k, v in expected.items()}:
        return Item(f"{name}: other names or shapes", float("inf"), limit)
    return Item(name, max(float((found[k] - v).abs().max()) for k, v in expected.items()), limit)


if __name__ == "__main__":
    sys.exit(main())
