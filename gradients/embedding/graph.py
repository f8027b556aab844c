"""The affinity as a graph of regions: is it one, and does it hang together?

An affinity is symmetric, finite and not negative; a positive value is a link. A diffusion cannot cross
between pieces without a link, and the first components would only tell such pieces apart: that is refused,
or, if asked, the largest piece alone is used. R regions.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

_MAX_ASYMMETRY = 1e-10  # of the largest value
_BLOCK = 512  # rows that are compared at a time


def as_affinity(affinity: Any) -> Any:
    """Checked affinity (R, R): a float64 array, or a float64 CSR array without stored zeros.

    Not a copy where the input is one already.

    Raises
    ------
    InputError
        Not square; values that are not finite or negative; not symmetric.
    """
    from scipy.sparse import csr_array, issparse

    sparse = issparse(affinity)
    matrix: Any = csr_array(affinity, dtype=np.float64) if sparse else np.asarray(affinity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise InputError(f"affinity must be square, got shape {matrix.shape}.")
    if sparse and (not matrix.has_canonical_format or (matrix.data == 0).any()):
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    values = matrix.data if sparse else matrix
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):  # nan passes through min and max
        n_bad, n_negative = np.count_nonzero(~np.isfinite(values)), np.count_nonzero(values < 0)
        raise InputError(
            f"affinity must be finite and not negative, got {n_bad} non-finite and {n_negative} negative."
        )
    if not _is_symmetric(matrix, _MAX_ASYMMETRY * high):
        raise InputError("affinity must be symmetric.", hint="Use compute_affinity, or (A + A.T) / 2.")
    return matrix


def kept_regions(affinity: Any, *, keep_largest: bool = False) -> NDArray[np.bool_]:
    """(R,) True for the regions to embed: all of a connected graph, or those of its largest piece.

    Raises
    ------
    InputError
        A graph in several pieces, unless `keep_largest`; several largest pieces.
    """
    piece = pieces(affinity)
    sizes = np.bincount(piece)
    if len(sizes) == 1:
        return np.ones(len(piece), dtype=np.bool_)
    order = np.argsort(-sizes, kind="stable")
    if not keep_largest:
        others = [f"{sizes[number]} (regions {_named(piece == number)})" for number in order[1:6]]
        more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
        raise InputError(
            f"the affinity falls into {len(sizes)} pieces without a link: one of {sizes[order[0]]} regions, "
            f"others of {'; '.join(others)}{more}. A diffusion cannot cross between them.",
            hint="Lower the sparsity, use the kernel normalized_angle, leave these regions out, or embed "
            "only the largest piece (--keep-largest).",
        )
    if sizes[order[1]] == sizes[order[0]]:
        raise InputError(
            f"--keep-largest: {np.count_nonzero(sizes == sizes.max())} pieces of the affinity have "
            f"{sizes.max()} regions each; none is the largest.",
            hint="Lower the sparsity, or leave out the regions of all pieces but one.",
        )
    kept: NDArray[np.bool_] = piece == order[0]
    log.warning(
        "affinity: %d of %d regions have no link to the largest piece of the graph and get no gradients: %s.",
        *(np.count_nonzero(~kept), len(kept), _named(~kept, most=30)),
    )
    return kept


def pieces(affinity: Any) -> NDArray[np.intp]:
    """(R,) number of the connected piece that each region belongs to, in the order of their first regions."""
    from scipy.sparse import issparse

    if issparse(affinity):
        from scipy.sparse.csgraph import connected_components

        found: NDArray[np.intp] = connected_components(affinity, directed=False)[1].astype(np.intp)
        return found
    piece = np.full(len(affinity), -1, dtype=np.intp)
    number = 0
    while (unseen := np.flatnonzero(piece < 0)).size:
        front = unseen[:1]
        while front.size:  # every row is looked at once
            piece[front] = number
            linked = np.zeros(len(affinity), dtype=np.bool_)
            for start in range(0, len(front), _BLOCK):
                linked |= (affinity[front[start : start + _BLOCK]] > 0).any(axis=0)
            front = np.flatnonzero(linked & (piece < 0))
        number += 1
    return piece


def restrict(affinity: Any, kept: NDArray[np.bool_]) -> Any:
    """Rows and columns that are kept (K, K)."""
    return affinity if kept.all() else affinity[kept][:, kept]


def check_count(n_components: int, n_rois: int) -> None:
    if n_components < 1:
        raise InputError(f"n_components must be at least 1, got {n_components}.")
    if n_components > n_rois - 1:
        raise InputError(
            f"n_components must be at most {n_rois - 1} for {n_rois} regions, got {n_components}.",
            hint="Ask for fewer components (--n-components).",
        )


def refuse_zero(values: NDArray[np.float64], largest: float, *, n_rois: int) -> None:
    """Refuse eigenvalues (C,) that are 0 to rounding, given the largest of their matrix."""
    zero = np.abs(values) <= n_rois * np.finfo(np.float64).eps * largest
    if zero.any():
        n_real = int(zero.argmax())
        raise InputError(
            f"n_components = {len(values)}, but the affinity has only {n_real} positive eigenvalues above "
            "rounding error; a component beyond them is arbitrary.",
            hint=f"Ask for at most {n_real} components (--n-components)." if n_real else "",
        )


def relative_residuals(
    image: NDArray[np.float64], vectors: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(C,) ||M g - l g|| / (|l| ||g||) of vectors g (R, C), given their image M g."""
    error = np.linalg.norm(image - vectors * values, axis=0)
    residuals: NDArray[np.float64] = error / (np.abs(values) * np.linalg.norm(vectors, axis=0))
    return residuals


def _is_symmetric(matrix: Any, tolerance: float) -> bool:
    from scipy.sparse import issparse

    if issparse(matrix):
        turned = matrix.T.tocsr()
        if not np.array_equal(turned.indices, matrix.indices):  # links in one direction only: are they tiny?
            difference = abs(matrix - turned)
            return float(difference.max()) <= tolerance
        turned.data -= matrix.data
        return not turned.nnz or max(turned.data.max(), -turned.data.min()) <= tolerance
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        difference = matrix[start:stop, start:] - matrix[start:, start:stop].T
        if max(difference.max(), -difference.min()) > tolerance:
            return False
    return True


def _named(chosen: NDArray[np.bool_], most: int = 8) -> str:
    rows = np.flatnonzero(chosen) + 1
    return ", ".join(map(str, rows[:most])) + (", ..." if len(rows) > most else "")
