"""preproc/group_stage.py, group_plan.py, scan_records.py: from scans' files to shards, in a stream."""

import json
import logging
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError, ShardReader, scan_files
from bjepa.preproc.atlas import Atlas, load_atlas
from bjepa.preproc.files import write_json
from bjepa.preproc.group_stage import GroupOptions, GroupResult, run_group
from bjepa.preproc.scaling import SCALING_METHODS
from bjepa.preproc.scan_records import read_records, scan_paths

R = 5
MISSING = {"sub-02": [3]}
# participant, frames, t_r: sub-02 has two scans, strides 3, 3, 1, 2, 1
SCANS = (
    ("sub-01", 31, 0.7),
    ("sub-02", 40, 0.7),
    ("sub-02", 13, 2.0),
    ("sub-03", 22, 1.1),
    ("sub-04", 17, 2.2),
)


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    labels = np.zeros((7, 8, 6), np.int16)
    for region in range(1, R + 1):
        labels[1:6, region : region + 1, 1:5] = region
    nib.save(nib.Nifti1Image(labels, np.diag([3.0, 3.5, 4.0, 1.0])), tmp_path / "own.nii.gz")
    (tmp_path / "own.tsv").write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in range(1, R + 1)))
    return load_atlas(str(tmp_path / "own.nii.gz"), space="here", labels_tsv=tmp_path / "own.tsv")


def _series(number: int) -> np.ndarray:
    participant, n_frames, _ = SCANS[number]
    rng = np.random.default_rng(number)
    series = rng.normal(size=(n_frames, R)).cumsum(axis=0) + np.array([10, 200, -30, 4000, 55]) * (1 + number)
    series[:, MISSING.get(participant, [])] = np.nan
    return np.asarray(series, dtype=np.float32)


def _censored(number: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(100 + number).random(SCANS[number][1]) < 0.3)


def _facts(number: int, atlas: Atlas, **other: Any) -> dict[str, Any]:
    participant, n_frames, t_r = SCANS[number]
    missing = MISSING.get(participant, [])
    return {
        "scan_id": f"{participant}_task-rest_run-{number}",
        "participant_id": participant,
        "session": "",
        "task": "rest",
        "run": str(number),
        "source": f"/data/{participant}_run-{number}_bold.nii.gz",
        "source_sha256": f"{number:064d}" if number else None,
        "mask": None,
        "space": "here",
        "t_r": t_r,
        "n_frames_in": n_frames + 2,
        "n_frames": n_frames,
        "fd_mean": None if number == 0 else number / 10,
        "tsnr_median": 50.5,
        "coverage": [0.9] * R,
        "missing": missing,
        "n_censored": int(_censored(number).sum()),
        "n_dropped": 2,
        "confounds": ["trans_x", "csf"],
        "options": {"t_r": None, "space": "here", "cleaning": {"confounds": "simple"}},
        "atlas": atlas.name,
        "atlas_sha256": atlas.sha256,
        "software": {"numpy": "2.0", "bjepa": "1"},
        "key": f"key{number}",
        "qc": {"n_spikes": number},
    } | other


def _write(output: Path, number: int, atlas: Atlas, label: str = "own", **other: Any) -> Path:
    facts = _facts(number, atlas, **other)
    stem: Path = output / facts["participant_id"] / "func" / f"{facts['scan_id']}_seg-{label}_timeseries"
    scan_files.write_scan(stem, _series(number), _censored(number), facts)
    return stem


@pytest.fixture
def output(tmp_path: Path, atlas: Atlas) -> Path:
    for number in (3, 0, 4, 2, 1):  # written in any order
        _write(tmp_path / "out", number, atlas)
    return tmp_path / "out"


def _run(atlas: Atlas, output: Path, **options: Any) -> GroupResult:
    return run_group(atlas, output, GroupOptions(**options), progress=lambda _: None)


def _stored(number: int) -> list[np.ndarray]:
    stride = (3, 3, 1, 2, 1)[number]
    return [_series(number)[start::stride] for start in range(stride)]


