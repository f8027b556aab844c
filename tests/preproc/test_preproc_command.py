"""bjepa-preprocess as a user runs it: what it writes, how it continues, how it refuses."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bjepa.cli.preprocess import main
from bjepa.preproc import ShardReader, extract_timeseries, load_atlas

SHAPE, AFFINE = (7, 8, 6), np.diag([3.0, 3.5, 4.0, 1.0])
SPACE = "MNI152NLin6Asym"


@pytest.fixture
def atlas_options(tmp_path: Path) -> list[str]:
    labels = np.zeros(SHAPE, np.int16)
    for region in range(1, 6):
        labels[1:6, region : region + 1, 1:5] = region
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "own.nii.gz")
    (tmp_path / "own.tsv").write_text(
        "index\tname\tnetwork7\n" + "".join(f"{k}\tr{k}\tn{k % 2}\n" for k in range(1, 6))
    )
    return [
        "--atlas",
        str(tmp_path / "own.nii.gz"),
        "--atlas-labels",
        str(tmp_path / "own.tsv"),
        "--space",
        SPACE,
    ]


def _bold(path: Path, seed: int, n_frames: int, t_r: float | None, *, header_t_r: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data = rng.normal(1000, 20, (*SHAPE, n_frames)).astype(np.float32)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(AFFINE, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((3.0, 3.5, 4.0, header_t_r))
    nib.save(image, path)
    if t_r is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": t_r}))
    return path


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    folder = tmp_path / "bold"
    _bold(folder / "sub-01_task-rest_bold.nii.gz", 1, 31, 0.7)
    _bold(folder / "sub-02_task-rest_bold.nii.gz", 2, 13, 2.0)
    _bold(folder / "sub-03_task-rest_bold.nii.gz", 3, 17, None, header_t_r=1.9)
    return folder


def _run(*argv: Any) -> int:
    return main([*map(str, argv), "--n-jobs", "1", "--log-level", "error"])


def test_whole_command(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, *atlas_options) == 0
    scans = pd.read_csv(out / "scans.tsv", sep="\t")
    columns = (
        "scan_id participant_id session task run source space t_r stride t_r_out n_frames_in n_frames "
        "n_phases shard fd_mean tsnr_median coverage_min n_missing_rois"
    )
    assert list(scans.columns) == columns.split()
    assert scans["stride"].tolist() == [3, 1, 1] and scans["n_frames"].tolist() == [11, 13, 17]
    assert_allclose(scans["t_r_out"], [2.1, 2.0, 1.9], rtol=1e-6)
    assert scans["n_phases"].tolist() == [3, 1, 1] and set(scans["space"]) == {SPACE}

    reader = ShardReader(out)
    assert len(reader) == 5 and reader.series_length.tolist() == [11, 10, 10, 13, 17]
    atlas = load_atlas(atlas_options[1], space=SPACE, labels_tsv=atlas_options[3])
    means = [extract_timeseries(path, atlas).timeseries for path in sorted(bold.glob("*.nii.gz"))]
    pooled = np.concatenate(means)
    low, median, high = np.percentile(pooled, [25, 50, 75], axis=0)
    assert_allclose(reader.median, median, rtol=1e-6)
    assert_allclose(reader.iqr, high - low, rtol=1e-4)
    assert_allclose(reader.unscale(reader[1]), means[0][1::3], rtol=1e-6)
    assert_allclose(reader[3], (means[1] - median) / (high - low), rtol=1e-3, atol=1e-4)

    description = json.loads((out / "dataset_description.json").read_text())
    assert (
        description["DatasetType"] == "derivative"
        and description["GeneratedBy"][0]["Name"] == "bjepa-preprocess"
    )
    facts = json.loads((out / "atlas/atlas.json").read_text())
    assert facts["sha256"] == reader.atlas_sha256 == atlas.sha256
    scaling = pd.read_csv(out / "scaling.tsv", sep="\t")
    assert list(scaling.columns) == ["index", "name", "median", "iqr"]
    assert (out / "failures.tsv").read_text().split() == ["source", "stage", "error", "message", "hint"]
    page = (out / "report.html").read_text()  # the small images of this test cannot hold a brain
    assert (
        "Preprocessing report" in page
        and "3 of 3 scans, e.g. sub-01_task-rest: its field of view ends at" in page
    )
    series = sorted(out.glob("sub-*/func/*_seg-own_timeseries.h5"))
    with h5py.File(series[0]) as file:
        assert_allclose(file["timeseries"][:], means[0], rtol=1e-6)


def test_readable_by_a_fresh_process_with_h5py_alone(
    bold: Path, tmp_path: Path, atlas_options: list[str]
) -> None:
    assert _run(bold, tmp_path / "out", *atlas_options) == 0
    code = (
        "import h5py, sys; f = h5py.File(sys.argv[1]); o, n = f['series/offset'][1], f['series/length'][1];"
        "x = f['timeseries'][o:o+n] * f['scaling/iqr'][:] + f['scaling/median'][:]; "
        "print(x.shape, x.mean().round());"
        "assert 'bjepa' not in sys.modules"
    )
    shard = str(tmp_path / "out/shards/shard-00000.h5")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, shard], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(10, 5) 1000.0"


def test_bad_files_are_told_and_the_good_ones_done(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    good = _bold(tmp_path / "source.nii.gz", 9, 12, None, header_t_r=2.0).read_bytes()
    (bold / "sub-91_bold.nii.gz").write_bytes(good[: len(good) // 2])
    (bold / "sub-92_bold.nii.gz").write_text("this is text")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE), bold / "sub-93_bold.nii.gz")
    _bold(bold / "sub-94_bold.nii.gz", 9, 12, None, header_t_r=0.0)
    _bold(bold / "sub-95_bold.nii.gz", 9, 12, None, header_t_r=1.0)
    bare = nib.Nifti1Image(np.ones((*SHAPE, 9), np.int16), None)
    bare.header["pixdim"][4] = 2.0
    nib.save(bare, bold / "sub-96_bold.nii.gz")
    _bold(bold / "sub-97_bold.nii.gz", 9, 12, 700.0)

    assert _run(bold, tmp_path / "out", *atlas_options) == 3
    failures = pd.read_csv(tmp_path / "out/failures.tsv", sep="\t")
    assert failures["source"].str.extract(r"sub-(\d+)_")[0].tolist() == [
        "91",
        "92",
        "93",
        "94",
        "95",
        "96",
        "97",
    ]
    says = [
        "damaged",
        "not a readable NIfTI",
        "4D series",
        "no usable repetition time",
        "exactly 1 s",
        "no orientation",
        "sidecar or manifest says t_r 700",
    ]
    for message, part in zip(failures["message"], says, strict=True):
        assert part in message
    assert failures["hint"].str.len().min() > 10
    told = capsys.readouterr().err
    assert "Traceback" not in told and told.count("failed:") == 7
    assert len(ShardReader(tmp_path / "out").scans["scan_id"]) == 3

    (bold / "sub-94_bold.json").write_text('{"RepetitionTime": 2.0}')  # mended: no longer a failure
    assert _run(bold, tmp_path / "out", *atlas_options) == 3
    assert len(pd.read_csv(tmp_path / "out/failures.tsv", sep="\t")) == 6


def test_a_call_with_nothing_good_exits_2(tmp_path: Path, atlas_options: list[str]) -> None:
    (tmp_path / "bad").mkdir()
    assert _run(tmp_path / "bad", tmp_path / "out", *atlas_options) == 2
    (tmp_path / "bad/sub-1_bold.nii.gz").write_bytes(gzip.compress(b"x" * 400))
    assert _run(tmp_path / "bad", tmp_path / "out", *atlas_options) == 2
    assert not (tmp_path / "out/shards").exists()


def test_resume_keeps_what_is_done_and_redoes_what_changed(
    bold: Path, tmp_path: Path, atlas_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, "participant", *atlas_options, "--participant-label", "01") == 0
    assert not (out / "shards").exists()
    done: list[str] = []
    from bjepa.preproc import read_scan

    def extract(path: Path, *args: Any, **kwargs: Any) -> Any:
        done.append(path.name[:6])
        return extract_timeseries(path, *args, **kwargs)

    monkeypatch.setattr(read_scan, "extract_timeseries", extract)
    assert _run(bold, out, *atlas_options) == 0 and done == ["sub-02", "sub-03"]
    first = (out / "shards/shard-00000.h5").read_bytes()
    assert _run(bold, out, *atlas_options) == 0 and len(done) == 2  # nothing to do
    assert (out / "shards/shard-00000.h5").read_bytes() == first  # the same bytes
    _bold(bold / "sub-02_task-rest_bold.nii.gz", 22, 14, 2.0)
    assert _run(bold, out, *atlas_options) == 0 and done[2:] == ["sub-02"]
    for extension in (".json", ".h5"):  # cut short on the disk
        damaged = next(out.glob(f"sub-02/func/*{extension}"))
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) // 2])
        assert _run(bold, out, *atlas_options) == 0 and done.pop() == "sub-02" and len(done) == 3
        assert damaged.read_bytes() == whole
    assert _run(bold, out, *atlas_options, "--overwrite") == 0 and len(done) == 6


def test_changed_confounds_are_used_and_absent_files_named(
    tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    func = tmp_path / "deriv/sub-01/func"
    _bold(func / "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", 1, 31, 2.0)
    (tmp_path / "deriv/dataset_description.json").write_text('{"DatasetType": "derivative"}')
    table = func / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    out, fd_mean = tmp_path / "out", []
    for value in ("0.1", "0.3"):  # the second time the run is as it was, its confounds are not
        table.write_text("framewise_displacement\n" + f"{value}\n" * 31)
        assert _run(tmp_path / "deriv", out, *atlas_options) == 0
        fd_mean.append(pd.read_csv(out / "scans.tsv", sep="\t")["fd_mean"][0])
    assert fd_mean == [0.1, 0.3]

    image = func / "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    for column in ("mask", "confounds"):
        manifest = tmp_path / "list.tsv"
        manifest.write_text(f"path\tt_r\t{column}\n{image}\t2\tabsent.file\n")
        assert _run(manifest, tmp_path / "out2", *atlas_options) == 2
        assert f"{column} {tmp_path / 'absent.file'} does not exist" in capsys.readouterr().err


def test_two_processes_give_the_same_bytes(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    assert _run(bold, tmp_path / "one", *atlas_options) == 0
    argv = [str(bold), str(tmp_path / "two"), *atlas_options, "--n-jobs", "2", "--log-level", "error"]
    assert main(argv) == 0
    shards = [tmp_path / name / "shards/shard-00000.h5" for name in ("one", "two")]
    assert shards[0].read_bytes() == shards[1].read_bytes()


def test_group_stage_options(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, "group", *atlas_options) == 2  # no participant yet
    assert _run(bold, out, "participant", *atlas_options) == 0
    (tmp_path / "train.txt").write_text("02\nsub-03\n")
    assert _run(bold, out, "group", *atlas_options, "--scaling-participants", tmp_path / "train.txt") == 0
    reader = ShardReader(out)
    fitted = np.concatenate([reader.unscale(reader[i]) for i in (3, 4)])
    assert_allclose(reader.median, np.median(fitted, axis=0), rtol=1e-6)
    assert _run(bold, out, "group", *atlas_options, "--phases", "first", "--scaling", "none") == 0
    reader = ShardReader(out)
    assert len(reader) == 3 and reader.scaling == "none" and reader[0].mean() == pytest.approx(1000, rel=0.01)
    assert _run(bold, out, "group", *atlas_options, "--resample", "none") == 0
    assert ShardReader(out).series_length.tolist() == [31, 13, 17]
    (tmp_path / "train.txt").write_text("77\n")
    assert _run(bold, out, "group", *atlas_options, "--scaling-participants", tmp_path / "train.txt") == 2
    assert ShardReader(out).series_length.tolist() == [31, 13, 17]  # what was there is still there


def test_scans_with_other_options_are_not_mixed(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    out = tmp_path / "out"
    assert (
        _run(bold, out, "participant", *atlas_options, "--participant-label", "01", "--low-pass", "0.1") == 0
    )
    assert _run(bold, out, "participant", *atlas_options, "--participant-label", "02") == 0
    assert _run(bold, out, "group", *atlas_options) == 2


def test_missing_regions_are_marked_and_too_many_fail(
    bold: Path, tmp_path: Path, atlas_options: list[str]
) -> None:
    image = nib.load(bold / "sub-02_task-rest_bold.nii.gz")
    data = image.get_fdata(dtype=np.float32)
    data[:, 3] = 0  # region 3 has no signal
    nib.save(nib.Nifti1Image(data, image.affine, image.header), bold / "sub-02_task-rest_bold.nii.gz")
    assert _run(bold, tmp_path / "strict", *atlas_options) == 3
    assert _run(bold, tmp_path / "out", *atlas_options, "--max-missing", "0.2") == 0
    reader = ShardReader(tmp_path / "out")
    assert reader.valid[1].tolist() == [True, True, False, True, True] and (reader[3][:, 2] == 0).all()
    assert np.isfinite(np.concatenate(list(reader))).all()
    scans = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")
    assert scans["n_missing_rois"].tolist() == [0, 1, 0] and scans["coverage_min"].tolist() == [1, 0, 1]
    assert "Scans with missing regions" in (tmp_path / "out/report.html").read_text()


def test_a_scan_that_fails_when_done_again_leaves_the_shards(
    bold: Path, tmp_path: Path, atlas_options: list[str]
) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, *atlas_options) == 0
    kept = (bold / "sub-02_task-rest_bold.nii.gz").read_bytes()
    (bold / "sub-02_task-rest_bold.nii.gz").write_bytes(kept[:200])
    assert _run(bold, out, *atlas_options) == 3
    assert ShardReader(out).scans["participant_id"] == ["sub-01", "sub-03"]
    assert _run(bold, out, "group", *atlas_options) == 3  # failures.tsv still has it
    (bold / "sub-02_task-rest_bold.nii.gz").write_bytes(kept)
    assert _run(bold, out, *atlas_options) == 0
    assert ShardReader(out).scans["participant_id"] == ["sub-01", "sub-02", "sub-03"]


def test_labels_at_another_place_are_another_atlas(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    assert _run(bold, out, *atlas_options) == 0
    moved = AFFINE.copy()
    moved[0, 3] += 3  # the same labels, a voxel to the side
    labels = np.asarray(nib.load(tmp_path / "own.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(labels, moved), tmp_path / "own.nii.gz")
    assert _run(bold, out, "group", *atlas_options) == 2
    assert "labels at another place" in capsys.readouterr().err
    assert _run(bold, out, *atlas_options) == 0 and _run(bold, fresh, *atlas_options) == 0
    shards = [folder / "shards/shard-00000.h5" for folder in (out, fresh)]
    assert shards[0].read_bytes() == shards[1].read_bytes()


def test_the_group_stage_ignores_no_option(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, "participant", *atlas_options, "--drop-initial", "2") == 0
    assert _run(bold, out, "group", *atlas_options, "--high-pass", "0.01") == 2
    assert "--high-pass 0.01 belongs to the stage 'participant'" in capsys.readouterr().err
    assert _run(bold, out, "group", *atlas_options, "--drop-initial", "2") == 0  # as it was done
    assert main([str(bold), str(out), "group", *atlas_options, "--participant-label", "01"]) == 0
    assert "--participant-label: the stage 'group' takes every finished scan" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(bold), str(out), "participant", *atlas_options, "--export", "xcpd-tsv"])


@pytest.mark.parametrize("kind", ["raw BIDS", "tables", "file", "read-only"])
def test_somebody_elses_output_is_left_alone(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / "theirs"
    if kind == "file":
        out.write_text("mine")
    elif kind == "read-only":
        out = Path("/proc/theirs")
    else:
        out.mkdir()
        (out / "scans.tsv").write_text("mine")
        if kind == "raw BIDS":
            (out / "dataset_description.json").write_text('{"Name": "mine", "BIDSVersion": "1.9.0"}')
    assert _run(bold, out, *atlas_options) == 2
    assert str(out) in capsys.readouterr().err
    if kind in ("raw BIDS", "tables"):
        assert (out / "scans.tsv").read_text() == "mine"


def test_input_may_be_written_relative_or_absolute(
    bold: Path, tmp_path: Path, atlas_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(bold, tmp_path / "out", *atlas_options) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_timeseries.h5")}
    monkeypatch.chdir(tmp_path)
    assert _run("bold", "out", *atlas_options) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert pd.read_csv("out/scans.tsv", sep="\t")["source"][0] == str(bold / "sub-01_task-rest_bold.nii.gz")


def test_damaged_operators_are_made_again(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    out = tmp_path / "out"
    assert _run(bold, out, *atlas_options) == 0
    shard = (out / "shards/shard-00000.h5").read_bytes()
    for path in (out / "work/operators").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert _run(bold, out, *atlas_options, "--overwrite") == 0
    assert (out / "shards/shard-00000.h5").read_bytes() == shard


def test_names_that_no_table_can_hold_fail_alone(
    bold: Path, tmp_path: Path, atlas_options: list[str]
) -> None:
    for name in (b"sub-\xff_bold.nii.gz", b"sub-" + b"9" * 230 + b"_bold.nii.gz"):
        with open(os.path.join(os.fsencode(bold), name), "wb") as file:
            file.write(b"junk")
    assert _run(bold, tmp_path / "out", *atlas_options) == 3
    assert len(pd.read_csv(tmp_path / "out/failures.tsv", sep="\t")) == 2
    assert len(ShardReader(tmp_path / "out").scans["scan_id"]) == 3


def test_a_stride_that_a_shard_cannot_count_is_refused(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(bold, tmp_path / "out", *atlas_options, "--t-r", "0.2", "--target-t-r", "60") == 2
    assert "300 times the t_r" in capsys.readouterr().err


def test_output_inside_input_is_no_input(bold: Path, atlas_options: list[str]) -> None:
    for _ in range(2):
        assert _run(bold, bold / "out", *atlas_options) == 0
    assert len(ShardReader(bold / "out").scans["scan_id"]) == 3


def test_dry_run_writes_nothing(
    bold: Path, tmp_path: Path, atlas_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (bold / "sub-09_bold.nii.gz").write_text("text")
    assert _run(bold, tmp_path / "out", *atlas_options, "--dry-run") == 3
    told = capsys.readouterr()
    assert "0.7" in told.out and "2.1" in told.out and "would fail" in told.err
    assert not (tmp_path / "out").exists()


def test_space_must_be_known_and_one(bold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(bold, tmp_path / "out") == 2
    assert "--space" in capsys.readouterr().err
    for space in ("A", "B"):
        _bold(tmp_path / f"two/sub-1_space-{space}_bold.nii.gz", 1, 9, 2.0)
    assert _run(tmp_path / "two", tmp_path / "out") == 2
    assert "several spaces" in capsys.readouterr().err


def test_arguments_may_stand_between_options(bold: Path, tmp_path: Path, atlas_options: list[str]) -> None:
    first, second = atlas_options[:2], atlas_options[2:]
    assert _run(*first, bold, *second, tmp_path / "out", "--phases", "first", "participant") == 0
    assert not (tmp_path / "out/shards").exists() and list(tmp_path.glob("out/sub-*"))


def test_usage_errors_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["--t-r", "0"],
        ["--n-jobs", "0"],
        ["--drop-initial", "x"],
        ["--min-coverage", "2"],
        ["--resample", "cubic"],
        ["--target-t-r", "0.04"],
        ["--series-columns", "5-2"],
        ["--check", "x"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(tmp_path), str(tmp_path / "o"), *argv])
        told = capsys.readouterr().err.splitlines()[-1]  # about this option, not any other
        assert stopped.value.code == 2 and "unrecognized" not in told
        assert f"error: argument {argv[0]}: " in told or f"error: {' '.join(argv)} " in told
