"""gradients/neighbours: equal to the dense way, whatever the blocks, threads and memory; what is left out."""

import tracemalloc
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.gradients.affinity import KERNELS, Kernel, compute_affinity
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.connectivity.measure import Measure
from bjepa.gradients.connectivity.scan_maps import fisher_z
from bjepa.gradients.neighbours import connectivity as row_blocks
from bjepa.gradients.neighbours import embed_neighbours, nearest, sparse_affinity
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.scans import ArrayScans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
R = 301  # three strips, the last one short


def _series(*n_frames: int, n: int = R, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((9, n))
    series = [rng.standard_normal((t, 9)) @ mixing + 2 * rng.standard_normal((t, n)) for t in n_frames]
    for one in series:
        one.flags.writeable = False
    return series


@pytest.fixture(scope="module")
def series() -> list[Array]:
    return _series(50, 37, 61)


def _nearest_written_out(affinity: Array, n_neighbors: int) -> Array:
    others = affinity - 9 * np.eye(len(affinity))
    order = np.argsort(-others, axis=1, kind="stable")[:, :n_neighbors]
    chosen = np.zeros(affinity.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return np.where(chosen | chosen.T | np.eye(len(affinity), dtype=bool), affinity, 0.0)


@pytest.mark.parametrize("sparsity", [0, 0.6, 0.9])
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_neighbours_are_the_dense_affinity(series: list[Array], kernel: Kernel, sparsity: float) -> None:
    dense = compute_affinity(functional_connectivity(series), kernel=kernel, sparsity=sparsity)
    found = sparse_affinity(
        ArrayScans(series), n_neighbors=R, kernel=kernel, sparsity=sparsity, dtype=np.float64
    )
    assert_allclose(found.toarray(), dense, atol=1e-14)
    assert found.format == "csr" and found.dtype == np.float64 and found.nnz == np.count_nonzero(dense)
    single = sparse_affinity(ArrayScans(series), n_neighbors=R, kernel=kernel, sparsity=sparsity)
    assert_allclose(single.toarray(), dense, atol=1e-4 if kernel == "spearman" else 2e-6)  # ranks can swap


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_nearest_are_those_of_the_dense_affinity(series: list[Array], kernel: Kernel) -> None:
    fc = functional_connectivity(series)
    expected = _nearest_written_out(compute_affinity(fc, kernel=kernel, sparsity=0.7), 23)
    found = sparse_affinity(ArrayScans(series), n_neighbors=23, kernel=kernel, sparsity=0.7, dtype=np.float64)
    assert_allclose(found.toarray(), expected, atol=1e-14)
    of_matrix = sparse_affinity(fc, n_neighbors=23, kernel=kernel, sparsity=0.7)
    assert_allclose(of_matrix.toarray(), expected, atol=1e-14)
    assert (found != found.T).nnz == 0
    assert (np.diff(found.indptr) >= 24).all() or kernel not in ("normalized_angle", "gaussian")


@pytest.mark.parametrize("kernel", ["normalized_angle", "pearson", "gaussian"])
def test_law_neither_blocks_nor_threads_nor_memory_matter(
    series: list[Array], kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**options: Any) -> Array:
        graph = sparse_affinity(ArrayScans(series), n_neighbors=150, kernel=kernel, **options)
        return np.asarray(graph.toarray())

    at_once = found()
    assert_allclose(found(n_jobs=3), at_once, rtol=0, atol=0)
    monkeypatch.setattr(nearest, "_LARGEST_PANEL", 128)
    monkeypatch.setattr(row_blocks, "_LARGE_BLOCK", 130)
    in_pieces = found(n_jobs=2)
    assert_allclose(in_pieces, at_once, atol=2e-6)
    assert ((in_pieces > 0) == (at_once > 0)).mean() > 0.9999


def test_series_that_do_not_fit_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_LARGEST_PANEL", 128)
    scans = ArrayScans(_series(300, 400, 350, 280, 390))
    n_read = 0
    read = ArrayScans.phases

    def counted(self: ArrayScans, number: int) -> list[NDArray[np.floating]]:
        nonlocal n_read
        n_read += 1
        return read(self, number)

    monkeypatch.setattr(ArrayScans, "phases", counted)
    expected = sparse_affinity(scans, n_neighbors=31, dtype=np.float64).toarray()
    assert n_read == 5
    found = sparse_affinity(scans, n_neighbors=31, dtype=np.float64, max_memory_gb=0.005)
    assert n_read == 5 + 5 + 5 * 2  # once for the signal, then for each of two blocks
    assert_allclose(found.toarray(), expected, atol=1e-14)


def test_memory_stays_within_what_is_allowed() -> None:
    scans = ArrayScans(_series(60, 50, n=1900))
    options: dict[str, Any] = {"n_neighbors": 100, "max_memory_gb": 0.032, "n_jobs": 2}
    tracemalloc.start()
    result = sparse_affinity(scans, **options)
    peak = tracemalloc.get_traced_memory()[1] - (result.data.nbytes + result.indices.nbytes)
    tracemalloc.stop()
    assert peak < 0.032e9  # one dense matrix takes 0.029e9
    with pytest.raises(InputError, match=r"needs? 0\.0\d+ GB of memory, allowed are 0\.01 GB"):
        sparse_affinity(scans, n_neighbors=100, max_memory_gb=0.01)
    with pytest.raises(InputError, match=r"1500 nearest neighbours of 1900 .* allowed are 0\.032 GB"):
        sparse_affinity(scans, n_neighbors=1500, max_memory_gb=0.032)


def test_law_vertices_in_another_order(series: list[Array]) -> None:
    order = np.random.default_rng(3).permutation(R)
    plain = sparse_affinity(ArrayScans(series), n_neighbors=20, dtype=np.float64).toarray()
    turned = sparse_affinity(
        ArrayScans([one[:, order] for one in series]), n_neighbors=20, dtype=np.float64
    ).toarray()
    assert_allclose(turned, plain[np.ix_(order, order)], atol=1e-14)


class _TwoPhases(ArrayScans):
    """Every second frame is another phase."""

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        return [self.arrays[number][::2], self.arrays[number][1::2]]


def test_phases_are_averaged_first_and_scans_weighted(series: list[Array]) -> None:
    z = [(fisher_z(one[::2]) + fisher_z(one[1::2])) / 2 for one in series]
    scans = _TwoPhases(series)
    for weights, shares in (("equal", [1, 1, 1]), ("frames", [50, 37, 61])):
        fc = np.average(z, axis=0, weights=shares)
        expected = compute_affinity(fc, kernel="gaussian")  # depends on the scale of z
        found = sparse_affinity(scans, n_neighbors=R, kernel="gaussian", weights=weights, dtype=np.float64)  # type: ignore[arg-type]
        assert_allclose(found.toarray(), expected, atol=1e-14)


def test_a_vertex_without_signal_in_one_phase_is_missing_in_that_scan(
    series: list[Array], caplog: pytest.LogCaptureFixture
) -> None:
    torn, whole = series[0].copy(), series[2]
    torn[::2, 6] = 3.0
    found = sparse_affinity(_TwoPhases([torn, whole]), n_neighbors=R, dtype=np.float64)
    assert "scan 1: 1 vertices have signal in some phases only" in caplog.text
    z = [(fisher_z(one[::2]) + fisher_z(one[1::2])) / 2 for one in (series[0], whole)]
    fc = (z[0] + z[1]) / 2
    fc[6], fc[:, 6] = z[1][6], z[1][:, 6]
    assert_allclose(found.toarray(), compute_affinity(fc), atol=1e-14)


def test_two_vertices_of_one_series_are_as_connected_as_in_the_dense_way(series: list[Array]) -> None:
    arrays = [np.hstack([one, 5 - 2 * one[:, :3], one[:, 3:5]]) for one in series]
    dense = compute_affinity(functional_connectivity(arrays), kernel="gaussian")
    found = sparse_affinity(ArrayScans(arrays), n_neighbors=999, kernel="gaussian", dtype=np.float64)
    assert_allclose(found.toarray(), dense, atol=1e-12)


def test_vertices_without_signal_are_left_out(series: list[Array], caplog: pytest.LogCaptureFixture) -> None:
    arrays = [one.astype(np.float32) for one in series]
    wall = np.array([0, 5, 130, 300])
    for one in arrays:
        one[:, wall[:2]], one[:, wall[2:]] = 0, np.nan
    arrays[1][:, 7] = np.nan  # has signal in the others
    found = sparse_affinity(ArrayScans(arrays), n_neighbors=25, dtype=np.float64)
    assert "4 of 301 vertices have no signal in any scan" in caplog.text
    assert "1 vertices have signal in some of the 3 scans only" in caplog.text
    kept = np.setdiff1d(np.arange(R), wall)
    fc = functional_connectivity([one[:, kept] for one in arrays])
    assert_allclose(
        found.toarray()[np.ix_(kept, kept)], _nearest_written_out(compute_affinity(fc), 25), atol=1e-7
    )
    assert found[wall].nnz == 0 and found[:, wall].nnz == 0
    arrays[0][:, 9] = arrays[2][:, 9] = np.nan
    with pytest.raises(InputError, match="never seen together in any of 3 scans: vertex 8 with 10"):
        sparse_affinity(ArrayScans(arrays), n_neighbors=25)


def test_the_chain_to_gradients_is_the_dense_one(series: list[Array]) -> None:
    arrays = [np.insert(one, 3, 0.0, axis=1) for one in series]  # vertex 4 is medial wall
    options = GradientOptions(n_components=4)
    affinity, result = embed_neighbours(ArrayScans(arrays), options, n_neighbors=R, n_jobs=2)
    _, dense = embed_connectivity(functional_connectivity(series), options)
    assert affinity.shape == (R + 1, R + 1)
    assert result.kept.tolist() == [True] * 3 + [False] + [True] * (R - 3)
    assert np.isnan(result.gradients[3]).all()
    assert_allclose(
        np.delete(result.gradients, 3, axis=0), dense.gradients, atol=1e-4 * dense.gradients.std()
    )
    assert_allclose(result.eigenvalues, dense.eigenvalues, rtol=1e-5)


def test_progress_is_told_of_every_step(series: list[Array]) -> None:
    told: list[int] = []

    def progress(steps: Iterable[Any], total: int) -> Iterable[Any]:
        done = list(steps)
        told.extend([len(done), total])
        return done

    sparse_affinity(ArrayScans(series), n_neighbors=5, progress=progress)
    assert told == [3, 3, 3, 3]  # one block of three scans; one panel of three tiles


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n_neighbors": 0}, "at least 1, got 0"),
    ({"kernel": "angle"}, "kernel must be one of"),
    ({"sparsity": 90}, "not 90"),
    ({"sparsity": 0.999}, "leaves nothing of rows of 301"),
    ({"measure": Measure("partial")}, "'partial' cannot be computed for nearest neighbours"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_refuses_options(series: list[Array], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        sparse_affinity(ArrayScans(series), **{"n_neighbors": 9, **options})


def test_refuses_series(series: list[Array]) -> None:
    with pytest.raises(InputError, match="scan 2 has 300 regions, the scans before it 301"):
        sparse_affinity(ArrayScans([series[0], series[1][:, 1:]]), n_neighbors=9)
    with pytest.raises(InputError, match="no scan"):
        sparse_affinity(ArrayScans([]), n_neighbors=9)
    with pytest.raises(InputError, match="2 of 301 vertices have signal"):
        sparse_affinity(ArrayScans([np.where(np.arange(R) < 2, series[0], 0.0)]), n_neighbors=9)
    spoilt = series[0].copy()
    spoilt[4, 6] = np.inf
    with pytest.raises(InputError, match="scan 1 has a non-finite value in region 7, frame 5"):
        sparse_affinity(ArrayScans([spoilt]), n_neighbors=9)
    zeros = functional_connectivity(series)
    zeros[:, 12] = zeros[12] = 0
    with pytest.raises(InputError, match=r"1 rows are zero .* \[13\]"):
        sparse_affinity(zeros, n_neighbors=9)
