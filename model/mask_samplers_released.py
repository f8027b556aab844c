"""The sampler of the released code, defects included, for comparison and for parity.

How it differs from the paper: the pools of Cross-Time and Double-Cross are swapped, the last patch is never
seen, targets repeat, and each list is cut to the shortest of the batch, which leaves 3 + 1 % of side targets.
"""

import torch
from torch import Tensor

from bjepa.model.masking import Masks


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
