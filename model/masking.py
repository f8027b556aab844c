"""Token lists of a batch: what the context encoder sees of each scan, and what is predicted from it.

Each scan's lists are drawn alone, from its own generator, by the sampler that the recipe names
(`mask_samplers`: the paper's, the default; `mask_samplers_plain`: random tokens and blocks, for comparison),
on the grid of the tokens that exist in it:

    regions    5 of 7 valid           . . = missing     the sampler sees 5 regions x 3 patches; its token
    patches    3 of 4 before the end  # # # |           numbers are then translated to those of the whole grid

So a scan with missing regions, or one that ends early, is asked as much of what it has as any other, and no
list holds a token that does not exist. Lists are padded to the longest of the batch; nothing is cut.
(`mask_samplers_released` draws a whole batch at once and knows of no missing tokens.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.config import MaskConfig
from bjepa.model.mask_samplers import draw_paper, tokens_of
from bjepa.model.mask_samplers_plain import draw_block, draw_random
from bjepa.model.tokens import PADDING

KINDS = ("cross_roi", "cross_time", "double_cross")
_SAMPLERS = {
    "paper": draw_paper,
    "released": draw_paper,  # of a scan alone; for training, a batch is drawn at once
    "random": draw_random,
    "block": draw_block,
}


class ScanMask(NamedTuple):
    """One scan's share of Masks."""

    context_index: Tensor  # (K,) int64, sorted
    target_index: Tensor  # (M,) int64, sorted
    block_weight: Tensor  # (3, M) float32
    visible_index: Tensor | None = None  # (N',) int64, sorted; None: all


@dataclass(frozen=True)
class Masks:
    """Token lists of a batch, padded with -1, and the weight of each target in each kind's mean.

    context_index (B, K) int64 · target_index (B, M) int64 · block_weight (B, 3, M) float32: rows sum to 1, or
    to 0 where a scan has no target of that kind · visible_index (B, N') int64, sorted: the tokens that exist
    in each scan (a missing region has none); None where all do.
    """

    context_index: Tensor
    target_index: Tensor
    block_weight: Tensor
    visible_index: Tensor | None = None

    def to(self, device: torch.device) -> "Masks":
        """The same on `device`."""
        tensors = (self.context_index, self.target_index, self.block_weight, self.visible_index)
        context, target, weight, visible = (
            None if t is None else t.to(device, non_blocking=True) for t in tensors
        )
        assert context is not None and target is not None and weight is not None
        return Masks(context, target, weight, visible)


def collate_masks(masks: Sequence[ScanMask], *, n_tokens: int | None = None) -> Masks:
    """Pad to the longest of the batch; nothing is cut. `n_tokens` of a whole grid where some lack tokens."""
    targets = _padded([m.target_index for m in masks])
    weight = np.zeros((len(masks), 3, targets.shape[1]), dtype=np.float32)
    for row, mask in zip(weight, masks, strict=True):
        row[:, : len(mask.target_index)] = mask.block_weight.numpy()
    visible = None
    if any(m.visible_index is not None for m in masks):
        if n_tokens is None:
            raise ValueError("n_tokens is needed where scans lack tokens.")
        whole = torch.arange(n_tokens)
        visible = _padded([whole if m.visible_index is None else m.visible_index for m in masks])
    return Masks(_padded([m.context_index for m in masks]), targets, torch.from_numpy(weight), visible)


def sample_mask(
    n_rois: int,
    n_patches: int,
    *,
    config: MaskConfig,
    generator: np.random.Generator | torch.Generator,
    valid_rois: NDArray[np.bool_] | None = None,
    n_existing: int | None = None,
) -> ScanMask:
    """Draw one scan's context and targets with `config.sampler`; the paper's where that is "released".

    Parameters
    ----------
    n_rois, n_patches
        The whole grid.
    generator
        A torch one seeds the draw with its next number.
    valid_rois : (n_rois,) bool, optional
        Regions that the scan has; None: all.
    n_existing : int, optional
        Patches before the scan's end; None: all.

    Raises
    ------
    ValueError
        Fewer than 2 regions or 2 patches that exist.
    """
    rois = np.arange(n_rois) if valid_rois is None else np.flatnonzero(valid_rois)
    n_existing = n_patches if n_existing is None else n_existing
    if len(rois) < 2 or n_existing < 2:
        raise ValueError(
            f"masks need at least 2 regions and 2 patches that exist, got {len(rois)} and {n_existing}."
        )
    if isinstance(generator, torch.Generator):
        generator = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    drawn = _SAMPLERS[config.sampler](len(rois), n_existing, config=config, rng=generator)
    if len(rois) == n_rois and n_existing == n_patches:
        context, target, visible = drawn.context, drawn.target, None
    else:
        number = tokens_of(rois, np.arange(n_existing), n_patches)  # of each token of the smaller grid
        context, target, visible = number[drawn.context], number[drawn.target], torch.from_numpy(number)
    return ScanMask(
        torch.from_numpy(context), torch.from_numpy(target), torch.from_numpy(drawn.weight), visible
    )


def _padded(lists: Sequence[Tensor]) -> Tensor:
    """(B, K) int64, K the longest, the rest PADDING at the end."""
    padded = np.full((len(lists), max(map(len, lists))), PADDING, dtype=np.int64)
    for row, tokens in zip(padded, lists, strict=True):
        row[: len(tokens)] = tokens.numpy()
    return torch.from_numpy(padded)
