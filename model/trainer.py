"""A run from the recipe to the model folder. The order of things, and nothing else.

Per epoch: every series once (one window, its masks) -> updates -> monitors -> model/ -> checkpoint -> report.
`checkpoints/last.pt` is written last: what a killed run wrote after it is forgotten when it is resumed, and
the weights at the end are those of an uninterrupted run, bit for bit on a CPU with as many threads.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bjepa.model.checkpoint import Checkpoint, save_checkpoint
from bjepa.model.config import Recipe, load_recipe, recipe_to_toml
from bjepa.model.dataset import ShardDataset
from bjepa.model.device import choose_device, choose_precision
from bjepa.model.ema import ema_at
from bjepa.model.hub import load_strictly, save_model
from bjepa.model.inputs import TrainingInputs, read_inputs
from bjepa.model.jepa import JEPA
from bjepa.model.loading import read_portions
from bjepa.model.masking import KINDS
from bjepa.model.monitors import Monitor
from bjepa.model.report import verdicts, write_report
from bjepa.model.run_folder import describe_software, open_run
from bjepa.model.runlog import RunLog, read_metrics
from bjepa.model.sampling import n_updates_of_epoch, plan_epoch
from bjepa.model.schedules import lr_at, weight_decay_at
from bjepa.model.train_step import NonFiniteLossError, StepResult, make_optimizer, train_step
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_json

log = logging.getLogger(__name__)
REPORT_EVERY = 60.0  # s, at least; drawing the page takes about 1 s


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says why and what to do. The last checkpoint is as it was."""


@dataclass
class _Run:
    """What one run holds together."""

    folder: Path
    recipe: Recipe
    inputs: TrainingInputs
    dataset: ShardDataset
    jepa: JEPA
    optimizer: torch.optim.AdamW
    device: torch.device
    precision: str
    epoch: int = 0  # finished
    update: int = 0  # done

    @property
    def updates_per_epoch(self) -> int:
        train = self.recipe.train
        return n_updates_of_epoch(
            len(self.dataset), batch_size=train.batch_size, accumulation=train.accumulation
        )

    @property
    def n_updates(self) -> int:
        return self.updates_per_epoch * self.recipe.train.epochs


