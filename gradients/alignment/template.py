"""Generalised Procrustes: a template of several sets of gradients, each turned towards their common mean.

Order of operations:
  1. start    the reference; without one, the mean of all sets turned towards the first
  2. turn     every set towards the template (procrustes.py), by the regions that both have
  3. mean     of the turned sets is the new template; in a region, of the sets that have it
  4. repeat   2 and 3 until the template moves by less than `tol` of its squared length
At the end the template is the mean of the sets as turned towards it (a fixed point, to `tol`). The reference
decides only where the iteration starts, so the order and signs of its components are kept.

Source: Gower 1975, doi:10.1007/BF02291478; as `procrustes_alignment` of BrainSpace with its defaults.
Differs from it: it stops when two steps are equally long, by an absolute number; a region may be missing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.procrustes import turn_towards
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Template:
    """The common mean of n sets, and the sets turned towards it."""

    values: NDArray[np.float64]  # (R, C); NaN in regions that no set has
    aligned: list[NDArray[np.float64]]  # n times (R, C)
    rotations: list[NDArray[np.float64]]  # n times (C, C)
    n_iterations: int
    change: float  # squared length of the last step over that of the template
    converged: bool


def procrustes_template(
    gradients: Sequence[NDArray[np.float64]],
    *,
    reference: NDArray[np.float64] | None = None,
    max_iter: int = 100,
    tol: float = 1e-10,
) -> Template:
    """Template of `gradients`, each (R, C) of the same regions; NaN rows are regions that a set lacks.

    A warning is given if it still moves after `max_iter` steps.

    Raises
    ------
    InputError
        No sets, other shapes, max_iter below 1, and as `align_gradients`.
    """
    sets = [np.asarray(table, dtype=np.float64) for table in gradients]
    shapes = {table.shape for table in sets} | ({reference.shape} if reference is not None else set())
    if len(shapes) != 1 or max_iter < 1:
        raise InputError(
            f"a template needs gradients of one shape and max_iter of at least 1, got shapes "
            f"{sorted(shapes)} and max_iter = {max_iter}."
        )
    template = reference if reference is not None else _mean(_turned(sets, sets[0])[0])
    change, n_iterations = np.inf, 0
    while change >= tol and n_iterations < max_iter:
        aligned, rotations = _turned(sets, template)
        mean = _mean(aligned)
        change = float(np.nansum((mean - template) ** 2) / np.nansum(mean**2))
        template = mean
        n_iterations += 1
    if change >= tol:
        log.warning(
            "template of %d sets of gradients: still moves after %d steps (by %.1e of its squared length)",
            len(sets),
            max_iter,
            change,
        )
    return Template(
        values=template,
        aligned=aligned,
        rotations=rotations,
        n_iterations=n_iterations,
        change=change,
        converged=change < tol,
    )


def _turned(
    sets: list[NDArray[np.float64]], template: NDArray[np.float64]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    has = np.isfinite(template).all(axis=1)  # (R,)
    rotations = [turn_towards(table, template, rows=has & np.isfinite(table).all(axis=1)) for table in sets]
    return [table @ turn for table, turn in zip(sets, rotations, strict=True)], rotations


def _mean(sets: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over the sets that have the region; NaN where none has."""
    stack = np.stack(sets)  # (n, R, C)
    present = np.isfinite(stack)
    count = present.sum(axis=0)
    total = np.where(present, stack, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
