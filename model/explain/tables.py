"""The tables of an explanation, as text: regions.tsv, networks.tsv, sanity.tsv.

Six significant digits, so that rounding in the last bits of a sum does not show; NaN is n/a (BIDS).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.wording import as_tsv
from bjepa.model.explain.networks import NetworkRow
from bjepa.model.explain.sanity import SanityRow

Array = NDArray[np.float64]


def regions_table(rois: Mapping[str, list[str]], group_maps: Mapping[str, Array]) -> str:
    """A row a region: what it is, and the mean over participants of each measure."""
    described = ("name", "network7", "network17", "structure")
    rows: list[Sequence[Any]] = [("index", *described, *group_maps)]
    for number in range(len(rois["name"])):
        told = [rois.get(column, [""] * len(rois["name"]))[number] or "n/a" for column in described]
        rows.append([number + 1, *told, *(values[number] for values in group_maps.values())])
    return as_tsv(rows)


def networks_table(found: Sequence[NetworkRow]) -> str:
    """A row a network and measure."""
    rows: list[Sequence[Any]] = [
        ("scheme", "network", "measure", "mean", "ci_low", "ci_high", "n_participants", "expected")
    ]
    rows += [
        (row.scheme, row.network, row.measure, *row.estimate, row.n_participants, row.expected)
        for row in found
    ]
    return as_tsv(rows)


def sanity_table(found: Sequence[SanityRow]) -> str:
    """A row a measure and check: the map's Spearman correlation with what it was before."""
    rows: list[Sequence[Any]] = [
        (
            *("measure", "check", "spearman", "ci_low", "ci_high", "pearson"),
            *("n_participants", "n_draws", "verdict"),
        )
    ]
    rows += [
        (row.measure, row.check, *row.similarity, row.pearson, row.n_participants, row.n_draws, row.verdict)
        for row in found
    ]
    return as_tsv(rows)
