"""The encoder trained from scratch on the targets alone: what fine-tuning a pretrained one is compared with.

The same function as `finetune`, on fresh weights and without layer-wise rates: windows, pooling, head,
stopping and averages are the same, so that the difference is the pretraining.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bjepa.model.baselines.random_encoder import fresh_jepa, recordings_for
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.finetuning import FINETUNE, finetune
from bjepa.model.readouts.fit_network import FitSettings
from bjepa.model.readouts.pooling import Pooling


def fit_scratch(
    fold: Fold,
    *,
    like: JEPA | None = None,
    settings: FitSettings = FINETUNE,
    n_seeds: int = 1,
    pooling: Pooling = "mean",
) -> Prediction:
    """Fit encoder and head on the training part, stop by the validation part, predict the test part.

    Scaling and gradients are those of `like`, or of the training part.
    """
    train = fold.inputs[np.flatnonzero(~fold.is_val)]
    jepa = fresh_jepa(fold, train, like=like)
    found = finetune(fold, jepa, settings=settings, layer_decay=1.0, n_seeds=n_seeds, pooling=pooling)
    return Prediction(found.values, found.settings | {"n_frames": jepa.config.n_frames})


def scratch(
    like: JEPA | None = None,
    *,
    settings: FitSettings = FINETUNE,
    n_seeds: int = 1,
    pooling: Pooling = "mean",
) -> Method:
    """The method, with the architecture and the gradients of a model where one is given."""
    size = "recipe small" if like is None else "the model's architecture"
    return Method(
        summary=f"the encoder from scratch ({size}), no pretraining; {pooling} of tokens, linear head",
        inputs=recordings_for(like),
        fit_predict=partial(fit_scratch, like=like, settings=settings, n_seeds=n_seeds, pooling=pooling),
        needs_series=True,
        trains_network=True,
    )
