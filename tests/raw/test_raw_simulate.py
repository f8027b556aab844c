"""preproc/demo/raw_*.py: the truth is what the images show, the layout is raw BIDS, same seed same bytes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.demo.raw_cohort import COARSE, RawTruth, RunTruth, write_raw_cohort
from bjepa.preproc.demo.raw_error import demo_labels, edges_r
from bjepa.preproc.demo.raw_head import FIELD_STEP, draw_deformation, grid_points
from bjepa.preproc.demo.raw_scan import draw_motion
from bjepa.preproc.errors import InputError

F = NDArray[np.float64]
QUIET = replace(COARSE, bold_noise=0.002, motion_mm=8.0, slice_groups=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module")
def cohort(folder: Path) -> list[RawTruth]:
    return write_raw_cohort(folder, atlas_labels=demo_labels(), n_frames=40, seed=3, protocol=QUIET)


def test_layout_is_raw_bids(folder: Path, cohort: list[RawTruth]) -> None:
    about = json.loads((folder / "dataset_description.json").read_text())
    assert about["DatasetType"] == "raw" and about["BIDSVersion"] and about["Name"]
    assert (folder / "README").read_text().endswith("no person was scanned.\n")
    files = sorted(str(path.relative_to(folder)) for path in folder.glob("sub-02/*/*"))
    assert files == [
        f"sub-02/{name}.{ending}"
        for name in ("anat/sub-02_T1w", "func/sub-02_task-rest_bold")
        for ending in ("json", "nii.gz")
    ]
    rows = (folder / "participants.tsv").read_text().splitlines()
    assert rows[0] == "participant_id\tage\tsex" and [row.split("\t")[0] for row in rows[1:]] == [
        "sub-01",
        "sub-02",
    ]
    sidecar = json.loads((folder / "sub-02/func/sub-02_task-rest_bold.json").read_text())
    image = nib.load(cohort[1].runs[0].path)
    assert sidecar["RepetitionTime"] == pytest.approx(float(image.header.get_zooms()[3])) == 2.0
    assert sidecar["TaskName"] == "rest" and "no person" in sidecar["Description"]
    assert len(sidecar["SliceTiming"]) == image.shape[2] and max(sidecar["SliceTiming"]) < 2.0


def test_grids_are_lopsided_and_oblique(cohort: list[RawTruth]) -> None:
    for path in [one.t1w for one in cohort] + [one.runs[0].path for one in cohort]:
        image = nib.load(path)
        assert len(set(image.shape[:3])) == 3
        cosines = np.abs(image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0))
        assert np.sort(cosines.ravel())[-3] < 0.9999
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=2e-3)
    codes = ["".join(nib.aff2axcodes(nib.load(one.t1w).affine)) for one in cohort]
    assert codes == ["LAS", "PSR"]
    assert nib.load(cohort[0].runs[0].path).dataobj.slope == 0.125  # a reader must apply it


def test_same_seed_same_bytes_and_participants_do_not_depend_on_each_other(
    folder: Path, cohort: list[RawTruth], tmp_path: Path
) -> None:
    again = write_raw_cohort(
        tmp_path, atlas_labels=demo_labels(), n_participants=1, first=2, n_frames=40, seed=3, protocol=QUIET
    )
    for path in (again[0].t1w, again[0].runs[0].path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
    np.testing.assert_array_equal(again[0].to_template.field, cohort[1].to_template.field)
    small = replace(COARSE, t1w_zooms=(8, 8, 8), bold_shape=(6, 5, 4))
    write_raw_cohort(
        tmp_path, atlas_labels=demo_labels(), n_participants=1, n_frames=10, seed=3, protocol=small
    )
    assert (tmp_path / "participants.tsv").read_text() == (folder / "participants.tsv").read_text()


def test_matrices_say_where_the_head_went(cohort: list[RawTruth]) -> None:
    """Frames pulled back by them (nilearn's resampling) are alike; as they are, they are not."""
    from nilearn.image import resample_img

    run = cohort[0].runs[0]
    image = nib.load(run.path)
    inner = np.s_[8:-8, 8:-8, 8:-8]
    still = int(np.argmin(_moved_mm(run)))
    far = int(np.argmax(_moved_mm(run) * (np.arange(40) >= 3)))
    assert _moved_mm(run)[far] > 4
    pulled = {}
    for t in (still, far):
        frame = nib.Nifti1Image(
            image.dataobj[..., t].astype(np.float32), np.linalg.inv(run.matrices[t]) @ run.affine
        )
        back = resample_img(
            frame, run.affine, run.shape, interpolation="continuous", copy_header=True, force_resample=True
        )
        pulled[t] = np.asarray(back.dataobj)[inner].ravel()
    raw = [image.dataobj[..., t][inner].ravel() for t in (still, far)]
    assert np.corrcoef(*raw)[0, 1] < 0.9
    assert np.corrcoef(pulled[still], pulled[far])[0, 1] > 0.98


def test_place_in_the_t1w_is_where_brain_and_tissue_fit(cohort: list[RawTruth]) -> None:
    """White is bright in T1w and dark in EPI: the correlation within the brain is least at the truth."""
    for truth in cohort:
        run = truth.runs[0]
        points, values = _reference_frame(truth, run)
        at_truth = _t1w_at(truth, apply_affine(run.to_t1w, points))
        best = np.corrcoef(values, at_truth)[0, 1]
        assert best < -0.6
        for shift in 4 * np.vstack([np.eye(3), -np.eye(3)]):
            moved = _t1w_at(truth, apply_affine(run.to_t1w, points + shift))
            assert np.corrcoef(values, moved)[0, 1] > best + 0.05


def test_deformation_leads_from_t1w_to_template(cohort: list[RawTruth]) -> None:
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=2)
    for truth in cohort:
        image = nib.load(truth.t1w)
        points = grid_points(image.shape, image.affine)[::7]
        here = np.asarray(image.dataobj).reshape(-1)[::7]
        there = _linear(template, truth.to_template(points))
        brain = there > 0.3
        assert np.corrcoef(here[brain], there[brain])[0, 1] > 0.9
        centre = points.mean(axis=0)
        straight = _linear(template, points - centre + [0, -18, -2])
        assert np.corrcoef(here[brain], straight[brain])[0, 1] < 0.8


