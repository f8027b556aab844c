"""Regions to networks: means per participant, and intervals over participants.

Schemes, of the columns of the regions' table: `network7`, `network17` (Yeo et al. 2011, as the Schaefer
atlas names them; subcortical regions are a group of their own, Subcortex) and `structure`: cortex, subcortex
and their difference. A scheme of which the atlas says nothing is left out.

Intervals: percentile bootstrap over participants, 95 %. They tell how far the mean over participants would
move with other participants of the same population and THIS model. They say nothing of another training run.

n participants, R regions, K networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.intervals import Estimate

SCHEMES = ("network7", "network17", "structure")
DIFFERENCE = "cortex - subcortex"
N_BOOTSTRAP = 2000
UNKNOWN = ("", "n/a")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme:
    """A way to group regions. A region may be in none."""

    name: str  # one of SCHEMES
    networks: list[str]
    of_region: NDArray[np.int64]  # (R,) number in `networks`, -1: in none

    def means(self, values_nR: Array) -> Array:
        """(n, K) mean over the regions of each network that the participant has; NaN: it has none."""
        columns = []
        for number in range(len(self.networks)):
            inside = values_nR[:, self.of_region == number]
            known = np.isfinite(inside)
            total, count = np.where(known, inside, 0).sum(axis=1), known.sum(axis=1)
            columns.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        return np.stack(columns, axis=1)


class NetworkRow(NamedTuple):
    """One row of networks.tsv."""

    scheme: str
    network: str
    measure: str
    estimate: Estimate
    n_participants: int
    expected: float


def schemes_of(rois: Mapping[str, list[str]]) -> list[Scheme]:
    """The schemes that the regions' table knows, each with two networks or more."""
    found = []
    for name in SCHEMES:
        cells = [cell.strip() for cell in rois.get(name, [])]
        networks = list(dict.fromkeys(cell for cell in cells if cell.lower() not in UNKNOWN))
        if not 2 <= len(networks) < len(cells):  # one name a region groups nothing
            continue
        number = {network: i for i, network in enumerate(networks)}
        found.append(Scheme(name, networks, np.array([number.get(cell, -1) for cell in cells])))
    return found


def network_rows(
    scheme: Scheme, measure: str, values_nR: Array, *, expected: float, seed: int
) -> list[NetworkRow]:
    """A row a network, and the difference of cortex and subcortex for `structure`."""
    means = scheme.means(values_nR)
    rows = []
    for network, column in zip(scheme.networks, means.T, strict=True):
        known = column[np.isfinite(column)]
        rows.append(
            NetworkRow(scheme.name, network, measure, bootstrap_mean(known, seed=seed), len(known), expected)
        )
    if scheme.name == "structure" and {"cortex", "subcortex"} <= set(scheme.networks):
        cortex, subcortex = (means[:, scheme.networks.index(n)] for n in ("cortex", "subcortex"))
        gap = (cortex - subcortex)[np.isfinite(cortex - subcortex)]
        rows.append(
            NetworkRow(scheme.name, DIFFERENCE, measure, bootstrap_mean(gap, seed=seed), len(gap), 0.0)
        )
    return rows


def resamples(n: int, *, seed: int, n_resamples: int = N_BOOTSTRAP) -> Array:
    """(n_resamples, n) weights of the participants in each resample; rows add up to 1."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    weights: Array = drawn / n
    return weights


def bootstrap_mean(values: Array, *, seed: int) -> Estimate:
    """Mean of (n,) with its interval; no interval (NaN) for fewer than two values."""
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan)
    low, high = np.percentile(resamples(len(values), seed=seed) @ values, [2.5, 97.5])
    return Estimate(mean, float(low), float(high))
