"""preproc/inputs (find, bids, derivatives, manifest, ukb) and participants.py.

What was given becomes scans; nothing guessed, nothing lost.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bjepa.preproc import InputError
from bjepa.preproc.inputs import Dataset, ScanFilter, find_scans
from bjepa.preproc.inputs.bids import Tree, parse_name, read_bids_filter
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
    scan.mask.unlink()
    assert find_scans(fmriprep, ScanFilter(space="MNI152NLin6Asym")).scans[1].mask is None


def test_filters_with_and_without_prefix(fmriprep: Path) -> None:
    keep = ScanFilter(
        participant_label=["sub-02"], session_label=["b"], run_id=["2"], space="MNI152NLin6Asym"
    )
    assert _ids(find_scans(fmriprep, keep)) == ["sub-02_ses-b_task-rest_run-2_space-MNI152NLin6Asym"]
    with pytest.raises(InputError, match="none of its 8 scans"):
        find_scans(fmriprep, ScanFilter(task_id=["nback"]))


def test_runs_are_numbers_and_participants_are_not(tmp_path: Path) -> None:
    for name in ("sub-01_run-01", "sub-1_run-10", "sub-02_run-1"):
        _touch(tmp_path / f"{name}_bold.nii.gz")
    assert _ids(find_scans(tmp_path, ScanFilter(run_id=["1"]))) == ["sub-01_run-01", "sub-02_run-1"]
    assert _ids(find_scans(tmp_path, ScanFilter(run_id=["run-001"]))) == ["sub-01_run-01", "sub-02_run-1"]
    assert _ids(find_scans(tmp_path, ScanFilter(participant_label=["1"]))) == ["sub-1_run-10"]


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
    _touch(fmriprep / "dataset_description.json", "{broken")
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


# --- fMRIPrep -----------------------------------------------------------------------------------------------

SPACE = "MNI152NLin6Asym"
IN_6 = ScanFilter(space=SPACE)


def test_a_broken_sidecar_fails_its_own_scan(fmriprep: Path) -> None:
    name = PREPROC.format(s="02", e="b", r="2", p=SPACE).replace(".nii.gz", ".json")
    _touch(fmriprep / "task-rest_bold.json", '{"RepetitionTime": 2.5}')
    _touch(fmriprep / "sub-02/ses-b/func" / name, "{broken")
    scans = find_scans(fmriprep, IN_6).scans
    assert [scan.error is None for scan in scans] == [True, True, True, False]
    assert scans[0].t_r == 2.5 and scans[3].t_r is None
    assert f"{name} is not readable JSON" in str(scans[3].error)
    _touch(fmriprep / "sub-02/ses-b/func" / name, '{"RepetitionTime": "2.5"}')
    assert "must be seconds, got '2.5'" in str(find_scans(fmriprep, IN_6).scans[3].error)


def test_images_in_native_space_and_surfaces_are_left_out(fmriprep: Path) -> None:
    func = fmriprep / "sub-01/ses-a/func"
    _touch(func / "sub-01_ses-a_task-rest_run-1_desc-preproc_bold.nii.gz")
    _touch(func / "sub-01_ses-a_task-rest_run-1_echo-2_desc-preproc_bold.nii.gz")
    _touch(func / "sub-01_ses-a_task-rest_run-1_space-T1w_desc-preproc_bold.nii.gz")
    surface = _touch(func / "sub-01_ses-a_task-rest_run-1_space-fsLR_den-91k_bold.dtseries.nii")
    _touch(
        surface.with_name("sub-01_ses-a_task-rest_run-1_space-fsLR_den-91k_bold.json"),
        '{"RepetitionTime": 0.8}',
    )
    assert len(find_scans(fmriprep, ALL).scans) == 8
    found = find_scans(fmriprep, ScanFilter(space="fsLR")).scans
    assert [(s.kind, s.path, s.t_r, s.mask) for s in found] == [("dtseries", surface, 0.8, None)]
    assert found[0].scan_id == "sub-01_ses-a_task-rest_run-1_space-fsLR_den-91k"


def test_native_space_only_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "dataset_description.json", '{"DatasetType": "derivative"}')
    _touch(tmp_path / "sub-1/func/sub-1_task-rest_desc-preproc_bold.nii.gz")
    with pytest.raises(InputError, match="own space only"):
        find_scans(tmp_path, ALL)


def test_filter_file(fmriprep: Path, tmp_path: Path) -> None:
    func = fmriprep / "sub-01/ses-a/func"
    for extra in ("acq-x_run-1", "acq-y_run-1", "run-01_echo-1"):
        _touch(func / f"sub-01_ses-a_task-rest_{extra}_space-{SPACE}_desc-preproc_bold.nii.gz")

    def kept(**bold: Any) -> list[str]:
        path = _touch(tmp_path / "filter.json", json.dumps({"bold": bold, "t1w": {"acquisition": "z"}}))
        scans = find_scans(fmriprep, ScanFilter(space=SPACE, bids_filter=read_bids_filter(path))).scans
        return [s.scan_id.removesuffix(f"_space-{SPACE}").removeprefix("sub-0") for s in scans]

    assert kept(acquisition="x") == ["1_ses-a_task-rest_acq-x_run-1"]
    assert kept(acquisition="*") == ["1_ses-a_task-rest_acq-x_run-1", "1_ses-a_task-rest_acq-y_run-1"]
    assert kept(acquisition=None, echo=None, subject="01", datatype="func") == [
        "1_ses-a_task-rest_run-1",
        "1_ses-b_task-rest_run-2",
    ]
    assert kept(session="a", run=[1, 7], echo="1") == ["1_ses-a_task-rest_run-01_echo-1"]
    with pytest.raises(InputError, match="that the filter file keeps"):
        kept(acquisition="z")
    for bold, says in (
        ({"acquisitoin": "x"}, "'acquisitoin' is no BIDS entity"),
        ({"suffix": "T1w"}, "suffix can only be 'bold'"),
        ({"run": {"a": 1}}, "must be a label"),
    ):
        with pytest.raises(InputError, match=says):
            read_bids_filter(_touch(tmp_path / "f.json", json.dumps({"bold": bold})))
    with pytest.raises(InputError, match="no section 'bold'"):
        read_bids_filter(_touch(tmp_path / "f.json", '{"t1w": {}}'))


@pytest.mark.parametrize("extra", ["run-1_echo-2", "run-1_res-1"])
def test_the_same_run_twice_is_refused(fmriprep: Path, extra: str) -> None:
    run, entity = extra.split("_")
    where = f"{run}_{entity}_space-{SPACE}" if "echo" in entity else f"{run}_space-{SPACE}_{entity}"
    _touch(fmriprep / f"sub-01/ses-a/func/sub-01_ses-a_task-rest_{where}_desc-preproc_bold.nii.gz")
    with pytest.raises(InputError, match=f"Choose by {entity[:3]}.* with --bids-filter-file"):
        find_scans(fmriprep, IN_6)
    assert len(find_scans(fmriprep, ScanFilter(space=SPACE, participant_label=["02"])).scans) == 2


def test_runs_joined_by_another_tool_are_left_out(fmriprep: Path, caplog: pytest.LogCaptureFixture) -> None:
    joined = _touch(
        fmriprep / f"sub-01/ses-a/func/sub-01_ses-a_task-rest_space-{SPACE}_desc-preproc_bold.nii.gz"
    )
    alone = _touch(
        fmriprep / f"sub-01/ses-a/func/sub-01_ses-a_task-film_space-{SPACE}_desc-preproc_bold.nii.gz"
    )
    scans = find_scans(fmriprep, IN_6).scans
    assert len(scans) == 5 and joined not in {s.path for s in scans} and alone in {s.path for s in scans}
    assert f"{joined.name} is joined from runs" in caplog.text


def test_participants_of_a_file_and_labels_without_scan(
    fmriprep: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people = _touch(tmp_path / "people.tsv", "age\tparticipant_id\n4\tsub-02\n5\tsub-09\n")
    keep = ScanFilter(space=SPACE, participant_label=[str(people)], session_label=["a", "z"])
    assert _ids(find_scans(fmriprep, keep)) == [f"sub-02_ses-a_task-rest_run-1_space-{SPACE}"]
    assert "--participant-label: no scan has ['09']" in caplog.text
    assert "--session-label: no scan has ['z']" in caplog.text
    with pytest.raises(InputError, match="not a readable list"):
        find_scans(fmriprep, ScanFilter(participant_label=["absent.txt"]))


def test_linked_folders_are_followed_once_and_output_is_no_input(fmriprep: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    _touch(root / "dataset_description.json", '{"DatasetType": "derivative"}')
    (root / "sub-01").symlink_to(fmriprep / "sub-01")
    (root / "sub-01x").symlink_to(root)  # would not end
    (root / "out").symlink_to(fmriprep / "sub-02")
    assert len(find_scans(root, IN_6, exclude=root / "out").scans) == 2
    assert len(find_scans(root, IN_6).scans) == 4


def test_inheritance_agrees_with_pybids(tmp_path: Path) -> None:
    """pybids is the judge: levels, suffixes, entities that do not apply, values that are replaced.

    One sidecar a folder applies to each image: of two, pybids takes the wrong one (next test).
    """
    bids = pytest.importorskip("bids", reason="pybids (extra dev) judges the inheritance of sidecars")
    root = tmp_path / "ds"
    description = {
        "Name": "x",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "f"}],
    }
    _touch(root / "dataset_description.json", json.dumps(description))
    for path, facts in {
        "task-rest_bold.json": {"RepetitionTime": 2.5, "Level": "root", "Root": 1},
        "task-film_bold.json": {"RepetitionTime": 9, "Film": 1},
        "task-rest_events.json": {"Events": 1},
        "sub-01/sub-01_task-rest_bold.json": {"Level": "participant", "Person": 1},
        "sub-01/ses-a/sub-01_ses-a_bold.json": {"Level": "session", "RepetitionTime": 0.8},
        f"sub-01/ses-a/func/sub-01_ses-a_task-rest_run-2_space-{SPACE}_desc-preproc_bold.json": {"Own": 1},
    }.items():
        _touch(root / path, json.dumps(facts))
    images = []
    for s in ("01", "02"):
        for e in ("a", "b"):
            for t, r in (("rest", 1), ("rest", 2), ("film", 1)):
                name = f"sub-{s}_ses-{e}_task-{t}_run-{r}_space-{SPACE}_desc-preproc_bold.nii.gz"
                images.append(_touch(root / f"sub-{s}/ses-{e}/func" / name))
    layout = bids.BIDSLayout(root, validate=False, is_derivative=True, config=["bids", "derivatives"])
    tree = Tree(root)
    for image in images:
        assert tree.sidecar_facts(image) == layout.get_file(image).get_metadata(), image.name
        theirs = layout.get_file(image).get_entities()
        assert parse_name(image).entities["sub"] == theirs["subject"]
    assert tree.sidecar_facts(images[0])["RepetitionTime"] == 0.8


def test_the_longer_name_wins_in_one_folder(tmp_path: Path) -> None:
    """The combined run beside its echoes: here pybids takes the wrong one (its issue 1044)."""
    for echo, value in (("", 1.0), ("_echo-2", 2.0)):
        _touch(
            tmp_path / f"sub-1_task-a{echo}_bold.json", json.dumps({"EchoTime": value, "RepetitionTime": 3})
        )
    _touch(tmp_path / "sub-1_task-a.json", '{"RepetitionTime": 9}')  # no suffix: not a sidecar of anything
    tree = Tree(tmp_path)
    assert tree.sidecar_facts(tmp_path / "sub-1_task-a_echo-2_bold.nii.gz")["EchoTime"] == 2
    assert tree.sidecar_facts(tmp_path / "sub-1_bold.nii.gz") == {}
    assert tree.sidecar_facts(tmp_path / "sub-1_task-a_mask.nii.gz") == {}
    assert tree.sidecar_facts(tmp_path / "sub-1_task-a_bold.nii.gz")["EchoTime"] == 1


# --- XCP-D --------------------------------------------------------------------------------------------------


def test_another_desc_is_taken_by_the_filter_file_only(fmriprep: Path) -> None:
    """fMRIPrep's ICA-AROMA images lie beside the others; they are never taken by themselves."""
    func = fmriprep / "sub-02/ses-a/func"
    stem = "sub-02_ses-a_task-rest_run-1_space-MNI152NLin6Asym_desc-"
    _touch(func / f"{stem}smoothAROMAnonaggr_bold.nii.gz")
    keep = ScanFilter(space="MNI152NLin6Asym")
    assert len(find_scans(fmriprep, keep).scans) == 4
    (scan,) = find_scans(
        fmriprep, ScanFilter(space="MNI152NLin6Asym", bids_filter={"desc": ("smoothAROMAnonaggr",)})
    ).scans
    assert scan.path.name == f"{stem}smoothAROMAnonaggr_bold.nii.gz"
    assert scan.mask == func / f"{stem}brain_mask.nii.gz"


