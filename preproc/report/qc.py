"""Quality of one scan in a few numbers, each with a unit and a bad side.

All come from the regional series and from what fMRIPrep or XCP-D measured: nothing reads the image again.
"Raw" is the series before cleaning, where the scanner and the head show; "cleaned" is what will be learnt
from. Frames that were censored (filled in) count for none of the numbers of the cleaned series.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FD_LIMIT = 0.5  # mm: a frame that moved more is called corrupted (Power et al. 2012, NeuroImage 59:2142)
_LEAST_FRAMES = 3  # fewer kept frames have no correlation


Side = Literal["high", "low", "both"]


@dataclass(frozen=True)
class Metric:
    """What a number means: `bad` is the side on which a scan is suspect, `least` the smallest difference
    from the cohort's median, in `unit`, that matters to anybody, however alike the other scans are."""

    name: str
    title: str
    unit: str
    bad: Side
    least: float
    digits: int
    what: str


METRICS = (
    Metric("fd_mean", "FD, mean", "mm", "high", 0.05, 2, "mean framewise displacement"),
    Metric("fd_max", "FD, largest", "mm", "high", 0.5, 2, "largest framewise displacement"),
    Metric("fd_above_05", "FD above 0.5 mm", "share", "high", 0.05, 2, "share of frames that moved more"),
    Metric("dvars_mean", "DVARS, mean", "", "high", 0.1, 2, "mean standardised DVARS of the voxels"),
    Metric("tsnr_median", "tSNR", "", "low", 0, 0, "mean over SD in time of the raw series, median region"),
    Metric("coverage_min", "Coverage, lowest", "share", "low", 0.05, 2, "coverage of the worst region"),
    Metric("coverage_mean", "Coverage, mean", "share", "low", 0.01, 3, "mean coverage of the regions"),
    Metric("n_missing_rois", "Missing regions", "regions", "high", 1, 0, "regions that were left out"),
    Metric("n_spikes", "Spikes", "frames", "high", 5, 0, "jumps of the raw series above P75 + 1.5 IQR"),
    Metric("spike_share", "Spikes, share", "share", "high", 0.02, 3, "spikes over all changes of frame"),
    Metric("n_censored", "Censored frames", "frames", "high", 5, 0, "frames censored and filled in"),
    Metric("minutes_kept", "Minutes kept", "min", "low", 0.5, 1, "of the cleaned series, without censored"),
    Metric("global_sd", "Global signal, SD", "%", "high", 0.05, 2, "SD of the mean of all regions"),
    Metric("fc_mean", "FC, mean", "r", "both", 0.05, 2, "mean correlation of two regions"),
    Metric("lag1", "Lag-1 autocorrelation", "r", "both", 0.05, 2, "of the cleaned series, median region"),
)


