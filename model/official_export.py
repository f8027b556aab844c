"""Our models as checkpoints of the released Brain-JEPA: names, shapes and order as it writes them itself.

    NAME.pth.tar      its container: encoder predictor target_encoder opt scaler epoch loss batch_size
                      world_size lr; names with the prefix `module.`
    NAME.safetensors  the weights only, names with the prefixes `encoder. predictor. target_encoder.`

A model that the released code would read as another one (another kind of position, other heads in the
predictor, not ten patches) is refused.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bjepa.model.config import ModelConfig
from bjepa.model.jepa import JEPA
from bjepa.model.official import PARTS, names_of, with_prefix_changed
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

RELEASED_PATCHES = 10  # of one region: a literal in the released code
# What AdamW says of each group, in the order of the released files; how it is computed is left to the reader.
HOW = {"amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False}


def export_official_checkpoint(
    jepa: JEPA,
    path: str | Path,
    *,
    epoch: int,
    optimizer: torch.optim.Optimizer | None = None,
    loss: float = math.nan,
    batch_size: int = 1,
    world_size: int = 1,
    lr: float = 1e-3,
) -> None:
    """Write a checkpoint that the released code loads strictly. The gradient table is not in it.

    Parameters
    ----------
    jepa
    path
        `.safetensors` gives that layout, any other name the container (released ones end in `.pth.tar`).
    epoch
        Epochs done.
    optimizer
        That of `jepa`, as `make_optimizer` makes it: its moments, learning rate and weight decay go along.
        Without it the container has the four groups without any moments, as before the first update.
        Only for the container.
    loss, batch_size, world_size, lr
        Noted for the reader: the last epoch's loss, series a process and step, processes, peak learning rate.
        In a safetensors file they are metadata, as is `epoch`.

    Raises
    ------
    InputError
        A model that the released code cannot be; an optimizer of another model, or for a safetensors file.
    """
    path = Path(path)
    _refuse_what_is_not_released(jepa.config)
    parts = {part: to_official(part, getattr(jepa, ours).state_dict()) for part, ours in PARTS.items()}
    notes = {
        "epoch": epoch,
        "loss": loss,
        "batch_size": batch_size,
        "world_size": world_size,
        "lr": lr,
    }
    if path.suffix == ".safetensors":
        if optimizer is not None:
            raise InputError(
                f"{path} is a safetensors file, which holds weights only, but an optimizer was given.",
                hint="Leave the optimizer out, or give a name that ends in .pth.tar.",
            )
        flat = {f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()}
        metadata = {"format": "pt", **{name: str(value) for name, value in notes.items()}}
        with write_aside(path) as aside:
            safetensors.torch.save_file(flat, aside, metadata=metadata)
        return
    container: dict[str, Any] = {
        part: {f"module.{name}": tensor for name, tensor in state.items()} for part, state in parts.items()
    }
    container |= {"opt": _optimizer_state(jepa, optimizer, lr=lr), "scaler": None, **notes}
    with write_aside(path) as aside:
        torch.save(container, aside)


def to_official(part: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of one of PARTS under the released names (without `module.`), on the CPU."""
    pairs = [(ours, theirs) for theirs, ours in names_of(part)]
    return {
        with_prefix_changed(name, pairs): _as_convolution(name, tensor.detach().cpu().clone())
        for name, tensor in state.items()
    }


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    """The patch embedding is a convolution (D, 1, 1, p) there, a linear layer (D, p) here: the same map."""
    return tensor[:, None, None, :] if name == "patch_embed.proj.weight" else tensor


def _refuse_what_is_not_released(config: ModelConfig) -> None:
    needed: dict[str, Any] = {
        "region_position": "gradient",
        "time_position": "patch",
        "predicts": "latent",
        "mlp_ratio": 4.0,
        "predictor_num_heads": config.num_heads,
    }
    problems = [
        f"model.{key} is {getattr(config, key)!r} instead of {value!r}"
        for key, value in needed.items()
        if getattr(config, key) != value
    ]
    if config.n_patches != RELEASED_PATCHES:
        problems.append(
            f"model.n_frames / model.patch_size is {config.n_patches} instead of {RELEASED_PATCHES}"
        )
    if problems:
        raise InputError(
            f"The released code would not be this model: {'; '.join(problems)}.",
            hint="Share it as a model folder instead (jepa.save_pretrained).",
        )


def _optimizer_state(jepa: JEPA, optimizer: torch.optim.Optimizer | None, *, lr: float) -> dict[str, Any]:
    """AdamW's state as the released code groups and numbers it: the frozen tables are listed, without state.

    Groups: matrices of the encoder, of the predictor (they decay); the rest of the encoder, of the predictor.
    """
    modules = (jepa.context_encoder, jepa.predictor)
    groups, state, number = [], {}, 0
    for decays in (True, False):
        for module in modules:
            named = [(name, p) for name, p in module.named_parameters() if (p.ndim > 1) == decays]
            numbers = range(number, number + len(named))
            number += len(named)
            groups.append(
                _group(optimizer, [p for _, p in named], decays=decays, lr=lr) | {"params": list(numbers)}
            )
            for i, (name, parameter) in zip(numbers, named, strict=True):
                moments = {} if optimizer is None else optimizer.state.get(parameter, {})
                if moments:
                    state[i] = {
                        key: _as_convolution(name, value.detach().cpu().clone())
                        if value.ndim
                        else value.detach().cpu().clone()
                        for key, value in moments.items()
                    }
    return {"state": state, "param_groups": groups}


def _group(
    optimizer: torch.optim.Optimizer | None, parameters: Iterable[nn.Parameter], *, decays: bool, lr: float
) -> dict[str, Any]:
    """What one of the four groups says of its learning rate and decay, in the released order of keys."""
    found: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.04}
    if optimizer is not None:
        trained = {id(p) for p in parameters if p.requires_grad}
        own = [g for g in optimizer.param_groups if {id(p) for p in g["params"]} == trained]
        if len(own) != 1:
            raise InputError(
                "The optimizer does not have the four groups of this model's parameters.",
                hint="Give the one that make_optimizer(jepa, ...) made for this very model.",
            )
        found = {key: own[0][key] for key in found}
    if not decays:
        found = {"WD_exclude": True, "weight_decay": 0} | {k: found[k] for k in ("lr", "betas", "eps")}
    return found | HOW | {"fused": None, "decoupled_weight_decay": True}
