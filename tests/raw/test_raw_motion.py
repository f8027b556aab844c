"""Realignment recovers motion that was planted: in a simulated head, and in real volumes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, map_coordinates

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.motion import Motion, estimate_motion, framewise_displacement
from bjepa.preproc.raw.rigid import invert_rigid, rigid_matrix, rigid_params
from bjepa.preproc.stream import open_bold

F = NDArray[np.float64]
SHAPE, SIZES = (54, 62, 31), (3.6, 3.2, 4.1)  # voxels, mm
N_FRAMES = 14


def oblique(shape: tuple[int, ...], sizes: tuple[float, ...], at: tuple[float, ...] = (0, -15, 15)) -> F:
    """Voxel to mm, turned about all axes, the x axis to the left; the grid's centre lies at `at`."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.1, -0.2, 0.15) @ np.diag(sizes) @ np.diag([-1, 1, 1])
    affine[:3, 3] = at - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def centre_of(affine: F, shape: tuple[int, ...]) -> F:
    return np.asarray(affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3])


def wander(n_frames: int, seed: int) -> F:
    """(n_frames, 6) a walk with jumps, to 8 mm and 4 degrees."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(n_frames, 6)), axis=0)
    for frame in rng.choice(n_frames, 3, replace=False):
        walk[frame:] += 4 * rng.normal(size=6)
    walk -= walk[n_frames // 3]
    walk /= np.abs(walk).max(axis=0)
    return np.asarray(walk * np.array([5.0, 6.0, 8.0, *np.deg2rad([4.0, 3.0, 4.0])]))


def scan_of_head(matrices: F, affine: F, shape: tuple[int, ...], *, noise: float, seed: int = 0) -> F:
    """(x, y, z, T) a head from nilearn's template, its contrast inverted, each voxel the mean of 8 points."""
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=2)
    bright = np.asarray(template.dataobj) / np.asarray(template.dataobj).max()
    head = np.where(bright > 0.05, 1.25 - bright, 0.0)
    rng = np.random.default_rng(seed)
    voxels = np.indices(shape).reshape(3, -1)
    corners = np.array(np.meshgrid(*[[-0.25, 0.25]] * 3)).reshape(3, -1).T
    frames = []
    for matrix in matrices:
        to_head = np.linalg.inv(template.affine) @ invert_rigid(matrix) @ affine
        points = [to_head[:3, :3] @ (voxels + corner[:, None]) + to_head[:3, 3:] for corner in corners]
        clean = np.mean([map_coordinates(head, where, order=1) for where in points], axis=0)
        real, imaginary = rng.normal(0, noise, (2, clean.size))
        frames.append(np.hypot(clean + real, imaginary).reshape(shape))
    return np.stack(frames, axis=3)


def write(path: Path, data: F, affine: F, dtype: type = np.int16, scale: float = 1000.0) -> Path:
    image = nib.Nifti1Image((data * scale).astype(dtype), affine)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def relative(matrices: F, motion: Motion) -> F:
    """Matrices (T, 4, 4) as if the head lay as in the frame that `motion` is relative to."""
    usual = int(np.argmin(np.abs(motion.params).sum(axis=1)))
    return np.asarray(matrices @ invert_rigid(matrices[usual]))


def rms_of_differences(motion: Motion, truth: F) -> tuple[float, float]:
    """Largest RMS over time of a parameter's error: mm, degrees."""
    truth = relative(truth, motion)
    wrong = [
        rigid_params(a @ invert_rigid(b), motion.centre) for a, b in zip(motion.matrices, truth, strict=True)
    ]
    rms = np.sqrt(np.mean(np.square(wrong), axis=0))
    return float(rms[:3].max()), float(np.rad2deg(rms[3:].max()))


def displacement(found: F, truth: F, centre: F) -> F:
    """(T,) RMS mm over a sphere of 50 mm, about as large as a brain."""
    points = np.random.default_rng(0).normal(size=(400, 3))
    points = 50 * points / np.linalg.norm(points, axis=1, keepdims=True) + centre
    apart = (found - truth)[:, :3]
    moved = apart[:, :, :3] @ points.T + apart[:, :, 3:]  # (T, 3, n)
    return np.asarray(np.sqrt((moved**2).sum(axis=1).mean(axis=1)))


@pytest.fixture(scope="module")
def wandering(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, F]:
    """A run with motion to 8 mm and its matrices; the first two frames are brighter."""
    affine = oblique(SHAPE, SIZES)
    matrices = np.stack([rigid_matrix(p, centre_of(affine, SHAPE)) for p in wander(N_FRAMES, 1)])
    data = scan_of_head(matrices, affine, SHAPE, noise=0.02)
    data[..., 0] *= 1.8
    data[..., 1] *= 1.2
    return write(tmp_path_factory.mktemp("motion") / "bold.nii.gz", data, affine), matrices


