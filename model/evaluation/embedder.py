"""Embedder: one vector per scan, the mean over the target encoder's tokens.

Order of operations, per series:
  1. cut into consecutive windows of n_frames; frames left over at the end (fewer than n_frames) are not used
  2. target encoder, without gradients, windows of all series batched together: tokens (N, D) per window;
     regions that are missing in a series have none
  3. mean over the tokens, then mean over the windows of the series

Legend: T frames, R regions, B windows in a batch, N tokens, D embed_dim.
Source: mean pooling as in Dong et al. 2024, "Brain-JEPA", arXiv:2409.19407, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from bjepa.model.tokens import pad
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

    def transform(
        self,
        X: Iterable[NDArray[np.floating[Any]]],
        *,
        t_r: Sequence[float] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings (n_series, D) float32 of series (T, R), each scaled as the model's training data were.

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
        sums: list[NDArray[np.float64]] = []  # per series, (D,)
        counts: list[int] = []
        was_training = encoder.training
        encoder.eval()  # no dropout
        try:
            for numbers, windows in self._batches(X):
                x_BRT = torch.from_numpy(windows).to(device).transpose(1, 2)
                index = None if valid is None else self._tokens_of(valid[numbers]).to(device)
                seconds = None if t_r is None else torch.tensor([t_r[i] for i in numbers], device=device)
                with torch.no_grad():
                    tokens_BND = encoder(x_BRT.contiguous(), index, t_r=seconds)
                    n_tokens = tokens_BND.shape[1] if index is None else (index >= 0).sum(dim=1)[:, None]
                    pooled_BD = (tokens_BND.sum(dim=1) / n_tokens).cpu().numpy()  # padding is 0
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

    def _tokens_of(self, valid_BR: NDArray[np.bool_]) -> torch.Tensor:
        """Numbers of the tokens of the valid regions, (B, K) int64 padded with -1."""
        token_of_N = np.repeat(valid_BR, self.model.config.n_patches, axis=1)  # (B, N)
        return pad([torch.from_numpy(np.flatnonzero(row)) for row in token_of_N])

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