def test_slices_carry_the_planted_signals_of_their_own_time(tmp_path: Path) -> None:
    """Slices read in the middle of the volume follow the truth's series; others are a third of TR off."""
    still = replace(COARSE, t_r=4.0, bold_noise=0.002, motion_mm=1e-3, slice_groups=3)
    (truth,) = write_raw_cohort(
        tmp_path, atlas_labels=demo_labels(), n_participants=1, n_frames=40, protocol=still
    )
    (run,) = truth.runs
    labels = truth.labels(run)
    assert set(np.unique(labels)) == set(range(451)) and run.slice_times is not None
    data = np.asarray(nib.load(run.path).dataobj)[..., run.n_non_steady :]
    planted = run.series[run.n_non_steady :]
    found: dict[float, list[float]] = {0.0: [], 1.333333: [], 2.666667: []}
    for time, slices in ((time, np.array(run.slice_times) == time) for time in found):
        for region in range(51, 451, 7):
            voxels = (labels == region) & slices
            if voxels.sum() > 8:
                found[time].append(np.corrcoef(data[voxels].mean(axis=0), planted[:, region - 1])[0, 1])
    early, middle, late = (float(np.median(r)) for r in found.values())
    assert len(found[1.333333]) > 20 and middle > 0.9
    assert 0.3 < max(early, late) < middle - 0.05


def test_planted_fc_tends_to_the_participants(cohort: list[RawTruth], tmp_path: Path) -> None:
    long = replace(COARSE, t1w_zooms=(8, 8, 8), bold_shape=(6, 5, 4), t_r=8.0)
    (truth,) = write_raw_cohort(
        tmp_path, atlas_labels=demo_labels(), n_participants=1, n_frames=600, seed=3, protocol=long
    )
    assert edges_r(truth.runs[0].fc, truth.fc) > 0.9
    np.testing.assert_array_equal(truth.fc, cohort[0].fc)
    assert edges_r(truth.fc, cohort[1].fc) < 0.99


def test_initial_volumes_are_brighter(cohort: list[RawTruth]) -> None:
    data = np.asarray(nib.load(cohort[0].runs[0].path).dataobj)
    level = data.reshape(-1, 40).mean(axis=0)
    assert (level[:3] > level[3:].max()).all() and level[3:].max() < 1.05 * level[3:].min()


def test_runs_and_sessions(tmp_path: Path) -> None:
    small = replace(COARSE, t1w_zooms=(8, 8, 8), bold_shape=(6, 5, 4))
    (truth,) = write_raw_cohort(
        tmp_path,
        atlas_labels=demo_labels(),
        n_participants=1,
        n_frames=10,
        runs=2,
        sessions=2,
        protocol=small,
    )
    names = [str(run.path.relative_to(tmp_path)) for run in truth.runs]
    assert names == [
        f"sub-01/ses-{s}/func/sub-01_ses-{s}_task-rest_run-{r}_bold.nii.gz" for s in (1, 2) for r in (1, 2)
    ]
    assert truth.t1w == tmp_path / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    places = np.array([run.to_t1w for run in truth.runs])
    assert len(np.unique(places.round(6), axis=0)) == 4
    assert len({run.path.read_bytes() for run in truth.runs}) == 4


