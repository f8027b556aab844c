"""Weights that came from a file are looked at before they are used, and before anything is made for them.

Shapes stand in the header of a safetensors file, which cannot claim more than the file has; a model is only
made where they agree with its description. Weights are finite, float32 or converted to it, and said to be.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bjepa.model.config import ModelConfig
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)
Shape = tuple[int, ...]
CONVERTED = (torch.float64, torch.float16, torch.bfloat16)  # to float32


def read_shapes(path: Path) -> dict[str, Shape]:
    """Names and shapes in a safetensors file; no weight is read.

    Raises
    ------
    InputError
        No such file; a damaged or foreign one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as they are, on the CPU; InputError as `read_shapes`."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is missing or damaged: {error}.", hint="Train or copy it again.")


def check_sizes(config: ModelConfig, shapes: Mapping[str, Shape], *, origin: str) -> None:
    """Refuse a description that is not of these weights; every size of the network follows from these.

    Raises
    ------
    InputError
        Naming the first few that differ.
    """
    if not math.isfinite(config.mlp_ratio):
        raise InputError(f"{origin}: model.mlp_ratio is {config.mlp_ratio}, not a size.")
    wide, narrow = config.embed_dim, config.predictor_embed_dim
    expected = {
        "context_encoder.patch_embed.proj.weight": (wide, config.patch_size),
        "context_encoder.positions.time": (config.n_tokens, wide // 2),
        "context_encoder.blocks.0.mlp.fc1.weight": (int(wide * config.mlp_ratio), wide),
        "predictor.embed.weight": (narrow, wide),
        "predictor.blocks.0.mlp.fc1.weight": (int(narrow * config.mlp_ratio), narrow),
    }
    problems = [
        f"{name} is {shapes[name]} instead of {shape}" if name in shapes else f"lacks {name}"
        for name, shape in expected.items()
        if shapes.get(name) != shape
    ]
    for part, depth in (("context_encoder", config.depth), ("predictor", config.predictor_depth)):
        if (found := depth_of(shapes, part)) != depth:
            problems.append(f"{part} has {found} blocks instead of {depth}")
    refuse_misfit(problems, origin=origin)


def depth_of(names: Iterable[str], part: str) -> int:
    """How many blocks the names of a part count."""
    found = (re.match(rf"{part}\.blocks\.(\d{{1,9}})\.", name) for name in names)
    return len({match[1] for match in found if match})


def refuse_misfit(problems: list[str], *, origin: str) -> None:
    """InputError with the first few of `problems`, if there are any."""
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{origin} does not fit this model: {'; '.join(problems[:3])}{more}.",
            hint="Check sizes: regions, frames, patch size, gradients, widths, depths.",
        )


def check_tensors(state: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse what is not a plain tensor with all of its numbers in memory.

    A file of torch.save may hold sparse tensors, tensors without data, and views that repeat a few numbers
    as often as they like: what is made in their size would not fit into any memory.
    """
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(
                f"{origin}: {name} is not a plain tensor that holds all of its {tensor.numel()} numbers.",
                hint="Write the weights again, each contiguous and dense.",
            )


def as_float32(state: Mapping[str, Tensor], *, origin: str) -> dict[str, Tensor]:
    """The weights in float32; other floating point is converted, and a warning says so.

    Raises
    ------
    InputError
        Weights that are no floating point numbers, or not finite.
    """
    converted: set[str] = set()
    for name, tensor in state.items():
        if tensor.dtype in CONVERTED:
            converted.add(str(tensor.dtype).removeprefix("torch."))
        elif tensor.dtype != torch.float32:
            raise InputError(
                f"{origin}: {name} holds {str(tensor.dtype).removeprefix('torch.')}; weights are float32 (or "
                "float64, float16, bfloat16, which are converted)."
            )
    if converted:
        log.warning("%s holds weights in %s: read as float32.", origin, ", ".join(sorted(converted)))
    found = {name: tensor.float() for name, tensor in state.items()}
    for name, tensor in found.items():
        if n_bad := int((~torch.isfinite(tensor)).sum()):
            raise InputError(
                f"{origin}: {name} has {n_bad} non-finite values of {tensor.numel()}.",
                hint="The model was damaged, or its training went wrong; use an earlier checkpoint.",
            )
    return found
