"""The atlas on a run's grid: judged by nilearn where the way is straight, by a known warp where it is not."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.raw.subject_atlas import (
    Points,
    RunSpace,
    pull_image,
    region_coverage,
    subject_labels,
    values_at,
)

ATLAS_SHAPE, ATLAS_AFFINE = (21, 26, 19), nib.affines.from_matvec(np.diag([-2.0, 2.0, 2.0]), (20, -25, -17))
RUN_SHAPE = (15, 17, 12)
TURN = 0.2  # radians about z: an oblique run
RUN_AFFINE = nib.affines.from_matvec(
    np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    @ np.diag([3.0, 3.2, 3.6]),
    (-18, -27, -19),
)
SHIFT = np.array([1.3, -2.1, 0.7])  # mm


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    labels = np.zeros(ATLAS_SHAPE, np.int16)
    for number, corner in enumerate([(2, 3, 2), (11, 4, 3), (3, 14, 9), (12, 15, 10)], start=1):
        x, y, z = corner
        labels[x : x + 7, y : y + 8, z : z + 6] = number
    table = pd.DataFrame({"index": range(1, 5), "name": list("abcd")})
    return Atlas("own", "as in own", "here", nib.Nifti1Image(labels, ATLAS_AFFINE), table, [])


def moved(points: Points) -> Points:
    return np.asarray(points + SHIFT)


def back(points: Points) -> Points:
    return np.asarray(points - SHIFT)


def space(affine: np.ndarray = RUN_AFFINE, shape: tuple[int, int, int] = RUN_SHAPE) -> RunSpace:
    return RunSpace(shape, affine, moved, back)


def test_labels_are_those_of_nilearn_on_a_shifted_oblique_grid(atlas: Atlas) -> None:
    from nilearn.image import resample_img

    shifted = nib.affines.from_matvec(np.eye(3), -SHIFT) @ ATLAS_AFFINE  # the template seen from the run
    expected = resample_img(
        nib.Nifti1Image(atlas.labels, shifted),
        target_affine=RUN_AFFINE,
        target_shape=RUN_SHAPE,
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    ours = subject_labels(atlas, space())
    theirs = np.asarray(expected.dataobj).astype(np.int16)
    assert (ours > 0).sum() > 300
    assert (ours != theirs).mean() < 0.002  # ties at half a voxel


def test_labels_do_not_depend_on_how_many_points_are_mapped_at_once(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = subject_labels(atlas, space())
    monkeypatch.setattr("bjepa.preproc.raw.subject_atlas._SLAB", 101)
    assert_array_equal(subject_labels(atlas, space()), whole)


def test_a_region_cut_by_the_field_of_view_is_covered_in_part(atlas: Atlas) -> None:
    everything = region_coverage(atlas, space(), np.ones(RUN_SHAPE, bool))
    assert_allclose(everything, 1)
    valid = np.ones(RUN_SHAPE, bool)
    valid[:, :, 6:] = False
    places = apply_affine(
        np.linalg.inv(RUN_AFFINE), back(apply_affine(ATLAS_AFFINE, np.argwhere(atlas.labels)))
    )
    region = atlas.labels[atlas.labels > 0]
    expected = [(np.rint(places[region == k, 2]) < 6).mean() for k in range(1, 5)]
    assert 0 == min(expected) < sorted(expected)[1] < max(expected) == 1
    assert_allclose(region_coverage(atlas, space(), valid), expected)


def test_a_region_outside_the_grid_is_not_covered(atlas: Atlas) -> None:
    far = nib.affines.from_matvec(RUN_AFFINE[:3, :3], (500, 0, 0))
    assert_array_equal(region_coverage(atlas, space(far), np.ones(RUN_SHAPE, bool)), 0)
    assert not subject_labels(atlas, space(far)).any()


def test_values_at_voxel_centres_are_the_volume(atlas: Atlas) -> None:
    voxels = np.argwhere(np.ones(ATLAS_SHAPE))
    values = values_at(atlas.labels, ATLAS_AFFINE, apply_affine(ATLAS_AFFINE, voxels))
    assert_array_equal(values.reshape(ATLAS_SHAPE), atlas.labels)


def test_an_image_that_is_linear_in_space_is_pulled_exactly() -> None:
    slope = np.array([0.5, -1.5, 2.0])
    data = (apply_affine(RUN_AFFINE, np.argwhere(np.ones(RUN_SHAPE))) @ slope).reshape(RUN_SHAPE)
    target, shape = nib.affines.from_matvec(np.diag([2.0, 1.5, 2.5]), (-5, -6, -4)), (5, 7, 3)
    pulled = pull_image(data.astype(np.float32), RUN_AFFINE, shape, target, back)
    places = back(apply_affine(target, np.argwhere(np.ones(shape))))
    assert_allclose(pulled.ravel(), places @ slope, rtol=1e-5, atol=1e-4)
