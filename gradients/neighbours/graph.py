"""Affinity of very many nodes (vertices): of each, the nearest neighbours only; no R x R matrix is formed.

Order of operations:
  1. the largest `1 - sparsity` share of each row of the group connectivity       connectivity.py
  2. kernel of every pair of sparse rows, of each row the `n_neighbors` largest    nearest.py
  3. union: a pair stays if either has the other among its own. Both see the same affinity, so there is
     nothing to average: the mean of the two directions would halve that of one-sided pairs
  4. negative affinities become 0 (no edge), the diagonal 1
Series and products are float32 (affinities are off by 1e-6, close to 1 by 1e-5), or float64 if told so.

What comes out is a graph of nearest neighbours, and its diffusion map is another one than that of the full
affinity, in which every pair has an edge (with `normalized_angle` 0.5 for unrelated ones); it equals it where
`n_neighbors` is R. Source: Belkin & Niyogi 2003, doi:10.1162/089976603321780317, section 2 (graphs of nearest
neighbours); kernels as in bjepa.gradients.affinity.

R vertices, V of them with signal, K kept in a row of connectivity.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.affinity import Kernel, check_kernel
from bjepa.gradients.connectivity.measure import Measure, Weights
from bjepa.gradients.embedding import Embedding, embed
from bjepa.gradients.neighbours.connectivity import sparse_connectivity
from bjepa.gradients.neighbours.nearest import Tiles
from bjepa.gradients.neighbours.rows import rows_of_matrix
from bjepa.gradients.neighbours.threads import Progress
from bjepa.gradients.recipe import GradientOptions
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

MAX_MEMORY_GB = 6.0


def sparse_affinity(
    scans: Scans | NDArray[np.float64],
    *,
    n_neighbors: int,
    kernel: Kernel = "normalized_angle",
    sparsity: float = 0.9,
    measure: Measure | None = None,
    weights: Weights = "equal",
    dtype: type[np.floating] = np.float32,
    n_jobs: int = 1,
    max_memory_gb: float = MAX_MEMORY_GB,
    progress: Progress | None = None,
) -> Any:
    """Affinity between vertices, for each the nearest ones only.

    Parameters
    ----------
    scans
        Series of the vertices; or their connectivity (R, R), which is then in memory already.
    n_neighbors
        How many vertices each is joined to, itself not counted; R or more: all.
    measure
        Of connectivity; only `pearson` can be made row by row.
    weights
        Of scans in the mean: equal, or their frames.
    dtype
        float32 or float64, of series, products and affinities.
    n_jobs
        Threads, -1 = all cores. The result does not depend on it.
    max_memory_gb
        Of this function's own arrays (GB = 1e9 bytes), but for the result.
    progress
        Wraps the steps of the two long parts, as `tqdm(steps, total=n)`.

    Returns
    -------
    scipy.sparse.csr_array (R, R) float64, symmetric, in [0, 1], ones on the diagonal. Rows and columns of
    vertices without signal in any scan are empty, diagonal included.

    Raises
    ------
    InputError
        Wrong options; scans that cannot be averaged; more memory needed than allowed; a row without values.
    """
    check_kernel(kernel)
    if n_neighbors < 1:
        raise InputError(f"n_neighbors must be at least 1, got {n_neighbors}.")
    if measure is not None and measure.kind != "pearson":
        raise InputError(
            f"connectivity {measure.kind!r} cannot be computed for nearest neighbours (row by row).",
            hint="Use pearson, or all neighbours.",
        )
    ranks = kernel == "spearman"
    if isinstance(scans, np.ndarray):
        rows = rows_of_matrix(scans, sparsity, ranks)
    else:
        rows = sparse_connectivity(
            scans,
            sparsity=sparsity,
            ranks=ranks,
            weights=weights,
            dtype=dtype,
            n_jobs=n_jobs,
            max_bytes=1e9 * max_memory_gb,
            progress=progress,
        )
    graph = Tiles(rows, kernel, sparsity, n_neighbors, n_jobs, 1e9 * max_memory_gb).graph(progress)
    return _in_all_vertices(graph, rows.kept)


def embed_neighbours(
    scans: Scans | NDArray[np.float64],
    options: GradientOptions,
    *,
    n_neighbors: int,
    measure: Measure | None = None,
    weights: Weights = "equal",
    n_jobs: int = 1,
    max_memory_gb: float = MAX_MEMORY_GB,
    progress: Progress | None = None,
) -> tuple[Any, Embedding]:
    """`sparse_affinity` (R, R), and the components of vertices with signal; rows of others are NaN.

    Raises
    ------
    InputError
        As `sparse_affinity` and `embed`.
    """
    affinity = sparse_affinity(
        scans,
        n_neighbors=n_neighbors,
        kernel=options.kernel,
        sparsity=options.sparsity,
        measure=measure,
        weights=weights,
        n_jobs=n_jobs,
        max_memory_gb=max_memory_gb,
        progress=progress,
    )
    with_signal = affinity.diagonal() > 0  # (R,)
    own = affinity if with_signal.all() else affinity[with_signal][:, with_signal]
    result = embed(
        own,
        approach=options.approach,
        n_components=options.n_components,
        alpha=options.alpha,
        diffusion_time=options.diffusion_time,
        scale_by_eigenvalues=options.scale_by_eigenvalues,
        keep_largest=options.keep_largest,
    )
    gradients = np.full((len(with_signal), result.gradients.shape[1]), np.nan)
    gradients[with_signal] = result.gradients
    kept = np.zeros(len(with_signal), dtype=np.bool_)
    kept[with_signal] = result.kept
    return affinity, replace(result, gradients=gradients, kept=kept)


def _in_all_vertices(graph: Any, kept: NDArray[np.bool_]) -> Any:
    """(V, V) as (R, R) with empty rows and columns where not kept."""
    from scipy.sparse import csr_array

    if kept.all():
        return graph
    place = np.flatnonzero(kept).astype(graph.indices.dtype)
    counts = np.zeros(len(kept) + 1, dtype=graph.indptr.dtype)
    counts[1:][kept] = np.diff(graph.indptr)
    entries = graph.data, place[graph.indices], np.cumsum(counts)
    return csr_array(entries, shape=(len(kept), len(kept)))