def train(
    recipe: str | Path,
    *,
    data: Path,
    gradients: Path,
    output: Path,
    settings: Sequence[str] = (),
    resume: bool = False,
    device: str = "auto",
    participants: Path | None = None,
    command: Sequence[str] = (),
) -> None:
    """Train a model and write its run folder (files: docs/training.md).

    Parameters
    ----------
    recipe
        A shipped name or a TOML file; `settings` (`section.key=value`) change it.
    data
        Output folder of bjepa-preprocess.
    gradients
        gradients.csv, .tsv or .h5 of the same atlas.
    output
        The run folder, empty or missing; or, with `resume`, that of a run to go on with.
    device : "auto", "cpu", "cuda" or "mps"
    participants
        File of the participants to learn from; all without it.
    command
        For run.json.

    Raises
    ------
    InputError
        Input or settings that cannot be worked with; nothing was written.
    TrainingStopped
        The loss or the gradient was not finite.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"bjepa-train runs as one process so far, but WORLD_SIZE is {os.environ['WORLD_SIZE']}.",
            hint="Start it without torchrun; train.accumulation gives large batches on one device.",
        )
    chosen = choose_device(device)
    inputs = read_inputs(data, gradients, participants=participants)
    resolved = load_recipe(
        recipe,
        settings=settings,
        n_rois=inputs.reader.n_rois,
        n_gradients=inputs.gradients.shape[1],
    )
    precision = choose_precision(resolved.train.precision, chosen)
    dataset = ShardDataset(
        inputs.reader,
        n_frames=resolved.model.n_frames,
        seed=resolved.train.seed,
        participants=inputs.participants,
    )
    checkpoint = open_run(output, resolved, inputs_sha256=inputs.sha256, resume=resume)
    generator = torch.Generator().manual_seed(resolved.train.seed)
    jepa = JEPA(resolved.model, inputs.gradients[:, : resolved.model.n_gradients], generator=generator)
    jepa.atlas_sha256 = inputs.reader.atlas_sha256
    jepa.to(chosen)
    optimizer = make_optimizer(jepa, resolved.optimizer)
    run = _Run(output, resolved, inputs, dataset, jepa, optimizer, chosen, precision)
    if checkpoint is not None:
        _restore(run, checkpoint)
    with RunLog(output, step=run.update, epoch=run.epoch) as runlog:
        _announce(run)
        _train_epochs(run, runlog, command=list(command))


def _train_epochs(run: _Run, runlog: RunLog, *, command: list[str]) -> None:
    started, seconds_before = time.monotonic(), _seconds_of_earlier_sessions(run)
    monitor, software = Monitor(run.dataset, run.recipe), describe_software()

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    reported = seconds()

    if run.epoch == run.recipe.train.epochs:
        log.info("All %d epochs are done already.", run.epoch)
    _write_run_json(run, software, command=command, seconds=seconds())
    while run.epoch < run.recipe.train.epochs:
        row = _one_epoch(run, runlog)
        looks = monitor(run.jepa, device=run.device, precision=run.precision)
        runlog.write(row | looks, step=run.update)
        log.info("%s", _sentence(row | looks, run.recipe.train.epochs))
        _save(run)
        _write_run_json(run, software, command=command, seconds=seconds())
        if seconds() - reported > REPORT_EVERY or run.epoch == run.recipe.train.epochs:
            write_report(run.folder, facts=_facts(run, seconds()), notes=_notes(run))
            reported = seconds()
    for warning in verdicts([r for r in read_metrics(run.folder) if "step" not in r]):
        log.warning("%s", warning)
    log.info("Model: %s. Report: %s", run.folder / "model", run.folder / "report.html")


def _one_epoch(run: _Run, runlog: RunLog) -> dict[str, Any]:
    """All series once; returns the epoch's row, still without the monitors."""
    began, losses, n_scans = time.monotonic(), [], 0
    epoch, objective, optimizer = run.epoch + 1, run.recipe.objective, run.recipe.optimizer
    pin = run.device.type == "cuda"
    size, accumulation = run.recipe.train.batch_size, run.recipe.train.accumulation
    seed = run.recipe.train.seed
    plan = plan_epoch(len(run.dataset), epoch=epoch, seed=seed, batch_size=size, accumulation=accumulation)
    portions = read_portions(run.dataset, run.recipe, plan, pin_memory=pin)
    label = f"epoch {epoch}/{run.recipe.train.epochs}"
    # disable=None: silent where stderr is not a terminal
    with closing(
        tqdm(total=run.updates_per_epoch, desc=label, unit="update", disable=None, file=sys.stderr)
    ) as bar:
        step_began = time.monotonic()
        for portion, weights in portions:
            lr = lr_at(
                run.update,
                n_updates=run.n_updates,
                n_warmup=int(optimizer.warmup_epochs * run.updates_per_epoch),
                config=optimizer,
            )
            weight_decay = weight_decay_at(run.update, n_updates=run.n_updates, config=optimizer)
            ema = ema_at(
                run.update,
                n_updates=run.n_updates,
                accumulation=run.recipe.train.accumulation,
                config=objective,
            )
            try:
                result: StepResult = train_step(
                    run.jepa,
                    [batch.to(run.device) for batch in portion],
                    run.optimizer,
                    objective_config=objective,
                    lr=lr,
                    weight_decay=weight_decay,
                    ema=ema,
                    max_grad_norm=optimizer.max_grad_norm,
                    precision=run.precision,
                    weights=weights,
                )
            except NonFiniteLossError as error:
                raise TrainingStopped(_why(run, error)) from error
            run.update += 1
            in_step = sum(len(batch.series) for batch in portion)
            n_scans += in_step
            losses.append(result.loss * in_step)
            row = {
                "step": run.update,
                "epoch": epoch,
                "loss": result.loss,
                **{f"loss_{kind}": result.per_kind[kind] for kind in KINDS},
                "lr": lr,
                "weight_decay": weight_decay,
                "ema": ema,
                "grad_norm": result.grad_norm,
                "samples_per_s": in_step / (time.monotonic() - step_began),
            }
            runlog.write(row, step=run.update)
            step_began = time.monotonic()  # reading the next batch counts
            bar.update()
            bar.set_postfix(loss=f"{result.loss:.4f}")
    run.epoch = epoch
    return {
        "epoch": epoch,
        "last_step": run.update,
        "loss": sum(losses) / n_scans,
        "samples": n_scans,
        "seconds": time.monotonic() - began,
    }


def _save(run: _Run) -> None:
    """The model folder, then the checkpoints; last.pt at the end, for it says that the rest is there."""
    save_model(
        run.jepa,
        run.folder / "model",
        atlas_table=run.inputs.atlas_table,
        origin=run.inputs.origin() | {"epochs": run.epoch, "inputs_sha256": run.inputs.sha256},
    )
    checkpoint = Checkpoint(
        epoch=run.epoch,
        update=run.update,
        config=recipe_to_toml(run.recipe),
        inputs_sha256=run.inputs.sha256,
        jepa=run.jepa.state_dict(),
        optimizer=run.optimizer.state_dict(),
    )
    folder = run.folder / "checkpoints"
    if run.epoch % run.recipe.train.checkpoint_every == 0 or run.epoch == run.recipe.train.epochs:
        save_checkpoint(folder / f"epoch-{run.epoch:04d}.pt", checkpoint)
    save_checkpoint(folder / "last.pt", checkpoint)


