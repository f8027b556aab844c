"""preproc/clean.py: what is filtered, regressed, censored, kept; nilearn, numpy and scipy are the judges."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from nilearn.signal import clean as nilearn_clean
from numpy.testing import assert_allclose, assert_array_equal
from scipy.interpolate import CubicSpline
from scipy.signal import butter, sosfiltfilt

from bjepa.preproc import InputError
from bjepa.preproc.clean import Cleaned, CleaningOptions, Confounds, clean_timeseries, normalise_mean

T, R, T_R = 140, 5, 0.8  # frames, regions, s
NO_CONFOUNDS = Confounds(n_non_steady=0)
NO_FILTER = CleaningOptions(confounds="simple")
BAND = CleaningOptions(confounds="simple", high_pass=0.01, low_pass=0.2)


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


@pytest.fixture
def nuisance() -> np.ndarray:
    nuisance: np.ndarray = np.random.default_rng(1).normal(size=(T, 3)).cumsum(axis=0) * [1, 50, 1e-3] + 7
    nuisance.flags.writeable = False
    return nuisance


def _mask(*censored: int | range) -> np.ndarray:
    """(T,) True = kept."""
    mask = np.ones(T, dtype=bool)
    for frames in censored:
        mask[frames] = False
    mask.flags.writeable = False
    return mask


# frames 60 and 79 are as far from the one end as from the other: nilearn's `~sample_mask` mistakes them
SCATTERED = _mask(20, range(33, 36), 60, 79, range(90, 99), 121)
ENDS_TOO = _mask(range(0, 4), 20, range(33, 36), 60, 79, range(90, 99), 121, range(137, 140))


def _confounds(values: np.ndarray | None, mask: np.ndarray | None = None) -> Confounds:
    return Confounds(
        values=None if values is None else pd.DataFrame(values), sample_mask=mask, n_non_steady=0
    )


def _clean(
    series: np.ndarray, confounds: Confounds, options: CleaningOptions = NO_FILTER, t_r: float = T_R
) -> Cleaned:
    return clean_timeseries(series, confounds, options, t_r=t_r)


def _centred(x: np.ndarray) -> np.ndarray:
    centred: np.ndarray = x - x.mean(axis=0)
    return centred


# --- nothing censored: nilearn ------------------------------------------------------------------------------


def test_nothing_asked_nothing_changed(series: np.ndarray) -> None:
    cleaned = _clean(series, NO_CONFOUNDS, CleaningOptions())
    assert_array_equal(cleaned.timeseries, series)
    assert (cleaned.n_dropped, cleaned.n_degrees) == (0, T) and not cleaned.censored.any()
    assert cleaned.timeseries.dtype == np.float32 and cleaned.warnings == ()


@pytest.mark.parametrize(
    "edges", [{}, {"high_pass": 0.01}, {"low_pass": 0.1}, {"high_pass": 0.01, "low_pass": 0.1}]
)
@pytest.mark.parametrize("dropped", [0, 6])
def test_equals_nilearn(
    series: np.ndarray, nuisance: np.ndarray, edges: dict[str, float], dropped: int
) -> None:
    options = CleaningOptions(confounds="simple", drop_initial=dropped, **edges)
    ours = _clean(series, _confounds(nuisance), options)
    kept = series[dropped:].astype(float)
    expected = nilearn_clean(
        kept, confounds=nuisance[dropped:], detrend=True, standardize=None, t_r=T_R, **edges
    )
    expected = _centred(expected) + kept.mean(axis=0)
    assert ours.n_dropped == dropped and ours.timeseries.shape == expected.shape
    assert_allclose(ours.timeseries, expected, rtol=1e-6, atol=1e-6)
    if edges:  # and the filter alone
        alone = nilearn_clean(kept, detrend=True, standardize=None, t_r=T_R, **edges)
        ours = _clean(series, NO_CONFOUNDS, options)
        assert_allclose(ours.timeseries, _centred(alone) + kept.mean(axis=0), rtol=1e-6, atol=1e-6)


def test_law_confounds_are_gone_and_means_stay(series: np.ndarray, nuisance: np.ndarray) -> None:
    spoilt = (series + nuisance @ np.random.default_rng(2).normal(size=(3, R)) * 20).astype(np.float32)
    first = _clean(series, _confounds(nuisance)).timeseries
    second = _clean(spoilt, _confounds(nuisance)).timeseries
    assert_allclose(first.mean(axis=0), series.mean(axis=0), rtol=1e-5)
    assert_allclose(_centred(second), _centred(first), atol=2e-3)


def test_filters_remove_what_they_say() -> None:
    time = np.arange(400) * T_R
    slow, middle, fast = (np.sin(2 * np.pi * f * time) for f in (0.004, 0.05, 0.4))
    signal = np.column_stack([slow, middle, fast, slow + middle + fast + 9]).astype(np.float32)
    cleaned = _clean(signal, NO_CONFOUNDS, CleaningOptions(high_pass=0.01, low_pass=0.1)).timeseries
    inside = slice(60, -60)
    assert cleaned[inside, 0].std() < 0.1 and cleaned[inside, 2].std() < 0.1  # of 0.7
    assert np.corrcoef(cleaned[inside, 3], middle[inside])[0, 1] > 0.99
    assert cleaned[:, 3].mean() == pytest.approx(signal[:, 3].mean(), rel=1e-5)


def test_edges_are_hz_at_the_scans_own_rate() -> None:
    wave = np.sin(2 * np.pi * 0.1 * np.arange(400) * 0.5)[:, None].astype(np.float32)  # 0.1 Hz at 0.5 s
    options = CleaningOptions(high_pass=0.07, low_pass=0.15)
    inside = slice(60, -60)
    assert _clean(wave, NO_CONFOUNDS, options, 0.5).timeseries[inside].std() == pytest.approx(0.707, rel=0.02)
    assert (
        _clean(wave, NO_CONFOUNDS, options, 1.5).timeseries[inside].std() < 0.01
    )  # the same numbers, 0.033 Hz


def test_missing_regions_stay_missing_and_frames_drop(series: np.ndarray) -> None:
    holed = series.copy()
    holed[:, 2] = np.nan
    confounds = Confounds(n_non_steady=4)
    cleaned = _clean(holed, confounds, CleaningOptions(low_pass=0.1, drop_initial="auto"))
    assert cleaned.timeseries.shape == (T - 4, R) and cleaned.n_dropped == 4
    assert np.isnan(cleaned.timeseries[:, 2]).all() and np.isfinite(cleaned.timeseries[:, 3]).all()
    assert len(_clean(series, confounds, CleaningOptions(drop_initial=7)).timeseries) == T - 7


def test_collinear_and_constant_confounds_count_once(series: np.ndarray) -> None:
    few = np.random.default_rng(0).normal(size=(T, 4))
    many = np.column_stack([few, few @ np.random.default_rng(1).normal(size=(4, 200)), np.ones(T)])
    plain = _clean(series, _confounds(few))
    repeated = _clean(series, _confounds(many))
    assert_allclose(repeated.timeseries, plain.timeseries, rtol=1e-6, atol=1e-5)
    assert repeated.n_degrees == plain.n_degrees == T - 6


@pytest.mark.parametrize("mask", [None, SCATTERED])
def test_what_a_filter_leaves_of_a_constant_is_no_regressor(
    series: np.ndarray, mask: np.ndarray | None
) -> None:
    constant = _clean(series, _confounds(np.full((T, 1), 7.7e5), mask), BAND).timeseries
    assert_allclose(constant, _clean(series, _confounds(None, mask), BAND).timeseries, rtol=1e-6)


# --- censored frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [SCATTERED, ENDS_TOO])
@pytest.mark.parametrize("options", [CleaningOptions(), NO_FILTER, BAND, CleaningOptions(low_pass=0.1)])
def test_law_values_of_censored_frames_do_not_matter(
    series: np.ndarray, nuisance: np.ndarray, mask: np.ndarray, options: CleaningOptions
) -> None:
    values = nuisance if options.confounds == "simple" else None
    spiked, spiked_nuisance = series.copy(), nuisance.copy()
    spiked[~mask] = np.where(np.arange(R) % 2, 1e4, np.nan)
    spiked_nuisance[~mask] = -1e4
    plain = _clean(series, _confounds(values, mask), options)
    other = _clean(spiked, _confounds(None if values is None else spiked_nuisance, mask), options)
    assert_array_equal(other.timeseries, plain.timeseries)
    assert_array_equal(plain.censored, ~mask)
    assert len(plain.timeseries) == T and np.isfinite(plain.timeseries).all()


def test_nilearn_lets_censored_spikes_reach_the_filter(series: np.ndarray) -> None:
    """Why clean_timeseries does not hand the mask to nilearn; when this fails, nilearn was mended."""
    spiked = series.astype(float)
    spiked[~SCATTERED] += 1e4
    kept = [
        nilearn_clean(x, sample_mask=np.flatnonzero(SCATTERED), standardize=None, t_r=T_R, low_pass=0.1)
        for x in (series.astype(float), spiked)
    ]
    assert np.abs(kept[1] - kept[0]).max() > 100


@pytest.mark.parametrize("mask", [SCATTERED, ENDS_TOO])
def test_scrubbing_without_a_filter_is_regression_on_kept_frames(
    series: np.ndarray, nuisance: np.ndarray, mask: np.ndarray
) -> None:
    ours = _clean(series, _confounds(nuisance, mask)).timeseries
    kept = series[mask].astype(float)
    # independent: ordinary least squares on mean, trend in time and confounds of the kept frames
    design = np.column_stack([np.ones(T), np.arange(T), nuisance])[mask]
    residual = kept - design @ np.linalg.lstsq(design, kept, rcond=None)[0]
    assert_allclose(ours[mask], residual + kept.mean(axis=0), rtol=1e-6, atol=1e-5)
    # and nilearn, with a regressor for each censored frame in place of a mask
    spikes = np.eye(T)[:, ~mask]
    by_nilearn = nilearn_clean(
        series.astype(float), confounds=np.column_stack([nuisance, spikes]), standardize=None, t_r=T_R
    )
    assert_allclose(ours[mask], _centred(by_nilearn[mask]) + kept.mean(axis=0), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("mask", [SCATTERED, ENDS_TOO])
@pytest.mark.parametrize("edges", [(0.01, 0.2), (None, 0.2), (0.01, None)])
def test_scrubbing_with_a_filter_step_by_step(
    series: np.ndarray, nuisance: np.ndarray, mask: np.ndarray, edges: tuple[float | None, float | None]
) -> None:
    high_pass, low_pass = edges
    options = CleaningOptions(confounds="scrubbing", high_pass=high_pass, low_pass=low_pass)
    ours = _clean(series, _confounds(nuisance, mask), options).timeseries
    first, last = np.flatnonzero(mask)[[0, -1]]
    span, frames = slice(first, last + 1), np.arange(first, last + 1)
    kind = "bandpass" if high_pass and low_pass else "highpass" if high_pass else "lowpass"
    sos = butter(5, np.squeeze([edge for edge in edges if edge]), kind, fs=1 / T_R, output="sos")
    filtered = []
    for columns in (series.astype(float), nuisance):
        bridged = columns[span].copy()
        gaps = ~mask[span]
        bridged[gaps] = CubicSpline(np.flatnonzero(mask) * T_R, columns[mask])(frames * T_R)[gaps]
        trend = np.column_stack([np.ones(len(frames)), frames])
        bridged -= trend @ np.linalg.lstsq(trend, bridged, rcond=None)[0]
        filtered.append(_centred(sosfiltfilt(sos, bridged, axis=0)[mask[span]]))
    signals, regressors = filtered
    residual = signals - regressors @ np.linalg.lstsq(regressors, signals, rcond=None)[0]
    assert_allclose(ours[mask], residual + series[mask].astype(float).mean(axis=0), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("edges", [{}, {"high_pass": 0.01, "low_pass": 0.1}])
def test_frames_censored_at_the_start_are_as_in_nilearn(
    series: np.ndarray, nuisance: np.ndarray, edges: dict[str, float]
) -> None:
    mask = _mask(range(0, 3))  # as non-steady-state frames; at the end too, its filter takes other frames
    ours = _clean(series, _confounds(nuisance, mask), CleaningOptions(confounds="simple", **edges))  # type: ignore[arg-type]
    by_nilearn = nilearn_clean(
        series.astype(float),
        confounds=nuisance.copy(),
        sample_mask=np.flatnonzero(mask),
        standardize=None,
        t_r=T_R,
        **edges,
    )
    mean = series[mask].astype(float).mean(axis=0)
    assert_allclose(ours.timeseries[mask], _centred(by_nilearn) + mean, rtol=1e-6, atol=1e-5)


def test_law_a_drift_straight_in_time_is_removed_whole(series: np.ndarray, nuisance: np.ndarray) -> None:
    drifting = (series + np.arange(T)[:, None] * [3, -1, 0.5, 8, 2]).astype(np.float32)
    plain, drifted = (_clean(x, _confounds(nuisance, SCATTERED)).timeseries for x in (series, drifting))
    assert_allclose(_centred(drifted[SCATTERED]), _centred(plain[SCATTERED]), atol=2e-3)


def test_censored_frames_are_on_the_line_between_their_neighbours(
    series: np.ndarray, nuisance: np.ndarray
) -> None:
    for options in (CleaningOptions(), NO_FILTER, BAND):
        values = nuisance if options.confounds == "simple" else None
        cleaned = _clean(series, _confounds(values, ENDS_TOO), options).timeseries.astype(float)
        kept = np.flatnonzero(ENDS_TOO)
        for region in range(R):
            expected = np.interp(np.arange(T), kept, cleaned[kept, region])  # constant beyond the ends
            assert_allclose(cleaned[:, region], expected, rtol=1e-6)


def test_dropped_frames_shift_the_mask(series: np.ndarray, nuisance: np.ndarray) -> None:
    confounds = Confounds(values=pd.DataFrame(nuisance), sample_mask=ENDS_TOO, n_non_steady=6)
    cleaned = _clean(series, confounds, CleaningOptions(confounds="scrubbing", drop_initial="auto"))
    assert cleaned.n_dropped == 6
    assert_array_equal(cleaned.censored, ~ENDS_TOO[6:])
    direct = _clean(series[6:], _confounds(nuisance[6:], ENDS_TOO[6:]))
    assert_array_equal(cleaned.timeseries, direct.timeseries)


# --- what is left, and refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_frames", "t_r", "n_confounds", "edges"),
    [
        (150, 2.0, 20, {}),
        (200, 2.0, 27, {"high_pass": 0.01, "low_pass": 0.1}),
        (200, 2.0, 27, {"low_pass": 0.1}),
        (200, 2.0, 27, {"high_pass": 0.01}),
        (400, 0.735, 27, {"high_pass": 0.01, "low_pass": 0.1}),
    ],
)
def test_law_the_share_of_white_noise_that_is_left_is_the_degrees_of_freedom(
    n_frames: int, t_r: float, n_confounds: int, edges: dict[str, float]
) -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(n_frames, 600)).astype(np.float32)
    confounds = Confounds(values=pd.DataFrame(rng.normal(size=(n_frames, n_confounds)).cumsum(axis=0)))
    cleaned = _clean(white, confounds, CleaningOptions(confounds="simple", **edges), t_r)  # type: ignore[arg-type]
    left = float((_centred(cleaned.timeseries) ** 2).sum() / 600)
    assert cleaned.n_degrees == pytest.approx(left, rel=0.12)


def test_warnings_of_little_left_and_of_two_high_passes() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(120, R)).astype(np.float32)
    names = ["cosine00", *(f"c{k}" for k in range(111))]
    confounds = Confounds(values=pd.DataFrame(rng.normal(size=(120, 112)), columns=names))
    (few,) = _clean(white, confounds).warnings
    assert few.startswith("cleaning leaves about 6 of 120 degrees of freedom")
    twice = Confounds(values=pd.DataFrame(rng.normal(size=(120, 2)), columns=["cosine00", "trans_x"]))
    (both,) = _clean(white, twice, CleaningOptions(confounds="simple", high_pass=0.01)).warnings
    assert "removed twice: by --high-pass 0.01 Hz and by fMRIPrep's cosines" in both
    assert _clean(white, twice).warnings == ()


@pytest.mark.parametrize(
    ("options", "confounds", "says"),
    [
        (CleaningOptions(low_pass=0.9), NO_CONFOUNDS, r"--low-pass must be in \(0, 0.625\)"),
        (CleaningOptions(low_pass=0.625), NO_CONFOUNDS, r"--low-pass must be in \(0, 0.625\)"),
        (CleaningOptions(high_pass=0.0), NO_CONFOUNDS, "--high-pass must be in"),
        (CleaningOptions(drop_initial=139), NO_CONFOUNDS, "leaves 1 of 140"),
        (CleaningOptions(drop_initial="auto"), Confounds(), "counts the non-steady-state frames"),
        (CleaningOptions(confounds="24p"), _confounds(np.ones((9, 1))), "have 9 rows, the image 140"),
        (NO_FILTER, Confounds(sample_mask=np.ones(11, bool)), "have 11 rows, the image 140"),
        (NO_FILTER, _confounds(np.ones((T, 1)), np.ones(11, bool)), "have 11 rows, the image 140"),
        (
            CleaningOptions(confounds="36p", drop_initial=2),
            _confounds(np.random.default_rng(0).normal(size=(T, 136))),
            "136 confounds, mean and trend explain all of 138 frames: ",
        ),
        (
            NO_FILTER,
            _confounds(np.random.default_rng(0).normal(size=(T, 20)), _mask(range(10, 130))),
            r"20 confounds, mean and trend explain all of 20 frames \(120 more are censored\)",
        ),
        (
            CleaningOptions(confounds="36p", high_pass=0.01, low_pass=0.1),
            _confounds(np.random.default_rng(0).normal(size=(T, 30))),
            "30 confounds, .* all of 140 frames, of which the filter leaves 20: ",
        ),
        (CleaningOptions(), Confounds(sample_mask=_mask(range(T))), "0 of 140 frames are kept"),
        (CleaningOptions(), Confounds(sample_mask=_mask(range(1, T))), "1 of 140 frames are kept"),
        (
            CleaningOptions(low_pass=0.5, drop_initial=125),
            NO_CONFOUNDS,
            "15 frames are too few for the filter",
        ),
    ],
)
def test_cleaning_refused(
    series: np.ndarray, options: CleaningOptions, confounds: Confounds, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        _clean(series, confounds, options)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"high_pass": 0.1, "low_pass": 0.1}, "--high-pass 0.1 Hz is not below --low-pass 0.1 Hz"),
        ({"drop_initial": -1}, "--drop-initial must be .* got -1"),
        ({"drop_initial": "all"}, "got 'all'"),
        ({"drop_initial": True}, "got True"),
    ],
)
def test_options_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        CleaningOptions(**given)  # type: ignore[arg-type]


# --- grand mean ---------------------------------------------------------------------------------------------


@pytest.fixture
def intensities() -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=(T, R)) * 8
    intensities: np.ndarray = (noise + np.array([310, 350, 420, 500, 900])).astype(np.float32)
    intensities.flags.writeable = False
    return intensities


def test_grand_mean_is_one_factor_a_scan(intensities: np.ndarray) -> None:
    scaled, factor = normalise_mean(intensities)
    assert np.median(scaled.mean(axis=0)) == pytest.approx(10_000, rel=1e-6)
    assert_allclose(scaled, intensities * factor, rtol=1e-6)
    assert_allclose(scaled / scaled.mean(axis=0), intensities / intensities.mean(axis=0), rtol=1e-5)


def test_law_the_gain_of_the_scanner_is_gone(intensities: np.ndarray) -> None:
    loud = (intensities * 37.5).astype(np.float32)
    assert_allclose(normalise_mean(loud)[0], normalise_mean(intensities)[0], rtol=1e-6)


def test_grand_mean_of_kept_frames_and_valid_regions(intensities: np.ndarray) -> None:
    spoilt = intensities.copy()
    spoilt[~ENDS_TOO] = 1e6
    spoilt[:, 3], spoilt[:, 4] = np.nan, 1.0
    valid = np.array([True, True, True, True, False])
    scaled, factor = normalise_mean(spoilt, sample_mask=ENDS_TOO, valid=valid)
    assert factor == pytest.approx(10_000 / np.median(intensities[ENDS_TOO][:, :3].mean(axis=0)), rel=1e-6)
    assert np.isnan(scaled[:, 3]).all() and scaled[0, 4] == pytest.approx(factor)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda x: x - x.mean(axis=0), "look demeaned or z-scored already"),
        (lambda x: -x, "needs image intensities: the median region has mean -"),
        (lambda x: x - x.mean(axis=0) + 12, "mean 12 and standard deviation"),
        (lambda x: x * np.nan, "no region is there in every frame"),
    ],
)
def test_grand_mean_refused(
    intensities: np.ndarray, made: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        normalise_mean(made(intensities))
