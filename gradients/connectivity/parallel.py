"""Pieces of a cohort, worked on at once, results in order.

A piece is a fixed number of scans, whatever the number of workers, and BLAS has one thread in each; so sums
of pieces in their order have the same bytes for every `n_jobs`.
Threads or processes, measured on two cores: matrix products, inverses and eigenvectors let other threads run
(1.9 times faster with two), and shards are read in 7 % of the time of a correlation, so threads do; they
start at once and share memory. Parsing text does not let others run (0.9 times), so tables are read in
processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Any, TypeVar

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.scans import Scans, TableScans

SCANS_A_PIECE = 16  # of 450 regions: 20 ms of correlation, 0.4 s of a pass of the geometric mean

Progress = Callable[[int], object]  # called with the number of scans that are done since the last call
Result = TypeVar("Result")


def pieces_of(scans: Scans, numbers: Sequence[int] | None = None) -> Iterator[Scans]:
    """The scans (or those of `numbers`) in order, SCANS_A_PIECE at a time."""
    chosen = range(len(scans)) if numbers is None else numbers
    for start in range(0, len(chosen), SCANS_A_PIECE):
        yield scans.subset(chosen[start : start + SCANS_A_PIECE])


def count_pieces(n_scans: int) -> int:
    """How many pieces so many scans make."""
    return -(-n_scans // SCANS_A_PIECE)


def read_in_processes(scans: Scans) -> bool:
    """Whether reading these scans keeps other threads from running."""
    return isinstance(scans, TableScans)


def in_order(
    function: Callable[[Scans], Result], pieces: Iterable[Scans], *, n_jobs: int, processes: bool
) -> Iterator[Result]:
    """`function(piece)` of each, in order; at most twice `n_jobs` results wait in memory.

    Between two results nothing runs, and BLAS has all its threads again.

    Parameters
    ----------
    n_jobs : workers, as joblib counts: -1 = all cores; 1 = here, without any
    processes : workers are processes (`function` and pieces are pickled) instead of threads
    """
    from joblib import Parallel, delayed, effective_n_jobs

    n_workers = effective_n_jobs(n_jobs)
    remaining = iter(pieces)
    if n_workers > 1 and processes:
        with Parallel(n_jobs=n_workers, batch_size=1, pre_dispatch="all") as pool:
            while block := list(islice(remaining, 2 * n_workers)):
                yield from pool(delayed(_on_one_core)(function, piece) for piece in block)
        return
    with ThreadPoolExecutor(n_workers) if n_workers > 1 else nullcontext() as threads:
        while block := list(islice(remaining, 2 * n_workers)):
            with one_blas_thread():  # for all threads; they must not set it themselves
                results = list(threads.map(function, block) if threads else map(function, block))
            yield from results


def _on_one_core(function: Callable[[Any], Result], piece: Any) -> Result:
    with one_blas_thread():
        return function(piece)
