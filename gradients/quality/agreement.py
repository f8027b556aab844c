"""How well the gradients of two halves of the participants agree, both turned towards those of all.

What is compared, and in which order: stability.py. R regions, C components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.procrustes import align_gradients, correlations, principal_cosines

Array = NDArray[np.float64]
MIN_REGIONS = 3  # of a structure, for a correlation
SUBSPACES = (1, 2, 3, 5, 10, 20, 30, 50, 100)
N_PERMUTED = 5  # times that the regions of one half are permuted


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of two halves."""

    r: Array  # (structures, C) aligned
    r_unaligned: Array  # (structures, C) sign alone free, decided by all regions
    r_permuted: Array  # (N_PERMUTED, structures, C) |r|, aligned
    cosines: Array  # (sizes,) smallest principal cosine of the first k components
    displacement: Array  # (R,) NaN where one of the three has no gradients


def agreement(
    a: Array,
    b: Array,
    full: Array,
    structures: dict[str, NDArray[np.bool_]],
    *,
    n_position: int,
    rng: np.random.Generator,
) -> Agreement:
    """Agreement of the gradients of two halves, `a` and `b`, with `full`: (R, C) each, NaN rows have none.

    Parameters
    ----------
    structures
        Name: (R,) regions of it.
    n_position
        How many components are a region's place.

    Raises
    ------
    InputError
        Fewer regions in common than components.
    """
    rows = np.isfinite(full).all(axis=1) & np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    aligned_a, aligned_b = (align_gradients(half, full, rows=rows) for half in (a, b))
    own = [rows & within for within in structures.values()]
    sign = np.where(_r(a[rows], b[rows]) < 0, -1.0, 1.0)  # (C,)
    permuted = []
    for _ in range(N_PERMUTED):
        mixed = b.copy()
        mixed[rows] = b[rng.permutation(np.flatnonzero(rows))]
        mixed = align_gradients(mixed, full, rows=rows)
        permuted.append([np.abs(_r(aligned_a[some], mixed[some])) for some in own])
    moved = np.linalg.norm(aligned_a[:, :n_position] - aligned_b[:, :n_position], axis=1)  # (R,)
    return Agreement(
        r=np.array([_r(aligned_a[some], aligned_b[some]) for some in own]),
        r_unaligned=np.array([sign * _r(a[some], b[some]) for some in own]),
        r_permuted=np.array(permuted),
        cosines=_cosines(a[rows], b[rows]),
        displacement=np.where(rows, moved / _spread(full[:, :n_position]), np.nan),
    )


def subspace_sizes(n_components: int) -> list[int]:
    """k of the subspaces that are compared."""
    return sorted({k for k in SUBSPACES if k <= n_components} | {n_components})


def _r(first: Array, second: Array) -> Array:
    """(C,) of columns of the same number; NaN over fewer than MIN_REGIONS regions."""
    if len(first) < MIN_REGIONS:
        return np.full(first.shape[1], np.nan)
    return np.diag(correlations(first, second)).copy()


def _cosines(first: Array, second: Array) -> Array:
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return np.array(
        [principal_cosines(first[:, :k], second[:, :k]).min() for k in subspace_sizes(first.shape[1])]
    )


def _spread(places: Array) -> float:
    """Root mean square distance of regions from their centre."""
    places = places[np.isfinite(places).all(axis=1)]
    return float(np.sqrt(np.square(places - places.mean(axis=0)).sum(axis=1).mean()))
