"""A model as a folder that explains itself: config.json, model.safetensors, gradients.csv, atlas.tsv.

Nothing in it is executed when it is read.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import bjepa
from bjepa.gradients import load_gradients
from bjepa.model.config import ModelConfig, dataclass_from_table
from bjepa.model.jepa import JEPA
from bjepa.model.weights import as_float32, check_sizes, read_shapes, read_weights, refuse_misfit
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_text

FORMAT, FORMAT_VERSION = "bjepa-model", 1


def save_model(
    jepa: JEPA, folder: str | Path, *, atlas_table: str | None = None, origin: dict[str, Any] | None = None
) -> None:
    """Write the model folder; each file appears whole.

    Parameters
    ----------
    jepa
        Its `atlas_sha256` is kept, where known.
    folder
        Made if missing; files of the same names are replaced.
    atlas_table
        The text of the data's `atlas.tsv`; without it no table is written.
    origin
        What else a user should know (atlas name, repetition time, scaling): goes to config.json as it is.
    """
    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in jepa.state_dict().items()}
    with write_aside(folder / "model.safetensors") as aside:
        safetensors.torch.save_file(state, aside, metadata={"format": "pt"})
    with write_aside(folder / "gradients.csv") as aside:
        # 17 digits: what is read back is what was used, bit for bit
        np.savetxt(aside, jepa.gradients.double().cpu().numpy(), delimiter=",", fmt="%.17g")
    if atlas_table is not None:
        write_text(folder / "atlas.tsv", atlas_table)
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "bjepa_version": bjepa.__version__,
            "model": asdict(jepa.config),
            "atlas_sha256": jepa.atlas_sha256,
            "origin": origin or {},
        },
    )


def load_model(path: str | Path) -> JEPA:
    """Read a model: a run folder of bjepa-train, or its folder `model`. In eval mode, on the CPU.

    Raises
    ------
    InputError
        No model there; a file that is missing, damaged, or of another format; weights that do not fit.
    """
    path = Path(path)
    if path.is_file():
        raise InputError(
            f"{path} is a file, not a model folder.",
            hint="A checkpoint of the released code holds no gradient table: read it with "
            "load_official_checkpoint(file, gradients=table), then jepa.save_pretrained(folder).",
        )
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{path} holds no model (looked for {folder / 'config.json'}).",
            hint="Give a run folder of bjepa-train or its folder 'model'.",
        )
    described = read_description(folder / "config.json")
    origin = f"{folder / 'config.json'} [model]"
    config: ModelConfig = dataclass_from_table(ModelConfig, described["model"], origin=origin)
    weights = folder / "model.safetensors"
    check_sizes(config, read_shapes(weights), origin=str(weights))  # before anything is made in these sizes
    jepa = JEPA(config, load_gradients(folder / "gradients.csv").values)
    load_strictly(jepa, read_weights(weights), origin=str(weights))
    jepa.atlas_sha256 = described.get("atlas_sha256")
    return jepa.eval()


def read_description(path: Path) -> dict[str, Any]:
    """config.json of a model folder, checked to be one."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}.") from error
    found = (
        (described.get("format"), described.get("format_version")) if isinstance(described, dict) else None
    )
    if found != (FORMAT, FORMAT_VERSION) or not isinstance(described.get("model"), dict):
        raise InputError(f"{path} does not describe a model of format {FORMAT!r}, version {FORMAT_VERSION}.")
    return dict(described)


def load_strictly(jepa: torch.nn.Module, state: dict[str, torch.Tensor], *, origin: str) -> None:
    """Put `state` into the module: exactly its names and shapes, finite; InputError naming what is not so."""
    own = jepa.state_dict()
    problems = [f"lacks {name}" for name in own if name not in state]
    problems += [f"has unknown {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    refuse_misfit(problems, origin=origin)
    jepa.load_state_dict(as_float32(state, origin=origin))
