"""What a run tells while it runs: metrics.jsonl, TensorBoard, log.txt, and Weights & Biases where asked.

metrics.jsonl has one line per update (with `step`) and one per epoch (without). After a kill it may tell more
than the last checkpoint knows; resuming forgets that part first.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bjepa.model.wandb_log import WandbLog
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_text

METRICS = "metrics.jsonl"


class RunLog:
    """Appends to the files of a run folder. Use as a context."""

    def __init__(
        self, folder: Path, *, step: int, epoch: int, wandb: Mapping[str, Any] | None = None
    ) -> None:
        """Start after `step` updates and `epoch` epochs; what the files tell beyond is dropped.

        `wandb` is the recipe, where Weights & Biases is to be told too.
        """
        self.folder, self.step, self.epoch = folder, step, epoch
        self._wandb_config = wandb
        self._wandb: WandbLog | None = None

    def __enter__(self) -> "RunLog":
        from torch.utils.tensorboard import SummaryWriter

        rows = read_metrics(self.folder)
        kept = [r for r in rows if (r["step"] <= self.step if "step" in r else r["epoch"] <= self.epoch)]
        write_text(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
        if self._wandb_config is not None:
            self._wandb = WandbLog(self.folder, self._wandb_config)
        self._metrics = open(self.folder / METRICS, "a", encoding="utf-8")
        first = self.step + 1 if self.step else None
        self._board = SummaryWriter(str(self.folder), purge_step=first)
        self._handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("bjepa").addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("bjepa").removeHandler(self._handler)
        self._handler.close()
        self._board.close()
        self._metrics.close()
        if self._wandb is not None:
            self._wandb.close()

    def write(self, row: dict[str, Any], *, step: int) -> None:
        """One line, and the same numbers to TensorBoard; a number that is not finite becomes null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._metrics.write(json.dumps(plain) + "\n")
        self._metrics.flush()
        group = "step" if "step" in row else "epoch"
        for name, value in plain.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._board.add_scalar(f"{group}/{name}", value, step)
        for reason, sentence in row.get("warnings", {}).items():
            self._board.add_text(f"warnings/{reason}", sentence, step)
        if self._wandb is not None:
            self._wandb.write(plain, group=group, step=step)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line torn by a kill is dropped. Empty where there is no file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number} is not JSON ({error}).") from error
    return rows
