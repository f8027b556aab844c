"""Sum of Fisher z over many scans with one logarithm for sixteen of them.

arctanh(r) = 1/2 log((1 + r) / (1 - r)), so the sum over scans k of equal weight is

    sum_k arctanh(r_k) = 1/2 log(prod_k (1 + r_k) / prod_k (1 - r_k))

Order of operations, in float64, for each pair of blocks of regions (above the diagonal of blocks only):
  1. s = 1 + r       one matrix product of series with a frame of ones appended
  2. limit s         to [1e-7, 2 - 1e-7], as |r| is in scan_maps.py
  3. products        of s and of 2 - s; both stay within 1e-112 and 2^16 for sixteen factors
  4. after sixteen, or when the weight changes: sum += weight / 2 * log(ratio)
A missing region has a column of zeros: s = 1, both factors are 1. A block of 256 x 256 stays in the cache
between the steps. Equal to the sum of `fisher_z` to 1e-12 where |r| < 0.999 (rounding of r itself costs
1e-16 / (1 - r^2)).

T frames, R regions.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.scan_maps import MAX_R

Array = NDArray[np.float64]
MAX_FACTORS = 16
BLOCK = 256  # regions; 0.5 MB a block


class FisherSum:
    """Weighted sum of the Fisher z maps of series, all of the same R regions. Used again after `take`."""

    def __init__(self, n_rois: int) -> None:
        self.n_rois = n_rois
        edges = np.linspace(0, n_rois, -(-n_rois // BLOCK) + 1).astype(int).tolist()
        blocks = [slice(a, b) for a, b in pairwise(edges)]
        self._pairs = [(rows, columns) for i, rows in enumerate(blocks) for columns in blocks[i:]]
        shapes = [(a.stop - a.start, b.stop - b.start) for a, b in self._pairs]
        self._above = [np.ones(shape) for shape in shapes]  # products of 1 + r
        self._below = [np.ones(shape) for shape in shapes]  # products of 1 - r
        self._sums = [np.zeros(shape) for shape in shapes]
        room = np.empty(max(a * b for a, b in shapes))  # of one block; shared, so that it stays in the cache
        self._factors = [room[: a * b].reshape(a, b) for a, b in shapes]
        self._n_factors, self._weight = 0, 1.0

    def add(self, unit_and_one: Array, weight: float) -> None:
        """Add a series: (T + 1, R), centred and of length 1, zero where missing; the last row is ones."""
        if weight != self._weight or self._n_factors == MAX_FACTORS:
            self._take_logarithm()
            self._weight = weight
        parts = zip(self._pairs, self._above, self._below, self._factors, strict=True)
        for (rows, columns), above, below, factor in parts:
            np.matmul(unit_and_one[:, rows].T, unit_and_one[:, columns], out=factor)  # 1 + r
            np.clip(factor, 1 - MAX_R, 1 + MAX_R, out=factor)
            np.multiply(above, factor, out=above)
            np.subtract(2.0, factor, out=factor)  # 1 - r
            np.multiply(below, factor, out=below)
        self._n_factors += 1

    def take(self) -> Array:
        """The sum, which starts again at 0: (R, R) float64, symmetric, diagonal 0."""
        self._take_logarithm()
        total = np.empty((self.n_rois, self.n_rois))
        for (rows, columns), part in zip(self._pairs, self._sums, strict=True):
            total[rows, columns] = part
            if rows != columns:
                total[columns, rows] = part.T
            part.fill(0.0)
        np.fill_diagonal(total, 0.0)
        return total

    def _take_logarithm(self) -> None:
        if self._n_factors == 0:
            return
        for above, below, part in zip(self._above, self._below, self._sums, strict=True):
            above /= below
            np.log(above, out=above)
            above *= self._weight / 2
            part += above
            above.fill(1.0)
            below.fill(1.0)
        self._n_factors = 0
