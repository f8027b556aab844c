"""The nearest rows of each of many sparse rows, by products of dense tiles.

Order of operations, for panel after panel of P rows:
  1. make the panel dense; its products with every tile of Q rows from its first row on
  2. rows behind the panel: its columns are candidates, the `n_neighbors` best of all so far are kept
  3. rows of the panel: they have had the columns before it that way, and get the others at once: finished
  4. after the last panel, the union: a pair stays if either has the other among its own
Half of the products suffice, as they are symmetric. Of equal scores the first columns are kept, so neither
the size of panels nor the number of threads decides.

V vertices, K kept in a row, P rows of a panel, Q of a tile.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import Kernel, largest_columns
from bjepa.gradients.neighbours.rows import STRIP, Floats, SparseRows, normalise
from bjepa.gradients.neighbours.threads import Progress, duration, seconds_per_flop, threads
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

_LARGEST_PANEL = 16 * STRIP


class Tiles:
    """The `n_neighbors` best columns of every row so far, and their scores. The rows are normalised."""

    def __init__(
        self,
        rows: SparseRows,
        kernel: Kernel,
        sparsity: float,
        n_neighbors: int,
        n_jobs: int,
        max_bytes: float,
    ) -> None:
        from joblib import effective_n_jobs

        self.kernel, self.n_jobs = kernel, effective_n_jobs(n_jobs)
        self.n, n_keep = rows.columns.shape
        self.n_best = min(n_neighbors, self.n - 1)
        self.dtype = rows.values.dtype
        self.panel_rows = self._panel_rows(n_keep, max_bytes)
        self.rows, self.offset = rows, normalise(rows, kernel, sparsity)
        # the last column is for the vertex itself
        self.columns = np.empty((self.n, self.n_best + 1), dtype=np.int32)
        self.scores = np.zeros((self.n, self.n_best + 1), dtype=self.dtype)

    def _panel_rows(self, n_keep: int, max_bytes: float) -> int:
        """Rows of a panel that fit, a multiple of STRIP."""
        size, best = self.dtype.itemsize, self.n_best + 1
        fixed = self.n * (n_keep + best) * (4 + size)
        of_threads = self.n_jobs * STRIP * (self.n * (3 * size + 12) + 2 * best * (size + 12))
        of_row = 2 * self.n * size + self.n_jobs * STRIP * (3 * size + 12)
        panel = int((max_bytes - fixed - of_threads) / of_row) // STRIP * STRIP
        # the graph, its transpose, both, and both as float64
        union = self.n * (n_keep * (4 + size) + best * (4 * (4 + size) + 2 * 8))
        if panel < STRIP or union > max_bytes:
            need = max(fixed + of_threads + STRIP * of_row, union) / 1e9
            raise InputError(
                f"the {self.n_best} nearest neighbours of {self.n} vertices need {need:.3g} GB of memory, "
                f"allowed are {max_bytes / 1e9:.3g} GB.",
                hint="Ask for fewer neighbours, allow more memory, or raise the sparsity.",
            )
        return min(panel, _LARGEST_PANEL)

    def graph(self, progress: Progress | None) -> Any:
        """(V, V) csr_array float64: the union of the neighbours of all, ones on the diagonal."""
        panels = range(0, self.n, self.panel_rows)
        n_tiles = sum(len(range(start, self.n, STRIP)) for start in panels)
        seconds = 2.0 * n_tiles * STRIP * self.panel_rows * self.n * seconds_per_flop(self.dtype.type)
        log.info(
            "affinity: the %d nearest of %d vertices, %d rows at a time; about %s, %d threads",
            *(self.n_best, self.n, self.panel_rows, duration(seconds / self.n_jobs), self.n_jobs),
        )
        n_tied = 0
        with threads(self.n_jobs) as pool:

            def steps() -> Iterator[None]:
                nonlocal n_tied
                for start in panels:
                    panel = _Panel(self, start, min(start + self.panel_rows, self.n))
                    for _ in pool.map(panel.multiply, range(start, self.n, STRIP)):
                        yield
                    n_tied += panel.finish(pool)
                    del panel  # before the next is made

            for _ in progress(steps(), n_tiles) if progress else steps():
                pass
        if n_tied > 0.01 * self.n:  # fewer come from rounding
            log.warning(
                "affinity: of %d of %d vertices the %d nearest end among equally near ones; the first of "
                "those were kept.",
                *(n_tied, self.n, self.n_best),
            )
        return self._union()

    def merge(self, own: slice, new: Floats, first: int) -> int:
        """Give rows `own` the scores `new` (n, w) of columns from `first` on; all before were seen.

        Returns how many rows were cut between equal scores.
        """
        n_had = min(self.n_best, first)
        scores = np.concatenate([self.scores[own, :n_had], new], axis=1)
        place, tied = largest_columns(scores, self.n_best)
        n_has = place.shape[1]
        before, old = place < n_had, np.minimum(place, max(n_had - 1, 0))
        columns = np.where(before, np.take_along_axis(self.columns[own], old, axis=1), first + place - n_had)
        self.columns[own, :n_has] = columns
        self.scores[own, :n_has] = np.take_along_axis(scores, place, axis=1)
        return int(np.count_nonzero(tied))

    def _union(self) -> Any:
        from scipy.sparse import csr_array

        for start in range(0, self.n, STRIP):
            own = slice(start, start + STRIP)
            self.scores[own] = self._affinity(self.scores[own].astype(np.float64))
        self.columns[:, -1], self.scores[:, -1] = np.arange(self.n), 1.0
        entries = self.scores.ravel(), self.columns.ravel(), np.arange(self.n + 1) * (self.n_best + 1)
        graph = csr_array(entries, shape=(self.n, self.n))
        graph.sort_indices()
        both = graph.maximum(graph.T.tocsr())  # without the zeros
        return both.astype(np.float64, copy=False)

    def _affinity(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of scores: cosine or correlation, for gaussian the logarithm."""
        if self.kernel == "gaussian":
            return np.exp(scores)
        scores = np.clip(scores, -1.0, 1.0)
        return 1 - np.arccos(scores) / np.pi if self.kernel == "normalized_angle" else np.maximum(scores, 0.0)


