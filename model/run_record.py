"""What a run says of itself: run.json, and sentences for the log and the report."""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from bjepa.model.run_state import Run
from bjepa.model.runlog import read_metrics
from bjepa.preproc.files import write_json

log = logging.getLogger(__name__)


def announce(run: Run) -> None:
    """Log what is going to be trained, on what."""
    jepa, model, progress = run.jepa, run.recipe.model, run.progress
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
        run.world.device,
        run.precision,
    )
    log.info(
        "%d series an update, learning rate %.4g%s.",
        run.series_per_update,
        run.scaled_optimizer.lr,
        "" if run.lr_factor == 1 else f" (times {run.lr_factor:.4g}: {run.recipe.optimizer.lr_scaling})",
    )
    if run.world.size > 1:
        log.info("%d processes, %s.", run.world.size, run.recipe.train.parallel)
    for note in notes(run):
        log.warning("%s", note)
    if progress.update:
        within = progress.update - progress.epoch * run.updates_per_epoch
        part = f" and {within} of {run.updates_per_epoch} updates" if within else ""
        log.info("Going on after epoch %d%s (update %d).", progress.epoch, part, progress.update)
    _tell_other_arithmetic(run)


def _tell_other_arithmetic(run: Run) -> None:
    """Warn where sums will be rounded in another way than so far."""
    if not run.progress.update or run.world.device.type != "cpu":
        return
    now = {"n_threads": torch.get_num_threads(), "n_processes": run.world.size}
    for key, what in (("n_threads", "CPU threads"), ("n_processes", "processes")):
        before = _run_json(run).get(key)
        if before not in (None, now[key]):
            log.warning(
                "The run began with %s %s, this session has %d: sums round differently, so the weights will "
                "differ in their last bits from an uninterrupted run's.%s",
                before,
                what,
                now[key],
                f" OMP_NUM_THREADS={before} avoids it." if key == "n_threads" else "",
            )


def notes(run: Run) -> list[str]:
    """What a reader of the report must know of the data."""
    dataset = run.dataset
    return [
        f"{len(scans)} scans are not used: {why} ({_some(scans)})."
        for scans, why in (
            (dataset.too_short, f"shorter than {dataset.least_frames} frames"),
            (dataset.too_few_rois, "fewer than 2 regions"),
        )
        if scans
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def scans_named(run: Run, series: Sequence[int]) -> list[str]:
    """scan_ids of these series, each once."""
    return sorted({run.dataset.scan_id(number) for number in series})


def facts(run: Run, seconds: float) -> dict[str, str]:
    """The tiles of the report."""
    losses = [row["loss"] for row in read_metrics(run.folder) if "step" not in row]
    first, last = ("none" if loss is None else f"{loss:.4f}" for loss in (losses[0], losses[-1]))
    return {
        "epochs": f"{run.progress.epoch} of {run.recipe.train.epochs}",
        "updates": str(run.progress.update),
        "series": str(len(run.dataset)),
        "loss, first epoch": first,
        "loss, last epoch": last,
        "minutes": f"{seconds / 60:.1f}",
    }


def seconds_of_earlier_sessions(run: Run) -> float:
    """Wall time that run.json tells of."""
    return float(_run_json(run)["wall_time_s"]) if run.progress.update else 0.0


def _run_json(run: Run) -> dict[str, Any]:
    """run.json as an earlier session left it."""
    path = run.folder / "run.json"
    found: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"wall_time_s": 0}
    )
    return found


def write_run_json(run: Run, software: dict[str, Any], *, command: list[str], seconds: float) -> None:
    """Write run.json, whole."""
    reader, device = run.inputs.reader, run.world.device
    write_json(
        run.folder / "run.json",
        {
            **software,
            "command": command,
            "seed": run.recipe.train.seed,
            "device": str(device),
            "device_name": torch.cuda.get_device_name() if device.type == "cuda" else None,
            "precision": run.precision,
            "n_threads": torch.get_num_threads(),
            "n_processes": run.world.size,
            "parallel": run.recipe.train.parallel if run.world.size > 1 else None,
            "series_per_update": run.series_per_update,
            "lr": run.scaled_optimizer.lr,
            "lr_factor": run.lr_factor,
            "files_sha256": run.inputs.files,
            "inputs_sha256": run.inputs.sha256,
            "atlas": reader.atlas,
            "atlas_sha256": reader.atlas_sha256,
            "participants": run.inputs.participants,
            "n_series": len(run.dataset),
            "too_short": run.dataset.too_short,
            "too_few_rois": run.dataset.too_few_rois,
            "epochs_done": run.progress.epoch,
            "updates_done": run.progress.update,
            "finished": run.progress.epoch == run.recipe.train.epochs,
            "wall_time_s": round(seconds, 3),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
