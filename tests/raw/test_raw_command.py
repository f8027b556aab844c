"""bjepa-preprocess on raw BIDS before anything is registered: options, refusals, dry run, template."""

import argparse
import importlib.util
import json
import os
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bjepa.cli import _preprocess_raw as raw_fmri
from bjepa.cli._preprocess_options import EXAMPLES, RAW_OPTIONS, parser
from bjepa.cli._preprocess_raw_plan import made_up_confounds
from bjepa.cli.preprocess import main
from bjepa.preproc import InputError
from bjepa.preproc.confounds import load_confounds
from bjepa.preproc.inputs import find_scans
from bjepa.preproc.inputs.source import ScanFilter
from bjepa.preproc.raw.compcor import cosine_drifts
from bjepa.preproc.raw.options import RawOptions
from bjepa.preproc.raw.template import BUNDLED, choose_template
from bjepa.preproc.raw.verdict import Thresholds

SPACE = "MNI152NLin2009cAsym"
BOLD = np.array([[0, -4.2, 0, 20], [4.0, 0, 0, -30], [0, 0, 5, -20], [0, 0, 0, 1]])  # 3 voxel sizes, "ALS"
T1W = np.diag([4.0, 3.5, 3, 1])


def save(path: Path, shape: tuple[int, ...], affine: Any, t_r: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.full(shape, 100, np.int16), affine)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if len(shape) == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    nib.save(image, path)
    return path


