"""raw/ants.py: images and transforms in and out, threads and seed, nothing printed, nothing left."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw import ants as module
from bjepa.preproc.raw.ants import (
    RegistrationError,
    Schedule,
    ants_session,
    linear_displacement,
    read_matrix,
    write_matrix,
)
from bjepa.preproc.raw.work_grid import grid_around, grid_of, points_in_mask, resample, sample, widened

pytestmark = pytest.mark.usefixtures("ants")

SHAPE = (23, 28, 17)
TURN = Rotation.from_rotvec(np.deg2rad(31) * np.array([0.6, 0.64, -0.48])).as_matrix()
QUICK = Schedule(iterations=(30,), shrink=(1,), sigmas=(1,), sampling=0.5)


def blobs(affine: Any, shape: Any = SHAPE, seed: Any = 1) -> Any:
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    image = nib.Nifti1Image((values / values.std() + 5).astype(np.float32), affine)
    return image


@pytest.mark.parametrize("mirror", [1, -1])
def test_an_oblique_image_comes_back_as_it_was(mirror: Any, tmp_path: Any) -> None:
    affine = nib.affines.from_matvec(TURN * [mirror * 2.0, 3.1, 2.6], [14.0, -33, 8])
    image = blobs(affine)
    with ants_session(1, 0) as session:
        import ants as library

        there = session.image(image)
        back = session.nifti(there)
        nib.save(image, tmp_path / "image.nii.gz")
        read = library.image_read(str(tmp_path / "image.nii.gz"))  # ITK's own reader
    assert_allclose(back.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(image.dataobj))
    assert_allclose(there.origin, read.origin, atol=1e-4)
    assert_allclose(there.spacing, read.spacing, atol=1e-5)
    assert_allclose(there.direction, read.direction, atol=1e-5)


def test_a_matrix_moves_points_as_itk_moves_them(tmp_path: Any) -> None:
    matrix = nib.affines.from_matvec(TURN @ np.diag([1.1, 0.9, 1.2]), [4.0, -7, 12])
    write_matrix(tmp_path / "a.txt", matrix)
    assert_allclose(read_matrix(tmp_path / "a.txt"), matrix, atol=1e-12)
    point = np.array([12.0, -30, 44])
    with ants_session(1, 0):
        import ants as library

        transform = library.read_transform(str(tmp_path / "a.txt"))
        moved = np.array(transform.apply_to_point((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    assert_allclose(moved, apply_affine(matrix, point), atol=1e-4)


def test_a_matrix_with_a_centre_is_read(tmp_path: Any) -> None:
    """ITK's transforms turn about a centre: y = M (x - c) + c + t."""
    centre, shift = np.array([3.0, -20, 11]), np.array([1.0, 2, 3])
    numbers = " ".join(map(str, [*TURN.ravel(), *shift]))
    (tmp_path / "c.txt").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: {' '.join(map(str, centre))}\n"
    )
    moved = apply_affine(read_matrix(tmp_path / "c.txt"), centre * [-1, -1, 1])
    assert_allclose(moved * [-1, -1, 1], centre + shift, atol=1e-12)


@pytest.mark.parametrize(
    "text", ["", "Parameters: 1 2 3\nFixedParameters: 0 0 0\n", "Parameters: x\n", b"\xff\xfe"]
)
def test_refuses_other_text(text: Any, tmp_path: Any) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"other\.txt is not one affine transform"):
        read_matrix(path)


def test_refuses_a_chain(tmp_path: Any) -> None:
    write_matrix(tmp_path / "one.txt", np.eye(4))
    (tmp_path / "two.txt").write_text(2 * (tmp_path / "one.txt").read_text())
    with pytest.raises(InputError, match="is not one affine transform"):
        read_matrix(tmp_path / "two.txt")


