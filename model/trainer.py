"""A run from the recipe to the model folder. The order of things, and nothing else.

Per epoch: every series once (one window, its masks) -> updates -> monitors -> model/ -> checkpoint -> report.
`checkpoints/last.pt` is written last, and within an epoch every few minutes: what a killed run wrote after it
is forgotten when it is resumed, and the weights at the end are those of an uninterrupted run, bit for bit on
a CPU with as many threads.

Under torchrun every process runs all of this; only the first one writes.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bjepa.model.about import count_scans, scaling_table
from bjepa.model.attention import check_attention
from bjepa.model.checkpoint import BackgroundWriter, Checkpoint, load_checkpoint, save_checkpoint
from bjepa.model.collapse import CollapseWatch, verdicts
from bjepa.model.config import Recipe, load_recipe
from bjepa.model.console import LiveLine
from bjepa.model.dataset import ShardDataset, torch_generator
from bjepa.model.device import choose_precision
from bjepa.model.distributed import World, join_world
from bjepa.model.ema import ema_at
from bjepa.model.epoch_tally import EpochTally
from bjepa.model.hub import save_model
from bjepa.model.inputs import learn_from_split, read_inputs
from bjepa.model.jepa import JEPA
from bjepa.model.loading import Portion, read_portions
from bjepa.model.masking import KINDS
from bjepa.model.model_card import model_card, read_training
from bjepa.model.monitors import Monitor
from bjepa.model.online_probe import OnlineProbe
from bjepa.model.report import write_report
from bjepa.model.run_folder import describe_software, open_run
from bjepa.model.run_record import (
    announce,
    facts,
    notes,
    scans_named,
    seconds_of_earlier_sessions,
    write_run_json,
)
from bjepa.model.run_state import Run, make_run, new_jepa
from bjepa.model.runlog import RunLog, read_metrics
from bjepa.model.sampling import plan_epoch
from bjepa.model.schedules import lr_at, weight_decay_at
from bjepa.model.stop_request import StopRequest
from bjepa.model.train_step import NonFiniteLossError, StepResult, train_step
from bjepa.model.wandb_log import import_wandb
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)
REPORT_EVERY = 60.0  # s, at least; drawing the page takes about 1 s
SKETCH = 5  # the seed's stream for what a regularizer draws, beside those of dataset, order, monitors
MOST_SKIPPED = 10  # updates in a row whose loss is not finite
BEST_BY = "prediction_r2_over_position"  # of an epoch; higher is better, which a lower loss need not be


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says why and what to do. The last checkpoint is as it was."""


class _Session:
    """One sitting of a run: what writes, and since when. `runlog` is None but in the first process."""

    def __init__(
        self,
        run: Run,
        *,
        runlog: RunLog | None,
        writer: BackgroundWriter,
        stop: StopRequest,
        command: list[str],
        line: LiveLine,
        probe: OnlineProbe | None,
    ) -> None:
        self.runlog, self.writer, self.stop, self.command = runlog, writer, stop, command
        self.line, self.probe = line, probe
        self.software = describe_software() if runlog else {}
        self.seconds_before = seconds_of_earlier_sessions(run)
        self.began = self.reported = self.saved = time.monotonic()
        self._copy: JEPA | None = None

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.seconds_before + time.monotonic() - self.began

    def write_run_json(self, run: Run) -> None:
        """In the first process."""
        if self.runlog is not None:
            write_run_json(run, self.software, command=self.command, seconds=self.seconds)

    def jepa_of(self, run: Run, checkpoint: Checkpoint) -> JEPA:
        """A network with the weights of the checkpoint: that of the run goes on learning meanwhile."""
        self._copy = self._copy or new_jepa(run.recipe, run.inputs)
        self._copy.load_state_dict(checkpoint.jepa)
        return self._copy


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
    """Train a model and write its run folder (files: docs/training.md). Alone, or under torchrun.

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
        The loss or the gradient was not finite; SIGTERM.
    """
    with join_world(device) as world:
        inputs = read_inputs(data, gradients, participants=participants)
        resolved = load_recipe(
            recipe,
            settings=settings,
            n_rois=inputs.reader.n_rois,
            n_gradients=inputs.gradients.shape[1],
        )
        inputs = learn_from_split(inputs, resolved.data)
        precision = choose_precision(resolved.train.precision, world.device)
        check_attention(resolved.model.attention, device=world.device, precision=precision)
        dataset = ShardDataset(
            inputs.reader,
            n_frames=resolved.model.n_frames,
            seed=resolved.train.seed,
            participants=inputs.participants,
            config=resolved.data,
            patch_size=resolved.model.patch_size,
        )
        if resolved.train.wandb:
            import_wandb()  # refused before anything is written
        probe = OnlineProbe(dataset, resolved, data=data) if resolved.train.probe_column else None
        checkpoint = _open(output, resolved, inputs.sha256, resume=resume, world=world)
        run = make_run(
            output,
            resolved,
            inputs=inputs,
            dataset=dataset,
            world=world,
            precision=precision,
            checkpoint=checkpoint,
        )
        del checkpoint
        with ExitStack() as stack:
            progress = run.progress
            stop = stack.enter_context(StopRequest())
            writer = stack.enter_context(BackgroundWriter())
            runlog = None
            if world.is_first:
                wandb = asdict(resolved) if resolved.train.wandb else None
                runlog = stack.enter_context(
                    RunLog(output, step=progress.update, epoch=progress.epoch, wandb=wandb)
                )
            announce(run)
            line = LiveLine(
                epochs=resolved.train.epochs, updates_per_epoch=run.updates_per_epoch, enabled=world.is_first
            )
            session = _Session(
                run,
                runlog=runlog,
                writer=writer,
                stop=stop,
                command=list(command),
                line=stack.enter_context(line),
                probe=probe,
            )
            _train_epochs(run, session)


