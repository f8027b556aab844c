"""inputs/raw_bids.py, inputs/raw_t1w.py, raw/header.py: which runs, which T1w image, which slice times."""

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from bjepa.preproc import InputError
from bjepa.preproc.inputs import ScanFilter, ScanSource, find_scans
from bjepa.preproc.inputs.bids import read_bids_filter
from bjepa.preproc.inputs.raw_bids import slice_times_of
from bjepa.preproc.inputs.raw_t1w import check_mask_pattern, choose_t1w
from bjepa.preproc.inputs.source import RawWanted
from bjepa.preproc.raw.header import check_raw_header, check_slices, check_t1w_header, header_notes
from bjepa.preproc.stream import open_bold

ALL = ScanFilter()


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def raw_folder(root: Path, *names: str, **description: Any) -> Path:
    """A raw BIDS folder of empty files: `sub-1_ses-a_..._bold` lies in sub-1/ses-a/func."""
    touch(root / "dataset_description.json", json.dumps({"Name": "x", "BIDSVersion": "1.9.0"} | description))
    for name in names:
        session = [word for word in name.split("_")[:2] if word.startswith("ses-")]
        datatype = "anat" if name.endswith("_T1w") else "func"
        touch(Path(root, name.split("_")[0], *session, datatype, f"{name}.nii.gz"))
    return root


def scans_by_id(root: Path, keep: ScanFilter = ALL) -> dict[str, ScanSource]:
    return {scan.scan_id: scan for scan in find_scans(root, keep).scans}


# --- runs ---------------------------------------------------------------------------------------------------


