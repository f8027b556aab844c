"""An untrained encoder, frozen, read out as `probe` reads a trained one: what training has to add to.

A random encoder is nearly linear in its patches and hands on much of what the scans hold, so that a trained
one is compared with it by the same pooling, not with chance (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from bjepa.model.baselines.frozen_encoder import read_out
from bjepa.model.baselines.pretraining import fold_gradients, window_frames
from bjepa.model.config import load_recipe
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.recordings import Recordings, recordings_of
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.model_scaling import as_the_model, scaled_reader
from bjepa.model.readouts.pooling import Pooling
from bjepa.model.readouts.suits import check_fits


def fresh_jepa(fold: Fold, learn_from: Recordings, *, like: JEPA | None) -> JEPA:
    """A JEPA with weights drawn from `fold.seed`: architecture and gradients of `like`, or the small one.

    Like the model, it then reads series as the model's training data were scaled: weights alone differ.
    The small one is the network of recipe `small` on windows that fit the cohort, with the gradients of the
    connectivity of `learn_from`, the participants that the method fits on.
    """
    generator = torch.Generator().manual_seed(fold.seed)
    if like is not None:
        jepa = JEPA(like.config, like.gradients.cpu(), generator=generator)
        jepa.about = like.about  # series are scaled as for the model
        return jepa
    gradients = fold_gradients(learn_from)
    n_rois, n_gradients = gradients.shape
    config = load_recipe("small", n_rois=n_rois, n_gradients=n_gradients).model
    n_frames = window_frames(fold, config.patch_size)
    return JEPA(replace(config, n_frames=n_frames), gradients, generator=generator)


def recordings_for(like: JEPA | None) -> Callable[[ScanData, Sequence[str]], Recordings]:
    """How a method gets its inputs: shards that do not suit the architecture of `like` are refused."""
    return recordings_of if like is None else partial(_fitting, like)


def fit_random_encoder(fold: Fold, *, like: JEPA | None = None, pooling: Pooling = "mean") -> Prediction:
    """Draw the weights, pool the tokens, fit the linear readout on the development part."""
    jepa = fresh_jepa(fold, fold.inputs, like=like)
    read = scaled_reader(fold.inputs) if like is None else as_the_model(like, fold.inputs.reader)
    found = read_out(jepa.target_encoder, fold, read, pooling=pooling)
    return Prediction(found.values, found.settings | {"n_frames": jepa.config.n_frames, "pooling": pooling})


def random_encoder(like: JEPA | None = None, *, pooling: Pooling = "mean") -> Method:
    """The method, with the architecture and the gradients of a model where one is given."""
    size = "recipe small" if like is None else "the model's architecture"
    return Method(
        summary=f"control: an untrained encoder ({size}), frozen; {pooling} of tokens, ridge or logistic",
        inputs=recordings_for(like),
        fit_predict=partial(fit_random_encoder, like=like, pooling=pooling),
        needs_series=True,
        trains_network=True,
    )


def _fitting(like: JEPA, data: ScanData, participants: Sequence[str]) -> Recordings:
    recordings = recordings_of(data, participants)
    check_fits(like, recordings.reader)
    return recordings
