"""All whole windows of participants' series, as samples of a network that reads them like the encoder.

The windows of a series follow each other from its first frame; frames left over at its end are not used.
A sample is (x, present, t_r): x (B, R, L) float32, present (B, R) bool, t_r (B,) float32 in seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.recordings import Recordings
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.model_scaling import ReadSeries
from bjepa.model.tokens import pad
from bjepa.preproc.errors import InputError

KEPT_BYTES = 2**30  # series that stay in memory once they are read and scaled, of one part of a fold


def window_samples(
    recordings: Recordings, read: ReadSeries, *, n_frames: int, target: NDArray[Any] | None = None
) -> Samples:
    """The windows, participant by participant.

    Raises InputError where a participant has no series of `n_frames` frames.
    """
    reader = recordings.reader
    numbers = recordings.numbers
    n_windows = reader.series_length[numbers] // n_frames
    series = np.repeat(numbers, n_windows)  # (n,) of each window its series
    start = np.concatenate([np.arange(n) * n_frames for n in n_windows] or [np.empty(0, np.int64)])
    owner = np.repeat(recordings.participant, n_windows)
    without = np.setdiff1d(np.arange(len(recordings)), owner)
    if len(without):
        raise InputError(
            f"{len(without)} of {len(recordings)} participants have no series of {n_frames} frames or more.",
            hint="Leave them out, or use a model with a smaller model.n_frames.",
        )
    series_of = _Kept(read, recordings)

    def of(samples: NDArray[np.int64]) -> tuple[Tensor, ...]:
        scans = reader.series_scan[series[samples]]
        windows = [series_of(int(series[s]))[start[s] : start[s] + n_frames].T for s in samples]
        return (
            torch.from_numpy(np.stack(windows).astype(np.float32, copy=False)),
            torch.from_numpy(reader.valid[scans]),
            torch.tensor([float(reader.scans["t_r_out"][scan]) for scan in scans]),
        )

    return Samples(read=of, participant=owner, n_participants=len(recordings), target=target)


def token_index(present_BR: Tensor, *, n_patches: int) -> Tensor | None:
    """Numbers of the tokens that exist, (B, K) int64 padded with -1; None where all do."""
    if bool(present_BR.all()):
        return None
    token_BN = present_BR.repeat_interleave(n_patches, dim=1)
    return pad([row.nonzero().flatten() for row in token_BN])


def tokens_on_grid(encoder: Encoder, x_BRL: Tensor, present_BR: Tensor, t_r_B: Tensor | None) -> Tensor:
    """(B, R, T, D) tokens; zeros where a region is missing, which took no part."""
    B, R = present_BR.shape
    T = x_BRL.shape[2] // encoder.config.patch_size
    index = token_index(present_BR, n_patches=T)
    tokens: Tensor = encoder(x_BRL, index, t_r=t_r_B)
    if index is None:
        return tokens.view(B, R, T, -1)
    grid = tokens.new_zeros(B, R * T, tokens.shape[-1])
    listed = index >= 0
    scan = torch.arange(B, device=index.device)[:, None].expand_as(index)
    grid = grid.index_put((scan[listed], index[listed]), tokens[listed])
    return grid.view(B, R, T, -1)


class _Kept:
    """Series by number, kept in memory where all of them fit into KEPT_BYTES."""

    def __init__(self, read: ReadSeries, recordings: Recordings) -> None:
        self.read = read
        n_frames = int(recordings.reader.series_length[recordings.numbers].sum())
        self.keeps = n_frames * recordings.n_rois * 4 <= KEPT_BYTES
        self.kept: dict[int, NDArray[np.float32]] = {}

    def __call__(self, number: int) -> NDArray[np.float32]:
        if number in self.kept:
            return self.kept[number]
        series = self.read(number)
        if self.keeps:
            self.kept[number] = series
        return series
