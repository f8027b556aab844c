"""Series of a scan made ready for correlation: each region centred and of length 1.

Order of operations, in float64:
  1. centre      subtract a region's mean over frames
  2. normalise   divide by the root of its sum of squares, so that r = X'X
  3. missing     a region that is constant, or NaN in every frame; its column is 0

T frames, R regions.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.scans import MIN_FRAMES
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
_ROUNDING = 1e-10  # a constant leaves at most T * 2e-16 of its level after centring


def unit_series(
    timeseries: ArrayLike, *, where: str = "timeseries", out: Array | None = None
) -> tuple[Array, NDArray[np.bool_]]:
    """Centred series of length 1, and which regions are missing.

    Parameters
    ----------
    timeseries : (T, R), any units; not modified
    where : names the series in messages
    out : (T, R) float64 to write to, or None for a new array

    Returns
    -------
    (T, R) float64, unitless; (R,) bool, True where a region is missing.

    Raises
    ------
    InputError
        Not 2-D; fewer than MIN_FRAMES frames or 2 regions; a value that is not finite.
    """
    series = np.asarray(timeseries)  # (T, R)
    if series.ndim != 2 or series.shape[0] < MIN_FRAMES or series.shape[1] < 2:
        raise InputError(
            f"{where} must be (frames, regions) with at least {MIN_FRAMES} frames and 2 regions, "
            f"got shape {series.shape}."
        )
    unit = np.empty(series.shape) if out is None else out
    unit[:] = series
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = np.full(len(unit), 1 / len(unit)) @ unit  # (R,)
        unit -= mean
        squares = np.einsum("tr,tr->r", unit, unit)
        varies = squares > len(unit) * (_ROUNDING * mean) ** 2  # False where a value is NaN or infinite
    missing = np.zeros(len(mean), dtype=bool)
    if not varies.all():
        doubtful = np.flatnonzero(~varies)
        missing[doubtful] = _without_signal(series[:, doubtful], doubtful, where)
        missing |= squares == 0  # varies by less than float64 can square
        unit[:, missing] = 0.0
        squares[missing] = 1.0
    unit *= 1 / np.sqrt(squares)
    return unit, missing


def check_same_regions(n_rois: int, n_before: int, where: str) -> None:
    """Refuse a scan that has other regions than those before it."""
    if n_rois != n_before:
        raise InputError(
            f"{where} has {n_rois} regions, the scans before it {n_before}.",
            hint="All scans need the same regions in the same order, one per column; frames are rows.",
        )


def _without_signal(
    columns: NDArray[np.floating], regions: NDArray[np.intp], where: str
) -> NDArray[np.bool_]:
    """Which columns are NaN in every frame, or constant; refuses other values that are not finite."""
    absent = np.isnan(columns).all(axis=0)
    finite = np.isfinite(columns)
    if not (finite.all(axis=0) | absent).all():
        column = int(np.flatnonzero(~finite.all(axis=0) & ~absent)[0])
        frame = int(np.flatnonzero(~finite[:, column])[0])
        raise InputError(
            f"{where} has a non-finite value in region {regions[column] + 1}, frame {frame + 1} "
            "(counted from 1).",
            hint="Drop such frames; a region without signal must be NaN in every frame.",
        )
    without: NDArray[np.bool_] = absent | (columns == columns[0]).all(axis=0)
    return without