def _open(
    folder: Path, recipe: Recipe, inputs_sha256: str, *, resume: bool, world: World
) -> Checkpoint | None:
    """`open_run` in the first process; the others read the checkpoint too, or hear why not."""
    checkpoint, problem = None, None
    if world.is_first:
        try:
            checkpoint = open_run(folder, recipe, inputs_sha256=inputs_sha256, resume=resume)
        except InputError as error:
            problem = error
    problem, goes_on = world.as_first((problem, checkpoint is not None))
    if problem is not None:
        raise problem
    if goes_on and checkpoint is None:
        checkpoint = load_checkpoint(folder / "checkpoints" / "last.pt")
    return checkpoint


def _train_epochs(run: Run, session: _Session) -> None:
    progress, epochs = run.progress, run.recipe.train.epochs
    monitor = Monitor(run.dataset, run.recipe)
    n_features = run.recipe.model.target_dim
    watch = CollapseWatch(_epoch_rows(run), n_epochs=epochs, n_features=n_features)
    if progress.epoch == epochs:
        log.info("All %d epochs are done already.", epochs)
    session.write_run_json(run)
    while progress.epoch < epochs:
        row = _one_epoch(run, session)
        # every process looks: shards of the weights may lie in all of them
        row |= monitor(run.jepa, device=run.world.device, precision=run.precision)
        row |= _probe(run, session)
        if session.runlog is not None:
            if warnings := watch(row):
                row["warnings"] = warnings
            for warning in warnings.values():
                log.warning("epoch %d/%d: %s", progress.epoch, epochs, warning)
            session.runlog.write(row, step=progress.update)
        log.info("%s", _sentence(row, epochs))
        session.line.end_epoch(row)
        _end_epoch(run, session, row)
        _record(run, session)
        if run.world.as_first(session.stop.received) and progress.epoch < epochs:
            _stop(run, session)
    if session.runlog is not None:
        for warning in verdicts(_epoch_rows(run), n_features=n_features):
            log.warning("%s", warning)
        log.info("Model: %s. Report: %s", run.folder / "model", run.folder / "report.html")


def _epoch_rows(run: Run) -> list[dict[str, Any]]:
    """Of metrics.jsonl, in the first process."""
    return [row for row in read_metrics(run.folder) if "step" not in row] if run.world.is_first else []


def _probe(run: Run, session: _Session) -> dict[str, float]:
    """What the probe finds after this epoch, if it is its turn; the epoch counts as done."""
    epoch, train = run.progress.epoch, run.recipe.train
    if session.probe is None or (epoch % train.probe_every and epoch != train.epochs):
        return {}
    first = run.world.is_first
    return session.probe(run.jepa, device=run.world.device, precision=run.precision, fit=first)


