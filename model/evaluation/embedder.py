"""Embedder: one vector per scan, pooled from the target encoder's tokens; by default their mean.

Order of operations, per series:
  1. cut into consecutive windows of n_frames; frames left over at the end (fewer than n_frames) are not used
  2. target encoder, without gradients, windows of all series batched together: tokens (R, P, D) per window;
     regions that are missing in a series have none
  3. pooling of the tokens (model/readouts/pooling.py), then mean over the windows of the series

Legend: T frames, R regions, B windows in a batch, P patches, D embed_dim, F features of a vector.
Source: mean pooling as in Dong et al. 2024, "Brain-JEPA", arXiv:2409.19407, section 4.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from bjepa.model.readouts.pooling import (
    BY_NETWORK,
    Pooling,
    check_pooling,
    n_features,
    network_numbers,
    pool,
)
from bjepa.model.readouts.windows import tokens_on_grid
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.model import JEPA


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Series to embeddings, as a scikit-learn transformer; nothing is learned from the series.

    Parameters
    ----------
    model : JEPA
        Gives the windows' length (`model.config.n_frames`) and the target encoder. Its weights and its mode
        (training or evaluation) stay as they are; it is moved to `device` where that is given.
    pooling : str
        mean, network, region, region_pairs, network_pairs or network_log: see model/readouts/pooling.py.
    networks : (n_rois,) str, optional
        The network of each region, for poolings by network; default: network17 of the model's atlas table.
    batch_size : int
        Windows in one forward pass; changes speed and memory, not the result.
    device : str or None
        `cpu`, `cuda`, `mps`; None leaves the model where it is.
    """

    def __init__(
        self,
        model: JEPA,
        *,
        pooling: Pooling = "mean",
        networks: Sequence[str] | None = None,
        batch_size: int = 8,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.networks = networks
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Iterable[NDArray[np.floating[Any]]], y: object = None) -> Embedder:
        """Learn nothing but the size of what `transform` gives: `n_features_out_`, F.

        Raises InputError on a pooling that is none, or by networks that nobody names.
        """
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}.")
        config = self.model.config
        check_pooling(self.pooling, n_patches=config.n_patches)
        network_R = self._network_numbers()
        self.n_features_out_ = n_features(
            self.pooling,
            n_rois=config.n_rois,
            embed_dim=config.embed_dim,
            n_networks=0 if network_R is None else int(network_R.max()) + 1,
        )
        return self

    def transform(
        self,
        X: Iterable[NDArray[np.floating[Any]]],
        *,
        t_r: Sequence[float] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings (n_series, F) float32 of series (T, R), each scaled as the model's training data were.

        What is not known of a series (features, pairs of a missing region) is NaN; there is none with `mean`.

        A scan in its own units is scaled so by `model.about.scale(series)` (docs/sharing.md).
        `X` is read once, one batch of windows at a time (a ShardReader will do).

        Parameters
        ----------
        X
        t_r : (n_series,) seconds between frames, optional
            Needed by models with model.time_position = "seconds".
        valid : (n_series, R) bool, optional
            False where a region is missing in a series: it has no tokens, as in training.

        Raises
        ------
        InputError
            A series with fewer than n_frames frames, other regions than the model's, or non-finite values;
            named by its number, from 0. No `t_r` for a model that needs it.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        if t_r is None and self.model.config.time_position == "seconds":
            raise InputError(
                "The model counts time in seconds (model.time_position), but t_r was not given.",
                hint="Give t_r, the seconds between the frames of each series.",
            )
        encoder = self.model.target_encoder
        if self.device is not None:
            self.model.to(self.device)
        device = next(encoder.parameters()).device
        network_R = self._network_numbers()
        network = None if network_R is None else torch.from_numpy(network_R).to(device)
        sums: list[NDArray[np.float64]] = []  # per series, (F,)
        counts: list[NDArray[np.int64]] = []
        was_training = encoder.training
        encoder.eval()  # no dropout
        try:
            for numbers, windows in self._batches(X):
                x_BRT = torch.from_numpy(windows).to(device).transpose(1, 2)
                present = np.ones(x_BRT.shape[:2], dtype=bool) if valid is None else valid[numbers]
                present_BR = torch.from_numpy(present).to(device)
                seconds = None if t_r is None else torch.tensor([t_r[i] for i in numbers], device=device)
                with torch.no_grad():
                    tokens_BRPD = tokens_on_grid(encoder, x_BRT.contiguous(), present_BR, seconds)
                    pooled_BF = pool(tokens_BRPD, self.pooling, present_BR=present_BR, network_R=network)
                for number, one in zip(numbers, pooled_BF.cpu().numpy().astype(np.float64), strict=True):
                    if number == len(sums):
                        sums.append(np.zeros_like(one))
                        counts.append(np.zeros(one.shape, dtype=np.int64))
                    known = np.isfinite(one)
                    sums[number] += np.where(known, one, 0)
                    counts[number] += known
        finally:
            encoder.train(was_training)
        if not sums:
            return np.empty((0, self.n_features_out_), dtype=np.float32)
        total, count = np.stack(sums), np.stack(counts)  # (n_series, F)
        mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return mean.astype(np.float32)

    def _network_numbers(self) -> NDArray[np.int64] | None:
        """(R,) number of each region's network; None where the pooling needs none."""
        if self.pooling not in BY_NETWORK:
            return None
        names = self.networks if self.networks is not None else _networks_of(self.model)
        if names is None or len(set(names)) < 2:
            raise InputError(
                f"pooling {self.pooling!r} needs the network of each region, which "
                f"{'the model does not name' if names is None else 'is the same for all'}.",
                hint="Give `networks`, or take mean, region or region_pairs.",
            )
        if len(names) != self.model.config.n_rois:
            raise InputError(
                f"networks names {len(names)} regions, the model has {self.model.config.n_rois}."
            )
        return network_numbers(names)

    def _batches(
        self, series: Iterable[NDArray[np.floating[Any]]]
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Windows of all series in order, `batch_size` at a time: numbers of their series, (B, T, R)."""
        numbers: list[int] = []
        windows: list[NDArray[np.float32]] = []
        for number, one in enumerate(series):
            for window in self._windows(number, np.asarray(one, dtype=np.float32)):
                numbers.append(number)
                windows.append(window)
                if len(windows) == self.batch_size:
                    yield numbers, np.stack(windows)
                    numbers, windows = [], []
        if windows:
            yield numbers, np.stack(windows)

    def _windows(self, number: int, timeseries: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        n_frames, n_rois = int(self.model.config.n_frames), int(self.model.config.n_rois)
        if timeseries.ndim != 2 or timeseries.shape[1] != n_rois:
            raise InputError(
                f"Series {number} has shape {timeseries.shape}; (frames, {n_rois} regions) is needed.",
                hint="Give series of the atlas that the model was trained with, frames first.",
            )
        if len(timeseries) < n_frames:
            raise InputError(
                f"Series {number} has {len(timeseries)} frames; the model reads windows of {n_frames}.",
                hint="Leave the short scans out, or use a model with a smaller model.n_frames.",
            )
        if not np.isfinite(timeseries).all():
            raise InputError(
                f"Series {number} has {np.count_nonzero(~np.isfinite(timeseries))} non-finite values.",
                hint="Set the columns of missing regions to 0, as the shards do.",
            )
        for start in range(0, len(timeseries) - n_frames + 1, n_frames):
            yield timeseries[start : start + n_frames]

    @property
    def _n_features_out(self) -> int:  # scikit-learn's get_feature_names_out asks for it
        return self.n_features_out_


def _networks_of(model: JEPA) -> list[str] | None:
    """network17 of the model's atlas table, where it has one."""
    if model.about is None or model.about.atlas_table is None:
        return None
    rows = list(csv.DictReader(io.StringIO(model.about.atlas_table), delimiter="\t"))
    return [row["network17"] for row in rows] if rows and "network17" in rows[0] else None
