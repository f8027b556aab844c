"""What the context encoder sees of a scan, and which tokens are predicted from it.

The grid is regions x time, R x T patches; token number = roi * T + t. Order of operations ("paper"):
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
Source: Dong et al. 2024, section 3.3 (pools, overlap). Differs from the released code, kept as "released" in
`released_masks`: there the pools of Cross-Time and Double-Cross are swapped, the last patch is never seen,
targets repeat, and each list is cut to the shortest of the batch, which leaves 3 + 1 % of side targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bjepa.model.config import MaskConfig, Range
from bjepa.model.tokens import pad

KINDS = ("cross_roi", "cross_time", "double_cross")


class ScanMask(NamedTuple):
    """One scan's share of Masks."""

    context_index: Tensor  # (K,) int64, sorted
    target_index: Tensor  # (M,) int64
    block_weight: Tensor  # (3, M) float32


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


def collate_masks(masks: Sequence[ScanMask]) -> Masks:
    """Pad to the longest of the batch; nothing is cut."""
    weight = torch.nn.utils.rnn.pad_sequence([m.block_weight.T for m in masks], batch_first=True)  # (B, M, 3)
    return Masks(
        pad([m.context_index for m in masks]),
        pad([m.target_index for m in masks]),
        weight.transpose(1, 2).contiguous(),
    )


def sample_mask(n_rois: int, n_patches: int, *, config: MaskConfig, generator: torch.Generator) -> ScanMask:
    """Draw one scan's context and targets as described above; any n_rois >= 2 and n_patches >= 2."""
    if n_rois < 2 or n_patches < 2:
        raise ValueError(f"masks need at least 2 regions and 2 patches, got {n_rois} and {n_patches}.")
    R, T, K = n_rois, n_patches, config.num_blocks

    def count(share: Range, of: int, *, most: int) -> int:
        """A uniform share of `of`, truncated, from 1 to `most`."""
        low, high = share
        drawn = int(of * (low + (high - low) * torch.rand((), generator=generator).item()))
        return max(1, min(drawn, most))

    def choose(items: Tensor, n: int) -> Tensor:
        return items[torch.randperm(len(items), generator=generator)[:n]]

    def run(items: Tensor, n: int) -> Tensor:
        start = int(torch.randint(len(items) - n + 1, (), generator=generator))
        return items[start : start + n]

    all_rois = torch.arange(R)
    observed = choose(all_rois, count(config.observation_rois, R, most=R))
    n_cross_roi = count(config.cross_roi_rois, R, most=R - 1)
    seen = torch.zeros(R, dtype=torch.bool)
    seen[observed] = True
    seen[choose(all_rois, n_cross_roi)] = False  # the overlap leaves the observation
    if not seen.any():  # only on tiny grids
        seen[observed[0]] = True
    seen_rois, unseen_rois = all_rois[seen], all_rois[~seen]

    gap = T - count(config.observation_time, T, most=T)
    lengths = [count(config.unseen_time, T, most=T - 1) for _ in range(2 * K)]
    n_unseen = max(1, gap, *lengths)
    wrapped = (int(torch.randint(T, (), generator=generator)) + torch.arange(T)) % T
    unseen_time, seen_time = wrapped[:n_unseen], wrapped[n_unseen:]

    weight = torch.zeros(3, R * T)
    for k in range(K):
        n_long = count(config.cross_roi_time, T, most=len(seen_time))
        n_beta = count(config.cross_time_rois, len(seen_rois), most=len(seen_rois))
        n_gamma = count(config.double_cross_rois, len(unseen_rois), most=len(unseen_rois))
        blocks = (
            _tokens(choose(unseen_rois, n_cross_roi), run(seen_time, n_long), T),
            _tokens(choose(seen_rois, n_beta), run(unseen_time, lengths[2 * k]), T),
            _tokens(choose(unseen_rois, n_gamma), run(unseen_time, lengths[2 * k + 1]), T),
        )
        for kind, block in enumerate(blocks):
            weight[kind, block] += 1 / (K * len(block))
    target = weight.any(dim=0).nonzero().flatten()
    return ScanMask(_tokens(seen_rois, seen_time.sort().values, T), target, weight[:, target])


