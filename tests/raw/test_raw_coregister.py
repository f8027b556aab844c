"""raw/coregister.py: a known rigid map is found, FLIRT's on a real pair, and kept as ITK reads it."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.ants import Ants, RegistrationError, write_matrix
from bjepa.preproc.raw.coregister import (
    coregister,
    load_rigid,
    mutual_information,
    nearest_rigid,
    save_rigid,
)
from bjepa.preproc.raw.options import RawOptions
from bjepa.preproc.raw.reference import bold_mask
from bjepa.preproc.raw.work_grid import grid_around, points_in_mask, resample, sample

FULL, SLOPPY = RawOptions(), RawOptions(sloppy=True)


def rigid(degrees: Any, shift: Any) -> Any:
    return nib.affines.from_matvec(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), shift)


@pytest.fixture(scope="module")
def brains() -> Any:
    """T1w and its mask (2 mm, A S R, turned); an EPI-like boldref (3 x 3 x 4 mm), mask and place."""
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=2)
    axes = np.array([[0, 0, 2.0, -95], [2.1, 0, 0, -130], [0, 2.2, 0, -80], [0, 0, 0, 1]])
    affine = rigid([6, -4, 9], [5, 8, -3]) @ axes
    shape = (94, 88, 96)
    there = apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    t1w = nib.Nifti1Image(sample(template, there).reshape(shape).astype(np.float32), affine)
    values = np.asarray(t1w.dataobj)
    t1_mask = nib.Nifti1Image((values > 0.1 * values.max()).astype(np.uint8), affine)

    truth = rigid([-8, 5, 4], [11.0, -14, 9])
    bold_affine = np.array([[-3.0, 0, 0, 88], [0, 2.9, 0.6, -118], [0, -0.5, 3.9, -66], [0, 0, 0, 1]])
    bold_shape = (60, 70, 38)
    points = apply_affine(bold_affine, np.indices(bold_shape).reshape(3, -1).T)
    fine = sample(t1w, apply_affine(truth, points))
    contrast = np.interp(fine / values.max(), [0, 0.1, 0.45, 0.6, 0.85], [0, 1.3, 1.25, 1.0, 0.7])
    gain = np.exp(points @ [0.004, -0.008, 0.003])  # a coil, brighter in front
    noise = np.random.default_rng(2).normal(0, 15, len(points))
    epi = np.abs(1000 * contrast * gain + noise).reshape(bold_shape).astype(np.float32)
    boldref = nib.Nifti1Image(epi, bold_affine)
    mask = nib.Nifti1Image((contrast > 0.3).reshape(bold_shape).astype(np.uint8), bold_affine)
    return t1w, t1_mask, boldref, mask, truth


def apart(a: Any, b: Any, mask: Any) -> Any:
    """(n,) mm between where two maps take the brain's voxels."""
    points = points_in_mask(mask)
    return np.linalg.norm(apply_affine(a, points) - apply_affine(b, points), axis=1)


@pytest.mark.parametrize("options, limit", [(FULL, 0.5), (SLOPPY, 2.0)])
def test_finds_a_known_place(ants: Any, brains: Any, options: Any, limit: Any) -> None:
    t1w, t1_mask, boldref, mask, truth = brains
    found = coregister(boldref, mask, t1w, t1_mask, options=options)
    errors = apart(found.matrix, truth, mask)
    print(errors.mean(), errors.max(), found.metrics)
    assert errors.max() < limit, errors.max()
    assert found.metrics["mi_ratio"] > 2.0
    turn = found.matrix[:3, :3]
    assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    centre = points_in_mask(mask).mean(axis=0)
    assert found.metrics["shift_mm"] == pytest.approx(
        np.linalg.norm(apply_affine(truth, centre) - centre), abs=1
    )
    assert found.metrics["angle_deg"] == pytest.approx(
        np.rad2deg(Rotation.from_matrix(truth[:3, :3]).magnitude()), abs=1
    )


def test_law_moving_the_bold_in_the_scanner_moves_the_map(ants: Any, brains: Any) -> None:
    """Another place 60 mm away, where the scanner's coordinates are no start at all."""
    t1w, t1_mask, boldref, mask, truth = brains
    moved = rigid([10, 3, -5], [60.0, -40, 35])
    there, mask_there = (
        nib.Nifti1Image(np.asarray(image.dataobj), moved @ image.affine) for image in (boldref, mask)
    )
    found = coregister(there, mask_there, t1w, t1_mask, options=FULL)
    assert apart(found.matrix, truth @ np.linalg.inv(moved), mask_there).max() < 0.6


def test_same_input_same_bytes_and_inputs_stay_as_they_were(ants: Any, brains: Any) -> None:
    t1w, t1_mask, boldref, mask, _ = brains
    for image in brains[:4]:
        np.asarray(image.dataobj).flags.writeable = False
    first, again = (coregister(boldref, mask, t1w, t1_mask, options=SLOPPY) for _ in range(2))
    assert first.matrix.tobytes() == again.matrix.tobytes()
    assert first.metrics == again.metrics


def test_another_head_has_a_low_ratio(ants: Any, brains: Any) -> None:
    """The T1w upside down: no rigid map fits, and the measure says so."""
    t1w, t1_mask, boldref, mask, _ = brains
    right = coregister(boldref, mask, t1w, t1_mask, options=SLOPPY).metrics["mi_ratio"]
    turned = [
        nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1.0, 1, -1, 1]) @ image.affine)
        for image in (t1w, t1_mask)
    ]
    wrong = coregister(boldref, mask, *turned, options=SLOPPY).metrics["mi_ratio"]
    assert wrong < 0.75 * right, (wrong, right)


