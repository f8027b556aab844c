"""How much of the variance of connectivity profiles the first k components explain.

Order of operations (R regions, C components; k = 1 ... C):
  1. regions   without gradients are left out, as rows and as columns
  2. basis     [1, g_1 ... g_k], orthonormal (QR); a component that those before it span adds nothing
  3. regress   every column of fc on it: the profile of region j over the regions i
  4. diagonal  fc[j, j] is left out of the regression of column j: it is 0 or 1 by convention
  5. share     1 - (squared residuals) / (squared deviations from the mean), summed over all i != j

Step 4 costs nothing: leaving one row out of a regression lowers its residual sum of squares by
e_j^2 / (1 - h_j), with e_j the residual and h_j the leverage of that row (Cook & Weisberg 1982, section 2.2).
A share depends on the space that the first k components span, not on their turn within it, sign or length.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
_DEPENDENT = 1e-10  # part of a component's length that is new; less is rounding


def variance_explained(fc: ArrayLike, gradients: ArrayLike) -> Array:
    """Cumulative share of the variance of `fc` that the first 1, 2, ... C components explain.

    Parameters
    ----------
    fc
        (R, R) connectivity, any units, symmetric; its diagonal does not matter (may be NaN). Not modified.
    gradients
        (R, C); rows of NaN are regions without gradients.

    Returns
    -------
    (C,) float64, from 0 to 1, rising; 1 where there are no more regions than k + 2.

    Raises
    ------
    InputError
        Other shapes; non-finite values; connectivity without variance.
    """
    given, values = np.asarray(fc, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    if values.ndim != 2 or given.shape != (len(values), len(values)):
        raise InputError(f"fc must be (R, R) and gradients (R, C), got {given.shape} and {values.shape}.")
    kept = ~np.isnan(values).all(axis=1)  # (R,)
    profiles, values = given[np.ix_(kept, kept)], values[kept]  # copies
    np.fill_diagonal(profiles, 0.0)
    n_rois, n_components = values.shape
    if not (np.isfinite(profiles).all() and np.isfinite(values).all()):
        raise InputError("fc and gradients must be finite, apart from regions without gradients.")

    scale = np.square(profiles).sum()
    left = np.empty(n_components + 1)  # residual sum of squares over i != j
    leverage = np.zeros(n_rois)
    for k, direction in enumerate(_orthonormal(values)):  # (R,)
        profiles -= np.outer(direction, direction @ profiles)
        leverage += direction**2
        left[k] = _without_diagonal(profiles, leverage)
    if left[0] <= 1e-24 * scale or scale == 0:
        raise InputError("the connectivity has the same value everywhere: no variance to explain.")
    share: Array = np.clip(1 - left[1:] / left[0], 0.0, 1.0)
    return share


def _without_diagonal(residuals: Array, leverage: Array) -> float:
    """Residual sum of squares of regressions that each leave out the row of their own region."""
    own = np.diag(residuals)
    free = 1 - leverage  # 0: the region alone decides a direction, and its residual is 0
    gone = np.divide(own**2, free, out=np.zeros_like(own), where=free > _DEPENDENT)
    return float(np.einsum("ij,ij->", residuals, residuals) - gone.sum())


def _orthonormal(gradients: Array) -> list[Array]:
    """C + 1 vectors (R,): the constant, then what each component adds to those before it (0: nothing)."""
    n_rois = len(gradients)
    length = np.linalg.norm(gradients, axis=0)
    unit = gradients / np.where(length > 0, length, 1.0)
    design = np.column_stack([np.full(n_rois, n_rois**-0.5), unit])  # (R, C + 1)
    free = np.ones(design.shape[1], dtype=np.bool_)
    while True:
        basis, triangle = np.linalg.qr(design[:, free])
        new = np.abs(np.diag(triangle)) > _DEPENDENT
        if new.all():
            break
        free[np.flatnonzero(free)[np.argmin(new)]] = False  # the first; QR without it, then look again
    columns = iter(basis.T)
    return [next(columns) if is_free else np.zeros(n_rois) for is_free in free]
