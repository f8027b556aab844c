"""Sparse rows that all have the same number of values: (V, K) columns and (V, K) values.

R regions or vertices, V of them with signal, K kept per row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import (
    Kernel,
    count_kept,
    largest_columns,
    ranks_above_zero,
    refuse_empty,
    warn_of_ties,
)

Floats = NDArray[np.floating]
STRIP = 128  # rows that one thread works on at a time


@dataclass(frozen=True, kw_only=True)
class SparseRows:
    """K values of each of V rows of V; the others are zero."""

    columns: NDArray[np.int32]  # (V, K), ascending
    values: Floats  # (V, K)
    kept: NDArray[np.bool_]  # (R,) which vertices the V rows are

    def dense(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop` (n, V) with their zeros."""
        from scipy.sparse import csr_array

        n, n_keep = stop - start, self.columns.shape[1]
        entries = self.values[start:stop].ravel(), self.columns[start:stop].ravel(), np.arange(n + 1) * n_keep
        rows: Floats = csr_array(entries, shape=(n, len(self.columns))).toarray()
        return rows


def rows_of_matrix(fc: NDArray[np.float64], sparsity: float, ranks: bool) -> SparseRows:
    n_keep = count_kept(sparsity, len(fc))
    columns, values = np.empty((len(fc), n_keep), dtype=np.int32), np.empty((len(fc), n_keep))
    n_tied = 0
    for start in range(0, len(fc), STRIP):
        own = slice(start, start + STRIP)
        columns[own], tied = largest_columns(fc[own], n_keep)
        kept = np.take_along_axis(fc[own], columns[own], axis=1)
        n_tied += int(np.count_nonzero(tied & (kept.min(axis=1) != 0)))
        values[own] = ranks_above_zero(kept, len(fc)) if ranks else kept
    warn_of_ties(n_tied, len(fc), n_keep)
    return SparseRows(columns=columns, values=values, kept=np.ones(len(fc), dtype=np.bool_))


def normalise(rows: SparseRows, kernel: Kernel, sparsity: float) -> Floats:
    """Change the rows in place so that their products are the kernel's, but for the offset (V,) returned.

    gaussian: rows stay as they are, offset |x|^2. Others: rows of length 1 (about their mean for pearson and
    spearman, whose offset is sqrt(V) times that mean; else 0).
    """
    n = len(rows.columns)
    offset, empty = np.zeros(n), np.zeros(n, dtype=np.bool_)
    for start in range(0, n, STRIP):
        own = slice(start, start + STRIP)
        values = rows.values[own].astype(np.float64)
        square = np.einsum("ij,ij->i", values, values)
        if kernel == "gaussian":
            offset[own] = square
            continue
        if kernel in ("pearson", "spearman"):
            mean = values.sum(axis=1) / n
            about_zero, square = square, square - n * mean**2
            empty[own] = square <= 1e-14 * about_zero  # constant
            offset[own] = np.sqrt(n) * mean
        else:
            empty[own] = square == 0
        norm = np.sqrt(np.where(empty[own], 1.0, square))
        rows.values[own] = values / norm[:, None]
        offset[own] /= norm
    everywhere = np.zeros(len(rows.kept), dtype=np.bool_)
    everywhere[rows.kept] = empty
    refuse_empty(everywhere, kernel, sparsity)
    return offset.astype(rows.values.dtype)