def test_an_empty_mask_is_refused(ants: Any, brains: Any) -> None:
    t1w, t1_mask, boldref, mask, _ = brains
    empty = nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine)
    with pytest.raises(InputError, match="brain mask of the BOLD run is empty"):
        coregister(boldref, empty, t1w, t1_mask, options=SLOPPY)


def test_a_failed_registration_is_an_input_error(ants: Any, brains: Any, monkeypatch: Any) -> None:
    t1w, t1_mask, boldref, mask, _ = brains

    def fail(*_args: Any, **_options: Any) -> None:
        raise RegistrationError("No valid points were found")

    monkeypatch.setattr(Ants, "align", fail)
    with pytest.raises(InputError, match=r"could not be registered to its T1w image .*No valid points"):
        coregister(boldref, mask, t1w, t1_mask, options=SLOPPY)


def test_kept_as_itk_reads_it(ants: Any, tmp_path: Any) -> None:
    import ants as library

    matrix = rigid([12, -7, 31], [4.0, -9, 22])
    save_rigid(tmp_path / "boldref_to_T1w.txt", matrix)
    assert_allclose(load_rigid(tmp_path / "boldref_to_T1w.txt"), matrix, atol=1e-12)
    point = np.array([31.0, -52, 17])
    theirs = library.read_transform(str(tmp_path / "boldref_to_T1w.txt"))
    moved = np.array(theirs.apply_to_point((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    assert_allclose(moved, apply_affine(matrix, point), atol=1e-4)
    library.write_transform(theirs, str(tmp_path / "itk.txt"))  # as ITK writes it
    assert_allclose(load_rigid(tmp_path / "itk.txt"), matrix, atol=1e-5)


def test_a_map_that_stretches_is_not_rigid(tmp_path: Any) -> None:
    write_matrix(tmp_path / "affine.txt", np.diag([1.1, 1, 1, 1]))
    with pytest.raises(InputError, match=r"affine\.txt is not rigid"):
        load_rigid(tmp_path / "affine.txt")


def test_nearest_rigid() -> None:
    near = rigid([3, 4, 5], [1.0, 2, 3])
    noisy = near.copy()
    noisy[:3, :3] += np.random.default_rng(0).normal(0, 1e-6, (3, 3))
    assert_allclose(nearest_rigid(noisy), near, atol=5e-6)
    assert_allclose(np.linalg.inv(nearest_rigid(noisy))[:3, :3], nearest_rigid(noisy)[:3, :3].T, atol=1e-14)


def test_mutual_information_is_scikit_learns() -> None:
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(5)
    a = rng.uniform(0, 32, 4000)
    b = np.where(rng.random(4000) < 0.7, 32 - a, rng.uniform(0, 32, 4000))
    low, high = np.percentile(a, [0.5, 99.5])
    bins = [
        np.clip(
            (
                32
                * (np.clip(x, *np.percentile(x, [0.5, 99.5])) - np.percentile(x, 0.5))
                / np.ptp(np.percentile(x, [0.5, 99.5]))
            ).astype(int),
            0,
            31,
        )
        for x in (a, b)
    ]
    assert high > low
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(*bins), rel=0.02)
    assert mutual_information(a, rng.permutation(a)) < 0.2 * mutual_information(a, b)


def test_within_one_and_a_half_mm_of_flirt_on_a_real_pair(ants: Any, shared: Any) -> None:
    """Real EPI and skull-stripped T1w of one person, with FSL's own registration."""
    folder = shared / "data" / "raw" / "coreg_qa"
    boldref, t1w = nib.load(folder / "example_func.nii.gz"), nib.load(folder / "highres.nii.gz")
    t1_mask = nib.Nifti1Image((np.asarray(t1w.dataobj) > 0).astype(np.uint8), t1w.affine)
    mask = bold_mask(boldref)
    flirt = np.loadtxt(folder / "highres2example_func.mat")  # highres -> example_func, in FSL's mm
    to_t1w = np.linalg.inv(fsl_mm_to_world(boldref) @ flirt @ np.linalg.inv(fsl_mm_to_world(t1w)))
    found = coregister(boldref, mask, t1w, t1_mask, options=FULL)
    errors = apart(found.matrix, to_t1w, mask)
    print(errors.mean(), np.median(errors), errors.max(), found.metrics)
    assert errors.mean() < 1.5, errors.mean()
    assert found.metrics["mi_ratio"] > 1.7
    assert apart(np.eye(4), to_t1w, mask).mean() > 8  # the scanner's coordinates were not enough


def fsl_mm_to_world(image: Any) -> Any:
    """FSL's coordinates: voxel times size, the first axis mirrored where the image is right-handed."""
    to_fsl = np.diag([*voxel_sizes(image.affine), 1.0])
    if np.linalg.det(image.affine) > 0:
        mirror = np.diag([-1.0, 1, 1, 1])
        mirror[0, 3] = image.shape[0] - 1
        to_fsl = to_fsl @ mirror
    return image.affine @ np.linalg.inv(to_fsl)


def test_resampling_a_t1w_to_2_mm_moves_nothing(brains: Any) -> None:
    """Centre of mass before and after."""
    t1w, t1_mask, *_ = brains
    coarse = resample(t1w, grid_around(points_in_mask(t1_mask), 4.0, 10.0))
    centres = []
    for image in (t1w, coarse):
        data = np.asarray(image.dataobj, dtype=np.float64)
        points = apply_affine(image.affine, np.indices(image.shape).reshape(3, -1).T)
        centres.append(data.ravel() @ points / data.sum())
    assert_allclose(centres[0], centres[1], atol=0.05)