def test_distortion_shifts_along_the_phase_axis_alone(cohort: list[RawTruth]) -> None:
    """Over the nasal air what is shown lies up to 8 mm further along the array's second axis."""
    truth = cohort[0]
    run = replace(truth.runs[0], distortion_mm=8.0)
    points = grid_points(run.shape, run.affine)
    shown = truth.template_points(run, points)
    along = run.affine[:3, 1] / np.linalg.norm(run.affine[:3, 1])
    straight = truth.template_points(truth.runs[0], points)
    moved = np.linalg.norm(shown - straight, axis=1)
    assert 5 < moved.max() < 9.5 and np.median(moved) < 1
    most = points[[np.argmax(moved)]]
    steps = np.linspace(-9, 9, 361)[:, None]
    reached = truth.template_points(truth.runs[0], most + steps * along)
    assert np.linalg.norm(reached - shown[np.argmax(moved)], axis=1).min() < 0.1
    assert (truth.labels(run) != truth.labels(truth.runs[0])).any()


def test_motion_goes_as_far_as_asked_and_jerks() -> None:
    centre = np.array([4.0, -12.0, 30.0])
    matrices, _ = draw_motion(np.random.default_rng(5), 120, centre, largest_mm=8.0)
    sphere = centre + 60 * np.vstack([np.eye(3), -np.eye(3)])
    paths = np.stack([apply_affine(matrix, sphere) for matrix in matrices])
    assert np.linalg.norm(paths - sphere, axis=2).max() == pytest.approx(8, rel=0.02)
    steps = np.linalg.norm(np.diff(paths, axis=0), axis=2).max(axis=1)
    assert np.median(steps) < 0.5 < 1.0 < steps.max()
    np.testing.assert_allclose(np.linalg.det(matrices[:, :3, :3]), 1)


def test_deformation_can_be_inverted_and_is_as_long_as_asked() -> None:
    fields = [draw_deformation(np.random.default_rng(k), np.zeros(3), warp_mm=8.0) for k in (1, 2)]
    for one in fields:
        points = grid_points(one.field.shape[:3], one.affine)
        flat = np.column_stack([points, np.ones(len(points))])
        reached = points + one.field.reshape(-1, 3)
        affine = np.linalg.lstsq(flat, reached, rcond=None)[0]
        assert 4 < np.linalg.norm(reached - flat @ affine, axis=1).max() < 9
        derivative = np.stack(
            [np.stack(np.gradient(one.field[..., k], FIELD_STEP), -1) for k in range(3)], -2
        )
        assert np.linalg.det(np.eye(3) + derivative).min() > 0.25
    assert np.abs(fields[0].field - fields[1].field).max() > 5
    with pytest.raises(InputError, match="folds space"):
        draw_deformation(np.random.default_rng(1), np.zeros(3), warp_mm=60.0)


def test_refuses_what_cannot_be_simulated(tmp_path: Path) -> None:
    labels = demo_labels()
    beyond = nib.Nifti1Image(np.where(np.asarray(labels.dataobj) == 7, 451, labels.dataobj), labels.affine)
    with pytest.raises(InputError, match="451"):
        write_raw_cohort(tmp_path, atlas_labels=beyond)
    with pytest.raises(InputError, match="n_frames"):
        write_raw_cohort(tmp_path, atlas_labels=labels, n_frames=3)
    whole = nib.Nifti1Image(np.ones((9, 8, 7), np.float32), np.eye(4))
    with pytest.raises(InputError, match="skull-stripped"):
        write_raw_cohort(tmp_path, atlas_labels=labels, template=whole)
    assert not list(tmp_path.iterdir())


def _moved_mm(run: RunTruth) -> F:
    """How far the head's centre and 60 mm above it are from the reference, the larger: (T,)."""
    centre = apply_affine(run.affine, (np.array(run.shape) - 1) / 2)
    points = np.stack([centre, centre + np.array([0, 0, 60])])
    moved = np.stack([apply_affine(matrix, points) - points for matrix in run.matrices])
    return np.asarray(np.linalg.norm(moved, axis=2).max(axis=1))


def _reference_frame(truth: RawTruth, run: RunTruth) -> tuple[F, F]:
    """Reference points within the regions, and what the frame in the middle of the run shows there."""
    from scipy.ndimage import map_coordinates

    t = len(run.matrices) // 2
    points = grid_points(run.shape, run.affine)
    inner = truth.labels(run).ravel() > 0
    where = apply_affine(np.linalg.inv(run.affine) @ run.matrices[t], points[inner])
    frame = np.asarray(nib.load(run.path).dataobj[..., t], dtype=float)
    return points[inner], np.asarray(map_coordinates(frame, where.T, order=1))


def _t1w_at(truth: RawTruth, points: F) -> F:
    return _linear(nib.load(truth.t1w), points)


def _linear(image: nib.Nifti1Image, points: F) -> F:
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(image.affine), points)
    return np.asarray(map_coordinates(np.asarray(image.dataobj, dtype=float), voxels.T, order=1))