class _Panel:
    """P rows against all from the first of them on."""

    def __init__(self, tiles: Tiles, start: int, stop: int) -> None:
        self.tiles, self.start, self.stop = tiles, start, stop
        self.dense = tiles.rows.dense(start, stop)  # (P, V)
        self.scores = np.empty((stop - start, tiles.n - start), dtype=tiles.dtype)

    def multiply(self, first: int) -> None:
        """Scores of the panel with the tile of rows from `first` on, and with it those of the tile."""
        tiles = self.tiles
        tile = slice(first, min(first + STRIP, tiles.n))
        dense = tiles.rows.dense(tile.start, tile.stop) if first >= self.stop else self._own(tile)  # (Q, V)
        scores = dense @ self.dense.T  # (Q, P)
        panel = slice(self.start, self.stop)
        if tiles.kernel in ("pearson", "spearman"):  # cov = xy - mean(x) mean(y)
            scores -= tiles.offset[tile, None] * tiles.offset[panel]
        elif tiles.kernel == "gaussian":  # -|x - y|^2 / V
            scores *= 2
            scores -= tiles.offset[tile, None]
            scores -= tiles.offset[panel]
            np.minimum(scores, 0, out=scores)
            scores /= tiles.n
        self.scores[:, tile.start - self.start : tile.stop - self.start] = scores.T
        if first >= self.stop:
            tiles.merge(tile, scores, self.start)

    def _own(self, tile: slice) -> Floats:
        return self.dense[tile.start - self.start : tile.stop - self.start]

    def finish(self, pool: ThreadPoolExecutor) -> int:
        """Choose the neighbours of the panel's rows; returns how many were cut between equal scores."""
        diagonal = np.arange(self.stop - self.start)
        self.scores[diagonal, diagonal] = -np.inf  # a vertex is not its own neighbour

        def one(first: int) -> int:
            own = slice(first, min(first + STRIP, self.stop))
            new = self.scores[own.start - self.start : own.stop - self.start]
            return self.tiles.merge(own, new, self.start)

        return sum(pool.map(one, range(self.start, self.stop, STRIP)))
