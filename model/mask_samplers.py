"""The paper's masks: what the context encoder sees of a scan, and which tokens are predicted from it.

The grid is regions x time, R x T patches; token number = roi * T + t. Order of operations:
  1. observation   a random set of regions x one run of patches
  2. targets may overlap it ("overlapped sampling"): regions for Cross-ROI from all regions, unseen time from
     all patches. The overlap leaves the observation as whole rows and columns, so that what is left, seen
     regions x seen time, shows nothing of a target's region (or of a target's time).
  3. pools         Cross-ROI: unseen regions x seen time; Cross-Time: seen regions x unseen time;
                   Double-Cross: unseen regions x unseen time
  4. blocks        K from each pool: random regions of the pool x a run of its patches. Blocks may share
                   tokens; every token is predicted once and weighs in each of its blocks.
Runs of patches wrap around the end of the scan, so every region and every patch is equally often context, and
equally often target. All sizes are drawn per scan: what a scan is asked does not depend on its batch.
Source: Dong et al. 2024, section 3.3 (pools, overlap). The released code differs: `mask_samplers_released`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bjepa.model.config import MaskConfig, Range

Tokens = NDArray[np.int64]


class Drawn(NamedTuple):
    """One scan's draw; numbers are those of the grid it was drawn on."""

    context: Tokens  # (K,) sorted
    target: Tokens  # (M,) sorted, each once, none of them context
    weight: NDArray[np.float32]  # (3, M) rows sum to 1, or to 0 where there is no target of that kind


def draw_paper(n_rois: int, n_patches: int, *, config: MaskConfig, rng: np.random.Generator) -> Drawn:
    """Draw as described above; any n_rois >= 2 and n_patches >= 2."""
    R, T, K = n_rois, n_patches, config.num_blocks

    def count(share: Range, of: int, *, most: int) -> int:
        """A uniform share of `of`, truncated, from 1 to `most`."""
        low, high = share
        return max(1, min(int(of * (low + (high - low) * rng.random())), most))

    def choose(items: Tokens, n: int) -> Tokens:
        return items[rng.permutation(len(items))[:n]]

    def run(items: Tokens, n: int) -> Tokens:
        start = int(rng.integers(len(items) - n + 1))
        return items[start : start + n]

    observed = rng.permutation(R)[: count(config.observation_rois, R, most=R)]
    n_cross_roi = count(config.cross_roi_rois, R, most=R - 1)
    seen = np.zeros(R, dtype=bool)
    seen[observed] = True
    seen[rng.permutation(R)[:n_cross_roi]] = False  # the overlap leaves the observation
    if not seen.any():  # only on tiny grids
        seen[observed[0]] = True
    seen_rois, unseen_rois = np.flatnonzero(seen), np.flatnonzero(~seen)

    gap = T - count(config.observation_time, T, most=T)
    lengths = [count(config.unseen_time, T, most=T - 1) for _ in range(2 * K)]
    n_unseen = max(1, gap, *lengths)
    wrapped = (int(rng.integers(T)) + np.arange(T)) % T
    unseen_time, seen_time = wrapped[:n_unseen], wrapped[n_unseen:]

    weight_N, kind_N = np.zeros(R * T, dtype=np.float32), np.zeros(R * T, dtype=np.int8)
    for k in range(K):
        n_long = count(config.cross_roi_time, T, most=len(seen_time))
        n_beta = count(config.cross_time_rois, len(seen_rois), most=len(seen_rois))
        n_gamma = count(config.double_cross_rois, len(unseen_rois), most=len(unseen_rois))
        blocks = (
            tokens_of(choose(unseen_rois, n_cross_roi), run(seen_time, n_long), T),
            tokens_of(choose(seen_rois, n_beta), run(unseen_time, lengths[2 * k]), T),
            tokens_of(choose(unseen_rois, n_gamma), run(unseen_time, lengths[2 * k + 1]), T),
        )
        for kind, block in enumerate(blocks):
            weight_N[block] += 1 / (K * len(block))
            kind_N[block] = kind  # the pools share no token
    target = np.flatnonzero(weight_N)
    weight_3M = np.zeros((3, len(target)), dtype=np.float32)
    weight_3M[kind_N[target], np.arange(len(target))] = weight_N[target]
    return Drawn(tokens_of(seen_rois, np.sort(seen_time), T), target, weight_3M)


def tokens_of(rois: Tokens, patches: Tokens, n_patches: int) -> Tokens:
    """Token numbers of regions x patches, region by region."""
    return (rois[:, None] * n_patches + patches).ravel()
