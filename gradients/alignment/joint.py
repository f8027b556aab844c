"""Joint alignment: several connectivity matrices embedded together, so that no turn is needed afterwards.

Order of operations (n matrices of R regions, T target regions that all have, C components):
  1. columns  of every matrix those T regions; rows: all regions that it has
  2. stack    the n matrices on top of each other: (sum of rows, T)
  3. embed    as one matrix (recipe.py): affinity of all rows of all matrices, components of it
  4. split    the rows back to the matrices

A region of one matrix and one of another are alike if their profiles over the T targets are. All n parts are
in the coordinates of one diffusion map. Its mean 0 and its length (mean square 1 times the multiplier, under
the stationary distribution) hold for the stack, not for a part: a part that is shorter has gradients that are
less pronounced. Eigenvalues, multipliers and residuals are those of the stack, the same for all parts.

A component can tell the matrices apart instead of regions (matrices of different smoothness or scanner);
a warning says so.

Source: `alignment="joint"` of BrainSpace, Vos de Wael et al. 2020, doi:10.1038/s42003-020-0794-7, after
Xu et al. 2020, doi:10.1016/j.neuroimage.2020.117346. Equal to it up to its solver, which depends on a seed.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.alignment.alignment import Alignment, shared_rows, with_doubt
from bjepa.gradients.alignment.procrustes import correlations
from bjepa.gradients.alignment.quiet import without_tie_warnings
from bjepa.gradients.alignment.reference import Reference
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

MAX_ROWS = 10_000  # of the stack: its affinity then has 0.8 GB, and about five such matrices are held
MAX_SHARE_BETWEEN = 0.5  # of a component's variance that lies between the matrices
N_JOINT_PERMUTATIONS = 20  # each is an embedding


def joint_embedding(
    fcs: Sequence[NDArray[np.float64]], options: GradientOptions, *, columns: ArrayLike | None = None
) -> list[Embedding]:
    """Embed several connectivity matrices together.

    Parameters
    ----------
    fcs
        Two or more (R, R) of the same regions; rows and columns of regions that one lacks are NaN.
    columns
        (R,) bool, regions that profiles are compared over; default those that all matrices have.

    Returns
    -------
    list of Embedding
        One for each matrix; its gradients are (R, C), NaN where the matrix has no region (`kept` False).

    Raises
    ------
    InputError
        Other shapes, a value missing in a column, a stack beyond MAX_ROWS, and as `embed_connectivity`.
    """
    stacked, has_row = _stacked(fcs, options, columns)
    _warn_if_between(stacked, has_row.sum(axis=1))
    return _split(stacked, has_row)


def align_jointly(
    fc: NDArray[np.float64],
    reference: Reference,
    options: GradientOptions,
    *,
    gradients: NDArray[np.float64] | None = None,
    n_permutations: int = N_JOINT_PERMUTATIONS,
    seed: int = 0,
) -> tuple[Alignment, Embedding]:
    """Embed `fc` (R, R) together with the reference's connectivity; how well they agree, and our part of it.

    Profiles are compared over the regions that both have. Diagonals are set to 0: what a region is to itself
    is a convention of the matrix (1, or 0 of scans). Each component has the sign with which the reference's
    part of it correlates positively with the nearest of the reference's own gradients. `gradients` (R, C) are
    ours without alignment, for `r_before`; computed if not given.

    r_null embeds the stack again for each permutation of the reference's regions, so it is slow and coarse:
    the 95th percentile of a few.

    Raises
    ------
    InputError
        The reference has no connectivity; as `joint_embedding`.
    """
    fc, theirs = _without_diagonal(fc), _without_diagonal(connectivity_of(reference))
    ours, other = joint_embedding([fc, theirs], options)
    rows = shared_rows(ours.gradients, reference) & np.isfinite(other.gradients).all(axis=1)
    signs = _signs(other.gradients, reference)
    aligned, values = ours.gradients * signs, other.gradients * signs  # (R, C)

    rng, null = np.random.default_rng(seed), []
    with without_tie_warnings():
        own = embed_connectivity(fc, options)[1].gradients if gradients is None else gradients
        for _ in range(n_permutations):
            order = np.arange(len(fc))
            order[rows] = rng.permutation(np.flatnonzero(rows))
            first, second = _split(*_stacked([fc, theirs[np.ix_(order, order)]], options))
            both = np.isfinite(first.gradients).all(axis=1) & np.isfinite(second.gradients).all(axis=1)
            null.append(np.abs(np.diag(correlations(first.gradients[both], second.gradients[both]))))
    made = Alignment(
        reference=reference.name,
        method="joint",
        n_components=aligned.shape[1],
        rows=rows,
        gradients=aligned,
        rotation=None,
        r_before=_same_number(own, reference, n_components=aligned.shape[1]),
        r=np.diag(correlations(aligned[rows], values[rows])).copy(),
        r_null=np.percentile(null, 95, axis=0),
        reference_values=values,
    )
    made = with_doubt(made, reference, aligned)
    return made, replace(ours, gradients=aligned)


def connectivity_of(reference: Reference) -> NDArray[np.float64]:
    """Its (R, R) connectivity; InputError where it has none, so that it cannot be embedded jointly."""
    if reference.fc is None:
        raise InputError(
            f"--alignment joint needs the reference's connectivity; {reference.name} has gradients only.",
            hint="Give the gradients.h5 of that run to --align-to, or use --alignment procrustes.",
        )
    return reference.fc


def _stacked(
    fcs: Sequence[NDArray[np.float64]], options: GradientOptions, columns: ArrayLike | None = None
) -> tuple[Embedding, NDArray[np.bool_]]:
    """Embedding of the stack, and (n, R) which regions each matrix has."""
    if len(fcs) < 2 or any(fc.ndim != 2 or fc.shape != (len(fcs[0]),) * 2 for fc in fcs):
        raise InputError(
            f"joint embedding needs two or more square matrices of the same regions, got "
            f"{[fc.shape for fc in fcs]}."
        )
    has_row = np.array([np.isfinite(fc).any(axis=1) for fc in fcs])  # (n, R)
    shared = has_row.all(axis=0) if columns is None else np.asarray(columns, dtype=np.bool_)  # (R,)
    n_rows = int(has_row.sum())
    if n_rows > MAX_ROWS:
        raise InputError(
            f"joint alignment of {len(fcs)} matrices is one affinity of {n_rows} x {n_rows} values "
            f"({8e-9 * n_rows**2:.1f} GB, several times); the limit is {MAX_ROWS} rows.",
            hint="Use --alignment procrustes, fewer groups, or an atlas of fewer regions.",
        )
    blocks = [fc[rows][:, shared] for fc, rows in zip(fcs, has_row, strict=True)]
    for number, block in enumerate(blocks, start=1):
        if not shared.any() or not np.isfinite(block).all():
            raise InputError(
                f"joint alignment: matrix {number} lacks values in the {shared.sum()} regions that profiles "
                "are compared over.",
                hint="Take as columns only regions that all matrices have.",
            )
    stacked = embed_connectivity(np.vstack(blocks), options)[1]
    return stacked, has_row


def _split(stacked: Embedding, has_row: NDArray[np.bool_]) -> list[Embedding]:
    parts, start = [], 0
    for rows in has_row:
        stop = start + int(rows.sum())
        gradients = np.full((len(rows), stacked.gradients.shape[1]), np.nan)
        gradients[rows] = stacked.gradients[start:stop]
        kept = np.zeros(len(rows), dtype=np.bool_)
        kept[rows] = stacked.kept[start:stop]
        parts.append(replace(stacked, gradients=gradients, kept=kept))
        start = stop
    return parts


def _same_number(own: NDArray[np.float64], reference: Reference, *, n_components: int) -> NDArray[np.float64]:
    """(C,) |r| of our gradients, not aligned, with the reference's own; nan beyond what both have."""
    rows, shared = shared_rows(own, reference), min(own.shape[1], reference.values.shape[1])
    r = np.full(n_components, np.nan)
    found = correlations(own[rows, :shared], reference.values[rows, :shared])
    r[:shared] = np.abs(np.diag(found))[:n_components]
    return r