def test_runs_of_a_raw_folder_and_nothing_else(tmp_path: Path) -> None:
    root = raw_folder(
        tmp_path / "ds",
        "sub-1_ses-a_task-rest_run-1_bold",
        "sub-1_ses-a_task-rest_run-1_sbref",
        "sub-1_ses-a_task-rest_run-2_part-mag_bold",
        "sub-1_ses-a_task-rest_run-2_part-phase_bold",
        "sub-1_ses-a_T1w",
        "sub-02_task-rest_bold",
        "sub-02_T1w",
    )
    touch(root / "task-rest_bold.json", '{"RepetitionTime": 2.5}')
    touch(root / "sub-1/ses-a/func/sub-1_ses-a_task-rest_run-1_bold.json", '{"RepetitionTime": 0.8}')
    for elsewhere in (
        "derivatives/x/sub-1/ses-a/func/sub-1_ses-a_task-rest_desc-preproc_bold.nii.gz",
        "sourcedata/sub-1/func/sub-1_task-rest_bold.nii.gz",
        "sub-1/ses-a/func/sub-1_ses-a_task-rest_space-T1w_bold.nii.gz",
        "sub-1/ses-a/dwi/sub-1_ses-a_task-rest_bold.nii.gz",
        "sub-1/ses-b/func/sub-1_ses-a_task-rest_bold.nii.gz",
        "sub-03/func/sub-02_task-rest_bold.nii.gz",
    ):
        touch(root / elsewhere)
    found = find_scans(root, ALL)
    assert found.made_by == "raw BIDS"
    told = [(s.scan_id, s.kind, s.session, s.run, s.t_r, s.space, s.error) for s in found.scans]
    assert told == [
        ("sub-02_task-rest", "raw", "", "", 2.5, None, None),
        ("sub-1_ses-a_task-rest_run-1", "raw", "a", "1", 0.8, None, None),
        ("sub-1_ses-a_task-rest_run-2_part-mag", "raw", "a", "2", 2.5, None, None),
    ]
    keep = ScanFilter(participant_label=["1"], run_id=["2"], space="MNI152NLin6Asym")
    assert list(scans_by_id(root, keep)) == ["sub-1_ses-a_task-rest_run-2_part-mag"]
    assert list(scans_by_id(root, ScanFilter(bids_filter={"run": (None,)}))) == ["sub-02_task-rest"]


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ({}, "raw"),
        ({"DatasetType": "raw", "GeneratedBy": [{"Name": "dcm2bids"}]}, "raw"),
        ({"DatasetType": "derivative"}, "volume"),
        ({"GeneratedBy": [{"Name": "fMRIPrep"}]}, "volume"),
        ({"PipelineDescription": {"Name": "fMRIPrep"}}, "volume"),
    ],
)
def test_what_is_raw(tmp_path: Path, description: dict[str, Any], kind: str) -> None:
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-1_T1w", **description)
    touch(root / "sub-1/func/sub-1_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    found = find_scans(root, ALL)
    assert [scan.kind for scan in found.scans] == [kind]
    if kind == "volume" and "DatasetType" not in description:
        assert found.made_by == "fMRIPrep"


def test_a_raw_folder_without_runs_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without sub-\*.*Give the folder that holds the sub-\*"):
        find_scans(raw_folder(tmp_path / "a", "sub-1_T1w"), ALL)
    root = raw_folder(tmp_path / "b")
    touch(root / "derivatives/fmriprep/dataset_description.json", "{}")
    with pytest.raises(InputError, match=r"Give .*derivatives/fmriprep"):
        find_scans(root, ALL)
    root = raw_folder(tmp_path / "c")
    touch(root / "sub-1/func/sub-1_task-rest_space-T1w_desc-preproc_bold.nii.gz")
    with pytest.raises(InputError, match='needs "DatasetType": "derivative"'):
        find_scans(root, ALL)
    root = raw_folder(tmp_path / "d", "sub-1_task-rest_bold")
    with pytest.raises(InputError, match="that the filter file keeps"):
        find_scans(root, ScanFilter(bids_filter={"task": ("film",)}))


def test_raw_names_without_a_description_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = raw_folder(tmp_path / "ds", "sub-1_task-rest_bold", "sub-1_T1w")
    assert [s.kind for s in find_scans(root / "sub-1", ALL).scans] == ["volume"]
    assert f"give {root}, with --participant-label" in caplog.text
    caplog.clear()
    (root / "dataset_description.json").unlink()
    find_scans(root, ALL)
    assert "looks like raw BIDS" in caplog.text and "put a dataset_description.json" in caplog.text
    caplog.clear()
    t1w = root / "sub-1/anat/sub-1_T1w.nii.gz"
    t1w.rename(t1w.with_name("sub-1_space-MNI152NLin6Asym_T1w.nii.gz"))
    find_scans(root, ALL)
    assert caplog.text == ""


def test_echoes_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    run = "sub-1_task-rest_run-1"
    root = raw_folder(
        tmp_path, *(f"{run}_echo-{e}_bold" for e in "123"), "sub-1_task-rest_run-2_bold", "sub-1_T1w"
    )
    scans = scans_by_id(root)
    assert [scan.error is None for scan in scans.values()] == [False, False, False, True]
    assert "one of 3 images of its run" in str(scans[f"{run}_echo-2"].error)
    assert '{"bold": {"echo": "2"}}' in str(scans[f"{run}_echo-2"].error)
    (scan,) = scans_by_id(root, ScanFilter(bids_filter={"echo": ("2",)})).values()
    assert scan.error is None and scan.notes == ("echo 2 of a multi-echo run is used alone.",)


def test_a_broken_sidecar_fails_its_own_run(tmp_path: Path) -> None:
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-2_task-rest_bold", "sub-1_T1w", "sub-2_T1w")
    touch(root / "sub-2/func/sub-2_task-rest_bold.json", "{broken")
    scans = scans_by_id(root)
    assert scans["sub-1_task-rest"].error is None
    assert "not readable JSON" in str(scans["sub-2_task-rest"].error)
    touch(root / "sub-2/func/sub-2_task-rest_bold.json", '{"VolumeTiming": [0, 2, 5]}')
    assert "VolumeTiming" in str(scans_by_id(root)["sub-2_task-rest"].error)


def test_content_that_was_not_fetched_is_told(tmp_path: Path) -> None:
    root = raw_folder(
        tmp_path / "ds", *(f"sub-{s}_task-rest_bold" for s in "123"), *(f"sub-{s}_T1w" for s in "123")
    )
    for path in (root / "sub-1/func/sub-1_task-rest_bold.nii.gz", root / "sub-2/anat/sub-2_T1w.nii.gz"):
        path.unlink()
        path.symlink_to("../.git/annex/objects/x.nii.gz")
    errors = {name: str(scan.error) for name, scan in scans_by_id(root).items() if scan.error}
    assert list(errors) == ["sub-1_task-rest", "sub-2_task-rest"]
    assert "sub-1_task-rest_bold.nii.gz is a link to a file that is not there" in errors["sub-1_task-rest"]
    assert "datalad get" in errors["sub-2_task-rest"] and "sub-2_T1w" in errors["sub-2_task-rest"]


# --- slice times --------------------------------------------------------------------------------------------

TIMES = [0.0, 1.0, 0.25, 1.25, 0.5]


@pytest.mark.parametrize(
    ("direction", "times", "axis"),
    [(None, TIMES, 2), ("k", TIMES, 2), ("k-", TIMES[::-1], 2), ("i", TIMES, 0), ("j-", TIMES[::-1], 1)],
)
def test_slice_times_are_in_the_order_of_the_array(
    direction: str | None, times: list[float], axis: int
) -> None:
    facts = {"SliceTiming": TIMES} | ({} if direction is None else {"SliceEncodingDirection": direction})
    assert slice_times_of(facts, Path("x"), 1.5) == (tuple(times), axis)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"SliceTiming": [0, 500, 1000]}, "reaches 1000 s, RepetitionTime is 1.5 s.*not milliseconds"),
        ({"SliceTiming": [0, -0.1]}, "must be a list of seconds, 0 or more"),
        ({"SliceTiming": [0, "1"]}, "must be a list of seconds"),
        ({"SliceTiming": []}, "must be a list of seconds"),
        ({"SliceTiming": 0.5}, "must be a list of seconds"),
        ({"SliceTiming": TIMES, "SliceEncodingDirection": "z"}, "must be i, j or k.*'z'"),
    ],
)
def test_slice_times_refused_where_they_are_asked_for(tmp_path: Path, facts: Any, says: str) -> None:
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-1_T1w")
    touch(root / "task-rest_bold.json", json.dumps({"RepetitionTime": 1.5} | facts))
    (asked,) = find_scans(root, ScanFilter(raw=RawWanted(slice_timing=True))).scans
    with pytest.raises(InputError, match=says):
        raise asked.error or AssertionError("accepted")
    (not_asked,) = find_scans(root, ALL).scans
    assert not_asked.error is None and not_asked.slice_times is None
    assert not_asked.notes and "SliceTiming cannot be used" in not_asked.notes[0]


