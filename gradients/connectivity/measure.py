"""From scans to mean connectivity: of all, of groups, of each participant; streaming, on several cores.

Order of operations:
  1. fit_measure         the kind; for `tangent` also its reference, from all scans (geometric_mean.py)
  2. pieces              sixteen scans at a time, maps summed edge by edge over the scans that have the edge
  3. reduce              the pieces' sums, in order, so that the bytes do not depend on `n_jobs`
  4. mean                sum / weight; `Measure.group` makes the group's connectivity of it
Memory does not grow with the number of scans. Sums are float64: a float32 sum is off by 9e-5 after 20,000
scans.

R regions, G groups.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.geometric_mean import geometric_mean
from bjepa.gradients.connectivity.kinds import KINDS, Kind, Measure
from bjepa.gradients.connectivity.parallel import (
    Progress,
    count_pieces,
    in_order,
    pieces_of,
    read_in_processes,
)
from bjepa.gradients.connectivity.series import check_same_regions
from bjepa.gradients.connectivity.sums import WEIGHTS, MapSum, Summer, Weights
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

__all__ = [
    "KINDS",
    "WEIGHTS",
    "Kind",
    "Measure",
    "ParticipantMap",
    "Progress",
    "Weights",
    "fit_measure",
    "mean_connectivity",
    "mean_of_pieces",
    "participant_maps",
]

Array = NDArray[np.float64]
NAMED = 8  # regions or pairs named in a message


def fit_measure(kind: Kind, scans: Scans, *, n_jobs: int = 1, progress: Progress | None = None) -> Measure:
    """The measure of a kind. Only `tangent` reads scans: several times, until their geometric mean is found.

    Parameters
    ----------
    n_jobs : workers, as joblib counts (-1 = all cores); results are the same to the byte
    progress
        Called with the number of scans read since the last call (`tqdm.update` fits). Each pass counts its
        scans anew; how many passes there will be is not known before.

    Raises
    ------
    InputError
        Unknown kind; tangent: no scan has all regions, or a covariance is singular.
    """
    if kind != "tangent":
        return Measure(kind)
    return Measure(kind, geometric_mean(scans, n_jobs=n_jobs, progress=progress))


@overload
def mean_connectivity(
    scans: Scans,
    measure: Measure,
    *,
    weights: Weights = ...,
    n_jobs: int = ...,
    progress: Progress | None = ...,
    groups: None = ...,
) -> Array: ...


@overload
def mean_connectivity(
    scans: Scans,
    measure: Measure,
    *,
    weights: Weights = ...,
    n_jobs: int = ...,
    progress: Progress | None = ...,
    groups: Sequence[int],
) -> tuple[list[Array], list[int]]: ...


def mean_connectivity(
    scans: Scans,
    measure: Measure,
    *,
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
    groups: Sequence[int] | None = None,
) -> Array | tuple[list[Array], list[int]]:
    """Mean of the scans' maps, or of each group's, in one pass. `measure.group(mean)` is their connectivity.

    Parameters
    ----------
    weights : of a scan: "equal", or "frames", its number (of all its phases, without scrubbed ones)
    n_jobs : workers, as joblib counts (-1 = all cores); results are the same to the byte
    progress : called with the number of scans done since the last call (`tqdm.update` fits)
    groups : of each scan the number of its group, from 0; negative: in none, not read

    Returns
    -------
    (R, R) float64, symmetric; with `groups` a list of them and of the numbers of scans, one a group.

    Raises
    ------
    InputError
        No scan (of a group); scans of different R; series that cannot be correlated; an edge that no scan
        has; unknown weights.
    """
    if groups is None:
        parts = _sums(pieces_of(scans), measure, weights, n_jobs, processes=read_in_processes(scans))
        return _mean(_add_up(parts, progress), measure, scans.names)
    numbers = np.asarray(groups, dtype=np.int64)  # (n_scans,)
    if numbers.shape != (len(scans),):
        raise ValueError(f"groups must give one number per scan: {len(scans)}, got shape {numbers.shape}")
    means, counts = [], []
    members = [np.flatnonzero(numbers == group).tolist() for group in range(int(numbers.max(initial=-1)) + 1)]
    pieces = (piece for own in members for piece in pieces_of(scans, own))  # no piece has two groups
    sums = _sums(pieces, measure, weights, n_jobs, processes=read_in_processes(scans))
    for group, own in enumerate(members):
        of_group = islice(sums, count_pieces(len(own)))
        means.append(_mean(_add_up(of_group, progress), measure, scans.names, f" of group {group + 1}"))
        counts.append(len(own))
    return means, counts


def mean_of_pieces(
    pieces: Iterable[Scans],
    measure: Measure,
    *,
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
) -> Array:
    """As `mean_connectivity`, of scans in memory that come a few at a time and only once."""
    parts = _sums(pieces, measure, weights, n_jobs, processes=False)
    return _mean(_add_up(parts, progress), measure, names)


@dataclass(frozen=True)
class ParticipantMap:
    """Sum of a participant's maps, and of their weights: mean = total / weight where weight > 0."""

    participant_id: str
    scans: list[int]  # numbers
    total: Array  # (R, R) sum of weight * map, 0 where no scan has the edge
    weight: Array  # (R, R) sum of the weights of the scans that have the edge


