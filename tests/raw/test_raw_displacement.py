"""raw/displacement.py: a field moves points as scipy and ANTs say, and survives its file."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose
from scipy.interpolate import RegularGridInterpolator

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.displacement import Displacement, load_displacement

SHAPE = (7, 6, 9)
AFFINE = np.array([[0.4, -2.9, 0.3, 11], [2.4, 0.5, 0.2, -20], [-0.1, 0.2, 4, 7], [0, 0, 0, 1]])


@pytest.fixture
def field() -> Any:
    values = np.random.default_rng(3).normal(scale=4, size=(*SHAPE, 3)).astype(np.float32)
    values.flags.writeable = False
    return Displacement(values, AFFINE)


@pytest.fixture
def points() -> Any:
    """200 places within the grid, in mm."""
    voxels = np.random.default_rng(4).uniform(0, np.array(SHAPE) - 1, size=(200, 3))
    return apply_affine(AFFINE, voxels)


def test_agrees_with_scipys_interpolator_within_the_grid(field: Any, points: Any) -> None:
    read = RegularGridInterpolator([np.arange(n) for n in SHAPE], field.field.astype(np.float64))
    expected = points + read(apply_affine(np.linalg.inv(AFFINE), points))
    assert_allclose(field(points), expected, atol=1e-9)


def test_goes_on_beyond_the_grid_as_at_its_border(field: Any) -> None:
    corner, beyond = (apply_affine(AFFINE, [[6, 5, 8], [9, 11, 8.0]])).reshape(2, 3)
    moved = field(np.stack([corner, beyond]))
    assert_allclose(moved[1] - beyond, moved[0] - corner, atol=1e-9)
    assert_allclose(moved[0] - corner, field.field[-1, -1, -1], atol=1e-6)


def test_round_trip_through_its_file(field: Any, points: Any, tmp_path: Any) -> None:
    field.save(tmp_path / "warp_xfm.nii.gz")
    back = load_displacement(tmp_path / "warp_xfm.nii.gz")
    assert back.field.dtype == np.float32
    assert_allclose(back.field, field.field, atol=1e-6)
    assert_allclose(back(points), field(points), atol=1e-4)  # the affine is kept in single precision
    assert [path.name for path in tmp_path.iterdir()] == ["warp_xfm.nii.gz"]


@pytest.mark.parametrize("shape", [(7, 6, 9), (7, 6, 9, 3), (7, 6, 9, 1, 2)])
def test_refuses_other_images(shape: Any, tmp_path: Any) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), AFFINE), tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match=r"other\.nii\.gz must be a field of displacements"):
        load_displacement(tmp_path / "other.nii.gz")


def test_ants_resamples_the_image_that_lies_where_the_points_come_out(ants: Any, tmp_path: Any) -> None:
    """The file is ITK's: antsApplyTransforms with it reads the image at the moved points."""
    from bjepa.preproc.raw.ants import ants_session

    axes = nib.affines.from_matvec(
        _turn() * [2.0, 2.5, 3.0], [-20, 14, 5]
    )  # orthogonal, oblique, left-handed?
    shape = (15, 12, 10)
    voxels = np.indices(shape).reshape(3, -1).T
    smooth = np.stack([3 * np.sin(voxels @ [0.3, 0.1, 0.2]), voxels[:, 0] * 0.1, -0.2 * voxels[:, 2]], axis=1)
    warp = Displacement(smooth.reshape(*shape, 3).astype(np.float32), axes)
    warp.save(tmp_path / "warp.nii.gz")
    points = apply_affine(axes, voxels)
    values = (points @ [1.0, 2.0, -3.0] + 100).reshape(shape)  # linear in space: interpolation is exact
    image = nib.Nifti1Image(values.astype(np.float32), axes)
    with ants_session(1, 0) as session:
        import ants as library

        source = session.image(image)
        moved = library.apply_transforms(source, source, [str(tmp_path / "warp.nii.gz")], defaultvalue=-1)
        pulled = session.nifti(moved)
    assert_allclose(pulled.affine, axes, atol=1e-4)
    target = apply_affine(np.linalg.inv(axes), warp(points))
    inside = ((target > 0.01) & (target < np.array(shape) - 1.01)).all(axis=1)
    assert inside.sum() > 500
    expected = warp(points) @ [1.0, 2.0, -3.0] + 100
    assert_allclose(np.asarray(pulled.dataobj).ravel()[inside], expected[inside], atol=0.01)


def _turn() -> Any:
    """A rotation of 25 degrees about an oblique axis, with left and right swapped."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.deg2rad(25) * np.array([0.5, -0.7, 0.51])).as_matrix() * [-1, 1, 1]
