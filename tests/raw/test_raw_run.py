"""The command on a raw BIDS folder of simulated participants: what is written, kept, done again, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bjepa.cli.preprocess import main
from bjepa.preproc import ShardReader

RUN = "sub-01_task-rest_run-1"


@pytest.fixture(scope="module")
def output(small_cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    assert main(small_cohort.command(out)) == 0
    return out


def facts_of(output: Path, scan: str = RUN) -> dict[str, Any]:
    path = next(output.rglob(f"{scan}_seg-*_timeseries.json"))
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def times(output: Path, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(output.rglob(pattern))}


def test_all_products_are_there_under_their_names(output: Path) -> None:
    template = facts_of(output)["raw"]["template"]
    anat = {path.name for path in (output / "sub-01" / "anat").iterdir()}
    assert anat == {
        "sub-01_desc-preproc_T1w.nii.gz",
        "sub-01_desc-preproc_T1w.json",
        "sub-01_desc-brain_mask.nii.gz",
        f"sub-01_from-{template}_to-T1w_mode-image_xfm.nii.gz",
        f"sub-01_from-T1w_to-{template}_mode-image_xfm.nii.gz",
        f"sub-01_space-{template}_desc-preproc_T1w.nii.gz",
    }
    func = {path.name for path in (output / "sub-01" / "func").iterdir() if path.name.startswith(RUN)}
    label = next((output / "sub-01" / "func").glob("*_timeseries.h5")).name.split("_seg-")[1].split("_")[0]
    assert func == {
        f"{RUN}_boldref.nii.gz",
        f"{RUN}_boldref.json",
        f"{RUN}_desc-brain_mask.nii.gz",
        f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        f"{RUN}_from-boldref_to-T1w_mode-image_xfm.txt",
        f"{RUN}_from-boldref_to-T1w_mode-image_xfm.json",
        f"{RUN}_seg-{label}_dseg.nii.gz",
        f"{RUN}_space-{template}_boldref.nii.gz",
        f"{RUN}_desc-confounds_timeseries.tsv",
        f"{RUN}_desc-confounds_timeseries.json",
        f"{RUN}_seg-{label}_timeseries.h5",
        f"{RUN}_seg-{label}_timeseries.json",
    }
    for picture in facts_of(output)["raw"]["figures"].values():
        assert (output / picture).stat().st_size > 1000


def test_shards_hold_the_planted_signals(output: Path, small_cohort: Any) -> None:
    reader = ShardReader(output)
    assert len(reader) == 3
    truth = {run.path.name.split("_bold")[0]: run for one in small_cohort.truths for run in one.runs}
    for number in range(3):
        scan = reader.scans["scan_id"][reader.series_scan[number]]
        planted = truth[scan].series[truth[scan].n_non_steady :]  # the first frames were dropped
        valid = reader[number].any(axis=0)  # a missing region is 0
        pairs = zip(reader[number].T[valid], planted.T[valid], strict=True)
        r = [np.corrcoef(a, b)[0, 1] for a, b in pairs]
        # 40 frames less 10 confounds, 4 mm voxels, a sloppy registration: far from the real thing, far from 0
        assert np.median(r) > 0.35, (scan, np.median(r))
        assert valid.mean() > 0.95


def test_the_atlas_lies_on_the_run_s_own_grid(output: Path, small_cohort: Any) -> None:
    bold = nib.load(small_cohort.truths[0].runs[0].path)
    labels = nib.load(next(output.rglob(f"{RUN}_seg-*_dseg.nii.gz")))
    assert labels.shape == bold.shape[:3]
    np.testing.assert_allclose(labels.affine, bold.affine, atol=1e-5)
    assert len(np.unique(labels.dataobj)) > 440


def test_what_is_known_of_the_scan_is_told(output: Path) -> None:
    facts = facts_of(output)
    raw = facts["raw"]
    assert facts["space"] == "MNI152NLin2009cAsym"
    assert raw["template_error_mm"] > 1 and any("mismatch" in warning for warning in facts["warnings"])
    assert facts["fd_mean"] > 0.02 and raw["n_non_steady"] == 3
    assert raw["metrics"].keys() >= {"template_ncc", "affine_scale_ratio", "brain_volume_l", "mi_ratio"}
    scans = pd.read_csv(output / "scans.tsv", sep="\t")
    assert list(scans["source"].str.contains("raw/sub-0")) == [True] * 3
    report = (output / "report.html").read_text()
    assert "Raw fMRI: registration" in report


def test_one_registration_of_the_t1w_for_all_runs_and_nothing_done_twice(
    output: Path, small_cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(output, "sub-*/**/*.*")
    sidecar = json.loads((output / "sub-01/anat/sub-01_desc-preproc_T1w.json").read_text())
    assert [Path(path).name for path in sidecar["Sources"]] == ["sub-01_T1w.nii.gz", f"{RUN}_bold.nii.gz"]
    assert main(small_cohort.command(output)) == 0
    assert times(output, "sub-*/**/*.*") == before


@pytest.mark.slow
def test_overwrite_does_every_stage_again_to_the_same_bytes(
    output: Path, small_cohort: Any, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(output, again)
    before = {path: path.read_bytes() for path in again.glob("sub-02/*/*.*")}
    changed = times(again, "sub-02/*/*.*")
    assert main(small_cohort.command(again, "participant", "--overwrite", "--participant-label", "02")) == 0
    assert not set(times(again, "sub-02/*/*.*").items()) & set(changed.items())
    for path, content in before.items():
        assert path.read_bytes() == content, path.name


def test_other_cleaning_takes_up_the_kept_stages(output: Path, small_cohort: Any, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(output, again)
    kept = ("*_boldref.nii.gz", "*_T1w.nii.gz", "*_xfm.*", "*_means.h5", "*_dseg.nii.gz", "*_bold.webp")
    before = [times(again, pattern) for pattern in kept]
    basic = tmp_path / "basic.json"
    basic.write_text('{"strategy": ["motion", "wm_csf"], "motion": "basic", "wm_csf": "basic"}')
    assert main(small_cohort.command(again, "participant", "--confounds", str(basic))) == 0
    assert [times(again, pattern) for pattern in kept] == before
    assert len(facts_of(again)["confounds"]) == 8 and facts_of(output)["confounds"] == []


def test_a_wrong_t1w_fails_its_participant_and_no_other(
    output: Path, small_cohort: Any, tmp_path: Path
) -> None:
    raw, again = tmp_path / "raw", tmp_path / "again"
    shutil.copytree(small_cohort.raw, raw)
    shutil.copytree(output, again)
    before = times(again, "sub-01/anat/*")
    t1w = raw / "sub-02/anat/sub-02_T1w.nii.gz"
    image = nib.load(t1w)
    turned = np.rot90(np.asarray(image.dataobj), axes=(0, 1)).copy()  # the header stays
    nib.save(nib.Nifti1Image(turned, image.affine), t1w)
    assert main([str(raw), *small_cohort.command(again)[1:]]) == 3
    failures = pd.read_csv(again / "failures.tsv", sep="\t")
    assert list(failures["source"].map(lambda path: Path(path).name)) == ["sub-02_task-rest_bold.nii.gz"]
    assert "failed" in failures["message"][0] and "Look at" in failures["hint"][0]
    assert times(again, "sub-01/anat/*") == before  # kept by content: the folder is another


def test_without_a_t1w_only_on_demand_and_marked(small_cohort: Any, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(small_cohort.raw, raw, ignore=shutil.ignore_patterns("sub-01"))
    shutil.rmtree(raw / "sub-02/anat")
    command = [str(raw), *small_cohort.command(out)[1:]]
    assert main(command) == 2
    assert "--allow-no-t1w" in pd.read_csv(out / "failures.tsv", sep="\t")["hint"][0]
    assert main([*command, "--allow-no-t1w"]) == 0
    facts = facts_of(out, "sub-02_task-rest")
    assert facts["raw"]["low_quality"] and any("no T1w image" in warning for warning in facts["warnings"])
    assert facts["raw"]["figures"].keys() == {"template", "mask", "atlas", "motion"}
    with h5py.File(next(out.rglob("*_means.h5"))) as file:
        assert (file["n_voxels"][:] > 0).sum() > 440


def test_a_run_that_cannot_be_read_is_no_guide_and_stops_no_other(
    output: Path, small_cohort: Any, tmp_path: Path
) -> None:
    raw, again = tmp_path / "raw", tmp_path / "again"
    shutil.copytree(small_cohort.raw, raw, ignore=shutil.ignore_patterns("sub-02"))
    run = raw / f"sub-01/func/{RUN}_bold.nii.gz"
    image = nib.load(run)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj[..., :4]), image.affine, image.header), run)
    assert main([str(raw), *small_cohort.command(again)[1:]]) == 3
    assert list(pd.read_csv(again / "failures.tsv", sep="\t")["source"]) == [str(run)]
    sidecar = json.loads((again / "sub-01/anat/sub-01_desc-preproc_T1w.json").read_text())
    assert Path(sidecar["Sources"][-1]).name == "sub-01_task-rest_run-2_bold.nii.gz"


def test_the_output_passes_its_own_check(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(output), "--check-all"]) == 0, capsys.readouterr().out
