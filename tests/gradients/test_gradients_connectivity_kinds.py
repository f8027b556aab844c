"""gradients/connectivity: each kind against nilearn and scikit-learn, missing regions, laws, refusals."""

import logging

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure, prec_to_partial
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from bjepa.gradients import functional_connectivity
from bjepa.gradients.connectivity import geometric_mean
from bjepa.gradients.connectivity.covariance import ledoit_wolf, ledoit_wolf_shrinkage
from bjepa.gradients.connectivity.kinds import KINDS, Kind, Measure
from bjepa.gradients.connectivity.measure import fit_measure, mean_connectivity
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.connectivity.tangent import TangentSpace
from bjepa.gradients.scans import ArrayScans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
N_ROIS = 7
LENGTHS = (40, 90, 25, 61)
NILEARN: dict[Kind, str] = {"ledoit-wolf": "correlation", "partial": "partial correlation"}


def cohort() -> list[Array]:
    """Series that share a mixing, each with some of its own; units differ from region to region."""
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(N_ROIS, N_ROIS))
    units = 10.0 ** np.arange(-2, N_ROIS - 2)
    return [
        1e3 + rng.normal(size=(n, N_ROIS)) @ (mixing + 0.5 * rng.normal(size=(N_ROIS, N_ROIS))) * units
        for n in LENGTHS
    ]


def standardised(series: Array) -> Array:
    z: Array = (series - series.mean(axis=0)) / series.std(axis=0)
    return z


def fisher(r: Array) -> Array:
    z = np.arctanh(r - np.diag(np.diag(r)))
    return z


@pytest.mark.parametrize("kind", NILEARN)
def test_shrunk_correlations_are_nilearns(kind: Kind) -> None:
    scans = [standardised(series) for series in cohort()]
    theirs = ConnectivityMeasure(LedoitWolf(), kind=NILEARN[kind], standardize=False).fit_transform(scans)
    fc = functional_connectivity(cohort(), kind=kind)
    assert_allclose(fc, np.mean([fisher(r) for r in theirs], axis=0), atol=1e-10)
    one = Measure(kind).of_scan(cohort()[:1], where="")
    assert_allclose(one, fisher(theirs[0]), atol=1e-10)
    assert (np.diag(fc) == 0).all() and (fc == fc.T).all()


@pytest.mark.parametrize(
    "n_frames, mixing", [(3, np.tri(9)), (12, np.tri(9)), (400, np.tri(9)), (60, np.eye(9))]
)
def test_shrinkage_is_scikit_learns(n_frames: int, mixing: Array) -> None:
    """Without mixing it is 1: nothing is left of the correlations."""
    series = np.random.default_rng(n_frames).normal(size=(n_frames, 9)) @ mixing
    theirs = LedoitWolf().fit(standardised(series))
    unit, _ = unit_series(series)
    assert_allclose(ledoit_wolf(unit), theirs.covariance_, atol=1e-12)
    assert 0 < theirs.shrinkage_ < 1 or (theirs.shrinkage_ == 1 and n_frames == 60)
    assert_allclose(ledoit_wolf_shrinkage(unit, 9), theirs.shrinkage_, atol=1e-12)


def test_geometric_mean_and_maps_are_nilearns() -> None:
    scans = [standardised(series) for series in cohort()]
    theirs = ConnectivityMeasure(kind="tangent", standardize=False)
    maps = theirs.fit_transform(scans)
    measure = fit_measure("tangent", ArrayScans(cohort()))
    assert measure.reference is not None
    assert_allclose(measure.reference, theirs.mean_, atol=1e-9)
    assert_allclose(measure.of_scan(cohort()[2:3], where=""), maps[2], atol=1e-8)


def test_the_geometric_mean_of_matrices_that_commute_is_that_of_their_eigenvalues() -> None:
    space = TangentSpace(np.diag([1.0, 4.0, 0.25]))
    assert_allclose(space.log(np.diag([np.e, 4.0, 1.0]), where=""), np.diag([1, 0, np.log(4)]), atol=1e-14)
    tangent = np.array([[0.3, -0.2, 0.1], [-0.2, 0.5, 0.4], [0.1, 0.4, -0.6]])
    assert_allclose(space.log(space.exp(tangent), where=""), tangent, atol=1e-14)  # there and back


