"""Gradients of one data set turned towards those of another, so that components can be compared.

A diffusion map fixes its components up to sign, and components of nearly equal eigenvalue up to rotation
among themselves. An orthogonal turn (rotation with reflection) changes neither the distances between regions
nor the space that the components span.

Order of operations (R regions, C components; n of them take part, the reference has k <= n):
  1. rows      G (rows, n) and F (rows, k): the regions that decide the turn
  2. turn      U S V' = svd(G' F); Q = U V', the (n, k) matrix with orthonormal columns that maximises
               tr(Q' G' F). For k = n it is the one that minimises ||G Q - F||
  3. complete  k < n: the other n - k columns, orthogonal to Q, as near to the identity as they can be
  4. apply     to all rows, deciding or not; components beyond n stay as they are

k < n is for a few published maps: a published gradient need not be one of our components (eigenvalues 1 and 2
of the HCP group differ by 1 to 6 %, so that data sets mix them), but it lies in the space of the first ones.
Two maps can be sought in ten of ours; the first two of the result are then the nearest to them.

Source: Schönemann 1966, doi:10.1007/BF02289451; as `procrustes` of BrainSpace with its defaults
(neither centred nor rescaled).
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.preproc.errors import InputError

Method = Literal["procrustes", "sign"]
METHODS: tuple[Method, ...] = get_args(Method)
_TIE_BREAK = 1e-6  # far above rounding, far below the error of data


def align_gradients(
    gradients: ArrayLike,
    reference: ArrayLike,
    *,
    method: Method = "procrustes",
    n_components: int | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Turn `gradients` towards `reference`.

    Parameters
    ----------
    gradients
        (R, C). Not modified.
    reference
        (R, C_ref), the same regions in the same order.
    method
        "procrustes": an orthogonal matrix, see the top of this file.
        "sign": only the sign of each component, so that it correlates positively.
    n_components
        How many leading components take part; default all that both have. May exceed C_ref: then the few of
        the reference are sought among so many of ours. Later ones stay as they are.
    rows
        (R,) bool: the regions that decide; default all. Others are turned along. Values may be missing (NaN)
        in rows that do not decide; such rows of `gradients` stay NaN.

    Returns
    -------
    (R, C) float64.

    Raises
    ------
    InputError
        Other regions than the reference, non-finite values in rows that decide, fewer such rows than
        components, an unknown method.
    """
    gradients = np.asarray(gradients, dtype=np.float64)
    turn = turn_towards(gradients, reference, method=method, n_components=n_components, rows=rows)
    turned: NDArray[np.float64] = gradients @ turn
    return turned