def test_rigid_between_two_orientations() -> None:
    """The moving image on another, mirrored, oblique grid: the map found is the one that made it."""
    fixed = blobs(np.diag([2.0, 2.2, 2.4, 1]) + np.array([[0, 0, 0, -20]] * 3 + [[0] * 4]))
    truth = nib.affines.from_matvec(Rotation.from_rotvec([0.03, -0.04, 0.05]).as_matrix(), [2.0, -1.5, 1.0])
    grid = nib.affines.from_matvec(TURN * [-1.6, 1.7, 1.8], [0.0, 0, 0])
    middle = apply_affine(truth @ fixed.affine, (np.array(SHAPE) - 1) / 2)
    shape = (50, 48, 46)
    grid[:3, 3] += middle - apply_affine(grid, (np.array(shape) - 1) / 2)
    points = apply_affine(grid, np.indices(shape).reshape(3, -1).T)
    values = sample(fixed, apply_affine(np.linalg.inv(truth), points)).reshape(shape)
    moving = nib.Nifti1Image(values.astype(np.float32), grid)
    with ants_session(1, 0) as session:
        found = session.align(fixed, moving, "Rigid", QUICK, start=np.eye(4))
    brain = points_in_mask(fixed)
    error = np.linalg.norm(apply_affine(found, brain) - apply_affine(truth, brain), axis=1)
    assert error.max() < 0.5, error.max()  # 3.4 mm before


def test_a_warp_as_fields_agrees_with_ants_own_resampling(tmp_path: Any) -> None:
    fixed, moving = warped_pair()
    start = nib.affines.from_matvec(np.diag([1.02, 0.99, 1.0]), [0.5, -0.4, 0.3])
    with ants_session(1, 0) as session:
        warp = session.warp(fixed, moving, (20,), start=start)
        import ants as library

        forward, backward = warp.forward(grid_of(fixed)), warp.backward(grid_of(moving))
        forward.save(tmp_path / "forward.nii.gz")
        folder = session._folder
        stages = sorted(folder.glob("*1Warp.nii.gz"))[-1]
        affine = stages.with_name(stages.name.replace("1Warp.nii.gz", "0GenericAffine.mat"))
        inverse = stages.with_name(stages.name.replace("1Warp", "1InverseWarp"))
        chain = [str(stages), str(affine)]
        pair = session.image(fixed), session.image(moving)
        theirs = library.apply_transforms(*pair, chain).numpy()
        ours = sample(moving, forward(grid_of(fixed).points())).reshape(fixed.shape)
        once = library.apply_transforms(*pair, [str(tmp_path / "forward.nii.gz")]).numpy()
        back = library.apply_transforms(
            pair[1], pair[0], [str(affine), str(inverse)], whichtoinvert=[True, False]
        ).numpy()
        ours_back = sample(fixed, backward(grid_of(moving).points())).reshape(moving.shape)
    inner = (slice(4, -4),) * 3
    assert_allclose(ours[inner], theirs[inner], atol=2e-3)
    assert_allclose(once[inner], theirs[inner], atol=2e-3)
    assert_allclose(ours_back[inner], back[inner], atol=2e-3)
    points = grid_of(fixed).points().reshape(*fixed.shape, 3)[inner].reshape(-1, 3)
    assert np.median(np.linalg.norm(backward(forward(points)) - points, axis=1)) < 0.1  # mm
    assert np.corrcoef(ours[inner].ravel(), np.asarray(fixed.dataobj)[inner].ravel())[0, 1] > 0.97


def warped_pair() -> Any:
    """An image of 3 mm, and the same bent by up to 4 mm."""
    affine = np.diag([3.0, 3.0, 3.0, 1])
    moving = blobs(affine, (24, 26, 22))
    points = grid_of(moving).points()
    bent = points + 3 * np.sin(points @ np.array([[0.05, 0.02, 0], [0, 0.05, 0.03], [0.04, 0, 0.04]]))
    values = sample(moving, bent).reshape(moving.shape)
    return nib.Nifti1Image(values.astype(np.float32), affine), moving


