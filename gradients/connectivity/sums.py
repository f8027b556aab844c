"""Sums of maps over a few scans, edge by edge over the scans that have the edge.

Of the kinds pearson and ledoit-wolf the maps are not formed one by one (products.py), unless the phases of a
scan miss different regions.

T frames, R regions.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.covariance import ledoit_wolf_shrinkage
from bjepa.gradients.connectivity.kinds import Measure
from bjepa.gradients.connectivity.products import FisherSum
from bjepa.gradients.connectivity.series import check_same_regions, unit_series
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
Series = NDArray[np.floating]  # (T, R)
Weights = Literal["equal", "frames"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_BY_PRODUCTS = ("pearson", "ledoit-wolf")


@dataclass(frozen=True)
class MapSum:
    """Sum over scans: mean = total / weight where weight > 0."""

    total: Array  # (R, R) sum of weight * map, 0 where no scan has the edge
    of_all: float  # sum of the weights of the scans that have every edge
    of_some: (
        Array | None
    )  # (R, R) sum of the weights of the other scans where they have the edge; None of none
    n_scans: int
    first: str  # label of the first scan

    @property
    def weight(self) -> Array:
        """(R, R) sum of the weights of the scans that have the edge; read-only."""
        if self.of_some is None:
            return np.broadcast_to(self.of_all, self.total.shape)
        return self.of_some + self.of_all

    def add(self, other: "MapSum") -> "MapSum":
        """The sum of both; takes over the memory of this one."""
        check_same_regions(len(other.total), len(self.total), other.first)
        np.add(self.total, other.total, out=self.total)
        of_some = [part for part in (self.of_some, other.of_some) if part is not None]
        return MapSum(
            self.total,
            self.of_all + other.of_all,
            sum(of_some[1:], of_some[0]) if of_some else None,
            self.n_scans + other.n_scans,
            self.first,
        )


class Summer:
    """Sums maps over pieces of a cohort, each scan weighted equally or by its frames.

    Memory is kept from piece to piece, one room per thread: fresh pages would take a third of the time.
    """

    def __init__(self, measure: Measure, weights: Weights) -> None:
        if weights not in WEIGHTS:
            raise InputError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}.")
        self._measure, self._weights = measure, weights
        self._rooms: deque[_Room] = deque()  # those that no thread uses now

    def __call__(self, scans: Scans) -> MapSum:
        """The sum over `scans`, at least one.

        Raises
        ------
        InputError
            As `Measure.of_scan`; scans of different R.
        """
        try:
            room = self._rooms.pop()
        except IndexError:
            room = _Room()
        total = _Total(self._measure, room)
        for number, label in enumerate(scans.labels):
            phases = scans.phases(number)
            total.add(phases, float(sum(map(len, phases))) if self._weights == "frames" else 1.0, where=label)
        result = MapSum(total.maps(), total.of_all, total.of_some, len(scans), scans.labels[0])
        self._rooms.append(room)
        return result


class _Room:
    """Memory of one thread."""

    def __init__(self) -> None:
        self._units: list[Array] = []
        self._products: FisherSum | None = None

    def products(self, n_rois: int) -> FisherSum:
        if self._products is None or self._products.n_rois != n_rois:
            self._products = FisherSum(n_rois)
        return self._products

    def unit_and_one(self, phases: list[Series], where: str) -> list[tuple[Array, NDArray[np.bool_]]]:
        """Of each phase: (T + 1, R) centred, of length 1, last row ones (products.py); what is missing."""
        found = []
        for number, phase in enumerate(phases):
            shape = (len(phase) + 1, *phase.shape[1:])
            if number == len(self._units):
                self._units.append(np.empty(0))
            if self._units[number].size < np.prod(shape):
                self._units[number] = np.empty(int(np.prod(shape)))
            unit = self._units[number][: int(np.prod(shape))].reshape(shape)
            _, missing = unit_series(phase, where=where, out=unit[:-1])
            unit[-1] = 1.0
            found.append((unit, missing))
        return found


class _Total:
    """Sum of the maps of one piece."""

    def __init__(self, measure: Measure, room: _Room) -> None:
        self._measure, self._room = measure, room
        self._n_rois = 0  # until a scan is seen
        self._maps: Array | None = None  # sum of those that are formed one by one
        self.of_some: Array | None = None  # weight of scans that lack edges
        self.of_all = 0.0  # weight of scans that have every edge

    def add(self, phases: list[Series], share: float, *, where: str) -> None:
        if not phases:
            raise InputError(f"{where} holds no series.")
        units = self._room.unit_and_one(phases, where) if self._measure.kind in _BY_PRODUCTS else []
        if not units or any(not np.array_equal(units[0][1], missing) for _, missing in units):
            self._add_map(self._measure.of_scan(phases, where=where), share, where)
            return
        present = ~units[0][1]
        self._check_regions(len(present), where)
        for unit, _ in units:
            if self._measure.kind == "ledoit-wolf":  # the product of two series becomes the shrunk r
                unit[:-1] *= np.sqrt(1 - ledoit_wolf_shrinkage(unit[:-1], int(present.sum())))
            self._room.products(len(present)).add(unit, share / len(units))
        self._add_weight(share, present if present.all() else present[:, None] & present)

    def _check_regions(self, n_rois: int, where: str) -> None:
        self._n_rois = self._n_rois or n_rois
        check_same_regions(n_rois, self._n_rois, where)

    def _add_map(self, z: Array, share: float, where: str) -> None:
        self._check_regions(len(z), where)
        present = np.isfinite(z)
        part = share * np.where(present, z, 0.0)
        self._maps = part if self._maps is None else self._maps + part
        self._add_weight(share, present)

    def _add_weight(self, share: float, present: NDArray[np.bool_]) -> None:
        """`present`: of all regions (R,), or of edges (R, R)."""
        if present.all():
            self.of_all += share
        else:
            part = np.where(present, share, 0.0)
            self.of_some = part if self.of_some is None else self.of_some + part

    def maps(self) -> Array:
        if self._measure.kind not in _BY_PRODUCTS and self._maps is not None:
            return self._maps
        total = self._room.products(self._n_rois).take()
        return total if self._maps is None else total + self._maps
