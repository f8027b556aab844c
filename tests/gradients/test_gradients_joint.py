"""gradients/alignment/joint.py: BrainSpace's joint alignment, laws, missing regions, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import (
    Reference,
    align_jointly,
    correlations,
    hcp_reference,
    joint_embedding,
    principal_cosines,
)
from bjepa.gradients.alignment.hcp import hcp_connectivity
from bjepa.gradients.embedding import diffusion_map
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
OPTIONS = GradientOptions(n_components=5)


def connectivity(seed: int, n_rois: int = 31, noise: float = 0.4) -> Array:
    """z of regions along a bent line; noise differs between seeds."""
    place = np.linspace(0, 1, n_rois)
    rng = np.random.default_rng(seed)
    profile = np.stack([np.cos(np.pi * k * place + k) / k for k in range(1, 8)])  # (7, R)
    series = rng.normal(size=(200, 7)) @ profile + noise * rng.normal(size=(200, n_rois))
    r = np.corrcoef(series.T)
    z: Array = np.arctanh(r - np.eye(n_rois))
    np.fill_diagonal(z, 0)
    return z


def hcp_pair() -> tuple[Array, Array]:
    folder = brainspace_datasets() / "matrices"
    main, hold_out = (
        np.loadtxt(folder / group / "schaefer_100_mean_connectivity_matrix.csv", delimiter=",")
        for group in ("main_group", "holdout_group")
    )
    return main, hold_out


def test_equals_brainspace_up_to_its_solver() -> None:
    from brainspace.gradient import GradientMaps

    fcs = hcp_pair()
    ours = joint_embedding(fcs, GradientOptions(n_components=10))
    theirs = GradientMaps(
        n_components=10, approach="dm", kernel="normalized_angle", alignment="joint", random_state=0
    )
    theirs.fit([fc.copy() for fc in fcs], sparsity=0.9)
    assert (
        principal_cosines(np.vstack([part.gradients for part in ours]), np.vstack(theirs.aligned_)).min()
        > 0.999
    )
    for part, other in zip(ours, theirs.aligned_, strict=True):
        assert part.gradients.shape == (100, 10)
        assert principal_cosines(part.gradients, other).min() > 0.999
        assert_allclose(
            np.linalg.norm(part.gradients, axis=0)[2:], np.linalg.norm(other, axis=0)[2:], rtol=0.1
        )


def test_is_the_diffusion_map_of_the_stack() -> None:
    fcs = [connectivity(seed) for seed in (1, 2, 3)]
    parts = joint_embedding(fcs, OPTIONS)
    stacked = diffusion_map(compute_affinity(np.vstack(fcs)), n_components=5)
    assert_allclose(np.vstack([part.gradients for part in parts]), stacked.gradients, atol=1e-12)
    for part in parts:
        assert_allclose(part.eigenvalues, stacked.eigenvalues)
        assert part.kept.shape == (31,) and part.kept.all()


def test_law_equal_matrices_have_equal_parts_and_their_own_gradients() -> None:
    fc = connectivity(1)
    first, second = joint_embedding([fc, fc], OPTIONS)
    assert_allclose(first.gradients, second.gradients, atol=1e-10)
    own = embed_connectivity(fc, OPTIONS)[1].gradients
    assert_allclose(np.abs(np.diag(correlations(first.gradients, own))), 1, atol=1e-9)


def test_law_order_of_matrices_and_regions() -> None:
    fcs = [connectivity(seed) for seed in (1, 2, 3)]
    parts = joint_embedding(fcs, OPTIONS)
    again = joint_embedding(fcs[::-1], OPTIONS)[::-1]
    order = np.random.default_rng(0).permutation(31)
    moved = joint_embedding([fc[np.ix_(order, order)] for fc in fcs], OPTIONS)
    for part, reversed_part, moved_part in zip(parts, again, moved, strict=True):
        assert_allclose(reversed_part.gradients, part.gradients, atol=1e-9)
        assert_allclose(moved_part.gradients, part.gradients[order], atol=1e-9)


def test_regions_that_one_lacks_have_rows_only_where_they_are() -> None:
    whole, cortex = connectivity(1), connectivity(2)
    cortex[:4], cortex[:, :4] = np.nan, np.nan
    ours, theirs = joint_embedding([whole, cortex], OPTIONS)
    assert np.isfinite(ours.gradients).all() and np.isnan(theirs.gradients[:4]).all()
    assert_array_equal(theirs.kept, np.arange(31) >= 4)
    stacked = compute_affinity(np.vstack([whole[:, 4:], cortex[4:, 4:]]))
    expected = diffusion_map(stacked, n_components=5).gradients
    assert_allclose(ours.gradients, expected[:31], atol=1e-12)
    assert_allclose(theirs.gradients[4:], expected[31:], atol=1e-12)
    columns = np.arange(31) % 3 > 0
    by_columns = joint_embedding([whole, whole.T], OPTIONS, columns=columns)[1]
    profiles = np.vstack([whole[:, columns]] * 2)
    assert_allclose(
        by_columns.gradients,
        diffusion_map(compute_affinity(profiles), n_components=5).gradients[31:],
        atol=1e-9,
    )


def test_alignment_to_another_study(caplog: pytest.LogCaptureFixture) -> None:
    fc, other = connectivity(1), connectivity(2)
    np.fill_diagonal(other, 1.0)  # a convention, not data
    values = embed_connectivity(connectivity(2), OPTIONS)[1].gradients * [-1, 1, -1, 1, 1]
    reference = Reference(name="gradients.h5", values=values, fc=other)
    made, ours = align_jointly(fc, reference, OPTIONS)
    parts = joint_embedding([fc, connectivity(2)], OPTIONS)
    assert_allclose(np.abs(ours.gradients), np.abs(parts[0].gradients), atol=1e-10)
    assert_array_equal(made.gradients, ours.gradients)
    assert_allclose(np.abs(made.reference_values), np.abs(parts[1].gradients), atol=1e-10)
    assert_allclose(made.r, np.diag(correlations(parts[0].gradients, parts[1].gradients)), atol=1e-10)
    assert (np.diag(correlations(made.reference_values, values))[:3] > 0.7).all()  # signs of the reference
    own = embed_connectivity(fc, OPTIONS)[1].gradients
    assert_allclose(made.r_before, np.abs(np.diag(correlations(own, values))), atol=1e-10)
    assert made.method == "joint" and made.rotation is None and made.rows.all()
    assert (made.r[:3] > made.r_null[:3]).all() and caplog.text == ""
    same = align_jointly(fc, reference, OPTIONS)[0]
    assert_allclose(same.r_null, made.r_null, atol=1e-10)
    assert (other.diagonal() == 1).all()


def test_unrelated_regions_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    order = np.random.default_rng(0).permutation(31)
    other = connectivity(2)[np.ix_(order, order)]
    values = embed_connectivity(other, OPTIONS)[1].gradients
    align_jointly(connectivity(1), Reference(name="theirs.h5", values=values, fc=other), OPTIONS)
    assert "theirs.h5: after alignment" in caplog.text


def test_components_that_tell_the_matrices_apart_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    fc = connectivity(1)
    halves = np.zeros((31, 31))
    halves[:, :6] = 5.0  # every region of the second is alike, and like none of the first
    joint_embedding([fc, (halves + halves.T) + 0.01 * connectivity(2)], OPTIONS)
    assert "tell the matrices apart" in caplog.text


def test_hcp_main_and_hold_out_agree_one_by_one() -> None:
    regions = Regions(table=schaefer_table("7networks", 100))
    options = GradientOptions(n_components=8)
    reference = hcp_reference(regions, options)
    hold_out = hcp_pair()[1]
    np.fill_diagonal(hold_out, 0)
    made, ours = align_jointly(np.arctanh(hold_out), reference, options)
    assert made.r.min() > 0.97 and made.r_null.max() < 0.6
    assert ours.gradients.shape == (100, 8)
    assert reference.fc is not None
    assert_allclose(reference.fc, hcp_connectivity(100))


def test_refuses() -> None:
    fc = connectivity(1)
    with pytest.raises(InputError, match="two or more square"):
        joint_embedding([fc], OPTIONS)
    with pytest.raises(InputError, match="two or more square"):
        joint_embedding([fc, fc[:-1, :-1]], OPTIONS)
    with pytest.raises(InputError, match=r"10013 x 10013 values \(0.8 GB") as caught:
        joint_embedding([fc] * 323, OPTIONS)
    assert "procrustes" in caught.value.hint
    holed = fc.copy()
    holed[3, 5] = np.nan
    with pytest.raises(InputError, match="matrix 2 lacks values"):
        joint_embedding([fc, holed], OPTIONS)
    bare = Reference(name="gradients.csv", values=np.zeros((31, 3)))
    with pytest.raises(InputError, match="csv has gradients only") as caught:
        align_jointly(fc, bare, OPTIONS)
    assert "gradients.h5" in caught.value.hint
