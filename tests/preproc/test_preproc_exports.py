"""preproc/exports: each layout read back with pandas or h5py alone, against values planted by region."""

import functools
import json
import logging
import pickle
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import zscore

from bjepa.cli.preprocess import main
from bjepa.preproc import InputError
from bjepa.preproc.atlas.published import schaefer_table, tian_table
from bjepa.preproc.exports import EXPORT_KINDS, check_exports, write_exports
from bjepa.preproc.scan_records import ScanRecord, read_records, scan_paths

SHAPE, SPACE = (9, 11, 7), "MNI152NLin6Asym"  # 693 voxels, one a region
# scan, frames, t_r; strides 3, 3, 1; sub-02 lacks the region in column 5
SCANS = (
    ("sub-01_ses-a_task-rest", 490, 0.735),
    ("sub-01_ses-b_task-rest", 31, 0.7),
    ("sub-02_task-rest_run-2", 14, 2.0),
)
MISSING = {"sub-02_task-rest_run-2": 5}
CENSORED = {"sub-01_ses-b_task-rest": [4, 9]}


def _published(name: str) -> pd.DataFrame:
    """The shipped tables as files: what our code makes of them is not used here."""
    text = (files("bjepa.preproc.atlas") / "tables" / f"{name}.tsv").read_text()
    return pd.DataFrame(
        [line.split("\t") for line in text.splitlines()[1:]], columns=text.split("\n")[0].split("\t")
    )


SCHAEFER, TIAN = _published("schaefer-400"), _published("tian-s3")
TIAN_NAMES = TIAN.set_index(TIAN["label"].astype(int)).sort_index()["name"].tolist()


def _by_label(order: str, names: str) -> list[str]:
    """Names (of the release `names`) of the parcels in the label order of the release `order`."""
    in_order = SCHAEFER.set_index(SCHAEFER[f"label_{order}"].astype(int)).sort_index()
    return [str(name) for name in in_order[f"name_{names}"]]


# column orders of the atlas that the scans are made with
ATLASES = {
    "ours": [*TIAN_NAMES, *_by_label("17networks", "17networks")],
    "7-network names": [*_by_label("7networks", "7networks"), *TIAN_NAMES],
    "shuffled": np.random.default_rng(7)
    .permutation([*_by_label("17networks", "17networks"), *TIAN_NAMES])
    .tolist(),
    "cortex": _by_label("17networks", "17networks"),
}


def _planted(scan_id: str, n_frames: int, n_rois: int) -> np.ndarray:
    """(n_frames, n_rois): a level of its own for each column, and a course that no other has."""
    rng = np.random.default_rng(len(scan_id) * 1000 + n_frames)
    return (rng.normal(0, 20, (n_frames, n_rois)) + 1000 + 3 * np.arange(n_rois)).astype(np.float32)


def _preprocess(folder: Path, names: Sequence[str], *options: str) -> Path:
    """An output folder of bjepa-preprocess over NIfTI files in which region k is voxel k."""
    n_rois = len(names)
    labels = np.zeros(SHAPE, np.int16)
    labels.flat[:n_rois] = np.arange(1, n_rois + 1)
    affine = np.diag([4.0, 3.0, 5.0, 1.0])
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), folder / "own.nii.gz")
    rows = [f"{number}\t{name}\n" for number, name in enumerate(names, start=1)]
    (folder / "own.tsv").write_text("index\tname\n" + "".join(rows))
    for scan_id, n_frames, t_r in SCANS:
        planted = _planted(scan_id, n_frames, n_rois)
        planted[:, [column for column in [MISSING.get(scan_id)] if column is not None]] = 0
        data = np.ones((*SHAPE, n_frames), np.float32)
        data.reshape(-1, n_frames)[:n_rois] = planted.T
        path = folder / "bold" / f"{scan_id}_bold.nii.gz"
        path.parent.mkdir(exist_ok=True)
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code=4)
        nib.save(image, path)
        path.with_name(f"{scan_id}_bold.json").write_text(json.dumps({"RepetitionTime": t_r}))
    out = folder / "out"
    argv = [str(folder / "bold"), str(out), "--atlas", str(folder / "own.nii.gz")]
    argv += [
        "--atlas-labels",
        str(folder / "own.tsv"),
        "--space",
        SPACE,
        "--n-jobs",
        "1",
        "--log-level",
        "error",
    ]
    assert main([*argv[:2], "participant", *argv[2:]]) == 0
    for scan_id, frames in CENSORED.items():
        with h5py.File(next(out.glob(f"sub-*/**/{scan_id}_seg-*.h5")), "r+") as file:
            marks = file["censored"][:]
            marks[frames] = True
            file["censored"][:] = marks
    assert main([*argv[:2], "group", *argv[2:], *options]) == 0
    return out


