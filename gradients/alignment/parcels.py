"""Which rows of a gradient table are Schaefer parcels, and where they lie in the two published orders.

The order of 7 and that of 17 networks hold the same parcels. They are found by name (either naming, any
release), as the preprocessing does it for tables of series.
"""

import re

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.regions import Regions
from bjepa.preproc.atlas.published import ORDERS, SCHAEFER_SIZES, schaefer_table
from bjepa.preproc.atlas.region_names import region_numbers

N_TIAN = 50  # regions of scale S3, before the parcels


def schaefer_positions(regions: Regions, order: str) -> tuple[int, NDArray[np.int64]] | None:
    """Number N of parcels, and (R,) the place of each region in `order`, 0 to N - 1; -1 for no parcel.

    `order` is "7networks" or "17networks". None where the regions do not hold one whole Schaefer atlas.
    """
    for n_parcels in SCHAEFER_SIZES:
        if n_parcels > len(regions.table):
            break
        found = region_numbers(schaefer_table(order, n_parcels)["name"].tolist(), regions.table)
        # without a naming, names are matched one by one, and one name is in several sizes
        of_this_size = found.naming.startswith(f"schaefer-{n_parcels} ")
        if of_this_size and np.array_equal(np.sort(found.numbers[found.numbers >= 0]), np.arange(n_parcels)):
            return n_parcels, found.numbers
    return None


def other_network_orders(regions: Regions) -> list[NDArray[np.int64]]:
    """(R,) rows of our regions in a table whose parcels are in the other network order; regions that are no
    parcels keep their rows.

    One for named regions in a published order. Regions without names may be parcels by their number (N, or
    subcortex of Tian S3 and N): either table may then be in either order, so there are two. Else none.
    """
    if not regions_are_named(regions.names):
        n_subcortex = N_TIAN if len(regions.names) - N_TIAN in SCHAEFER_SIZES else 0
        n_parcels = len(regions.names) - n_subcortex
        if n_parcels not in SCHAEFER_SIZES:
            return []
        label = schaefer_table("17networks", n_parcels)["label_7networks"].to_numpy() - 1
        subcortex = np.arange(n_subcortex)
        return [np.append(subcortex, n_subcortex + rows) for rows in (label, np.argsort(label))]
    for order, other in (ORDERS, ORDERS[::-1]):
        found, elsewhere = schaefer_positions(regions, order), schaefer_positions(regions, other)
        if found is None or elsewhere is None:
            return []
        parcels = np.flatnonzero(found[1] >= 0)
        if np.array_equal(found[1][parcels], np.arange(found[0])):
            rows = np.arange(len(regions.names))
            rows[parcels] = parcels[elsewhere[1][parcels]]
            return [rows]
    return []


def regions_are_named(names: list[str] | None) -> bool:
    """False for no names, and for those of regions.unnamed_regions."""
    return names is not None and not all(re.fullmatch(r"region-\d+", name) for name in names)
