"""`align`: gradients turned towards a reference, and how well they then agree, in numbers.

Order of operations (R regions, C components):
  1. rows     regions that both have decide the turn (a reference of the cortex only turns a whole brain)
  2. before   |r| of each component with the reference's of the same number: only its sign is free
  3. turn     procrustes.py; all components that both have take part, or as many as the reference asks for
  4. after    r of each component
  5. null     what such a turn reaches with regions that do not correspond: the reference's rows permuted,
              turned again, |r|; 95th percentile of N_PERMUTATIONS, fixed seed

Why all components: on the HCP matrix (hold-out against main group) r of the first ten is 0.969 or more with
ten and 0.988 or more with thirty; of single scans of another study against HCP no r falls either (gradients 1
to 3: 0.85 0.82 0.76 with thirty, 0.84 0.81 0.75 with ten). The null rises from 0.17 to 0.18 only.
The null ignores that maps are smooth: two smooth maps that have nothing to do with each other can pass it. So
can Schaefer parcels in the other network order, for which there is a warning of its own.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.procrustes import (
    METHODS,
    Method,
    align_gradients,
    correlations,
    semi_orthogonal,
    turn_towards,
)
from bjepa.gradients.alignment.reference import Reference
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

N_PERMUTATIONS = 200
FIRST = 3  # components that a warning looks at
# A wrong order loses far more: HCP in 7- against 17-network order r 0.76 0.51 0.60, in the same 0.99.
ORDER_MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Gradients turned towards a reference. k components take part that the reference has."""

    reference: str  # name shown
    method: str  # "procrustes", "joint" or "sign"
    n_components: int  # of ours that took part
    rows: NDArray[np.bool_]  # (R,) regions that decided
    gradients: NDArray[np.float64]  # (R, C) aligned
    rotation: NDArray[np.float64] | None  # (C, C); None: joint
    r_before: NDArray[np.float64]  # (k,) |r|, over `rows`, with the component of the same number
    r: NDArray[np.float64]  # (k,) after alignment
    r_null: NDArray[np.float64]  # (k,) 95th percentile of |r| with the reference's rows permuted
    reference_values: NDArray[np.float64]  # (R, k), NaN where it has no region
    doubt: str = ""  # why its rows may be other regions than ours, "" if nothing says so


def align(
    gradients: NDArray[np.float64],
    reference: Reference,
    *,
    method: Method = "procrustes",
    n_components: int | None = None,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Alignment:
    """Turn `gradients` (R, C; NaN rows have no gradients) towards `reference`.

    `n_components` of ours take part; default what the reference asks for, else all that both have. A warning
    is given where the first components agree no better than permuted rows, or better in another order of
    the parcels.

    Raises
    ------
    InputError
        As `align_gradients`; fewer than three regions in common.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {METHODS}, got {method!r}.")
    rows = shared_rows(gradients, reference)
    shared = min(gradients.shape[1], reference.values.shape[1])
    if n_components is None:
        wanted = shared if reference.n_components is None else reference.n_components
        n_components = min(wanted, gradients.shape[1])
    turn = turn_towards(gradients, reference.values, method=method, n_components=n_components, rows=rows)
    values = reference.values[:, : min(n_components, shared)]  # (R, k)
    k = values.shape[1]
    aligned = gradients @ turn
    made = Alignment(
        reference=reference.name,
        method=method,
        n_components=n_components,
        rows=rows,
        gradients=aligned,
        rotation=turn,
        r_before=np.abs(np.diag(correlations(gradients[rows, :k], values[rows]))),
        r=np.diag(correlations(aligned[rows, :k], values[rows])).copy(),
        r_null=permuted_rows_r(
            gradients[rows],
            values[rows],
            method=method,
            n_components=n_components,
            n_permutations=n_permutations,
            seed=seed,
        ),
        reference_values=values,
    )
    return with_doubt(made, reference, gradients)


def shared_rows(gradients: NDArray[np.float64], reference: Reference) -> NDArray[np.bool_]:
    """(R,) regions with values in both; InputError where there are fewer than three."""
    if len(gradients) != len(reference.values):
        raise InputError(
            f"gradients have {len(gradients)} regions, {reference.name} has {len(reference.values)}.",
            hint="Align to gradients of the same atlas.",
        )
    rows: NDArray[np.bool_] = np.isfinite(gradients).all(axis=1) & reference.rows
    if rows.sum() < FIRST:
        raise InputError(f"{reference.name} and the gradients have {rows.sum()} regions in common.")
    return rows


def permuted_rows_r(
    gradients: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    method: Method,
    n_components: int,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(k,) 95th percentile of |r| after the same alignment with the rows of `values` (R, k) permuted.

    From products of the two tables (n x k) only, so that it takes seconds for the vertices of a hemisphere.
    """
    moving = gradients[:, :n_components]  # (R, n)
    centred, fixed = moving - moving.mean(axis=0), values - values.mean(axis=0)
    gram = centred.T @ centred  # (n, n)
    rng, k = np.random.default_rng(seed), values.shape[1]
    r, turn = np.empty((n_permutations, k)), np.eye(len(gram))[:, :k]  # sign: |r| needs no turn
    for number in range(n_permutations):
        order = rng.permutation(len(values))
        if method == "procrustes":
            turn = semi_orthogonal(moving.T @ values[order])  # (n, k)
        cross = centred.T @ fixed[order]  # (n, k)
        lengths = np.sqrt(np.sum(turn * (gram @ turn), axis=0)) * np.linalg.norm(fixed, axis=0)  # (k,)
        r[number] = np.sum(turn * cross, axis=0) / np.where(lengths > 0, lengths, np.nan)
    percentile: NDArray[np.float64] = np.percentile(np.abs(r), 95, axis=0)
    return percentile


def with_doubt(made: Alignment, reference: Reference, gradients: NDArray[np.float64]) -> Alignment:
    """The alignment with its `doubt`, of which a warning is given."""
    doubt = _doubt(made, reference, gradients)
    if doubt:
        log.warning("%s: %s", made.reference, doubt)
    return replace(made, doubt=doubt)


def _doubt(made: Alignment, reference: Reference, gradients: NDArray[np.float64]) -> str:
    """Whether the rows of the reference seem to be other regions than ours."""
    r, null = made.r[:FIRST], made.r_null[:FIRST]
    if not (r > null).any():
        return (
            f"after alignment r of the first components is {_listed(r)}, no more than permuted regions reach "
            f"({_listed(null)}): its rows are probably in another order, or of another atlas"
        )
    if made.method == "joint":
        return ""
    method: Method = "sign" if made.method == "sign" else "procrustes"
    for order in reference.other_orders:
        other = reference.values[order]
        rows = np.isfinite(gradients).all(axis=1) & np.isfinite(other).all(axis=1)
        aligned = align_gradients(gradients[rows], other[rows], method=method, n_components=made.n_components)
        r_other = np.diag(correlations(aligned[:, : len(r)], other[rows, : len(r)]))
        if np.mean(np.abs(r_other)) > np.mean(np.abs(r)) + ORDER_MARGIN:
            return (
                f"r of the first components is {_listed(r)}, but {_listed(r_other)} if Schaefer parcels are "
                "taken in the other published order (7 networks for 17, or the reverse): its rows are "
                "probably in another order than those of INPUT; nothing in the file tells"
            )
    return ""


def _listed(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
