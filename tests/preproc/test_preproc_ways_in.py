"""bjepa-preprocess by its other ways in and out: XCP-D, CIFTI, tables, Dask, provenance, the plan."""

import json
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from bjepa.cli.preprocess import main
from bjepa.preproc import ShardReader, load_atlas
from bjepa.preproc.atlas.published import schaefer_table, tian_table
from bjepa.preproc.files import sha256_of_file

SHAPE, AFFINE = (9, 11, 7), np.array([[-3.0, 0, 0, 12], [0, 3.5, 0, -14], [0, 0, 4.0, -9], [0, 0, 0, 1]])
N_ROIS, N_SCANS = 5, 3


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Options of an atlas of 5 regions."""
    labels = np.zeros(SHAPE, np.int16)
    for region in range(1, N_ROIS + 1):
        labels[1:8, 2 * region - 1 : 2 * region + 1, 1:6] = region
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "own.nii.gz")
    (tmp_path / "own.tsv").write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in range(1, 6)))
    labels_tsv = str(tmp_path / "own.tsv")
    return ["--atlas", str(tmp_path / "own.nii.gz"), "--atlas-labels", labels_tsv, "--space", "here"]


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "bold").mkdir()
    for scan in range(N_SCANS):
        data = rng.normal(1000, 20, (*SHAPE, 40 + scan)).astype(np.float32)
        image = nib.Nifti1Image(data, AFFINE)
        image.set_sform(AFFINE, code=4)
        path = tmp_path / f"bold/sub-{scan:02d}_ses-a_task-rest_bold.nii.gz"
        nib.save(image, path)
        sidecar = {"RepetitionTime": (0.8, 2.0, 3.1)[scan]}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    return tmp_path / "bold"


def _run(*argv: Any, jobs: str = "1", expect: int = 0) -> None:
    assert main([*map(str, argv), "--n-jobs", jobs, "--log-level", "error"]) == expect


def _shard(out: Path) -> bytes:
    (path,) = (out / "shards").glob("*.h5")
    return path.read_bytes()


def test_dask_gives_the_bytes_of_one_process(bold: Path, own: list[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    _run(bold, tmp_path / "one", *own, "--low-pass", "0.1")
    _run(bold, tmp_path / "dask", *own, "--low-pass", "0.1", "--dask", "local", jobs="2")
    assert _shard(tmp_path / "one") == _shard(tmp_path / "dask")
    scans = [sorted((tmp_path / name).rglob("*_timeseries.*")) for name in ("one", "dask")]
    assert len(scans[0]) == 2 * N_SCANS
    for here, there in zip(*scans, strict=True):
        assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("engine", [("1", ()), ("2", ()), ("1", ("--dask", "local"))])
def test_what_workers_warn_of_is_told_like_the_rest(
    bold: Path, own: list[str], tmp_path: Path, engine: tuple[str, tuple[str, ...]], capsys: Any
) -> None:
    """A sidecar that --t-r overrules is noticed in the worker, whose own log has no settings."""
    jobs, more = engine
    argv = [str(bold), str(tmp_path / "out"), *own, "--t-r", "1.7", "participant", "--n-jobs", jobs, *more]
    assert main([*argv, "--log-level", "info"]) == 0
    err = capsys.readouterr().err
    assert "Scheduler at" not in err and "Nanny" not in err  # what a cluster says of itself
    told = [line for line in err.splitlines() if "sidecar or manifest says" in line]
    assert len(told) == N_SCANS and all(line.startswith("bjepa-preprocess: WARNING: ") for line in told)
    assert main([*argv, "--log-level", "error", "--overwrite"]) == 0
    assert "sidecar or manifest says" not in capsys.readouterr().err


def test_no_scheduler_at_the_address_is_told(
    bold: Path, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    _run(bold, tmp_path / "out", *own, "--dask", "nonsense://nowhere", expect=2)
    assert "--dask nonsense://nowhere: no scheduler answers" in capsys.readouterr().err


def test_round_trip_through_the_xcpd_layout(bold: Path, own: list[str], tmp_path: Path) -> None:
    """What is exported as XCP-D writes it is read as XCP-D's: the same series and repetition times."""
    first, second = tmp_path / "first", tmp_path / "second"
    _run(bold, first, *own, "--export", "xcpd-tsv", "--scaling", "none")
    tables = first / "exports/xcpd"
    _run(tables, second, *own, "--scaling", "none")
    one, two = ShardReader(first), ShardReader(second)
    assert len(one) == len(two) == 2 + 1 + 1  # 0.8 s: stride 2
    for here, there in zip(one, two, strict=True):
        assert_allclose(there, here, rtol=1e-6)
    assert one.scans["t_r"] == two.scans["t_r"]
    assert one.scans["participant_id"] == two.scans["participant_id"]


