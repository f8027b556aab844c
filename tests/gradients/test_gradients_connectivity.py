"""gradients/connectivity.py: numpy's correlation, missing regions edge by edge, phases, refusals."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.gradients import functional_connectivity
from bjepa.gradients.connectivity.scan_maps import fisher_z, scan_connectivity_of_shards
from bjepa.gradients.scans import ShardScans
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader, ShardScan, write_shard

N_ROIS = 6


def series(seed: int, n_frames: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return 1e4 + rng.normal(size=(n_frames, N_ROIS)) @ rng.normal(size=(N_ROIS, N_ROIS))


def expected_z(timeseries: NDArray[np.float64]) -> NDArray[np.float64]:
    r = np.asarray(np.corrcoef(timeseries.T))
    np.fill_diagonal(r, 0)
    return np.arctanh(r)


def shard(
    path: Path,
    scans: list[tuple[str, list[NDArray[np.float64]], list[int]]],
    censored: list[list[NDArray[np.bool_]]] | None = None,
) -> ShardReader:
    """Scans as (participant, phases, numbers of missing regions); which frames were scrubbed."""
    write_shard(
        path / "shards" / "shard-00000.h5",
        [
            ShardScan(
                entities={
                    "scan_id": f"scan{n}",
                    "participant_id": person,
                    "session": "",
                    "task": "rest",
                    "run": "",
                },
                t_r=0.7,
                t_r_out=2.1,
                valid=np.isin(np.arange(N_ROIS), missing, invert=True),
                phases=[phase.astype(np.float32) for phase in phases],
                censored=None if censored is None else censored[n],
            )
            for n, (person, phases, missing) in enumerate(scans)
        ],
        atlas="test",
        atlas_sha256="0" * 64,
        rois={
            c: [f"{c}{n}" for n in range(N_ROIS)]
            for c in ("name", "structure", "hemisphere", "network7", "network17")
        },
        median=np.zeros(N_ROIS),
        iqr=np.ones(N_ROIS),
        scaling="none",
        target_t_r=2.0,
    )
    return ShardReader(path)


def test_mean_of_fisher_z_with_equal_weight_for_every_scan() -> None:
    scans = [series(0, 40), series(1, 90), series(2, 25)]
    fc = functional_connectivity(scan for scan in scans)
    assert_allclose(fc, np.mean([expected_z(s) for s in scans], axis=0), atol=1e-10)
    assert (np.diag(fc) == 0).all()


def test_law_offset_and_scale_of_a_region_do_not_matter() -> None:
    scan = series(0, 40)
    moved = scan * [1, 5, 0.1, 3, 2, 1e3] + [0, -1e4, 3, 0, 7, 1]
    assert_allclose(functional_connectivity([moved]), functional_connectivity([scan]), atol=1e-8)


def test_missing_and_constant_regions_leave_out_their_edges_only() -> None:
    scans = [series(seed, 50) for seed in range(3)]
    gone, flat = scans[0].copy(), scans[1].copy()
    gone[:, 2] = np.nan
    flat[:, 4] = 812.3
    fc = functional_connectivity([gone, flat, scans[2]])
    z = [expected_z(s) for s in scans]
    assert_allclose(fc[2, 4], z[2][2, 4], atol=1e-10)  # only the last scan has both
    assert_allclose(fc[2, 1], (z[1][2, 1] + z[2][2, 1]) / 2, atol=1e-10)
    assert_allclose(fc[4, 1], (z[0][4, 1] + z[2][4, 1]) / 2, atol=1e-10)
    assert_allclose(fc[0, 1], (z[0] + z[1] + z[2])[0, 1] / 3, atol=1e-10)


def test_a_constant_with_rounding_is_missing_and_a_small_signal_on_a_high_level_is_not() -> None:
    scan = series(0, 30)
    scan[:, 1] = 0.1 * 3e7  # its mean over 30 frames is not exactly it
    scan[:, 3] = 1e6 + 1e-4 * scan[:, 2]
    scan[:, 5] *= 1e-200  # squares to 0
    z = fisher_z(scan)
    assert np.isnan(z[[1, 5]]).all()
    assert_allclose(z[3, [0, 4]], expected_z(series(0, 30))[2, [0, 4]], atol=1e-4)


def test_identical_series_stay_finite() -> None:
    scan = series(0, 30)
    scan[:, 3] = 2 * scan[:, 1]
    fc = functional_connectivity([scan])
    assert fc[1, 3] == pytest.approx(8.4, abs=0.1)


def test_phases_are_averaged_before_scans(tmp_path: Path) -> None:
    phases = [series(seed, 31 + seed) / 100 for seed in range(4)]
    reader = shard(tmp_path, [("sub-1", phases[:3], []), ("sub-2", phases[3:], [5])])
    z = [expected_z(p.astype(np.float32).astype(np.float64)) for p in phases]
    fc = functional_connectivity(reader)
    first = (z[0] + z[1] + z[2]) / 3
    assert_allclose(fc[:5, :5], ((first + z[3]) / 2)[:5, :5], atol=1e-10)
    assert_allclose(fc[5, :5], first[5, :5], atol=1e-10)  # missing in the second scan
    (alone,) = scan_connectivity_of_shards(reader, [1])
    assert np.isnan(alone[5]).all()
    assert_allclose(alone[:5, :5], z[3][:5, :5], atol=1e-10)


def test_a_region_that_is_not_valid_is_left_out_whatever_is_stored(tmp_path: Path) -> None:
    shard(tmp_path, [("1", [series(0, 31) / 100], [])])
    with h5py.File(tmp_path / "shards/shard-00000.h5", "a") as file:
        file["scans/valid"][0, 3] = False
    (z,) = scan_connectivity_of_shards(ShardReader(tmp_path))
    assert np.isnan(z[3]).all()
    assert np.isfinite(z[0, 1])


def test_a_phase_in_which_a_region_is_flat_does_not_count_for_it(tmp_path: Path) -> None:
    phases = [series(seed, 31) / 100 for seed in range(2)]
    phases[0][:, 3] = 1.5
    (z,) = scan_connectivity_of_shards(shard(tmp_path, [("1", phases, [])]))
    whole = expected_z(phases[1].astype(np.float32).astype(np.float64))
    assert_allclose(z[3], whole[3], atol=1e-10)


def test_scrubbed_frames_take_no_part(tmp_path: Path) -> None:
    phases = [series(seed, 41 + seed) / 100 for seed in range(3)]
    marks = [np.arange(len(phase)) % 4 == 1 for phase in phases]
    for phase, mark in zip(phases, marks, strict=True):
        phase[mark] += 1e3  # whatever was filled in
    reader = shard(tmp_path, [("1", phases[:2], []), ("2", phases[2:], [5])], [marks[:2], marks[2:]])
    kept = [p[~m].astype(np.float32).astype(np.float64) for p, m in zip(phases, marks, strict=True)]
    z = [expected_z(p) for p in kept]
    maps = np.array([(z[0] + z[1]) / 2, z[2]])
    assert_allclose(functional_connectivity(reader)[:5, :5], maps.mean(axis=0)[:5, :5], atol=1e-10)
    frames = [len(kept[0]) + len(kept[1]), len(kept[2])]
    weighted = functional_connectivity(reader, weights="frames")
    assert_allclose(weighted[:5, :5], np.average(maps, axis=0, weights=frames)[:5, :5], atol=1e-10)
    assert_allclose(list(scan_connectivity_of_shards(reader))[1][:5, :5], z[2][:5, :5], atol=1e-10)


@pytest.mark.parametrize("left", [0, 2])
def test_a_scan_that_is_scrubbed_away_is_named(tmp_path: Path, left: int) -> None:
    scans = [("1", [series(0, 31) / 100], []), ("2", [series(1, 25) / 100], [2])]
    marks = [[np.zeros(31, dtype=bool)], [np.arange(25) >= left]]
    with pytest.raises(InputError, match=f"scan scan1 has {left} of 25 frames left after scrubbing"):
        functional_connectivity(shard(tmp_path, scans, marks))


def test_progress_of_shards_sees_every_scan(tmp_path: Path) -> None:
    reader = shard(tmp_path, [(str(n), [series(n, 31) / 100], []) for n in range(20)])
    seen: list[int] = []

    def watch(numbers):  # type: ignore[no-untyped-def]
        for number in numbers:
            seen.append(number)
            yield number
        seen.append(-1)  # a bar is closed

    functional_connectivity(reader, progress=watch)
    assert seen == [*range(20), -1]


def test_law_threads_that_read_shards_change_no_byte(tmp_path: Path) -> None:
    phases = [[series(n + k, 31) / 100 for k in range(n % 3 + 1)] for n in range(70)]
    shard(tmp_path, [(str(n), own, [n % 4] if n % 9 == 2 else []) for n, own in enumerate(phases)])
    found = {functional_connectivity(ShardReader(tmp_path), n_jobs=n_jobs).tobytes() for n_jobs in (1, 2, 5)}
    assert len(found) == 1


def test_a_choice_of_scans_keeps_its_places(tmp_path: Path) -> None:
    reader = shard(tmp_path, [(f"sub-{n}", [series(n, 31) / 100] * (n % 3 + 1), []) for n in range(7)])
    chosen = ShardScans(reader).subset([6, 1, 4]).subset([2, 0])
    assert chosen.labels == ["scan scan4", "scan scan6"]
    assert chosen.entities["participant_id"] == ["4", "6"]
    assert [len(chosen.phases(n)) for n in range(len(chosen))] == [2, 1]
    assert_allclose(chosen.phases(1)[0], reader[int(np.flatnonzero(reader.series_scan == 6)[0])])
    (again,) = pickle.loads(pickle.dumps(chosen)).subset([1]).phases(0)
    assert_allclose(again, chosen.phases(1)[0])


def test_progress_sees_every_scan() -> None:
    seen = []

    def watch(scans):  # type: ignore[no-untyped-def]
        for scan in scans:
            seen.append(len(scan))
            yield scan

    functional_connectivity([series(0, 30), series(1, 40)], progress=watch)
    assert seen == [30, 40]


def test_names_what_was_never_seen(tmp_path: Path) -> None:
    scans = [series(seed, 30) for seed in range(2)]
    for scan in scans:
        scan[:, 4] = 0
    with pytest.raises(InputError, match="any of 2 scans for region 5"):
        functional_connectivity(scans)
    apart = [series(seed, 30) for seed in range(2)]
    apart[0][:, 1] = apart[1][:, 3] = np.nan
    with pytest.raises(InputError, match=r"never seen together .* region 2 \(b\) with 4 \(d\)"):
        functional_connectivity(apart, names=list("abcdef"))
    reader = shard(tmp_path, [("1", [scans[0]], [0])])
    with pytest.raises(InputError, match=r"in the scan for region 1 \(name0\), 5 \(name4\)"):
        functional_connectivity(reader)
    with pytest.raises(InputError, match=r"in the scan for region 1 \(a\), 5 \(e\)"):
        functional_connectivity(reader, names=list("abcdef"))


def test_refuses() -> None:
    spoilt = series(0, 30)
    spoilt[:, 0], spoilt[7, 2] = np.nan, np.inf
    with pytest.raises(InputError, match="scan 2 has a non-finite value in region 3, frame 8"):
        functional_connectivity([series(1, 30), spoilt])
    with pytest.raises(InputError, match="scan 2 has 5 regions, the scans before it 6"):
        functional_connectivity([series(0, 30), series(1, 30)[:, :5]])
    with pytest.raises(InputError, match="no scan"):
        functional_connectivity([])
    for shape in [(2, 6), (30, 1), (30,)]:
        with pytest.raises(InputError, match="at least 3 frames"):
            fisher_z(np.random.default_rng(0).normal(size=shape))
