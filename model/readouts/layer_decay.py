"""Layer-wise learning rates: the nearer a layer is to the input, the less it moves.

    layer 0            patch embedding and positions
    layer i + 1        block i
    layer depth + 1    the rest: the encoder's last norm, pooling, head

    rate of a parameter in update u = schedule(u) * decay ** (depth + 1 - layer)

The scale is a group's `lr_scale`, which `fit_network` multiplies the schedule with in each update. (The
released code looks layers up by names that its parameters do not have, so that all of them get scale 1.)
Biases, norms and other vectors do not decay to zero by weight decay.
Source: Clark et al. 2020, "ELECTRA", arXiv:2003.10555; Bao et al. 2021, "BEiT", arXiv:2106.08254.
"""

from __future__ import annotations

import re

from torch import nn

from bjepa.model.readouts.fit_network import Groups
from bjepa.preproc.errors import InputError

ENCODER = "encoder."  # prefix of the encoder's parameters in the network that is fitted


def layer_of(name: str, *, depth: int) -> int:
    """The layer, 0 .. depth + 1, of a parameter of a network with `encoder`."""
    if not name.startswith(ENCODER):
        return depth + 1
    within = name.removeprefix(ENCODER)
    if within.startswith(("patch_embed.", "positions.")):
        return 0
    block = re.match(r"blocks\.(\d+)\.", within)
    return int(block[1]) + 1 if block else depth + 1


def layer_groups(network: nn.Module, *, depth: int, decay: float) -> Groups:
    """Groups for `fit_network`, by layer and by whether weight decay applies; what is frozen is in none.

    Each also says its `layer`. Raises InputError unless 0 < decay <= 1 (1: the same rate for all).
    """
    if not 0 < decay <= 1:
        raise InputError(
            f"layer_decay must be above 0 and at most 1, got {decay}.", hint="1 switches it off."
        )
    groups: dict[tuple[int, bool], dict[str, object]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decays = layer_of(name, depth=depth), parameter.ndim > 1
        if (layer, decays) not in groups:
            scale = decay ** (depth + 1 - layer)
            group: dict[str, object] = {"params": [], "lr_scale": scale, "layer": layer}
            groups[layer, decays] = group if decays else group | {"weight_decay": 0.0}
        params = groups[layer, decays]["params"]
        assert isinstance(params, list)
        params.append(parameter)
    return [groups[key] for key in sorted(groups)]
