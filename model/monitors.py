"""Is anything about the scan in what is learnt? Looked at on a few scans after every epoch.

A falling loss does not tell: where tokens are nearly a function of their position, the predictor learns the
positions, the loss goes to zero, and nothing of the participant is in the tokens. So first of all two numbers
are watched:

    target_scan_share             share of the targets' variance that lies between scans at the same token;
                                  the rest is explained by position alone. Near 0: collapsed onto positions
    prediction_r2_over_position   1 - error of the predictions / error of the mean of the other scans' targets
                                  at the same token. 0 or less: the context helped nothing

Tokens may be lost in two more ways, by few directions and by no spread at all:

    effective_rank                directions that the targets use, 1 to D; context_effective_rank those of the
                                  context encoder's tokens, which are what the gradient shapes
    target_std, prediction_std    spread over scans and tokens, mean over features
    target_dead_share             share of features with less than 1 % of the largest spread; likewise
    prediction_dead_share         of the predictions. All are dead where none spreads
    scan_similarity               cosine between the mean tokens of two scans, mean over pairs. 1: alike

S scans (of different participants), M targets and K context tokens (the same mask for all scans), D features.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bjepa.model.config import Recipe
from bjepa.model.dataset import ShardDataset, torch_generator
from bjepa.model.jepa import JEPA
from bjepa.model.masking import ScanMask, sample_mask
from bjepa.model.regularizers import listening
from bjepa.model.train_step import autocast

MONITOR = 3  # the seed's stream, beside those of the dataset
NAMES = (
    "target_std",
    "prediction_std",
    "effective_rank",
    "target_scan_share",
    "prediction_r2_over_position",
    "target_dead_share",
    "prediction_dead_share",
    "context_effective_rank",
    "scan_similarity",
)
DEAD = 0.01  # of the largest feature's std


class Monitor:
    """The middle windows of up to `train.monitor_scans` scans, and one mask, the same in all epochs.

    The mask is drawn on the tokens that all of them have; where these are too few, there is nothing to see.
    """

    def __init__(self, dataset: ShardDataset, recipe: Recipe) -> None:
        self.dataset, self.series = dataset, _one_a_participant(dataset, recipe.train.monitor_scans)
        self.mask: ScanMask | None = None
        clips, model = [dataset.middle(series) for series in self.series], recipe.model
        if len(clips) > 1 and (valid := np.all([clip.valid for clip in clips], axis=0)).sum() > 1:
            self.mask = sample_mask(
                model.n_rois,
                model.n_patches,
                config=recipe.mask,
                generator=torch_generator(MONITOR, recipe.train.seed),
                valid_rois=valid,
                n_existing=min(clip.n_frames for clip in clips) // model.patch_size,
            )

    @torch.no_grad()
    def __call__(self, jepa: JEPA, *, device: torch.device, precision: str) -> dict[str, float]:
        """NAMES -> value; NaN where there are fewer than two scans to compare."""
        if self.mask is None:
            return dict.fromkeys(NAMES, math.nan)
        context = self.mask.context_index[None].to(device)
        target = self.mask.target_index[None].to(device)
        visible = self.mask.visible_index
        visible = None if visible is None else visible[None].to(device)
        predicted, targets, contexts = [], [], []
        for series in self.series:  # one at a time: a look must not need more memory than a step
            clip = self.dataset.middle(series)
            x_BRL, t_r = clip.x[None].to(device), torch.tensor([clip.t_r], device=device)
            with autocast(device, precision), listening(jepa.context_encoder) as heard:
                prediction, wanted = jepa(x_BRL, context, target, visible_index=visible, t_r=t_r)
            if bool(prediction.isfinite().all() & wanted.isfinite().all()):  # train.nonfinite = "skip"
                predicted.append(prediction[0].cpu())
                targets.append(wanted[0].cpu())
                contexts.append(heard[0][0].float().cpu())
        if len(predicted) < 2:
            return dict.fromkeys(NAMES, math.nan)
        return describe(torch.stack(predicted), torch.stack(targets), torch.stack(contexts))


def describe(
    predicted_SMD: Tensor, targets_SMD: Tensor, context_SKD: Tensor | None = None
) -> dict[str, float]:
    """The monitors of S >= 2 scans at the same M tokens; without context tokens their rank is NaN."""
    predicted, targets = predicted_SMD.double(), targets_SMD.double()
    within, between = variance_parts(targets)
    n_scans = len(targets)
    # leave one out: the scan itself is not in the mean it is compared with
    others = (targets.sum(dim=0) - targets) / (n_scans - 1)
    error, baseline = (predicted - targets).square().sum(), (others - targets).square().sum()
    values = {
        "target_std": _std_over_tokens(targets),
        "prediction_std": _std_over_tokens(predicted),
        "effective_rank": effective_rank(targets.flatten(0, 1)),
        "target_scan_share": within / (within + between) if within + between > 0 else math.nan,
        "prediction_r2_over_position": float(1 - error / baseline) if baseline > 0 else math.nan,
        "target_dead_share": dead_share(targets),
        "prediction_dead_share": dead_share(predicted),
        "context_effective_rank": (
            math.nan if context_SKD is None else effective_rank(context_SKD.double().flatten(0, 1))
        ),
        "scan_similarity": scan_similarity(targets),
    }
    assert tuple(values) == NAMES
    return values


def variance_parts(tokens_SMD: Tensor) -> tuple[float, float]:
    """Variance between scans at a token, and between tokens, summed over features; both without bias."""
    within = tokens_SMD.var(dim=0, correction=1).mean(dim=0)  # (D,)
    # the mean of S scans still varies by within / S; that much of its variance is not position
    means = tokens_SMD.mean(dim=0)  # (M, D)
    between = means.var(dim=0, correction=1) - within / len(tokens_SMD)
    return float(within.sum()), float(between.clamp(min=0).sum())


def effective_rank(tokens_nD: Tensor) -> float:
    """exp of the entropy of the singular values of the centred tokens, from 1 to D (Roy & Vetterli 2007)."""
    covariance = torch.cov(tokens_nD.T)  # (D, D)
    singular = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    if not singular.sum() > 0:
        return 1.0
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def dead_share(tokens_SMD: Tensor) -> float:
    """Share of features whose std over scans and tokens is below DEAD of the largest; 1 if that is 0."""
    std_D = tokens_SMD.flatten(0, 1).std(dim=0)
    return float((std_D < DEAD * std_D.max()).double().mean()) if std_D.max() > 0 else 1.0


def scan_similarity(tokens_SMD: Tensor) -> float:
    """Cosine between the scans' mean tokens, mean over pairs of scans; NaN where a mean is 0."""
    means_SD = tokens_SMD.mean(dim=1)
    norm_S1 = means_SD.norm(dim=1, keepdim=True)
    if not bool((norm_S1 > 0).all()):
        return math.nan
    units_SD, n = means_SD / norm_S1, len(means_SD)
    # the sum over all pairs is the squared length of the sum; a scan with itself gives 1
    return float((units_SD.sum(dim=0).square().sum() - n) / (n * (n - 1)))


def _std_over_tokens(tokens_SMD: Tensor) -> float:
    return float(tokens_SMD.flatten(0, 1).std(dim=0).mean())


def _one_a_participant(dataset: ShardDataset, most: int) -> list[int]:
    """Numbers of series of up to `most` different participants, spread over the data."""
    scans = dataset.reader.series_scan[dataset.series]
    names = np.array(dataset.reader.scans["participant_id"])[scans]
    _, first = np.unique(names, return_index=True)
    first.sort()
    chosen = first[np.linspace(0, len(first) - 1, min(most, len(first))).astype(int)] if most else first[:0]
    return [int(s) for s in dataset.series[chosen]]