def test_no_slice_times_are_told_where_asked_for(tmp_path: Path) -> None:
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-1_T1w")
    assert find_scans(root, ALL).scans[0].notes == ()
    (scan,) = find_scans(root, ScanFilter(raw=RawWanted(slice_timing=True))).scans
    assert scan.notes == ("no SliceTiming in its sidecar: slices were not shifted in time.",)
    assert scan.error is None
    touch(root / "task-rest_bold.json", json.dumps({"SliceTiming": TIMES, "SliceEncodingDirection": "j-"}))
    (scan,) = find_scans(root, ALL).scans
    assert (scan.slice_times, scan.slice_axis) == (tuple(TIMES[::-1]), 1)


# --- T1w images ---------------------------------------------------------------------------------------------


def test_the_t1w_of_the_session_then_of_the_first_that_has_one(tmp_path: Path) -> None:
    root = raw_folder(
        tmp_path,
        *(f"sub-1_ses-{s}_task-rest_bold" for s in "abc"),
        *(f"sub-1_ses-{s}_T1w" for s in "bc"),
        "sub-2_ses-a_task-rest_bold",
    )
    scans = scans_by_id(root)
    taken = {name: scan.t1w and scan.t1w.name for name, scan in scans.items()}
    assert taken == {
        "sub-1_ses-a_task-rest": "sub-1_ses-b_T1w.nii.gz",
        "sub-1_ses-b_task-rest": "sub-1_ses-b_T1w.nii.gz",
        "sub-1_ses-c_task-rest": "sub-1_ses-c_T1w.nii.gz",
        "sub-2_ses-a_task-rest": None,
    }
    assert scans["sub-1_ses-a_task-rest"].notes == (
        "no T1w image in its session: that of session b is used.",
    )
    assert scans["sub-1_ses-b_task-rest"].notes == ()
    assert "sub-2 has no T1w image. Give it, or --allow-no-t1w" in str(scans["sub-2_ses-a_task-rest"].error)
    allowed = scans_by_id(root, ScanFilter(raw=RawWanted(allow_no_t1w=True)))["sub-2_ses-a_task-rest"]
    assert allowed.error is None and allowed.t1w is None


