"""The loss between predicted and target tokens, in all and for each kind of target.

    paper              squared L2 distance of a token, averaged over the tokens of a block, then over all
                       blocks (3 kinds x K), then over scans. Divided by the number of features, a constant
                       that AdamW does not see, so that the number can be compared between widths.
    smooth_l1_pooled   smooth L1 (beta 1), plain mean over all target elements of the batch: as released

B scans, M targets, D features. Kinds in the order of KINDS.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bjepa.model.config import ObjectiveConfig
from bjepa.model.masking import Masks


class Objective(NamedTuple):
    """What is minimised, and the same error within each kind of target (NaN where the batch has none)."""

    loss: Tensor  # scalar
    per_kind: Tensor  # (3,), no gradient


def objective(
    predicted_BMD: Tensor, targets_BMD: Tensor, masks: Masks, *, config: ObjectiveConfig
) -> Objective:
    """Loss of a batch, in float32. Padding does not count."""
    if config.loss == "paper":
        error_BM = (predicted_BMD.float() - targets_BMD).square().mean(dim=2)
        by_kind_B3 = (masks.block_weight * error_BM[:, None]).sum(dim=2)
        has_kind_B3 = masks.block_weight.sum(dim=2) > 0
        loss = (by_kind_B3.sum(dim=1) / has_kind_B3.sum(dim=1)).mean()
    else:
        elements = F.smooth_l1_loss(predicted_BMD.float(), targets_BMD, reduction="none")  # (B, M, D)
        loss = elements[masks.target_index >= 0].mean()
        error_BM = elements.mean(dim=2)
    return Objective(loss, _mean_per_kind(error_BM.detach(), masks.block_weight))


def _mean_per_kind(error_BM: Tensor, weight_B3M: Tensor) -> Tensor:
    total = torch.einsum("bm,bkm->k", error_BM, weight_B3M)
    return total / weight_B3M.sum(dim=(0, 2))
