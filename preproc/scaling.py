"""Robust scaling: per region, subtract the median and divide by the interquartile range of all frames.

Fitted on the frames of all scans of the participants that are named for it (nobody else's, so that nothing
leaks), applied to everyone, stored beside the data and invertible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

ScalingMethod = Literal["robust", "none"]

# An IQR below this share of the median is float32 rounding, not signal.
VANISHING = 1e-6
_BLOCK_BYTES = 256 << 20  # frames of a block of regions held at once while quantiles are computed


@dataclass(frozen=True)
class Scaling:
    """median, iqr : (n_rois,) float64 in the units of the scans."""

    method: ScalingMethod
    median: NDArray[np.float64]
    iqr: NDArray[np.float64]

    def apply(self, timeseries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_frames, n_rois) float32, scaled."""
        scaled: NDArray[np.float32] = ((timeseries - self.median) / self.iqr).astype(np.float32)
        return scaled


def fit_scaling(
    scans: Sequence[tuple[NDArray[np.bool_], int]],
    read: Callable[[int, slice], NDArray[np.float32]],
    names: Sequence[str],
    method: ScalingMethod,
) -> Scaling:
    """Fit the scaling; the quantiles are exact.

    Parameters
    ----------
    scans : for each scan its valid regions (n_rois,) and number of frames
    read : `read(i, columns)` gives the frames (n_frames, n_columns) of scan i for a slice of regions
    names : (n_rois,) names of the regions, for messages

    Raises
    ------
    InputError
        A region that does not vary over all frames (its IQR is zero or mere rounding).

    A region that is missing in every scan gets median 0 and IQR 1.
    """
    n_rois = len(names)
    median, iqr = np.zeros(n_rois), np.ones(n_rois)
    if method == "none":
        return Scaling(method, median, iqr)
    n_frames = sum(n for _, n in scans)
    width = max(1, _BLOCK_BYTES // (4 * max(1, n_frames)))
    for first in range(0, n_rois, width):
        columns = slice(first, min(first + width, n_rois))
        frames = [_hide_missing(read(i, columns), valid[columns]) for i, (valid, _) in enumerate(scans)]
        pooled = np.concatenate(frames)  # (n_frames of all scans, n_columns), NaN where missing
        for offset in range(pooled.shape[1]):
            values = pooled[:, offset]
            values = values[~np.isnan(values)].astype(np.float64)
            if len(values):
                low, median[first + offset], high = np.percentile(values, [25, 50, 75])
                iqr[first + offset] = high - low
    flat = np.flatnonzero(iqr <= VANISHING * np.abs(median))
    if len(flat):
        told = [names[i] for i in flat[:10]]
        raise InputError(
            f"{len(flat)} regions do not vary over the frames that fit the scaling (IQR 0): {told}"
            f"{' …' if len(flat) > 10 else ''}.",
            hint="Check the scans and their mask, or use --scaling none.",
        )
    return Scaling(method, median, iqr)


def _hide_missing(frames: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    hidden: NDArray[np.float32] = np.where(valid, frames, np.float32(np.nan))
    return hidden