@pytest.fixture
def xcpd(tmp_path: Path) -> Path:
    root = tmp_path / "xcp_d"
    _touch(
        root / "dataset_description.json", '{"DatasetType": "derivative", "GeneratedBy": [{"Name": "xcp_d"}]}'
    )
    for s in ("1", "2"):
        for r in ("1", "2"):
            run = root / f"sub-{s}/func/sub-{s}_task-rest_run-{r}"
            for seg in ("4S156Parcels", "4S456Parcels", "Tian", "Glasser"):
                _touch(Path(f"{run}_space-{SPACE}_seg-{seg}_stat-mean_timeseries.tsv"))
                _touch(Path(f"{run}_space-{SPACE}_seg-{seg}_stat-coverage_bold.tsv"))
                _touch(Path(f"{run}_space-{SPACE}_seg-{seg}_stat-alff_bold.tsv"))
            _touch(Path(f"{run}_space-{SPACE}_desc-denoised_bold.nii.gz"))
            _touch(Path(f"{run}_space-{SPACE}_desc-denoised_bold.json"), '{"RepetitionTime": 0.8}')
            _touch(Path(f"{run}_space-{SPACE}_desc-denoisedSmoothed_bold.nii.gz"))
            _touch(Path(f"{run}_outliers.tsv"))
            _touch(Path(f"{run}_motion.tsv"))
    return root


