"""Weights & Biases, where a run asks for it (train.wandb): the numbers of metrics.jsonl, and no file.

The run there has the name of the folder, and an id that is kept in it, so a resumed run goes on in the same.
Where it goes (project, entity, offline) is for WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE to say.
"""

import importlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_text

ID = "wandb_id.txt"


def import_wandb() -> ModuleType:
    """The package; InputError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            f"train.wandb = true needs the package wandb, which cannot be imported ({error}).",
            hint="pip install wandb, or leave train.wandb out: metrics.jsonl and TensorBoard tell the same.",
        ) from error


class WandbLog:
    """A run at Weights & Biases, from its making to `close`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin, or go on with, the run of this folder."""
        path = folder / ID
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        self._run = import_wandb().init(
            project=os.environ.get("WANDB_PROJECT", "bjepa"),
            name=folder.resolve().name,
            dir=str(folder),
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            config=dict(config),
        )

    def write(self, row: Mapping[str, Any], *, group: str, step: int) -> None:
        """The numbers of a row, as `group/name`; warnings as text."""
        told = {
            f"{group}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name not in ("step", "epoch")
        }
        for reason, sentence in row.get("warnings", {}).items():
            told[f"warnings/{reason}"] = sentence
        self._run.log(told, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()
