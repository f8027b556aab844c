"""preproc/check: a clean output has no problem, and each rule finds the fault that is planted for it."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

from bjepa.cli.preprocess import main
from bjepa.preproc import InputError, load_atlas
from bjepa.preproc.check import Problem, check_output
from bjepa.preproc.group_stage import GroupOptions, run_group

SHAPE, AFFINE, R = (7, 8, 6), np.diag([3.0, 3.5, 4.0, 1.0]), 5
# participant, frames, t_r: strides 3, 1, 1; region 3 (column 2) is missing in sub-02
SCANS = (("sub-01", 31, 0.7), ("sub-02", 13, 2.0), ("sub-03", 17, 1.9))


def _make(folder: Path) -> Path:
    """An output folder of bjepa-preprocess over three small NIfTI files."""
    labels = np.zeros(SHAPE, np.int16)
    for region in range(1, R + 1):
        labels[1:6, region : region + 1, 1:5] = region
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "own.nii.gz")
    rows = "".join(f"{k}\tr{k}\tn{k % 2}\n" for k in range(1, R + 1))
    (folder / "own.tsv").write_text(f"index\tname\tnetwork7\n{rows}")
    for number, (participant, n_frames, t_r) in enumerate(SCANS):
        data = np.random.default_rng(number).normal(1000, 20, (*SHAPE, n_frames)).astype(np.float32)
        data[:, 3] *= number != 1
        path = folder / "bold" / f"{participant}_task-rest_bold.nii.gz"
        path.parent.mkdir(exist_ok=True)
        image = nib.Nifti1Image(data, AFFINE)
        image.set_sform(AFFINE, code=4)
        nib.save(image, path)
        path.with_name(f"{participant}_task-rest_bold.json").write_text(f'{{"RepetitionTime": {t_r}}}')
    argv = [str(folder / "bold"), str(folder / "out"), "--atlas", str(folder / "own.nii.gz")]
    argv += ["--atlas-labels", str(folder / "own.tsv"), "--space", "MNI152NLin6Asym"]
    argv += ["--max-missing", "0.2", "--n-jobs", "1", "--log-level", "error"]
    assert main(argv) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def out(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean output, to be spoilt."""
    return Path(shutil.copytree(clean, tmp_path / "out"))


def test_a_clean_output_has_no_problem(clean: Path) -> None:
    before = {path: path.read_bytes() for path in clean.rglob("*") if path.is_file()}
    seen: list[str] = []
    assert check_output(clean, sources=True, all_scans=True, progress=seen.append) == []
    assert len(seen) == 1 + len(SCANS) and seen[0] == "shard-00000.h5"
    assert {path: path.read_bytes() for path in clean.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "options",
    [
        GroupOptions(phases="first"),
        GroupOptions(resample="none", scaling="none"),
        GroupOptions(resample="decimate", scaling="zscore-scan"),
        GroupOptions(target_t_r=1.4, scaling="robust-dynamic"),
        GroupOptions(scaling="robust-means", scaling_participants=frozenset({"sub-01", "sub-03"})),
    ],
    ids=str,
)
def test_no_problem_under_other_options(options: GroupOptions, out: Path, clean: Path) -> None:
    own = clean.parent / "own"
    atlas = load_atlas(f"{own}.nii.gz", space="MNI152NLin6Asym", labels_tsv=f"{own}.tsv")
    run_group(atlas, out, options, progress=lambda scan_id: None)
    assert check_output(out, sources=True) == []


def test_shards_without_what_was_added_to_the_format_pass(out: Path) -> None:
    with h5py.File(out / "shards/shard-00000.h5", "r+") as shard:
        for name in (
            "censored",
            "scans/source",
            "scans/source_sha256",
            "scans/provenance",
            "scans/fits_scaling",
        ):
            if name in shard:
                del shard[name]
        for name in ("options", "software", "space"):
            shard.attrs.pop(name, None)
    assert check_output(out, sources=False) == []


def test_scans_of_another_atlas_are_left_alone(out: Path) -> None:
    path = _scan(out, "sub-01", ".json")
    facts = json.loads(path.read_text()) | {"atlas_sha256": "0" * 64}
    path.with_name("sub-01_task-rest_seg-other_timeseries.json").write_text(json.dumps(facts))
    assert check_output(out, sources=False) == []


# --- planted faults -----------------------------------------------------------------------------------------

Spoil = Callable[[Path], object]
SHARD = "shards/shard-00000.h5"