def _one_epoch(run: Run, session: _Session) -> dict[str, Any]:
    """The updates of an epoch that are not done yet; returns its row, still without the monitors."""
    began, progress, train = time.monotonic(), run.progress, run.recipe.train
    epoch, before = progress.epoch + 1, progress.seconds
    plan = plan_epoch(
        len(run.dataset),
        epoch=epoch,
        seed=train.seed,
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        rank=run.world.rank,
        n_ranks=run.world.size,
    )
    done = progress.update - progress.epoch * run.updates_per_epoch
    pin = run.world.device.type == "cuda"
    tally = EpochTally(progress.masks, n_tokens=run.recipe.model.n_tokens)
    session.line.begin_epoch(epoch, done)
    with closing(read_portions(run.dataset, run.recipe, plan[done:], pin_memory=pin)) as portions:
        step_began = time.monotonic()
        for number, portion in enumerate(portions, done):
            n_series = min(run.series_per_update, len(run.dataset) - number * run.series_per_update)
            row = _one_update(run, portion, n_series)
            seconds = time.monotonic() - step_began
            row["samples_per_s"] = n_series / seconds
            tally.add(portion.batches, portion.weights, n_series=n_series, seconds=seconds)
            if session.runlog is not None:
                session.runlog.write(row, step=progress.update)
            step_began = time.monotonic()  # reading the next batch counts
            session.line.update(row)
            progress.seconds = before + time.monotonic() - began
            if number + 1 < len(plan):
                _save_within_epoch(run, session)
    row = {
        "epoch": epoch,
        "last_step": progress.update,
        "loss": progress.loss_sum / progress.n_series if progress.n_series else float("nan"),
        "samples": progress.n_series,
        "seconds": before + time.monotonic() - began,
        **tally.row(run.world.device),
    }
    if progress.n_skipped:
        row["skipped"] = progress.n_skipped
    progress.epoch = epoch
    progress.begin_epoch()
    return row


def _one_update(run: Run, portion: Portion, n_series: int) -> dict[str, Any]:
    """Train on what was read, or skip it; returns the update's row, still without its speed."""
    progress, optimizer = run.progress, run.scaled_optimizer
    lr = lr_at(
        progress.update,
        n_updates=run.n_updates,
        n_warmup=int(optimizer.warmup_epochs * run.updates_per_epoch),
        config=optimizer,
    )
    weight_decay = weight_decay_at(progress.update, n_updates=run.n_updates, config=optimizer)
    ema = ema_at(
        progress.update,
        n_updates=run.n_updates,
        accumulation=run.recipe.train.accumulation,
        config=run.recipe.objective,
    )
    skipped: dict[str, Any] = {}
    try:
        result = train_step(
            run.jepa,
            [batch.to(run.world.device) for batch in portion.batches],
            run.optimizer,
            objective_config=run.recipe.objective,
            lr=lr,
            weight_decay=weight_decay,
            ema=ema,
            max_grad_norm=optimizer.max_grad_norm,
            precision=run.precision,
            weights=portion.weights,
            network=run.network,
            world=run.world,
            sketch_seed=torch_generator(SKETCH, run.recipe.train.seed, progress.update).initial_seed(),
        )
        progress.skipped_in_a_row = 0
        progress.loss_sum += result.loss * n_series
        progress.n_series += n_series
    except NonFiniteLossError as error:
        skipped["skipped"] = _skip(run, error)
        nan = float("nan")
        result = StepResult(nan, dict.fromkeys(KINDS, nan), nan, {})
    progress.update += 1
    return {
        "step": progress.update,
        "epoch": progress.epoch + 1,
        "loss": result.loss,
        **{f"loss_{kind}": result.per_kind[kind] for kind in KINDS},
        **{f"regularizer_{term}": value for term, value in result.parts.items()},
        "lr": lr,
        "weight_decay": weight_decay,
        "ema": ema,
        "grad_norm": result.grad_norm,
        **skipped,
    }


