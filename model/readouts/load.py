"""MODEL of bjepa-evaluate: a run folder, a model folder, a name on the hub, or a released checkpoint."""

from __future__ import annotations

from pathlib import Path

from bjepa.gradients import load_gradients
from bjepa.model.hub import load_model
from bjepa.model.jepa import JEPA
from bjepa.model.official import load_official_checkpoint, settings_of_released
from bjepa.preproc.errors import InputError

RELEASED = (".tar", ".pth", ".pt", ".safetensors")  # suffixes of files that may be released checkpoints


def load_evaluated_model(
    source: str | Path, *, gradients: Path | None = None, num_heads: int | None = None
) -> JEPA:
    """Read a model, in eval mode, on the CPU.

    Parameters
    ----------
    source
        As `load_model` takes it; or a file with weights of the released code.
    gradients
        The gradient table that a released checkpoint was trained with: regions x gradients. Its rows give the
        number of regions, and with the weights the length of a window.
    num_heads
        Of a released checkpoint that is none of ViT-S, ViT-B and ViT-L.

    Raises
    ------
    InputError
        As `load_model` and `load_official_checkpoint`; a released checkpoint without gradients; gradients for
        a model that brings its own.
    """
    path = Path(source)
    released = path.is_file() and path.suffix in RELEASED
    if released and gradients is None:
        raise InputError(
            f"{path} is a file of weights; a checkpoint of the released code does not hold the gradients "
            "that it was trained with.",
            hint="Give them with --gradients FILE. Of a run of bjepa-train, name the run folder.",
        )
    if not released:
        if gradients is not None or num_heads is not None:
            option = "--num-heads" if gradients is None else "--gradients"
            raise InputError(
                f"{option} was given, but {source} brings its own.",
                hint="Leave it out: it is for checkpoints of the released code.",
            )
        return load_model(source)
    assert gradients is not None
    table = load_gradients(gradients)
    settings = settings_of_released(path, n_rois=len(table.values), num_heads=num_heads)
    jepa = load_official_checkpoint(path, gradients=table.values, **settings)
    jepa.atlas_sha256 = table.atlas_sha256
    return jepa
