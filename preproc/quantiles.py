"""Exact quantiles of any number of float32 values, in two passes over them and bounded memory.

A float32 is a sign, an exponent and a fraction, so its 32 bits order the values once negative ones are turned
round. Selection by digits of these bits (radix selection):
  pass 1   count, per column, the upper 16 bits of every value; the counts tell in which of the 65,536 bins
           each wanted order statistic lies, and how many values of that bin are smaller
  pass 2   count the lower 16 bits of the values in those bins: the order statistics are known to the last bit
The result does not depend on the order of the values or on how they are cut into calls: no sketch, no sample,
rank error 0. Memory is 256 kB a column in pass 1 (118 MB for 450 regions) and 256 kB a wanted bin in pass 2,
at most `memory`: bins that do not fit are counted in a further pass.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BINS = 1 << 16
_SIGN = np.uint32(1 << 31)


class QuantileFinder:
    """Quantiles of each column, as `numpy.percentile` defines them (linear between order statistics).

    Parameters
    ----------
    n_columns : columns of the values
    probabilities : of the quantiles, each in [0, 1]
    memory : bytes that the counts of one pass after the first may take

    Use::

        while finder.wants_pass:
            for values in everything():  # the same values in each pass, in any order
                finder.add(values)
            finder.end_pass()
        low, median, high = finder.quantiles()

    Counts are uint32: a column may hold up to 4.29e9 values.
    """

    def __init__(
        self, n_columns: int, probabilities: Sequence[float] = (0.25, 0.5, 0.75), *, memory: int = 640 << 20
    ) -> None:
        self.n_columns, self.probabilities = n_columns, tuple(probabilities)
        self.n_values = np.zeros(n_columns, dtype=np.int64)  # counted in pass 1
        self._bins_a_pass = max(1, memory // (4 * _BINS))
        self._upper: NDArray[np.uint32] | None = np.zeros(n_columns * _BINS, dtype=np.uint32)
        self._todo: list[_Bin] = []
        self._batch: _Batch | None = None
        self._found: dict[tuple[int, int], np.float32] = {}  # (column, rank) -> the order statistic

    @property
    def wants_pass(self) -> bool:
        """Whether all values must be added once more."""
        return self._upper is not None or self._batch is not None

    def add(self, values: NDArray[np.float32]) -> None:
        """Count `values` (n, n_columns); NaN is left out."""
        if values.ndim != 2 or values.shape[1] != self.n_columns or values.dtype != np.float32:
            raise ValueError(
                f"values must be float32 (n, {self.n_columns}), got {values.dtype} {values.shape}."
            )
        keys, known = _ordered(values), ~np.isnan(values)
        if self._upper is not None:
            slots = (keys >> 16).astype(np.int64) + np.arange(self.n_columns) * _BINS
            np.add.at(self._upper, slots[known], np.uint32(1))
            self.n_values += known.sum(axis=0)
        elif self._batch is not None:
            self._batch.count(keys, known)
        else:
            raise ValueError("the quantiles are found; no further pass is wanted.")

    def end_pass(self) -> None:
        """All values have been added."""
        if self._upper is not None:
            self._todo = self._wanted_bins(self._upper.reshape(self.n_columns, _BINS))
            self._upper = None
        elif self._batch is not None:
            self._found |= self._batch.order_statistics()
            self._batch = None  # free its counts before the next ones are made
        if self._todo:
            self._batch = _Batch(self._todo[: self._bins_a_pass], self.n_columns)
            self._todo = self._todo[self._bins_a_pass :]

    def quantiles(self) -> NDArray[np.float64]:
        """(n_probabilities, n_columns); NaN for a column without values."""
        if self.wants_pass:
            raise ValueError("the quantiles are not found yet: a pass is wanted.")
        quantiles = np.full((len(self.probabilities), self.n_columns), np.nan)
        for column in np.flatnonzero(self.n_values).tolist():
            for i, (lower, upper, share) in enumerate(self._ranks(column)):
                below, above = float(self._found[column, lower]), float(self._found[column, upper])
                quantiles[i, column] = _between(below, above, share)
        return quantiles

    def _ranks(self, column: int) -> list[tuple[int, int, float]]:
        """For each quantile the two order statistics (from 0) around it, and the share of the upper one."""
        last = int(self.n_values[column]) - 1
        places = [last * probability for probability in self.probabilities]
        return [(int(place), min(int(place) + 1, last), place - int(place)) for place in places]

    def _wanted_bins(self, upper: NDArray[np.uint32]) -> list["_Bin"]:
        bins = []
        for column in np.flatnonzero(self.n_values).tolist():
            up_to = np.cumsum(upper[column], dtype=np.int64)  # (_BINS,) values in this bin and those below
            ranks = sorted({rank for pair in self._ranks(column) for rank in pair[:2]})
            places = np.searchsorted(up_to, ranks, side="right")
            for place in np.unique(places).tolist():
                inside = int(upper[column, place])
                below = int(up_to[place]) - inside
                wanted = [rank for rank, there in zip(ranks, places, strict=True) if there == place]
                bins.append(_Bin(column, place, below, inside, wanted))
        return bins


class _Bin:
    """A bin of pass 1 that holds wanted order statistics."""

    __slots__ = ("below", "column", "inside", "place", "ranks")

    def __init__(self, column: int, place: int, below: int, inside: int, ranks: list[int]) -> None:
        self.column, self.place = column, place  # upper 16 bits of the values in it
        self.below, self.inside = below, inside  # number of values in smaller bins, in this bin
        self.ranks = ranks


class _Batch:
    """The bins that one pass looks into, and the counts of their lower 16 bits."""

    def __init__(self, bins: list[_Bin], n_columns: int) -> None:
        self.bins = bins
        self.lower = np.zeros(len(bins) * _BINS, dtype=np.uint32)
        # layer k holds the k-th bin of each column, so that a layer is one comparison of all values
        self.layers: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        depth = np.zeros(n_columns, dtype=np.int64)
        for slot, wanted in enumerate(bins):
            if depth[wanted.column] == len(self.layers):
                self.layers.append((np.full(n_columns, -1), np.zeros(n_columns, dtype=np.int64)))
            places, starts = self.layers[depth[wanted.column]]
            places[wanted.column], starts[wanted.column] = wanted.place, slot * _BINS
            depth[wanted.column] += 1

    def count(self, keys: NDArray[np.uint32], known: NDArray[np.bool_]) -> None:
        upper, lower = (keys >> 16).astype(np.int32), (keys & np.uint32(_BINS - 1)).astype(np.int64)
        for places, starts in self.layers:
            hit = (upper == places.astype(np.int32)) & known
            np.add.at(self.lower, (lower + starts)[hit], np.uint32(1))

    def order_statistics(self) -> dict[tuple[int, int], np.float32]:
        found: dict[tuple[int, int], np.float32] = {}
        for slot, wanted in enumerate(self.bins):
            up_to = np.cumsum(self.lower[slot * _BINS : (slot + 1) * _BINS], dtype=np.int64)
            if up_to[-1] != wanted.inside:
                raise ValueError("the values of this pass are not those of the pass before.")
            lower = np.searchsorted(up_to, np.array(wanted.ranks) - wanted.below, side="right")
            values = _from_ordered((np.uint32(wanted.place) << np.uint32(16)) | lower.astype(np.uint32))
            found |= {(wanted.column, rank): value for rank, value in zip(wanted.ranks, values, strict=True)}
        return found


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """uint32 in the order of the values (-0 before +0, which no quantile can tell)."""
    bits = values.view(np.int32)
    flip = (bits >> 31) | np.int32(-(1 << 31))  # of a negative value all bits, of a positive one the sign
    keys: NDArray[np.uint32] = (bits ^ flip).view(np.uint32)
    return keys


def _from_ordered(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    bits = np.where(keys & _SIGN, keys ^ _SIGN, ~keys).astype(np.uint32)
    return bits.view(np.float32)


def _between(below: float, above: float, share: float) -> float:
    """Linear interpolation, rounded as numpy does: from the nearer end."""
    step = above - below
    return above - step * (1 - share) if share >= 0.5 else below + step * share