def scan_qc(
    raw: NDArray[np.float32],
    cleaned: NDArray[np.float32],
    *,
    fd: NDArray[np.float64] | None,
    dvars: NDArray[np.float64] | None,
    coverage: NDArray[np.float64],
    missing: NDArray[np.bool_],
    t_r: float,
    censored: NDArray[np.bool_] | None,
) -> dict[str, float | int | None]:
    """The numbers of METRICS for one scan; None where one cannot be known. All finite, so JSON takes them.

    Parameters
    ----------
    raw : (T, R) regional means before cleaning, in the scan's units
    cleaned : (T', R) as stored; T' < T where initial frames were dropped; NaN in missing regions
    fd, dvars : (T,) framewise displacement in mm and standardised DVARS of fMRIPrep; NaN in the first frame
    coverage, missing : (R,)
    t_r : s
    censored : (T',) True where a frame was filled in; None: scrubbing was not asked for
    """
    kept = np.ones(len(cleaned), dtype=bool) if censored is None else ~censored
    jumps = regional_dvars(raw[:, ~missing])  # (T - 1,)
    n_spikes = int((jumps > spike_limit(jumps)).sum()) if len(jumps) else None
    clean = cleaned[:, ~missing].astype(np.float64)  # (T', n_present)
    numbers: dict[str, float | int | None] = {
        "fd_mean": _mean(fd),
        "fd_max": None if fd is None or np.isnan(fd).all() else float(np.nanmax(fd)),
        "fd_above_05": None if fd is None else _mean(np.where(np.isnan(fd), np.nan, fd > FD_LIMIT)),
        "dvars_mean": _mean(dvars),
        "tsnr_median": _tsnr(raw),
        "coverage_min": float(coverage.min()),
        "coverage_mean": float(coverage.mean()),
        "n_missing_rois": int(missing.sum()),
        "n_spikes": n_spikes,
        "spike_share": None if n_spikes is None else n_spikes / len(jumps),
        "n_censored": None if censored is None else int(censored.sum()),
        "minutes_kept": float(kept.sum() * t_r / 60),
        "global_sd": _global_sd(clean[kept]),
        "fc_mean": _mean_fc(clean[kept]),
        "lag1": _lag1(clean, kept),
    }
    return {name: value if _is_known(value) else None for name, value in numbers.items()}


def regional_dvars(raw: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T - 1,) root mean square over regions of the change to the next frame, each region in its own SD."""
    if len(raw) < 2 or raw.shape[1] == 0:
        return np.empty(0)
    series = raw.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.diff(series, axis=0) / series.std(axis=0)
    scaled = scaled[:, np.isfinite(scaled).all(axis=0)]
    if scaled.shape[1] == 0:
        return np.empty(0)
    return np.asarray(np.sqrt((scaled**2).mean(axis=1)))


def spike_limit(jumps: NDArray[np.float64]) -> float:
    """P75 + 1.5 IQR of a scan's own jumps: the rule of FSL's `fsl_motion_outliers`, free of any unit."""
    low, high = np.percentile(jumps, [25, 75])
    return float(high + 1.5 * (high - low))


def _tsnr(raw: NDArray[np.float32]) -> float | None:
    """Median over regions of mean / standard deviation of the uncleaned regional series."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = raw.mean(axis=0, dtype=np.float64) / raw.std(axis=0, dtype=np.float64)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else None


def _global_sd(kept: NDArray[np.float64]) -> float | None:
    """In % of the level; a series without a level (z-scored or demeaned tables) has none."""
    if kept.size == 0:
        return None
    whole = kept.mean(axis=1)
    level, spread = abs(float(whole.mean())), float(whole.std())
    return 100 * spread / level if level > spread else None


def _mean_fc(kept: NDArray[np.float64]) -> float | None:
    """Mean of all off-diagonal correlations: from the variance of the sum of standardised series."""
    n_frames, n_rois = kept.shape
    if n_frames < _LEAST_FRAMES or n_rois < 2:
        return None
    centred = kept - kept.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    if not norm.all():
        return None
    total = float((((centred / norm).sum(axis=1)) ** 2).sum())  # the sum of all R x R correlations
    return float((total - n_rois) / (n_rois * (n_rois - 1)))


def _lag1(clean: NDArray[np.float64], kept: NDArray[np.bool_]) -> float | None:
    """Median over regions; only pairs of neighbours that were both kept."""
    pairs = kept[:-1] & kept[1:]
    if pairs.sum() < _LEAST_FRAMES or clean.shape[1] == 0:
        return None
    centred = clean - clean[kept].mean(axis=0)
    variance = (centred[kept] ** 2).mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        lag = (centred[:-1][pairs] * centred[1:][pairs]).mean(axis=0) / variance
    return float(np.nanmedian(lag)) if np.isfinite(lag).any() else None


def _mean(values: NDArray[np.float64] | None) -> float | None:
    return None if values is None or np.isnan(values).all() else float(np.nanmean(values))


def _is_known(value: float | int | None) -> bool:
    return value is not None and bool(np.isfinite(value))