def test_xcpd_tree_of_two_atlases_becomes_the_450_regions(tmp_path: Path) -> None:
    """Schaefer-400 out of 4S456 (7-network names, shuffled) beside Tian, by name; n/a is missing."""
    tian, schaefer = tian_table()["name"], schaefer_table("17networks")
    names7 = schaefer_table("7networks").set_index("label_17networks")["name"]
    planted = {name: 1000.0 + k for k, name in enumerate(tian)}
    planted |= {names7[k].removeprefix("7Networks_"): 1050.0 + k - 1 for k in schaefer["index"]}
    others = {f"LH-other{k}": -1.0 for k in range(56)}
    wave = np.random.default_rng(3).normal(0, 1, 31)

    root = tmp_path / "xcp_d"
    func = root / "sub-7/func"
    func.mkdir(parents=True)
    description = {"Name": "XCP-D", "DatasetType": "derivative", "GeneratedBy": [{"Name": "xcp_d"}]}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for run, gone in (("1", None), ("2", "HIP-head-m-rh")):
        stem = f"sub-7_task-rest_run-{run}_space-MNI152NLin6Asym"
        for seg, names in (("Tian", list(tian)), ("4S456Parcels", [*list(planted)[50:], *others])):
            shuffled = np.random.default_rng(int(run)).permutation(names)
            columns = {name: (planted | others)[name] + wave for name in shuffled}
            if gone in columns:
                columns[gone] = np.full(31, np.nan)
            path = func / f"{stem}_seg-{seg}_stat-mean_timeseries.tsv"
            pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")
            path.with_suffix(".json").write_text('{"RepetitionTime": 0.8}')
    _run(root, tmp_path / "out", "--scaling", "none", "--resample", "none")
    reader = ShardReader(tmp_path / "out")
    assert reader.scans["run"] == ["1", "2"] and reader.scans["t_r"] == [0.8, 0.8] and reader.n_rois == 450
    assert_allclose(reader[0], 1000 + np.arange(450) + wave[:, None], rtol=1e-6)
    assert np.flatnonzero(~reader.valid[1]).tolist() == [0]
    assert_allclose(reader[1][:, 1:], reader[0][:, 1:], rtol=1e-6)
    _run(root, tmp_path / "twice", "--confounds", "simple", expect=2)  # denoised already
    _run("--check", tmp_path / "out")
    second = func / "sub-7_task-rest_run-1_space-MNI152NLin6Asym_seg-4S456Parcels_stat-mean_timeseries.tsv"
    second.write_text(second.read_text().replace("1050", "1051"))
    _run("--check", tmp_path / "out", expect=2)  # every table of a scan carries its hash


def test_surface_series_of_91k_grayordinates(shared: Path, tmp_path: Path) -> None:
    """Each region's planted value comes back in its column, from a dtseries as HCP and fMRIPrep write it."""
    atlas = load_atlas(kind="cifti", atlas_dir=shared / "data/atlas")
    axis = atlas.labels_img.header.get_axis(1)
    wave = np.sin(np.arange(12) * 0.7)
    level = np.where(atlas.labels > 0, 100.0 + atlas.labels, 5.0)
    values = level + wave[:, None] * (1 + atlas.labels / 450)  # (12, 91282)
    series = nib.cifti2.SeriesAxis(0.0, 0.72, len(wave), "SECOND")
    folder = tmp_path / "hcp"
    folder.mkdir()
    image = nib.Cifti2Image(values.astype(np.float32), header=(series, axis))
    nib.save(image, folder / "sub-7_task-rest_space-fsLR_den-91k_bold.dtseries.nii")
    options = ("--atlas-dir", shared / "data/atlas", "--scaling", "none", "--resample", "none")
    _run(folder, tmp_path / "out", *options)
    reader = ShardReader(tmp_path / "out")
    regions = np.arange(1, 451)
    assert_allclose(reader[0], 100 + regions + wave[:, None] * (1 + regions / 450), rtol=1e-5)
    assert reader.scans["t_r"] == [0.72] and reader.atlas_sha256 == atlas.sha256
    assert reader.rois["name"][50] == "17Networks_LH_VisCent_ExStr_1" and reader.valid.all()
    assert (tmp_path / "out/atlas/atlas.dlabel.nii").is_file()
    _run("--check", tmp_path / "out")


