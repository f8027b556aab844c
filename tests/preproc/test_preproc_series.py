"""preproc/scaling.py, shards.py: what happens to cleaned regional series."""

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError, ShardReader
from bjepa.preproc.scaling import Scaling, fit_scaling
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

T, R = 140, 5  # frames, regions


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


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
