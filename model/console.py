"""One line on the terminal that lives while a run trains; nothing where stderr is not a terminal.

    epoch 3/40 ━━━━━━╺━━━━━━ 12/30  loss 0.2841  lr 8.1e-04  R² 0.31  share 0.92  14.2 series/s  0:12:40 left

R² (over position) and share (of the targets' variance between scans) are those of the last epoch's monitors.
"""

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

UNKNOWN = "–"


class LiveLine:
    """The line, as a context; lines of the log appear above it.

    Parameters
    ----------
    epochs, updates_per_epoch
        Of the run.
    enabled
        False: silent whatever stderr is (all processes but the first).
    console
        Where to; stderr without it.
    """

    def __init__(
        self, *, epochs: int, updates_per_epoch: int, enabled: bool = True, console: Console | None = None
    ) -> None:
        self.epochs, self.updates_per_epoch = epochs, updates_per_epoch
        self._console = console or Console(stderr=True)
        self._on = enabled and self._console.is_terminal
        self._progress: Progress | None = None
        self._shown: dict[str, Any] = dict.fromkeys(("loss", "lr", "r2", "share", "speed", "left"), UNKNOWN)
        self._began, self._done = time.monotonic(), 0
        self._lent: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> "LiveLine":
        if self._on:
            text = "loss {loss}  lr {lr}  R² {r2}  share {share}  {speed} series/s  {left} left"
            fields = text.format(**{name: f"{{task.fields[{name}]}}" for name in self._shown})
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=14),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn(fields),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=self.updates_per_epoch, **self._shown)
            before = sys.stderr
            self._progress.start()  # sys.stderr now writes above the line; the log must go there too
            self._lend(before, sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        for handler, stream in self._lent:
            handler.setStream(stream)
        self._lent.clear()

    def begin_epoch(self, epoch: int, done: int = 0) -> None:
        """Another epoch, of which `done` updates were made before."""
        if self._progress is not None:
            self._progress.reset(
                self._task, description=f"epoch {epoch}/{self.epochs}", completed=done, **self._shown
            )

    def update(self, row: Mapping[str, Any]) -> None:
        """An update is done; its row of metrics.jsonl."""
        if self._progress is None:
            return
        self._done += 1
        to_come = self.epochs * self.updates_per_epoch - row["step"]
        left = (time.monotonic() - self._began) / self._done * to_come
        self._shown |= {
            "loss": _told(row["loss"], ".4f"),
            "lr": _told(row["lr"], ".1e"),
            "speed": _told(row.get("samples_per_s"), ".1f"),
            "left": hours(left),
        }
        self._progress.update(self._task, advance=1, **self._shown)

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        """The monitors have looked; the epoch's row."""
        if self._progress is not None:
            self._shown |= {
                "r2": _told(row.get("prediction_r2_over_position"), ".2f"),
                "share": _told(row.get("target_scan_share"), ".2f"),
            }
            self._progress.update(self._task, **self._shown)

    def _lend(self, before: Any, now: Any) -> None:
        handlers = [h for name in ("", "bjepa") for h in logging.getLogger(name).handlers]
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                self._lent.append((handler, before))
                handler.setStream(now)


def hours(seconds: float) -> str:
    """`0:02:05`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _told(value: float | None, form: str) -> str:
    return UNKNOWN if value is None or math.isnan(value) else format(value, form)
