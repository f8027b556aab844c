"""BrainLM-style masked autoencoder, pretrained on the fold's own scans, frozen, read out linearly.

Order of operations:
  1. patches of PATCH_SIZE frames of one region; HIDDEN_SHARE of them hidden at random
  2. the encoder sees the others; a light decoder predicts the frames of the hidden ones; mean squared error
     over hidden frames
  3. frozen: pooled tokens of all patches, mean over windows; ridge or logistic regression

Source: Ortega Caro et al. 2024, "BrainLM: a foundation model for brain activity recordings", ICLR,
bioRxiv 2023.09.12.557460. The network is our own encoder and predictor (`model.predicts = "signal"`); SIZES
gives the published sizes. Differs from the paper: the place of a region is a learned vector (there, its
coordinates, which shards do not hold, go through a linear layer); no class token, tokens are averaged;
attention is exact (the 13 M model has Nyström attention); one draw of the share of hidden patches (there 20,
75 and 90 %); pretrained on the fold's development part, not on 77,298 recordings; a linear readout (there an
MLP head, fine-tuned, or a support vector machine).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.baselines.frozen_encoder import read_out
from bjepa.model.baselines.pretraining import (
    PretrainSettings,
    Windows,
    pretrain,
    window_frames,
)
from bjepa.model.config import MaskConfig, ModelConfig
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.recordings import recordings_of
from bjepa.model.jepa import JEPA
from bjepa.model.masking import collate_masks, sample_mask
from bjepa.model.readouts.model_scaling import scaled_reader
from bjepa.model.readouts.pooling import Pooling

PATCH_SIZE = 20  # frames, as in the paper
HIDDEN_SHARE = 0.75
MASKS = MaskConfig(sampler="random", hidden_share=HIDDEN_SHARE)
SETTINGS = PretrainSettings(epochs=40, batch_size=8, lr=2e-3)


def architecture(
    n_rois: int,
    n_frames: int,
    *,
    width: int = 64,
    depth: int = 2,
    heads: int = 2,
    mlp_ratio: float = 4.0,
    decoder: tuple[int, int, int] = (32, 2, 2),
    init_std: float = 0.1,
    patch_init_std: float = 0.25,
) -> ModelConfig:
    """The network; `decoder` is its width, depth and heads. The default has the size of recipe `small`."""
    return ModelConfig(
        n_rois=n_rois,
        n_frames=n_frames,
        patch_size=PATCH_SIZE,
        n_gradients=1,  # not used
        region_position="learned",
        predicts="signal",
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        predictor_embed_dim=decoder[0],
        predictor_depth=decoder[1],
        predictor_num_heads=decoder[2],
        init_std=init_std,
        patch_init_std=patch_init_std,
    )


# The published sizes, 424 regions x 200 frames. 13 M: the configuration that is published with its weights;
# 111 M and 650 M: ViT-MAE base and huge, whose decoders are 512 wide
_PUBLISHED = partial(architecture, 424, 200, init_std=0.02, patch_init_std=0.02)
SIZES: dict[str, ModelConfig] = {
    "13M": _PUBLISHED(width=512, depth=4, heads=4, mlp_ratio=2.0, decoder=(512, 2, 4)),
    "111M": _PUBLISHED(width=768, depth=12, heads=12, decoder=(512, 8, 16)),
    "650M": _PUBLISHED(width=1280, depth=32, heads=16, decoder=(512, 8, 16)),
}


def make_autoencoder(config: ModelConfig, *, seed: int) -> JEPA:
    """The network with weights drawn from `seed`."""
    unused = torch.zeros(config.n_rois, config.n_gradients)
    return JEPA(config, unused, generator=torch.Generator().manual_seed(seed))


def pretrain_autoencoder(
    jepa: JEPA,
    windows: Windows,
    *,
    seed: int,
    device: str,
    max_epochs: int | None = None,
    settings: PretrainSettings = SETTINGS,
) -> list[float]:
    """Train it in place on random windows of the recordings; the mean loss of each epoch."""
    jepa.to(device)
    return pretrain(
        jepa,
        len(windows.recordings.numbers),
        lambda places, rng: masked_error(jepa, windows, places, rng, device=device),
        settings=settings,
        seed=seed,
        max_epochs=max_epochs,
    )


def masked_error(
    jepa: JEPA, windows: Windows, places: NDArray[np.int64], rng: np.random.Generator, *, device: str
) -> Tensor:
    """Mean squared error of the hidden frames of one window of each of these series, in scaled units."""
    config = jepa.config
    x_BRL, valid_BR, t_r = windows.random(places, rng)
    drawn = [
        sample_mask(config.n_rois, config.n_patches, config=MASKS, generator=rng, valid_rois=valid)
        for valid in valid_BR
    ]
    masks = collate_masks(drawn, n_tokens=config.n_tokens).to(torch.device(device))
    predicted, target = jepa(
        x_BRL.to(device), masks.context_index, masks.target_index, t_r=t_r.to(device)
    )  # (B, M, PATCH_SIZE)
    hidden = masks.target_index >= 0
    return F.mse_loss(predicted[hidden], target[hidden])


def fit_brainlm(
    fold: Fold, *, settings: PretrainSettings = SETTINGS, pooling: Pooling = "mean"
) -> Prediction:
    """Pretrain on the development part, then read the frozen encoder out."""
    read = scaled_reader(fold.inputs)
    config = architecture(fold.inputs.n_rois, window_frames(fold, PATCH_SIZE))
    jepa = make_autoencoder(config, seed=fold.seed)
    losses = pretrain_autoencoder(
        jepa,
        Windows(fold.inputs, read, config.n_frames),
        seed=fold.seed,
        device=fold.device,
        max_epochs=fold.max_epochs,
        settings=settings,
    )
    found = read_out(jepa.context_encoder, fold, read, pooling=pooling)
    told: dict[str, Any] = {"n_frames": config.n_frames, "pooling": pooling}
    told |= {"epochs": len(losses), "pretraining_loss": losses[-1]}
    return Prediction(found.values, found.settings | told)


def brainlm(pooling: Pooling = "mean") -> Method:
    """The method with a pooling of tokens; the paper's summary is a vector, so the default is their mean."""
    return Method(
        summary=f"BrainLM-style autoencoder pretrained on the fold; {pooling} of tokens, ridge or logistic",
        inputs=recordings_of,
        fit_predict=partial(fit_brainlm, pooling=pooling),
        needs_series=True,
        trains_network=True,
    )
