"""Weights drawn anew from the top of the network down: what a map would be if nothing had been learnt.

Adebayo et al. 2018 (arXiv 1810.03292), "cascading randomisation": first the head, then the last block and the
head, and so on down to the patch embedding; at the last stage nothing learnt is left ("complete"). New
weights are drawn as before training (`init_weights`, with the model's own standard deviations); a head is
drawn with the length it had. What stays is what is not learnt: architecture, time positions, gradients, and
the input.

The positions of regions are learnt (one linear layer on the gradients) and belong to the last stage.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from bjepa.model.encoder import Encoder, init_weights

HEAD, COMPLETE = "head", "complete"


def stages(encoder: Encoder, *, with_head: bool) -> list[str]:
    """Names, in order: head, block depth, ..., block 1, complete."""
    blocks = [f"block {number}" for number in range(len(encoder.blocks), 0, -1)]
    return [HEAD] * with_head + blocks + [COMPLETE]


def cascade(
    encoder: Encoder, *, seed: int, draw: int, only: set[str] | None = None
) -> Iterator[tuple[str, Encoder]]:
    """The encoder at each stage below the head, a copy of its own; the given one stays as it is.

    Parameters
    ----------
    seed, draw
        Name the new weights; stages of one draw share them.
    only
        Give these stages alone.
    """
    changed = copy.deepcopy(encoder)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]))
    config = encoder.config
    device = next(encoder.parameters()).device
    changed.cpu()  # drawn on the CPU: the same weights on every device

    def give(stage: str) -> Iterator[tuple[str, Encoder]]:
        if only is None or stage in only:
            yield stage, copy.deepcopy(changed).to(device)

    with torch.no_grad():
        for number in range(len(changed.blocks), 0, -1):
            # the final norm belongs to the last block: it is the next thing below the head
            parts: list[nn.Module] = [changed.blocks[number - 1]]
            parts += [changed.norm] if number == len(changed.blocks) else []
            for part in parts:
                init_weights(part, std=config.init_std, generator=generator)
            yield from give(f"block {number}")
        init_weights(changed.positions, std=config.init_std, generator=generator)
        init_weights(changed.patch_embed, std=config.init_std, generator=generator)
        nn.init.normal_(changed.patch_embed.proj.weight, std=config.patch_init_std, generator=generator)
        yield from give(COMPLETE)
