"""Frames are read by a cubic spline at moved places: exact without motion, as nilearn and scipy elsewhere."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.rigid import rigid_matrix
from bjepa.preproc.raw.sample import always_inside, stream_resampled
from bjepa.preproc.raw.slice_timing import SliceTiming
from bjepa.preproc.stream import BoldFile, open_bold

F = NDArray[np.float64]
SHAPE, N_FRAMES = (17, 15, 12), 5
EVERY = np.arange(int(np.prod(SHAPE)))
STILL = np.tile(np.eye(4), (N_FRAMES, 1, 1))


def oblique() -> F:
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.3, -0.2, 0.1) @ np.diag([-3.0, 2.5, 4.0])
    affine[:3, 3] = [40, -20, 10]
    return affine


def write(path: Path, data: NDArray[np.generic], slope: float = 1.0, inter: float = 0.0) -> BoldFile:
    image = nib.Nifti1Image(data, oblique())
    image.set_sform(oblique(), code=1)
    if (slope, inter) != (1.0, 0.0):
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return open_bold(path)


def noise(seed: int = 0) -> F:
    return np.random.default_rng(seed).uniform(0, 1000, (*SHAPE, N_FRAMES))


def moved_about(seed: int, mm: float = 2.0, rad: float = 0.05) -> F:
    rng = np.random.default_rng(seed)
    centre = apply_affine(oblique(), (np.array(SHAPE) - 1) / 2)
    params = rng.uniform(-1, 1, (N_FRAMES, 6)) * np.array([mm, mm, mm, rad, rad, rad])
    return np.stack([rigid_matrix(p, centre) for p in params])


def whole(bold: BoldFile, matrices: F, voxels: NDArray[np.intp] = EVERY) -> F:
    return np.stack(list(stream_resampled(bold, matrices, voxels)), axis=1)  # (n_voxels, T)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope", "inter"), [("i2", 1, 0), ("u1", 0.5, -7), (">i2", 1, 0), ("f4", 1, 0), ("f8", 2, 1)]
)
def test_a_head_that_lies_still_gives_the_stored_values(
    tmp_path: Path, dtype: str, slope: float, inter: float, ending: str
) -> None:
    data = (noise() / 4).astype(dtype)
    bold = write(tmp_path / f"bold{ending}", data, slope, inter)
    stored = np.asarray(nib.load(bold.path).dataobj, dtype=np.float64)
    values = whole(bold, STILL)
    assert values.dtype == np.float64
    assert_allclose(values, stored.reshape(-1, N_FRAMES, order="F"), rtol=1e-9, atol=1e-8)


def test_only_the_voxels_asked_for_in_their_order(tmp_path: Path) -> None:
    bold = write(tmp_path / "bold.nii.gz", noise())
    matrices = moved_about(1)
    voxels = np.array([400, 3, 691, 77])
    assert_allclose(whole(bold, matrices, voxels), whole(bold, matrices)[voxels], rtol=1e-12)


def test_values_are_those_of_nilearn_and_scipy(tmp_path: Path) -> None:
    from nilearn.image import resample_img
    from scipy.ndimage import map_coordinates

    data, matrices = noise(2), moved_about(2)
    bold = write(tmp_path / "bold.nii", data)
    values = whole(bold, matrices).reshape(*SHAPE, N_FRAMES, order="F")
    voxels = np.indices(SHAPE).reshape(3, -1).T
    for frame, matrix in enumerate(matrices):
        # to read the frame at M p is to resample the same data whose affine says M^-1 A
        image = nib.Nifti1Image(data[..., frame], np.linalg.inv(matrix) @ bold.affine)
        theirs = resample_img(
            image,
            target_affine=bold.affine,
            target_shape=SHAPE,
            interpolation="continuous",
            force_resample=True,
            copy_header=True,
            fill_value=-1,
            clip=False,
        ).get_fdata()
        where = apply_affine(np.linalg.inv(bold.affine) @ matrix @ bold.affine, voxels)
        inner = ((where >= 0) & (where <= np.array(SHAPE) - 1)).all(axis=1).reshape(SHAPE)
        assert inner.mean() > 0.4
        assert_allclose(values[..., frame][inner], theirs[inner], atol=1e-4)
        scipys = map_coordinates(data[..., frame], where.T, order=3, mode="mirror").reshape(SHAPE)
        inside = always_inside(SHAPE, bold.affine, matrix[None], EVERY).reshape(SHAPE, order="F")
        assert inside.sum() > inner.sum()
        assert_allclose(values[..., frame][inside], scipys[inside], rtol=1e-9, atol=1e-9)
        assert (values[..., frame][~inside] == 0).all()


def test_a_smooth_object_is_found_where_it_moved_to(tmp_path: Path) -> None:
    # an independent truth: a Gaussian blob whose value is known at every place
    matrices = moved_about(3, mm=3.0, rad=0.15)
    middle = apply_affine(oblique(), [8.2, 6.9, 5.6])
    world = apply_affine(oblique(), np.indices(SHAPE).reshape(3, -1, order="F").T)

    def blob(points: F) -> F:
        return np.asarray(900 * np.exp(-((points - middle) ** 2).sum(axis=1) / (2 * 7.0**2)))

    frames = [blob(apply_affine(np.linalg.inv(m), world)).reshape(SHAPE, order="F") for m in matrices]
    values = whole(write(tmp_path / "bold.nii", np.stack(frames, axis=3)), matrices)
    grid = np.indices(SHAPE).reshape(3, -1, order="F").T
    where = np.stack([apply_affine(np.linalg.inv(oblique()) @ m @ oblique(), grid) for m in matrices], axis=1)
    inner = ((where >= 1) & (where <= np.array(SHAPE) - 2)).all(axis=2)  # (n_voxels, T)
    assert inner.mean() > 0.2
    assert np.abs(values - blob(world)[:, None])[inner].max() < 5


def test_inside_is_within_the_outer_voxels() -> None:
    shift = np.eye(4)
    shift[:3, 3] = oblique()[:3, 0] * 0.49  # along the first axis of the grid, in voxels
    assert always_inside(SHAPE, oblique(), np.stack([np.eye(4), shift]), EVERY).all()
    shift[:3, 3] = oblique()[:3, 0] * 0.51
    inside = always_inside(SHAPE, oblique(), np.stack([np.eye(4), shift]), EVERY).reshape(SHAPE, order="F")
    assert not inside[-1].any() and inside[:-1].all()
    back = np.linalg.inv(shift)
    both = always_inside(SHAPE, oblique(), np.stack([back, shift]), EVERY).reshape(SHAPE, order="F")
    assert not both[[0, -1]].any() and both[1:-1].all()


def test_outside_is_0_and_told(tmp_path: Path) -> None:
    bold = write(tmp_path / "bold.nii", noise() + 1)
    matrices = moved_about(4, mm=9.0)
    values = whole(bold, matrices)
    assert_array_equal((values != 0).all(axis=1), always_inside(SHAPE, oblique(), matrices, EVERY))
    assert 0.1 < (values == 0).mean() < 0.9


def test_an_edge_does_not_ring(tmp_path: Path) -> None:
    # constant tissue up to the border of the grid stays constant there, wherever the head goes
    bold = write(tmp_path / "bold.nii", np.full((*SHAPE, N_FRAMES), 700.0))
    values = whole(bold, moved_about(5))
    assert_allclose(values[values != 0], 700, rtol=1e-9)


def test_a_value_that_is_not_finite_stays_where_it_is(tmp_path: Path) -> None:
    data = noise(6)
    data[3, 4, 5, 2] = np.nan
    clean = noise(6)
    clean[3, 4, 5, 2] = 0
    values = whole(write(tmp_path / "nan.nii", data), STILL)
    assert_allclose(values, clean.reshape(-1, N_FRAMES, order="F"), atol=1e-8)


def test_slices_are_shifted_before_frames_are_moved(tmp_path: Path) -> None:
    times = np.linspace(0, 1.8, SHAPE[2])
    ramp = np.broadcast_to(np.arange(N_FRAMES) * 10.0 + 100, (*SHAPE, N_FRAMES)).copy()
    bold = write(tmp_path / "bold.nii", ramp)
    timing = SliceTiming(times=times, axis=2, t_r=2.0)
    shifted = np.stack(list(stream_resampled(bold, STILL, EVERY, slice_timing=timing)), axis=1)
    assert shifted.shape == (len(EVERY), N_FRAMES)
    middle = shifted.reshape(*SHAPE, N_FRAMES, order="F")[..., 2]
    expected = 120 + 10 * (0.9 - times) / 2
    assert_allclose(middle, np.broadcast_to(expected, SHAPE), atol=1.5)  # a short run: its ends are near
    assert np.all(np.diff(middle, axis=2) < 0)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    bold = write(tmp_path / "bold.nii", noise())
    bold.path.write_bytes(bold.path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        whole(bold, STILL)
