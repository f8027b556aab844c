"""Quality numbers: each against an independent computation, laws, and running sums against stored data."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from bjepa.preproc.report.cohort import ALL_METRICS, CohortSummary, CohortWatch, find_outliers
from bjepa.preproc.report.qc import METRICS, regional_dvars, scan_qc, spike_limit

T, DROPPED, R = 90, 4, 11
T_R = 0.8


def _series(seed: int, n_frames: int = T, n_rois: int = R, shared: float = 0.8) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.normal(size=(n_frames, n_rois)), axis=0) * 0.2
    smooth += shared * rng.normal(size=(n_frames, 1)) + rng.normal(size=(n_frames, n_rois))
    return (1000 + 50 * np.arange(n_rois) + 5 * smooth).astype(np.float32)


def _qc(**changes: Any) -> dict[str, Any]:
    raw = _series(1)
    rng = np.random.default_rng(2)
    given: dict[str, Any] = {
        "raw": raw,
        "cleaned": raw[DROPPED:],
        "fd": np.r_[np.nan, rng.gamma(2, 0.2, T - 1)],
        "dvars": np.r_[np.nan, rng.normal(1.1, 0.1, T - 1)],
        "coverage": np.linspace(0.4, 1, R),
        "missing": np.zeros(R, bool),
        "t_r": T_R,
        "censored": None,
    } | changes
    return scan_qc(given.pop("raw"), given.pop("cleaned"), **given)


def test_numbers_against_plain_numpy() -> None:
    raw = _series(1)
    rng = np.random.default_rng(2)
    fd = np.r_[np.nan, rng.gamma(2, 0.2, T - 1)]
    qc = _qc(fd=fd)
    clean = raw[DROPPED:].astype(np.float64)
    fc = np.asarray(np.corrcoef(clean, rowvar=False))
    assert_allclose(qc["fc_mean"], fc[~np.eye(R, dtype=bool)].mean(), rtol=1e-9)
    assert_allclose(qc["tsnr_median"], np.median(raw.astype(float).mean(0) / raw.astype(float).std(0)))
    assert_allclose([qc["fd_mean"], qc["fd_max"]], [fd[1:].mean(), fd[1:].max()])
    assert_allclose(qc["fd_above_05"], (fd[1:] > 0.5).mean())
    whole = clean.mean(axis=1)
    assert_allclose(qc["global_sd"], 100 * whole.std() / whole.mean(), rtol=1e-9)
    lags = [((s := clean[:, r] - clean[:, r].mean())[1:] * s[:-1]).mean() / s.var() for r in range(R)]
    assert_allclose(qc["lag1"], np.median(lags), rtol=1e-9)
    assert_allclose(qc["minutes_kept"], (T - DROPPED) * T_R / 60)
    assert_allclose([qc["coverage_min"], qc["coverage_mean"]], [0.4, 0.7])
    assert qc["n_censored"] is None and qc["n_missing_rois"] == 0


def test_all_metrics_are_told_and_documented() -> None:
    assert list(_qc()) == [metric.name for metric in METRICS]
    page = Path(__file__).parents[2].joinpath("docs/quality_control.md").read_text()
    for metric in ALL_METRICS:
        assert f"| `{metric.name}` |" in page, metric.name


def test_planted_spikes_are_counted_whatever_the_units() -> None:
    raw = np.random.default_rng(3).normal(100, 1, (200, R))
    quiet = scan_qc(raw.astype(np.float32), raw.astype(np.float32), **_rest())["n_spikes"]
    for frame in (40, 90, 150):
        raw[frame:] += 4 * (-1) ** frame  # a step: one change of frame each
    jumps = regional_dvars(raw.astype(np.float32))
    assert spike_limit(np.array([0, 2, 4, 6, 8, 10, 100])) == 9 + 1.5 * (9 - 3)
    assert {39, 89, 149} <= set(np.flatnonzero(jumps > spike_limit(jumps)))
    per_region = np.diff(raw, axis=0) / raw.std(axis=0)
    assert_allclose(jumps, np.sqrt((per_region**2).mean(axis=1)), rtol=1e-4)
    found = [
        scan_qc(scaled := (raw * factor).astype(np.float32), scaled, **_rest())["n_spikes"]
        for factor in (1, np.linspace(0.1, 900, R))
    ]
    assert found[0] == found[1] and quiet is not None and found[0] is not None
    assert 3 <= found[0] <= quiet + 3


def _rest() -> dict[str, Any]:
    missing = np.zeros(R, bool)
    return {
        "fd": None,
        "dvars": None,
        "coverage": np.ones(R),
        "missing": missing,
        "t_r": 2.0,
        "censored": None,
    }


def test_censored_frames_do_not_matter() -> None:
    raw = _series(4)
    censored = np.zeros(T, bool)
    censored[[10, 11, 50]] = True
    spoilt = raw.copy()
    spoilt[censored] += 500
    one, other = (_qc(raw=raw, cleaned=x, censored=censored) for x in (raw, spoilt))
    assert one == other
    assert one["n_censored"] == 3 and one["minutes_kept"] == (T - 3) * T_R / 60
    assert one["fc_mean"] != _qc(raw=raw, cleaned=spoilt)["fc_mean"]


def test_missing_regions_do_not_matter_and_unknowns_are_none() -> None:
    raw = _series(5)
    missing = np.zeros(R, bool)
    missing[[2, 7]] = True
    hidden = raw.copy()
    hidden[:, missing] = np.nan
    qc = _qc(raw=hidden, cleaned=hidden, missing=missing, fd=None, dvars=np.full(T, np.nan))
    rest = _qc(raw=raw[:, ~missing], cleaned=raw[:, ~missing], missing=missing[~missing], fd=None, dvars=None)
    for name in ("fc_mean", "lag1", "global_sd", "n_spikes", "tsnr_median"):
        assert_allclose(qc[name], rest[name], rtol=1e-12)
    assert qc["n_missing_rois"] == 2
    assert qc["fd_mean"] is qc["fd_max"] is qc["fd_above_05"] is qc["dvars_mean"] is None
    json.dumps(qc, allow_nan=False)


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_hardly_any_frames_still_give_json(n_frames: int) -> None:
    raw = _series(6, n_frames)
    qc = _qc(raw=raw, cleaned=raw, fd=np.full(n_frames, np.nan), dvars=None)
    json.dumps(qc, allow_nan=False)
    assert qc["fd_mean"] is None and qc["minutes_kept"] == n_frames * T_R / 60


def test_a_series_without_a_level_has_no_global_percentage() -> None:
    raw = _series(7)
    scored = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    assert _qc(raw=scored, cleaned=scored)["global_sd"] is None


# --- the cohort in running sums -----------------------------------------------------------------------------

N = 23


@pytest.fixture(scope="module")
def cohort() -> tuple[pd.DataFrame, list[NDArray[np.float32]], list[float | None]]:
    rng = np.random.default_rng(8)
    table = pd.DataFrame(rng.normal(0, 40, (R, 3)), columns=list("xyz"))
    scans: list[NDArray[np.float32]] = []
    motion: list[float | None] = []
    for i in range(N):
        fd = float(rng.gamma(2, 0.1))
        series = _series(100 + i, 40 + 3 * i, shared=0.3 + fd) * np.float32(1 + 0.1 * rng.normal())
        if i % 4 == 1:
            series[:, [i % R, (3 * i) % R]] = np.nan
        scans.append(series)
        motion.append(None if i % 6 == 5 else fd)
    return table, scans, motion


def _summary(table: pd.DataFrame, scans: Any, motion: Any) -> CohortSummary:
    summary = CohortSummary(table)
    for series, fd in zip(scans, motion, strict=True):
        summary.add(series, {"fd_mean": fd})
    return summary


def _stored_z(scans: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([np.arctanh(np.corrcoef(s.astype(np.float64), rowvar=False)) for s in scans])


def test_running_sums_equal_stored_data(cohort: Any) -> None:
    table, scans, motion = cohort
    summary = _summary(table, scans, motion)
    z = _stored_z(scans)  # (N, R, R), NaN where missing
    upper = np.triu_indices(R, 1)
    assert_allclose(summary.mean_fc()[upper], np.tanh(np.nanmean(z, axis=0))[upper], atol=1e-8)
    assert_allclose(summary.n_per_edge()[upper], np.isfinite(z).sum(axis=0)[upper])
    assert summary.n_per_edge()[upper].min() < N  # edges do differ

    means = np.array([s.astype(np.float64).mean(axis=0) for s in scans])
    within = np.array([s.astype(np.float64).var(axis=0) for s in scans])
    assert_allclose(summary.between_to_within(), np.nanvar(means, 0) / np.nanmean(within, 0), rtol=1e-8)

    known = np.array([fd is not None for fd in motion])
    fd = np.array([fd for fd in motion if fd is not None])
    expected = []
    for a, b in zip(*upper, strict=True):
        there = np.isfinite(z[known, a, b])
        expected.append(pearsonr(z[known, a, b][there], fd[there]).statistic)
    found = summary.qc_fc()
    assert found is not None and found.n_scans == known.sum()
    assert_allclose(found.correlation, expected, atol=1e-8)
    centres = table.to_numpy()
    distance = [np.linalg.norm(centres[a] - centres[b]) for a, b in zip(*upper, strict=True)]
    assert_allclose(found.distance, distance)
    assert found.distance_slope is not None
    assert_allclose(found.distance_slope, spearmanr(expected, distance).statistic, atol=1e-8)


def test_order_of_scans_does_not_matter(cohort: Any) -> None:
    table, scans, motion = cohort
    order = np.random.default_rng(9).permutation(N)
    one, other = (
        _summary(table, [scans[i] for i in o], [motion[i] for i in o]) for o in (range(N), order.tolist())
    )
    assert_allclose(one.mean_fc(), other.mean_fc(), atol=1e-12)
    assert_allclose(one.between_to_within(), other.between_to_within(), rtol=1e-9)
    first, second = one.qc_fc(), other.qc_fc()
    assert first is not None and second is not None
    assert_allclose(first.correlation, second.correlation, atol=1e-10)


def test_motion_that_falls_with_distance_is_seen() -> None:
    rng = np.random.default_rng(10)
    centres = rng.uniform(-60, 60, (30, 3))
    table = pd.DataFrame(centres, columns=list("xyz"))
    near = np.exp(-np.linalg.norm(centres[:, None] - centres[None], axis=-1) / 25)
    root = np.linalg.cholesky(near + 1e-6 * np.eye(30))
    moving, still = CohortSummary(table), CohortSummary(table)
    for _ in range(40):
        fd = float(rng.gamma(2, 0.15))
        noise = rng.normal(size=(120, 30))
        spread = fd * rng.normal(size=(120, 30)) @ root.T
        moving.add((noise + 3 * spread).astype(np.float32), {"fd_mean": fd})
        still.add(noise.astype(np.float32), {"fd_mean": fd})
    left, gone = moving.qc_fc(), still.qc_fc()
    assert left is not None and gone is not None
    assert left.distance_slope is not None and left.distance_slope < -0.4
    assert gone.distance_slope is not None and abs(gone.distance_slope) < 0.2
    assert left.median_abs > 1.5 * left.chance and gone.median_abs < 1.3 * gone.chance


def test_qc_fc_needs_scans_with_different_fd(cohort: Any) -> None:
    table, scans, _ = cohort
    assert _summary(table, scans[:9], [0.1 * i for i in range(9)]).qc_fc() is None
    assert _summary(table, scans, [0.2] * N).qc_fc() is None
    assert _summary(table, scans, [None] * N).qc_fc() is None
    nowhere = _summary(table.assign(x="n/a"), scans, [0.01 * i for i in range(N)]).qc_fc()
    assert nowhere is not None and nowhere.distance_slope is None


def test_typicality_is_low_for_shuffled_regions(cohort: Any) -> None:
    rng = np.random.default_rng(11)
    root = rng.normal(size=(R, R))
    scans = [(rng.normal(size=(200, R)) @ root.T).astype(np.float32) for _ in range(12)]
    summary = _summary(cohort[0], scans, [None] * 12)
    z, upper = _stored_z(scans), np.triu_indices(R, 1)
    expected = pearsonr(z[0][upper], z.mean(axis=0)[upper]).statistic
    typical = summary.typicality(scans[0])
    assert typical is not None
    assert_allclose(typical, expected, atol=1e-8)
    odd = summary.typicality(scans[0][:, np.roll(np.arange(R), 1)])
    assert typical > 0.9 and odd is not None and odd < 0.6


def test_censored_frames_do_not_enter_connectivity(cohort: Any) -> None:
    table, scans, _ = cohort
    series = scans[0]
    marks = np.zeros(len(series), bool)
    marks[5:9] = True
    spoilt = series.copy()
    spoilt[marks] += 1e4
    one, other = CohortSummary(table), CohortSummary(table)
    one.add(spoilt, {}, censored=marks)
    other.add(series[~marks], {})
    assert_allclose(one.mean_fc(), other.mean_fc(), atol=1e-12)


def test_memory_does_not_grow_with_scans(cohort: Any) -> None:
    table, scans, motion = cohort
    summary = _summary(table, scans, motion)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        for series, fd in zip(scans, motion, strict=True):
            summary.add(series, {"fd_mean": fd})
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000  # bytes; 460 stored matrices would be 200,000


def test_watch_collects_what_the_report_needs(cohort: Any) -> None:
    table, scans, motion = cohort
    watch = CohortWatch(table)
    facts = [
        {"scan_id": f"sub-{i:02d}", "t_r": 2.0, "fd_mean": fd, "qc": {"fd_mean": fd, "n_spikes": i}}
        for i, fd in enumerate(motion)
    ]
    for series, fact in zip(scans, facts, strict=True):
        watch.observe(series, fact)
    for series, fact in zip(scans, facts, strict=True):
        watch.observe_again(series, fact)
    numbers = watch.qc_table()
    assert list(numbers) == ["scan_id", "t_r", *(m.name for m in ALL_METRICS)]
    assert numbers["scan_id"].tolist() == [f["scan_id"] for f in facts]
    assert numbers["n_spikes"].tolist() == list(range(N)) and numbers["tsnr_median"].isna().all()
    assert numbers["fd_mean"].isna().tolist() == [fd is None for fd in motion]
    typical = watch.summary.typicality(scans[3])
    assert typical is not None and numbers["typicality"][3] == typical


# --- scans that stand out -----------------------------------------------------------------------------------


def _numbers(n: int, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"scan_id": [f"s{i}" for i in range(n)]} | columns)


def test_outliers_only_on_the_bad_side() -> None:
    rng = np.random.default_rng(12)
    fd, tsnr, fc = rng.normal(0.2, 0.02, 40), rng.normal(50, 2, 40), rng.normal(0.2, 0.02, 40)
    fd[[3, 4]] = 0.9, 0.0
    tsnr[[5, 6]] = 90, 9
    fc[[7, 8]] = 0.9, -0.5
    found = find_outliers(_numbers(40, fd_mean=fd, tsnr_median=tsnr, fc_mean=fc))
    assert [(o.scan_id, o.metric) for o in found] == [
        ("s3", "fd_mean"),
        ("s6", "tsnr_median"),
        ("s7", "fc_mean"),
        ("s8", "fc_mean"),
    ]
    assert found[0].value == 0.9 and found[0].median == np.median(fd)
    mad = np.median(np.abs(fd - np.median(fd)))
    assert_allclose(found[0].limit, np.median(fd) + 3.5 * mad / 0.6745)


def test_outliers_where_most_scans_are_equal_and_where_it_does_not_matter() -> None:
    missing = np.zeros(50)
    missing[7] = 4
    coverage = np.ones(50)
    coverage[9] = 0.97  # far out statistically, and of no interest
    found = find_outliers(_numbers(50, n_missing_rois=missing, coverage_min=coverage))
    assert [(o.scan_id, o.metric, o.value) for o in found] == [("s7", "n_missing_rois", 4)]
    missing[7] = 1
    assert len(find_outliers(_numbers(50, n_missing_rois=missing))) == 1
    missing[:15] = 1  # nearly a third of the scans: z = 1 / (1.2533 * 0.42)
    assert find_outliers(_numbers(50, n_missing_rois=missing)) == []


def test_outliers_among_scans_of_the_same_t_r() -> None:
    rng = np.random.default_rng(13)
    t_r = np.repeat([0.735, 2.0, 3.0], [30, 30, 9])
    tsnr = np.concatenate([rng.normal(30, 1, 30), rng.normal(80, 1, 30), rng.normal(50, 1, 9)])
    tsnr[[40, 62]] = 40, 1  # 40 is plain for the fast scans; the last group is too small
    assert [o.scan_id for o in find_outliers(_numbers(69, t_r=t_r, tsnr_median=tsnr))] == ["s40"]
    assert find_outliers(_numbers(69, tsnr_median=tsnr)) == []


def test_too_few_scans_or_unknown_numbers_have_no_outliers() -> None:
    values = [*[0.1] * 8, 9.0]
    assert find_outliers(_numbers(9, fd_mean=values)) == []
    assert find_outliers(_numbers(14, fd_mean=[*values, *[None] * 5])) == []
    assert len(find_outliers(_numbers(10, fd_mean=[*values, 0.1]))) == 1