def test_tables_in_another_order_are_put_into_the_atlas_order(tmp_path: Path) -> None:
    """419 rows x frames, the first 400 in 7-network order, as the documents show it."""
    rng = np.random.default_rng(1)
    label7 = schaefer_table("17networks")["label_7networks"].to_numpy()  # of each column, its number there
    source = rng.normal(100, 3, (419, 57)).astype(np.float32)
    (tmp_path / "series").mkdir()
    np.savez(tmp_path / "series/sub-01_task-rest_timeseries.npz", timeseries=source)
    argv = [
        "--atlas",
        "schaefer-400",
        "--series-atlas",
        "schaefer-400-7networks",
        "--series-axis",
        "roi-by-time",
    ]
    argv += ["--series-columns", "1-400", "--t-r", "2.0", "--scaling", "none"]
    _run(tmp_path / "series", tmp_path / "out", *argv)
    assert_allclose(ShardReader(tmp_path / "out")[0], source[label7 - 1].T, rtol=1e-6)
    assert not (tmp_path / "out/atlas/atlas.nii.gz").exists()
    _run("--check", tmp_path / "out")
    _run(tmp_path / "series", tmp_path / "no", *argv[:6], "--t-r", "2.0", expect=2)  # 419 is not 400


def test_scan_and_shard_say_where_they_came_from(bold: Path, own: list[str], tmp_path: Path) -> None:
    options = ("--drop-initial", "3", "--low-pass", "0.1", "--normalise-mean", "--smoothing-fwhm", "5")
    _run(bold, tmp_path / "out", *own, *options)
    (path,) = (tmp_path / "out/sub-01").rglob("*_timeseries.json")
    facts = json.loads(path.read_text())
    source = bold / "sub-01_ses-a_task-rest_bold.nii.gz"
    assert facts["source"] == str(source) and facts["source_sha256"] == sha256_of_file(source)
    assert (facts["n_frames_in"], facts["n_dropped"], facts["n_frames"]) == (41, 3, 38)
    assert facts["options"]["cleaning"]["low_pass"] == 0.1 and facts["options"]["smoothing_fwhm"] == 5
    assert {"bjepa", "nilearn", "numpy", "scipy"} <= facts["software"].keys()
    with h5py.File(path.with_suffix(".h5")) as file:
        grand_mean = np.median(file["timeseries"][:].mean(axis=0))
    assert grand_mean == pytest.approx(10_000, rel=1e-3) and facts["normalising_factor"] > 9
    with h5py.File(tmp_path / "out/shards/shard-00000.h5") as shard:
        row = shard["scans/participant_id"].asstr()[:].tolist().index("sub-01")
        assert shard["scans/source"].asstr()[row] == str(source)
        assert shard["scans/source_sha256"].asstr()[row] == facts["source_sha256"]
        assert json.loads(shard["scans/provenance"].asstr()[row])["n_dropped"] == 3
        assert json.loads(shard.attrs["software"])["numpy"] == np.__version__
        assert "low_pass" in shard.attrs["options"] and shard.attrs["space"] == "here"
    _run(bold, tmp_path / "fast", *own, "--no-source-hash")
    (path,) = (tmp_path / "fast/sub-01").rglob("*_timeseries.json")
    assert json.loads(path.read_text())["source_sha256"] == ""


def test_smoothing_is_refused_where_there_is_no_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(np.random.default_rng(2).normal(100, 3, (30, 50)))
    (tmp_path / "s").mkdir()
    table.to_csv(tmp_path / "s/sub-1_timeseries.tsv", sep="\t", index=False, header=False)
    argv = [tmp_path / "s", tmp_path / "out", "--atlas", "tian-s3", "--t-r", "2.0"]
    _run(*argv, "--smoothing-fwhm", "6", expect=2)
    assert "--smoothing-fwhm smooths volumes" in capsys.readouterr().err
    _run(*argv)


