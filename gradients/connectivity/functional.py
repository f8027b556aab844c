"""Functional connectivity of a group in one call: scans in, one matrix out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.connectivity.measure import (
    Kind,
    Measure,
    Weights,
    fit_measure,
    mean_connectivity,
    mean_of_pieces,
)
from bjepa.gradients.connectivity.parallel import SCANS_A_PIECE
from bjepa.gradients.scans import ArrayScans, Scans, ShardScans
from bjepa.preproc.shards import ShardReader


def functional_connectivity(
    scans: Iterable[ArrayLike] | ShardReader,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    names: Sequence[str] | None = None,
    kind: Kind = "pearson",
    weights: Weights = "equal",
    n_jobs: int = 1,
) -> NDArray[np.float64]:
    """Connectivity of a group of scans: by default the mean of their Fisher-z matrices.

    Parameters
    ----------
    scans
        Series (T, R), any units, one per scan (T may differ), or a ShardReader, whose phases are averaged
        within their scan and whose scrubbed frames are left out. Series are read one by one, so a generator
        will do; for `tangent`, which reads them several times, they are kept in memory.
    progress
        Wraps the iterator of scans, for instance tqdm; it goes on when scans are done, some at a time.
    names
        Of the regions, for messages.
    kind
        pearson, ledoit-wolf, partial (correlation) or tangent (geometric mean of covariances).
    weights
        Of a scan in the mean: "equal" or its number of "frames".
    n_jobs
        Workers, -1 = all cores; the result is the same to the byte.

    Returns
    -------
    (R, R) float64, symmetric, Fisher z, diagonal 0.

    Raises
    ------
    InputError
        No scan; scans of different R; too few frames; non-finite values; an edge that no scan has; unknown
        kind or weights.
    """
    if not isinstance(scans, ShardReader) and kind != "tangent":
        pieces = _in_pieces(progress(scans) if progress else scans)
        measure = Measure(kind)
        return measure.group(mean_of_pieces(pieces, measure, weights=weights, n_jobs=n_jobs, names=names))
    cohort: Scans
    if isinstance(scans, ShardReader):
        cohort = ShardScans(scans)
    else:
        cohort = ArrayScans([_series(scan) for scan in scans])
    if names is not None:
        cohort.names = list(names)
    ticks = iter(progress(range(len(cohort)))) if progress else iter(())
    measure = fit_measure(kind, cohort, n_jobs=n_jobs)
    mean = mean_connectivity(
        cohort, measure, weights=weights, n_jobs=n_jobs, progress=lambda n: list(islice(ticks, n))
    )
    list(ticks)  # a bar closes at its end
    return measure.group(mean)


def _in_pieces(scans: Iterable[ArrayLike]) -> Iterator[ArrayScans]:
    remaining, n_before = iter(scans), 0
    while block := [_series(scan) for scan in islice(remaining, SCANS_A_PIECE)]:
        piece = ArrayScans(block)
        piece.labels = [f"scan {n_before + number}" for number in range(1, len(block) + 1)]
        n_before += len(block)
        yield piece


def _series(scan: ArrayLike) -> NDArray[Any]:
    return np.atleast_1d(np.asarray(scan))
