"""BrainMass-style pretraining on connectivity: masked regions and aligned views, then a linear readout.

Order of operations:
  1. views         twice the Pearson correlation of a random KEPT_SHARE of a series' frames (pseudo-FC)
  2. alignment     a predictor on top of the online network's output for one view meets the target network's
                   output for the other, 2 - 2 cosine, both ways; the target network follows slowly (BYOL)
  3. mask-ROI      the profiles of HIDDEN_SHARE of view 1's regions are replaced by a mask token; from their
                   places one head predicts the profile (mean squared error, weight 2), one must be most like
                   its own region's profile among the hidden ones (cross-entropy, weight 0.1)
  4. frozen        connectivity of all frames; REDUCED numbers a region; mean over series; ridge or logistic

Source: Yang et al. 2024, "BrainMass: advancing brain network analysis for diagnosis with large-scale
self-supervised learning", IEEE Trans Med Imaging, arXiv 2403.01433; layer sizes and weights of the losses
from its public configuration (PUBLISHED). Differs: profiles pass a linear layer to a width that does not
depend on the atlas (there the width is the number of regions; so it is in PUBLISHED); blocks norm first, with
GELU and without dropout; the place of a region is a learned vector; one set of hidden regions serves both
heads (there 5 and 10 of 100 regions); a linear readout (there a support vector machine); the target keeps
0.99 of itself (there 0.996, over 3,000 epochs); pretrained on the fold's development part, not on 70,781
scans.

B scans, R regions, W width, M hidden regions, F features.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.baselines.pretraining import PretrainSettings, pretrain
from bjepa.model.blocks import NORM_EPS, Block, run_blocks
from bjepa.model.ema import ema_update
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.recordings import Recordings, recordings_of
from bjepa.model.evaluation.scan_data import mean_by_owner

KEPT_SHARE = 0.8  # of the frames in a view
HIDDEN_SHARE = 0.1  # of the regions, 2 at least
RECONSTRUCTION, IDENTITY = 2.0, 0.1  # weights of the two mask-ROI losses; the alignment has 1
REDUCED = 8  # numbers that are left of a region
EMA = 0.99  # share of the old target kept at each update
SETTINGS = PretrainSettings(epochs=40, batch_size=16, lr=1e-3)


@dataclass(frozen=True, kw_only=True)
class BrainMassConfig:
    """Sizes. The default is as small as recipe `small`."""

    n_rois: int
    width: int = 64  # n_rois: profiles are the tokens, as in the paper
    depth: int = 2
    num_heads: int = 2
    mlp_width: int = 256
    projector_width: int = 256
    n_features: int = 128  # of what is aligned
    predictor_width: int = 256


PUBLISHED = BrainMassConfig(
    n_rois=100,
    width=100,
    depth=16,
    num_heads=10,
    mlp_width=2048,
    projector_width=1600,
    n_features=1024,
    predictor_width=2048,
)


class ConnectomeEncoder(nn.Module):
    """Transformer over regions, whose tokens are their connectivity profiles; on top the projector."""

    def __init__(self, config: BrainMassConfig) -> None:
        super().__init__()
        width = config.width
        as_it_is = width == config.n_rois
        self.embed: nn.Module = nn.Identity() if as_it_is else nn.Linear(config.n_rois, width)
        self.place = nn.Parameter(torch.zeros(config.n_rois, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_width / width,
                attention="sdpa",
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.reduce = nn.Linear(width, REDUCED)
        self.project = _two_layers(REDUCED * config.n_rois, config.projector_width, config.n_features)

    def tokens(self, fc_BRR: Tensor, hidden_BR: Tensor | None = None) -> Tensor:
        """(B, R, W); profiles of regions where `hidden_BR` is true are not seen."""
        x_BRW = self.embed(fc_BRR)
        if hidden_BR is not None:
            x_BRW = torch.where(hidden_BR[..., None], self.mask_token, x_BRW)
        x_nW = (x_BRW + self.place).flatten(0, 1)
        lengths = (fc_BRR.shape[1],) * len(fc_BRR)
        x_nW = run_blocks(self.blocks, x_nW, lengths, at=None, recompute=False)
        normed: Tensor = self.norm(x_nW)
        return normed.view(*fc_BRR.shape[:2], -1)

    def features(self, fc_BRR: Tensor) -> Tensor:
        """What is read out: (B, R * REDUCED)."""
        return F.leaky_relu(self.reduce(self.tokens(fc_BRR))).flatten(1)

    def forward(self, fc_BRR: Tensor) -> Tensor:
        """What is aligned: (B, n_features)."""
        out: Tensor = self.project(self.features(fc_BRR))
        return out


class BrainMass(nn.Module):
    """The online encoder with its heads, and the target encoder that follows it.

    `forward(view_1, view_2, hidden)` is the loss of two views (B, R, R) of the same scans; hidden (B, R) bool
    has as many true entries in each row.
    """

    def __init__(self, config: BrainMassConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConnectomeEncoder(config)
        self.predictor = _two_layers(config.n_features, config.predictor_width, config.n_features)
        self.profile_head, self.identity_head = (
            nn.Sequential(
                nn.Linear(config.width, config.mlp_width),
                nn.LeakyReLU(),
                nn.Linear(config.mlp_width, config.n_rois),
            )
            for _ in range(2)
        )
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5), generator=generator)  # torch's default
                nn.init.zeros_(part.bias)
        for token in (self.encoder.place, self.encoder.mask_token):
            nn.init.normal_(token, std=0.02, generator=generator)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, view_1: Tensor, view_2: Tensor, hidden_BR: Tensor) -> Tensor:
        """Scalar loss."""
        reconstruction, identity = self.masked_losses(view_1, hidden_BR)
        aligned = self.alignment(view_1, view_2) + self.alignment(view_2, view_1)
        return aligned + RECONSTRUCTION * reconstruction + IDENTITY * identity

    def alignment(self, seen_BRR: Tensor, aim_BRR: Tensor) -> Tensor:
        """2 - 2 cosine between the prediction from one view and the target of the other; 0 is best."""
        with torch.no_grad():
            aim = self.target_encoder(aim_BRR)
        return 2 - 2 * F.cosine_similarity(self.predictor(self.encoder(seen_BRR)), aim, dim=1).mean()

    def masked_losses(self, fc_BRR: Tensor, hidden_BR: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of hidden profiles; cross-entropy of which hidden region each one is."""
        n = len(fc_BRR)
        at_hidden = self.encoder.tokens(fc_BRR, hidden_BR)[hidden_BR]  # (B * M, W)
        profiles = fc_BRR[hidden_BR]  # (B * M, R)
        reconstruction = F.mse_loss(self.profile_head(at_hidden), profiles)
        guess_BMR, true_BMR = (
            self.identity_head(at_hidden).view(n, -1, profiles.shape[1]),
            profiles.view(n, -1, profiles.shape[1]),
        )
        alike_BMM = true_BMR @ guess_BMR.transpose(1, 2)
        own = torch.arange(alike_BMM.shape[1], device=alike_BMM.device).repeat(n)
        return reconstruction, F.cross_entropy(alike_BMM.flatten(0, 1), own)

    def follow(self) -> None:
        """Move the target encoder towards the online encoder."""
        ema_update(self.target_encoder, self.encoder, EMA)


