"""A run's folder: may a run start here, and from where does it go on?"""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bjepa
from bjepa.model.checkpoint import Checkpoint, load_checkpoint
from bjepa.model.config import Recipe, differing_keys, load_recipe, recipe_to_toml
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sweep_leftovers, write_text

# These change how a run is computed, written or read, and no number in it beyond rounding; all others must
# stay as they were.
FREE_TO_CHANGE = {
    "data.num_workers",
    "train.activation_checkpointing",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.compile",
    "train.nonfinite",
    "train.parallel",
    "train.probe_column",
    "train.probe_every",
    "train.wandb",
}


def open_run(folder: Path, recipe: Recipe, *, inputs_sha256: str, resume: bool) -> Checkpoint | None:
    """Make the folder ready and write config.toml; the checkpoint to go on from, or None for the beginning.

    Raises
    ------
    InputError
        A folder that is not empty, without `resume`; with it: not a run, other settings (all keys are named),
        other data or gradients, a damaged checkpoint.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; a folder is needed.")
    config, last = folder / "config.toml", folder / "checkpoints" / "last.pt"
    checkpoint = None
    if resume:
        sweep_leftovers(folder, folder / "checkpoints", folder / "model")  # of a killed session
    if folder.is_dir() and any(folder.iterdir()):
        if not resume:
            raise InputError(
                f"--output {folder} is not empty.",
                hint="Give another folder, or --resume to go on with the run in it.",
            )
        if not config.is_file():
            raise InputError(f"{folder} is not empty and not a run: it has no config.toml.")
        _check_same(load_recipe(config), recipe, where=config)
        if last.is_file():
            checkpoint = load_checkpoint(last)
            _check_inputs(checkpoint, inputs_sha256, where=last)
    write_text(config, recipe_to_toml(recipe))
    return checkpoint


def _check_same(before: Recipe, now: Recipe, *, where: Path) -> None:
    changed = {k: v for k, v in differing_keys(before, now).items() if k not in FREE_TO_CHANGE}
    if changed:
        listed = "; ".join(f"{key} was {was!r}, is {now_!r}" for key, (was, now_) in changed.items())
        raise InputError(
            f"{where} has other settings: {listed}.",
            hint="Resume with the same recipe and --set, or start a new run in another folder. "
            f"Only {', '.join(sorted(FREE_TO_CHANGE))} may change.",
        )


def _check_inputs(checkpoint: Checkpoint, inputs_sha256: str, *, where: Path) -> None:
    if checkpoint.inputs_sha256 != inputs_sha256:
        raise InputError(
            f"{where} was made from other data, gradients or participants than those given.",
            hint="run.json lists their files and SHA-256. Resume with the same, or start a new run.",
        )


def describe_software(names: Sequence[str] = ("torch", "numpy", "h5py", "safetensors")) -> dict[str, Any]:
    """Versions of bjepa, Python and the packages, and the state of the source where it is a git checkout."""
    found = {"bjepa": bjepa.__version__, "python": platform.python_version()}
    return {"versions": found | {name: version(name) for name in names}, "git": _git_state()}


def _git_state() -> dict[str, Any] | None:
    """Commit and whether the tree has changes; None for an installed package or without git."""
    source = Path(__file__).resolve().parent

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(source), *command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # a site-packages inside somebody else's checkout is not ours
        if git("ls-files", "--error-unmatch", Path(__file__).name):
            return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None
    return None