def test_the_plan_of_a_table_does_not_doubt_its_confounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table is not read for the plan: its number of frames is unknown, not 0."""
    rng = np.random.default_rng(4)
    pd.DataFrame(rng.normal(100, 3, (30, 50))).to_csv(tmp_path / "t.csv", index=False, header=False)
    confounds = pd.DataFrame({"framewise_displacement": rng.uniform(0, 1, 30)})
    confounds.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    manifest = tmp_path / "list.tsv"
    manifest.write_text("path\tparticipant_id\tconfounds\nt.csv\t1\tc.tsv\n")
    argv = [str(manifest), str(tmp_path / "out"), "--atlas", "tian-s3", "--t-r", "2.0", "--dry-run"]
    assert main(argv) == 0
    assert "frames" not in capsys.readouterr().err


def test_the_plan_shows_mixed_repetition_times(
    bold: Path, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how, strides, out in (("stride", "2 1 1", "1.6 2 3.1"), ("decimate", "1 1 1", "2 2 3.1")):
        _run(bold, tmp_path / "out", *own, "--resample", how, "--dry-run")
        told = capsys.readouterr()
        rows = [line.split("│")[1:-1] for line in told.out.splitlines() if "sub-0" in line]
        assert [row[3].strip() for row in rows] == ["0.8", "2", "3.1"]
        assert " ".join(row[5].strip() for row in rows) == out
        if how == "stride":
            assert " ".join(row[4].strip() for row in rows) == strides
        assert "3.1 s" in told.err and "target" in told.err  # longer than the target: kept
    assert not (tmp_path / "out").exists()


def test_decimated_series_reach_the_exact_target(bold: Path, own: list[str], tmp_path: Path) -> None:
    _run(bold, tmp_path / "out", *own, "--resample", "decimate")
    reader = ShardReader(tmp_path / "out")
    assert reader.scans["t_r_out"] == [2.0, 2.0, 3.1] and len(reader) == 3
    assert reader.series_length.tolist() == [16, 41, 42]


@pytest.mark.parametrize("method", ["robust-dynamic", "robust-means", "zscore-scan"])
def test_every_scaling_can_be_undone(bold: Path, own: list[str], tmp_path: Path, method: str) -> None:
    _run(bold, tmp_path / "raw", *own, "--scaling", "none")
    _run(bold, tmp_path / "out", *own, "--scaling", method)
    raw, scaled = ShardReader(tmp_path / "raw"), ShardReader(tmp_path / "out")
    assert scaled.scaling == method
    for number in range(len(raw)):
        assert_allclose(scaled.unscale(scaled[number], series=number), raw[number], rtol=3e-7)
    _run("--check", tmp_path / "out")


# --- the plan foretells the run -----------------------------------------------------------------------------


def _planned(told: str) -> pd.DataFrame:
    """The plan's table as text, by scan; a scan that would fail has no row."""
    lines = [line for line in told.splitlines() if "┃" in line or ("│" in line and "would fail" not in line)]
    cells = [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines]
    return pd.DataFrame(cells[1:], columns=cells[0]).set_index("scan")


def _manifest(bold: Path, n_non_steady: int) -> Path:
    """The scans, each with confounds as fMRIPrep has them: six of motion, and so many non-steady frames."""
    rows = "path\tparticipant_id\tt_r\tconfounds\n"
    rng = np.random.default_rng(5)
    for scan, image in enumerate(sorted(bold.glob("*.nii.gz"))):
        values = rng.normal(size=(40 + scan, 6))
        table = pd.DataFrame(values, columns=[f"{k}_{x}" for k in ("trans", "rot") for x in "xyz"])
        for frame in range(n_non_steady):
            table[f"non_steady_state_outlier{frame:02d}"] = (np.arange(40 + scan) == frame) * 1.0
        path = bold.parent / f"sub-{scan:02d}_desc-confounds_timeseries.tsv"
        table.to_csv(path, sep="\t", index=False)
        rows += f"{image}\tsub-{scan:02d}\t{(0.8, 2.0, 3.1)[scan]}\t{path}\n"
    (bold.parent / "list.tsv").write_text(rows)
    return bold.parent / "list.tsv"


