"""Confounds, filters and censoring, keeping each region's mean.

Order of operations, at the scan's own t_r and before any resampling:
  1. drop the initial frames (`--drop-initial`; `auto` = fMRIPrep's non-steady-state frames)
  2. set censored frames aside: those before the first and after the last kept one leave the span that is
     cleaned; within it, where there is a filter, they are bridged by a cubic spline through the kept ones
  3. detrend (linear) and filter series and confounds alike (Butterworth of order 5, forwards and
     backwards), so that filter and regression stay orthogonal (Lindquist et al. 2019, doi:10.1002/hbm.24528)
  4. regress the confounds out of the kept frames only
  5. add the mean of each region's kept frames back: cleaning removes variance, not the mean
  6. fill the censored frames on the line between their kept neighbours (at the ends: as the nearest kept one)
     and mark them: time stays regular, which striding and the model need, and the marks tell what is real
With neither confounds nor filter, steps 3 and 4 do nothing at all: no detrending either.

Without censored frames this is nilearn.signal.clean (0.14.1) and the mean. With them it differs:
  - nilearn takes `~sample_mask` of frame *numbers*, which counts from the other end: where a censored frame
    and its mirror image both are censored, their spikes reach the filter (45 of 50 random masks of 20 %);
    frames censored at both ends shift the result. Here nothing in a censored frame reaches any other frame
  - without a filter it closes the gaps before it detrends, so that a straight drift is no longer straight;
    here the trend is one in time (as when every censored frame has a regressor of its own)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.confounds import Confounds, confounds_beside, load_confounds
from bjepa.preproc.errors import InputError

__all__ = [
    "Cleaned",
    "CleaningOptions",
    "Confounds",
    "clean_timeseries",
    "confounds_beside",
    "load_confounds",
    "normalise_mean",
    "plan_cleaning",
]

GRAND_MEAN = 10_000.0  # as FSL and SPM users expect
MIN_MEAN_OVER_SD = 2.0  # regional means of BOLD intensities are 50 to 500 standard deviations
FEW_DEGREES = 10  # degrees of freedom, and
FEW_DEGREES_SHARE = 0.1  # of the kept frames: with fewer left there is a warning


@dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """confounds: as strategies.parse_strategy gives it; high_pass, low_pass: Hz, slower / faster is removed;
    drop_initial: frames, or "auto" = the non-steady-state frames that fMRIPrep found."""

    confounds: str | dict[str, Any] = "none"
    high_pass: float | None = None
    low_pass: float | None = None
    drop_initial: int | str = 0

    def __post_init__(self) -> None:
        drop = self.drop_initial
        if drop != "auto" and (isinstance(drop, bool) or not isinstance(drop, int) or drop < 0):
            raise InputError(f"--drop-initial must be a number of frames from 0 or 'auto', got {drop!r}.")
        if self.high_pass is not None and self.low_pass is not None and self.high_pass >= self.low_pass:
            raise InputError(
                f"--high-pass {self.high_pass:g} Hz is not below --low-pass {self.low_pass:g} Hz: "
                "nothing lies between.",
                hint="--high-pass removes what is slower, --low-pass what is faster.",
            )


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A cleaned scan.

    timeseries: (n_frames - n_dropped, n_rois) float32; censored: (n_frames - n_dropped,) True = filled by
    interpolation; n_degrees: degrees of freedom left, estimated where there is a filter; warnings: sentences.
    """

    timeseries: NDArray[np.float32]
    censored: NDArray[np.bool_]
    n_dropped: int
    n_degrees: float
    warnings: tuple[str, ...] = ()


def clean_timeseries(
    timeseries: NDArray[np.float32], confounds: Confounds, options: CleaningOptions, *, t_r: float
) -> Cleaned:
    """Clean the series (n_frames, n_rois) of one scan at `t_r` s, in the order above.

    Columns that hold NaN (in any kept frame) are NaN. Raises InputError where confounds and frames do not
    fit each other, where an edge of the filter is not below half the frame rate, and where nothing is left.
    """
    n_dropped = _n_dropped(len(timeseries), confounds, options)
    series = timeseries[n_dropped:]
    keep = _kept(timeseries, confounds)[n_dropped:]
    if keep.sum() < 2:
        raise InputError(
            f"{keep.sum()} of {len(keep)} frames are kept, the others are censored.",
            hint="Choose higher thresholds or confounds without scrubbing, or leave the scan out.",
        )
    nuisance = None  # (n_frames - n_dropped, n_confounds)
    if confounds.values is not None and confounds.values.shape[1] > 0:
        nuisance = confounds.values.to_numpy(dtype=np.float64)[n_dropped:]
    filtering = options.high_pass is not None or options.low_pass is not None
    _check_edges(options, t_r)

    present = np.isfinite(series[keep]).all(axis=0)  # (n_rois,)
    cleaned = np.full(series.shape, np.nan)  # float64 until the end
    cleaned[:, present] = series[:, present]
    n_degrees = float(keep.sum())
    if nuisance is not None or filtering:
        kept = np.flatnonzero(keep)
        span = slice(kept[0], kept[-1] + 1)
        n_degrees = _degrees_left(nuisance, keep, options, t_r)
        residual = _filter_and_regress(
            cleaned[span, present], None if nuisance is None else nuisance[span], keep[span], options, t_r
        )  # (n_kept, n_present)
        mean = cleaned[kept][:, present].mean(axis=0)
        cleaned[np.ix_(kept, present)] = residual - residual.mean(axis=0) + mean
    _fill(cleaned, keep)
    warnings = tuple(_warnings(confounds, options, n_degrees, int(keep.sum())))
    return Cleaned(cleaned.astype(np.float32), ~keep, n_dropped, n_degrees, warnings)


