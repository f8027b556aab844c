"""preproc/quantiles.py, scaling.py: exact quantiles in a stream, and five methods that can be undone."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError
from bjepa.preproc.quantiles import QuantileFinder
from bjepa.preproc.scaling import PER_SCAN, SCALING_METHODS, Scaling, ScalingFit, scan_part

R = 5  # regions
NAMES = [f"r{k}" for k in range(R)]


# --- quantiles ----------------------------------------------------------------------------------------------


def _quantiles(calls: Sequence[np.ndarray], **options: Any) -> np.ndarray:
    finder = QuantileFinder(calls[0].shape[1], **options)
    while finder.wants_pass:
        for values in calls:
            finder.add(values)
        finder.end_pass()
    return finder.quantiles()


def _skewed(n: int) -> np.ndarray:
    """(n, 9) float32: what a sketch gets wrong, and what bits get wrong."""
    rng = np.random.default_rng(3)
    tiny = np.float32(1e-45)
    return np.column_stack(
        [
            rng.lognormal(3, 4, n),  # over 15 powers of ten
            -rng.lognormal(-2, 3, n),
            rng.integers(0, 3, n),  # heavy ties
            np.full(n, 7.25),  # constant
            rng.integers(-40, 40, n) * tiny,  # denormal, both signs
            np.where(rng.random(n) < 0.5, -0.0, 0.0),
            rng.normal(0, 1, n),
            np.where(rng.random(n) < 0.6, 1000, rng.normal(1e4, 1e-3, n)),  # ties on one side of the median
            rng.choice([-np.float32(3e38), np.float32(3e38)], n),  # as large as float32 goes
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 1000, 20_011])
def test_quantiles_are_those_of_numpy(n: int) -> None:
    values = _skewed(n)
    probabilities = [0, 0.001, 0.25, 0.5, 0.75, 0.98, 1]
    expected = np.percentile(values.astype(np.float64), [100 * p for p in probabilities], axis=0)
    cuts = np.sort(np.random.default_rng(n).integers(0, n, 4))
    found = _quantiles(np.split(values, cuts), probabilities=probabilities)
    assert_array_equal(found, expected)  # to the last bit


def test_law_quantiles_do_not_depend_on_order_calls_or_memory() -> None:
    values = _skewed(701)
    whole = _quantiles([values])
    shuffled = np.random.default_rng(0).permutation(values)
    assert_array_equal(_quantiles([shuffled[:3], shuffled[3:3], shuffled[3:]]), whole)
    assert_array_equal(_quantiles([values], memory=1), whole)  # one bin a pass


def test_nan_is_left_out_and_nothing_gives_nan() -> None:
    values = _skewed(90)
    values[::7, 0], values[:, 4], values[3, 6] = np.nan, np.nan, -np.float32(np.nan)
    values[:, 8], values.view(np.uint32)[::9, 8] = np.inf, 0x7F800001  # a NaN with the upper bits of inf
    found = _quantiles([values])
    expected = np.nanpercentile(np.delete(values, [4, 8], axis=1).astype(np.float64), [25, 50, 75], axis=0)
    assert np.isnan(found[:, 4]).all() and not np.isfinite(found[:, 8]).any()
    assert_array_equal(np.delete(found, [4, 8], axis=1), expected)


def test_changed_values_between_passes_are_noticed() -> None:
    finder = QuantileFinder(2)
    for offset in (0, 50):
        finder.add(np.arange(20, dtype=np.float32).reshape(10, 2) + np.float32(offset))
        if offset:
            with pytest.raises(ValueError, match="not those of the pass before"):
                finder.end_pass()
        else:
            finder.end_pass()
    with pytest.raises(ValueError, match="float32"):
        finder.add(np.zeros((3, 2)))  # type: ignore[arg-type]


def test_memory_is_bounded_whatever_the_number_of_scans() -> None:
    """450 regions, each with its own order of magnitude; counted bytes, also those never touched."""

    def peak(n_scans: int) -> int:
        tracemalloc.start()
        finder = QuantileFinder(450)
        while finder.wants_pass:
            for seed in range(n_scans):
                rng = np.random.default_rng(seed)
                finder.add((rng.normal(size=(16, 450)) * 1.1 ** np.arange(450)).astype(np.float32))
            finder.end_pass()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(5), peak(40)
    assert many < 1e9 and many < 1.05 * few


# --- the five methods ---------------------------------------------------------------------------------------


@pytest.fixture
def scans() -> list[tuple[str, np.ndarray]]:
    """(participant, frames): four participants, one with two scans; all numbers different."""
    rng = np.random.default_rng(1)
    level, spread = np.array([10, 200, -30, 4000, 55]), np.array([1, 8, 0.3, 90, 2])
    found = []
    for participant, n_frames in (("sub-1", 61), ("sub-1", 34), ("sub-2", 90), ("sub-3", 47), ("sub-4", 28)):
        frames = rng.normal(size=(n_frames, R)) * spread + level * (1 + 0.2 * rng.normal(size=R))
        found.append((participant, frames.astype(np.float32)))
    found[2][1][:, 1] = np.nan  # missing in sub-2
    return found


def _fit(scans: Sequence[tuple[str, np.ndarray]], method: Any = "robust") -> Scaling:
    fit = ScalingFit(method, NAMES)
    while fit.wants_pass:
        for participant, frames in scans:
            fit.add(frames, participant)
        fit.end_pass()
    return fit.result()


def test_robust_is_median_and_iqr_of_all_frames(scans: list[tuple[str, np.ndarray]]) -> None:
    low, median, high = np.nanpercentile(
        np.concatenate([frames for _, frames in scans]).astype(float), [25, 50, 75], axis=0
    )
    scaling = _fit(scans)
    assert_allclose(scaling.median, median, rtol=1e-14)
    assert_allclose(scaling.iqr, high - low, rtol=1e-12)


def test_robust_dynamic_removes_each_scans_mean_first(scans: list[tuple[str, np.ndarray]]) -> None:
    centred = [frames.astype(float) - frames.astype(float).mean(axis=0) for _, frames in scans]
    low, median, high = np.nanpercentile(np.concatenate(centred), [25, 50, 75], axis=0)
    scaling = _fit(scans, "robust-dynamic")
    assert_allclose(scaling.median, median, atol=1e-6)
    assert_allclose(scaling.iqr, high - low, rtol=1e-6)
    # a level that is added to a scan changes nothing that is stored
    shifted = [(p, frames + np.float32(64)) for p, frames in scans]
    assert_allclose(_fit(shifted, "robust-dynamic").iqr, scaling.iqr, rtol=1e-4)


def test_robust_means_takes_one_mean_a_participant(scans: list[tuple[str, np.ndarray]]) -> None:
    people = sorted({p for p, _ in scans})
    means = [np.concatenate([f for q, f in scans if q == p]).astype(float).mean(axis=0) for p in people]
    low, median, high = np.nanpercentile(np.array(means), [25, 50, 75], axis=0)
    scaling = _fit(scans, "robust-means")
    assert_allclose(scaling.median, median, rtol=1e-12)
    assert_allclose(scaling.iqr, high - low, rtol=1e-10)


@pytest.mark.parametrize("method", SCALING_METHODS)
def test_law_scaling_can_be_undone(scans: list[tuple[str, np.ndarray]], method: Any) -> None:
    scaling = _fit(scans, method)
    for participant, frames in scans:
        part = scan_part(method, frames, NAMES, participant)
        stored = scaling.apply(frames, part)
        assert stored.dtype == np.float32 and (part is not None) == (method in PER_SCAN)
        back = stored.astype(float) * scaling.iqr + scaling.median
        if part is not None:
            assert np.isfinite(part.offset).all() and (part.scale > 0).all()  # also where a region is missing
            back = back * part.scale + part.offset
        assert_allclose(back, frames, rtol=3e-7)


def test_zscore_scan_is_mean_0_and_sd_1_in_each_scan(scans: list[tuple[str, np.ndarray]]) -> None:
    scaling = _fit([], "zscore-scan")  # nothing is fitted
    for participant, frames in scans:
        stored = scaling.apply(frames, scan_part("zscore-scan", frames, NAMES, participant))
        known = ~np.isnan(frames[0])
        assert_allclose(stored[:, known].mean(axis=0), 0, atol=1e-5)
        assert_allclose(stored[:, known].std(axis=0), 1, rtol=1e-5)


def test_nowhere_and_none(scans: list[tuple[str, np.ndarray]]) -> None:
    holed = [(p, np.where(np.arange(R) == 2, np.nan, f).astype(np.float32)) for p, f in scans]
    for method in ("robust", "robust-dynamic", "robust-means"):
        scaling = _fit(holed, method)
        assert (scaling.median[2], scaling.iqr[2]) == (0, 1) and (scaling.iqr[[0, 1, 3, 4]] != 1).all()
    assert_array_equal(_fit(scans, "none").apply(scans[0][1]), scans[0][1])


def test_regions_that_do_not_vary_are_named(scans: list[tuple[str, np.ndarray]]) -> None:
    flat = [(p, np.where(np.arange(R) >= 3, np.float32(4000), f).astype(np.float32)) for p, f in scans]
    for method in ("robust", "robust-dynamic", "robust-means"):
        with pytest.raises(InputError, match=r"2 regions \(r3, r4\)"):
            _fit(flat, method)
    with pytest.raises(InputError, match=r"sub-1: 2 regions \(r3, r4\) do not vary within the scan"):
        scan_part("zscore-scan", flat[0][1], NAMES, "sub-1")
    # not exactly constant, but nothing beyond the last bit of 4000
    noisy = [(p, f + np.float32(2**-12) * (np.arange(len(f)) % 2)[:, None]) for p, f in flat]
    with pytest.raises(InputError, match="do not vary"):
        _fit([(p, f.astype(np.float32)) for p, f in noisy], "robust-dynamic")


def test_robust_means_refuses_demeaned_series_and_one_participant(
    scans: list[tuple[str, np.ndarray]],
) -> None:
    demeaned = [(p, (f - f.mean(axis=0, dtype=float)).astype(np.float32)) for p, f in scans]
    with pytest.raises(InputError, match=r"5 regions .* 4 participants .*demeaned before"):
        _fit(demeaned, "robust-means")
    with pytest.raises(InputError, match="only one participant"):
        _fit(scans[:2], "robust-means")
    assert _fit(demeaned, "robust").iqr.min() > 0.1  # the other methods do well on them
