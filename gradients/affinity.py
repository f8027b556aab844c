"""Affinity of brain regions: how alike two rows of a connectivity matrix are.

Order of operations (each step works on the result of the one before):
  1. sparsify  keep the largest `1 - sparsity` share of every row, zero the rest
  2. kernel    of every pair of sparse rows x, y
       "normalized_angle"  1 - arccos(cosine) / pi, in [0, 1], 0.5 = unrelated (the paper's)
       "cosine"            x.y / (|x| |y|)
       "pearson"           correlation
       "spearman"          correlation of ranks
       "gaussian"          exp(-|x - y|^2 / n_targets); the only one that depends on the units of fc
  3. clamp     negative values become 0
Ties: exactly `count_kept` values of each row are kept. Where equal values stand on both sides of the cut,
those in the first columns are kept; unless they are zero the choice matters, and a warning says so.
Memory: fc and two matrices of (n_rois, n_rois).

Source: Vos de Wael et al. 2020, "BrainSpace", Commun Biol 3:103, doi:10.1038/s42003-020-0794-7.
Differs from its code (0.3.0): a row left empty is an error (there it gets 0.5 with every region); of equal
values at the cut it keeps whichever numpy's argpartition happens to put last.
"""

import logging
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Kernel = Literal["normalized_angle", "cosine", "pearson", "spearman", "gaussian"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
_BLOCK_VALUES = 2**20  # of rows that are sorted at a time, so that their order fits the cache


def compute_affinity(
    fc: ArrayLike, *, kernel: Kernel = "normalized_angle", sparsity: float = 0.9
) -> NDArray[np.float64]:
    """Affinity between the rows of `fc`.

    Parameters
    ----------
    fc
        (n_rois, n_targets) connectivity, one row per region; Pearson r or Fisher z, unitless. Not modified.
    kernel
        One of KERNELS.
    sparsity
        In [0, 1): share (not percent) of every row that is set to zero.

    Returns
    -------
    (n_rois, n_rois) float64, symmetric, in [0, 1], ones on the diagonal.

    Raises
    ------
    InputError
        Not such a matrix or option; a row without any value left.
    """
    fc = np.asarray(fc, dtype=np.float64)
    if fc.ndim != 2 or not np.isfinite(fc).all():
        bad = f"{fc.shape} with {np.count_nonzero(~np.isfinite(fc))} non-finite values"
        raise InputError(f"fc must be 2-D and finite, got {bad}.", hint="Leave out regions without signal.")
    check_kernel(kernel)
    n_keep = count_kept(sparsity, fc.shape[1])
    rows, tied = keep_largest(fc, n_keep, ranks=kernel == "spearman")
    warn_of_ties(int(np.count_nonzero(tied)), len(fc), n_keep)
    values = _kernel(rows, kernel, sparsity)  # (n_rois, n_rois); rows are used up
    np.maximum(values, 0.0, out=values)
    np.fill_diagonal(values, 1.0)  # arccos(1 - 1e-16) is 1.5e-8, not 0
    return values


def check_kernel(kernel: str) -> None:
    if kernel not in KERNELS:
        raise InputError(f"kernel must be one of {KERNELS}, got {kernel!r}.")


def count_kept(sparsity: float, n_targets: int) -> int:
    """How many values of a row of `n_targets` are kept: a truncated share, as in BrainSpace.

    39 of 400 at 0.9 (1 - 0.9 is below 0.1). With 40, gradient 1 of the HCP matrix agrees only to |r| 0.989.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be in [0, 1), got {sparsity}.", hint="It is a share: 0.9, not 90.")
    n_keep = int((1 - sparsity) * n_targets)
    if n_keep < 1:
        raise InputError(
            f"sparsity {sparsity} leaves nothing of rows of {n_targets} values.", hint="Lower the sparsity."
        )
    return n_keep


def keep_largest(rows: Array, n_keep: int, *, ranks: bool = False) -> tuple[Array, NDArray[np.bool_]]:
    """Copy of `rows` (n, m) in which only the `n_keep` largest values of each are left, or their ranks.

    Returns also which rows (n,) were cut between equal values other than zero; the first of them are kept.
    """
    kept, tied = np.zeros_like(rows), np.zeros(len(rows), dtype=np.bool_)
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        columns, cut = largest_columns(block, n_keep)
        values = np.take_along_axis(block, columns, axis=1)  # (n_block, n_keep)
        tied[start : start + step] = cut & (values.min(axis=1) != 0)  # a zero kept is as one set to zero
        if ranks:
            values = ranks_above_zero(values, rows.shape[1])
        np.put_along_axis(kept[start : start + step], columns, values, axis=1)
    return kept, tied


def largest_columns(rows: NDArray[np.floating], n_keep: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Columns (n, n_keep), ascending, of the largest values of each row (of equal ones the first columns),
    and which rows (n,) were cut between equal values."""
    n_drop = rows.shape[1] - n_keep
    if n_drop <= 0:
        columns = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        return columns, np.zeros(len(rows), dtype=np.bool_)
    columns = np.argpartition(rows, n_drop, axis=1)[:, n_drop:]  # the first of them is the smallest
    last = np.take_along_axis(rows, columns[:, :1], axis=1)  # (n, 1) the smallest value that is kept
    n_equal = np.count_nonzero(rows == last, axis=1)
    tied = n_equal > np.count_nonzero(np.take_along_axis(rows, columns, axis=1) == last, axis=1)
    columns = np.sort(columns, axis=1)
    if tied.any():
        among, last = rows[tied], last[tied]
        above, equal = among > last, among == last
        n_wanted = n_keep - np.count_nonzero(above, axis=1, keepdims=True)
        kept = above | (equal & (np.cumsum(equal, axis=1) <= n_wanted))
        columns[tied] = np.nonzero(kept)[1].reshape(-1, n_keep)
    return columns, tied


def without_ties(fc: ArrayLike, *, sparsity: float) -> Array:
    """Copy of `fc` in which values that `compute_affinity` drops although they equal one that it keeps are
    smaller by the last bit: any other program then keeps the same ones, with the same values."""
    changed = np.array(fc, dtype=np.float64)
    n_keep = count_kept(sparsity, changed.shape[1])
    columns, tied = largest_columns(changed, n_keep)
    for row in np.flatnonzero(tied):
        dropped = changed[row] == changed[row, columns[row]].min()
        dropped[columns[row]] = False
        changed[row, dropped] = np.nextafter(changed[row, dropped], -np.inf)
    return changed


def warn_of_ties(n_tied: int, n_rows: int, n_keep: int) -> None:
    """Say that equal values were cut apart in `n_tied` rows."""
    if n_tied:
        log.warning(
            "connectivity: in %d of %d rows the %d largest values end among equal ones (as in rounded or "
            "binary matrices); those in the first columns were kept.",
            *(n_tied, n_rows, n_keep),
        )


def _kernel(rows: Array, kernel: Kernel, sparsity: float) -> Array:
    """Similarity (n, n) of sparse rows (n, m), for spearman of their ranks. The rows are overwritten."""
    n_targets = rows.shape[1]
    if kernel == "gaussian":
        square = np.einsum("ij,ij->i", rows, rows)  # (n,)
        distance = rows @ rows.T  # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y
        distance *= -2
        distance += square
        distance += square[:, None]
        distance /= -n_targets
        np.minimum(distance, 0.0, out=distance)  # rounding yields distances of -1e-16
        return np.exp(distance, out=distance)
    if kernel in ("pearson", "spearman"):
        rows -= rows.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # (n,)
    refuse_empty(norm == 0, kernel, sparsity)
    rows /= norm[:, None]
    similarity: Array = rows @ rows.T  # numpy sees the transpose and calls syrk: half the work, symmetric
    if kernel == "normalized_angle":
        np.clip(similarity, -1.0, 1.0, out=similarity)  # rounding yields 1 + 2e-16, whose arccos is nan
        np.arccos(similarity, out=similarity)
        similarity /= np.pi
        np.subtract(1.0, similarity, out=similarity)
    else:
        np.clip(similarity, -1.0, 1.0, out=similarity)
    return similarity


def ranks_above_zero(values: NDArray[np.floating], n_targets: int) -> Array:
    """Ranks that `values` (n, n_keep) have in rows of `n_targets` values whose others are zero, less the rank
    of zero (equal values have the mean of their ranks): zeros stay zeros, correlations stay as they are."""
    from scipy.stats import rankdata

    n_others = n_targets - values.shape[1]
    n_below = np.count_nonzero(values < 0, axis=1, keepdims=True)  # (n, 1)
    n_zeros = np.count_nonzero(values == 0, axis=1, keepdims=True) + n_others
    rank_of_zero = n_below + (n_zeros + 1) / 2
    ranks: Array = rankdata(values, axis=1) + n_others * (values > 0) - rank_of_zero
    return np.where(values == 0, 0.0, ranks)


def refuse_empty(empty: NDArray[np.bool_], kernel: Kernel, sparsity: float) -> None:
    """Name the rows (n,) that have no direction: nothing, or the same everywhere."""
    if empty.any():
        what = "constant" if kernel in ("pearson", "spearman") else "zero"
        raise InputError(
            f"fc: {np.count_nonzero(empty)} rows are {what} at sparsity {sparsity}: "
            f"{(np.flatnonzero(empty)[:12] + 1).tolist()} (counted from 1).",
            hint="Leave these regions out, or lower the sparsity.",
        )
