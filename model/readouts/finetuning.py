"""Fine-tuning: encoder and head learn together from windows of the participants' series.

Order of operations, for each seed:
  1. a copy of the model's *target* encoder (whose tokens `embed` gives, and which the released code
     fine-tunes); the model itself is never changed
  2. windows of n_frames, all that a series holds, are the samples, scaled as the model's training data were;
     of a model that does not tell how, by median and IQR of the fold's training participants
  3. tokens -> pooling -> norm -> linear head; everything is trained but the frozen time half of positions,
     or, with `lora_rank`, the low-rank changes and the head alone
  4. `fit_network`: AdamW, the schedule's rate times layer_decay ** (depth + 1 - layer), early stopping on
     the validation part
  5. a participant's prediction is the mean over its windows, then over the seeds
Differs from the released code: layer decay works, samples are shuffled, the best epoch is chosen on the
validation part, targets of a regression are standardised, windows do not start at random (and so no test
score depends on chance), the head starts without a bias.

B windows, R regions, L frames, D embed_dim, F pooled features.
"""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.recordings import Recordings, recordings_of
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.model.readouts.fit_network import FitSettings, fit_network, predict_network
from bjepa.model.readouts.layer_decay import layer_groups
from bjepa.model.readouts.lora import add_lora
from bjepa.model.readouts.model_scaling import ReadSeries, as_the_model, knows_scaling, scaled_reader
from bjepa.model.readouts.pooling import (
    BY_NETWORK,
    SECOND_ORDER,
    Pooling,
    check_pooling,
    n_features,
    network_numbers,
    pool,
)
from bjepa.model.readouts.suits import check_fits
from bjepa.model.readouts.windows import tokens_on_grid, window_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bjepa.model import JEPA

log = logging.getLogger(__name__)
NORM_EPS = 1e-6
HEAD_STD = 2e-5  # of the head's weights at the start, as released: the encoder is not shaken at once
FINETUNE = FitSettings(epochs=50, batch_size=16, lr=1e-3, weight_decay=0.05, warmup_epochs=5, patience=15)


class EncoderWithHead(nn.Module):
    """Windows to predictions: `encoder`, pooling, `norm`, `head`.

    Parameters
    ----------
    encoder : Encoder
        Taken as it is, not copied.
    pooling, network_R
        As in `pool`.
    generator
        Draws the head.
    """

    network_R: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        pooling: Pooling,
        n_outputs: int,
        network_R: NDArray[np.int64] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = encoder.config
        check_pooling(pooling, n_patches=config.n_patches)
        if pooling in BY_NETWORK and network_R is None:
            raise ValueError(f"pooling {pooling!r} needs network_R, got None.")
        self.encoder, self.pooling = encoder, pooling
        index = None if network_R is None else torch.from_numpy(network_R)
        self.register_buffer("network_R", index, persistent=False)
        width = n_features(
            pooling,
            n_rois=config.n_rois,
            embed_dim=config.embed_dim,
            n_networks=0 if network_R is None else int(network_R.max()) + 1,
        )
        # correlations have a level of their own each, tokens' features share theirs
        self.norm: nn.Module = (
            nn.BatchNorm1d(width, eps=NORM_EPS, affine=False)
            if pooling in SECOND_ORDER
            else nn.LayerNorm(width, eps=NORM_EPS)
        )
        self.head = nn.Linear(width, n_outputs)
        nn.init.normal_(self.head.weight, std=HEAD_STD, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BRL: Tensor, present_BR: Tensor, t_r_B: Tensor) -> Tensor:
        """(B, R, L) float32, (B, R) bool, (B,) s -> (B, n_outputs)."""
        tokens_BRTD = tokens_on_grid(self.encoder, x_BRL, present_BR, t_r_B)
        with torch.autocast(x_BRL.device.type, enabled=False):
            pooled = pool(tokens_BRTD, self.pooling, present_BR=present_BR, network_R=self.network_R)
            out: Tensor = self.head(self.norm(pooled.nan_to_num(nan=0.0)))
            return out


def finetune_method(
    model: JEPA,
    *,
    settings: FitSettings = FINETUNE,
    layer_decay: float = 0.75,
    n_seeds: int = 1,
    lora_rank: int | None = None,
    pooling: Pooling = "mean",
) -> Method:
    """The method `finetune` of a model; arguments as in `finetune`."""
    check_pooling(pooling, n_patches=model.config.n_patches)
    how = f"LoRA of rank {lora_rank}" if lora_rank else f"all weights, layer decay {layer_decay:g}"
    return Method(
        summary=f"the model fine-tuned ({how}); {pooling} of tokens, linear head",
        inputs=partial(recordings_for, model),
        fit_predict=partial(
            finetune,
            model=model,
            settings=settings,
            layer_decay=layer_decay,
            n_seeds=n_seeds,
            lora_rank=lora_rank,
            pooling=pooling,
        ),
        needs_series=True,
        trains_network=True,
    )


