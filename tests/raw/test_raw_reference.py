"""The mean image is the mean of what lies still; the mask is the brain, in real EPI and in slabs of it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.motion import Motion
from bjepa.preproc.raw.reference import bold_mask, mean_image
from bjepa.preproc.raw.rigid import rigid_matrix
from bjepa.preproc.raw.slice_timing import SliceTiming
from bjepa.preproc.stream import BoldFile, open_bold

F = NDArray[np.float64]
SHAPE = (23, 27, 14)


def oblique(shape: tuple[int, ...] = SHAPE, sizes: tuple[float, ...] = (3.5, 3.0, 4.0)) -> F:
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.1, -0.2, 0.15) @ np.diag(sizes) @ np.diag([-1, 1, 1])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def write(path: Path, data: F) -> BoldFile:
    image = nib.Nifti1Image(data, oblique())
    image.set_sform(oblique(), code=1)
    nib.save(image, path)
    return open_bold(path)


def motion_of(params: F) -> Motion:
    return Motion(params, np.stack([rigid_matrix(p, np.zeros(3)) for p in params]), np.zeros(3))


def dice(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_without_motion_it_is_the_mean_of_the_steady_frames(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(100, 900, (*SHAPE, 6))
    bold = write(tmp_path / "bold.nii.gz", data)
    image = mean_image(bold, motion_of(np.zeros((6, 6))), skip=2)
    assert image.get_data_dtype() == np.float32 and image.shape == SHAPE
    assert_allclose(image.affine, bold.affine, atol=1e-5)
    assert int(image.header["sform_code"]) > 0 and int(image.header["qform_code"]) > 0
    assert_allclose(image.get_fdata(), data[..., 2:].mean(axis=3), rtol=1e-6)


def test_what_moved_is_moved_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    params = rng.uniform(-1, 1, (12, 6)) * np.array([4, 4, 6, 0.06, 0.06, 0.06])
    motion = motion_of(params)
    voxels = np.indices(SHAPE).reshape(3, -1)
    world = oblique()[:3, :3] @ voxels + oblique()[:3, 3:]

    def object_at(points: F) -> F:
        parts = [((5, -3, 2), 9.0, 800), ((-8, 10, -6), 7.0, 500)]
        return np.asarray(
            sum(h * np.exp(-((points - np.array(c)[:, None]) ** 2).sum(0) / (2 * s**2)) for c, s, h in parts)
        )

    frames = []
    for matrix in motion.matrices:
        back = np.linalg.inv(matrix)
        frames.append(object_at(back[:3, :3] @ world + back[:3, 3:]).reshape(SHAPE))
    bold = write(tmp_path / "bold.nii", np.stack(frames, axis=3))
    mean = mean_image(bold, motion).get_fdata()
    inner = (slice(2, -2),) * 3
    truth = object_at(world).reshape(SHAPE)
    assert np.abs(mean - truth)[inner].max() < 8  # of 800
    still = mean_image(bold, motion_of(0 * params)).get_fdata()
    assert np.abs(still - truth)[inner].max() > 50


def test_places_that_only_some_frames_saw_are_the_mean_of_those(tmp_path: Path) -> None:
    params = np.zeros((4, 6))
    bold = write(tmp_path / "bold.nii", np.full((*SHAPE, 4), 300.0))
    motion = motion_of(params)
    shift = np.eye(4)
    shift[:3, 3] = 3 * oblique()[:3, 2]  # by three slices
    shifted = Motion(params, np.stack([np.eye(4), np.eye(4), shift, shift]), np.zeros(3))
    assert_allclose(mean_image(bold, shifted).get_fdata(), 300, rtol=1e-6)
    never = Motion(params, np.stack([shift] * 4), np.zeros(3))
    mean = mean_image(bold, never).get_fdata()
    assert (mean[:, :, -3:] == 0).all()
    assert_allclose(mean[:, :, :-3], 300, rtol=1e-6)
    assert_allclose(mean_image(bold, motion).get_fdata(), 300, rtol=1e-6)


def test_long_runs_are_averaged_over_100_of_their_frames(tmp_path: Path) -> None:
    n_frames = 130
    level = np.linspace(400, 500, n_frames)
    bold = write(tmp_path / "bold.nii", np.broadcast_to(level, (*SHAPE, n_frames)).astype(np.float32))
    mean = mean_image(bold, motion_of(np.zeros((n_frames, 6)))).get_fdata()
    assert_allclose(mean, 450, atol=0.2)


def test_slice_timing_enters(tmp_path: Path) -> None:
    data = np.random.default_rng(2).uniform(100, 900, (*SHAPE, 12))
    bold = write(tmp_path / "bold.nii", data)
    motion = motion_of(np.zeros((12, 6)))
    timing = SliceTiming(times=np.linspace(0, 1.9, SHAPE[2]), axis=2, t_r=2.0, skip=1)
    shifted, plain = (mean_image(bold, motion, skip=1, slice_timing=s).get_fdata() for s in (timing, None))
    assert 0.1 < np.abs(shifted - plain).max() < 300
    with pytest.raises(InputError, match="slice times"):
        mean_image(bold, motion, slice_timing=SliceTiming(times=np.zeros(SHAPE[2] - 1), axis=2, t_r=2.0))


# --- mask ---------------------------------------------------------------------------------------------------


def example_func(shared: Path) -> nib.Nifti1Image:
    return nib.load(shared / "data/raw/coreg_qa/example_func.nii.gz")


def test_mask_of_real_epi(shared: Path) -> None:
    from nilearn.masking import compute_epi_mask

    image = example_func(shared)
    mask = bold_mask(image)
    inside = np.asarray(mask.dataobj)
    assert mask.get_data_dtype() == np.uint8 and set(np.unique(inside)) == {0, 1}
    assert mask.shape == image.shape
    assert_allclose(mask.affine, image.affine, atol=1e-5)
    litres = inside.sum() * abs(np.linalg.det(image.affine[:3, :3])) * 1e-6
    assert 1.1 < litres < 1.5
    assert dice(inside, compute_epi_mask(image).get_fdata()) > 0.95
    assert label(inside)[1] == 1 and label(inside == 0)[1] == 1  # one piece, no holes
    assert inside[:, :, 0].sum() > 300  # the lowest slice holds cerebellum
    # the eyes are the brightest there is in slices 4 to 7: none of them is in the mask
    data = np.asarray(image.dataobj)
    eyes = data[:, 50:, 4:7] > 1100
    assert eyes.sum() > 20 and not (inside[:, 50:, 4:7].astype(bool) & eyes).any()
    # scalp: what is not in the mask, but bright and within a brain's surroundings, is left out
    assert not inside[:, :, -1].any()


@pytest.mark.parametrize("slices", [(0, 14), (10, 24), (14, 22), (20, 36)])
def test_a_slab_of_it_has_the_same_mask(shared: Path, slices: tuple[int, int]) -> None:
    image = example_func(shared)
    whole = np.asarray(bold_mask(image).dataobj)[:, :, slice(*slices)]
    slab = np.asarray(bold_mask(image.slicer[:, :, slice(*slices)]).dataobj)
    assert dice(slab, whole) > 0.96
    assert dice(slab[..., 0], whole[..., 0]) > 0.9  # its outer slices are not eaten


def test_neither_units_nor_orientation_nor_shading_matter(shared: Path) -> None:
    image = example_func(shared)
    data = np.asarray(image.dataobj, dtype=np.float64)
    mask = np.asarray(bold_mask(image).dataobj)
    for scale in (1e-6, 1e5):
        assert (np.asarray(bold_mask(nib.Nifti1Image(data * scale, image.affine)).dataobj) == mask).all()
    turn = np.array([[1, -1], [2, 1], [0, -1]])
    turned = bold_mask(image.as_reoriented(turn))
    assert dice(turned.dataobj, bold_mask(image).as_reoriented(turn).dataobj) > 0.999
    x, y, _ = np.indices(data.shape) / np.array(data.shape)[:, None, None, None]
    for shading in ((0.3 + 1.4 * x) * (1.5 - y), np.exp(-2.5 * x)):  # a coil nearer to one side
        shaded = bold_mask(nib.Nifti1Image(data * shading, image.affine))
        assert dice(shaded.dataobj, mask) > 0.965


def test_skin_is_left_out_and_ventricles_are_filled() -> None:
    shape, sizes = (48, 54, 33), (4.0, 3.5, 4.5)
    affine = oblique(shape, sizes)
    mm = (np.indices(shape).T - (np.array(shape) - 1) / 2) * sizes
    radius = np.linalg.norm(mm / np.array([1, 1.15, 0.9]), axis=-1).T
    brain, skin = radius < 62, (radius > 74) & (radius < 80)
    dark = np.linalg.norm(mm - np.array([0, 5, 0]), axis=-1).T < 9  # inside the brain
    image = np.where(brain, 700.0, 40.0) + np.where(skin, 900, 0) - np.where(dark, 640, 0)
    image = gaussian_filter(image, 0.5) + np.random.default_rng(0).normal(0, 15, shape)
    mask = np.asarray(bold_mask(nib.Nifti1Image(image.astype(np.float32), affine)).dataobj)
    assert dice(mask, brain) > 0.97
    assert not (mask.astype(bool) & skin).any()
    assert mask[dark].all()


def test_real_volumes_without_background(shared: Path) -> None:
    # cut out along the brain before: the rest is exactly 0
    image = nib.load(shared / "data/bold4d/native_no_affine/filtered_func_data.nii.gz")
    mean = np.asarray(image.dataobj, dtype=np.float64).mean(axis=3)
    affine = oblique(mean.shape, (4.0, 4.0, 6.0))
    mask = np.asarray(bold_mask(nib.Nifti1Image(mean, affine)).dataobj)
    assert 1.2 < mask.sum() * 96e-6 < 1.6  # litres
    assert mean[mask > 0].sum() > 0.9 * mean.sum()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_image_has_no_brain(value: float) -> None:
    with pytest.raises(InputError, match="No brain"):
        bold_mask(nib.Nifti1Image(np.full(SHAPE, value), oblique()))
