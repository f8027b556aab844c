"""Sums of maps over a few scans, edge by edge over the scans that have the edge.

Of the kind pearson the maps are not formed one by one (products.py), unless the phases of a scan miss
different regions.

T frames, R regions.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.kinds import Measure
from bjepa.gradients.connectivity.products import FisherSum
from bjepa.gradients.connectivity.scan_maps import fisher_z, mean_over_phases
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
Weights = Literal["equal", "frames"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True)
class MapSum:
    """Sum over scans: mean = total / weight where weight > 0."""

    total: Array  # (R, R) sum of weight * map, 0 where no scan has the edge
    weight: Array  # (R, R) sum of the weights of the scans that have the edge
    n_scans: int
    first: str  # label of the first scan


def sum_of_maps(scans: Scans, measure: Measure, weights: Weights) -> MapSum:
    """The sum over `scans` (at least one), each weighted equally or by its frames.

    Raises
    ------
    InputError
        As `Measure.of_scan`; scans of different R.
    """
    total = _Total(measure)
    for number, label in enumerate(scans.labels):
        phases = scans.phases(number)
        share = float(sum(map(len, phases))) if weights == "frames" else 1.0
        total.add(phases, share, where=label)
    return MapSum(total.maps(), total.weight(), len(scans), scans.labels[0])


class _Total:
    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._n_rois = 0  # until a scan is seen
        self._products: FisherSum | None = None  # of pearson only
        self._of_all = 0.0  # weight of scans that have every edge

    def add(self, phases: list[NDArray[np.floating]], share: float, *, where: str) -> None:
        if not phases:
            raise InputError(f"{where} holds no series.")
        n_rois = np.shape(phases[0])[-1]
        if self._n_rois == 0:
            self._n_rois = n_rois
            self._maps, self._of_some = np.zeros((n_rois, n_rois)), np.zeros((n_rois, n_rois))
            if self._measure.kind == "pearson":
                self._products = FisherSum(n_rois)
        check_same_regions(n_rois, self._n_rois, where)
        if self._products is not None:
            self._add_factors(self._products, phases, share, where)
        else:
            self._add_map(self._measure.of_scan(phases, where=where), share)

    def _add_factors(
        self, products: FisherSum, phases: list[NDArray[np.floating]], share: float, where: str
    ) -> None:
        units = [_unit_and_one(phase, where) for phase in phases]
        missing = units[0][1]
        if not all(np.array_equal(missing, other) for _, other in units):
            self._add_map(mean_over_phases([fisher_z(phase, where=where) for phase in phases]), share)
            return
        for unit, _ in units:
            products.add(unit, share / len(units))
        if missing.any():
            self._of_some += share * np.outer(~missing, ~missing)
        else:
            self._of_all += share

    def _add_map(self, z: Array, share: float) -> None:
        present = np.isfinite(z)
        self._maps += share * np.where(present, z, 0.0)
        self._of_some += share * present

    def maps(self) -> Array:
        return self._maps if self._products is None else self._maps + self._products.total()

    def weight(self) -> Array:
        return self._of_some + self._of_all


def _unit_and_one(phase: NDArray[np.floating], where: str) -> tuple[Array, NDArray[np.bool_]]:
    """(T + 1, R) centred, of length 1, and a last row of ones (products.py); (R,) which are missing."""
    values = np.asarray(phase)
    unit = np.ones((len(values) + 1, *values.shape[1:]))
    _, missing = unit_series(values, where=where, out=unit[:-1])
    return unit, missing


def check_same_regions(n_rois: int, n_before: int, where: str) -> None:
    """Refuse a scan that has other regions than those before it."""
    if n_rois != n_before:
        raise InputError(
            f"{where} has {n_rois} regions, the scans before it {n_before}.",
            hint="All scans need the same regions in the same order, one per column; frames are rows.",
        )