# --- what is stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SCALING_METHODS)
def test_law_the_input_is_recoverable(atlas: Atlas, output: Path, method: Any) -> None:
    _run(atlas, output, scaling=method)
    reader = ShardReader(output)
    expected = [(number, phase) for number in range(5) for phase in _stored(number)]
    assert len(reader) == len(expected) and reader.scaling == method
    for i, (number, phase) in enumerate(expected):
        assert reader.series_scan[i] == number
        valid = reader.valid[number]
        # one rounding of what is stored (the distance from the origin of the scale), one of the result
        origin = reader.unscale(np.zeros((1, R), np.float32), i)[:, valid]
        error = np.abs(reader.unscale(reader[i], i)[:, valid].astype(float) - phase[:, valid])
        assert (error <= 2.0**-23 * (np.abs(phase[:, valid]) + np.abs(phase[:, valid] - origin))).all()
        assert (reader[i][:, ~valid] == 0).all()
    assert reader.valid.sum() == 5 * R - 2


def test_fitted_on_the_named_participants_alone(atlas: Atlas, output: Path) -> None:
    _run(atlas, output, scaling_participants=frozenset({"sub-01", "sub-04", "sub-99"}))
    reader = ShardReader(output)
    low, median, high = np.percentile(
        np.concatenate([_series(0), _series(4)]).astype(float), [25, 50, 75], axis=0
    )
    assert_allclose(reader.median, median, rtol=1e-12)
    assert_allclose(reader.iqr, high - low, rtol=1e-12)
    with h5py.File(reader.paths[0]) as shard:
        assert shard["scans/fits_scaling"][:].tolist() == [True, False, False, False, True]
        told = json.loads(shard.attrs["options"])["group"]["scaling_participants"]
        assert told["n"] == 3 and len(told["sha256"]) == 64
    # with the first phase alone, only its frames count
    _run(atlas, output, phases="first", scaling_participants=frozenset({"sub-01"}))
    assert_allclose(ShardReader(output).median, np.median(_series(0)[::3].astype(float), axis=0), rtol=1e-12)


def test_marks_and_provenance_are_carried(atlas: Atlas, output: Path) -> None:
    with h5py.File(_write(output, 4, atlas).with_suffix(".h5"), "a") as file:
        del file["censored"]  # as files of earlier versions
    result = _run(atlas, output)
    reader = ShardReader(output)
    marks = [_censored(n)[s :: (3, 3, 1, 2)[n]] for n in range(4) for s in range((3, 3, 1, 2)[n])]
    for i, expected in enumerate(marks):
        assert reader.censored(i).tolist() == expected.tolist()
    assert not reader.censored(len(marks)).any()
    assert reader.space == "here" and reader.software == {"numpy": "2.0", "bjepa": "1"}
    assert reader.options["participant"] == {"cleaning": {"confounds": "simple"}}
    assert reader.options["group"]["phases"] == "all"
    first, second = reader.provenance(0), reader.provenance(1)
    assert first["source_sha256"] == "" and second["source_sha256"] == f"{1:064d}"
    assert second["source"] == "/data/sub-02_run-1_bold.nii.gz" and second["n_dropped"] == 2
    assert second["confounds"] == ["trans_x", "csf"] and second["n_censored"] == _censored(1).sum()
    assert [scan.qc["n_spikes"] for scan in result.scans] == [0, 1, 2, 3, 4]
    assert_array_equal(result.scans[1].series(), _series(1))


def test_scans_table(atlas: Atlas, output: Path) -> None:
    _run(atlas, output)
    table = pd.read_csv(output / "scans.tsv", sep="\t", dtype={"run": str})
    assert table["run"].tolist() == ["0", "1", "2", "3", "4"]
    assert table["stride"].tolist() == [3, 3, 1, 2, 1] and table["n_phases"].tolist() == [3, 3, 1, 2, 1]
    assert table["n_frames"].tolist() == [11, 14, 13, 11, 17]
    assert table["n_frames_in"].tolist() == [33, 42, 15, 24, 19]
    assert_allclose(table["t_r_out"], [2.1, 2.1, 2.0, 2.2, 2.2])
    assert table["n_missing_rois"].tolist() == [0, 1, 1, 0, 0]
    assert np.isnan(table["fd_mean"][0]) and table["fd_mean"][3] == 0.3


