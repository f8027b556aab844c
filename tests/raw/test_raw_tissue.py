"""preproc/raw/tissue.py: planted ventricles, erosion checked by brute force, and nilearn's template."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.tissue import LEAST_VOXELS, TissueMasks, tissue_masks, ventricles

# a template on a lopsided, flipped grid: x from right to left, three voxel sizes
Head = tuple[nib.Nifti1Image, nib.Nifti1Image, NDArray[np.bool_]]  # grey, white, lateral ventricles
SHAPE = (61, 88, 66)
AFFINE = np.array([[-3.0, 0, 0, 90], [0, 2.5, 0, -125], [0, 0, 2.8, -80], [0, 0, 0, 1]])


def _points(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)))


def _inside(points: NDArray[np.float64], centre: list[float], radii: list[float]) -> NDArray[np.bool_]:
    return np.asarray((((points - centre) / radii) ** 2).sum(axis=-1) < 1)


def _head() -> Head:
    """Maps of a head: a grey shell, white inside, fluid in places; and where the ventricles are."""
    at = _points(SHAPE, AFFINE)
    brain = _inside(at, [0, -15, 10], [70, 88, 65])
    white = _inside(at, [0, -15, 10], [62, 80, 57])
    lateral = _inside(at, [-18, -20, 20], [9, 30, 11]) | _inside(at, [18, -20, 20], [9, 30, 11])
    third = _inside(at, [0, -15, 0], [3, 12, 10])  # at the midline
    small = _inside(at, [-40, -20, 5], [6, 6, 6])  # deep, smaller than the ventricle of its side
    fissure = _inside(at, [58, -10, 10], [10, 10, 10]) & brain  # near the surface
    fluid = lateral | third | small | fissure
    grey_map = np.where(brain & ~white & ~fluid, 0.97, 0).astype(np.float32)
    white_map = np.where(white & ~fluid, 0.96, 0).astype(np.float32)
    return nib.Nifti1Image(grey_map, AFFINE), nib.Nifti1Image(white_map, AFFINE), lateral


@pytest.fixture(scope="module")
def head() -> Head:
    return _head()


def test_ventricles_are_the_lateral_ones(
    head: Head,
) -> None:
    grey, white, lateral = head
    found = ventricles(grey.get_fdata(dtype=np.float32) + white.get_fdata(dtype=np.float32), AFFINE)
    assert found.sum() > 1000 and (found == lateral).mean() > 0.9999
    assert not (found & ~lateral).any()


def test_maps_without_ventricles_are_refused(
    head: Head,
) -> None:
    tissue = head[0].get_fdata() + head[1].get_fdata()
    tissue[_inside(_points(SHAPE, AFFINE), [0, -15, 10], [60, 80, 57])] = 0.96
    with pytest.raises(InputError, match="no lateral ventricles"):
        ventricles(tissue.astype(np.float32), AFFINE)


def _rotation(seed: int) -> NDArray[np.float64]:
    turn, _ = np.linalg.qr(np.eye(3) + 0.2 * np.random.default_rng(seed).normal(size=(3, 3)))
    return np.asarray(turn * np.sign(np.diag(turn)))


def _masks(size: float, head: Head) -> tuple[TissueMasks, NDArray[np.float64], NDArray[np.bool_]]:
    """Masks of an oblique run with anisotropic voxels, whose head lies elsewhere than the template's."""
    grey, white, _ = head
    voxel = np.array([size, 0.9 * size, 1.2 * size])
    shape = tuple(int(n) for n in np.array([170, 200, 160]) / voxel)
    to_template = from_matvec(_rotation(1), [4.0, -11.0, 6.0])
    centre = apply_affine(np.linalg.inv(to_template), [0, -15, 10])
    linear = _rotation(2) * voxel
    affine = from_matvec(linear, centre - linear @ (np.array(shape) - 1) / 2)
    chain = to_template @ affine
    brain = _inside(_points(shape, chain), [0, -15, 10], [69, 87, 64])
    brain[: shape[0] // 3] = False  # the run's own mask lacks a part
    found = tissue_masks(grey, white, lambda points: apply_affine(to_template, points), shape, affine, brain)
    return found, chain, brain


@pytest.mark.parametrize("size", [2.4, 3.2])
def test_every_voxel_has_tissue_all_around(size: float, head: Head) -> None:
    """Brute force: the tissue looked up voxel by voxel in the template through one matrix."""
    found, chain, brain = _masks(size, head)
    assert found.reach == {"wm": 1.0, "csf": 0.5} and found.notes == ()
    assert (found.brain == brain).all()
    assert not (found.wm & found.csf).any() and not ((found.wm | found.csf) & ~brain).any()
    to_voxel = np.linalg.inv(AFFINE) @ chain
    for mask, tissue, reach in (
        (found.wm, np.asarray(head[1].dataobj) > 0.9, 1.0),
        (found.csf, head[2], 0.5),
    ):
        expected = brain.copy()
        steps = [np.zeros(3), *(sign * reach * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1))]
        for voxel in np.argwhere(brain):
            places = np.rint(apply_affine(to_voxel, voxel + np.array(steps))).astype(int)
            expected[tuple(voxel)] = all(tissue[tuple(place)] for place in places)
        assert expected.sum() >= LEAST_VOXELS
        assert (mask == expected).all()