def turn_towards(
    gradients: ArrayLike,
    reference: ArrayLike,
    *,
    method: Method = "procrustes",
    n_components: int | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The (C, C) orthogonal matrix of `align_gradients`: gradients @ it are turned. Same arguments."""
    gradients = np.asarray(gradients, dtype=np.float64)
    reference = np.asarray(reference, dtype=np.float64)
    if method not in METHODS:
        raise InputError(f"method must be one of {METHODS}, got {method!r}.")
    moving, fixed = _deciding(gradients, reference, rows)  # (rows, C), (rows, C_ref)
    n_turned = _n_turned(moving.shape[1], fixed.shape[1], n_components)
    if len(moving) < n_turned:
        raise InputError(
            f"{len(moving)} regions cannot decide how {n_turned} components are turned.",
            hint=f"Let at most {len(moving)} components take part (n_components).",
        )

    moving, fixed = moving[:, :n_turned], fixed[:, :n_turned]
    turn = np.eye(gradients.shape[1])
    if method == "procrustes":
        turn[:n_turned, :n_turned] = complete_turn(semi_orthogonal(moving.T @ fixed))
    else:
        shared = fixed.shape[1]
        agreement = ((moving - moving.mean(axis=0))[:, :shared] * fixed).sum(axis=0)  # sign of correlation
        turn[range(shared), range(shared)] = np.where(agreement < 0, -1.0, 1.0)
    return turn


def semi_orthogonal(cross: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, k) Q with orthonormal columns that maximises tr(Q' cross); `cross` (n, k <= n) is G' F."""
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    turn: NDArray[np.float64] = left @ right
    return turn


def complete_turn(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) orthogonal: `turn` (n, k), and n - k more columns as near to those of the identity as can be.

    With N an orthonormal basis of what `turn` leaves, those are N W, W the orthogonal factor of N' E and E
    the last n - k columns of the identity; they do not depend on the basis. Where W is free (published maps
    that are our components 3 and 4 leave 1 and 2 without a place), a little of a Hilbert matrix decides: it
    is positive and any part of it has full rank, so that free components take free places in their order.
    """
    n, k = turn.shape
    if n == k:
        return turn
    rest = np.linalg.qr(turn, mode="complete")[0][:, k:]  # N (n, n - k)
    hilbert = 1.0 / (1.0 + np.arange(n)[:, None] + np.arange(n - k))
    wanted = np.eye(n)[:, k:] + _TIE_BREAK * hilbert
    left, _, right = np.linalg.svd(rest.T @ wanted)
    return np.hstack([turn, rest @ left @ right])


def correlations(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Pearson r of each column of (R, C1) with each of (R, C2): (C1, C2); nan where one is constant."""
    units = []
    for table in (np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)):
        centred = table - table.mean(axis=0)
        length = np.linalg.norm(centred, axis=0)
        varies = length > 1e-12 * np.abs(table).max(axis=0, initial=0.0) * np.sqrt(len(table))
        units.append(centred / np.where(varies, length, np.nan))
    r: NDArray[np.float64] = np.clip(units[0].T @ units[1], -1.0, 1.0)
    return r


def principal_cosines(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosines of the angles between two subspaces, spanned by columns: descending, in [0, 1].

    1 means a direction that both contain, 0 one that is orthogonal to everything in the other. Björck & Golub
    1973, doi:10.1090/S0025-5718-1973-0348991-3.
    """
    first_basis = np.linalg.qr(np.asarray(first, dtype=np.float64))[0]  # (R, C1)
    second_basis = np.linalg.qr(np.asarray(second, dtype=np.float64))[0]  # (R, C2)
    cosines: NDArray[np.float64] = np.linalg.svd(first_basis.T @ second_basis, compute_uv=False)
    return np.clip(cosines, 0.0, 1.0)


def _deciding(
    gradients: NDArray[np.float64], reference: NDArray[np.float64], rows: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both tables, only the rows that decide; checked."""
    for name, table in (("gradients", gradients), ("reference", reference)):
        if table.ndim != 2 or not table.size:
            raise InputError(f"{name} must be (regions, components), got shape {table.shape}.")
    if len(gradients) != len(reference):
        raise InputError(
            f"gradients have {len(gradients)} regions, the reference {len(reference)}.",
            hint="Align to gradients of the same atlas, regions in the same order.",
        )
    decide = np.ones(len(gradients), dtype=np.bool_) if rows is None else np.asarray(rows)
    if decide.dtype != np.bool_ or decide.shape != (len(gradients),):
        raise InputError(f"rows must be {len(gradients)} booleans, got {decide.dtype} {decide.shape}.")
    for name, table in (("gradients", gradients), ("reference", reference)):
        if n_bad := np.count_nonzero(~np.isfinite(table[decide]).all(axis=1)):
            raise InputError(
                f"{name} must be finite, got {table.shape} with {n_bad} rows that are not.",
                hint="Leave these regions out of the decision (rows).",
            )
    return gradients[decide], reference[decide]


def _n_turned(n_moving: int, n_fixed: int, n_components: int | None) -> int:
    n_turned = min(n_moving, n_fixed) if n_components is None else n_components
    if not 1 <= n_turned <= n_moving:
        raise InputError(f"n_components must be 1 to {n_moving} for these tables, got {n_turned}.")
    return n_turned