def _without_diagonal(fc: NDArray[np.float64]) -> NDArray[np.float64]:
    fc = fc.copy()
    diagonal = np.diag(fc)
    np.fill_diagonal(fc, np.where(np.isfinite(diagonal), 0.0, diagonal))
    return fc


def _signs(joint: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    """(C,) 1 or -1: each joint component towards the reference's gradient that is nearest to it."""
    rows = np.isfinite(joint).all(axis=1) & reference.rows
    r = np.nan_to_num(correlations(joint[rows], reference.values[rows]))  # (C, C_ref)
    nearest = np.abs(r).argmax(axis=1)
    signs: NDArray[np.float64] = np.where(r[np.arange(len(r)), nearest] < 0, -1.0, 1.0)
    return signs


def _warn_if_between(stacked: Embedding, sizes: NDArray[np.int64]) -> None:
    """Warn of components that tell the matrices apart."""
    kept = stacked.kept
    matrix = np.repeat(np.arange(len(sizes)), sizes)[kept]
    values = stacked.gradients[kept] - stacked.gradients[kept].mean(axis=0)
    between = np.zeros(values.shape[1])
    for number in range(len(sizes)):
        part = values[matrix == number]
        if len(part):
            between += len(part) * part.mean(axis=0) ** 2
    share = between / (values**2).sum(axis=0)
    if (share > MAX_SHARE_BETWEEN).any():
        log.warning(
            "joint alignment: components %s tell the matrices apart rather than regions (%s of their "
            "variance lies between matrices)",
            (np.flatnonzero(share > MAX_SHARE_BETWEEN) + 1).tolist(),
            ", ".join(f"{100 * s:.0f} %" for s in share[share > MAX_SHARE_BETWEEN]),
        )