@pytest.fixture(autouse=True)
def _only_nilearns_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bjepa.preproc.raw import templateflow

    monkeypatch.setattr(templateflow, "_download", lambda *_: None)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    monkeypatch.delenv("FSLDIR", raising=False)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two participants, the first with two runs."""
    root = tmp_path / "ds"
    for s, runs in (("01", "12"), ("02", "1")):
        for r in runs:
            save(root / f"sub-{s}/func/sub-{s}_task-rest_run-{r}_bold.nii.gz", (12, 11, 10, 40), BOLD, 0.8)
        save(root / f"sub-{s}/anat/sub-{s}_T1w.nii.gz", (50, 60, 55), T1W)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    facts = {"RepetitionTime": 0.8, "SliceTiming": [0.07 * k for k in range(10)]}
    (root / "task-rest_bold.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def atlas(tmp_path: Path) -> list[str]:
    labels = np.zeros((24, 29, 24), np.int16)
    for k in range(1, 6):
        labels[4:20, 3 + k * 3 : 6 + k * 3, 5:18] = k
    affine = np.array([[8.0, 0, 0, -96], [0, 8, 0, -132], [0, 0, 8, -78], [0, 0, 0, 1]])
    path = tmp_path / f"tpl-{SPACE}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels, affine), path)
    (tmp_path / "own.tsv").write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in range(1, 6)))
    return ["--atlas", str(path), "--atlas-labels", str(tmp_path / "own.tsv")]


def call(*argv: Any) -> int:
    return main([*map(str, argv), "--n-jobs", "1", "--log-level", "warning"])


# --- dry run ------------------------------------------------------------------------------------------------


def rows_of(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_dry_run_lists_what_would_be_done(
    raw: Path, atlas: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(raw, out, *atlas, "--dry-run", "--slice-timing", "--drop-initial", "3") == 0
    said = capsys.readouterr()
    listed = rows_of(said.out)
    assert listed["sub-01_task-rest_run-2"] == (
        ["raw", "40", "0.8", "2", "1.6", "19", "2", "sub-01_T1w.nii.gz", "used", "26", "4"]
    )
    assert len(listed) == 3 and not out.exists()
    title = " ".join(said.out.split("┏")[0].split())
    assert "confounds simple" in title and f"5 regions, as in own.tsv order, {SPACE}" in title
    assert "nilearn's MNI152NLin2009aSym" in title and "template mismatch about 1.5 mm" in title
    assert "note: voxels of 4 x 4.2 x 5 mm are large" in said.err and "3 scans, sub-01_task" in said.err


def test_dry_run_says_what_would_fail(
    raw: Path, atlas: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    save(raw / "sub-02/func/sub-02_task-rest_run-1_bold.nii.gz", (12, 11, 10, 9), BOLD, 0.8)
    assert call(raw, tmp_path / "out", *atlas, "--dry-run") == 2
    said = capsys.readouterr().err
    assert "sub-01 has no T1w image. Give it, or --allow-no-t1w" in said and "has 9 volumes" in said
    assert call(raw, tmp_path / "out", *atlas, "--dry-run", "--allow-no-t1w") == 3
    listed = rows_of(capsys.readouterr().out)
    assert listed["sub-01_task-rest_run-1"][7:9] == ["none", "there, not used"]
    (raw / "task-rest_bold.json").write_text('{"RepetitionTime": 0.8, "SliceTiming": [0, 0.4]}')
    with_times = ("--allow-no-t1w", "--slice-timing", "--participant-label", "01")
    assert call(raw, tmp_path / "out", *atlas, "--dry-run", *with_times) == 2
    assert "has 10 slices along axis k, SliceTiming has 2 times" in capsys.readouterr().err
    (raw / "task-rest_bold.json").unlink()
    save(raw / "sub-01/func/sub-01_task-rest_run-1_bold.nii.gz", (12, 11, 10, 40), BOLD, 1.0)
    assert call(raw, tmp_path / "out", *atlas, "--dry-run", *with_times) == 3
    assert "exactly 1 s is what tools write when they do not know it" in capsys.readouterr().err


def test_dry_run_with_frames_that_only_the_run_knows(
    raw: Path, atlas: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--dry-run", "--drop-initial", "auto", "--confounds", "scrubbing")
    assert call(raw, tmp_path / "out", *atlas, *options) == 0
    assert rows_of(capsys.readouterr().out)["sub-02_task-rest_run-1"][5] == "at most 20"


MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
EXPANDED = ("", "_derivative1", "_power2", "_derivative1_power2")


@pytest.mark.parametrize(
    "strategy",
    [
        *("none", "simple", "scrubbing", "24p", "36p"),
        {"strategy": ["motion", "wm_csf", "global_signal"], "motion": "power2"},
        {"strategy": ["high_pass", "global_signal"], "global_signal": "derivatives"},
    ],
)
def test_as_many_confounds_as_nilearn_takes_from_the_table(strategy: Any, tmp_path: Path) -> None:
    n_frames, t_r = 210, 1.3
    rng = np.random.default_rng(1)
    names = [
        f"{name}{more}" for name in (*MOTION, "csf", "white_matter", "global_signal") for more in EXPANDED
    ]
    table = pd.DataFrame(rng.normal(size=(n_frames, len(names))), columns=names)
    table[["framewise_displacement", "std_dvars"]] = 0.1
    drifts = cosine_drifts(n_frames, t_r)
    table = table.assign(**{f"cosine{k:02d}": drift for k, drift in enumerate(drifts.T)})
    path = tmp_path / "sub-1_task-rest_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False)
    path.with_suffix(".json").write_text("{}")
    loaded = load_confounds(tmp_path / "sub-1_task-rest_bold.nii.gz", path, strategy).values
    made_up = made_up_confounds(strategy, n_frames, t_r)
    assert (0 if loaded is None else loaded.shape[1]) == (0 if made_up is None else made_up.shape[1])


def test_dry_run_foretells_that_a_run_is_too_short(
    raw: Path, atlas: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(raw / "sub-02/func/sub-02_task-rest_run-1_bold.nii.gz", (12, 11, 10, 27), BOLD, 0.8)
    assert call(raw, tmp_path / "out", *atlas, "--dry-run") == 3
    assert "26 confounds, mean and trend explain all of 27 frames" in capsys.readouterr().err
    assert call(raw, tmp_path / "out", *atlas, "--dry-run", "--confounds", "none") == 0
    assert rows_of(capsys.readouterr().out)["sub-02_task-rest_run-1"][9] == "0"
    assert call(raw, tmp_path / "out", *atlas, "--dry-run", "--confounds", "compcor") == 0
    assert rows_of(capsys.readouterr().out)["sub-02_task-rest_run-1"][9] == "24 and CompCor"


# --- options ------------------------------------------------------------------------------------------------


def test_options_reach_the_registration(raw: Path) -> None:
    given = ["--slice-timing", "--allow-no-t1w", "--omp-threads", "3", "--sloppy"]
    args = parser().parse_args([str(raw), "out", *given])
    expected = RawOptions(allow_no_t1w=True, slice_timing=True, omp_threads=3, sloppy=True)
    assert raw_fmri.raw_options(args) == expected
    assert raw_fmri.raw_options(parser().parse_args([str(raw), "out"])) == RawOptions()
    wanted = raw_fmri.raw_wanted(args)
    assert wanted.allow_no_t1w and wanted.slice_timing
    assert RAW_OPTIONS == {name: parser().get_default(name) for name in RAW_OPTIONS}


@pytest.mark.parametrize(
    "options",
    [
        ["--template", "x.nii"],
        ["--t1-mask", "{t1w}.nii"],
        ["--allow-no-t1w"],
        ["--slice-timing"],
        ["--omp-threads", "2"],
        ["--sloppy"],
    ],
)
def test_options_of_raw_are_refused_for_others(
    raw: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bold = next(raw.rglob("*_bold.nii.gz"))
    assert call(bold, tmp_path / "out", "--space", SPACE, "--dry-run", *options) == 2
    said = capsys.readouterr().err
    assert f"error: {options[0]}: for raw BIDS folders only" in said and "holds volume files" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--confounds", "ica_aroma"], "needs ICA-AROMA, which is not run on raw data"),
        (["--confounds", "TCOMPCOR"], "needs temporal CompCor, which is not run"),
        (["--confounds", "table"], "--confounds table is for tables of a manifest"),
        (["--space", "fsLR"], "raw runs are volumes"),
        (["--space", "MNI305"], "no template is known for --space MNI305"),
        (["--template", "absent.nii.gz"], "does not exist"),
        (["--t1-mask", "{x}.nii"], "{x} is no field"),
        (["--omp-threads", "0"], "must be 1 or more"),
    ],
)
def test_refused_for_raw(
    raw: Path,
    atlas: list[str],
    tmp_path: Path,
    options: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "tcompcor.json"
    file.write_text('{"strategy": ["high_pass", "compcor"], "compcor": "temporal_anat_combined"}')
    options = [str(file) if option == "TCOMPCOR" else option for option in options]
    try:
        status = call(raw, tmp_path / "out", *atlas, "--dry-run", *options)
    except SystemExit as stopped:  # argparse
        status = int(stopped.code or 0)
    assert status == 2 and says in capsys.readouterr().err


def test_an_own_atlas_needs_its_space(
    raw: Path, atlas: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = tmp_path / "own.nii.gz"
    Path(atlas[1]).rename(nameless)
    options = ["--atlas", nameless, *atlas[2:], "--dry-run"]
    assert call(raw, tmp_path / "out", *options) == 2
    assert "the space of this label volume is unknown" in capsys.readouterr().err
    assert call(raw, tmp_path / "out", *options, "--space", SPACE) == 0
    assert call(raw, tmp_path / "out", *options, "--space", SPACE, "--atlas", atlas[1]) == 2


def test_filter_file_of_both_kinds(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "filter.json"
    bold = next(raw.rglob("*_bold.nii.gz"))

    def kept(text: str, given: Path) -> list[str]:
        file.write_text(text)
        args = parser().parse_args([str(given), "out", "--bids-filter-file", str(file)])
        from bjepa.cli.preprocess import _filter

        dataset = find_scans(given, _filter(args))
        raw_fmri._refuse_for_others(args, dataset) if dataset.scans[0].kind != "raw" else None
        return [scan.scan_id for scan in dataset.scans if scan.error is None]

    assert kept('{"bold": {"run": "2"}}', raw) == ["sub-01_task-rest_run-2"]
    assert kept('{"t1w": {"subject": "02"}}', raw) == ["sub-02_task-rest_run-1"]
    assert kept('{"bold": {"run": "1"}, "t1w": {"subject": "01"}}', raw) == ["sub-01_task-rest_run-1"]
    with pytest.raises(InputError, match="no section 'bold'"):
        kept('{"t1w": {"subject": "02"}}', bold)
    with pytest.raises(InputError, match="no section 'bold'"):
        kept('{"fmap": {}}', raw)


# --- before the work ----------------------------------------------------------------------------------------


def test_without_antspyx_it_says_so_first(
    raw: Path,
    atlas: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert call(raw, tmp_path / "out", *atlas) == 2
    assert "pip install 'bjepa[raw]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/**/*.json"))
    assert call(raw, tmp_path / "out", *atlas, "--dry-run") == 0
    assert "needs antspyx, which is not installed" in capsys.readouterr().err


def test_more_threads_than_cores_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for n_jobs, threads, told in ((2, 2, False), (-1, 1, False), (8, 1, False), (-1, 2, True), (2, 3, True)):
        caplog.clear()
        raw_fmri.check_can_register(
            argparse.Namespace(n_jobs=n_jobs, omp_threads=threads, dask=None, dry_run=False)
        )
        assert bool(caplog.text) is told
    assert "--n-jobs 2 x --omp-threads 3 are 6 threads on 4 cores" in caplog.text


def test_the_template_that_an_output_was_begun_with_is_kept(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another template that appears later (a network, FSL) does not change what is half done."""
    args = parser().parse_args([str(raw), str(tmp_path / "out")])
    dataset = find_scans(raw, ScanFilter())
    begun = raw_fmri.raw_setup(args, dataset)
    assert begun is not None and begun.template.space == SPACE
    raw_fmri.write_template(args.output, begun.template)
    values = nib.load(begun.template.path)
    fsl = tmp_path / "fsl/data/standard/MNI152_T1_1mm_brain.nii.gz"
    fsl.parent.mkdir(parents=True)
    nib.save(values, fsl)
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    again = raw_fmri.raw_setup(args, dataset)
    assert again is not None and again.template == begun.template
    other = raw_fmri.raw_setup(parser().parse_args([str(raw), str(tmp_path / "other")]), dataset)
    assert other is not None and other.template.path == fsl
    asked = parser().parse_args([str(raw), str(tmp_path / "out"), "--space", "MNI152NLin6Asym"])
    changed = raw_fmri.raw_setup(asked, dataset)
    assert changed is not None and changed.template.path == fsl
    monkeypatch.chdir(fsl.parent)
    named = ["--template", fsl.name, "--space", "MNI152NLin6Asym"]
    given = raw_fmri.raw_setup(parser().parse_args([str(raw), str(tmp_path / "out"), *named]), dataset)
    assert given is not None and given.template.path == fsl  # absolute: workers stand elsewhere
    raw_fmri.write_template(args.output, changed.template)
    nib.save(nib.Nifti1Image(np.asarray(values.dataobj) // 2, values.affine), fsl)
    with pytest.raises(InputError, match=r"was begun with FSL's.*Give --template"):
        raw_fmri.raw_setup(args, dataset)


def test_the_group_stage_refuses_what_its_scans_were_not_done_with(
    raw: Path,
    atlas: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bjepa.cli import preprocess
    from bjepa.preproc import scan_files, scan_records

    setup = raw_fmri.raw_setup(
        parser().parse_args([str(raw), "out", "--sloppy"]), find_scans(raw, ScanFilter())
    )
    assert setup is not None
    told = {"template_sha256": setup.template.sha256, "options": asdict(setup.options)}
    monkeypatch.setattr(scan_records, "scan_paths", lambda _: ["scan"])
    monkeypatch.setattr(scan_files, "read_facts", lambda _: {"options": {}, "raw": told})
    monkeypatch.setattr(preprocess, "_group_stage", lambda *_: None)
    assert call(raw, tmp_path / "out", "group", *atlas, "--sloppy") == 0
    own = tmp_path / f"tpl-{SPACE}_T1w.nii.gz"
    image = nib.load(setup.template.path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) // 2, image.affine), own)
    for option in (["--slice-timing"], ["--allow-no-t1w"], ["--omp-threads", "2"], ["--template", str(own)]):
        assert call(raw, tmp_path / "out", "group", *atlas, *option) == 2
        assert f"{option[0]} " in (said := capsys.readouterr().err) and "belongs to the stage" in said
    assert call(raw, tmp_path / "out", "group", *atlas, "--t1-mask", "{t1w}*_mask.nii") == 0
    assert "--t1-mask: the stage 'group' takes every finished scan" in capsys.readouterr().err


def documented() -> list[str]:
    """The commands on raw/ in docs/raw.md and in the help."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "raw.md").read_text(encoding="utf-8")
    lines = (page + EXAMPLES).replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line.startswith("bjepa-preprocess raw/ ")]


def test_documented_commands(
    raw: Path,
    atlas: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is understood, and would do all runs."""
    raw.rename(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    for s in ("01", "02"):
        save(tmp_path / f"raw/derivatives/masks/sub-{s}/sub-{s}_desc-brain_mask.nii.gz", (50, 60, 55), T1W)
    template = nib.load(choose_template(name=BUNDLED).path)
    moved = np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.asarray(template.dataobj)[8:190, 8:226, :182], moved)
    nib.save(image, "tpl-MNI152NLin6Asym_desc-brain_T1w.nii.gz")
    own = Path(atlas[1])
    own.rename(f"tpl-MNI152NLin6Asym_{own.name.split('_')[1]}")
    commands = documented()
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        space = "MNI152NLin6Asym" if "--template" in words else SPACE
        given = Path("tpl-MNI152NLin6Asym_dseg.nii.gz").resolve()
        of_atlas = ["--atlas", str(given), *atlas[2:], "--space", space]
        assert main([*words, *of_atlas, "--dry-run", "--log-level", "error"]) == 0, command
        assert len(rows_of(capsys.readouterr().out)) == 3


def test_the_limits_in_the_docs_are_those_of_the_verdict() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "raw.md").read_text(encoding="utf-8")
    rows = [
        line
        for line in page.split("## Is the registration right?")[1].split("##")[0].splitlines()
        if line.startswith("| ")
    ]
    said = [
        [sorted(map(float, re.findall(r"\d+\.\d+", cell))) for cell in row.split("|")[2:4]]
        for row in rows[1:]
    ]
    limits = [getattr(Thresholds(), field.name) for field in fields(Thresholds)]
    expected = [
        [
            sorted(x for x in (limit.warn_below, limit.warn_above) if x is not None),
            sorted(x for x in (limit.fail_below, limit.fail_above) if x is not None),
        ]
        for limit in limits
    ]
    assert said == expected
