"""Checkpoints: everything a run needs to go on as if it had not stopped.

Written whole or not at all, on a thread while training goes on; read without executing anything in them. One
format for any number of processes: the tensors in it are whole, and what follows from an update's number
(learning rate, order, windows, masks) is not in it.
"""

import dataclasses
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

import bjepa
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

FORMAT, FORMAT_VERSION = "bjepa-checkpoint", 2


@dataclass(kw_only=True)
class Progress:
    """How far a run is, and what it has seen of the epoch under way."""

    epoch: int = 0  # finished
    update: int = 0  # done, in the whole run; skipped ones count
    loss_sum: float = 0.0  # of this epoch's updates, each times its number of series
    n_series: int = 0  # that these updates learnt from
    seconds: float = 0.0  # of this epoch before the session
    n_skipped: int = 0  # updates of this epoch whose loss was not finite
    skipped_in_a_row: int = 0
    masks: dict[str, int] = field(default_factory=dict)  # of this epoch: counts of model/epoch_tally.py
    best: float = -math.inf  # prediction_r2_over_position of the epoch in best.pt

    def begin_epoch(self) -> None:
        """Forget the sums of the epoch before."""
        self.loss_sum, self.n_series, self.seconds, self.n_skipped = 0.0, 0, 0.0, 0
        self.masks = {}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after an update.

    No random state is needed: what is drawn follows from the seed and the numbers of epoch and series.
    """

    progress: dict[str, Any]  # of Progress
    config: str  # the resolved recipe, TOML
    inputs_sha256: str  # of the data and gradients
    jepa: dict[str, Tensor]
    optimizer: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return int(self.progress["epoch"])

    @property
    def update(self) -> int:
        """Updates done."""
        return int(self.progress["update"])


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it, whole or not at all."""
    content = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "bjepa_version": bjepa.__version__}
    with write_aside(path) as aside:
        torch.save(header | content, aside)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours to the CPU; InputError where it is damaged or something else."""
    content = load_tensors(path)
    found = (content.get("format"), content.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{path} is not a checkpoint of this program: format {found[0]!r}, version {found[1]!r}; "
            f"{FORMAT!r}, version {FORMAT_VERSION} is needed."
        )
    names = [f.name for f in dataclasses.fields(Checkpoint)]
    if missing := [name for name in names if name not in content]:
        raise InputError(
            f"{path} lacks {', '.join(missing)}.", hint="Use an earlier epoch-NNNN.pt as last.pt."
        )
    expected, found_progress = asdict(Progress()), content["progress"]
    if (
        not isinstance(found_progress, dict)
        or set(found_progress) != set(expected)
        or any(type(found_progress[name]) is not type(value) for name, value in expected.items())
        or min(found_progress["epoch"], found_progress["update"]) < 0
    ):
        raise InputError(
            f"{path} does not say how far the run was: {', '.join(sorted(expected))} are needed."
        )
    if strange := [name for name in ("jepa", "optimizer") if not isinstance(content[name], dict)]:
        raise InputError(f"{path}: {strange[0]} is a {type(content[strange[0]]).__name__}, not a dictionary.")
    return Checkpoint(**{name: content[name] for name in names})


def load_tensors(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save: tensors and plain values only, on the CPU.

    Anything else in its pickle is refused before it runs (`weights_only`).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except Exception as error:  # a damaged pickle raises nearly any exception, by its bytes
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{path} is not a checkpoint that can be read safely, and nothing in it was run: {reason[:200]}",
            hint="It is damaged, of another program, or holds more than tensors; use another checkpoint.",
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    return content


class BackgroundWriter:
    """One job of writing at a time, on a thread. Use as a context: at its end the last job is finished.

    An error of a job is raised by the next call, or at the end.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # the error on its way out is told, not this job's

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written; raises what went wrong with what was."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self.wait()
        return True

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the job before, then do this one beside the caller."""
        self.wait()

        def run() -> None:
            try:
                job()
            except BaseException as error:  # raised again by wait
                self._error = error

        self._thread = threading.Thread(target=run, name="bjepa-writer")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