def test_few_voxels_are_told(head: Head) -> None:
    found, *_ = _masks(7.5, head)
    assert found.reach["csf"] < 0.5 and found.csf.any()
    (note,) = found.notes
    assert f"ventricles has {found.csf.sum()} voxels" in note and "instead of 0.5" in note


def test_a_run_that_misses_the_ventricles_is_refused(
    head: Head,
) -> None:
    grey, white, _ = head
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-30, -60, 40]  # a slab above them
    with pytest.raises(InputError, match="No voxel of the ventricles"):
        tissue_masks(grey, white, lambda p: p, (20, 20, 6), affine, np.ones((20, 20, 6), bool))


def test_points_beyond_the_template_are_no_tissue(
    head: Head,
) -> None:
    """A template that is cropped through the white matter: nothing wraps around."""
    grey, white, _ = head
    cropped = [nib.Nifti1Image(np.asarray(i.dataobj)[:, :60], AFFINE) for i in (grey, white)]
    shape, affine = (60, 85, 60), np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-90, -170, -80]
    found = tissue_masks(cropped[0], cropped[1], lambda p: p, shape, affine, np.ones(shape, bool))
    y = _points(shape, affine)[found.wm][:, 1]
    assert found.wm.any() and y.max() < -125 + 60 * 2.5 and y.min() > -95


def test_nilearns_template_has_its_ventricles() -> None:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    grey, white = load_mni152_gm_template(resolution=1), load_mni152_wm_template(resolution=1)
    tissue = grey.get_fdata(dtype=np.float32) + white.get_fdata(dtype=np.float32)
    found = ventricles(tissue, white.affine)
    at = apply_affine(white.affine, np.argwhere(found))
    assert 5000 < len(at) < 10000  # mm3: 5 to 10 ml, adult
    assert (np.abs(at[:, 0]) >= 4).all() and np.abs(at[:, 0]).max() < 40
    assert -65 < at[:, 1].min() and at[:, 1].max() < 40 and -10 < at[:, 2].min() and at[:, 2].max() < 35
    # places known from atlases of MNI space: the frontal horn and the trigone of both sides; not the Sylvian
    # fissure, the cistern behind the midbrain, the fourth ventricle, the fluid around the brain
    inverse = np.linalg.inv(white.affine)

    def seen(place: tuple[float, ...]) -> bool:
        return bool(found[tuple(np.rint(apply_affine(inverse, place)).astype(int))])

    for side, place in itertools.product((-1, 1), [(6, 5, 13), (23, -40, 15)]):
        assert seen((side * place[0], *place[1:]))
    for place in [(42, 0, 0), (0, -40, -2), (0, -45, -32), (0, -20, 75), (62, -20, 20)]:
        assert not seen(place)