def test_tangent_maps_of_the_group_average_to_nothing_and_give_its_connectivity() -> None:
    scans = ArrayScans(cohort())
    measure = fit_measure("tangent", scans)
    mean = mean_connectivity(scans, measure)
    assert np.abs(mean).max() < 1e-5 < np.abs(measure.of_scan(cohort()[:1], where="")).max()
    reference = np.asarray(measure.reference)
    scale = np.sqrt(np.diag(reference))
    group = measure.group(mean)
    assert_allclose(group, fisher(reference / np.outer(scale, scale)), atol=1e-5)
    assert_allclose(functional_connectivity(cohort(), kind="tangent"), group, atol=1e-12)
    alone = measure.group(measure.of_scan(cohort()[:1], where=""))  # one scan's own covariance comes back
    assert_allclose(alone, Measure("ledoit-wolf").of_scan(cohort()[:1], where=""), atol=1e-9)


def test_missing_regions_take_no_part_in_the_others_shrinkage() -> None:
    gone = cohort()[0]
    gone[:, 2], gone[:, 5] = np.nan, 812.0
    left = [0, 1, 3, 4, 6]
    covariance = LedoitWolf().fit(standardised(cohort()[0][:, left])).covariance_
    for kind, r in {"ledoit-wolf": covariance, "partial": prec_to_partial(np.linalg.inv(covariance))}.items():
        z = Measure(kind).of_scan([gone], where="")  # type: ignore[arg-type]
        assert_allclose(z[np.ix_(left, left)], fisher(r), atol=1e-10)
        assert np.isnan(z[[2, 5]]).all() and np.isnan(z[:, [2, 5]]).all()
    fc = functional_connectivity([gone, *cohort()[1:]], kind="ledoit-wolf")
    maps = [Measure("ledoit-wolf").of_scan([s], where="") for s in [gone, *cohort()[1:]]]
    assert_allclose(fc, np.nanmean(maps, axis=0), atol=1e-12)


def test_tangent_leaves_out_scans_with_missing_regions_and_names_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scans = cohort()
    scans[1][:, 4] = np.nan
    rest = [scans[0], *scans[2:]]
    with caplog.at_level(logging.WARNING):
        fc = functional_connectivity(scans, kind="tangent")
    assert "1 of 4 scans miss a region and are left out of tangent connectivity: scan 2." in caplog.text
    assert_allclose(fc, functional_connectivity(rest, kind="tangent"), atol=1e-12)
    measure = fit_measure("tangent", ArrayScans(rest))
    assert np.isnan(measure.of_scan([scans[1]], where="")).all()
    with pytest.raises(InputError, match="each of 1 scans misses a region"):
        functional_connectivity(scans[1:2], kind="tangent")
    with pytest.raises(InputError, match="each of 1 scans of group 1 misses a region"):
        mean_connectivity(ArrayScans(scans), measure, groups=[1, 0, 1, 1])


def test_a_mean_that_is_not_found_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_measure("tangent", ArrayScans(cohort()))
    assert not caplog.records
    monkeypatch.setattr(geometric_mean, "MAX_PASSES", 1)
    fit_measure("tangent", ArrayScans(cohort()))
    assert "geometric mean of 4 covariances has not converged in 1 passes" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_law_units_and_levels_do_not_matter(kind: Kind) -> None:
    scans = cohort()
    moved = [series * np.arange(1, N_ROIS + 1) - 7e2 * np.arange(N_ROIS) for series in scans]
    there, here = (functional_connectivity(given, kind=kind) for given in (moved, scans))
    assert_allclose(there, here, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_law_regions_and_scans_in_another_order(kind: Kind) -> None:
    order = [4, 0, 6, 1, 5, 2, 3]
    scans = cohort()
    fc = functional_connectivity(scans, kind=kind)
    turned = functional_connectivity([series[:, order] for series in scans[::-1]], kind=kind)
    assert_allclose(turned, fc[np.ix_(order, order)], atol=1e-9)


def test_refuses() -> None:
    with pytest.raises(InputError, match="must be one of pearson, ledoit-wolf, partial, tangent; got 'cov'"):
        functional_connectivity(cohort(), kind="cov")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="see fit_measure"):
        Measure("tangent")
    with pytest.raises(InputError, match="no scan"):
        functional_connectivity([], kind="tangent")
    with pytest.raises(InputError, match="scan 2 has 6 regions, the scans before it 7"):
        functional_connectivity([cohort()[0], cohort()[1][:, :6]], kind="tangent")
    space = TangentSpace(np.eye(2))
    with pytest.raises(InputError, match="scan 9 has a singular covariance"):
        space.log(np.diag([1.0, -1e-17]), where="scan 9")