def participant_maps(
    scans: Scans,
    measure: Measure,
    *,
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Iterator[ParticipantMap]:
    """The map of each participant, in order of first appearance; scans without an id are one each.

    At most twice `n_jobs` maps wait in memory. Parameters and errors are those of `mean_connectivity`; an
    edge that a participant lacks has weight 0.
    """
    numbers: dict[str, list[int]] = {}
    for number, person in enumerate(scans.entities["participant_id"]):
        numbers.setdefault(person or f"scan {number + 1}", []).append(number)
    pieces = map(scans.subset, numbers.values())
    sums = _sums(pieces, measure, weights, n_jobs, processes=read_in_processes(scans))
    n_rois = 0
    for (person, own), part in zip(numbers.items(), sums, strict=True):
        n_rois = n_rois or len(part.total)
        check_same_regions(len(part.total), n_rois, part.first)
        if progress is not None:
            progress(len(own))
        yield ParticipantMap(person, own, part.total, part.weight)


def _sums(
    pieces: Iterable[Scans], measure: Measure, weights: Weights, n_jobs: int, *, processes: bool
) -> Iterator[MapSum]:
    return in_order(Summer(measure, weights), pieces, n_jobs=n_jobs, processes=processes)


def _add_up(parts: Iterable[MapSum], progress: Progress | None) -> MapSum | None:
    """The sum of sums, in order; None of none."""
    total = None
    for part in parts:
        total = part if total is None else total.add(part)
        if progress is not None:
            progress(part.n_scans)
    return total


def _mean(total: MapSum | None, measure: Measure, names: Sequence[str] | None, whose: str = "") -> Array:
    if total is None:
        raise InputError(f"no scan{whose} to compute connectivity from.")
    weight = total.weight  # (R, R)
    if not weight.all():
        if measure.kind == "tangent":
            raise InputError(
                f"each of {total.n_scans} scans{whose} misses a region, and connectivity of the kind tangent "
                "needs all of them.",
                hint="Leave regions that are often missing out, or use another kind.",
            )
        raise InputError(
            _never_seen(weight, total.n_scans, names, whose),
            hint="Leave these regions out of the atlas.",
        )
    return np.divide(total.total, weight, out=total.total)


def _never_seen(weight: Array, n_scans: int, names: Sequence[str] | None, whose: str) -> str:
    """Name the regions, or else the pairs, of which no scan holds a value."""

    def name(region: int) -> str:
        return f"{region + 1} ({names[region]})" if names is not None else str(region + 1)

    scans = f"the scan{whose}" if n_scans == 1 else f"any of {n_scans} scans{whose}"
    regions = np.flatnonzero(~weight.any(axis=1))
    if len(regions):
        shown = ", ".join(name(int(r)) for r in regions[:NAMED])
        more = f" and {len(regions) - NAMED} more" if len(regions) > NAMED else ""
        return f"no signal (constant or missing) in {scans} for region {shown}{more}."
    pairs = np.argwhere(np.triu(weight == 0, k=1))
    shown = ", ".join(f"{name(int(a))} with {name(int(b))}" for a, b in pairs[:NAMED])
    more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    return f"never seen together in {scans}: region {shown}{more}."
