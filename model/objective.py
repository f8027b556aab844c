"""What is minimised: distance of predicted and target tokens, and a regularizer where one is asked for.

    paper              squared L2 distance of a token, averaged over the tokens of a block, then over all
                       blocks (3 kinds x K), then over scans. Divided by the number of features, a constant
                       that AdamW does not see, so that the number can be compared between widths.
    smooth_l1          the same means of smooth L1 (beta 1)
    smooth_l1_pooled   smooth L1, plain mean over all target elements of the batch: as released

B scans, M targets, K context tokens, D features. Kinds in the order of KINDS.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bjepa.model.config import ObjectiveConfig
from bjepa.model.masking import Masks
from bjepa.model.regularizers import (
    covariance_penalty,
    sketched_normality,
    variance_hinge,
    without_position,
)


class Objective(NamedTuple):
    """What is minimised, and what it is made of."""

    loss: Tensor  # scalar
    per_kind: Tensor  # (3,), no gradient: the error within each kind of target, NaN where there is none
    parts: dict[str, Tensor]  # no gradient: terms of the regularizer, unweighted; empty without one


def objective(
    predicted_BMD: Tensor,
    targets_BMD: Tensor,
    masks: Masks,
    *,
    config: ObjectiveConfig,
    context_BKD: Tensor | None = None,
    sketch_seed: int = 0,
) -> Objective:
    """Loss of a batch, in float32. Padding does not count.

    Parameters
    ----------
    predicted_BMD, targets_BMD : (B, M, D) float32
    context_BKD : (B, K, D) float32, optional
        What the context encoder made of `masks.context_index`; the regularizers need it.
    sketch_seed
        Draws the directions of "sigreg"; another one in every update.

    Raises
    ------
    ValueError
        A regularizer without `context_BKD`.
    """
    difference = predicted_BMD.float(), targets_BMD
    if config.loss == "paper":
        error_BM = F.mse_loss(*difference, reduction="none").mean(dim=2)
    else:
        error_BM = F.smooth_l1_loss(*difference, reduction="none").mean(dim=2)
    if config.loss == "smooth_l1_pooled":
        loss = error_BM[masks.target_index >= 0].mean()
    else:
        loss = _mean_over_blocks(error_BM, masks.block_weight)
    parts: dict[str, Tensor] = {}
    if config.regularizer != "none":
        if context_BKD is None:
            raise ValueError(f"regularizer = {config.regularizer!r} needs the context tokens; got None.")
        penalty, parts = _regularizer(context_BKD, masks, config=config, sketch_seed=sketch_seed)
        loss = loss + config.regularizer_weight * penalty
    return Objective(loss, _mean_per_kind(error_BM.detach(), masks.block_weight), parts)


def _mean_over_blocks(error_BM: Tensor, weight_B3M: Tensor) -> Tensor:
    by_kind_B3 = (weight_B3M * error_BM[:, None]).sum(dim=2)
    n_kinds_B = (weight_B3M.sum(dim=2) > 0).sum(dim=1)
    return (by_kind_B3.sum(dim=1) / n_kinds_B).mean()


def _mean_per_kind(error_BM: Tensor, weight_B3M: Tensor) -> Tensor:
    total = torch.einsum("bm,bkm->k", error_BM, weight_B3M)
    return total / weight_B3M.sum(dim=(0, 2))


def _regularizer(
    context_BKD: Tensor, masks: Masks, *, config: ObjectiveConfig, sketch_seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    centred_nD = without_position(context_BKD, masks.context_index)
    if not len(centred_nD):  # a batch of one scan, the last of an epoch: nothing to compare
        return context_BKD.sum() * 0.0, {}
    if config.regularizer == "vicreg":
        variance, covariance = variance_hinge(centred_nD), covariance_penalty(centred_nD)
        parts = {"variance": variance.detach(), "covariance": covariance.detach()}
        return variance + config.covariance_weight * covariance, parts
    distance = sketched_normality(centred_nD, n_projections=config.n_projections, seed=sketch_seed)
    return distance, {"normality": distance.detach()}