def test_of_several_t1ws_the_plainest_or_the_one_the_filter_says(tmp_path: Path) -> None:
    names = [
        "sub-1_acq-mprage_T1w",
        "sub-1_acq-mprage_run-1_T1w",
        "sub-1_run-10_T1w",
        "sub-1_run-2_T1w",
    ]
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", *names)
    (scan,) = find_scans(root, ALL).scans
    assert scan.t1w is not None and scan.t1w.name == "sub-1_run-2_T1w.nii.gz"
    assert "4 T1w images in the session: sub-1_run-2_T1w.nii.gz is used" in scan.notes[0]
    text = '{"t1w": {"datatype": "anat", "suffix": "T1w", "acquisition": "*", "run": null}}'
    wanted = read_bids_filter(touch(tmp_path / "filter.json", text), "t1w")
    (scan,) = find_scans(root, ScanFilter(raw=RawWanted(t1w_filter=wanted))).scans
    assert scan.t1w is not None and scan.t1w.name == "sub-1_acq-mprage_T1w.nii.gz" and scan.notes == ()
    (scan,) = find_scans(root, ScanFilter(raw=RawWanted(t1w_filter={"rec": ("x",)}))).scans
    assert "sub-1 has no T1w image that the filter file keeps (of 4)" in str(scan.error)
    with pytest.raises(InputError, match="suffix can only be 'T1w'"):
        read_bids_filter(touch(tmp_path / "filter.json", '{"t1w": {"suffix": "T2w"}}'), "t1w")
    assert read_bids_filter(touch(tmp_path / "filter.json", '{"bold": {}}'), "t1w", needed=False) == {}


def test_law_the_choice_does_not_depend_on_the_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"sub-1_ses-{s}{run}_T1w.nii.gz" for s in "ba" for run in ("_run-2", "", "_acq-x")]
    assert {choose_t1w(order, "c")[0].name for order in (paths, paths[::-1], sorted(paths))} == {
        "sub-1_ses-a_T1w.nii.gz"
    }


def test_the_guide_is_one_whichever_runs_are_asked_for(tmp_path: Path) -> None:
    root = raw_folder(
        tmp_path,
        *(f"sub-1_ses-{s}_task-rest_run-{r}_bold" for s in "ab" for r in "12"),
        "sub-1_ses-b_T1w",
        "sub-2_ses-a_task-rest_bold",
        "sub-2_ses-a_T1w",
    )
    guide = root / "sub-1/ses-b/func/sub-1_ses-b_task-rest_run-1_bold.nii.gz"  # the T1w's own session
    for keep in (
        ALL,
        ScanFilter(session_label=["a"]),
        ScanFilter(run_id=["2"]),
        ScanFilter(bids_filter={"run": ("2",)}),
    ):
        guides = {scan.guides[0] for scan in find_scans(root, keep).scans if scan.participant_id == "sub-1"}
        assert guides == {guide}
    guide.unlink()
    guide.symlink_to("nowhere")
    scans = scans_by_id(root)
    second = guide.with_name(guide.name.replace("run-1", "run-2"))
    assert scans["sub-1_ses-a_task-rest_run-1"].guides[0] == second
    other = scans_by_id(root)["sub-2_ses-a_task-rest"]
    assert other.guides == (other.path,)


