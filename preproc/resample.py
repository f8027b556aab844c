"""Bringing scans of different t_r to one: every s-th frame with all phases kept, or anti-aliased decimation.

`stride` (as the Brain-JEPA paper): s = max(1, round(target / t_r)); a scan of 490 frames at 0.735 s becomes
three series at 2.205 s, one for each phase, so that no frame is lost. There is no filter: what is faster than
half the new rate folds back into it. Filter with `--low-pass` (at the original t_r) where that matters.

`decimate`: one series at the target itself, through a low-pass filter that ends at half the new rate; the
output frame k is at k * target seconds after the first frame, and none lies beyond the last frame.

Neither ever makes more frames than there were: a scan slower than the target stays as it is.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

Resampling = Literal["stride", "decimate", "none"]
Phases = Literal["all", "first"]

TARGET_T_R = (0.05, 60.0)  # s
SAME_T_R = 1e-3  # relative: headers and sidecars round differently (float32, ms)
MAX_STRIDE = 127  # phases are int8 in a shard
FAR_FROM_TARGET = 0.15  # of the target: 3 x 0.735 s is 10 % off 2 s and usual; 2 x 0.8 s is 20 % off

# The low-pass filter of `decimate`, in units of the new half rate: flat to 0.8, 60 dB down at 1.0, so that
# nothing folds. Kaiser's formula for a width of 0.2: (60 - 7.95) / (2.285 * 0.2 pi * 2) = 18 frames a side.
_CUTOFF, _KAISER_BETA, _HALF_LENGTH = 0.9, 5.65, 18


@dataclass(frozen=True, kw_only=True)
class ResampleOptions:
    """target_t_r: s; how: one of Resampling; phases: of a strided scan, keep `all` or only the `first`."""

    target_t_r: float = 2.0
    how: Resampling = "stride"
    phases: Phases = "all"

    def __post_init__(self) -> None:
        low, high = TARGET_T_R
        if not low <= self.target_t_r <= high:
            raise InputError(f"--target-t-r must be {low:g} to {high:g} seconds, got {self.target_t_r:g}.")
        for option, value, allowed in (
            ("--resample", self.how, get_args(Resampling)),
            ("--phases", self.phases, get_args(Phases)),
        ):
            if value not in allowed:
                raise InputError(f"{option} must be one of {allowed}, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class ResamplePlan:
    """What one scan becomes.

    stride: every how many frames one is kept (1 under `decimate`); t_r_out: s between the frames of a stored
    series; n_frames_out: of the longest series; n_phases: series; warning: a sentence, or "".
    """

    stride: int
    t_r_out: float
    n_frames_out: int
    n_phases: int
    warning: str


def plan_resampling(t_r: float, n_frames: int, options: ResampleOptions) -> ResamplePlan:
    """What `resample_series` makes of a scan of `n_frames` frames, `t_r` s apart."""
    target = options.target_t_r
    slower = t_r > target * (1 + SAME_T_R) and options.how != "none"
    warning = ""
    if slower:
        warning = f"t_r {t_r:g} s is longer than the target of {target:g} s: kept as it is, never upsampled."
    if options.how == "decimate" and (ratio := _decimation(t_r, target)) is not None:
        return ResamplePlan(
            stride=1,
            t_r_out=t_r * ratio.denominator / ratio.numerator,
            n_frames_out=_n_decimated(n_frames, ratio),
            n_phases=1,
            warning=warning,
        )
    stride = stride_of(t_r, target, options.how)
    if stride > MAX_STRIDE:
        raise InputError(
            f"--target-t-r {target:g} s is {stride} times the t_r of {t_r:g} s; {MAX_STRIDE} are allowed.",
            hint="Check --t-r and --target-t-r (seconds).",
        )
    t_r_out = t_r * stride
    if options.how == "stride" and not slower and abs(t_r_out - target) > FAR_FROM_TARGET * target:
        warning = (
            f"a stride of {stride} makes t_r {t_r:g} s to {t_r_out:g} s, {abs(t_r_out / target - 1):.0%} off "
            f"the target of {target:g} s; --resample decimate meets it."
        )
    n_phases = min(stride, n_frames) if options.phases == "all" else 1
    return ResamplePlan(
        stride=stride,
        t_r_out=t_r_out,
        n_frames_out=-(-n_frames // stride),
        n_phases=n_phases,
        warning=warning,
    )


def resample_series(
    timeseries: NDArray[np.float32], censored: NDArray[np.bool_], t_r: float, options: ResampleOptions
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """The stored series of one scan, each with its marks of censored frames.

    `timeseries` is (n_frames, n_rois) at `t_r` s, `censored` (n_frames,). Missing regions (columns with NaN)
    are NaN in every series. A decimated frame is marked if a censored frame lies within half its t_r.
    """
    if options.how == "decimate":
        ratio = _decimation(t_r, options.target_t_r)
        return [(timeseries, censored) if ratio is None else _decimate(timeseries, censored, ratio)]
    stride = stride_of(t_r, options.target_t_r, options.how)
    phases = split_phases(timeseries, stride, options.phases)
    return [(phase, censored[start::stride]) for start, phase in enumerate(phases)]


def stride_of(t_r: float, target_t_r: float, how: Resampling) -> int:
    """Every how many frames one is kept; `t_r` and `target_t_r` in s."""
    return max(1, round(target_t_r / t_r)) if how == "stride" else 1


def split_phases(timeseries: NDArray[np.float32], stride: int, phases: Phases) -> list[NDArray[np.float32]]:
    """The series (n_frames, n_rois) as `stride` series of every `stride`-th frame, or only the first of them.

    Their lengths differ by at most one frame; together, `all` phases hold every frame once.
    """
    starts = range(stride) if phases == "all" else range(1)
    return [timeseries[start::stride] for start in starts if start < len(timeseries)]


def _decimation(t_r: float, target_t_r: float) -> Fraction | None:
    """t_r / target as a ratio of small integers (0.735 s to 2 s: 147/400); None: nothing to do.

    Denominators up to 1000 hold every t_r given in ms for a target in s; for others the spacing of the new
    frames is off by less than 1e-3 / 1000 of the ratio, below a frame in a million.
    """
    if t_r >= target_t_r * (1 - SAME_T_R):
        return None
    return Fraction(t_r / target_t_r).limit_denominator(1000)


def _n_decimated(n_frames: int, ratio: Fraction) -> int:
    """New frames from the first to at most the last old one."""
    return (n_frames - 1) * ratio.numerator // ratio.denominator + 1


def _decimate(
    timeseries: NDArray[np.float32], censored: NDArray[np.bool_], ratio: Fraction
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Band-limited interpolation at the new frames; `ratio` = old / new spacing, below 1."""
    from scipy.signal import firwin, resample_poly

    up, down = ratio.numerator, ratio.denominator
    n_in, n_out = len(timeseries), _n_decimated(len(timeseries), ratio)
    present = np.isfinite(timeseries).all(axis=0)  # (n_rois,)
    signals = timeseries[:, present].astype(np.float64)
    # The line from first to last frame is taken off and put back, so that a level of 10,000 or a drift does
    # not ring at the ends. scipy's own padtype="line" puts it back stretched to a whole number of
    # new frames: wrong by up to the drift of one new frame (scipy 1.17).
    slope = (signals[-1] - signals[0]) / max(n_in - 1, 1)  # (n_present,) per old frame
    first, line = signals[0], np.arange(n_in)[:, None] * slope
    # designed at the common rate of `up` points per old frame, where the new half rate is 1/down
    low_pass = firwin(2 * _HALF_LENGTH * down + 1, _CUTOFF / down, window=("kaiser", _KAISER_BETA))
    filtered = resample_poly(signals - first - line, up, down, axis=0, window=low_pass)[:n_out]
    decimated = np.full((n_out, timeseries.shape[1]), np.nan, dtype=np.float32)
    decimated[:, present] = filtered + first + np.arange(n_out)[:, None] * (down / up) * slope
    return decimated, _cover(censored, ratio, n_out)


def _cover(censored: NDArray[np.bool_], ratio: Fraction, n_out: int) -> NDArray[np.bool_]:
    """(n_out,) True where a censored frame lies within half a new frame; every censored frame marks one."""
    # new frame k is at k * down, old frame j at j * up, in units of t_r / up; integers: no rounding at ties
    frames = np.flatnonzero(censored) * ratio.numerator
    marked = np.zeros(n_out, dtype=bool)
    for toward in (0, -1):  # a frame exactly half-way marks both neighbours
        nearest = (2 * frames + ratio.denominator + toward) // (2 * ratio.denominator)
        marked[np.minimum(nearest, n_out - 1)] = True
    return marked
