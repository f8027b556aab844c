"""Does a map survive when what was learnt is taken away? Then it does not tell what was learnt.

Similarity: Spearman correlation over regions of the mean map of participants, before and after. Interval:
95 %, bootstrap over participants and over draws of new weights (both resampled at once).

    weights, from the top    randomise.py
    shuffled target          the head fitted to targets dealt out anew; the encoder stays
    input alone              mean |x| of each region: no model at all. Not a randomisation, but if the map of
                             an attribution looks like it, the map may be the input's

Ranks count every region alike, also the many that matter little, whose order the input may set. The Pearson
correlation, told beside it without a verdict, is led by the regions that stand out.

Source: Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv 1810.03292 (weights and labels).
Verdicts, by the whole interval: beyond SURVIVES the map survives, within DESTROYED of 0 it is destroyed;
else it is kept in part, or unclear where the interval covers 0. 0.5 is a quarter of the variance of the
ranks, 0.3 a tenth. Unclear is common: maps over a smooth cortex have few independent values, so that two of
them correlate by chance, with either sign. More draws of weights help.

n participants, R regions, d draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.explain.networks import resamples

SURVIVES, DESTROYED = 0.5, 0.3
SHUFFLED, INPUT = "shuffled target", "input alone"
N_BOOTSTRAP = 1000
PRECISION = 6  # decimals, of the largest value: float32 has seven
Array = NDArray[np.float64]


class SanityRow(NamedTuple):
    """One row of sanity.tsv."""

    measure: str
    check: str
    similarity: Estimate  # Spearman
    pearson: float
    n_participants: int
    n_draws: int

    @property
    def verdict(self) -> str:
        """In one word."""
        return verdict(self.similarity)


def verdict(similarity: Estimate) -> str:
    """`survives`, `destroyed`, `kept in part`, `unclear`, or `n/a` where there is no interval."""
    if not np.isfinite(similarity.low):
        return "n/a"
    if similarity.low > SURVIVES or similarity.high < -SURVIVES:
        return "survives"
    if similarity.low > -DESTROYED and similarity.high < DESTROYED:
        return "destroyed"
    return "unclear" if similarity.covers(0) else "kept in part"


def map_similarity(before_nR: Array, after_dnR: Array, *, seed: int) -> Estimate:
    """Mean over draws of the Spearman correlation of the two mean maps; regions that nobody has are left out.

    A map without any variation has no ranks: NaN.
    """
    n, n_draws = len(before_nR), len(after_dnR)
    one = np.full((1, n), 1 / n)
    mean = float(np.mean(_correlations(one, before_nR, after_dnR)))
    if n < 2 or not np.isfinite(mean):
        return Estimate(mean, np.nan, np.nan)
    of_resample = _correlations(resamples(n, seed=seed, n_resamples=N_BOOTSTRAP), before_nR, after_dnR)
    drawn = np.random.default_rng([seed, 1]).integers(n_draws, size=of_resample.shape)
    values = np.take_along_axis(of_resample, drawn, axis=1).mean(axis=1)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(mean, float(low), float(high))


def map_pearson(before_nR: Array, after_dnR: Array) -> float:
    """Mean over draws of the Pearson correlation of the two mean maps."""
    one = np.full((1, len(before_nR)), 1 / len(before_nR))
    return float(np.mean(_correlations(one, before_nR, after_dnR, _centred)))


def _correlations(
    weights_bn: Array,
    before_nR: Array,
    after_dnR: Array,
    values: Callable[[Array], Array] | None = None,
) -> Array:
    """(b, d) correlation of ranks (or of other centred `values`), a row a resample."""
    values = values or _ranks
    present = np.isfinite(before_nR).any(axis=0)
    first = values(_weighted_means(weights_bn, before_nR[:, present]))
    columns = []
    for after_nR in after_dnR:
        second = values(_weighted_means(weights_bn, after_nR[:, present]))
        norm = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        with np.errstate(invalid="ignore"):
            columns.append((first * second).sum(axis=1) / np.where(norm > 0, norm, np.nan))
    return np.stack(columns, axis=1)


def _weighted_means(weights_bn: Array, values_nR: Array) -> Array:
    """(b, R); a region that all participants of a resample lack takes its mean over all."""
    known = np.isfinite(values_nR)
    count = weights_bn @ known
    total = weights_bn @ np.where(known, values_nR, 0)
    overall = np.where(known, values_nR, 0).sum(axis=0) / known.sum(axis=0)
    means: Array = np.where(count > 0, total / np.where(count > 0, count, 1), overall)
    return means


def _centred(values_bR: Array) -> Array:
    centred: Array = values_bR - values_bR.mean(axis=1, keepdims=True)
    return centred


def _ranks(values_bR: Array) -> Array:
    """Centred ranks of each row; differences within the precision of a network make no rank."""
    from scipy.stats import rankdata

    largest = np.abs(values_bR).max(axis=1, keepdims=True)
    relative = np.round(values_bR / np.where(largest > 0, largest, 1), PRECISION)
    return _centred(rankdata(relative, axis=1))
