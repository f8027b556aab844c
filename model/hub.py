"""A model as a folder that explains itself. Nothing in it is executed when it is read.

config.json        the network, and the origin of the data
model.safetensors  weights
gradients.csv      the gradient atlas, one row a region
atlas.tsv          the regions          } where they are known
scaling.tsv        median and IQR       } (model/about.py)
README.md          the model card       }
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import bjepa
from bjepa.gradients import load_gradients
from bjepa.model.about import About, read_about
from bjepa.model.config import ModelConfig, dataclass_from_table
from bjepa.model.huggingface import fetch_model, is_hub_name, push_folder
from bjepa.model.jepa import JEPA
from bjepa.model.model_card import model_card
from bjepa.model.weights import as_float32, check_sizes, read_shapes, read_weights, refuse_misfit
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_text

FORMAT, FORMAT_VERSION = "bjepa-model", 1


def save_model(
    jepa: JEPA,
    folder: str | Path,
    *,
    atlas_table: str | None = None,
    scaling_table: str | None = None,
    origin: dict[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write the model folder; each file appears whole, config.json last.

    Parameters
    ----------
    jepa
        Its `atlas_sha256` is kept, where known.
    folder
        Made if missing; files of the same names are replaced.
    atlas_table, scaling_table
        The texts of `atlas.tsv` and `scaling.tsv`; without one there is no such file afterwards.
    origin
        What else a user should know (atlas name, repetition time, scaling): goes to config.json as it is.
    card
        The text of `README.md`; without it that file stays as it is.
    """
    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in jepa.state_dict().items()}
    with write_aside(folder / "model.safetensors") as aside:
        safetensors.torch.save_file(state, aside, metadata={"format": "pt"})
    with write_aside(folder / "gradients.csv") as aside:
        # 17 digits: what is read back is what was used, bit for bit
        np.savetxt(aside, jepa.gradients.double().cpu().numpy(), delimiter=",", fmt="%.17g")
    for name, table in (("atlas.tsv", atlas_table), ("scaling.tsv", scaling_table)):
        if table is not None:
            write_text(folder / name, table)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier model
    if card is not None:
        write_text(folder / "README.md", card)
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "bjepa_version": bjepa.__version__,
            "model": asdict(jepa.config),
            "normed_targets": jepa.normed_targets,
            "atlas_sha256": jepa.atlas_sha256,
            "origin": origin or {},
        },
    )


def save_pretrained(jepa: JEPA, folder: str | Path) -> None:
    """Write the model folder with all that the model knows of itself (`jepa.about`), and a card."""
    about = jepa.about or About()
    card = about.card or model_card(jepa.config, origin=about.origin)
    save_model(
        jepa,
        folder,
        atlas_table=about.atlas_table,
        scaling_table=about.scaling_table,
        origin=about.origin,
        card=card,
    )


def push_to_hub(jepa: JEPA, name: str, *, private: bool, message: str, token: str | None) -> str:
    """Write the model folder and put it on the Hugging Face Hub; the address of the commit."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(jepa, folder)
        return push_folder(Path(folder), name, private=private, message=message, token=token)


def load_model(source: str | Path, *, revision: str | None = None) -> JEPA:
    """Read a model, in eval mode, on the CPU. What its folder tells beside it is in `jepa.about`.

    Parameters
    ----------
    source
        A run folder of bjepa-train, its folder `model`, or `owner/name` of the Hugging Face Hub. A folder
        comes first. (A checkpoint of the released code needs its gradients: load_official_checkpoint.)
    revision
        Branch, tag or commit on the hub.

    Raises
    ------
    InputError
        No model there; a file that is missing, damaged, or of another format; weights that do not fit; a
        `revision` for a folder.
    """
    folder = _find_model(source, revision=revision)
    described = read_description(folder / "config.json")
    origin = f"{folder / 'config.json'} [model]"
    config: ModelConfig = dataclass_from_table(ModelConfig, described["model"], origin=origin)
    weights = folder / "model.safetensors"
    check_sizes(config, read_shapes(weights), origin=str(weights))  # before anything is made in these sizes
    jepa = JEPA(config, load_gradients(folder / "gradients.csv").values)
    load_strictly(jepa, read_weights(weights), origin=str(weights))
    jepa.atlas_sha256 = described.get("atlas_sha256")
    jepa.normed_targets = described.get("normed_targets", True)
    jepa.about = read_about(folder, described.get("origin", {}), n_rois=config.n_rois)
    return jepa.eval()


def _find_model(source: str | Path, *, revision: str | None) -> Path:
    """The folder with config.json."""
    path = Path(source)
    if not path.exists() and is_hub_name(str(source)):
        path = fetch_model(str(source), revision=revision)
    elif revision is not None:
        raise InputError(
            f"revision = {revision!r} is for a name on the Hugging Face Hub, but {source} is none.",
            hint="Leave it out.",
        )
    if path.is_file():
        raise InputError(
            f"{path} is a file, not a model folder.",
            hint="A checkpoint of the released code holds no gradient table: read it with "
            "load_official_checkpoint(file, gradients=table), then jepa.save_pretrained(folder).",
        )
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{source} holds no model (looked for {folder / 'config.json'}).",
            hint="Give a run folder of bjepa-train or its folder 'model'.",
        )
    return folder


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
    for name, kind in (("origin", dict), ("normed_targets", bool), ("atlas_sha256", str | None)):
        if name in described and not isinstance(described[name], kind):
            raise InputError(f"{path}: {name} cannot be {described[name]!r}.")
    return dict(described)


def load_strictly(jepa: torch.nn.Module, state: dict[str, torch.Tensor], *, origin: str) -> None:
    """Put `state` into the module: exactly its names and shapes, finite; InputError naming what is not so."""
    own = jepa.state_dict()
    if strange := [name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]:
        raise InputError(
            f"{origin}: {strange[0]} is of type {type(state[strange[0]]).__name__}, not a tensor."
        )
    problems = [f"lacks {name}" for name in own if name not in state]
    problems += [f"has unknown {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    refuse_misfit(problems, origin=origin)
    jepa.load_state_dict(as_float32(state, origin=origin))
