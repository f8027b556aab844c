"""Are the places of subcortical regions in the gradients as stable as those of cortical ones?

Order of operations:
  1. displacement   of every region between halves of the participants, median over splits   stability.py
  2. ratio          median over subcortical regions / median over cortical ones; also split by split
  3. p              the two labels permuted over regions, ratio in either direction
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bjepa.gradients.quality.agreement import MIN_REGIONS

if TYPE_CHECKING:
    from bjepa.gradients.quality.stability import Stability

CAVEAT = (
    "Subcortical regions are smaller and have a lower temporal signal-to-noise ratio, so their places may "
    "move more for lack of signal, not of organisation. Neighbouring regions move together, so there are "
    "fewer independent observations than regions, and p is too small. Displacement is in units of the spread "
    "of all regions: one near the centre of the gradients can move without changing its rank."
)


def cortex_against_subcortex(
    stability: "Stability", *, n_permutations: int = 10_000, seed: int = 0
) -> dict[str, Any] | None:
    """Displacement of cortical and subcortical regions; None without regions of both (three each).

    Returns
    -------
    dict
        cortex, subcortex : median displacement of their regions
        ratio : subcortex / cortex; above 1: subcortex is less stable
        ratio_low, ratio_high : 2.5 and 97.5 percent of the ratio over the splits
        p : share of permutations of the two labels over regions with a ratio as far from 1, either way
        n_cortex, n_subcortex, n_permutations
    What the numbers do not say: CAVEAT.
    """
    moved = stability.regions["displacement"].to_numpy(dtype=np.float64)
    structure = stability.regions["structure"].to_numpy()
    rows = {
        name: np.flatnonzero((structure == name) & np.isfinite(moved)) for name in ("cortex", "subcortex")
    }
    if min(map(len, rows.values())) < MIN_REGIONS:
        return None
    cortex, subcortex = rows.values()
    splits = stability.displacement_splits
    ratios = np.nanmedian(splits[:, subcortex], axis=1) / np.nanmedian(splits[:, cortex], axis=1)
    ratio = np.median(moved[subcortex]) / np.median(moved[cortex])

    pooled, rng = moved[np.concatenate([cortex, subcortex])], np.random.default_rng(seed)
    extreme = 0
    for _ in range(n_permutations):
        mixed = rng.permutation(pooled)
        other = np.median(mixed[len(cortex) :]) / np.median(mixed[: len(cortex)])
        extreme += abs(np.log(other)) >= abs(np.log(ratio)) * (1 - 1e-12)
    return {
        "cortex": float(np.median(moved[cortex])),
        "subcortex": float(np.median(moved[subcortex])),
        "ratio": float(ratio),
        "ratio_low": float(np.percentile(ratios, 2.5)),
        "ratio_high": float(np.percentile(ratios, 97.5)),
        "p": float((1 + extreme) / (1 + n_permutations)),
        "n_cortex": len(cortex),
        "n_subcortex": len(subcortex),
        "n_permutations": n_permutations,
    }
