"""Geometric mean of the covariances of many scans, read again in each pass.

Order of operations:
  1. start   the arithmetic mean of the scans' Ledoit-Wolf covariances
  2. pass    maps of all scans in the tangent space at the mean so far, averaged: the gradient
  3. step    along the gradient; half as long from when its norm grows
  4. stop    when the norm of the gradient is below TOLERANCE * R^2 (as nilearn), and say so if it never is
A scan of several phases counts once: their covariances and maps are averaged. Memory does not grow with the
number of scans; each pass costs the reading, and 25 ms a scan of 450 regions.
Source: Fletcher & Joshi 2007, Signal Process 87:250, doi:10.1016/j.sigpro.2005.12.018, algorithm 3.
Differs from it: the step is halved, never lengthened.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.connectivity.parallel import (
    Progress,
    in_order,
    pieces_of,
    read_in_processes,
)
from bjepa.gradients.connectivity.series import check_same_regions
from bjepa.gradients.connectivity.tangent import TangentSpace, complete_covariances
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
MAX_PASSES, TOLERANCE = 30, 1e-7
NAMED = 8  # scans named in a message


@dataclass(frozen=True)
class _PieceSum:
    total: Array | None  # (R, R), None if no scan of the piece is complete
    n_scans: int
    incomplete: list[int]  # numbers, within the piece, of those that `total` leaves out
    first: str  # label of the first scan


def geometric_mean(scans: Scans, *, n_jobs: int = 1, progress: Progress | None = None) -> Array:
    """Geometric mean (R, R) of the scans' covariances; those with missing regions are left out.

    Parameters
    ----------
    progress : called with the number of scans read since the last call, anew in each pass

    Raises
    ------
    InputError
        No scan has all regions; a scan's series are refused, or its covariance is singular.
    """
    with one_blas_thread():
        return _geometric_mean(scans, n_jobs, read_in_processes(scans), progress)


def _geometric_mean(scans: Scans, n_jobs: int, processes: bool, progress: Progress | None) -> Array:
    mean, complete = _arithmetic_mean(scans, n_jobs, processes, progress)
    step, smallest = 1.0, np.inf
    for number in range(1, MAX_PASSES + 1):
        space = TangentSpace(mean)
        task = partial(_sum_of_piece, space=space)
        parts = in_order(task, pieces_of(complete), n_jobs=n_jobs, processes=processes)
        gradient, _ = _mean_of(parts, progress)
        assert gradient is not None
        norm = float(np.linalg.norm(gradient))
        log.debug("pass %d: gradient norm %.2e", number, norm)
        mean = space.exp(step * gradient)
        if norm < TOLERANCE * mean.size:
            return mean
        if norm > smallest:
            step /= 2
        smallest = min(smallest, norm)
    log.warning(
        "The geometric mean of %d covariances has not converged in %d passes: norm of the gradient %.1e, "
        "needed below %.1e. Look for scans that are unlike the others.",
        *(len(complete), MAX_PASSES, norm, TOLERANCE * mean.size),
    )
    return mean


def _arithmetic_mean(
    scans: Scans, n_jobs: int, processes: bool, progress: Progress | None
) -> tuple[Array, Scans]:
    """The mean covariance, and the scans that have all regions."""
    task = partial(_sum_of_piece, space=None)
    parts = in_order(task, pieces_of(scans), n_jobs=n_jobs, processes=processes)
    mean, incomplete = _mean_of(parts, progress)
    if mean is None:
        raise InputError(
            f"each of {len(scans)} scans misses a region (constant, or without signal), and connectivity of "
            "the kind tangent needs all of them."
            if len(scans)
            else "no scan to compute connectivity from.",
            hint="Leave regions that are often missing out, or use another kind." if len(scans) else "",
        )
    if incomplete:
        named = ", ".join(scans.labels[number] for number in incomplete[:NAMED])
        more = f" and {len(incomplete) - NAMED} more" if len(incomplete) > NAMED else ""
        log.warning(
            "%d of %d scans miss a region and are left out of tangent connectivity: %s%s.",
            *(len(incomplete), len(scans), named, more),
        )
    return mean, scans.subset(sorted(set(range(len(scans))) - set(incomplete)))


def _sum_of_piece(scans: Scans, *, space: TangentSpace | None) -> _PieceSum:
    """Sum of the complete scans' maps in `space`, or else of their covariances."""
    total, incomplete = None, []
    for number, label in enumerate(scans.labels):
        covariances = complete_covariances(scans.phases(number), where=label)
        if covariances is None:
            incomplete.append(number)
            continue
        maps = covariances if space is None else [space.log(c, where=label) for c in covariances]
        part = np.mean(maps, axis=0)
        if total is not None:
            check_same_regions(len(part), len(total), label)
        total = part if total is None else total + part
    return _PieceSum(total, len(scans), incomplete, scans.labels[0])


def _mean_of(parts: Iterable[_PieceSum], progress: Progress | None) -> tuple[Array | None, list[int]]:
    """The mean over the complete scans, None if there is none; numbers of the others."""
    total, n_scans, incomplete = None, 0, []
    for part in parts:
        if part.total is not None:
            if total is not None:
                check_same_regions(len(part.total), len(total), part.first)
            total = part.total if total is None else total + part.total
        incomplete += [n_scans + number for number in part.incomplete]
        n_scans += part.n_scans
        if progress is not None:
            progress(part.n_scans)
    return (None if total is None else total / (n_scans - len(incomplete))), incomplete
