"""Masks that know nothing of regions and time: for comparison with the paper's (its ablations).

    random   tokens of the grid hidden one by one, as in masked autoencoders; all of them are targets
    block    multi-block masks as for images: K target rectangles of the regions x time grid (neighbours in
             the atlas' order x a run of patches), and a large context rectangle that loses the targets

A target's kind is told by what the context shows: time not shown is Cross-Time, or Double-Cross if the region
is not shown either; all else counts as Cross-ROI, also where only this patch of its region is hidden. Every
target weighs alike within its kind (each block alike, where there are blocks).
Sources: He et al. 2022, "Masked autoencoders" (random); Assran et al. 2023, "I-JEPA" (block; there K = 4).
"""

import math

import numpy as np
from numpy.typing import NDArray

from bjepa.model.config import MaskConfig, Range
from bjepa.model.mask_samplers import Drawn


def draw_random(n_rois: int, n_patches: int, *, config: MaskConfig, rng: np.random.Generator) -> Drawn:
    """Hide `hidden_share` of the tokens, at least one, and show at least one."""
    n_tokens = n_rois * n_patches
    n_hidden = max(1, min(round(n_tokens * config.hidden_share), n_tokens - 1))
    hidden = np.zeros(n_tokens, dtype=bool)
    hidden[rng.permutation(n_tokens)[:n_hidden]] = True
    hidden_RT = hidden.reshape(n_rois, n_patches)
    return _drawn(~hidden_RT, hidden_RT.astype(np.float32))


def draw_block(n_rois: int, n_patches: int, *, config: MaskConfig, rng: np.random.Generator) -> Drawn:
    """K target rectangles and what they leave of a context rectangle.

    Where they leave nothing of it (tiny grids) all that is no target is context, and blocks are given up from
    the last one on until something is.
    """
    R, T = n_rois, n_patches

    def rectangle(area: Range, aspect: Range) -> tuple[slice, slice]:
        share = _uniform(*area, rng)
        ratio = math.exp(_uniform(math.log(aspect[0]), math.log(aspect[1]), rng))
        height = max(1, min(round(R * math.sqrt(share * ratio)), R))
        width = max(1, min(round(T * math.sqrt(share / ratio)), T))
        roi, patch = int(rng.integers(R - height + 1)), int(rng.integers(T - width + 1))
        return slice(roi, roi + height), slice(patch, patch + width)

    blocks = [rectangle(config.block_area, config.block_aspect) for _ in range(config.num_blocks)]
    observed = np.zeros((R, T), dtype=bool)
    observed[rectangle(config.context_area, (1.0, 1.0))] = True
    for n_kept in range(len(blocks), 0, -1):
        weight = np.zeros((R, T), dtype=np.float32)
        for block in blocks[:n_kept]:
            weight[block] += 1 / weight[block].size
        free = weight == 0
        if free.any():
            break
    else:  # a single block that fills the grid loses a token
        weight[-1, -1], free[-1, -1] = 0, True
    context = free & observed
    return _drawn(context if context.any() else free, weight)


def _uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return low + (high - low) * rng.random()


def _drawn(context_RT: NDArray[np.bool_], weight_RT: NDArray[np.float32]) -> Drawn:
    """Sort the tokens of weight > 0 into kinds, by what the context shows of their region and their time."""
    roi_shown_R1, time_shown_T = context_RT.any(axis=1, keepdims=True), context_RT.any(axis=0)
    kind_RT = np.where(time_shown_T, 0, np.where(roi_shown_R1, 1, 2))
    target = np.flatnonzero(weight_RT)
    weight, kind = weight_RT.ravel()[target], kind_RT.ravel()[target]
    weight_3M = np.zeros((3, len(target)), dtype=np.float32)
    weight_3M[kind, np.arange(len(target))] = weight
    total = weight_3M.sum(axis=1, keepdims=True)
    weight_3M /= np.where(total > 0, total, 1)
    return Drawn(np.flatnonzero(context_RT), target, weight_3M)