def _scan(out: Path, participant: str, extension: str) -> Path:
    return next(out.glob(f"{participant}/func/*_seg-own_timeseries{extension}"))


def _edit_json(path: Path, **changes: Any) -> None:
    path.write_text(
        json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "DEL"})
    )


def _edit_table(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def _edit_h5(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Replace a data set by what `change` makes of its content."""
    with h5py.File(path, "r+") as file:
        old = file[name]
        text = h5py.check_string_dtype(old.dtype) is not None
        new = change(old.asstr()[:] if text else old[:])
        text = text and new is not None and new.dtype == object
        del file[name]
        if new is not None:
            file.create_dataset(name, data=new, dtype=old.dtype if text else None)


def _at(index: Any, value: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        content[index] = value
        return content

    return change


def _shard(name: str, change: Callable[[Any], Any]) -> Spoil:
    return lambda out: _edit_h5(out / SHARD, name, change)


def _attribute(name: str, value: Any) -> Spoil:
    def spoil(out: Path) -> None:
        with h5py.File(out / SHARD, "r+") as shard:
            if value is None:
                del shard.attrs[name]
            else:
                shard.attrs[name] = value

    return spoil


def _compressed(out: Path) -> None:
    with h5py.File(out / SHARD, "r+") as shard:
        content = shard["timeseries"][:]
        del shard["timeseries"]
        shard.create_dataset("timeseries", data=content, compression="gzip")


def _truncated(path: Path, n_bytes: int = 900) -> None:
    assert path.stat().st_size > n_bytes
    path.write_bytes(path.read_bytes()[:n_bytes])


def _leftover(out: Path) -> None:
    """Of a process on another machine, two days ago."""
    path = out / "sub-01/func/.x.another-machine.1.0123abcd.tmp.h5"
    path.write_text("half")
    os.utime(path, (time.time() - 2 * 86400,) * 2)


def _other_labels(out: Path) -> None:
    image = nib.load(out / "atlas/atlas.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int16)
    labels[labels == 5] = 7
    nib.save(nib.Nifti1Image(labels, image.affine), out / "atlas/atlas.nii.gz")


def _added_label(out: Path) -> None:
    """A label more, and the hash that goes with it."""
    image = nib.load(out / "atlas/atlas.nii.gz")
    labels = np.ascontiguousarray(np.asarray(image.dataobj), dtype=np.int16)
    labels[0, 0, 0] = R + 1
    nib.save(nib.Nifti1Image(labels, image.affine), out / "atlas/atlas.nii.gz")
    _edit_json(out / "atlas/atlas.json", sha256=hashlib.sha256(labels.tobytes()).hexdigest())


def _moved_atlas(out: Path) -> None:
    """20 mm to the right; labels and their hash as they were."""
    image = nib.load(out / "atlas/atlas.nii.gz")
    labels, affine = np.asarray(image.dataobj).astype(np.int16), image.affine.copy()
    affine[0, 3] += 20
    nib.save(nib.Nifti1Image(labels, affine), out / "atlas/atlas.nii.gz")


def _half(out: Path) -> None:
    _truncated(out / "report.html", (out / "report.html").stat().st_size // 2)


def _option(stage: str, name: str, value: Any) -> Spoil:
    def spoil(out: Path) -> None:
        with h5py.File(out / SHARD, "r+") as shard:
            options = json.loads(shard.attrs["options"])
            options[stage][name] = value
            shard.attrs["options"] = json.dumps(options)

    return spoil


def _cell(participant: str, column: str, value: str) -> Spoil:
    """One cell of scans.tsv."""

    def spoil(out: Path) -> None:
        header, *rows = [line.split("\t") for line in (out / "scans.tsv").read_text().splitlines()]
        for row in rows:
            if row[1] == participant:
                assert row[header.index(column)] != value
                row[header.index(column)] = value
        (out / "scans.tsv").write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))

    return spoil


def _doubled_t_r_out(out: Path) -> None:
    _shard("scans/t_r_out", lambda x: 2 * x)(out)
    for participant, t_r_out in (("sub-01", "4.2"), ("sub-02", "4"), ("sub-03", "3.8")):
        _cell(participant, "t_r_out", t_r_out)(out)


def _provenance(participant: int, **changes: Any) -> Spoil:
    def change(content: Any) -> Any:
        content[participant] = json.dumps(json.loads(content[participant]) | changes)
        return content

    return _shard("scans/provenance", change)


def _facts(participant: str, **changes: Any) -> Spoil:
    return lambda out: _edit_json(_scan(out, participant, ".json"), **changes)


def _series(participant: str, name: str, change: Callable[[Any], Any]) -> Spoil:
    return lambda out: _edit_h5(_scan(out, participant, ".h5"), name, change)


def _unlink(name: str) -> Spoil:
    return lambda out: (out / name).unlink()


JSON, H5 = "_timeseries.json", "_timeseries.h5"
FAULTS: dict[str, tuple[Spoil, str, str]] = {
    # the folder
    "no description": (_unlink("dataset_description.json"), "dataset_description.json", "is absent"),
    "description lacks": (
        lambda out: _edit_json(out / "dataset_description.json", SourceDatasets="DEL"),
        "dataset_description.json",
        "lacks ['SourceDatasets']",
    ),
    "raw": (
        lambda out: _edit_json(out / "dataset_description.json", DatasetType="raw"),
        "dataset_description.json",
        "DatasetType is 'raw'",
    ),
    "no report": (_unlink("report.html"), "report.html", "is absent"),
    "empty report": (lambda out: (out / "report.html").write_text(""), "report.html", "is cut short"),
    "half a report": (_half, "report.html", "is cut short"),
    "no scans.tsv": (_unlink("scans.tsv"), "scans.tsv", "is absent"),
    "no failures.tsv": (_unlink("failures.tsv"), "failures.tsv", "is absent"),
    "no scaling.tsv": (_unlink("scaling.tsv"), "scaling.tsv", "is absent"),
    "scans.tsv lacks a column": (
        lambda out: _edit_table(out / "scans.tsv", "\tt_r\t", "\ttr\t"),
        "scans.tsv",
        "has columns",
    ),
    "columns in another order": (
        lambda out: _edit_table(out / "failures.tsv", "source\tstage", "stage\tsource"),
        "failures.tsv",
        "has columns",
    ),
    "scaling of other regions": (
        lambda out: _edit_table(out / "scaling.tsv", "\tr2\t", "\tr9\t"),
        "scaling.tsv",
        "column name differs",
    ),
    "broken table": (
        lambda out: (out / "failures.tsv").write_text('"'),
        "failures.tsv",
        "not a readable table",
    ),
    "no number": (
        lambda out: _edit_table(out / "scans.tsv", "\t1.9\t", "\tfast\t"),
        "scans.tsv",
        "sub-03_task-rest has t_r fast, its shard 1.9",
    ),
    "leftover": (_leftover, ".0123abcd.tmp.h5", "was left by a process"),
    # the atlas
    "no atlas.tsv": (_unlink("atlas/atlas.tsv"), "atlas.tsv", "is absent"),
    "no atlas.json": (_unlink("atlas/atlas.json"), "atlas.json", "is absent"),
    "broken atlas.json": (
        lambda out: (out / "atlas/atlas.json").write_text("{"),
        "atlas.json",
        "not readable",
    ),
    "atlas.json lacks": (
        lambda out: _edit_json(out / "atlas/atlas.json", order="DEL"),
        "atlas.json",
        "['order']",
    ),
    "kind of atlas": (
        lambda out: _edit_json(out / "atlas/atlas.json", kind="x"),
        "atlas.json",
        "kind is 'x'",
    ),
    "atlas.tsv numbered otherwise": (
        lambda out: _edit_table(out / "atlas/atlas.tsv", "\n2\tr2", "\n3\tr2"),
        "atlas.tsv",
        "column index is not",
    ),
    "a region twice": (
        lambda out: _edit_table(out / "atlas/atlas.tsv", "\tr2\t", "\tr1\t"),
        "atlas.tsv",
        "names ['r1'] occur",
    ),
    "no label image": (_unlink("atlas/atlas.nii.gz"), "atlas.nii.gz", "is absent"),
    "broken label image": (
        lambda out: _truncated(out / "atlas/atlas.nii.gz", 60),
        "atlas.nii.gz",
        "not a readable label image",
    ),
    "other labels": (_other_labels, "atlas.json", "its sha256 is not that of the labels"),
    "atlas moved": (
        _moved_atlas,
        "atlas.nii.gz",
        "label 1 lies at [29.0, 3.5, 10.0] mm, atlas.tsv has [9.0",
    ),
    "centre of a region": (
        lambda out: _edit_table(out / "atlas/atlas.tsv", "\t3.5\t", "\t3.53\t"),
        "atlas.nii.gz",
        "label 1 lies at",
    ),
    "voxels of a region": (
        lambda out: _edit_table(out / "atlas/atlas.tsv", "\t20\n5\t", "\t21\n5\t"),
        "atlas.nii.gz",
        "label 4 has 20 voxels, atlas.tsv 21",
    ),
    "label without a row": (_added_label, "atlas.nii.gz", "labels ['6']"),
    "no dlabel": (
        lambda out: _edit_json(out / "atlas/atlas.json", kind="cifti"),
        "atlas.dlabel.nii",
        "is absent",
    ),
    "hash of names": (
        lambda out: _edit_json(out / "atlas/atlas.json", kind="table"),
        "atlas.json",
        "not that of the region names",
    ),
    # shards
    "no shards": (lambda out: shutil.rmtree(out / "shards"), "shards", "holds no shard"),
    "a shard is absent": (
        lambda out: (out / SHARD).rename(out / "shards/shard-00001.h5"),
        "shards",
        "a shard is absent or foreign",
    ),
    "truncated shard": (lambda out: _truncated(out / SHARD), SHARD, "is not a readable shard"),
    "foreign shard": (_attribute("format", "other"), SHARD, "has format other, version 1"),
    "other version": (_attribute("format_version", 2), SHARD, "version 2, not"),
    "attribute absent": (_attribute("target_t_r", None), SHARD, "lacks the attributes ['target_t_r']"),
    "atlas of the shard": (_attribute("atlas_sha256", "0" * 64), SHARD, "atlas_sha256 is 000"),
    "name of the atlas": (_attribute("atlas", "other"), SHARD, "atlas is other"),
    "scaling unknown": (_attribute("scaling", "best"), SHARD, "scaling is 'best'"),
    "target_t_r": (_attribute("target_t_r", 0.0), SHARD, "target_t_r is 0.0"),
    "another scaling": (_attribute("scaling", "robust-means"), SHARD, "its options say robust"),
    "scaling without its parts": (_attribute("scaling", "zscore-scan"), SHARD, "lacks /scans/offset and"),
    "another target": (_attribute("target_t_r", 1.4), SHARD, "target_t_r is 1.4, its options say 2.0"),
    "t_r_out doubled": (_doubled_t_r_out, SHARD, "sub-01_task-rest has t_r_out 4.2 s; its t_r of 0.7 s is"),
    "who fits": (_shard("scans/fits_scaling", _at(1, False)), SHARD, "is false of 1 scans; all fit"),
    "options are a list": (_attribute("options", "[]"), SHARD, "attribute options is not a JSON object"),
    "provenance is not JSON": (
        _shard("scans/provenance", _at(1, "{")),
        SHARD,
        "/scans/provenance of sub-02_task-rest is not a JSON",
    ),
    "options are not JSON": (_attribute("options", "{"), SHARD, "attribute options is not JSON"),
    "number of regions": (_attribute("n_rois", R + 1), SHARD, "/timeseries is float32"),
    "part absent": (_shard("series/phase", lambda _: None), SHARD, "lacks /series/phase"),
    "type of numbers": (
        _shard("timeseries", lambda x: x.astype(np.float64)),
        SHARD,
        "/timeseries is float64",
    ),
    "type of index": (_shard("series/scan", lambda x: x.astype(np.int64)), SHARD, "/series/scan is int64"),
    "shape": (_shard("scans/valid", lambda x: x[:, 1:]), SHARD, "/scans/valid is bool (3, 4)"),
    "text is numbers": (_shard("scans/task", lambda x: np.zeros(len(x))), SHARD, "/scans/task is float64"),
    "marks too short": (_shard("censored", lambda x: x[1:]), SHARD, "/censored is bool"),
    "compressed": (_compressed, SHARD, "not contiguous and uncompressed"),
    "a gap": (_shard("series/offset", _at(1, 12)), SHARD, "do not lie back to back"),
    "index too short": (
        _shard("series/length", _at(-1, 16)),
        SHARD,
        "/series ends at frame 60 of 61",
    ),
    "series of no scan": (_shard("series/scan", _at(-1, 1)), SHARD, "does not name each row"),
    "phases": (_shard("series/phase", _at(1, 2)), SHARD, "does not count 0, 1, 2"),
    "t_r": (_shard("scans/t_r", _at(0, np.nan)), SHARD, "no repetition times"),
    "regions of the shard": (_shard("rois/name", _at(1, "r9")), SHARD, "/rois/name differs"),
    "scaling of the shard": (
        _shard("scaling/median", _at(1, 7.0)),
        SHARD,
        "/scaling/median is 7 in column 2",
    ),
    "zero IQR": (_shard("scaling/iqr", _at(2, 0.0)), SHARD, "cannot scale"),
    "scaling.tsv": (
        lambda out: _edit_table(out / "scaling.tsv", "\n1\tr1\t", "\n1\tr1\t1"),
        SHARD,
        "in column 1, scaling.tsv has 1",
    ),
    "half a scaling of scans": (
        lambda out: _add(out, np.zeros((3, R)), "scans/offset"),
        SHARD,
        "lacks one of /scans/offset",
    ),
    "scans that cannot be scaled": (
        lambda out: _add(out, np.zeros((3, R)), "scans/offset", "scans/scale"),
        SHARD,
        "/scans/offset or /scans/scale",
    ),
    "not finite": (_shard("timeseries", _at((40, 1), np.inf)), SHARD, "values that are not finite"),
    "missing, not zero": (
        _shard("timeseries", _at((40, 2), 1.0)),
        SHARD,
        "sub-02_task-rest has values other",
    ),
    # scans.tsv against the shards
    "row absent": (
        lambda out: _edit_table(out / "scans.tsv", "sub-02_task-rest\tsub-02", "sub-07_task-rest\tsub-07"),
        "scans.tsv",
        "1 of its scans are in no shard, e.g. sub-07",
    ),
    "row unknown": (
        lambda out: _edit_table(out / "scans.tsv", "sub-02_task-rest\tsub-02", "sub-07_task-rest\tsub-07"),
        "scans.tsv",
        "1 scans of the shards are not in it, e.g. sub-02",
    ),
    "a scan twice": (
        lambda out: _edit_table(out / "scans.tsv", "sub-02_task-rest\t", "sub-01_task-rest\t"),
        "scans.tsv",
        "1 scans have several rows, e.g. sub-01",
    ),
    "no row": (
        lambda out: (out / "scans.tsv").write_text((out / "scans.tsv").read_text().splitlines()[0]),
        "scans.tsv",
        "has no row",
    ),
    "participant": (
        lambda out: _edit_table(out / "scans.tsv", "\tsub-02\t", "\tsub-05\t"),
        "scans.tsv",
        "has participant_id sub-05, its shard sub-02",
    ),
    "shard of a scan": (
        lambda out: _edit_table(out / "scans.tsv", "shard-00000.h5", "shard-00009.h5"),
        "scans.tsv",
        "has shard shard-00009.h5",
    ),
    "t_r of a row": (
        lambda out: _edit_table(out / "scans.tsv", "\t1.9\t", "\t1.91\t"),
        "scans.tsv",
        "t_r 1.91",
    ),
    "frames of a row": (
        lambda out: _edit_table(out / "scans.tsv", "\t31\t11\t3\t", "\t31\t10\t3\t"),
        "scans.tsv",
        "n_frames 10, its shard 11",
    ),
    "stride of a row": (_cell("sub-01", "stride", "2"), "scans.tsv", "has stride 2, its JSON file 3"),
    "frames in of a row": (
        _cell("sub-02", "n_frames_in", "14"),
        "scans.tsv",
        "n_frames_in 14, its JSON file 13",
    ),
    "coverage of a row": (_cell("sub-03", "coverage_min", "0.9"), "scans.tsv", "coverage_min 0.9, its JSON"),
    "motion of a row": (_cell("sub-03", "fd_mean", "0.1"), "scans.tsv", "fd_mean 0.1, its JSON file None"),
    "tSNR of a row": (_cell("sub-03", "tsnr_median", "1"), "scans.tsv", "has tsnr_median 1, its JSON"),
    "source of a row": (_cell("sub-03", "source", "x.nii"), "scans.tsv", "has source x.nii, its JSON"),
    "space of a row": (_cell("sub-03", "space", "here"), "scans.tsv", "has space here, its JSON file MNI"),
    "phases of a row": (
        lambda out: _edit_table(out / "scans.tsv", "\t31\t11\t3\t", "\t31\t11\t2\t"),
        "scans.tsv",
        "n_phases 2, its shard 3",
    ),
    # the scans' own files
    "JSON absent": (
        lambda out: _scan(out, "sub-02", ".json").unlink(),
        SHARD,
        "sub-02_task-rest has no .json",
    ),
    "JSON is a list": (lambda out: _scan(out, "sub-02", ".json").write_text("[]"), JSON, "not a JSON object"),
    "JSON broken": (lambda out: _scan(out, "sub-02", ".json").write_text("["), JSON, "not readable JSON"),
    "fact absent": (_facts("sub-02", key="DEL"), JSON, "lacks ['key']"),
    "HDF5 absent": (lambda out: _scan(out, "sub-02", ".h5").unlink(), H5, "is absent"),
    "HDF5 broken": (lambda out: _truncated(_scan(out, "sub-02", ".h5")), H5, "is damaged"),
    "keys differ": (_facts("sub-02", key="other"), H5, "_timeseries.json has other"),
    "other t_r": (_facts("sub-02", t_r=2.5), H5, "t_r is 2.0"),
    "frames": (_facts("sub-02", n_frames=12), H5, "/timeseries is float32 (13, 5), not float32 (12, 5)"),
    "double precision": (_series("sub-02", "timeseries", lambda x: x.astype(float)), H5, "is float64"),
    "marks of frames": (_series("sub-02", "censored", lambda x: x[2:]), H5, "/censored is bool (11,)"),
    "coverage": (_facts("sub-02", coverage=[1.0]), JSON, "coverage has 1 values"),
    "region not NaN": (_series("sub-02", "timeseries", _at((slice(None), 2), 3.0)), H5, "not NaN exactly"),
    "NaN in a frame": (_series("sub-02", "timeseries", _at((4, 1), np.nan)), H5, "not NaN exactly"),
    "no such region": (_facts("sub-02", missing=[2, 5]), JSON, "missing names column 5"),
    "coverage is null": (_facts("sub-02", coverage=None), JSON, "coverage is None, not a list of numbers"),
    "missing below zero": (_facts("sub-02", missing=[-3]), JSON, "missing is [-3], not a list of column"),
    "frames are text": (_facts("sub-02", n_frames="13"), JSON, "n_frames is '13', not a count"),
    "tables are no files": (_facts("sub-02", tables=["x"]), JSON, "tables is ['x'], not"),
    "folder renamed": (
        lambda out: (out / "sub-02").rename(out / "sub-09"),
        "sub-09/func/sub-02_task-rest_seg-own_timeseries.json",
        "is of sub-02/func, and lies in sub-09/func",
    ),
    "files renamed": (
        lambda out: [
            path.rename(path.with_name(path.name.replace("rest", "movie")))
            for path in list((out / "sub-02/func").iterdir())
        ],
        JSON,
        "is named otherwise than its scan_id, sub-02_task-rest",
    ),
    "n_censored": (_facts("sub-02", n_censored=3), JSON, "n_censored is 3, 0 frames are marked"),
    # the scans' files against their shard
    "scan in no shard": (
        lambda out: _copy_scan(out, "sub-02", "sub-08"),
        "sub-08_task-rest_seg-own_timeseries.json",
        "is in no shard",
    ),
    "source": (_facts("sub-02", source="x.nii"), JSON, "source is x.nii, shard-00000.h5 has /"),
    "hash of the source": (
        _shard("scans/source_sha256", _at(1, "0" * 64)),
        "sub-02_task-rest_seg-own_timeseries.json",
        "shard-00000.h5 has 000",
    ),
    "provenance": (
        _provenance(1, n_dropped=3),
        JSON,
        "/scans/provenance of shard-00000.h5 tells otherwise of n_d",
    ),
    "provenance is empty": (_shard("scans/provenance", _at(1, "{}")), JSON, "tells otherwise of confounds"),
    "options of a scan": (
        lambda out: _facts("sub-02", options={"min_coverage": 0.1})(out),
        JSON,
        "its options are others than those of shard-00000.h5: cleaning",
    ),
    "options of the shard": (_option("participant", "min_coverage", 0.9), JSON, ": min_coverage"),
    "task": (_facts("sub-02", task="movie"), JSON, "task is 'movie', shard-00000.h5 has 'rest'"),
    "t_r of the shard": (
        _shard("scans/t_r", _at(1, 1.5)),
        "sub-02_task-rest_seg-own_timeseries.json",
        "t_r is 2.0",
    ),
    "missing region": (
        lambda out: (
            _facts("sub-02", missing=[])(out),
            _series("sub-02", "timeseries", _at((slice(None), 2), np.arange(13.0)))(out),
        ),
        JSON,
        "missing are other regions",
    ),
    "a stored value": (
        _shard("timeseries", lambda x: _at((3, 4), x[3, 4] + 0.001)(x)),
        "sub-01_task-rest_seg-own_timeseries.json",
        "series 0 is stored with other values, e.g. in column 5",
    ),
    "phases exchanged": (
        _shard("timeseries", lambda x: np.concatenate([x[:11], x[21:31], x[11:21], x[31:]])),
        "sub-01_task-rest_seg-own_timeseries.json",
        "series 1 is stored with other values",
    ),
    "regions exchanged": (
        _shard("timeseries", lambda x: x[:, [1, 0, 2, 3, 4]]),
        "sub-03_task-rest_seg-own_timeseries.json",
        "is stored with other values",
    ),
    "a stored mark": (_shard("censored", _at(12, True)), JSON, "series 1 is stored with other marks"),
    "no such resampling": (
        _attribute("options", '{"group": {"resample": "x", "phases": "all", "target_t_r": 2.0}}'),
        SHARD,
        "tell a resampling that is not possible",
    ),
    "lengths": (
        _series("sub-01", "timeseries", lambda x: x[:30]),
        H5,
        "/timeseries is float32 (30, 5)",
    ),
    "another scan's frames": (
        lambda out: (
            _facts("sub-01", n_frames=30)(out),
            _series("sub-01", "timeseries", lambda x: x[:30])(out),
            _series("sub-01", "censored", lambda x: x[:30])(out),
        ),
        JSON,
        "have other lengths",
    ),
}


def _add(out: Path, content: Any, *names: str) -> None:
    with h5py.File(out / SHARD, "r+") as shard:
        for name in names:
            shard[name] = content


def _copy_scan(out: Path, participant: str, to: str) -> None:
    (out / to / "func").mkdir(parents=True)
    for extension in (".json", ".h5"):
        source = _scan(out, participant, extension)
        shutil.copy(source, out / to / "func" / source.name.replace(participant, to))
    _edit_json(_scan(out, to, ".json"), scan_id=f"{to}_task-rest", participant_id=to)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_found(fault: str, out: Path) -> None:
    spoil, path, what = FAULTS[fault]
    spoil(out)
    problems = check_output(out, sources=False)
    found = [p for p in problems if str(p.path).endswith(path) and what in p.what]
    assert found, "\n".join(map(str, problems)) or "no problem found"
    assert all(p.path.is_absolute() and p.what.endswith(".") and len(p.fix) > 10 for p in problems)


def test_one_fault_does_not_hide_or_multiply(out: Path) -> None:
    """A shard that cannot be read is one problem, not one for each of its scans; others are still told."""
    _truncated(out / SHARD)
    (out / "report.html").unlink()
    assert [(p.path.name, p.what.split(" (")[0]) for p in check_output(out, sources=False)] == [
        ("report.html", "is absent."),
        ("shard-00000.h5", "is not a readable shard"),
    ]


def test_sources_are_hashed_when_asked(tmp_path: Path) -> None:
    out = _make(tmp_path)
    source = tmp_path / "bold/sub-03_task-rest_bold.nii.gz"
    source.write_bytes(source.read_bytes() + b"\0")
    (tmp_path / "bold/sub-01_task-rest_bold.nii.gz").unlink()  # gone: nothing to compare
    assert check_output(out, sources=False) == []
    problems = check_output(out, sources=True)
    assert [p.path for p in problems] == [source] and "its SHA-256 is another" in problems[0].what
    _edit_json(_scan(out, "sub-03", ".json"), source_sha256=None)  # was not hashed
    _shard("scans/source_sha256", _at(2, ""))(out)
    assert check_output(out, sources=True) == []


def test_stored_series_are_compared_for_a_sample_or_for_all(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bjepa.preproc.check.SAMPLE", 2)  # the first and the last
    _shard("timeseries", lambda x: _at((32, 4), x[32, 4] + 1)(x))(out)  # of sub-02
    assert check_output(out, sources=False) == []
    assert "sub-02" in check_output(out, sources=False, all_scans=True)[0].path.name


def test_what_is_no_output_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        check_output(tmp_path / "absent", sources=False)
    with pytest.raises(InputError, match="holds neither atlas/, shards/ nor"):
        check_output(tmp_path, sources=False)


def test_atlases_without_a_volume(out: Path) -> None:
    """Regions known by name: the hash is that of the names, and no image is asked for."""
    (out / "atlas/atlas.nii.gz").unlink()
    _renamed_atlas(out, "table", hashlib.sha256(b"r1\nr2\nr3\nr4\nr5").hexdigest())
    assert check_output(out, sources=False) == []


def _renamed_atlas(out: Path, kind: str, sha256: str) -> None:
    """As if everything had been made with this atlas."""
    _edit_json(out / "atlas/atlas.json", kind=kind, sha256=sha256)
    _attribute("atlas_sha256", sha256)(out)
    for participant, _, _ in SCANS:
        _edit_json(_scan(out, participant, ".json"), atlas_sha256=sha256)
        with h5py.File(_scan(out, participant, ".h5"), "r+") as file:
            file.attrs["atlas_sha256"] = sha256


def test_atlases_of_surfaces(out: Path) -> None:
    """The hash is that of the labels of the grayordinates; a parcel may have none of them."""
    axes = (
        nib.cifti2.LabelAxis(["own"], {k: (f"r{k}", (0.0, 0.0, 0.0, 0.0)) for k in range(R + 1)}),
        nib.cifti2.BrainModelAxis.from_mask(np.ones(11), name="CIFTI_STRUCTURE_CORTEX_LEFT"),
    )
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 5, 5, 5, 0], np.int16)  # none of region 4
    nib.save(nib.Cifti2Image(labels[None].astype(np.float32), axes), out / "atlas/atlas.dlabel.nii")
    (out / "atlas/atlas.nii.gz").unlink()
    _renamed_atlas(out, "cifti", hashlib.sha256(labels.tobytes()).hexdigest())
    assert [p.what for p in check_output(out, sources=False)] == ["labels ['4'] are not those of atlas.tsv."]
    _edit_table(out / "atlas/atlas.tsv", "\t20\n5\t", "\t0\n5\t")
    assert check_output(out, sources=False) == []


def test_a_problem_is_told_in_a_line() -> None:
    assert str(Problem(Path("a/b"), "is absent.", "Make it.")) == "a/b: is absent. Make it."


def test_who_fits_where_nobody_or_some_do(out: Path, clean: Path) -> None:
    own = clean.parent / "own"
    atlas = load_atlas(f"{own}.nii.gz", space="MNI152NLin6Asym", labels_tsv=f"{own}.tsv")
    run_group(atlas, out, GroupOptions(scaling="none"), progress=lambda scan_id: None)
    assert check_output(out, sources=False) == []
    _shard("scans/fits_scaling", _at(1, True))(out)
    assert "true of 1 scans; none fits nothing" in check_output(out, sources=False)[0].what


def test_sources_that_are_not_found_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No fault, as the data may lie elsewhere by now; but it is told."""
    out = _make(tmp_path)
    for folder, options, told in (
        ("bold", [], ""),
        ("gone", ["--no-source-hash"], ""),
        ("gone", [], "3 of 3"),
    ):
        if not (tmp_path / folder).exists():
            (tmp_path / "bold").rename(tmp_path / folder)
        assert main(["--check", str(out), *options]) == 0
        err = capsys.readouterr().err
        assert ("sources were not found" in err) == bool(told) and told in err
    for participant, _, _ in SCANS:
        _edit_json(_scan(out, participant, ".json"), source=f"bold/{participant}.nii.gz")
    _shard("scans/source", lambda x: np.array([f"bold/{p}.nii.gz" for p, _, _ in SCANS], object))(out)
    for participant, _, _ in SCANS:
        _cell(participant, "source", f"bold/{participant}.nii.gz")(out)
    assert main(["--check", str(out)]) == 0
    assert f"e.g. bold/sub-01.nii.gz from {Path.cwd()}." in capsys.readouterr().err


def test_files_of_a_scan_that_failed_since_are_no_fault(out: Path) -> None:
    _copy_scan(out, "sub-02", "sub-08")
    _edit_json(_scan(out, "sub-08", ".json"), source="/data/sub-08.nii.gz")
    assert [p.what for p in check_output(out, sources=False)] == ["is in no shard."]
    with open(out / "failures.tsv", "a") as table:
        table.write("/data/sub-08.nii.gz\tparticipant\tInputError\tbroken\tmend it\n")
    assert check_output(out, sources=False) == []
