"""Connectivity of one scan as a map of Fisher z, one value per pair of regions.

    pearson       r of every pair
    ledoit-wolf   r of the shrunk covariance, over the regions that are there
    partial       partial correlation of the shrunk covariance, over the regions that are there
Order of operations: series centred and of length 1 (series.py); r; z = arctanh(r), |r| limited to 1 - 1e-7;
diagonal 0 (z of a region with itself is infinite); NaN at the edges of missing regions; mean over the phases
of a strided scan, edge by edge over the phases that have it.

T frames, R regions.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.connectivity.covariance import ledoit_wolf, partial_correlation
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.scans import ShardScans
from bjepa.preproc.shards import ShardReader

Array = NDArray[np.float64]
MAX_R = 1 - 1e-7  # z = 8.4; two identical series would be infinitely connected


def fisher_z(timeseries: ArrayLike, *, where: str = "timeseries") -> Array:
    """Fisher z of one series' correlations: (R, R) float64, diagonal 0, NaN at edges of missing regions.

    A region is missing if it is constant or NaN in every frame. `where` names the series in messages.

    Raises
    ------
    InputError
        As `unit_series`.
    """
    unit, missing = unit_series(timeseries, where=where)
    return _as_map(unit.T @ unit, missing)


def ledoit_wolf_z(timeseries: ArrayLike, *, where: str = "timeseries") -> Array:
    """As `fisher_z`, of the Ledoit-Wolf covariance."""
    return _of_present(ledoit_wolf, timeseries, where)


def partial_z(timeseries: ArrayLike, *, where: str = "timeseries") -> Array:
    """As `fisher_z`, of the partial correlations that follow from the Ledoit-Wolf covariance."""
    return _of_present(lambda unit: partial_correlation(ledoit_wolf(unit)), timeseries, where)


def mean_over_phases(maps: Sequence[Array]) -> Array:
    """Mean of (R, R) maps over those that are not NaN, edge by edge; NaN where all are."""
    stacked = np.stack(maps)  # (n_phases, R, R)
    count = np.isfinite(stacked).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean: Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def scan_connectivity_of_shards(reader: ShardReader, scans: Collection[int] | None = None) -> Iterator[Array]:
    """Fisher z of each scan (rows `scans`, or all), mean over its phases: (R, R), NaN where missing."""
    chosen = ShardScans(reader, None if scans is None else sorted(scans))
    for number, label in enumerate(chosen.labels):
        yield mean_over_phases([fisher_z(phase, where=label) for phase in chosen.phases(number)])


def as_fisher_z(r: Array) -> Array:
    """arctanh of correlations (R, R), |r| limited to MAX_R; diagonal 0."""
    z: Array = np.arctanh(np.clip(r, -MAX_R, MAX_R))
    np.fill_diagonal(z, 0.0)
    return z


def _of_present(correlate: Callable[[Array], Array], timeseries: ArrayLike, where: str) -> Array:
    """A map of what `correlate` makes of the series that are there; it must not see the missing ones."""
    unit, missing = unit_series(timeseries, where=where)
    r = np.zeros((len(missing), len(missing)))
    if not missing.all():
        r[np.ix_(~missing, ~missing)] = correlate(unit[:, ~missing])
    return _as_map(r, missing)


def _as_map(r: Array, missing: NDArray[np.bool_]) -> Array:
    z = as_fisher_z(r)
    z[missing] = np.nan
    z[:, missing] = np.nan
    return z
