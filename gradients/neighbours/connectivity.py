"""The strongest edges of every vertex, of connectivity too large to be formed: (V, K) of V x V values.

Order of operations:
  1. read every scan once: which vertices have signal; those that have none in any scan are left out
  2. of a block of rows, r = X'X of each scan's unit series, z = arctanh(r), diagonal 0
  3. mean over the phases of a scan, then over scans, edge by edge over the scans that have both vertices
  4. keep the largest `1 - sparsity` share of each row: as bjepa.gradients.affinity, with the same count
  5. with `ranks`, their ranks in the whole row
The same numbers as `functional_connectivity` and `keep_largest`. Series and products are float32 unless told
otherwise (r is off by 1e-7, which exchanges values that equal to that), sums over scans float64.
Series are kept in memory if all fit, else read again for every block of rows.

T frames, R regions or vertices, V of them with signal, K kept per row, B rows of a block.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import count_kept, largest_columns, ranks_above_zero, warn_of_ties
from bjepa.gradients.connectivity.measure import Weights
from bjepa.gradients.connectivity.scan_maps import MAX_R
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.neighbours.rows import STRIP, Floats, SparseRows
from bjepa.gradients.neighbours.threads import Progress, duration, seconds_per_flop, threads
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

_LARGE_BLOCK = 1024  # rows of a block beyond which there is nothing to gain while the series are in memory


def sparse_connectivity(
    scans: Scans,
    *,
    sparsity: float,
    ranks: bool = False,
    weights: Weights = "equal",
    dtype: type[np.floating] = np.float32,
    n_jobs: int = 1,
    max_bytes: float = 6e9,
    progress: Progress | None = None,
) -> SparseRows:
    """The largest values of each row of the group connectivity of `scans`.

    Parameters
    ----------
    weights : of scans in the mean: equal, or their frames
    dtype : float32 or float64, of series, products and values
    n_jobs : threads; the result does not depend on it
    max_bytes : of this function's own arrays

    Raises
    ------
    InputError
        Scans that `functional_connectivity` refuses; two vertices with signal that no scan has both; less
        memory than it takes.
    """
    from joblib import effective_n_jobs

    n_jobs = effective_n_jobs(n_jobs)
    series = _Series(scans, weights, np.dtype(dtype), sparsity, n_jobs, max_bytes)
    n, n_keep, block = series.n_vertices, series.n_keep, series.block_rows
    starts = range(0, n, block)
    flops = 2.0 * n**2 * series.n_frames
    log.info(
        "connectivity: %d vertices, %d scans of %d frames in all, %d rows at a time%s; about %s, %d threads",
        *(n, len(scans), series.n_frames, block),
        "" if series.in_memory else f", series read {len(starts)} times more",
        *(duration(flops * seconds_per_flop(dtype) / n_jobs), n_jobs),
    )
    found = SparseRows(
        columns=np.empty((n, n_keep), dtype=np.int32),
        values=np.empty((n, n_keep), dtype=dtype),
        kept=series.kept,
    )
    n_tied = 0
    with threads(n_jobs) as pool:

        def steps() -> Iterator[None]:
            nonlocal n_tied
            for start in starts:
                rows = slice(start, min(start + block, n))
                total = np.zeros((rows.stop - start, n))  # (B, V) float64
                for scan in range(len(scans)):
                    series.add(scan, rows, total, pool)
                    yield
                n_tied += _select(total, rows, series, found, ranks, pool)

        for _ in progress(steps(), len(starts) * len(scans)) if progress else steps():
            pass
    if n_tied > 0.01 * n:  # fewer come from rounding to float32
        warn_of_ties(n_tied, n, n_keep)
    return found


class _Series:
    """Unit series of the scans, in memory or read again, and the weights of their edges."""

    def __init__(
        self,
        scans: Scans,
        weights: Weights,
        dtype: np.dtype[np.floating],
        sparsity: float,
        n_jobs: int,
        max_bytes: float,
    ) -> None:
        self.scans, self.dtype = scans, dtype
        count_kept(sparsity, 10**9)  # refuse a wrong one before the series are read
        if not len(scans):
            raise InputError("no scan to compute connectivity from.")
        present: list[NDArray[np.bool_]] = []
        frames: list[int] = []
        memory: list[list[Floats]] = []
        self.in_memory = True
        for number in range(len(scans)):
            phases, missing = self._read(number)
            present.append(~missing)
            frames.append(sum(map(len, phases)))
            n = len(missing)
            if n != len(present[0]):
                raise InputError(
                    f"{scans.labels[number]} has {n} regions, the scans before it {len(present[0])}.",
                    hint="All scans need the same regions in the same order; frames are rows.",
                )
            needed = self._bytes(n, count_kept(sparsity, n), frames, n_jobs) + 8 * STRIP * n
            if len(scans) > 1 and needed > max_bytes:
                self.in_memory, memory = False, []
            if self.in_memory:
                memory.append(phases)
        seen = np.array(present)  # (n_scans, R)
        self.kept = np.asarray(seen.any(axis=0))
        self.n_vertices, self.n_frames = int(self.kept.sum()), sum(frames)
        self._note_missing(seen)
        self.present = seen[:, self.kept]  # (n_scans, V)
        self.weight = np.array(frames if weights == "frames" else [1] * len(frames), dtype=np.float64)
        self.n_keep = count_kept(sparsity, self.n_vertices)
        self.block_rows = self._block_rows(frames, n_jobs, max_bytes)
        self._memory = memory
        for scan in memory:  # one after the other, so that no second copy of all is made
            scan[:] = [self._of_kept(phase) for phase in scan]

    def _read(self, number: int) -> tuple[list[Floats], NDArray[np.bool_]]:
        """Unit series (T, R) of the phases of a scan, and which vertices (R,) any of them misses."""
        found: list[Floats] = []
        missing = np.zeros(0, dtype=np.bool_)
        for phase in self.scans.phases(number):
            unit, without = unit_series(phase, where=self.scans.labels[number])
            if not found:
                missing = without
            elif (missing != without).any():
                log.warning(
                    "%s: %d vertices have signal in some phases only and count as missing in it.",
                    *(self.scans.labels[number], np.count_nonzero(missing != without)),
                )
                missing = missing | without
            found.append(unit.astype(self.dtype, copy=False))
        if not found:
            raise InputError(f"{self.scans.labels[number]} has no series.")
        for series in found:
            series[:, missing] = 0
        return found, missing

    def _note_missing(self, seen: NDArray[np.bool_]) -> None:
        n_regions, n_missing = len(self.kept), len(self.kept) - self.n_vertices
        if self.n_vertices < 3:
            raise InputError(f"{self.n_vertices} of {n_regions} vertices have signal; 3 are needed at least.")
        if n_missing:
            log.warning(
                "%d of %d vertices have no signal in any scan (constant or NaN, such as the medial wall); "
                "they are left out and have no gradients.",
                *(n_missing, n_regions),
            )
        if n_partly := int((self.kept & ~seen.all(axis=0)).sum()):
            log.warning(
                "%d vertices have signal in some of the %d scans only; each of their edges is the mean over "
                "the scans that have it.",
                *(n_partly, len(seen)),
            )

    def _of_kept(self, unit: Floats) -> Floats:
        return unit if self.kept.all() else np.ascontiguousarray(unit[:, self.kept])

    def _bytes(self, n: int, n_keep: int, frames: list[int], n_jobs: int) -> int:
        """Memory for `n` vertices, without the sums of a block: result, series, workspace of the threads."""
        size = self.dtype.itemsize
        reading = max(frames) * n * 16  # raw and float64
        series = n * size * (sum(frames) if self.in_memory else max(frames))
        return n * n_keep * (4 + size) + reading + series + n_jobs * STRIP * n * (3 * size + 12)

    def _block_rows(self, frames: list[int], n_jobs: int, max_bytes: float) -> int:
        """Rows of connectivity whose sums fit at a time; raises InputError if fewer than a strip do."""
        n = self.n_vertices
        fixed = self._bytes(n, self.n_keep, frames, n_jobs)
        block = int((max_bytes - fixed) / (8 * n))
        if block < min(STRIP, n):
            need = (fixed + 8 * n * STRIP) / 1e9
            raise InputError(
                f"connectivity of {n} vertices needs {need:.3g} GB of memory, allowed are "
                f"{max_bytes / 1e9:.3g} GB.",
                hint="Allow more memory, use fewer threads, or raise the sparsity.",
            )
        return min(block, _LARGE_BLOCK if self.in_memory else n, n)

    def add(self, scan: int, rows: slice, total: NDArray[np.float64], pool: ThreadPoolExecutor) -> None:
        """Add weight * z of one scan to `total` (B, V)."""
        if self.in_memory:
            phases = self._memory[scan]
        else:
            phases = [self._of_kept(unit) for unit in self._read(scan)[0]]
        share = self.weight[scan] / len(phases)

        def one(start: int) -> None:
            own = slice(start, min(start + STRIP, rows.stop))
            for unit in phases:
                z = unit[:, own].T @ unit  # (STRIP, V)
                np.clip(z, -MAX_R, MAX_R, out=z)
                z[np.arange(len(z)), np.arange(own.start, own.stop)] = 0
                np.arctanh(z, out=z)
                if share != 1:
                    z *= share
                total[own.start - rows.start : own.stop - rows.start] += z

        list(pool.map(one, range(rows.start, rows.stop, STRIP)))

    def edge_weight(self, rows: slice) -> NDArray[np.float64] | float:
        """Sum of the weights of the scans that have an edge: (n, V), or one number."""
        if self.present.all():
            return float(self.weight.sum())
        weight: NDArray[np.float64] = (self.present[:, rows] * self.weight[:, None]).T @ self.present.astype(
            float
        )
        if not weight.all():
            row, column = np.argwhere(weight == 0)[0]
            first, second = np.flatnonzero(self.kept)[[rows.start + row, column]] + 1
            raise InputError(
                f"never seen together in any of {len(self.present)} scans: vertex {first} with {second} "
                "(counted from 1), and perhaps others.",
                hint="Leave out the vertices that few scans have (set them to NaN in all scans).",
            )
        return weight


def _select(
    total: NDArray[np.float64],
    rows: slice,
    series: _Series,
    found: SparseRows,
    ranks: bool,
    pool: ThreadPoolExecutor,
) -> int:
    """Write the largest values of a block of rows into `found`; how many rows were cut between equal ones."""
    n_keep = found.columns.shape[1]

    def one(start: int) -> int:
        own = slice(start, min(start + STRIP, rows.stop))
        mean = total[own.start - rows.start : own.stop - rows.start] / series.edge_weight(own)
        mean = mean.astype(found.values.dtype, copy=False)
        columns, tied = largest_columns(mean, n_keep)
        values = np.take_along_axis(mean, columns, axis=1)
        found.columns[own] = columns
        found.values[own] = ranks_above_zero(values, mean.shape[1]) if ranks else values
        return int(np.count_nonzero(tied & (values.min(axis=1) != 0)))

    return sum(pool.map(one, range(rows.start, rows.stop, STRIP)))
