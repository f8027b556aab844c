"""Checkpoints: everything a run needs to go on as if it had not stopped.

Written whole or not at all; read without executing anything in them.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bjepa
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

FORMAT, FORMAT_VERSION = "bjepa-checkpoint", 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after `epoch` whole epochs.

    No random state is needed: what is drawn follows from the seed and the numbers of epoch and series.
    """

    epoch: int  # finished
    update: int  # done
    config: str  # the resolved recipe, TOML
    inputs_sha256: str  # of the data and gradients
    jepa: dict[str, Tensor]
    optimizer: dict[str, Any]


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
