"""preproc/shard_writer.py, shards.py: what is written is what is read."""

import json
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError, ShardReader
from bjepa.preproc.scaling import ScanPart
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

R = 5  # regions


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


def _write(
    path: Path, scans: Iterable[ShardScan], atlas_sha256: str = "abc", n_frames: int | None = None
) -> None:
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
        n_frames=n_frames,
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


def _with_part(scan: ShardScan, seed: int) -> ShardScan:
    rng = np.random.default_rng(seed)
    marks = [rng.random(len(phase)) < 0.4 for phase in scan.phases]
    part = ScanPart(offset=rng.normal(9000, 900, R), scale=rng.uniform(0.1, 70, R))
    return replace(
        scan, part=part, censored=marks, source=f"/data/{seed}", provenance={"confounds": ["é", "b"]}
    )


def test_scaling_of_each_scan_is_stored_and_undone(tmp_path: Path) -> None:
    scans = [_with_part(_scan(f"sub-{k}", k, lengths), k) for k, lengths in enumerate([(7, 6), (9,), (4,)])]
    _write(tmp_path / "shards/shard-00000.h5", scans[:2])
    _write(tmp_path / "shards/shard-00001.h5", scans[2:])
    reader = ShardReader(tmp_path)
    assert reader.per_scan
    of_series = [(scan, phase) for scan in scans for phase in scan.phases]
    for number, (scan, phase) in enumerate(of_series):
        assert scan.part is not None
        expected = (phase.astype(float) * reader.iqr + reader.median) * scan.part.scale + scan.part.offset
        assert_allclose(reader.unscale(reader[number], number), expected, rtol=1e-7)
        assert_allclose(reader.unscale(reader.read(number, 2, 1), number), expected[2:3], rtol=1e-7)
    with pytest.raises(InputError, match=r"unscale must know the series.*reader\.unscale\(reader\[i\], i\)"):
        reader.unscale(reader[0])
    marks = [marks for scan in scans for marks in scan.censored or []]
    assert [reader.censored(n).tolist() for n in range(4)] == [m.tolist() for m in marks]
    assert reader.provenance(2) == {"source": "/data/2", "source_sha256": "", "confounds": ["é", "b"]}


def test_shards_of_earlier_versions_are_read(output: Path) -> None:
    for path in (output / "shards").iterdir():
        with h5py.File(path, "a") as shard:
            assert "censored" not in shard and "source" not in shard["scans"]
            for name in ("space", "options", "software"):
                del shard.attrs[name]
    reader = ShardReader(output)
    assert not reader.per_scan and reader.provenance(1) == reader.options == {} and reader.space == ""
    assert reader.censored(2).tolist() == [False] * 6
    assert_array_equal(reader.unscale(reader[1], 1), reader.unscale(reader[1]))


def test_part_of_some_scans_only_and_marks_of_wrong_length_are_refused(tmp_path: Path) -> None:
    whole, bare = _with_part(_scan("sub-1", 1, (7,)), 1), _scan("sub-2", 2, (9,))
    with pytest.raises(ValueError, match="some scans"):
        _write(tmp_path / "a.h5", [whole, bare])
    with pytest.raises(ValueError, match="other numbers of frames"):
        _write(tmp_path / "a.h5", [replace(whole, censored=[np.zeros(6, bool)])])


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
    _write(path, [_with_part(_scan("sub-3", 3, (4,)), 3)])
    with pytest.raises(InputError, match=r"shard-00001\.h5 was scaled otherwise"):
        ShardReader(output)
    _write(path, [_scan("sub-3", 3, (4,))])
    with h5py.File(path, "a") as other:
        other["scaling/iqr"][2] = 9
    with pytest.raises(InputError, match=r"shard-00001\.h5 was scaled otherwise"):
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
    good = _scan("sub-1", 1, (7,))
    with pytest.raises(ValueError, match="the scans have 7 frames, 8 were announced"):
        _write(tmp_path / "shards/shard-00000.h5", iter([good]), n_frames=8)
    assert list((tmp_path / "shards").iterdir()) == []
    _write(tmp_path / "shards/shard-00000.h5", [good])
    _write(tmp_path / "shards/shard-00001.h5", iter([good]), n_frames=7)  # one scan at a time
    first, second = ((tmp_path / "shards" / f"shard-0000{k}.h5").read_bytes() for k in range(2))
    assert first == second


def test_input_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(InputError("what", hint="do this")))
    assert (error.message, error.hint, str(error)) == ("what", "do this", "what do this")
    assert json.dumps(str(error))
