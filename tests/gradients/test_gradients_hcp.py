"""gradients/alignment/hcp.py: the published maps are found, parcels are matched, other regions refused."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.gradients.alignment import align, correlations, hcp_reference, principal_cosines
from bjepa.gradients.alignment.hcp import HCP_SIZES, hcp_connectivity, published_maps
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions, unnamed_regions
from bjepa.preproc.atlas.published import schaefer_names, schaefer_table
from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.demo.atlas import demo_table
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
OPTIONS = GradientOptions()


@functools.cache
def own_gradients(n_parcels: int) -> Array:
    own = embed_connectivity(hcp_connectivity(n_parcels), OPTIONS)[1].gradients
    own.flags.writeable = False
    return own


@pytest.mark.parametrize("n_parcels, first_three, first_ten", [(100, 0.93, 0.96), (400, 0.95, 0.975)])
def test_the_published_plane_lies_in_our_first_components(
    n_parcels: int, first_three: float, first_ten: float
) -> None:
    own, maps = own_gradients(n_parcels), published_maps(n_parcels)
    own = own - own.mean(axis=0)
    cosines = principal_cosines(maps, own[:, :3])
    assert cosines[0] >= 0.975 and cosines[1] >= first_three
    cosines = principal_cosines(maps, own[:, :10])
    assert cosines[0] >= 0.985 - (0.001 if n_parcels == 100 else 0) and cosines[1] >= first_ten


def test_with_the_diagonal_as_published_too() -> None:
    r = np.tanh(hcp_connectivity(400))
    np.fill_diagonal(r, 1.0)
    own = embed_connectivity(r, OPTIONS)[1].gradients
    own = own - own.mean(axis=0)
    assert (principal_cosines(published_maps(400), own[:, :3]) >= [0.98, 0.95]).all()
    assert (principal_cosines(published_maps(400), own[:, :10]) >= [0.985, 0.975]).all()


@pytest.mark.parametrize("n_parcels", HCP_SIZES)
def test_the_reference_has_the_published_meaning(n_parcels: int) -> None:
    table = schaefer_table("7networks", n_parcels)
    found = hcp_reference(Regions(table=table), OPTIONS)
    maps = published_maps(n_parcels)
    assert (np.diag(correlations(found.values[:, :2], maps)) > [0.97, 0.93]).all()
    network = table["network7"].to_numpy()
    means = {name: found.values[network == name, :2].mean(axis=0) for name in ("Default", "SomMot", "Vis")}
    assert means["Default"][0] > 0 > max(means["SomMot"][0], means["Vis"][0])
    assert means["Vis"][1] > 0 > means["SomMot"][1]
    own = own_gradients(n_parcels)
    assert_allclose(found.values @ found.values.T, own @ own.T, atol=1e-12)  # turned, no more
    assert_allclose(found.values[:, 10:], own[:, 10:], atol=1e-10)
    assert found.fc is not None
    assert_array_equal(found.fc, hcp_connectivity(n_parcels))


def test_maps_are_means_of_parcels_and_connectivity_is_as_of_scans() -> None:
    datasets = brainspace_datasets()
    label = np.loadtxt(datasets / "parcellations/schaefer_200_conte69.csv")
    for number in (0, 1):
        vertices = np.loadtxt(datasets / f"matrices/main_group/conte69_32k_fc_gradient{number}.csv")
        means = np.array([np.nanmean(vertices[label == parcel]) for parcel in range(1, 201)])
        assert_allclose(published_maps(200)[:, number], means - means.mean(), atol=1e-12)
    r = np.loadtxt(datasets / "matrices/main_group/schaefer_200_mean_connectivity_matrix.csv", delimiter=",")
    off = ~np.eye(200, dtype=bool)
    assert_allclose(np.tanh(hcp_connectivity(200))[off], r[off], atol=1e-12)
    assert (np.diag(hcp_connectivity(200)) == 0).all()


@pytest.mark.parametrize(
    "naming", ["7networks older than 0.14.3", "17networks", "17networks older than 0.14.3"]
)
def test_law_the_naming_and_order_of_parcels_does_not_matter(naming: str) -> None:
    plain = hcp_reference(Regions(table=schaefer_table("7networks", 100)), OPTIONS)
    label = schaefer_table("17networks", 100)["label_7networks"].to_numpy() - 1
    names = schaefer_names("17networks", 100)[naming]
    order = np.random.default_rng(1).permutation(100)
    shuffled = schaefer_table("17networks", 100).assign(name=names).iloc[order].reset_index(drop=True)
    found = hcp_reference(Regions(table=shuffled), OPTIONS)
    assert_allclose(found.values, plain.values[label[order]], atol=1e-10)
    assert found.fc is not None and plain.fc is not None
    assert_array_equal(found.fc, plain.fc[np.ix_(label[order], label[order])])


def test_450_regions_are_matched_where_they_lie() -> None:
    """Content, not names: the parcel of the surface whose centre is nearest to that of the region."""
    import nibabel as nib

    found = hcp_reference(Regions(table=demo_table()), OPTIONS)
    assert_array_equal(np.flatnonzero(~found.rows), np.arange(50))
    assert found.fc is not None
    assert np.isnan(found.fc[:50]).all() and np.isnan(found.fc[:, :50]).all()
    datasets = brainspace_datasets()
    surfaces = [nib.load(datasets / f"surfaces/conte69_32k_{side}h.gii") for side in "lr"]
    vertices = np.vstack([surface.darrays[0].data for surface in surfaces])
    label = np.loadtxt(datasets / "parcellations/schaefer_400_conte69.csv")
    centres = np.array([vertices[label == parcel].mean(axis=0) for parcel in range(1, 401)])
    places = demo_table()[["x", "y", "z"]].to_numpy(dtype=np.float64)[50:]
    distance = np.linalg.norm(places[:, None] - centres, axis=2)
    from scipy.optimize import linear_sum_assignment

    nearest = linear_sum_assignment(distance)[1]
    assert distance[np.arange(400), nearest].max() < 10
    r = correlations(found.values[50:, :2], published_maps(400)[nearest])
    assert r[0, 0] > 0.98 and r[1, 1] > 0.96


def test_only_cortex_decides_and_hcp_itself_comes_out_as_the_reference() -> None:
    regions = Regions(table=demo_table())
    reference = hcp_reference(regions, OPTIONS)
    own = own_gradients(400)
    label = schaefer_table("17networks", 400)["label_7networks"].to_numpy() - 1
    values = np.vstack([np.random.default_rng(0).normal(size=(50, 30)), own[label]])
    found = align(values, reference)
    assert_allclose(found.gradients[50:], reference.values[50:], atol=1e-10)
    assert_allclose(found.r, 1, atol=1e-10)
    assert_array_equal(found.rows, np.arange(450) >= 50)
    assert found.rotation is not None
    assert_allclose(found.gradients[:50], values[:50] @ found.rotation)
    assert found.r_before[0] == pytest.approx(abs(np.corrcoef(own[label, 0], reference.values[50:, 0])[0, 1]))
    assert 0.1 < found.r_null.min() < found.r_null.max() < 0.3
    assert found.n_components == 30


def test_few_components() -> None:
    regions = Regions(table=schaefer_table("7networks", 100))
    one = hcp_reference(regions, GradientOptions(n_components=1))
    assert one.values.shape == (100, 1)
    assert correlations(one.values, published_maps(100))[0, 0] > 0.7
    many = GradientOptions(n_components=120, sparsity=0.5)
    assert hcp_reference(regions, many).values.shape == (100, 99)


def test_other_regions_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="400 regions: none of these") as caught:
        hcp_reference(unnamed_regions(400), OPTIONS)
    assert "--align-to FILE" in caught.value.hint
    with pytest.raises(InputError, match="none of these"):
        hcp_reference(Regions(table=schaefer_table("7networks", 400).iloc[:-1]), OPTIONS)
    with pytest.raises(InputError, match="500 regions: schaefer-500"):
        hcp_reference(Regions(table=schaefer_table("17networks", 500)), OPTIONS)
    with pytest.raises(InputError, match="of the HCP connectivity: sparsity"):
        hcp_reference(Regions(table=schaefer_table("17networks", 100)), GradientOptions(sparsity=0.999))
    hcp_reference(Regions(table=schaefer_table("7networks", 400)), OPTIONS)
    assert caplog.text == ""  # ties of the published digits are not the user's