# --- masks of T1w images ------------------------------------------------------------------------------------


def test_masks_by_pattern(tmp_path: Path) -> None:
    root = raw_folder(tmp_path / "[x]", "sub-1_ses-a_task-rest_bold", "sub-1_ses-a_run-2_T1w")
    mask = touch(root / "derivatives/bet/sub-1/sub-1_ses-a_run-2_desc-brain_mask.nii.gz")

    def found(pattern: str) -> ScanSource:
        check_mask_pattern(pattern)
        return find_scans(root, ScanFilter(raw=RawWanted(t1_mask=pattern))).scans[0]

    for pattern in (
        "derivatives/bet/{participant_id}/{t1w}_desc-brain_mask.nii.gz",
        "derivatives/**/{participant_id}_ses-{session}_*mask.nii*",
        f"{mask.parent.parent}".replace("[x]", "[[]x]") + "/{participant_id}/*.nii.gz",
    ):
        assert found(pattern).t1_mask == mask
    assert "finds no file for" in str(found("derivatives/{participant_id}_mask.nii.gz").error)
    assert "sub-1_mask.nii.gz" in str(found("derivatives/{participant_id}_mask.nii.gz").error)
    touch(mask.with_name("other_mask.nii.gz"))
    assert "finds 2 files (other_mask" in str(found("derivatives/bet/{participant_id}/*mask*").error)


def test_mask_patterns_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\{subject\} is no field; known are \{participant_id\}"):
        check_mask_pattern("masks/{subject}.nii.gz")
    with pytest.raises(InputError, match="one mask for all"):
        check_mask_pattern("mask.nii.gz")
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-1_T1w")
    (scan,) = find_scans(root, ScanFilter(raw=RawWanted(t1_mask="{participant_id}/{session}.nii"))).scans
    assert "has no session for {session}" in str(scan.error)


# --- headers ------------------------------------------------------------------------------------------------


def image(path: Path, shape: tuple[int, ...], affine: Any, *, coded: bool = True) -> Path:
    picture = nib.Nifti1Image(np.zeros(shape, np.int16), affine)
    picture.set_sform(affine, code=int(coded))
    picture.set_qform(affine, code=int(coded))
    nib.save(picture, path)
    return path


def test_headers_of_runs(tmp_path: Path) -> None:
    tilted = from_matvec(euler2mat(0.1, 0.2, np.radians(35)) @ np.diag([2.0, 3.0, 4.5]), [-60, -70, -40])
    bold = open_bold(image(tmp_path / "a.nii.gz", (9, 11, 10, 12), tilted))
    check_raw_header(bold)
    said = header_notes(bold, 2.0)
    assert len(said) == 3 and "voxels of 2 x 3 x 4.5 mm" in said[0] and "lasts 0.4 minutes" in said[1]
    assert "tilted by" in said[2]
    straight = open_bold(image(tmp_path / "b.nii.gz", (9, 11, 10, 12), np.diag([3, 3, 4, 1.0])))
    assert header_notes(straight, 26.0) == []
    for name, shape, size, says in (
        ("c", (9, 11, 10, 9), 3.0, "has 9 volumes; a raw run needs 10"),
        ("d", (9, 11, 10, 12), 0.2, "voxels of 0.2 x 0.2 x 0.2 mm"),
        ("e", (9, 11, 10, 12), 30.0, "0.5 to 10 mm are plausible"),
        ("f", (9, 11, 5, 12), 3.0, "8 along each axis are needed"),
    ):
        path = image(tmp_path / f"{name}.nii.gz", shape, np.diag([size, size, size, 1]))
        with pytest.raises(InputError, match=says):
            check_raw_header(open_bold(path))