def test_the_part_of_a_scan_is_of_all_its_phases(atlas: Atlas, output: Path) -> None:
    for method in ("robust-dynamic", "zscore-scan"):
        _run(atlas, output, scaling=method)
        with h5py.File(output / "shards/shard-00000.h5") as shard:
            offset, scale = shard["scans/offset"][:], shard["scans/scale"][:]  # (n_scans, n_rois)
        for number in range(5):
            series = np.nan_to_num(_series(number).astype(float))
            assert_allclose(offset[number], series.mean(axis=0), rtol=1e-12)
            spread = series.std(axis=0) if method == "zscore-scan" else np.ones(R)
            assert_allclose(scale[number], np.where(spread == 0, 1, spread), rtol=1e-12)


# --- how it goes over the scans -----------------------------------------------------------------------------


class _Observer:
    """Notes what it is shown; calls the two functions, if any, on the way."""

    def __init__(self, first: Callable[[], Any] | None = None, second: Callable[[], Any] | None = None):
        self.first, self.second = first, second
        self.seen: list[str] = []
        self.again: list[str] = []

    def observe(self, series: np.ndarray, facts: Mapping[str, Any], *, censored: np.ndarray) -> None:
        assert censored.shape == (len(series),)
        if self.first is not None:
            self.first()
        assert_array_equal(series, _series(int(facts["run"])))
        self.seen.append(facts["scan_id"])

    def observe_again(self, series: np.ndarray, facts: Mapping[str, Any], *, censored: np.ndarray) -> None:
        assert censored.shape == (len(series),)
        if self.second is not None:
            self.second()
        assert_array_equal(series, _series(int(facts["run"])))
        self.again.append(facts["scan_id"])


def test_observers_and_progress(atlas: Atlas, output: Path) -> None:
    passes: list[tuple[str, int]] = []
    done: list[str] = []

    def nothing_is_written() -> None:
        assert not (output / "shards").exists()

    observer = _Observer(nothing_is_written)

    result = run_group(
        atlas,
        output,
        GroupOptions(scaling_participants=frozenset({"sub-01", "sub-03"})),
        progress=done.append,
        phase=lambda name, total: passes.append((name, total)),
        observer=observer,
    )
    ids = result.table["scan_id"].tolist()
    assert observer.seen == observer.again == ids
    assert passes == [
        ("checking scans", 5),
        ("reading scans, pass 1", 5),
        ("reading scans, pass 2", 2),
        ("writing shards", 5),
    ]
    assert len(done) == 17
    # observers change nothing, and are served where no scaling wants a pass
    shard = (output / "shards/shard-00000.h5").read_bytes()
    _run(atlas, output, scaling_participants=frozenset({"sub-01", "sub-03"}))
    assert (output / "shards/shard-00000.h5").read_bytes() == shard
    shutil.rmtree(output / "shards")
    run_group(atlas, output, GroupOptions(scaling="none"), progress=done.append, observer=observer)
    assert observer.seen == 2 * ids


def test_a_region_that_no_fitting_scan_has_is_refused(atlas: Atlas, output: Path) -> None:
    """It would be stored in raw units, 40,000 beside values around 1."""
    with pytest.raises(InputError, match=r"1 regions \(r4\) are missing in every scan that fits"):
        _run(atlas, output, scaling_participants=frozenset({"sub-02"}))
    assert not (output / "shards").exists()