def test_motion_to_8_mm_is_recovered_to_a_tenth(wandering: tuple[Path, F]) -> None:
    path, truth = wandering
    motion = estimate_motion(open_bold(path), skip=2)
    mm, degrees = rms_of_differences(motion, truth)
    assert mm < 0.05 and degrees < 0.08  # 0.02 mm, 0.04 degrees are usual
    params = np.stack([rigid_params(m, motion.centre) for m in relative(truth, motion)])
    found, true = framewise_displacement(motion.params)[1:], framewise_displacement(params)[1:]
    assert np.corrcoef(found, true)[0, 1] > 0.999
    assert_allclose(found, true, atol=0.25)


def test_params_and_matrices_say_the_same(wandering: tuple[Path, F]) -> None:
    bold = open_bold(wandering[0])
    motion = estimate_motion(bold)
    assert_allclose(motion.centre, centre_of(bold.affine, SHAPE))
    for params, matrix in zip(motion.params, motion.matrices, strict=True):
        assert_allclose(rigid_matrix(params, motion.centre), matrix, atol=1e-12)
    usual = np.abs(motion.params).sum(axis=1).argmin()
    assert_allclose(motion.matrices[usual], np.eye(4), atol=1e-12)  # relative to one of the frames


def test_signs_are_those_of_the_head(tmp_path: Path) -> None:
    # most frames lie still; one head lies 3 mm to the right, 2 up, and has nodded up by 2 degrees
    affine = oblique(SHAPE, SIZES)
    centre = centre_of(affine, SHAPE)
    moved = rigid_matrix(np.array([3.0, 0, 2.0, np.deg2rad(2.0), 0, 0]), centre)
    matrices = np.stack([np.eye(4)] * 4 + [moved])
    motion = estimate_motion(
        open_bold(write(tmp_path / "bold.nii", scan_of_head(matrices, affine, SHAPE, noise=0.01), affine))
    )
    assert_allclose(motion.params[4, :3] - motion.params[0, :3], [3, 0, 2], atol=0.06)
    assert_allclose(np.rad2deg(motion.params[4, 3:] - motion.params[0, 3:]), [2, 0, 0], atol=0.08)
    front = np.array([*(centre + np.array([0, 60, 0])), 1])
    front_up = (motion.matrices[4] - motion.matrices[0]) @ front
    assert_allclose(front_up[:3], [3, -0.04, 2 + 60 * np.sin(np.deg2rad(2))], atol=0.15)


@pytest.mark.parametrize("planted", ["wander", "jumps"])
def test_motion_planted_on_real_volumes(shared: Path, tmp_path: Path, planted: str) -> None:
    # 64 volumes as scanned, 4 x 4 x 6 mm; the file says neither size nor orientation: they are set here.
    # The scan's own motion stays in: what is found must be the planted motion after the scan's own.
    # Where the moved grid shows what was not scanned there are zeros, harder than what a scanner gives.
    image = nib.load(shared / "data/bold4d/native_no_affine/filtered_func_data.nii.gz")
    scan = np.asarray(image.dataobj, dtype=np.float64)
    affine = oblique(scan.shape[:3], (4.0, 4.0, 6.0))
    centre = centre_of(affine, scan.shape[:3])
    params = wander(64, 2)
    if planted == "jumps":
        params = params[np.random.default_rng(3).permutation(64)]
    matrices = np.stack([rigid_matrix(p, centre) for p in params])
    to_voxel = np.linalg.inv(affine)
    moved = np.stack(
        [
            affine_transform(
                scan[..., t], to_voxel @ invert_rigid(matrices[t]) @ affine, order=3
            )  # 0 outside
            for t in range(64)
        ],
        axis=3,
    )
    found = estimate_motion(open_bold(write(tmp_path / "moved.nii.gz", moved, affine, scale=1)))
    own = estimate_motion(open_bold(write(tmp_path / "own.nii.gz", scan, affine, scale=1)))
    truth = relative(matrices @ own.matrices, found)
    error = displacement(found.matrices, truth, centre)
    assert np.median(error) < 0.06 and error.max() < 0.12  # 0.04, 0.10
    alone = displacement(found.matrices, relative(matrices, found), centre)  # as if it had not moved itself
    assert np.sqrt(np.mean(alone**2)) < 0.12
    mm, degrees = rms_of_differences(found, matrices @ own.matrices)
    assert mm < 0.1 and degrees < 0.1


