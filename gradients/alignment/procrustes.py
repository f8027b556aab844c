"""Gradients of one data set turned towards those of another, so that components can be compared.

A diffusion map fixes its components up to sign, and components of nearly equal eigenvalue up to rotation
among themselves. An orthogonal turn (rotation with reflection) changes neither the distances between regions
nor the space that the components span.

Source: Schönemann 1966, doi:10.1007/BF02289451; as `procrustes` of BrainSpace with its defaults
(neither centred nor rescaled).
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.preproc.errors import InputError

Method = Literal["procrustes", "sign"]
METHODS: tuple[Method, ...] = get_args(Method)


def align_gradients(
    gradients: ArrayLike,
    reference: ArrayLike,
    *,
    method: Method = "procrustes",
    n_components: int | None = None,
) -> NDArray[np.float64]:
    """Turn `gradients` towards `reference`.

    Parameters
    ----------
    gradients
        (R, C). Not modified.
    reference
        (R, C_ref), the same regions in the same order.
    method
        "procrustes": the orthogonal matrix Q that minimises ||G Q - reference||.
        "sign": only the sign of each component, so that it correlates positively.
    n_components
        How many leading components take part; default all that both have. Later ones stay as they are.

    Returns
    -------
    (R, C) float64.

    Raises
    ------
    InputError
        Other regions than the reference, non-finite values, an unknown method.
    """
    gradients = np.asarray(gradients, dtype=np.float64)
    reference = np.asarray(reference, dtype=np.float64)
    for name, table in (("gradients", gradients), ("reference", reference)):
        if table.ndim != 2 or not np.isfinite(table).all():
            raise InputError(f"{name} must be (regions, components) and finite, got shape {table.shape}.")
    if len(gradients) != len(reference):
        raise InputError(
            f"gradients have {len(gradients)} regions, the reference {len(reference)}.",
            hint="Align to gradients of the same atlas, regions in the same order.",
        )
    shared = min(gradients.shape[1], reference.shape[1])
    n_turned = shared if n_components is None else n_components
    if not 1 <= n_turned <= shared:
        raise InputError(f"n_components must be 1 to {shared} for these tables, got {n_turned}.")

    moving, fixed = gradients[:, :n_turned], reference[:, :n_turned]
    if method == "procrustes":
        from scipy.linalg import orthogonal_procrustes

        turned = moving @ orthogonal_procrustes(moving, fixed)[0]
    elif method == "sign":
        agreement = ((moving - moving.mean(axis=0)) * fixed).sum(axis=0)  # the sign of their correlation
        turned = moving * np.where(agreement < 0, -1.0, 1.0)
    else:
        raise InputError(f"method must be one of {METHODS}, got {method!r}.")
    return np.hstack([turned, gradients[:, n_turned:]])


def principal_cosines(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosines of the angles between two subspaces, spanned by columns: descending, in [0, 1].

    1 means a direction that both contain, 0 one that is orthogonal to everything in the other. Björck & Golub
    1973, doi:10.1090/S0025-5718-1973-0348991-3.
    """
    first_basis = np.linalg.qr(np.asarray(first, dtype=np.float64))[0]  # (R, C1)
    second_basis = np.linalg.qr(np.asarray(second, dtype=np.float64))[0]  # (R, C2)
    cosines: NDArray[np.float64] = np.linalg.svd(first_basis.T @ second_basis, compute_uv=False)
    return np.clip(cosines, 0.0, 1.0)