def plan_cleaning(n_frames: int, confounds: Confounds, options: CleaningOptions, *, t_r: float) -> Cleaned:
    """What cleaning makes of any scan of `n_frames` frames, refused as there; its series is made up.

    One region of noise is cleaned: that takes milliseconds and cannot differ from what is done to a scan.
    """
    made_up = np.random.default_rng(0).normal(size=(n_frames, 1)).astype(np.float32)
    return clean_timeseries(made_up, confounds, options, t_r=t_r)


def normalise_mean(
    timeseries: NDArray[np.float32],
    *,
    sample_mask: NDArray[np.bool_] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """The series (n_frames, n_rois) times one factor that makes its grand mean 10,000; and the factor.

    The grand mean is the median over regions of their means over time: FSL's is the median over the voxels
    of the brain, and a median does not follow a few badly covered regions. `sample_mask` (n_frames,): the
    frames that count; `valid` (n_rois,): the regions that count; those with NaN never do. To be applied
    before cleaning. Raises InputError for data without a positive mean, such as already demeaned ones.
    """
    used = timeseries if sample_mask is None else timeseries[sample_mask]
    used = used[:, np.isfinite(used).all(axis=0) & (True if valid is None else valid)].astype(np.float64)
    if used.size == 0:
        raise InputError("--normalise-mean: no region is there in every frame.")
    mean = float(np.median(used.mean(axis=0)))
    deviation = float(np.median(used.std(axis=0)))
    if mean <= MIN_MEAN_OVER_SD * deviation:
        raise InputError(
            f"--normalise-mean needs image intensities: the median region has mean {mean:.4g} and standard "
            f"deviation {deviation:.4g} over time.",
            hint="These series look demeaned or z-scored already: leave --normalise-mean out.",
        )
    factor = GRAND_MEAN / mean
    return (timeseries * np.float64(factor)).astype(np.float32), factor


def _n_dropped(n_frames: int, confounds: Confounds, options: CleaningOptions) -> int:
    if options.drop_initial == "auto":
        if confounds.n_non_steady is None:
            raise InputError(
                "--drop-initial auto counts the non-steady-state frames in fMRIPrep's confounds; "
                "there are none beside this scan.",
                hint="Give a number of frames.",
            )
        n_dropped = confounds.n_non_steady
    else:
        n_dropped = int(options.drop_initial)
    if n_frames - n_dropped < 2:
        raise InputError(f"--drop-initial {n_dropped} leaves {n_frames - n_dropped} of {n_frames} frames.")
    return n_dropped


def _kept(timeseries: NDArray[np.float32], confounds: Confounds) -> NDArray[np.bool_]:
    """(n_frames,) True = kept; confounds of another length are refused."""
    n_frames = len(timeseries)
    for given in (confounds.values, confounds.sample_mask):
        if given is not None and len(given) != n_frames:
            raise InputError(
                f"the confounds have {len(given)} rows, the image {n_frames} frames.",
                hint="Give the confounds of the same run.",
            )
    return np.ones(n_frames, dtype=bool) if confounds.sample_mask is None else confounds.sample_mask


def _check_edges(options: CleaningOptions, t_r: float) -> None:
    nyquist = 0.5 / t_r
    for name, edge in (("--high-pass", options.high_pass), ("--low-pass", options.low_pass)):
        if edge is not None and not 0 < edge < nyquist:
            raise InputError(f"{name} must be in (0, {nyquist:.4g}) Hz at t_r {t_r:g} s, got {edge:g}.")


def _degrees_left(
    nuisance: NDArray[np.float64] | None, keep: NDArray[np.bool_], options: CleaningOptions, t_r: float
) -> float:
    """Degrees of freedom after filter and regression; nothing left is refused.

    A filter leaves its share of the band up to half the frame rate; regressors (filtered alike) take one each
    of what is left, mean and trend only where the filter has not already taken them.
    """
    n_kept = int(keep.sum())
    nyquist = 0.5 / t_r
    band = (options.low_pass or nyquist) - (options.high_pass or 0.0)
    design = np.linspace(-1, 1, len(keep))[:, None]
    if nuisance is not None:
        design = np.column_stack([design, nuisance])
    rank = _rank_with_mean(design[keep]) - (2 if options.high_pass is not None else 0)
    n_degrees = n_kept * band / nyquist - rank
    if n_degrees < 1:
        filtered = "" if band == nyquist else f", of which the filter leaves {n_kept * band / nyquist:.0f}"
        n_confounds = 0 if nuisance is None else nuisance.shape[1]
        raise InputError(
            f"{n_confounds} confounds, mean and trend explain all of {n_kept} frames"
            f"{'' if keep.all() else f' ({(~keep).sum()} more are censored)'}{filtered}: "
            "cleaning would leave nothing but rounding.",
            hint="Choose fewer confounds (--confounds), a wider band, or a longer run.",
        )
    return n_degrees


def _rank_with_mean(design: NDArray[np.float64]) -> int:
    """Dimensions that regression on design (n_frames, n_columns) and the mean removes."""
    scale = design.std(axis=0)
    varying = design[:, scale > 0] / scale[scale > 0]
    return int(np.linalg.matrix_rank(np.column_stack([np.ones(len(design)), varying - varying.mean(axis=0)])))


def _filter_and_regress(
    signals: NDArray[np.float64],
    nuisance: NDArray[np.float64] | None,
    keep: NDArray[np.bool_],
    options: CleaningOptions,
    t_r: float,
) -> NDArray[np.float64]:
    """Steps 2 to 4 on the span (n_frames, n_rois) from first to last kept frame: (n_kept, n_rois)."""
    from nilearn.signal import clean

    filtering = options.high_pass is not None or options.low_pass is not None
    regressors = nuisance
    if regressors is not None:  # what a filter leaves of a constant is rounding, nilearn would scale it up
        varying = regressors[keep].std(axis=0) > 1e-12 * np.abs(regressors[keep]).max(axis=0)
        regressors = regressors[:, varying] if varying.any() else None
    residual: NDArray[np.float64]
    if keep.all():
        band = {"high_pass": options.high_pass, "low_pass": options.low_pass, "t_r": t_r}
        with _too_short_is_told(len(keep)):
            residual = clean(signals, confounds=regressors, detrend=True, standardize=None, **band)
        return residual
    if filtering:
        signals = _filter(signals, keep, options, t_r)
        regressors = None if regressors is None else _filter(regressors, keep, options, t_r)
    else:
        trend = np.arange(len(keep), dtype=np.float64)[:, None]
        regressors = trend if regressors is None else np.column_stack([trend, regressors])
    if regressors is None:
        return signals[keep]
    residual = clean(signals[keep], confounds=regressors[keep], detrend=False, standardize=None, filter=False)
    return residual


def _filter(
    columns: NDArray[np.float64], keep: NDArray[np.bool_], options: CleaningOptions, t_r: float
) -> NDArray[np.float64]:
    """Bridge censored frames, detrend, band-pass; columns is (n_frames, n_columns)."""
    from nilearn.signal import butterworth
    from scipy.interpolate import CubicSpline
    from scipy.signal import detrend

    frames = np.arange(len(keep))
    columns = np.where(keep[:, None], columns, CubicSpline(frames[keep], columns[keep])(frames))
    with _too_short_is_told(len(keep)):
        filtered: NDArray[np.float64] = butterworth(
            detrend(columns, axis=0),
            sampling_rate=1 / t_r,
            low_pass=options.low_pass,
            high_pass=options.high_pass,
            copy=True,
        )
    return filtered


@contextmanager
def _too_short_is_told(n_frames: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # scipy: "The length of the input vector x must be greater than padlen"
        if "padlen" not in str(error):
            raise
        raise InputError(f"{n_frames} frames are too few for the filter ({error}).") from error


def _fill(series: NDArray[np.float64], keep: NDArray[np.bool_]) -> None:
    """Replace the frames that are not kept by the line between their kept neighbours, in place."""
    kept, gaps = np.flatnonzero(keep), np.flatnonzero(~keep)
    place = np.interp(gaps, kept, np.arange(len(kept)))  # among the kept frames; constant beyond the ends
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, len(kept) - 1)
    share = (place - before)[:, None]
    series[gaps] = (1 - share) * series[kept[before]] + share * series[kept[after]]


def _warnings(confounds: Confounds, options: CleaningOptions, n_degrees: float, n_kept: int) -> list[str]:
    found = []
    if n_degrees < min(n_kept, max(FEW_DEGREES, FEW_DEGREES_SHARE * n_kept)):
        found.append(
            f"cleaning leaves about {n_degrees:.0f} of {n_kept} degrees of freedom: connectivity from so few "
            "is mostly noise."
        )
    columns = [] if confounds.values is None else [str(c) for c in confounds.values.columns]
    if options.high_pass is not None and any(c.startswith("cosine") for c in columns):
        found.append(
            f"slow drifts are removed twice: by --high-pass {options.high_pass:g} Hz and by fMRIPrep's "
            "cosines among the confounds."
        )
    return found