def _records(out: Path) -> tuple[pd.DataFrame, list[ScanRecord]]:
    table = pd.read_csv(out / "atlas/atlas.tsv", sep="\t", keep_default_na=False)
    sha256 = json.loads((out / "atlas/atlas.json").read_text())["sha256"]
    return table, read_records(scan_paths(out), sha256, len(table), progress=lambda name: None)[0]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The output folder of each atlas, made once."""
    return functools.cache(lambda name: _preprocess(tmp_path_factory.mktemp("exports"), ATLASES[name]))


@pytest.fixture(params=sorted(ATLASES))
def made(request: pytest.FixtureRequest, outputs: Callable[[str], Path]) -> tuple[Path, list[str]]:
    return outputs(request.param), ATLASES[request.param]


@pytest.fixture
def ours(outputs: Callable[[str], Path]) -> Path:
    return outputs("ours")


def _frame(scan_id: str, names: Sequence[str]) -> pd.DataFrame:
    """What was planted, NaN where it was left out: (n_frames, n_rois), columns by name."""
    n_frames = {scan: n for scan, n, _ in SCANS}[scan_id]
    frame = pd.DataFrame(_planted(scan_id, n_frames, len(names)), columns=list(names))
    if (column := MISSING.get(scan_id)) is not None:
        frame.iloc[:, column] = np.nan
    return frame


# --- xcpd-tsv -----------------------------------------------------------------------------------------------


def test_xcpd_tables_hold_the_scans_by_name(made: tuple[Path, list[str]]) -> None:
    out, names = made
    assert write_exports(out, *_swap(_records(out), ["xcpd-tsv"])) == [out / "exports/xcpd"]
    for scan_id, n_frames, t_r in SCANS:
        session = "ses-" + scan_id[11] if "_ses-" in scan_id else ""
        func = out / "exports/xcpd" / scan_id[:6] / session / "func"
        stem = f"{scan_id}_space-{SPACE}_seg-own_stat-"
        table = pd.read_csv(func / f"{stem}mean_timeseries.tsv", sep="\t", na_values="n/a", dtype=np.float32)
        planted = _frame(scan_id, names)
        assert table.columns.tolist() == names and len(table) == n_frames
        assert_array_equal(table.to_numpy(), planted.to_numpy())  # every bit
        assert json.loads((func / f"{stem}mean_timeseries.json").read_text())["RepetitionTime"] == t_r
        coverage = pd.read_csv(func / f"{stem}coverage_bold.tsv", sep="\t")
        assert coverage.columns.tolist() == ["Node", "coverage"] and coverage["Node"].tolist() == names
        assert_array_equal(coverage["coverage"], (~planted.isna().all()).astype(float))
        outliers = pd.read_csv(func / f"{scan_id}_outliers.tsv", sep="\t")["framewise_displacement"]
        assert len(outliers) == n_frames
        assert np.flatnonzero(outliers).tolist() == CENSORED.get(scan_id, [])
    assert "\tn/a\t" in table_text(out, "sub-02") and "nan" not in table_text(out, "sub-02")


def table_text(out: Path, participant: str) -> str:
    return next((out / "exports/xcpd" / participant).rglob("*mean_timeseries.tsv")).read_text()


def _swap(
    records: tuple[pd.DataFrame, list[ScanRecord]], kinds: list[str]
) -> tuple[pd.DataFrame, list[str], list[ScanRecord]]:
    return records[0], kinds, records[1]


def test_xcpd_folder_is_a_bids_derivative_with_names_in_bids_order(ours: Path) -> None:
    write_exports(ours, *_swap(_records(ours), ["xcpd-tsv"]))
    description = json.loads((ours / "exports/xcpd/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and {"Name", "BIDSVersion", "GeneratedBy"} <= set(
        description
    )
    from bjepa.preproc.exports.xcpd import run_stem, table_stem

    scan_id = "sub-1_task-rest_space-MNI152NLin2009cAsym_res-2_desc-x"
    assert table_stem(scan_id, "ignored", "tian-s3+schaefer-400") == (
        "sub-1_task-rest_desc-x_space-MNI152NLin2009cAsym_seg-tians3schaefer400_res-2"
    )
    assert run_stem(scan_id) == "sub-1_task-rest_desc-x"


def test_xcpd_refuses_scans_that_are_one_run_there(ours: Path) -> None:
    table, records = _records(ours)
    twins = [records[0], _renamed(records[0], f"{records[0].scan_id}_res-2")]
    with pytest.raises(InputError, match="the same run"):
        write_exports(ours, table, ["xcpd-tsv"], twins)


def _renamed(record: ScanRecord, scan_id: str) -> ScanRecord:
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return ScanRecord(**(fields | {"scan_id": scan_id}))


# --- official-csv -------------------------------------------------------------------------------------------


def test_official_tables_are_stacked_to_the_order_of_the_gradients(
    made: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    out, names = made
    table, records = _records(out)
    if len(names) == 400:
        with pytest.raises(InputError, match="needs the 450 regions"):
            write_exports(out, table, ["official-csv"], records)
        assert not (out / "exports/official-csv").exists()
        return
    with caplog.at_level(logging.WARNING):
        write_exports(out, table, ["official-csv"], records, n_jobs=2)
    folder = out / "exports/official-csv"
    release = "7networks" if names[0].startswith("7") else "17networks"
    order = [*TIAN_NAMES, *_by_label("17networks", release)]  # 1-50 subcortex, 51-450 in 17-network order
    for scan_id, n_frames, _ in SCANS[:2]:
        parts = [
            folder / "time_series" / scan_id / f"fMRI.{part}.csv.gz"
            for part in ("Tian_Subcortex_S3_3T", "Schaefer17n400p")
        ]
        cortex_header = pd.read_csv(parts[1], nrows=0).columns.tolist()
        assert cortex_header == ["label_name", *(f"timepoint_{frame}" for frame in range(n_frames))]
        tables = [pd.read_csv(part, index_col=0, dtype={0: str}) for part in parts]
        assert [part.shape for part in tables] == [(50, n_frames), (400, n_frames)]
        stacked = pd.concat(tables)
        assert stacked.index.tolist() == order
        assert_array_equal(stacked.to_numpy(np.float32), _frame(scan_id, names)[order].to_numpy().T)
    assert not (folder / "time_series" / SCANS[2][0]).exists()  # it has a missing region
    left_out = pd.read_csv(folder / "left_out.tsv", sep="\t")
    assert left_out["scan_id"].tolist() == [SCANS[2][0]]
    for part in ("left out", "1 of 2 scans do not have the 490 frames", "sub-01_ses-b_task-rest has 31"):
        assert part in caplog.text
    assert "slower than" not in caplog.text


def test_official_subject_list_is_the_training_participants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MISSING, SCANS[2][0])
    monkeypatch.setitem(MISSING, SCANS[0][0], 5)  # left out: the original code cannot tell a missing region
    (tmp_path / "train.txt").write_text("sub-02\n")
    out = _preprocess(tmp_path, ATLASES["ours"], "--scaling-participants", str(tmp_path / "train.txt"))
    write_exports(out, *_swap(_records(out), ["official-csv"]))
    folder = out / "exports/official-csv"
    assert pickle.loads((folder / "train_ids.pkl").read_bytes()) == {"train_ids": [SCANS[2][0]]}
    told = pd.read_csv(folder / "scans.tsv", sep="\t")
    assert told["id"].tolist() == [SCANS[1][0], SCANS[2][0]] and told["training"].tolist() == [False, True]
    assert told["t_r"].tolist() == [0.7, 2.0] and told["n_frames"].tolist() == [31, 14]


def test_official_subject_list_is_everybody_by_default(ours: Path) -> None:
    write_exports(ours, *_swap(_records(ours), ["official-csv"]))
    ids = pickle.loads((ours / "exports/official-csv/train_ids.pkl").read_bytes())
    assert ids == {"train_ids": [SCANS[0][0], SCANS[1][0]]}


def test_official_warns_of_slow_scans_and_refuses_where_none_is_whole(
    ours: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, records = _records(ours)
    whole_and_slow = ScanRecord(
        **{name: getattr(records[1], name) for name in records[1].__dataclass_fields__} | {"t_r": 1.5}
    )
    with caplog.at_level(logging.WARNING):
        write_exports(ours, table, ["official-csv"], [whole_and_slow])
    assert "1 of 1 scans are slower than 1 s" in caplog.text and "4.5 s" in caplog.text
    before = sorted((ours / "exports/official-csv").rglob("*"))
    with pytest.raises(InputError, match="all 1 scans have missing regions"):
        write_exports(ours, table, ["official-csv"], records[2:])
    assert sorted((ours / "exports/official-csv").rglob("*")) == before  # what was there is still there


# --- brain-semantoks-h5 -------------------------------------------------------------------------------------


def test_semantoks_file_is_in_7_network_order(
    made: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    out, names = made
    with caplog.at_level(logging.WARNING):
        written = write_exports(out, *_swap(_records(out), ["brain-semantoks-h5"]))
    assert written == [out / "exports/brain-semantoks.h5"]
    release = "7networks" if names[0].startswith("7") else "17networks"
    cortex = _by_label("7networks", release)
    with h5py.File(written[0]) as file:
        series = {name: file[f"timeseries/{name}"][:] for name in file["timeseries"]}
        told = {
            name: file[name][:] for name in ("long_subject_id", "scan_id", "ts_len", "phase", "t_r", "valid")
        }
        assert file.attrs["raw_signal_length"] == 164
    assert set(series) == ({"schaefer400"} if len(names) == 400 else {"schaefer400", "tian3"})
    lengths = [164, 163, 163, 11, 10, 10, 14]  # 490 / 3, 31 / 3, 14
    assert series["schaefer400"].shape == (7, 400, 164) and told["ts_len"].tolist() == lengths
    assert told["long_subject_id"].tolist() == [b"sub-01"] * 6 + [b"sub-02"]
    assert told["phase"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert_allclose(told["t_r"], [2.205] * 3 + [2.1] * 3 + [2.0])
    order = cortex if len(names) == 400 else [*cortex, *TIAN_NAMES]
    stored = np.concatenate([series[name] for name in ("schaefer400", "tian3") if name in series], axis=1)
    for row in range(7):
        scan_id, phase = told["scan_id"][row].decode(), told["phase"][row]
        planted = _frame(scan_id, names)[order].to_numpy()[phase :: 1 if row == 6 else 3].astype(np.float64)
        assert_allclose(stored[row, :, : lengths[row]], np.nan_to_num(zscore(planted)).T, atol=2e-4)
        assert np.isnan(stored[row, :, lengths[row] :]).all()
        assert_array_equal(told["valid"][row], ~np.isnan(planted).all(axis=0))
    assert "1 of 3 scans have missing regions, e.g. sub-02" in caplog.text
    assert "2 of 3 scans have a TR other than 2 s, e.g. sub-01_ses-a_task-rest with 2.205 s" in caplog.text


def test_semantoks_networks_come_in_blocks(ours: Path) -> None:
    """As its network map has them: a hemisphere after the other, network by network."""
    names = _by_label("7networks", "7networks")
    blocks = [name.split("_")[1:3] for name in names]
    changes = [b for a, b in zip([None, *blocks], blocks, strict=False) if a != b]
    networks = ["Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"]
    assert changes == [[side, network] for side in ("LH", "RH") for network in networks]


# --- all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["official-csv", "brain-semantoks-h5"])
@pytest.mark.parametrize("n_parcels", [300, 500, 1000])
@pytest.mark.parametrize("order", ["7networks", "17networks"])
def test_other_sizes_with_the_same_names_are_refused(kind: str, n_parcels: int, order: str) -> None:
    """All 400 names of Schaefer-400 are names of Schaefer-1000, too, for other parcels."""
    table = pd.concat([tian_table(), schaefer_table(order, n_parcels)], ignore_index=True)
    with pytest.raises(InputError, match=f"--export {kind} needs"):
        check_exports(table, [kind])


def test_atlases_and_kinds_that_do_not_fit_are_refused_before_anything_is_written(ours: Path) -> None:
    table, records = _records(ours)
    for kind in ("official-csv", "brain-semantoks-h5"):
        with pytest.raises(InputError, match="leave this export out"):
            check_exports(table.drop(index=70), [kind])
        with pytest.raises(InputError, match="leave this export out"):
            check_exports(table.replace({"name": {table["name"][70]: "another"}}), [kind])
        with pytest.raises(InputError, match="no others"):
            check_exports(pd.concat([table, pd.DataFrame({"name": ["extra"]})]), [kind])
    check_exports(table.drop(index=70), ["xcpd-tsv"])
    with pytest.raises(InputError, match=r"must be among .*got \['xcpd'\]"):
        write_exports(ours, table, ["xcpd-tsv", "xcpd"], records)


def test_an_export_is_replaced_whole_and_counts_its_scans(ours: Path) -> None:
    table, records = _records(ours)
    stale = ours / "exports/xcpd/sub-99/func/stale.tsv"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("of a scan that is gone")
    half = ours / "work/exports-new/official-csv/half.tsv"  # left by a killed process
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_text("half")
    done: list[str] = []
    written = write_exports(ours, table, EXPORT_KINDS, records, progress=done.append)
    assert [path.name for path in written] == ["xcpd", "official-csv", "brain-semantoks.h5"]
    assert not stale.exists() and not list((ours / "exports").rglob("half.tsv"))
    assert not list(ours.rglob("*.tmp*")) and not list((ours / "work/exports-new").iterdir())
    assert sorted(done) == sorted(3 * [scan_id for scan_id, _, _ in SCANS])
    first = {path: path.read_bytes() for path in (ours / "exports").rglob("*") if path.is_file()}
    write_exports(ours, table, EXPORT_KINDS, records, n_jobs=2)
    assert {path: path.read_bytes() for path in first} == first  # the same bytes

    old = ours / "work/exports-old/xcpd"  # a process was killed when it had put the old folder aside
    (ours / "exports/xcpd").rename(old)
    with pytest.raises(InputError, match="same run"):
        write_exports(
            ours, table, ["xcpd-tsv"], [records[0], _renamed(records[0], "sub-01_ses-a_task-rest_res-2")]
        )
    assert {path: path.read_bytes() for path in first} == first and not old.exists()