def finetune(
    fold: Fold,
    model: JEPA,
    *,
    settings: FitSettings = FINETUNE,
    layer_decay: float = 0.75,
    n_seeds: int = 1,
    lora_rank: int | None = None,
    pooling: Pooling = "mean",
) -> Prediction:
    """Fit on the training part of a fold, stop by the validation part, predict the test part.

    Parameters
    ----------
    fold
        Its inputs are Recordings.
    model
        Where the weights start; fresh weights make it a network from scratch. Not changed.
    layer_decay : in (0, 1]
        Rate of a layer over the rate of the next one.
    n_seeds
        How often it is fitted, with other heads and orders of samples; predictions are averaged.
    lora_rank
        Train changes of this rank in place of the weights.
    pooling
        Of the tokens. By network: those of `network17` of the shards.

    Raises
    ------
    InputError
        Settings that make no sense; participants without a whole window.
    """
    if n_seeds < 1:
        raise ValueError(f"n_seeds must be 1 or more, got {n_seeds}.")
    rows = np.arange(len(fold.inputs))
    train, val = rows[~fold.is_val], rows[fold.is_val]
    read = read_scaled(model, fold.inputs[train])
    n_frames = model.config.n_frames
    samples = [
        window_samples(part, read, n_frames=n_frames, target=target)
        for part, target in (
            (fold.inputs[train], fold.target[train]),
            (fold.inputs[val], fold.target[val]),
            (fold.test_inputs, None),
        )
    ]
    names: Sequence[str] = fold.inputs.reader.rois["network17"]
    network_R = network_numbers(names) if pooling in BY_NETWORK else None
    predictions, epochs = [], []
    for number in range(n_seeds):
        seed = int(np.random.SeedSequence([fold.seed, number]).generate_state(1)[0])
        network = _new_network(model, pooling, fold.n_outputs, network_R, lora_rank, seed)
        fitted = fit_network(
            network,
            samples[0],
            samples[1],
            task=fold.task,
            settings=settings,
            seed=seed,
            device=fold.device,
            max_epochs=fold.max_epochs,
            parameter_groups=partial(layer_groups, depth=model.config.depth, decay=layer_decay),
        )
        epochs.append(fitted.best_epoch)
        log.info(
            "fine-tuned for %d epochs, best %d (validation loss %.4g)",
            len(fitted.history),
            fitted.best_epoch,
            min(h["val_loss"] for h in fitted.history),
        )
        predictions.append(
            predict_network(
                fitted, samples[2], task=fold.task, device=fold.device, batch_size=settings.batch_size
            )
        )
    values: NDArray[np.float64] = np.mean(predictions, axis=0)
    told: dict[str, Any] = {
        "best_epoch": epochs,
        "n_trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "pooling": pooling,
        "layer_decay": layer_decay,
        "lora_rank": lora_rank,
        "scaling": "model" if knows_scaling(model) else "training participants of the fold",
    }
    return Prediction(values, told)


def _new_network(
    model: JEPA,
    pooling: Pooling,
    n_outputs: int,
    network_R: NDArray[np.int64] | None,
    lora_rank: int | None,
    seed: int,
) -> EncoderWithHead:
    generator = torch.Generator().manual_seed(seed)
    encoder = copy.deepcopy(model.target_encoder).cpu()
    learns = dict(model.context_encoder.named_parameters())
    for name, parameter in encoder.named_parameters():  # the target encoder's are all frozen
        parameter.requires_grad_(learns[name].requires_grad)
    if lora_rank is not None:
        add_lora(encoder, rank=lora_rank, generator=generator)
    return EncoderWithHead(
        encoder, pooling=pooling, n_outputs=n_outputs, network_R=network_R, generator=generator
    )


def read_scaled(model: JEPA, train: Recordings) -> ReadSeries:
    """How to read a series for `model`; scaled by the training participants if it does not tell how."""
    if knows_scaling(model):
        return as_the_model(model, train.reader, tell=False)  # `recordings_for` has
    return scaled_reader(train)


def recordings_for(model: JEPA, data: ScanData, participants: Sequence[str]) -> Recordings:
    """The inputs of a method that reads windows of `model`; InputError where it cannot read these shards."""
    recordings = recordings_of(data, participants)
    check_fits(model, recordings.reader)
    if knows_scaling(model):
        as_the_model(model, recordings.reader)  # tells what it does, once for all folds
    return recordings
