"""preproc/resample.py: what stride and decimation do to frames, marks and frequencies."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError
from bjepa.preproc.resample import (
    ResampleOptions,
    ResamplePlan,
    plan_resampling,
    resample_series,
    split_phases,
    stride_of,
)

T, R = 140, 5  # frames, regions
STRIDE, DECIMATE, NONE = (ResampleOptions(how=how) for how in ("stride", "decimate", "none"))


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


@pytest.fixture
def censored() -> np.ndarray:
    censored = np.random.default_rng(1).random(T) < 0.15
    censored.flags.writeable = False
    return censored


def _sine(hz: float, t_r: float, n_frames: int) -> np.ndarray:
    """(n_frames, 1): one region around a level of 10,000."""
    wave: np.ndarray = 10_000 + 100 * np.sin(2 * np.pi * hz * np.arange(n_frames) * t_r + 0.3)
    return wave[:, None].astype(np.float32)


def _amplitude(signal: np.ndarray, hz: float, t_r: float) -> tuple[float, float]:
    """Amplitude and phase of the sine of `hz` that fits (n_frames,) best, away from the ends."""
    inside = slice(20, -20)
    angle = 2 * np.pi * hz * np.arange(len(signal))[inside] * t_r
    design = np.column_stack([np.sin(angle), np.cos(angle), np.ones(len(angle))])
    sine, cosine, _ = np.linalg.lstsq(design, signal[inside].astype(float), rcond=None)[0]
    return float(np.hypot(sine, cosine)), float(np.arctan2(cosine, sine))


def _resampled(signal: np.ndarray, t_r: float, options: ResampleOptions) -> list[np.ndarray]:
    none = np.zeros(len(signal), dtype=bool)
    return [series for series, _ in resample_series(signal, none, t_r, options)]


# --- stride -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t_r", "stride"), [(0.735, 3), (2.0, 1), (0.72, 3), (3.0, 1), (0.5, 4)])
def test_stride(t_r: float, stride: int) -> None:
    assert stride_of(t_r, 2.0, "stride") == stride and stride_of(t_r, 2.0, "none") == 1


def test_law_phases_hold_every_frame_and_mark_once(series: np.ndarray, censored: np.ndarray) -> None:
    phases = resample_series(series, censored, 0.735, STRIDE)
    assert [len(s) for s, _ in phases] == [len(c) for _, c in phases] == [47, 47, 46]
    woven, marks = np.empty_like(series), np.empty_like(censored)
    for start, (phase, phase_censored) in enumerate(phases):
        woven[start::3], marks[start::3] = phase, phase_censored
    assert_array_equal(woven, series)
    assert_array_equal(marks, censored)
    first = resample_series(series, censored, 0.735, ResampleOptions(phases="first"))
    assert len(first) == 1
    assert_array_equal(first[0][0], series[::3])
    assert_array_equal(first[0][1], censored[::3])
    assert_array_equal(split_phases(series, 3, "first")[0], series[::3])


def test_a_series_shorter_than_the_stride(series: np.ndarray) -> None:
    assert [len(s) for s in split_phases(series[:2], 3, "all")] == [1, 1]
    assert plan_resampling(0.735, 2, STRIDE).n_phases == 2


# --- decimation ---------------------------------------------------------------------------------------------


def test_stride_folds_a_fast_sine_and_decimation_removes_it() -> None:
    t_r, hz = 0.735, 0.6  # breathing and the like; the new half rate is 0.227 Hz (stride) and 0.25 Hz
    fast = _sine(hz, t_r, 490)
    strided = _resampled(fast, t_r, STRIDE)
    folded = abs(hz - 1 / (3 * t_r))  # 0.146 Hz: in the middle of what is then taken for brain signal
    for phase in strided:
        assert _amplitude(phase[:, 0], folded, 3 * t_r)[0] == pytest.approx(100, rel=0.01)
    (decimated,) = _resampled(fast, t_r, DECIMATE)
    assert np.abs(decimated[20:-20, 0] - 10_000).max() < 1  # of 100
    assert np.abs(decimated[:, 0] - 10_000).max() < 25  # the ends, where the filter sees half a window


@pytest.mark.parametrize("hz", [0.01, 0.08, 0.19])
def test_a_slow_sine_survives_decimation(hz: float) -> None:
    (decimated,) = _resampled(_sine(hz, 0.735, 490), 0.735, DECIMATE)
    amplitude, phase = _amplitude(decimated[:, 0], hz, 2.0)
    assert amplitude == pytest.approx(100, rel=0.01) and phase == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("hz", [0.25, 0.27, 0.33, 0.5, 0.67])
def test_nothing_above_the_new_half_rate_survives_decimation(hz: float) -> None:
    (decimated,) = _resampled(_sine(hz, 0.735, 490), 0.735, DECIMATE)
    assert decimated[20:-20].std() < 0.15  # of 71: 54 dB down


@pytest.mark.parametrize("t_r", [0.735, 0.8, 1.4, 0.7350000143, 1.9, 2 / 3])
def test_law_a_line_and_the_times_of_frames_are_exact(t_r: float) -> None:
    time = np.arange(T) * t_r  # each frame holds its own time
    (decimated,) = _resampled((time[:, None] * [1, -40] + [0, 9e3]).astype(np.float32), t_r, DECIMATE)
    wanted = np.arange(0, time[-1] + 1e-4, 2.0)
    plan = plan_resampling(t_r, T, DECIMATE)
    assert len(decimated) == len(wanted) == plan.n_frames_out and plan.n_phases == plan.stride == 1
    assert plan.t_r_out == pytest.approx(2.0, rel=1e-6)
    assert_allclose(decimated, wanted[:, None] * [1, -40] + [0, 9e3], rtol=1e-5, atol=1e-3)


def test_decimation_keeps_missing_regions_and_marks(series: np.ndarray, censored: np.ndarray) -> None:
    holed = series.copy()
    holed[7, 1] = np.nan
    ((decimated, marks),) = resample_series(holed, censored, 0.735, DECIMATE)
    assert decimated.dtype == np.float32 and np.isnan(decimated[:, 1]).all()
    assert_array_equal(decimated[:, [0, 2, 3, 4]], _resampled(series, 0.735, DECIMATE)[0][:, [0, 2, 3, 4]])
    time, new_time = np.arange(T) * 0.735, np.arange(len(decimated)) * 2.0
    near = np.abs(new_time[:, None] - time[censored]) <= 1.0  # (n_new, n_censored)
    assert_array_equal(marks, near.any(axis=1))
    assert 0 < marks.sum() < len(marks)


def test_a_mark_half_way_between_two_frames_marks_both() -> None:
    marks = {
        j: np.flatnonzero(
            resample_series(np.zeros((9, 1), np.float32), np.arange(9) == j, 1.0, DECIMATE)[0][1]
        )
        for j in (0, 3, 4, 8)
    }
    assert {j: m.tolist() for j, m in marks.items()} == {0: [0], 3: [1, 2], 4: [2], 8: [4]}
    # a frame after the last new one still marks it
    ((_, late),) = resample_series(np.zeros((8, 1), np.float32), np.arange(8) == 7, 0.8, DECIMATE)
    assert late.tolist() == [False, False, True]


# --- slower scans, other rates, plans -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [STRIDE, DECIMATE, NONE])
@pytest.mark.parametrize("t_r", [1.9985, 2.0, 2.0005, 3.0])
def test_never_upsampled(
    series: np.ndarray, censored: np.ndarray, options: ResampleOptions, t_r: float
) -> None:
    ((kept, marks),) = resample_series(series, censored, t_r, options)
    assert_array_equal(kept, series)
    assert_array_equal(marks, censored)
    plan = plan_resampling(t_r, T, options)
    assert (plan.stride, plan.t_r_out, plan.n_frames_out, plan.n_phases) == (1, t_r, T, 1)
    assert ("never upsampled" in plan.warning) == (t_r == 3.0 and options is not NONE)


@pytest.mark.parametrize("how", ["stride", "decimate", "none"])
@pytest.mark.parametrize("phases", ["all", "first"])
@pytest.mark.parametrize("t_r", [0.5, 0.735, 0.8, 1.4, 2.0, 2.5])
@pytest.mark.parametrize("n_frames", [1, 2, 61, 140])
def test_law_the_plan_is_what_happens(
    series: np.ndarray, how: str, phases: str, t_r: float, n_frames: int
) -> None:
    options = ResampleOptions(how=how, phases=phases)  # type: ignore[arg-type]
    made = _resampled(series[:n_frames], t_r, options)
    plan = plan_resampling(t_r, n_frames, options)
    assert (len(made), max(map(len, made))) == (plan.n_phases, plan.n_frames_out)


def test_plan_of_mixed_scans() -> None:
    plans = {t_r: plan_resampling(t_r, 490, STRIDE) for t_r in (0.735, 0.8, 1.4)}
    assert plans[0.735] == ResamplePlan(stride=3, t_r_out=0.735 * 3, n_frames_out=164, n_phases=3, warning="")
    assert "0.8 s to 1.6 s, 20% off the target of 2 s" in plans[0.8].warning
    assert "--resample decimate" in plans[1.4].warning and plans[1.4].stride == 1
    assert plan_resampling(0.8, 490, DECIMATE).warning == plan_resampling(0.8, 490, NONE).warning == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target_t_r": 0.0}, "--target-t-r must be 0.05 to 60 seconds, got 0"),
        ({"target_t_r": float("nan")}, "got nan"),
        ({"how": "decimated"}, "--resample must be one of .* got 'decimated'"),
        ({"phases": "last"}, "--phases must be one of"),
    ],
)
def test_options_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ResampleOptions(**given)  # type: ignore[arg-type]
