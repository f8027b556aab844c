"""Embedder: one vector per scan, the mean over the target encoder's tokens.

Order of operations, per series:
  1. cut into consecutive windows of n_frames; frames left over at the end (fewer than n_frames) are not used
  2. target encoder, without gradients, windows of all series batched together: tokens (N, D) per window
  3. mean over the N tokens, then mean over the windows of the series

Legend: T frames, R regions, B windows in a batch, N tokens, D embed_dim.
Source: mean pooling as in Dong et al. 2024, "Brain-JEPA", arXiv:2409.19407, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

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
    batch_size : int
        Windows in one forward pass; changes speed and memory, not the result.
    device : str or None
        `cpu`, `cuda`, `mps`; None leaves the model where it is.
    """

    def __init__(self, model: JEPA, *, batch_size: int = 8, device: str | None = None) -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Iterable[NDArray[np.floating[Any]]], y: object = None) -> Embedder:
        """Learn nothing but the size of what `transform` gives: `n_features_out_`, D."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}.")
        self.n_features_out_ = int(self.model.config.embed_dim)
        return self

    def transform(self, X: Iterable[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
        """Embeddings (n_series, D) float32 of series (T, R), each scaled as the model's training data were.

        `X` is read once, one batch of windows at a time (a ShardReader will do).

        Raises
        ------
        InputError
            A series with fewer than n_frames frames, other regions than the model's, or non-finite values;
            named by its number, from 0.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        encoder = self.model.target_encoder
        if self.device is not None:
            self.model.to(self.device)
        device = next(encoder.parameters()).device
        sums: list[NDArray[np.float64]] = []  # per series, (D,)
        counts: list[int] = []
        was_training = encoder.training
        encoder.eval()  # no dropout
        try:
            for numbers, windows in self._batches(X):
                x_BRT = torch.from_numpy(windows).to(device).transpose(1, 2)
                with torch.no_grad():
                    pooled_BD = encoder(x_BRT.contiguous()).float().mean(dim=1).cpu().numpy()
                for number, pooled in zip(numbers, pooled_BD.astype(np.float64), strict=True):
                    if number == len(sums):
                        sums.append(np.zeros_like(pooled))
                        counts.append(0)
                    sums[number] += pooled
                    counts[number] += 1
        finally:
            encoder.train(was_training)
        if not sums:
            return np.empty((0, self.n_features_out_), dtype=np.float32)
        mean: NDArray[np.float64] = np.stack(sums) / np.array(counts)[:, None]  # (n_series, D)
        return mean.astype(np.float32)

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
