"""`--compare FILE`: how like somebody's gradients ours are, without turning ours.

Order of operations (R regions; n components that both have; regions that both have):
  1. single     |r| of each component with that of the same number (signs are free), and the best match of all
  2. aligned    r after a Procrustes turn over all n components, and what permuted regions reach so
  3. subspaces  principal cosines of the leading 1, 2, 3, 5, 10, ... components, centred

Single components of two good data sets can differ (close eigenvalues mix), so 2 and 3 are the fair questions.
Rows in another order, or of another atlas, are told by a warning: r no higher than with permuted regions, or
higher in the other network order of Schaefer parcels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment import Reference, align, correlations, principal_cosines

if TYPE_CHECKING:
    import pandas as pd

SUBSPACES = (1, 2, 3, 5, 10, 20, 30)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our gradients against a file."""

    file: str
    table: "pd.DataFrame"  # one row a component: component r best_match r_best r_aligned r_null
    subspaces: "pd.DataFrame"  # n_components cosine_min cosine_mean
    n_components: int  # that both have
    n_regions: int  # that both have
    doubt: str = ""  # as of Alignment


def compare_gradients(values: NDArray[np.float64], reference: Reference, *, seed: int = 0) -> Comparison:
    """Compare gradients (R, C; NaN rows have none) with those of a file (`load_reference`).

    `best_match` is the component of the file that ours correlates with most, from 1.

    Raises
    ------
    InputError
        As `align`.
    """
    import pandas as pd

    aligned = align(values, reference, seed=seed)
    n = aligned.n_components
    ours, theirs = values[aligned.rows], reference.values[aligned.rows]
    r = np.nan_to_num(np.abs(correlations(ours[:, :n], theirs)))  # (n, C_ref)
    best = r.argmax(axis=1)
    table = pd.DataFrame(
        {
            "component": np.arange(1, n + 1),
            "r": aligned.r_before,
            "best_match": best + 1,
            "r_best": r[np.arange(n), best],
            "r_aligned": aligned.r,
            "r_null": aligned.r_null,
        }
    )
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    cosines = {k: principal_cosines(ours[:, :k], theirs[:, :k]) for k in SUBSPACES if k <= n}
    subspaces = pd.DataFrame(
        {
            "n_components": list(cosines),
            "cosine_min": [float(c.min()) for c in cosines.values()],
            "cosine_mean": [float(c.mean()) for c in cosines.values()],
        }
    )
    return Comparison(
        file=reference.name,
        table=table,
        subspaces=subspaces,
        n_components=n,
        n_regions=int(aligned.rows.sum()),
        doubt=aligned.doubt,
    )