def test_heads_far_away_are_found(tmp_path: Path) -> None:
    # away in steps of 15 mm and 16 degrees, then in one jump of 70 mm to the other side
    affine = oblique(SHAPE, SIZES)
    step = np.array([6.0, 13.0, 6.0, *np.deg2rad([10.0, -5.0, 11.0])])
    params = np.outer([0, 0, 0, 0, 0, 1, 2, 3, -1.6], step)
    matrices = np.stack([rigid_matrix(p, centre_of(affine, SHAPE)) for p in params])
    data = scan_of_head(matrices, affine, SHAPE, noise=0.02)
    motion = estimate_motion(open_bold(write(tmp_path / "bold.nii", data, affine)))
    assert displacement(motion.matrices, relative(matrices, motion), motion.centre).max() < 0.15


def test_skipped_frames_do_not_enter_the_reference(wandering: tuple[Path, F], tmp_path: Path) -> None:
    image = nib.load(wandering[0])
    data = np.asarray(image.dataobj, dtype=np.float64)
    motion = estimate_motion(open_bold(wandering[0]), skip=2)
    data[..., :2] = 3 * data[:, :, ::-1, 5:7]  # another head
    other = estimate_motion(open_bold(write(tmp_path / "bold.nii", data, image.affine, scale=1)), skip=2)
    assert_allclose(other.params[2:], motion.params[2:], atol=2e-3)


def test_units_types_and_compression_do_not_matter(tmp_path: Path) -> None:
    affine = oblique(SHAPE, SIZES)
    params = wander(6, 4)
    matrices = np.stack([rigid_matrix(p, centre_of(affine, SHAPE)) for p in params])
    data = scan_of_head(matrices, affine, SHAPE, noise=0.02)
    whole = np.rint(data * 1000)
    plain = estimate_motion(open_bold(write(tmp_path / "int16.nii.gz", whole, affine, scale=1)))
    tiny = estimate_motion(open_bold(write(tmp_path / "tiny.nii", whole, affine, np.float64, 1e-9)))
    assert_allclose(tiny.params, plain.params, atol=1e-9)
    offset = nib.Nifti1Image((whole - 500).astype(np.int16), affine)
    offset.set_sform(affine, code=1)
    offset.header.set_slope_inter(3.0, 40.0)
    nib.save(offset, tmp_path / "offset.nii")
    stored = nib.load(tmp_path / "offset.nii")
    assert stored.dataobj.slope == 3
    shifted = estimate_motion(open_bold(tmp_path / "offset.nii"))
    assert_allclose(shifted.params, plain.params, atol=1e-3)  # only what comes in at the border differs
    again = estimate_motion(open_bold(tmp_path / "int16.nii.gz"))
    assert (again.matrices == plain.matrices).all()


@pytest.mark.filterwarnings("error")
def test_an_empty_frame_and_lost_slices_do_no_harm(wandering: tuple[Path, F], tmp_path: Path) -> None:
    path, truth = wandering
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float64)
    data[..., 5] = 0
    data[:, :, 9:14, 8] *= 0.3  # five slices lost in motion
    data[20, 20, 10, 3] = np.nan
    motion = estimate_motion(open_bold(write(tmp_path / "b.nii", data, image.affine, np.float32, 1)), skip=2)
    assert np.isfinite(motion.params).all()
    to_10 = motion.matrices @ invert_rigid(motion.matrices[10])
    error = displacement(to_10, truth @ invert_rigid(truth[10]), motion.centre)
    assert np.delete(error, [5, 8]).max() < 0.08 and error[8] < 0.15


def test_a_run_without_a_head_is_refused(tmp_path: Path) -> None:
    affine = oblique((9, 8, 7), SIZES)
    with pytest.raises(InputError, match=r"zero\.nii: the volumes do not show how the head moves"):
        estimate_motion(open_bold(write(tmp_path / "zero.nii", np.zeros((9, 8, 7, 4)), affine)))


def test_framewise_displacement_is_powers() -> None:
    params = np.zeros((4, 6))
    params[1] = [0.1, -0.2, 0.3, 0, 0, 0]
    params[2] = [0.1, -0.2, 0.3, 0.01, -0.02, 0]
    assert_allclose(framewise_displacement(params), [np.nan, 0.6, 1.5, 2.1])
    assert_allclose(framewise_displacement(params, radius=80.0)[2], 2.4)


def test_rigid_matrices_and_params_go_both_ways() -> None:
    rng = np.random.default_rng(0)
    centre = np.array([3.0, -20.0, 11.0])
    for params in rng.uniform(-1.2, 1.2, (20, 6)):
        matrix = rigid_matrix(params, centre)
        assert_allclose(rigid_params(matrix, centre), params, atol=1e-12)
        assert_allclose(invert_rigid(matrix), np.linalg.inv(matrix), atol=1e-12)
        assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
        # right-handed, Rx Ry Rz: nibabel's euler2mat(z, y, x) makes Rx Ry Rz too
        assert_allclose(matrix[:3, :3], euler2mat(params[5], params[4], params[3]), atol=1e-12)
        assert_allclose(matrix @ [*centre, 1], [*(centre + params[:3]), 1], atol=1e-12)
