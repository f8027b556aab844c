"""preproc/clean.py, resample.py, scaling.py, shards.py: what happens to regional series."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError, ShardReader
from bjepa.preproc.clean import CleaningOptions, Confounds, clean_timeseries, load_confounds
from bjepa.preproc.resample import split_phases, stride_of
from bjepa.preproc.scaling import Scaling, fit_scaling
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

T, R, T_R = 140, 5, 0.8  # frames, regions, s
NO_CONFOUNDS = Confounds(None, 0, None)


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


# --- cleaning -----------------------------------------------------------------------------------------------


def test_nothing_asked_nothing_changed(series: np.ndarray) -> None:
    assert_array_equal(clean_timeseries(series, NO_CONFOUNDS, CleaningOptions(), t_r=T_R), series)


def test_law_confounds_are_gone_and_means_stay(series: np.ndarray) -> None:
    nuisance = np.random.default_rng(1).normal(size=(T, 3)) * [1, 50, 1e-3] + 7
    spoilt = (series + nuisance @ np.random.default_rng(2).normal(size=(3, R)) * 20).astype(np.float32)
    confounds = Confounds(pd.DataFrame(nuisance), 0, None)
    first = clean_timeseries(series, confounds, CleaningOptions(confounds="simple"), t_r=T_R)
    second = clean_timeseries(spoilt, confounds, CleaningOptions(confounds="simple"), t_r=T_R)
    assert_allclose(first.mean(axis=0), series.mean(axis=0), rtol=1e-5)
    assert_allclose(second - second.mean(axis=0), first - first.mean(axis=0), atol=2e-3)
    # independent: residuals of an ordinary regression on trend, mean and confounds
    design = np.column_stack([np.ones(T), np.arange(T), nuisance])
    residual = series - design @ np.linalg.lstsq(design, series.astype(float), rcond=None)[0]
    assert_allclose(first - first.mean(axis=0), residual, atol=1e-3)


def test_filters_remove_what_they_say() -> None:
    time = np.arange(400) * T_R
    slow, middle, fast = (np.sin(2 * np.pi * f * time) for f in (0.004, 0.05, 0.4))
    signal = np.column_stack([slow, middle, fast, slow + middle + fast + 9]).astype(np.float32)
    options = CleaningOptions(high_pass=0.01, low_pass=0.1)
    cleaned = clean_timeseries(signal, NO_CONFOUNDS, options, t_r=T_R)
    inside = slice(60, -60)
    assert cleaned[inside, 0].std() < 0.1 and cleaned[inside, 2].std() < 0.1  # of 0.7
    assert np.corrcoef(cleaned[inside, 3], middle[inside])[0, 1] > 0.99
    assert cleaned[:, 3].mean() == pytest.approx(signal[:, 3].mean(), rel=1e-5)


def test_missing_regions_stay_missing_and_frames_drop(series: np.ndarray) -> None:
    holed = series.copy()
    holed[:, 2] = np.nan
    confounds = Confounds(None, 4, None)
    cleaned = clean_timeseries(holed, confounds, CleaningOptions(low_pass=0.1, drop_initial="auto"), t_r=T_R)
    assert cleaned.shape == (T - 4, R) and np.isnan(cleaned[:, 2]).all() and np.isfinite(cleaned[:, 3]).all()
    assert len(clean_timeseries(series, confounds, CleaningOptions(drop_initial=7), t_r=T_R)) == T - 7


@pytest.mark.parametrize(
    ("options", "confounds", "says"),
    [
        (CleaningOptions(low_pass=0.9), NO_CONFOUNDS, r"--low-pass must be in \(0, 0.625\)"),
        (CleaningOptions(drop_initial=139), NO_CONFOUNDS, "leaves 1 of 140"),
        (CleaningOptions(confounds="24p"), Confounds(pd.DataFrame(np.ones((9, 1))), 0, None), "have 9 rows"),
        (
            CleaningOptions(confounds="36p", drop_initial=2),
            Confounds(pd.DataFrame(np.random.default_rng(0).normal(size=(T, 136))), 0, None),
            "136 confounds, mean and trend explain all of 138 frames",
        ),
    ],
)
def test_cleaning_refused(
    series: np.ndarray, options: CleaningOptions, confounds: Confounds, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        clean_timeseries(series, confounds, options, t_r=T_R)


@pytest.mark.parametrize("strategy", ["none", "simple", "compcor", "24p", "36p"])
def test_real_fmriprep_confounds(shared: Path, tmp_path: Path, strategy: str) -> None:
    stem = "sub-01_task-rest_desc-confounds_timeseries"
    for ending in ("tsv", "json"):
        shutil.copyfile(
            shared / f"data/confounds/nilearn/test-v21_desc-confounds_timeseries.{ending}",
            tmp_path / f"{stem}.{ending}",
        )
    img = tmp_path / "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    img.touch()
    confounds = load_confounds(img, None, strategy)
    table = pd.read_csv(tmp_path / f"{stem}.tsv", sep="\t")
    assert confounds.fd_mean == pytest.approx(table["framewise_displacement"].mean())
    if strategy == "none":
        assert confounds.values is None
        return
    assert confounds.values is not None and len(confounds.values) == len(table) == 30
    columns = set(confounds.values.columns)
    motion = {c for c in table.columns if c.startswith(("trans_", "rot_"))}
    assert len(motion) == 24 and motion <= columns
    assert ("global_signal" in columns) == (strategy == "36p")
    assert any(c.startswith("a_comp_cor") for c in columns) == (strategy == "compcor")


def test_confounds_missing_or_own(tmp_path: Path) -> None:
    img = tmp_path / "sub-01_task-rest_desc-preproc_bold.nii.gz"
    img.touch()
    with pytest.raises(InputError, match="confounds 'simple'"):
        load_confounds(img, None, "simple")
    own = tmp_path / "own.tsv"
    own.write_text("framewise_displacement\ta\nn/a\t1\n0.5\t2\n")
    loaded = load_confounds(img, own, "simple")
    assert loaded.values is not None and loaded.values["framewise_displacement"].tolist() == [0, 0.5]
    assert loaded.fd_mean == 0.5
    own.write_text("a\nx\n")
    with pytest.raises(InputError, match="cannot be read as a table of numbers"):
        load_confounds(img, own, "simple")


# --- resampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t_r", "stride"), [(0.735, 3), (2.0, 1), (0.72, 3), (3.0, 1), (0.5, 4)])
def test_stride(t_r: float, stride: int) -> None:
    assert stride_of(t_r, 2.0, "stride") == stride and stride_of(t_r, 2.0, "none") == 1


def test_law_phases_hold_every_frame_once(series: np.ndarray) -> None:
    phases = split_phases(series, 3, "all")
    assert [len(p) for p in phases] == [47, 47, 46]
    woven = np.empty_like(series)
    for start, phase in enumerate(phases):
        woven[start::3] = phase
    assert_array_equal(woven, series)
    assert_array_equal(split_phases(series, 3, "first")[0], series[::3])


# --- scaling ------------------------------------------------------------------------------------------------


def _fit(scans: list[np.ndarray], valid: list[np.ndarray], method: Any = "robust") -> Scaling:
    sizes = [(v, len(s)) for v, s in zip(valid, scans, strict=True)]
    return fit_scaling(sizes, lambda i, columns: scans[i][:, columns], [f"r{k}" for k in range(R)], method)


def test_scaling_is_median_and_iqr_of_all_valid_frames(
    series: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = series[:61] * 3 + 5
    all_valid, without_1 = np.ones(R, bool), np.array([True, False, True, True, True])
    expected = np.percentile(np.concatenate([series, other]), [25, 50, 75], axis=0)
    expected[:, 1] = np.percentile(series[:, 1], [25, 50, 75])
    for block in (1 << 30, 2 * 4 * 201):  # all regions at once; two at a time
        monkeypatch.setattr("bjepa.preproc.scaling._BLOCK_BYTES", block)
        scaling = _fit([series, other], [all_valid, without_1])
        assert_allclose(scaling.median, expected[1], rtol=1e-6)
        assert_allclose(scaling.iqr, expected[2] - expected[0], rtol=1e-5)
    scaled = scaling.apply(series)
    assert_allclose(scaled * scaling.iqr + scaling.median, series, rtol=1e-5)


def test_scaling_none_and_never_seen(series: np.ndarray) -> None:
    none = _fit([series], [np.ones(R, bool)], "none")
    assert_array_equal(none.apply(series), series)
    nowhere = _fit([series], [np.array([True, True, False, True, True])])
    assert (nowhere.median[2], nowhere.iqr[2]) == (0, 1)


def test_scaling_refuses_flat_regions(series: np.ndarray) -> None:
    flat = series.copy()
    flat[:, 3] = 4000
    with pytest.raises(InputError, match=r"1 regions do not vary .*\['r3'\]"):
        _fit([flat], [np.ones(R, bool)])


# --- shards -------------------------------------------------------------------------------------------------


def _scan(name: str, seed: int, lengths: tuple[int, ...], missing: int | None = None) -> ShardScan:
    rng = np.random.default_rng(seed)
    valid = np.ones(R, bool)
    if missing is not None:
        valid[missing] = False
    phases = [np.where(valid, rng.normal(size=(n, R)), np.nan).astype(np.float32) for n in lengths]
    entities = {
        "scan_id": f"{name}_task-rest",
        "participant_id": name,
        "session": "",
        "task": "rest",
        "run": "é",
    }
    return ShardScan(entities=entities, t_r=0.7, t_r_out=0.7 * len(lengths), valid=valid, phases=phases)


def _write(path: Path, scans: list[ShardScan], atlas_sha256: str = "abc") -> None:
    write_shard(
        path,
        scans,
        atlas="own",
        atlas_sha256=atlas_sha256,
        rois={c: [f"{c}{k}" for k in range(R)] for c in ROI_COLUMNS},
        median=np.linspace(0, 400, R),
        iqr=np.linspace(0.5, 4.5, R),
        scaling="robust",
        target_t_r=2.0,
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    _write(
        tmp_path / "shards/shard-00000.h5", [_scan("sub-1", 1, (7, 7, 6)), _scan("sub-2", 2, (9,), missing=3)]
    )
    _write(tmp_path / "shards/shard-00001.h5", [_scan("sub-3", 3, (4, 3))])
    return tmp_path


def test_round_trip_over_shards(output: Path) -> None:
    reader = ShardReader(output)
    scans = [_scan("sub-1", 1, (7, 7, 6)), _scan("sub-2", 2, (9,), missing=3), _scan("sub-3", 3, (4, 3))]
    written = [phase for scan in scans for phase in scan.phases]
    assert len(reader) == 6 and reader.n_rois == R and reader.atlas_sha256 == "abc"
    for stored, phase in zip(reader, written, strict=True):
        assert stored.dtype == np.float32
        assert_array_equal(stored, np.nan_to_num(phase, nan=0))
    assert reader.series_scan.tolist() == [0, 0, 0, 1, 2, 2] and reader.series_phase.tolist() == [
        0,
        1,
        2,
        0,
        0,
        1,
    ]
    assert reader.series_length.tolist() == [7, 7, 6, 9, 4, 3]
    assert reader.scans["participant_id"] == ["sub-1", "sub-2", "sub-3"] and reader.scans["run"][0] == "é"
    assert reader.valid[1].tolist() == [True, True, True, False, True]
    assert_array_equal(reader.read(2, 1, 4), written[2][1:5])
    assert_allclose(
        reader.unscale(reader[0]), written[0] * (np.arange(R) + 0.5) + np.arange(R) * 100, rtol=1e-6
    )
    with pytest.raises(IndexError):
        reader.read(2, 3, 4)


def test_the_format_is_the_contract(output: Path) -> None:
    with h5py.File(output / "shards/shard-00000.h5") as shard:
        assert dict(shard.attrs)["format"] == "bjepa-shard" and shard.attrs["format_version"] == 1
        assert {"bjepa_version", "atlas", "atlas_sha256", "n_rois", "scaling", "target_t_r"} <= set(
            shard.attrs
        )
        frames = shard["timeseries"]
        assert (frames.dtype, frames.chunks, frames.compression) == (np.float32, None, None)
        kinds = {name: shard[f"series/{name}"].dtype for name in shard["series"]}
        assert kinds == {"offset": np.int64, "length": np.int64, "scan": np.int32, "phase": np.int8}
        assert shard["scans/valid"].dtype == bool and shard["scans/t_r_out"].dtype == np.float64
        assert {"name", "structure", "network7", "network17"} <= set(shard["rois"])
        assert shard["scaling/median"].shape == (R,)


def test_reader_is_pickled_without_open_files(output: Path) -> None:
    reader = ShardReader(output)
    first = reader[0]
    assert_array_equal(pickle.loads(pickle.dumps(reader))[0], first)


def test_refuses_foreign_truncated_mixed_and_absent(output: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no shard"):
        ShardReader(tmp_path / "nothing")
    path = output / "shards/shard-00001.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"shard-00001\.h5 is not a readable HDF5"):
        ShardReader(output)
    _write(path, [_scan("sub-3", 3, (4,))], atlas_sha256="other")
    with pytest.raises(InputError, match="was made with atlas"):
        ShardReader(output)
    with h5py.File(path, "w") as foreign:
        foreign["timeseries"] = np.zeros((3, R))
    with pytest.raises(InputError, match="is not a shard: format None"):
        ShardReader(path)
    with h5py.File(path, "w") as partial:
        partial.attrs.update(format="bjepa-shard", format_version=1)
    with pytest.raises(InputError, match="lacks a part"):
        ShardReader(path)


def test_a_shard_is_complete_or_absent(tmp_path: Path) -> None:
    bad = _scan("sub-1", 1, (7,))
    bad.phases[0][2, 2] = np.inf
    with pytest.raises(ValueError, match="non-finite"):
        _write(tmp_path / "shards/shard-00000.h5", [bad])
    assert list((tmp_path / "shards").iterdir()) == []


def test_input_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(InputError("what", hint="do this")))
    assert (error.message, error.hint, str(error)) == ("what", "do this", "what do this")
    assert json.dumps(str(error))


def test_collinear_confounds_count_once(series: np.ndarray) -> None:
    few = np.random.default_rng(0).normal(size=(T, 4))
    many = np.column_stack([few, few @ np.random.default_rng(1).normal(size=(4, 200)), np.ones(T)])
    cleaned = [
        clean_timeseries(
            series, Confounds(pd.DataFrame(c), 0, None), CleaningOptions(confounds="36p"), t_r=T_R
        )
        for c in (few, many)
    ]
    assert_allclose(cleaned[1], cleaned[0], rtol=1e-4)