def test_slices_of_runs(tmp_path: Path) -> None:
    bold = open_bold(image(tmp_path / "a.nii.gz", (9, 11, 10, 12), np.diag([3, 3, 4, 1.0])))
    check_slices(bold, (0.5,) * 11, 1, 2.0)
    with pytest.raises(InputError, match="has 10 slices along axis k, SliceTiming has 11 times"):
        check_slices(bold, (0.5,) * 11, 2, 2.0)
    with pytest.raises(InputError, match="reaches 3 s, a volume takes 2 s"):
        check_slices(bold, (3.0,) * 10, 2, 2.0)


def test_headers_of_t1ws(tmp_path: Path) -> None:
    check_t1w_header(image(tmp_path / "a.nii.gz", (60, 70, 50, 1), np.diag([3, 3, 4, 1.0])))
    for name, shape, coded, says in (
        ("b", (60, 70, 50, 2), True, "must be one 3D image"),
        ("c", (60, 70, 50), False, "no orientation"),
        ("d", (16, 70, 50), True, "is 48 x 210 x 200 mm large"),
    ):
        with pytest.raises(InputError, match=says):
            check_t1w_header(image(tmp_path / f"{name}.nii.gz", shape, np.diag([3, 3, 4, 1.0]), coded=coded))
    with pytest.raises(InputError, match="cannot be read"):
        check_t1w_header(touch(tmp_path / "e.nii.gz", "x"))


def test_derivatives_inside_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = raw_folder(tmp_path, "sub-1_task-rest_bold", "sub-1_T1w")
    touch(root / "derivatives/fmriprep/dataset_description.json", "{}")
    find_scans(root, ALL)
    assert "derivatives/fmriprep would be read if it were INPUT" in caplog.text


def test_pybids_finds_the_same_runs_and_slice_times(tmp_path: Path) -> None:
    """pybids is the judge: which files are BOLD runs, and what their inherited sidecars say."""
    bids = pytest.importorskip("bids", reason="pybids (extra dev) judges what a raw folder holds")
    root = raw_folder(
        tmp_path / "ds",
        *(f"sub-{s}_ses-{e}_task-rest_run-{r}_bold" for s in ("01", "02") for e in "ab" for r in "12"),
        "sub-01_ses-a_task-rest_run-3_part-mag_bold",
        "sub-01_ses-a_task-rest_run-3_part-phase_bold",
        "sub-01_ses-a_task-rest_run-1_sbref",
        "sub-02_ses-b_task-film_acq-fast_bold",
        *(f"sub-{s}_ses-a_T1w" for s in ("01", "02")),
    )
    for name, facts in {
        "task-rest_bold.json": {"RepetitionTime": 2.5, "SliceTiming": [0, 1, 2]},
        "task-film_bold.json": {"RepetitionTime": 0.8, "SliceEncodingDirection": "j-"},
        "sub-01/ses-b/sub-01_ses-b_task-rest_bold.json": {"SliceTiming": [2, 1, 0]},
        "sub-02/ses-a/func/sub-02_ses-a_task-rest_run-2_bold.json": {"SliceTiming": [0.5, 0, 1.5]},
        "sub-02/ses-b/sub-02_ses-b_task-film_acq-fast_bold.json": {"SliceTiming": [0.1, 0.2, 0.3]},
    }.items():
        touch(root / name, json.dumps(facts))
    layout = bids.BIDSLayout(root, validate=False)
    theirs = {
        file.path: (file.get_metadata().get("RepetitionTime"), file.get_metadata().get("SliceTiming"))
        for file in layout.get(suffix="bold", datatype="func", extension=".nii.gz")
        if file.get_entities().get("part") != "phase"
    }
    ours = {}
    for scan in find_scans(root, ALL).scans:
        assert scan.error is None and scan.slice_times is not None
        backwards = "film" in scan.scan_id
        assert scan.slice_axis == (1 if backwards else 2)
        ours[str(scan.path)] = (scan.t_r, list(scan.slice_times)[:: -1 if backwards else 1])
    assert ours == theirs and len(ours) == 10
