"""What connectivity of one scan is, and how the mean over scans becomes the group's.

Every kind is a map per scan that is averaged edge by edge over the scans that have it; so halves, groups and
single participants are means of the same maps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.scan_maps import _mean_where_present, fisher_z
from bjepa.gradients.scans import Scans

Array = NDArray[np.float64]
Kind = Literal["pearson", "ledoit-wolf", "partial", "tangent"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Weights = Literal["equal", "frames"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True)
class Measure:
    """One kind of connectivity. `reference`: (R, R) the point at which `tangent` maps are taken."""

    kind: Kind = "pearson"
    reference: Array | None = None

    def of_scan(self, phases: Sequence[NDArray[np.floating]], *, where: str) -> Array:
        """The map of one scan, mean over its phases: (R, R) float64, NaN at edges of missing regions."""
        return _mean_where_present([fisher_z(phase, where=where) for phase in phases])

    def group(self, mean: Array) -> Array:
        """Group connectivity (R, R) from the mean of maps."""
        return mean


@dataclass(frozen=True)
class ParticipantMap:
    """Sum of a participant's maps, and of their weights: mean = total / weight where weight > 0."""

    participant_id: str
    scans: list[int]  # numbers
    total: Array  # (R, R) sum of weight * map, 0 where no scan has the edge
    weight: Array  # (R, R) sum of the weights of the scans that have the edge


def participant_maps(
    scans: Scans, measure: Measure, *, weights: Weights = "equal", n_jobs: int = 1
) -> Iterator[ParticipantMap]:
    """The map of each participant, in order of first appearance; scans without an id are one each."""
    numbers: dict[str, list[int]] = {}
    for number, person in enumerate(scans.entities["participant_id"]):
        numbers.setdefault(person or f"scan {number + 1}", []).append(number)
    for person, own in numbers.items():
        total, weight = np.zeros((0, 0)), np.zeros((0, 0))
        for number in own:
            phases = scans.phases(number)
            z = measure.of_scan(phases, where=scans.labels[number])
            if not total.size:
                total, weight = np.zeros(z.shape), np.zeros(z.shape)
            share = float(sum(map(len, phases))) if weights == "frames" else 1.0
            present = np.isfinite(z)
            total += share * np.where(present, z, 0.0)
            weight += share * present
        yield ParticipantMap(person, own, total, weight)