def test_same_seed_same_bytes_in_this_process_and_in_a_fresh_one() -> None:
    """Also after another registration, whose random numbers must not go on into this one."""
    code = textwrap.dedent(
        """
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("test_raw_ants", sys.argv[1])
        tests = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tests)
        print(tests.fingerprint())
        """
    )
    here = fingerprint()
    with ants_session(1, 7) as session:
        align_quickly(session, "Affine")
    assert fingerprint() == here
    environment = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2", "ANTS_RANDOM_SEED": "99"}
    done = subprocess.run(
        [sys.executable, "-c", code, __file__], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == here
    assert fingerprint(seed=8) != here  # the seed is used


def align_quickly(session: Any, kind: Any) -> Any:
    fixed, moving = warped_pair()
    return session.align(fixed, moving, kind, QUICK, start=np.eye(4))


def fingerprint(seed: Any = 0) -> Any:
    from hashlib import sha256

    fixed, moving = warped_pair()
    with ants_session(1, seed) as session:
        matrix = session.align(fixed, moving, "Rigid", QUICK, start=np.eye(4))
        warp = session.warp(fixed, moving, (5,), start=matrix)
    return sha256(matrix.tobytes() + warp.warp.field.tobytes()).hexdigest()


def test_nothing_is_printed_and_nothing_is_left(capfd: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ants_session(1, 0) as session:
        align_quickly(session, "Rigid")
        assert list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), ants_session(1, 0):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_failure_says_what_ants_said(capfd: Any) -> None:
    """It ends with status 0 where the mask leaves no voxel, and gives back what it began with."""
    fixed, moving = warped_pair()
    nothing = nib.Nifti1Image(np.zeros(fixed.shape, np.uint8), fixed.affine)
    with pytest.raises(RegistrationError, match="No valid points"), ants_session(1, 0) as session:
        session.warp(fixed, moving, (2,), start=np.eye(4), mask=nothing)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_the_environment_is_as_before(monkeypatch: Any) -> None:
    monkeypatch.setenv("ANTS_RANDOM_SEED", "5")
    monkeypatch.delenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", raising=False)
    with ants_session(1, 42):
        assert os.environ["ANTS_RANDOM_SEED"] == "43"  # 0 stands for the time of day
        assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
    assert os.environ["ANTS_RANDOM_SEED"] == "5"
    assert "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS" not in os.environ


def test_refuses_another_number_of_threads_in_one_process() -> None:
    with ants_session(1, 0):
        pass
    with pytest.raises(InputError, match=r"1 threads in this process, now 2 are asked"), ants_session(2, 0):
        pass


def test_without_antspyx_says_how_to_install_it(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    monkeypatch.setattr(module, "_threads_of_process", None)
    with pytest.raises(InputError, match=r"pip install 'bjepa\[raw\]'"), ants_session(1, 0):
        pass


def test_a_linear_map_as_a_field() -> None:
    matrix = nib.affines.from_matvec(TURN * 1.05, [3.0, 4, -5])
    grid = grid_around(np.array([[0.0, 0, 0], [20, 30, 15]]), 4.0, 8.0)
    points = np.random.default_rng(0).uniform([-8, -8, -8], [28, 38, 23], size=(50, 3))
    assert_allclose(linear_displacement(matrix, grid)(points), apply_affine(matrix, points), atol=1e-4)


def test_resampling_keeps_a_linear_image_where_it_is() -> None:
    affine = nib.affines.from_matvec(TURN * [-1.0, 1.1, 0.9], [5.0, 6, 7])
    points = apply_affine(affine, np.indices((40, 44, 42)).reshape(3, -1).T)
    image = nib.Nifti1Image((points @ [1.0, -2, 0.5]).reshape(40, 44, 42).astype(np.float32), affine)
    grid = grid_around(apply_affine(affine, [[19.5, 21.5, 20.5]]), 2.0, 8.0)
    assert_allclose(
        np.asarray(resample(image, grid).dataobj).ravel(), grid.points() @ [1.0, -2, 0.5], atol=1e-2
    )


def test_widened_by_mm_not_voxels() -> None:
    mask = np.zeros((21, 9, 9), np.uint8)
    mask[10, 4, 4] = 1
    wide = np.asarray(widened(nib.Nifti1Image(mask, np.diag([1.0, 3, 4, 1])), 3.0).dataobj)
    assert wide[:, 4, 4].sum() == 7
    assert wide[10, :, 4].sum() == 3
    assert wide[10, 4, :].sum() == 1
