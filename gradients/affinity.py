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
Source: Vos de Wael et al. 2020, "BrainSpace", Commun Biol 3:103, doi:10.1038/s42003-020-0794-7.
Differs from its code: a row left empty is an error (there it gets 0.5 with every region).
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.preproc.errors import InputError

Kernel = Literal["normalized_angle", "cosine", "pearson", "spearman", "gaussian"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


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
    if kernel not in KERNELS:
        raise InputError(f"kernel must be one of {KERNELS}, got {kernel!r}.")
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be in [0, 1), got {sparsity}.", hint="It is a share: 0.9, not 90.")

    # int, as BrainSpace: 39 of 400 at 0.9. With 40, gradient 1 agrees with it only to |r| 0.989.
    n_keep = int((1 - sparsity) * fc.shape[1])
    if n_keep < 1:
        raise InputError(
            f"sparsity {sparsity} leaves nothing of rows of {fc.shape[1]} values.", hint="Lower the sparsity."
        )
    values = _kernel(_keep_largest(fc, n_keep), kernel, sparsity)  # (n_rois, n_rois)
    np.maximum(values, 0.0, out=values)
    np.fill_diagonal(values, 1.0)  # arccos(1 - 1e-16) is 1.5e-8, not 0
    return values


def _kernel(rows: NDArray[np.float64], kernel: Kernel, sparsity: float) -> NDArray[np.float64]:
    if kernel == "gaussian":
        from scipy.spatial.distance import cdist

        distance = cdist(rows, rows, "sqeuclidean")  # (n_rois, n_rois)
        similarity: NDArray[np.float64] = np.exp(-distance / rows.shape[1])
        return similarity
    if kernel == "spearman":
        from scipy.stats import rankdata

        rows = rankdata(rows, axis=1)
    if kernel in ("pearson", "spearman"):
        rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)  # (n_rois, 1)
    if not norm.all():
        empty = (np.flatnonzero(norm == 0) + 1).tolist()
        what = "constant" if kernel in ("pearson", "spearman") else "zero"
        raise InputError(
            f"fc: {len(empty)} rows are {what} at sparsity {sparsity}: {empty[:12]} (counted from 1).",
            hint="Leave these regions out, or lower the sparsity.",
        )
    unit = rows / norm
    cosine = np.clip(unit @ unit.T, -1.0, 1.0)  # rounding yields 1 + 2e-16, whose arccos is nan
    similarity = 1.0 - np.arccos(cosine) / np.pi if kernel == "normalized_angle" else cosine
    return similarity


def _keep_largest(rows: NDArray[np.float64], n_keep: int) -> NDArray[np.float64]:
    """Copy of `rows` in which only the `n_keep` largest values of every row are left."""
    kept, n_drop = rows.copy(), rows.shape[1] - n_keep
    smallest = np.argsort(rows, axis=1, kind="stable")[:, :n_drop]
    np.put_along_axis(kept, smallest, 0.0, axis=1)
    return kept
