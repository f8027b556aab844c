"""Connectivity of which edges are missing: embedded over the regions that are complete among each other.

Order of operations (R regions, C components):
  1. regions without any edge are left out
  2. while an edge is missing among the others, the region with the most missing ones is left out (of equals
     the last), so that two regions never seen together do not cost both
  3. what is left is embedded (recipe.py); regions left out get NaN, and `kept` False

Used for groups of scans and for single participants, whose scans may all miss a region.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.measure import Measure
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
MIN_ROIS = 3  # with two there is one edge and no profile to compare


def mean_present(total: Array, weight: Array, measure: Measure) -> Array:
    """Connectivity (R, R) from sums of maps and of their weights, NaN at edges of weight 0.

    Raises
    ------
    InputError
        Such edges, of the kind `tangent`, which has none or all.
    """
    there = weight > 0
    if measure.kind == "tangent" and not there.all():
        raise InputError(
            "every scan misses a region, and connectivity of the kind tangent needs all of them.",
            hint="Leave regions that are often missing out, or use another kind.",
        )
    return measure.group(np.where(there, total / np.where(there, weight, 1.0), np.nan))


def complete_regions(fc: Array) -> NDArray[np.bool_]:
    """(R,) True for regions that have all edges among each other; `fc` (R, R) symmetric, NaN: no edge."""
    missing = np.isnan(fc) & ~np.eye(len(fc), dtype=np.bool_)
    n_missing = missing.sum(axis=1)
    complete: NDArray[np.bool_] = n_missing < len(fc) - 1
    n_missing = missing[:, complete].sum(axis=1)
    while (worst := np.where(complete, n_missing, 0)).any():
        region = len(fc) - 1 - int(worst[::-1].argmax())
        complete[region] = False
        n_missing = n_missing - missing[:, region]
    return complete


def embed_present(fc: Array, options: GradientOptions) -> tuple[Array, Embedding]:
    """As `embed_connectivity`, for connectivity (R, R) with NaN where an edge is missing.

    Affinity (R, R) and gradients (R, C) are NaN at regions that are left out.

    Raises
    ------
    InputError
        Fewer than three regions left, and as `embed_connectivity`.
    """
    rows = complete_regions(fc)
    if rows.sum() < MIN_ROIS:
        raise InputError(f"{rows.sum()} of {len(rows)} regions have edges with each other; 3 are needed.")
    own_affinity, own = embed_connectivity(fc[np.ix_(rows, rows)], options)
    if rows.all():
        return own_affinity, own
    affinity = np.full(fc.shape, np.nan)
    affinity[np.ix_(rows, rows)] = own_affinity
    gradients = np.full((len(fc), own.gradients.shape[1]), np.nan)
    gradients[rows] = own.gradients
    kept = np.zeros(len(fc), dtype=np.bool_)
    kept[rows] = own.kept
    return affinity, replace(own, gradients=gradients, kept=kept)