def released_masks(
    n_scans: int, n_rois: int, n_patches: int, *, counter: int, generator: torch.Generator
) -> Masks:
    """The released sampler, defects included, with its configured ranges; 10 patches only.

    `counter` numbers the batch and decides the sizes; `generator` the positions (there the process-wide one).
    Targets are Cross-ROI, then the right side, then the left; they may repeat. `block_weight` labels them by
    what the context shows of their region and time.
    """
    if n_patches != 10:
        raise ValueError(f"the released sampler has its columns written out for 10 patches, got {n_patches}.")
    R, T = n_rois, n_patches
    sizes = torch.Generator().manual_seed(counter)

    def uniform(low: float, high: float) -> float:
        return low + torch.rand(1, generator=sizes).item() * (high - low)

    def permutation(n: int) -> Tensor:
        return torch.randperm(n, generator=generator)

    def below(n: int) -> int:
        return int(torch.randint(0, n, (1,), generator=generator))

    n_alpha, long_alpha = int(R * uniform(0.45, 0.6)), int(T * uniform(0.2, 0.6))
    n_observed, long_observed = int(R * uniform(0.84, 1.0)), int(T * uniform(0.84, 1.0))
    contexts, targets, kinds = [], [], []
    for _ in range(n_scans):
        observed = torch.zeros(R, dtype=torch.bool)
        observed[permutation(R)[:n_observed]] = True
        start = below(T - long_observed)  # the largest start is left out: the last patch is never seen
        alpha = torch.zeros(R, dtype=torch.bool)
        alpha[permutation(R)[:n_alpha]] = True
        alpha_start = start + below(long_observed - long_alpha)
        columns = torch.zeros(T, dtype=torch.bool)
        columns[start : start + long_observed] = True

        outside = ~alpha if int((~observed).sum()) == 1 else ~observed | ~alpha
        pool1 = (~(~observed | ~alpha)).nonzero().flatten()
        pool2 = outside.nonzero().flatten()
        parts = [_tokens(alpha.nonzero().flatten(), torch.arange(alpha_start, alpha_start + long_alpha), T)]
        for side in (torch.tensor([7, 8, 9]), torch.tensor([0, 1, 2])):
            share, n_columns = uniform(0.15, 0.3), int(T * uniform(0.0, 0.4))
            rois = torch.cat(
                [
                    pool1[permutation(len(pool1))[: int(len(pool1) * share)]],
                    pool2[permutation(len(pool2))[: int(len(pool2) * share)]],
                ]
            )
            hidden = side[permutation(3)[:n_columns]]
            parts.append(_tokens(rois, hidden, T).sort().values)
            columns[hidden] = False
        seen = observed & ~alpha
        target = torch.cat(parts)
        contexts.append(_tokens(seen.nonzero().flatten(), columns.nonzero().flatten(), T))
        targets.append(target)
        hidden_time = ~columns[target % T]
        kinds.append(torch.where(hidden_time, torch.where(seen[target // T], 1, 2), 0))

    n_context, n_target = min(map(len, contexts)), min(map(len, targets))
    kind = torch.stack([k[:n_target] for k in kinds])  # (B, M)
    member = torch.nn.functional.one_hot(kind, 3).float().transpose(1, 2)  # (B, 3, M)
    return Masks(
        torch.stack([c[:n_context] for c in contexts]),
        torch.stack([t[:n_target] for t in targets]),
        member / member.sum(dim=2, keepdim=True).clamp(min=1),
    )


def _tokens(rois: Tensor, patches: Tensor, n_patches: int) -> Tensor:
    """Token numbers of regions x patches, region by region."""
    return (rois[:, None] * n_patches + patches).flatten()