def _skip(run: Run, error: NonFiniteLossError) -> list[str]:
    """The scans of an update that was left out; TrainingStopped where that is not wanted, or not any more."""
    progress, scans = run.progress, scans_named(run, error.series)
    named = f" in {', '.join(scans[:8])}{' …' if len(scans) > 8 else ''}"
    what = f"Update {progress.update + 1}: {error}{named}."
    advice = (
        "If the scans hold finite numbers, lower optimizer.lr, or set optimizer.max_grad_norm=1; "
        "else leave them out by --participants, or set train.nonfinite=skip."
    )
    if run.recipe.train.nonfinite == "stop":
        raise TrainingStopped(
            f"{what} Stopped before the weights were changed; the last checkpoint is good. {advice}"
        ) from error
    progress.n_skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row == MOST_SKIPPED:
        raise TrainingStopped(
            f"{what} This is the {MOST_SKIPPED}th update in a row; stopped with the weights as before them. "
            f"{advice}"
        ) from error
    log.warning("%s Skipped: the weights stay as they were.", what)
    return scans


def _save_within_epoch(run: Run, session: _Session) -> None:
    """last.pt, where train.checkpoint_minutes have passed and the file before is written, or at SIGTERM."""
    minutes = run.recipe.train.checkpoint_minutes
    due = bool(minutes) and session.writer.is_idle and time.monotonic() - session.saved >= 60 * minutes
    due, stop = run.world.as_first((due, session.stop.received))
    if due or stop:
        checkpoint = run.checkpoint()
        if checkpoint is not None:
            last = run.folder / "checkpoints" / "last.pt"
            session.writer.start(lambda: save_checkpoint(last, checkpoint))
        session.saved = time.monotonic()
    if stop:
        _stop(run, session)


def _stop(run: Run, session: _Session) -> None:
    """End the session, for it was asked to end."""
    session.writer.wait()
    session.write_run_json(run)
    raise TrainingStopped(
        f"SIGTERM: stopped after update {run.progress.update}, and checkpoints/last.pt is of this moment. "
        "Go on with --resume."
    )


def _end_epoch(run: Run, session: _Session, row: dict[str, Any]) -> None:
    """The model folder, then the checkpoints; last.pt at the end, for it says that the rest is there."""
    progress, train = run.progress, run.recipe.train
    names = ["last.pt"]
    if row[BEST_BY] > progress.best:  # not so where it is NaN
        progress.best = row[BEST_BY]
        names.insert(0, "best.pt")
    if progress.epoch % train.checkpoint_every == 0 or progress.epoch == train.epochs:
        names.insert(0, f"epoch-{progress.epoch:04d}.pt")
    checkpoint = run.checkpoint()
    if checkpoint is None:
        return
    reader = run.inputs.reader
    origin = run.inputs.origin() | {"epochs": progress.epoch, "inputs_sha256": run.inputs.sha256}
    origin |= count_scans(reader, run.dataset.series)
    training = read_training(run.folder)

    def write() -> None:
        save_model(
            session.jepa_of(run, checkpoint),
            run.folder / "model",
            atlas_table=run.inputs.atlas_table,
            scaling_table=scaling_table(reader),
            origin=origin,
            card=model_card(run.recipe.model, origin=origin, training=training),
        )
        for name in names:
            save_checkpoint(run.folder / "checkpoints" / name, checkpoint)

    session.writer.start(write)
    session.saved = time.monotonic()


def _record(run: Run, session: _Session) -> None:
    """run.json; the report too, where the last one is old or the run is at its end."""
    if session.runlog is None:
        return
    finished = run.progress.epoch == run.recipe.train.epochs
    if finished:
        session.writer.wait()  # only then may run.json say so
    session.write_run_json(run)
    if finished or time.monotonic() - session.reported > REPORT_EVERY:
        write_report(run.folder, facts=facts(run, session.seconds), notes=notes(run))
        session.reported = time.monotonic()


def _sentence(row: dict[str, Any], epochs: int) -> str:
    probe = "".join(
        f", {k} {v:.3f}"
        for k, v in row.items()
        if k.startswith("probe_") and k not in ("probe_scans", "probe_chance")
    )
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"target_scan_share {row['target_scan_share']:.3f}, "
        f"prediction_r2_over_position {row['prediction_r2_over_position']:.3f}, "
        f"effective_rank {row['effective_rank']:.1f}, {row['samples'] / row['seconds']:.2f} series/s{probe}"
    )
