"""Weights drawn anew from the top of the network down: what a map would be if nothing had been learnt.

Adebayo et al. 2018 (arXiv 1810.03292), "cascading randomisation": first the head, then the last block and the
head, and so on down to the patch embedding; at the last stage nothing learnt is left ("complete"). New
weights are drawn as before training (`init_weights`, with the model's own standard deviations); a linear head
is drawn with the length it had. What stays is what is not learnt: architecture, time positions, gradients,
and the input.

The positions of regions are learnt (one linear layer on the gradients) and belong to the last stage.
"""

import copy
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import nn

from bjepa.model.encoder import Encoder, init_weights
from bjepa.model.explain.output_network import Subject

HEAD, COMPLETE = "head", "complete"


def stages(subject: Subject) -> list[str]:
    """Names, in order: head (where there is one), block depth, ..., block 1, complete."""
    depth = len(subject.encoders[0].blocks)
    return [HEAD] * bool(subject.outputs) + [f"block {n}" for n in range(depth, 0, -1)] + [COMPLETE]


@torch.no_grad()
def cascade(
    subject: Subject, *, seed: int, draw: int, only: Collection[str] | None = None
) -> Iterator[tuple[str, Subject]]:
    """The subject at each stage (of `only`, where given); use each before the next. The given one stays.

    `seed` and `draw` name the new weights. All encoders of a draw get the same ones, and so do all heads.
    """
    changed = copy.deepcopy(subject)
    state = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])

    def give(stage: str) -> Iterator[tuple[str, Subject]]:
        if only is None or stage in only:
            yield stage, changed

    for output in changed.outputs:
        output.redraw_head(torch.Generator().manual_seed(state))
    if changed.outputs:
        yield from give(HEAD)
    generators = [torch.Generator().manual_seed(state + 1) for _ in changed.encoders]
    for number in range(len(changed.encoders[0].blocks), 0, -1):
        for encoder, generator in zip(changed.encoders, generators, strict=True):
            _redraw(encoder.blocks[number - 1], encoder, generator)
            if number == len(encoder.blocks):  # the final norm is what comes next below the head
                _redraw(encoder.norm, encoder, generator)
        yield from give(f"block {number}")
    for encoder, generator in zip(changed.encoders, generators, strict=True):
        _redraw(encoder.positions, encoder, generator)
        _redraw(encoder.patch_embed, encoder, generator)
    yield from give(COMPLETE)


def _redraw(part: nn.Module, encoder: Encoder, generator: torch.Generator) -> None:
    """As `JEPA` does before training; drawn on the CPU, so the same on every device."""
    device = next(part.parameters()).device
    part.cpu()
    init_weights(part, std=encoder.config.init_std, generator=generator)
    if part is encoder.patch_embed:
        nn.init.normal_(
            encoder.patch_embed.proj.weight, std=encoder.config.patch_init_std, generator=generator
        )
    part.to(device)
