"""preproc/inputs.py and participants.py: what was given, as scans; nothing guessed, nothing lost."""

import json
from pathlib import Path

import pytest

from bjepa.preproc import InputError
from bjepa.preproc.inputs import Dataset, ScanFilter, find_scans
from bjepa.preproc.participants import read_participant_list

ALL = ScanFilter()
PREPROC = "sub-{s}_ses-{e}_task-rest_run-{r}_space-{p}_desc-preproc_bold.nii.gz"


def _touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _ids(dataset: Dataset) -> list[str]:
    return [scan.scan_id for scan in dataset.scans]


@pytest.fixture
def fmriprep(tmp_path: Path) -> Path:
    root = tmp_path / "derivatives"
    description = {"Name": "x", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}
    _touch(root / "dataset_description.json", json.dumps(description))
    for s in ("01", "02"):
        for e, r in (("a", "1"), ("b", "2")):
            for p in ("MNI152NLin6Asym", "MNI152NLin2009cAsym"):
                path = _touch(root / f"sub-{s}/ses-{e}/func" / PREPROC.format(s=s, e=e, r=r, p=p))
                _touch(path.with_name(path.name.replace("desc-preproc_bold", "desc-brain_mask")))
    _touch(root / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    return root


def test_fmriprep_tree(fmriprep: Path) -> None:
    found = find_scans(fmriprep, ScanFilter(space="MNI152NLin6Asym"))
    assert found.made_by == "fMRIPrep"
    assert _ids(found) == [
        f"sub-{s}_ses-{e}_task-rest_run-{r}_space-MNI152NLin6Asym"
        for s in ("01", "02")
        for e, r in (("a", "1"), ("b", "2"))
    ]
    scan = found.scans[1]
    assert (scan.participant_id, scan.session, scan.task, scan.run) == ("sub-01", "b", "rest", "2")
    assert scan.mask is not None and scan.mask.is_file() and "NLin6Asym_desc-brain_mask" in scan.mask.name


def test_filters_with_and_without_prefix(fmriprep: Path) -> None:
    keep = ScanFilter(
        participant_label=["sub-02"], session_label=["b"], run_id=["2"], space="MNI152NLin6Asym"
    )
    assert _ids(find_scans(fmriprep, keep)) == ["sub-02_ses-b_task-rest_run-2_space-MNI152NLin6Asym"]
    with pytest.raises(InputError, match="none of its 8 scans"):
        find_scans(fmriprep, ScanFilter(task_id=["nback"]))


def test_sidecars_are_inherited_and_the_nearer_wins(fmriprep: Path) -> None:
    _touch(fmriprep / "task-rest_bold.json", '{"RepetitionTime": 2.5}')
    near = PREPROC.format(s="01", e="a", r="1", p="MNI152NLin6Asym").replace(".nii.gz", ".json")
    _touch(fmriprep / "sub-01/ses-a/func" / near, '{"RepetitionTime": 0.735}')
    _touch(fmriprep / "task-nback_bold.json", '{"RepetitionTime": 9}')
    scans = find_scans(fmriprep, ScanFilter(space="MNI152NLin6Asym")).scans
    assert [scan.t_r for scan in scans] == [0.735, 2.5, 2.5, 2.5]


def test_plain_folder_keeps_names_apart(tmp_path: Path) -> None:
    for name in (
        "sub-7_high.nii.gz",
        "sub-7_low.nii.gz",
        "Filtered Data.nii",
        "sub-7_T1w.nii.gz",
        ".x.nii",
        "a.txt",
    ):
        _touch(tmp_path / name)
    found = find_scans(tmp_path, ALL)
    assert _ids(found) == ["sub-7_desc-high", "sub-7_desc-low", "sub-FilteredData"]
    assert found.scans[2].participant_id == "sub-FilteredData" and found.made_by == ""


def test_manifest(tmp_path: Path) -> None:
    _touch(tmp_path / "deep/x.nii")
    rows = "path participant_id t_r space mask age\ndeep/x.nii 09 0.8 MNI152NLin6Asym m.nii 3\n".replace(
        " ", "\t"
    )
    rows += "sub-1_bold.nii\tn/a\t\t\t\t\n"
    scans = find_scans(_touch(tmp_path / "list.tsv", rows), ALL).scans
    assert [s.participant_id for s in scans] == ["sub-09", "sub-1"]
    assert scans[0].t_r == 0.8 and scans[0].space == "MNI152NLin6Asym" and scans[0].mask == tmp_path / "m.nii"
    assert scans[0].path == tmp_path / "deep/x.nii" and scans[1].t_r is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file\nx.nii\n", "no column 'path'"),
        ("path\tt_r\nx.nii\tfast\n", "line 2: t_r must be seconds"),
        ("path\tt_r\nx.nii\t2\nn/a\t2\n", "line 3: column 'path' is empty"),
        ("path\tparticipant_id\na/x.nii\t1\nb/x.nii\t1\n", "occur more than once"),
    ],
)
def test_manifest_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_scans(_touch(tmp_path / "list.tsv", text), ALL)


def test_refuses_nothing_raw_and_broken(tmp_path: Path, fmriprep: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_scans(tmp_path / "absent", ALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no NIfTI"):
        find_scans(tmp_path / "empty", ALL)
    with pytest.raises(InputError, match=r"raw BIDS folder"):
        find_scans(_touch(tmp_path / "raw/dataset_description.json", '{"Name": "x"}').parent, ALL)
    with pytest.raises(InputError, match="no \\*_desc-preproc"):
        find_scans(
            _touch(tmp_path / "d/dataset_description.json", '{"DatasetType": "derivative"}').parent, ALL
        )
    _touch(fmriprep / "task-rest_bold.json", "{broken")
    with pytest.raises(InputError, match="not readable JSON"):
        find_scans(fmriprep, ALL)


def test_real_derivative_description_is_understood(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/bids/ds000228_mini/derivatives/fmriprep"
    name = "sub-pixar001_task-pixar_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold"
    _touch(tmp_path / "dataset_description.json", (source / "dataset_description.json").read_text())
    _touch(tmp_path / f"func/{name}.json", (source / f"sub-pixar001/func/{name}.json").read_text())
    _touch(tmp_path / f"func/{name}.nii.gz")
    found = find_scans(tmp_path, ALL)
    assert found.made_by == "fMRIPrep" and found.scans[0].t_r == 2.0
    assert found.scans[0].scan_id == "sub-pixar001_task-pixar_space-MNI152NLin2009cAsym_res-2"


def test_participant_lists(tmp_path: Path) -> None:
    assert read_participant_list(_touch(tmp_path / "a.txt", "sub-02\n01\n\n")) == ["sub-02", "sub-01"]
    tsv = _touch(tmp_path / "b.tsv", "participant_id\tage\nsub-3\t4\n")
    assert read_participant_list(tsv) == ["sub-3"]
    assert read_participant_list(_touch(tmp_path / "b.csv", "x,participant_id\n9,sub-1\n")) == ["sub-1"]
    refused = {
        "": "names no participant",
        "1\nsub-1\n": "more than once",
        "age\tid\n3\t1\n": "no column participant_id",
        "age\tparticipant_id\n3\n": "row 1 has fewer cells",
    }
    for text, says in refused.items():
        with pytest.raises(InputError, match=says):
            read_participant_list(_touch(tmp_path / "c.txt", text))
    with pytest.raises(InputError, match="not a readable list"):
        read_participant_list(tmp_path / "absent.txt")