MOTION = '{"strategy": ["motion"], "motion": "basic"}'


@pytest.mark.parametrize(
    ("options", "n_confounds"),
    [
        (("--drop-initial", "10"), 0),
        (("--drop-initial", "auto"), 0),
        (("--drop-initial", "auto", "--resample", "decimate", "--low-pass", "0.1"), 0),
        (("--confounds", "motion.json"), 6),
    ],
)
def test_the_plan_has_the_frames_and_confounds_of_the_run(
    options: tuple[str, ...],
    n_confounds: int,
    bold: Path,
    own: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "motion.json").write_text(MOTION)
    options = tuple(str(tmp_path / o) if o.endswith(".json") else o for o in options)
    argv = (_manifest(bold, n_non_steady=3), tmp_path / "out", *own, *options)
    _run(*argv, "--dry-run")
    plan = _planned(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    _run(*argv)
    made = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t").set_index("scan_id")
    assert len(made) == N_SCANS and set(plan.index) == set(made.index)
    for scan_id, row in made.iterrows():
        (path,) = (tmp_path / "out").rglob(f"{scan_id}_*_timeseries.json")
        facts = json.loads(path.read_text())
        told = plan.loc[str(scan_id)]
        assert int(told["frames"]) == row["n_frames_in"] and int(told["frames out"]) == row["n_frames"]
        assert int(told["series"]) == row["n_phases"] and int(told["censored"]) == facts["n_censored"]
        assert int(told["confounds"]) == len(facts["confounds"]) == n_confounds


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--low-pass", "0.4"), 3, "--low-pass must be in (0, 0.25) Hz"),  # 0.8 s has a half rate of 0.625 Hz
        (("--low-pass", "0.7"), 2, "--low-pass must be in"),
        (("--confounds", "simple"), 2, "there is no"),
        (("--drop-initial", "39"), 3, "leaves 1 of 40"),
        (("--drop-initial", "auto"), 2, "counts the non-steady-state frames"),
        (("--low-pass", "0.1", "--drop-initial", "30"), 2, "too few for the filter"),
    ],
)
def test_the_plan_fails_where_the_run_fails(
    options: tuple[str, ...],
    status: int,
    says: str,
    bold: Path,
    own: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for more in (("--dry-run",), ("participant",)):
        _run(bold, tmp_path / "out", *own, *options, *more, expect=status)
        assert says in capsys.readouterr().err


def test_the_plan_misses_an_absent_mask_and_counts_censored_frames(
    bold: Path, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = bold / "sub-01_ses-a_task-rest_bold.nii.gz"
    (tmp_path / "mask.tsv").write_text(f"path\tt_r\tmask\n{scan}\t2\tabsent.nii.gz\n")
    for more in (("--dry-run",), ()):
        _run(tmp_path / "mask.tsv", tmp_path / "out", *own, *more, expect=2)
        assert f"mask {tmp_path / 'absent.nii.gz'} does not exist" in capsys.readouterr().err

    table = pd.DataFrame(
        np.random.default_rng(6).normal(size=(41, 6)),
        columns=[f"{k}_{x}" for k in ("trans", "rot") for x in "xyz"],
    )
    table["framewise_displacement"], table["std_dvars"] = np.where(np.arange(41) % 9 == 4, 2.0, 0.1), 0.5
    table.to_csv(tmp_path / "sub-01_desc-confounds_timeseries.tsv", sep="\t", index=False)
    strategy = {"strategy": ["motion", "scrub"], "motion": "basic", "scrub": 0, "fd_threshold": 0.5}
    (tmp_path / "scrub.json").write_text(json.dumps(strategy))
    rows = f"path\tt_r\tconfounds\n{scan}\t2\tsub-01_desc-confounds_timeseries.tsv\n"
    (tmp_path / "list.tsv").write_text(rows)
    argv = (tmp_path / "list.tsv", tmp_path / "out", *own, "--confounds", tmp_path / "scrub.json")
    _run(*argv, "--dry-run")
    (told,) = _planned(capsys.readouterr().out).to_dict("records")
    _run(*argv)
    (path,) = (tmp_path / "out").rglob("*_timeseries.json")
    facts = json.loads(path.read_text())
    assert int(told["censored"]) == facts["n_censored"] > 0
    assert int(told["confounds"]) == len(facts["confounds"]) == 6
