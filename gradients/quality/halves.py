"""Mean connectivity of both halves of many splits of the participants, in one pass over the scans.

Order of operations (P participants, S splits, E = R (R + 1) / 2 edges of R regions):
  1. draw         S different halves A of P // 2 participants each; B is everybody else
  2. accumulate   participants' maps, a batch at a time: sums of A (S, E) += (S, batch) 0 or 1 @ (batch, E)
  3. the other    sum of B = sum of all - sum of A; likewise weights. The mean is sum / weight, edge by edge

Memory does not grow with participants: 8 S E bytes, and as many again once an edge is missing in a scan.
Sums are float64; one thread of BLAS adds them, so that the bytes do not depend on the number of cores.
"""

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.connectivity.measure import ParticipantMap

Array = NDArray[np.float64]
_BATCH = 32  # participants; at 450 regions 26 MB, and a product worth calling BLAS for
_BLOCK = 16_384  # edges of a product, so that its result stays small


def draw_halves(n_participants: int, n_splits: int, *, seed: int) -> NDArray[np.bool_]:
    """(S, P) who is in half A of each split, at random; no two splits are the same.

    S is `n_splits`, or all splits that there are, if these are fewer: 3 of 4 participants, 10 of 5.
    """
    size, even = n_participants // 2, n_participants % 2 == 0
    n_different = comb(n_participants, size) // (2 if even else 1)
    if n_different <= n_splits:
        chosen = list(combinations(range(n_participants), size))[
            :n_different
        ]  # even: those with the first one
        halves = np.zeros((n_different, n_participants), dtype=np.bool_)
        for row, members in zip(halves, chosen, strict=True):
            row[list(members)] = True
        return halves
    rng = np.random.default_rng(seed)
    found: dict[bytes, NDArray[np.bool_]] = {}
    while len(found) < n_splits:
        half = np.zeros(n_participants, dtype=np.bool_)
        half[rng.permutation(n_participants)[:size]] = True
        if even and not half[0]:
            half = ~half  # A and B exchanged are the same split
        found.setdefault(half.tobytes(), half)
    return np.array(list(found.values()))


def splits_at_once(n_splits: int, n_rois: int, *, max_memory_gb: float) -> int:
    """How many splits fit into memory (at least one), with a missing edge somewhere."""
    bytes_each = 2 * 8 * n_rois * (n_rois + 1) // 2
    return int(np.clip(0.8e9 * max_memory_gb // bytes_each, 1, n_splits))


class HalfMeans:
    """Sums over the halves of S splits; `add` every participant once, in the order of `halves` (S, P)."""

    def __init__(self, halves: NDArray[np.bool_], n_rois: int) -> None:
        self._halves = halves
        self._shape = (n_rois, n_rois)
        self._upper = np.flatnonzero(np.triu(np.ones(self._shape, dtype=np.bool_)))  # (E,)
        self._n_added = 0
        self._batch: list[Array] = []
        self._lacking: list[Array] = []  # weight that each edge lacks; as `_batch`, zero (1,) where none does
        self._sums = np.zeros((len(halves), len(self._upper)))  # (S, E) of half A
        self._all = np.zeros(len(self._upper))  # (E,)
        self._weights = np.zeros(len(halves))  # (S,) of half A, of scans that have every edge
        self._weight_of_all = 0.0
        self._lacks: Array | None = None  # (S, E) how much less of half A has the edge
        self._lacks_of_all = np.zeros(len(self._upper))

    def add(self, one: ParticipantMap) -> None:
        """The next participant."""
        weight = one.weight.ravel()[self._upper]
        own = float(weight.max())
        self._batch.append(one.total.ravel()[self._upper])
        self._lacking.append(own - weight if (weight < own).any() else np.zeros(1))
        member = self._halves[:, self._n_added]
        self._weights += own * member
        self._weight_of_all += own
        self._n_added += 1
        if len(self._batch) == _BATCH:
            self._flush()

    def means(self, split: int) -> tuple[Array, Array]:
        """Means of half A and half B (R, R), NaN at edges that no scan of the half has."""
        if self._batch:
            self._flush()
        lacks = 0.0 if self._lacks is None else self._lacks[split]
        sums = self._sums[split]
        weights = self._weights[split] - lacks  # whole numbers, so exact
        first = self._mean(sums, weights)
        second = self._mean(self._all - sums, self._weight_of_all - self._lacks_of_all - weights)
        return first, second

    def _mean(self, sums: Array, weights: Array | float) -> Array:
        weights = np.broadcast_to(weights, sums.shape)
        there = weights > 0
        mean = np.zeros(self._shape)
        mean.ravel()[self._upper] = np.where(there, sums / np.where(there, weights, 1.0), np.nan)
        full: Array = np.where(np.tri(*self._shape, k=-1, dtype=np.bool_), mean.T, mean)
        return full

    def _flush(self) -> None:
        members = self._halves[:, self._n_added - len(self._batch) : self._n_added].astype(np.float64)
        with one_blas_thread():
            _add_product(self._sums, members, np.array(self._batch))
            self._all += np.sum(self._batch, axis=0)
            if any(len(lacking) > 1 for lacking in self._lacking):
                if self._lacks is None:
                    self._lacks = np.zeros(self._sums.shape)
                lacking = np.array([np.broadcast_to(one, self._all.shape) for one in self._lacking])
                _add_product(self._lacks, members, lacking)
                self._lacks_of_all += lacking.sum(axis=0)
        self._batch, self._lacking = [], []


def _add_product(sums: Array, members: Array, values: Array) -> None:
    """sums (S, E) += members (S, batch) @ values (batch, E), a block of edges at a time."""
    for start in range(0, sums.shape[1], _BLOCK):
        sums[:, start : start + _BLOCK] += members @ values[:, start : start + _BLOCK]
