"""gradients/connectivity: group means by products, weights, groups, participants, workers, refusals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from bjepa.gradients import functional_connectivity
from bjepa.gradients.connectivity import parallel, products
from bjepa.gradients.connectivity.kinds import KINDS, Kind, Measure
from bjepa.gradients.connectivity.measure import fit_measure, mean_connectivity, participant_maps
from bjepa.gradients.connectivity.products import FisherSum
from bjepa.gradients.connectivity.scan_maps import fisher_z
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.connectivity.sums import Summer
from bjepa.gradients.scans import ArrayScans, Scans, TableScans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
N_ROIS = 6


class PhaseScans(ArrayScans):
    """Series in memory, several of a scan."""

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        return list(self.arrays[number])


def series(seed: int, n_frames: int, n_rois: int = N_ROIS) -> Array:
    rng = np.random.default_rng(seed)
    return 1e3 + rng.normal(size=(n_frames, n_rois)) @ (
        np.eye(n_rois) + rng.normal(size=(n_rois, n_rois)) / 3
    )


def written_out(scan: Array) -> Array:
    r = np.asarray(np.corrcoef(scan.T))
    np.fill_diagonal(r, 0)
    return np.arctanh(r)


def cohort(n_scans: int = 37) -> ArrayScans:
    """More than two pieces; participants have one, two or three scans, in no order."""
    scans = ArrayScans([series(n, 20 + 3 * (n % 7)) for n in range(n_scans)])
    scans.entities["participant_id"] = [f"p{(5 * n) % 11}" if n % 9 else "" for n in range(n_scans)]
    return scans


def test_the_sum_of_products_is_the_sum_of_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "BLOCK", 5)  # 17 regions: blocks of 4 and 5
    scans = [series(n, 30 + n, 17) for n in range(40)]
    weights = [1.0] * 20 + [1 / 3] * 3 + [1.0] * 17  # the run of equal weights is longer than MAX_FACTORS
    total = FisherSum(17)
    for _ in range(2):  # the second time in the memory of the first
        for scan, weight in zip(scans, weights, strict=True):
            total.add(np.vstack([unit_series(scan)[0], np.ones(17)]), weight)
        taken = total.take()
        expected = sum(w * written_out(s) for s, w in zip(scans, weights, strict=True))
        assert_allclose(taken, expected, atol=1e-12)
        assert (taken == taken.T).all() and (np.diag(taken) == 0).all()


@pytest.mark.parametrize("r, tolerance", [(0.9, 1e-13), (0.999, 1e-12), (1 - 1e-6, 1e-8), (1.0, 1e-7)])
def test_strong_correlations_stay_exact(r: float, tolerance: float) -> None:
    """A z near 8.4 takes the rounding of r times 5e6, whoever computes it."""
    orthogonal, _ = np.linalg.qr(series(3, 50) - series(3, 50).mean(axis=0))
    scans = []
    for sign in [1, 1, -1] * 7:  # more than one logarithm
        scan = orthogonal.copy()
        scan[:, 4] = sign * (r * scan[:, 1] + np.sqrt(1 - r**2) * scan[:, 2])
        scans.append(scan)
    fc = functional_connectivity(scans)
    assert_allclose(fc[1, 4], np.arctanh(min(r, 1 - 1e-7)) / 3, atol=tolerance)
    assert_allclose(fc, np.mean([fisher_z(scan) for scan in scans], axis=0), atol=tolerance)


def test_products_do_not_run_out_of_range() -> None:
    """Sixty factors of 1e-7 would be 0."""
    twins = np.repeat(unit_series(series(0, 30, 2))[0][:, :1], 2, axis=1)
    total = FisherSum(2)
    for _ in range(60):
        total.add(np.vstack([twins, np.ones(2)]), 1.0)
    assert_allclose(total.take()[0, 1], 60 * np.arctanh(1 - 1e-7), rtol=1e-8)


def test_float32_series_are_summed_in_float64() -> None:
    scans = [series(n, 40).astype(np.float32) for n in range(5)]
    expected = np.mean([written_out(scan.astype(np.float64)) for scan in scans], axis=0)
    assert_allclose(functional_connectivity(scans), expected, atol=1e-12)


def test_missing_regions_count_for_no_edge_of_theirs() -> None:
    scans = cohort()
    for number in range(0, 37, 3):
        scans.arrays[number][:, number % N_ROIS] = np.nan if number % 2 else 5.0
    plain = np.stack([fisher_z(scan) for scan in scans.arrays])
    assert_allclose(mean_connectivity(scans, Measure()), np.nanmean(plain, axis=0), atol=1e-12)
    frames = np.array([len(scan) for scan in scans.arrays])[:, None, None] * np.isfinite(plain)
    weighted = np.nansum(frames * plain, axis=0) / frames.sum(axis=0)
    assert_allclose(mean_connectivity(scans, Measure(), weights="frames"), weighted, atol=1e-12)


def test_phases_share_the_weight_of_their_scan() -> None:
    flat = series(3, 21)
    flat[:, 4] = 1.0
    phased: Any = [[series(0, 30), series(1, 29)], [series(2, 90)], [flat, series(4, 21), series(5, 20)]]
    scans = PhaseScans(phased)
    z = [[fisher_z(phase) for phase in phases] for phases in scans.arrays]
    maps = np.array([np.nanmean(phases, axis=0) for phases in z])
    assert_allclose(mean_connectivity(scans, Measure()), maps.mean(axis=0), atol=1e-12)
    weighted = np.average(maps, axis=0, weights=[59, 90, 62])
    assert_allclose(mean_connectivity(scans, Measure(), weights="frames"), weighted, atol=1e-12)
    for kind in ("ledoit-wolf", "partial"):
        own = [Measure(kind).of_scan(scans.phases(n), where="") for n in range(3)]
        assert_allclose(mean_connectivity(scans, Measure(kind)), np.mean(own, axis=0), atol=1e-12)


def test_a_scan_of_several_phases_counts_once_in_the_geometric_mean() -> None:
    twice: Any = [[series(0, 30)] * 2, [series(2, 90)], [series(4, 21), series(5, 20)]]
    once: Any = [[series(0, 30)], [series(2, 90)], [series(4, 21), series(5, 20)] * 3]
    references = [fit_measure("tangent", PhaseScans(phased)).reference for phased in (twice, once)]
    assert_allclose(np.asarray(references[0]), np.asarray(references[1]), atol=1e-12)
    apart: Any = [[series(0, 30)], [series(2, 90)], [series(4, 21)], [series(5, 20)]]
    other = fit_measure("tangent", PhaseScans(apart)).reference
    assert np.abs(np.asarray(references[0]) - np.asarray(other)).max() > 1e-3


def test_groups_are_the_means_of_their_scans() -> None:
    scans = cohort()
    groups = [(-1, 1, 0, 1, 1, 2)[n % 6] for n in range(37)]
    read: list[int] = []
    means, counts = mean_connectivity(scans, Measure(), groups=groups, progress=read.append)
    for group, mean in enumerate(means):
        own = [n for n in range(37) if groups[n] == group]
        assert counts[group] == len(own)
        assert_allclose(mean, mean_connectivity(scans.subset(own), Measure()), rtol=0, atol=0)
    assert sum(read) == sum(counts) == 37 - groups.count(-1)
    scans.arrays[2] = scans.arrays[8] = np.full((20, N_ROIS), 3.0)
    with pytest.raises(InputError, match="any of 2 scans of group 2 for region 1, 2, 3, 4, 5, 6"):
        mean_connectivity(scans, Measure(), groups=[1 if n in (2, 8) else 0 for n in range(37)])
    with pytest.raises(InputError, match="no scan of group 1 to"):
        mean_connectivity(scans, Measure(), groups=[1] * 37)
    with pytest.raises(ValueError, match="one number per scan: 37"):
        mean_connectivity(scans, Measure(), groups=[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_law_participants_add_up_to_the_group(kind: Kind) -> None:
    scans = cohort(23)
    measure = fit_measure(kind, scans)
    found = list(participant_maps(scans, measure, weights="frames"))
    people = scans.entities["participant_id"]
    assert [one.participant_id for one in found] == list(
        dict.fromkeys(person or f"scan {n + 1}" for n, person in enumerate(people))
    )
    assert sorted(n for one in found for n in one.scans) == list(range(23))
    total, weight = sum(one.total for one in found), sum(one.weight for one in found)
    assert_allclose(total / weight, mean_connectivity(scans, measure, weights="frames"), atol=1e-12)
    (two,) = [one for one in found if one.participant_id == "p4"]
    frames = [len(scans.arrays[n]) for n in two.scans]
    maps = [measure.of_scan(scans.phases(n), where="") for n in two.scans]
    assert len(two.scans) > 1
    assert_allclose(two.total / two.weight, np.average(maps, axis=0, weights=frames), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_law_workers_do_not_change_a_byte(kind: Kind) -> None:
    scans = cohort()
    scans.arrays[20][:, 3] = np.nan
    results = []
    for n_jobs in (1, 2, 5):
        measure = fit_measure(kind, scans, n_jobs=n_jobs)
        mean = mean_connectivity(scans, measure, weights="frames", n_jobs=n_jobs)
        people = [one.total for one in participant_maps(scans, measure, n_jobs=n_jobs)]
        call = functional_connectivity((a for a in scans.arrays), kind=kind, n_jobs=n_jobs)
        results.append(b"".join(a.tobytes() for a in (mean, measure.group(mean), *people, call)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("kind", ["pearson", "tangent"])
def test_law_workers_do_not_change_a_byte_of_matrices_that_blas_would_split(kind: Kind) -> None:
    scans = ArrayScans([series(n, 70, 150) for n in range(18)])
    results = []
    for n_jobs in (1, 2):
        measure = fit_measure(kind, scans, n_jobs=n_jobs)
        mean = mean_connectivity(scans, measure, n_jobs=n_jobs)
        results.append(mean.tobytes() + measure.group(mean).tobytes())
    assert results[0] == results[1]
    assert Measure(kind, measure.reference).group(mean).tobytes() == measure.group(mean).tobytes()


def test_law_processes_that_read_tables_change_no_byte(tmp_path: Path) -> None:
    arrays = [series(n, 20 + n) for n in range(18)]
    files = [tmp_path / f"sub-{n:02}_timeseries.tsv" for n in range(18)]
    for file, array in zip(files, arrays, strict=True):
        np.savetxt(file, array, delimiter="\t", fmt="%.17g")
    expected = mean_connectivity(ArrayScans(arrays), Measure())
    assert parallel.read_in_processes(TableScans(files))
    for n_jobs in (1, 2):
        found = mean_connectivity(TableScans(files), Measure(), n_jobs=n_jobs)
        assert found.tobytes() == expected.tobytes()


class WatchedScans(ArrayScans):
    """Notes how many scans have been read."""

    read: list[int]

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        self.read.append(number)
        return super().phases(number)

    def subset(self, numbers: Sequence[int]) -> Any:
        part = super().subset(numbers)
        assert isinstance(part, WatchedScans)
        return part


def test_participants_are_read_as_they_are_asked_for() -> None:
    scans = WatchedScans(cohort().arrays)
    for n_jobs in (1, 3):
        scans.read = []
        maps = participant_maps(scans, Measure(), n_jobs=n_jobs)
        next(maps)
        assert len(scans.read) <= 2 * n_jobs


def test_blas_has_its_threads_back_between_results() -> None:
    before = [library["num_threads"] for library in threadpool_info()]
    for n_jobs in (1, 2):
        during: list[int] = []

        def note(piece: Scans, during: list[int] = during) -> None:
            during.extend(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")

        pieces = parallel.pieces_of(cohort())
        for _ in parallel.in_order(note, pieces, n_jobs=n_jobs, processes=False):
            assert [library["num_threads"] for library in threadpool_info()] == before
        assert set(during) == {1}


def test_the_hook_counts_every_scan_once_a_pass() -> None:
    counted: list[int] = []
    mean_connectivity(cohort(), Measure(), n_jobs=2, progress=counted.append)
    assert sum(counted) == 37 and len(counted) > 2
    counted.clear()
    list(participant_maps(cohort(), Measure(), progress=counted.append))
    assert sum(counted) == 37
    counted.clear()
    fit_measure("tangent", cohort(), progress=counted.append)
    assert sum(counted) % 37 == 0 and sum(counted) > 2 * 37
    counted.clear()
    gone = cohort()
    gone.arrays[17][:, 2] = np.nan  # read once, to find that out
    fit_measure("tangent", gone, progress=counted.append)
    assert sum(counted) % 36 == 1


def test_memory_is_used_again_and_results_stay() -> None:
    """A later piece must not change what an earlier one gave, nor a short scan see the longer one before."""
    summer = Summer(Measure(), "equal")
    first = summer(ArrayScans([series(0, 90)]))
    kept = first.total.copy()
    assert_allclose(summer(ArrayScans([series(1, 12)])).total, written_out(series(1, 12)), atol=1e-12)
    assert (first.total == kept).all()


def test_refuses() -> None:
    scans = cohort()
    scans.arrays[20] = series(0, 30, 5)
    for n_jobs in (1, 2):
        with pytest.raises(InputError, match="scan 21 has 5 regions, the scans before it 6"):
            mean_connectivity(scans, Measure(), n_jobs=n_jobs)
    with pytest.raises(InputError, match="scan 32 has 6 regions, the scans before it 5"):  # both of p1
        list(participant_maps(scans, Measure()))
    with pytest.raises(InputError, match="weights must be one of equal, frames; got 'length'"):
        functional_connectivity(cohort().arrays, weights="length")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no scan to compute"):
        mean_connectivity(ArrayScans([]), Measure())
    with pytest.raises(InputError, match="scan 1 holds no series"):
        mean_connectivity(PhaseScans([[]]), Measure())  # type: ignore[list-item]
    for shape in [(2, 6), (30, 1), (30,), ()]:
        with pytest.raises(InputError, match=r"scan 19 must be .* at least 3 frames"):
            functional_connectivity([*cohort().arrays[:18], np.zeros(shape)])