def _restore(run: _Run, checkpoint: Checkpoint) -> None:
    origin = run.folder / "checkpoints" / "last.pt"
    load_strictly(run.jepa, checkpoint.jepa, origin=str(origin))
    try:
        run.optimizer.load_state_dict(checkpoint.optimizer)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{origin}: the state of the optimizer does not fit: {error}.") from error
    run.epoch, run.update = checkpoint.epoch, checkpoint.update
    before, now = _run_json(run).get("n_threads"), torch.get_num_threads()
    if run.device.type == "cpu" and before not in (None, now):
        log.warning(
            "The run began with %s CPU threads, this session has %d: sums round differently, so the weights "
            "will differ in their last bits from an uninterrupted run's. OMP_NUM_THREADS=%s avoids it.",
            before,
            now,
            before,
        )


def _announce(run: _Run) -> None:
    jepa, model = run.jepa, run.recipe.model
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (jepa.context_encoder, jepa.predictor)]
    log.info(
        "%d series of %d frames or more; %d tokens of %d regions x %d patches; encoder %.2f M and predictor "
        "%.2f M parameters; %s, %s.",
        len(run.dataset),
        model.n_frames,
        model.n_tokens,
        model.n_rois,
        model.n_patches,
        *sizes,
        run.device,
        run.precision,
    )
    for note in _notes(run):
        log.warning("%s", note)
    if run.update:
        log.info("Going on after epoch %d (update %d).", run.epoch, run.update)


def _notes(run: _Run) -> list[str]:
    short = run.dataset.too_short
    if not short:
        return []
    shown = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
    return [f"{len(short)} scans are not used: shorter than {run.recipe.model.n_frames} frames ({shown})."]


def _why(run: _Run, error: NonFiniteLossError) -> str:
    scans = sorted({run.dataset.scan_id(series) for series in error.series})
    named = f" in {', '.join(scans[:8])}{' …' if len(scans) > 8 else ''}" if scans else ""
    return (
        f"Update {run.update + 1}: {error}{named}. Stopped before the weights were changed; the last "
        "checkpoint is good. If the scans hold finite numbers, lower optimizer.lr, or set "
        "optimizer.max_grad_norm=1."
    )


def _sentence(row: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"target_scan_share {row['target_scan_share']:.3f}, "
        f"prediction_r2_over_position {row['prediction_r2_over_position']:.3f}, "
        f"effective_rank {row['effective_rank']:.1f}, {row['samples'] / row['seconds']:.2f} series/s"
    )


def _facts(run: _Run, seconds: float) -> dict[str, str]:
    epochs = [row for row in read_metrics(run.folder) if "step" not in row]
    return {
        "epochs": f"{run.epoch} of {run.recipe.train.epochs}",
        "updates": str(run.update),
        "series": str(len(run.dataset)),
        "loss, first epoch": f"{epochs[0]['loss']:.4f}",
        "loss, last epoch": f"{epochs[-1]['loss']:.4f}",
        "minutes": f"{seconds / 60:.1f}",
    }


def _seconds_of_earlier_sessions(run: _Run) -> float:
    return float(_run_json(run)["wall_time_s"]) if run.update else 0.0


def _run_json(run: _Run) -> dict[str, Any]:
    """run.json as an earlier session left it."""
    path = run.folder / "run.json"
    found: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"wall_time_s": 0}
    )
    return found


def _write_run_json(run: _Run, software: dict[str, Any], *, command: list[str], seconds: float) -> None:
    reader = run.inputs.reader
    write_json(
        run.folder / "run.json",
        {
            **software,
            "command": command,
            "seed": run.recipe.train.seed,
            "device": str(run.device),
            "device_name": torch.cuda.get_device_name() if run.device.type == "cuda" else None,
            "precision": run.precision,
            "n_threads": torch.get_num_threads(),
            "files_sha256": run.inputs.files,
            "inputs_sha256": run.inputs.sha256,
            "atlas": reader.atlas,
            "atlas_sha256": reader.atlas_sha256,
            "participants": run.inputs.participants,
            "n_series": len(run.dataset),
            "too_short": run.dataset.too_short,
            "epochs_done": run.epoch,
            "updates_done": run.update,
            "finished": run.epoch == run.recipe.train.epochs,
            "wall_time_s": round(seconds, 3),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