def test_xcpd_tables_of_the_atlas(xcpd: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = find_scans(xcpd, ScanFilter(atlas="tian-s3+schaefer-400"))
    assert found.made_by == "xcp_d" and "4 scans from its regional tables" in caplog.text
    assert _ids(found)[:2] == [f"sub-1_task-rest_run-{r}_space-{SPACE}" for r in "12"]
    scan = found.scans[0]
    assert (scan.kind, scan.t_r, scan.denoised, scan.space) == ("series", 0.8, True, SPACE)
    assert [p.name.split("_seg-")[1] for p in scan.tables] == [
        "Tian_stat-mean_timeseries.tsv",
        "4S456Parcels_stat-mean_timeseries.tsv",
    ]
    assert [p.name.split("_seg-")[1] for p in scan.coverage] == [
        "Tian_stat-coverage_bold.tsv",
        "4S456Parcels_stat-coverage_bold.tsv",
    ]
    assert scan.outliers is not None and scan.outliers.name == "sub-1_task-rest_run-1_outliers.tsv"
    assert scan.motion is not None and scan.motion.name == "sub-1_task-rest_run-1_motion.tsv"
    (small,) = find_scans(xcpd, ScanFilter(["1"], run_id=["2"], atlas="schaefer-100-7networks")).scans
    assert [p.name.split("_seg-")[1][:12] for p in small.tables] == ["4S156Parcels"]


def test_xcpd_images_where_tables_do_not_serve_or_are_not_wanted(xcpd: Path) -> None:
    for keep in (ScanFilter(atlas="schaefer-200"), ScanFilter(atlas="schaefer-400", xcpd="nifti")):
        scans = find_scans(xcpd, keep).scans
        assert [s.kind for s in scans] == ["volume"] * 4 and all(s.denoised and s.outliers for s in scans)
        assert scans[0].path.name == f"sub-1_task-rest_run-1_space-{SPACE}_desc-denoised_bold.nii.gz"
        assert scans[0].t_r == 0.8
    with pytest.raises(
        InputError, match=r"no tables with the regions of 'schaefer-200'.*4S156Parcels.*--atlases 4S256"
    ):
        find_scans(xcpd, ScanFilter(atlas="schaefer-200", xcpd="tables"))


def test_xcpd_with_tables_for_some_scans_only_is_refused(xcpd: Path) -> None:
    next(xcpd.rglob("sub-2*run-1*seg-Tian_stat-mean_timeseries.tsv")).unlink()
    with pytest.raises(InputError, match="1 of 4 scans lack the tables"):
        find_scans(xcpd, ScanFilter(atlas="tian-s3+schaefer-400"))


def test_xcpd_joined_runs_and_the_older_names(xcpd: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in list(xcpd.rglob("*_seg-*")):
        path.rename(path.with_name(path.name.replace("_seg-", "_atlas-")))
    _touch(xcpd / f"sub-1/func/sub-1_task-rest_space-{SPACE}_atlas-4S456Parcels_stat-mean_timeseries.tsv")
    scans = find_scans(xcpd, ScanFilter(atlas="schaefer-400")).scans
    assert [s.run for s in scans] == ["1", "2", "1", "2"] and scans[0].t_r == 0.8
    assert "is joined from runs" in caplog.text


# --- tables, UK Biobank, manifests --------------------------------------------------------------------------


def test_folder_of_tables(tmp_path: Path) -> None:
    _touch(tmp_path / "sub-1_ses-2_task-rest_atlas-x7y_timeseries.npz")
    _touch(tmp_path / "sub-1_ses-3_timeseries.csv.gz")
    _touch(tmp_path / "sub-1_ses-3_timeseries.json", '{"RepetitionTime": 1.5}')
    _touch(tmp_path / "sub-4_desc-confounds_timeseries.tsv")
    _touch(tmp_path / "scores.tsv")
    scans = find_scans(tmp_path, ALL).scans
    assert [(s.scan_id, s.session, s.kind, s.t_r) for s in scans] == [
        ("sub-1_ses-2_task-rest", "2", "series", None),
        ("sub-1_ses-3", "3", "series", 1.5),
    ]
    assert scans[0].tables == (scans[0].path,)
    _touch(tmp_path / "sub-1_ses-2_task-rest_atlas-other_timeseries.npz")
    with pytest.raises(InputError, match="occur more than once"):
        find_scans(tmp_path, ALL)
    _touch(tmp_path / "sub-1_bold.nii.gz")
    with pytest.raises(InputError, match="holds 1 images and 3 tables of series"):
        find_scans(tmp_path, ALL)


def test_one_table_or_a_manifest(tmp_path: Path) -> None:
    table = _touch(tmp_path / "sub-1_timeseries.tsv", "a\tb\tc\n1\tn/a\t3\n")
    rows = _touch(tmp_path / "sub-2_timeseries.tsv", "name\tt0\tt1\nHIP\t2\t3\n")
    assert [find_scans(p, ALL).scans[0].kind for p in (table, rows)] == ["series", "series"]
    manifest = _touch(tmp_path / "list.tsv", f"path\tsession\tt_r\n{table.name}\t1\t2\n{rows.name}\t2\t\n")
    assert [(s.scan_id, s.t_r) for s in find_scans(manifest, ALL).scans] == [
        ("sub-1_ses-1", 2.0),
        ("sub-2_ses-2", None),
    ]
    _touch(manifest, f"path\n{table.name}\nx.nii\n")
    with pytest.raises(InputError, match=r"several kinds: series .*, volume \(x.nii\)"):
        find_scans(manifest, ALL)
    _touch(manifest, "path\nx.docx\n")
    with pytest.raises(InputError, match=r"line 2: x\.docx is neither"):
        find_scans(manifest, ALL)
    with pytest.raises(InputError, match="is neither an image"):
        find_scans(_touch(tmp_path / "x.docx"), ALL)


@pytest.mark.parametrize(
    ("image", "sidecar"),
    [
        ("scan-01.nii.gz", "scan-01.json"),
        ("sub-01_task-rest.nii.gz", "sub-01_task-rest.json"),
        ("subj1.func.nii.gz", "subj1.func.json"),
        ("subj1.func.nii", "subj1.func.json"),
        ("sub-01_task-rest_timeseries.tsv.gz", "sub-01_task-rest_timeseries.json"),
    ],
)
@pytest.mark.parametrize("way", ["folder", "file", "manifest"])
def test_a_sidecar_with_the_name_of_the_image_applies(
    tmp_path: Path, image: str, sidecar: str, way: str
) -> None:
    path = _touch(tmp_path / "data" / image)
    _touch(tmp_path / "data" / sidecar, '{"RepetitionTime": 2.5}')
    manifest = _touch(tmp_path / "list.tsv", f"path\ndata/{image}\n")
    given = {"folder": path.parent, "file": path, "manifest": manifest}[way]
    assert [scan.t_r for scan in find_scans(given, ALL).scans] == [2.5]


@pytest.mark.parametrize("way", ["folder", "file", "manifest", "relative"])
def test_what_stands_in_a_dataset_inherits_from_its_root(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the nearest dataset_description.json and no further."""
    root = tmp_path / "outer/ds"
    _touch(root / "dataset_description.json", "{}")
    _touch(root / "task-rest_bold.json", '{"RepetitionTime": 2.5}')
    _touch(root.parent / "dataset_description.json", "{}")
    _touch(root.parent / "task-film_bold.json", '{"RepetitionTime": 9}')
    path = _touch(root / "sub-01/ses-a/func/sub-01_ses-a_task-rest_bold.nii.gz")
    film = _touch(root / "sub-01/ses-b/func/sub-01_ses-b_task-film_bold.nii.gz")
    _touch(root / "sub-01/ses-b/sub-01_ses-b_bold.json", '{"Manufacturer": "x"}')
    lists = tmp_path / "lists/list.tsv"
    _touch(
        lists,
        "".join(f"{line}\n" for line in ("path", *(f"../{p.relative_to(tmp_path)}" for p in (path, film)))),
    )
    monkeypatch.chdir(path.parent)
    given = {"folder": root / "sub-01", "file": path, "manifest": lists, "relative": Path(path.name)}[way]
    expected = [2.5, None] if way in ("folder", "manifest") else [2.5]
    assert [scan.t_r for scan in find_scans(given, ALL).scans] == expected


def test_without_a_dataset_nothing_is_inherited_from_above(tmp_path: Path) -> None:
    path = _touch(tmp_path / "a/b/sub-01_task-rest_bold.nii.gz")
    _touch(tmp_path / "a/task-rest_bold.json", '{"RepetitionTime": 2.5}')
    assert find_scans(path, ALL).scans[0].t_r is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("session", "/../../../../evil"),
        ("session", "pre op"),
        ("task", "a_b"),
        ("run", "ses-1"),
        ("run", "run-"),
    ],
)
def test_labels_of_a_manifest_are_letters_and_digits(tmp_path: Path, column: str, value: str) -> None:
    manifest = _touch(tmp_path / "list.tsv", f"path\t{column}\na.nii\t1\nb.nii\t{value}\n")
    with pytest.raises(InputError, match=rf"list\.tsv, line 3: {column} '{value}' is no label") as caught:
        find_scans(manifest, ALL)
    assert "etters and digits only" in str(caught.value)


def test_prefixes_of_labels_in_a_manifest_are_left_out(tmp_path: Path) -> None:
    row = "bold.nii\tsub-7\tses-1\ttask-rest\trun-02"
    manifest = _touch(tmp_path / "list.tsv", f"path\tparticipant_id\tsession\ttask\trun\n{row}\n")
    (scan,) = find_scans(manifest, ALL).scans
    assert (scan.participant_id, scan.session, scan.task, scan.run) == ("sub-7", "1", "rest", "02")
    assert scan.scan_id == "sub-7_ses-1_task-rest_run-02_desc-bold"


def test_participants_of_a_manifest_do_not_merge(tmp_path: Path) -> None:
    manifest = tmp_path / "list.tsv"
    rows = "a.nii\tA-1\t1\nb.nii\tsub-A-1\t2\n"
    _touch(manifest, f"path\tparticipant_id\tsession\n{rows}")
    assert [scan.participant_id for scan in find_scans(manifest, ALL).scans] == ["sub-A1"] * 2
    for other in ("c.nii\tA1\t3", "sub-A1_bold.nii\t\t3"):
        _touch(manifest, f"path\tparticipant_id\tsession\n{rows}{other}\n")
        with pytest.raises(InputError, match=r"line 4: participant_id 'A1' and 'A-1' \(line 2\) would both"):
            find_scans(manifest, ALL)
    _touch(manifest, "path\tparticipant_id\na.nii\t///\n")
    with pytest.raises(InputError, match="line 2: participant_id '///' holds no letter and no digit"):
        find_scans(manifest, ALL)


def test_manifest_without_rows_or_with_short_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a header and no rows"):
        find_scans(_touch(tmp_path / "list.tsv", "path\tsession\n"), ALL)
    (scan,) = find_scans(_touch(tmp_path / "list.tsv", "path\tsession\na.nii\n"), ALL).scans
    assert scan.session == ""


def test_manifest_tells_sessions_and_runs_of_files_with_one_name(tmp_path: Path) -> None:
    lines = [
        "path\tparticipant_id\tsession\ttask\trun",
        "a/bold.nii\t7\t1\trest\t1",
        "b/bold.nii\t7\t1\trest\t2",
    ]
    scans = find_scans(_touch(tmp_path / "list.tsv", "\n".join(lines) + "\n"), ALL).scans
    assert [s.scan_id for s in scans] == [f"sub-7_ses-1_task-rest_run-{r}_desc-bold" for r in "12"]
    assert [(s.session, s.task, s.run) for s in scans] == [("1", "rest", "1"), ("1", "rest", "2")]


def test_uk_biobank_folders(tmp_path: Path) -> None:
    for folder in ("1000011/i2", "1000011/i3", "1000029", "1000037_31016_2_0", "sub-1000041/i2/fMRI"):
        for table in ("Schaefer17n400p", "Schaefer7n400p", "Schaefer7n1000p", "Tian_Subcortex_S3_3T"):
            _touch(tmp_path / folder / f"fMRI.{table}.csv.gz")
    (tmp_path / "1000029/fMRI.Tian_Subcortex_S3_3T.csv.gz").unlink()
    found = find_scans(tmp_path, ScanFilter(atlas="tian-s3+schaefer-400"))
    assert found.made_by == "UK Biobank"
    assert _ids(found) == [
        "sub-1000011_ses-2_task-rest",
        "sub-1000011_ses-3_task-rest",
        "sub-1000029_task-rest",
        "sub-1000037_ses-2_task-rest",
        "sub-1000041_ses-2_task-rest",
    ]
    scan = found.scans[0]
    assert scan.t_r == 0.735 and scan.denoised
    assert [p.name for p in scan.tables] == [
        "fMRI.Tian_Subcortex_S3_3T.csv.gz",
        "fMRI.Schaefer17n400p.csv.gz",
    ]
    assert [s.error is None for s in found.scans] == [True, True, False, True, True]
    assert "no table fMRI.Tian_Subcortex_S3_3T" in str(found.scans[2].error)
    keep = ScanFilter(atlas="schaefer-400-7networks")
    assert find_scans(tmp_path, keep).scans[0].tables[0].name == "fMRI.Schaefer7n400p.csv.gz"
    with pytest.raises(InputError, match="no UK Biobank table is known"):
        find_scans(tmp_path, ScanFilter(atlas="own.nii.gz"))


def test_raw_bids_names_the_derivatives_inside(tmp_path: Path) -> None:
    _touch(tmp_path / "dataset_description.json", '{"Name": "x"}')
    _touch(tmp_path / "derivatives/fmriprep/dataset_description.json", "{}")
    with pytest.raises(InputError, match=r"raw BIDS folder.*Give .*derivatives/fmriprep"):
        find_scans(tmp_path, ALL)


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