def test_scans_that_failed_or_vanished(
    atlas: Atlas, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = _run(atlas, output).table["scan_id"].tolist()
    note = {"source": "x", "stage": "participant", "error": "InputError", "message": "m", "hint": "h"}
    write_json(output / f"work/failures/{ids[2]}.json", {"scan_id": ids[2], **note})
    (output / "work/failures/damaged.json").write_text("{")
    assert _run(atlas, output).table["scan_id"].tolist() == [ids[0], ids[1], *ids[3:]]
    assert "1 scans failed when last tried and are left out" in caplog.text
    (output / f"work/failures/{ids[2]}.json").unlink()
    here = tmp_path / "bold.nii.gz"
    here.touch()
    _write(output, 0, atlas, source=str(here))
    assert _run(atlas, output).table["scan_id"].tolist() == ids
    assert "4 of 5 scans are of files that are no longer there" in caplog.text


def test_shards_are_split_and_hold_the_same(
    atlas: Atlas, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(atlas, output)
    whole = list(ShardReader(output))
    monkeypatch.setattr("bjepa.preproc.group_stage.SHARD_BYTES", 4 * R * 45)
    result = _run(atlas, output)
    reader = ShardReader(output)
    assert result.table["shard"].str[-5:].tolist() == ["00.h5", "01.h5", "02.h5", "02.h5", "03.h5"]
    for ours, expected in zip(reader, whole, strict=True):
        assert_array_equal(ours, expected)


def test_memory_does_not_grow_with_frames_or_facts(tmp_path: Path, atlas: Atlas) -> None:
    """A record of a scan is small, whatever its facts hold."""
    output = tmp_path / "out"
    stem = _write(output, 0, atlas, confounds=[f"column_{k}" for k in range(3000)])
    for k in range(1, 60):
        facts = _facts(0, atlas, scan_id=f"sub-01_run-{k}", key=f"k{k}")
        facts["confounds"] = [f"column_{k}_{i}" for i in range(3000)]  # 50 kB
        (stem.parent / f"sub-01_run-{k}_seg-own_timeseries.json").write_text(json.dumps(facts))
        shutil.copy(stem.with_suffix(".h5"), stem.parent / f"sub-01_run-{k}_seg-own_timeseries.h5")
        with h5py.File(stem.parent / f"sub-01_run-{k}_seg-own_timeseries.h5", "a") as file:
            file.attrs["key"] = f"k{k}"
    paths = scan_paths(output)
    read_records(paths[:1], atlas.sha256, R, progress=lambda _: None)  # what is imported and cached once
    tracemalloc.start()
    records, *_ = read_records(paths, atlas.sha256, R, progress=lambda _: None)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 60 and kept / 60 < 2000  # bytes
    assert most < 2_000_000


# --- what is refused ----------------------------------------------------------------------------------------


def test_halves_of_two_runs_and_damaged_files_are_all_named(atlas: Atlas, output: Path) -> None:
    _run(atlas, output)
    before = (output / "shards/shard-00000.h5").read_bytes()
    stems = [_write(output, number, atlas) for number in range(3)]
    with h5py.File(stems[0].with_suffix(".h5"), "a") as file:
        file.attrs["key"] = "another run"
    stems[1].with_suffix(".h5").unlink()
    with h5py.File(stems[2].with_suffix(".h5"), "a") as file:
        del file["timeseries"]
        file["timeseries"] = np.zeros((4, R), np.float32)
    with pytest.raises(
        InputError, match=r"3 scans are damaged.*run-0.*different runs.*run-1.*run-2.*\(4, 5\)"
    ):
        _run(atlas, output)
    with pytest.raises(InputError, match="Run the stage 'participant' again"):
        _run(atlas, output)
    assert (output / "shards/shard-00000.h5").read_bytes() == before
    for number in range(3):
        _write(output, number, atlas)
    _run(atlas, output)
    assert (output / "shards/shard-00000.h5").read_bytes() == before


def test_a_scan_that_changes_under_way_is_refused(atlas: Atlas, output: Path) -> None:
    observer = _Observer(lambda: _write(output, 1, atlas, key="new"))
    with pytest.raises(InputError, match="sub-02_task-rest_run-1 changed while"):
        run_group(atlas, output, GroupOptions(), progress=lambda _: None, observer=observer)
    assert not (output / "shards").exists()
    scan = _run(atlas, output).scans[0]
    with h5py.File(scan.path.with_suffix(".h5"), "a") as file:
        file.attrs["key"] = "another"
    with pytest.raises(InputError, match="run-0 changed while"):
        scan.series()
    scan.path.write_text(json.dumps(_facts(0, atlas, key="another")))
    with pytest.raises(InputError, match="run-0 changed while"):
        _ = scan.facts


def test_what_a_missing_region_holds_does_not_matter(atlas: Atlas, output: Path) -> None:
    _run(atlas, output)
    before = (output / "shards/shard-00000.h5").read_bytes()
    with h5py.File(next(output.glob("sub-02/func/*run-1*.h5")), "a") as file:
        assert np.isnan(file["timeseries"][:, 3]).all()
        file["timeseries"][:, 3] = 1e6
    _run(atlas, output)
    assert (output / "shards/shard-00000.h5").read_bytes() == before


def test_mixed_options_twice_foreign_and_versions(
    atlas: Atlas, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hand = {"t_r": 0.7, "space": "there", "cleaning": {"confounds": "simple"}}
    _write(output, 0, atlas, options=hand, space="there", software={"numpy": "2.1", "bjepa": "1"})
    foreign = _write(output, 3, atlas, "other", atlas_sha256="f" * 64)
    with caplog.at_level(logging.WARNING):
        _run(atlas, output)
    assert "1 finished scans of other atlases" in caplog.text and str(foreign) in caplog.text
    assert "several versions of numpy: 2.0, 2.1" in caplog.text
    reader = ShardReader(output)
    assert reader.space == "here, there" and reader.software["numpy"] == ["2.0", "2.1"]

    _write(output, 3, atlas, "other")  # the same atlas under another name
    with pytest.raises(InputError, match="sub-03_task-rest_run-3 is there twice"):
        _run(atlas, output)
    for path in (output / "sub-03/func").glob("*seg-other*"):
        path.unlink()
    _write(output, 4, atlas, options=hand | {"cleaning": {"confounds": "36p"}})
    with pytest.raises(InputError, match=r"run-4 with .*36p"):
        _run(atlas, output)


def test_participants_that_fit_nothing(atlas: Atlas, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="none of them has a finished scan"):
        _run(atlas, output, scaling_participants=frozenset({"sub-77"}))
    with caplog.at_level(logging.WARNING):
        _run(atlas, output, scaling="zscore-scan", scaling_participants=frozenset({"sub-01"}))
    assert "--scaling-participants has no effect" in caplog.text
    with h5py.File(ShardReader(output).paths[0]) as shard:
        assert not shard["scans/fits_scaling"][:].any()


# --- killed runs --------------------------------------------------------------------------------------------


def test_whatever_a_killed_run_left_the_bytes_are_the_same(atlas: Atlas, output: Path) -> None:
    _run(atlas, output)
    shards, work = output / "shards", output / "work"
    expected = {path.name: path.read_bytes() for path in shards.iterdir()}

    def leave(*names: str) -> None:
        for name in names:
            shutil.copytree(shards, work / name)
            (work / name / "shard-00007.h5").write_bytes(b"of another run")

    for left in (("shards-new",), ("shards-old",), ("shards-new", "shards-old")):
        leave(*left)
        _run(atlas, output)
        assert {path.name: path.read_bytes() for path in shards.iterdir()} == expected
        assert sorted(path.name for path in work.iterdir()) == ["group.lock"]
    # killed between the two renames: the old shards are moved away, the new ones not yet in their place
    shards.rename(work / "shards-old")

    def readers_have_the_old_ones() -> None:
        assert shards.exists()

    observer = _Observer(second=readers_have_the_old_ones)
    run_group(atlas, output, GroupOptions(), progress=lambda _: None, observer=observer)
    assert observer.again
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == expected


def test_two_group_stages_do_not_write_into_each_other(atlas: Atlas, output: Path) -> None:
    def another() -> None:
        with pytest.raises(InputError, match="another stage 'group' is at work"):
            _run(atlas, output)

    run_group(atlas, output, GroupOptions(), progress=lambda _: None, observer=_Observer(another))
    _run(atlas, output)  # the lock went with the first
    assert len(ShardReader(output)) == 10
