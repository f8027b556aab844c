"""Whether the rows of a gradient table lie in the order of our regions, as far as their names tell.

One region has many names: those of 7 and of 17 networks, of several releases, with or without a prefix. So
names are matched as the preprocessing matches the columns of foreign tables (`region_names.py`), never
compared as text.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.gradients.alignment.parcels import regions_are_named
from bjepa.preproc.atlas.region_names import region_numbers


@dataclass(frozen=True, eq=False)
class RowOrder:
    """Where our R regions are among the rows of a table.

    row_of_region : (R,) int64, -1 where no row, or more than one, has a name of the region
    problem : why no parcel was matched although there are names of parcels; "" if all is well
    """

    row_of_region: NDArray[np.int64]
    problem: str = ""

    @property
    def found(self) -> NDArray[np.bool_]:
        """(R,) regions that one row is named as."""
        return self.row_of_region >= 0

    @property
    def moved(self) -> NDArray[np.bool_]:
        """(R,) regions whose row is another than their own."""
        elsewhere: NDArray[np.bool_] = self.row_of_region != np.arange(len(self.row_of_region))
        return self.found & elsewhere

    @property
    def complete(self) -> bool:
        """Whether every region has a row of its own, so that the table can be put into our order."""
        return bool(self.found.all()) and len(np.unique(self.row_of_region)) == len(self.row_of_region)


def row_order(names: list[str] | None, table: pd.DataFrame) -> RowOrder | None:
    """Find the regions of `table` (its column `name`) among the names of rows; None: nothing to tell.

    Nothing tells where one side has no names, or only the numbered ones of a matrix without names.
    """
    own = [str(name) for name in table["name"]]
    if names is None or not regions_are_named(names) or not regions_are_named(own):
        return None
    if names == own:
        return RowOrder(np.arange(len(own)))
    found = region_numbers(names, table)
    return RowOrder(found.numbers, found.problem)