def _two_layers(n_in: int, width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, n_out))


def pearson(series_TR: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation (R, R) float32, 1 on the diagonal; 0 of regions that are missing (NaN) or constant."""
    centred = np.nan_to_num(series_TR - series_TR.mean(axis=0))
    norm = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(norm > 0, norm, 1)
    return np.asarray(unit.T @ unit, dtype=np.float32)


def pseudo_fc(series_TR: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Correlation (R, R) of a random KEPT_SHARE of the frames."""
    n_kept = max(2, round(KEPT_SHARE * len(series_TR)))
    return pearson(series_TR[rng.permutation(len(series_TR))[:n_kept]])


def pretrain_brainmass(
    network: BrainMass,
    recordings: Recordings,
    *,
    seed: int,
    device: str,
    max_epochs: int | None = None,
    settings: PretrainSettings = SETTINGS,
) -> list[float]:
    """Train it on two views of each series and epoch; the mean loss of each epoch."""
    numbers = recordings.numbers
    n_hidden = max(2, round(HIDDEN_SHARE * recordings.n_rois))

    def loss_of(places: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        views: list[list[NDArray[np.float32]]] = [[], []]
        hidden = np.zeros((len(places), recordings.n_rois), dtype=bool)
        for row, number in zip(hidden, numbers[places], strict=True):
            series = recordings.read(int(number))
            for view in views:
                view.append(pseudo_fc(series, rng))
            row[rng.permutation(len(row))[:n_hidden]] = True
        one, other = (torch.from_numpy(np.stack(view)).to(device) for view in views)
        loss: Tensor = network(one, other, torch.from_numpy(hidden).to(device))
        return loss

    return pretrain(
        network.to(device),
        len(numbers),
        loss_of,
        settings=settings,
        seed=seed,
        max_epochs=max_epochs,
        after_update=network.follow,
    )


@torch.no_grad()
def connectome_features(network: BrainMass, recordings: Recordings, *, device: str) -> NDArray[np.float32]:
    """(n_participants, R * REDUCED) of the frozen encoder on the connectivity of whole series."""
    network.eval().to(device)
    found = [network.encoder.features(torch.from_numpy(pearson(x))[None].to(device)) for x in recordings]
    features = torch.cat(found).cpu().numpy()
    return mean_by_owner(features, recordings.participant, len(recordings))


def fit_brainmass(fold: Fold, *, settings: PretrainSettings = SETTINGS) -> Prediction:
    """Pretrain on the development part, then read the frozen encoder out."""
    generator = torch.Generator().manual_seed(fold.seed)
    network = BrainMass(BrainMassConfig(n_rois=fold.inputs.n_rois), generator=generator)
    losses = pretrain_brainmass(
        network,
        fold.inputs,
        seed=fold.seed,
        device=fold.device,
        max_epochs=fold.max_epochs,
        settings=settings,
    )
    dev, test = (
        connectome_features(network, part, device=fold.device) for part in (fold.inputs, fold.test_inputs)
    )
    found = fit_linear(replace(fold, inputs=dev, test_inputs=test))
    told = {"epochs": len(losses), "pretraining_loss": losses[-1]}
    return Prediction(found.values, found.settings | told)


BRAINMASS = Method(
    summary="BrainMass-style masked regions and aligned views of connectivity, frozen; ridge or logistic",
    inputs=recordings_of,
    fit_predict=fit_brainmass,
    needs_series=True,
    trains_network=True,
)
