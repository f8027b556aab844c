"""Read a frozen encoder out as `probe` does: consecutive windows, a pooling of tokens, a linear readout.

windows     all whole windows of a series; frames left over at its end are not used
pooling     model/readouts/pooling.py; means over windows, over series, so that a participant is one row
readout     linear.py: ridge or logistic regression, fitted on the development part
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.evaluation.fold import Fold, Prediction
from bjepa.model.evaluation.recordings import Recordings
from bjepa.model.evaluation.scan_data import mean_by_owner
from bjepa.model.readouts.model_scaling import ReadSeries
from bjepa.model.readouts.pooling import BY_NETWORK, Pooling, network_numbers, pool
from bjepa.model.readouts.windows import tokens_on_grid, window_samples

if TYPE_CHECKING:
    from bjepa.model.encoder import Encoder

BATCH_SIZE = 16  # windows in a forward pass


def read_out(encoder: Encoder, fold: Fold, read: ReadSeries, *, pooling: Pooling) -> Prediction:
    """Predictions for the test part from the tokens of `encoder`, which stays as it is.

    `read` gives a series as the encoder is to see it: scaled, 0 in missing regions.
    """

    def features(recordings: Recordings) -> NDArray[np.float32]:
        return encoder_features(encoder, recordings, read, pooling=pooling, device=fold.device)

    return fit_linear(replace(fold, inputs=features(fold.inputs), test_inputs=features(fold.test_inputs)))


@torch.no_grad()
def encoder_features(
    encoder: Encoder, recordings: Recordings, read: ReadSeries, *, pooling: Pooling, device: str
) -> NDArray[np.float32]:
    """(n_participants, F): pooled tokens; NaN where all series of a participant lack what they are of."""
    network_R = None
    if pooling in BY_NETWORK:
        network_R = torch.from_numpy(network_numbers(recordings.reader.rois["network17"])).to(device)
    windows = window_samples(recordings, read, n_frames=encoder.config.n_frames)
    encoder = encoder.to(device).eval()
    found = []
    for start in range(0, len(windows), BATCH_SIZE):
        numbers = np.arange(start, min(start + BATCH_SIZE, len(windows)))
        x_BRL, present_BR, t_r_B = (part.to(device) for part in windows.read(numbers))
        tokens_BRTD = tokens_on_grid(encoder, x_BRL, present_BR, t_r_B)
        found.append(pool(tokens_BRTD, pooling, present_BR=present_BR, network_R=network_R).cpu())
    n_windows = recordings.reader.series_length[recordings.numbers] // encoder.config.n_frames
    series = np.repeat(np.arange(len(n_windows)), n_windows)  # (n,) of each window its series
    by_series = mean_by_owner(torch.cat(found).numpy(), series, len(n_windows))
    return mean_by_owner(by_series, recordings.participant, len(recordings))
