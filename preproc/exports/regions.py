"""Where the regions of the published atlases stand among the columns of an atlas: by name, never by place."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.atlas.published import schaefer_table, tian_table
from bjepa.preproc.atlas.region_names import region_numbers

Order = Literal["17networks", "7networks"]


def schaefer_columns(atlas_table: pd.DataFrame, order: Order) -> NDArray[np.int64] | None:
    """Columns of the 400 Schaefer-400 regions, in the label order of the 7- or the 17-network release.

    The atlas may hold them in either order and under the names of either release: both number the same
    parcels, and the published table says which is which. Names alone do not tell the sizes apart ("..._Vis_4"
    is in all ten), so an atlas with more cortical regions than these does not count.

    Returns
    -------
    (400,) column numbers, or None where the atlas does not hold Schaefer-400.
    """
    return _columns(atlas_table, schaefer_table(order))


def tian_columns(atlas_table: pd.DataFrame) -> NDArray[np.int64] | None:
    """Columns of the 50 regions of Tian scale III, in label order (1-25 right, 26-50 left), or None."""
    return _columns(atlas_table, tian_table())


def _columns(atlas_table: pd.DataFrame, published: pd.DataFrame) -> NDArray[np.int64] | None:
    found = region_numbers(atlas_table["name"].tolist(), published)
    return None if (found.numbers < 0).any() else found.numbers
