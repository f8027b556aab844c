"""What gradients are turned towards: a table whose rows are proven to be our regions, as far as it tells.

Order of the checks of a file, for R regions:
  1. hash     of the atlas: another one is refused
  2. number   of rows: must be R
  3. names    (.tsv, .h5): the same in another order: put into ours, with a warning. Other names: refused,
              unless the hash is the same (regions renamed) or one side has none
A bare .csv has neither hash nor names; both are taken from the gradients.h5 beside it if it holds the same
numbers, else rows are taken in order. For Schaefer parcels `align` then asks whether the other network order
would fit better.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.parcels import other_network_orders, regions_are_named
from bjepa.gradients.alignment.row_order import row_order
from bjepa.gradients.atlas_reading import GradientTable, load_fc_mean, load_gradients
from bjepa.gradients.regions import Regions
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Gradients to align to, rows in the order of our regions."""

    name: str  # shown to people
    values: NDArray[np.float64]  # (R, C_ref), NaN rows where it has no region
    atlas_sha256: str | None = None
    fc: NDArray[np.float64] | None = None  # (R, R), NaN rows and columns where it has no region
    n_components: int | None = None  # of ours that take part by default; None: all that both have
    other_orders: tuple[NDArray[np.int64], ...] = ()  # (R,) rows if it were in another, where nothing tells

    @property
    def rows(self) -> NDArray[np.bool_]:
        """(R,) regions that it has."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def load_reference(path: str | Path, regions: Regions) -> Reference:
    """Read gradients (.csv, .tsv, .h5) whose rows are `regions`.

    Raises
    ------
    InputError
        As `load_gradients`; another atlas, another number of regions, other names.
    """
    path = Path(path)
    table = load_gradients(path, allow_missing=True)
    ours, theirs = regions.atlas_sha256, table.atlas_sha256
    if ours and theirs and ours != theirs:
        raise InputError(
            f"{path} was made with another atlas (hash {theirs[:12]}) than INPUT (hash {ours[:12]}).",
            hint="Give gradients of the same atlas. A copy of its gradients.csv alone has no hash: use that "
            "if the regions are the same, in the same order (another space, for instance).",
        )
    if len(table.values) != len(regions.table):
        raise InputError(
            f"{path} has {len(table.values)} regions, INPUT has {len(regions.table)}.",
            hint="Give gradients of the same atlas.",
        )
    fc, names = _connectivity(path, table), table.names
    order = _order_by_names(path, names, regions, same_atlas=bool(ours and ours == theirs))
    values = table.values
    if order is not None:
        values = values[order]
        fc = fc[np.ix_(order, order)] if fc is not None else None
    told = bool(ours and theirs) or (regions_are_named(names) and regions_are_named(regions.names))
    return Reference(
        name=path.name,
        values=values,
        atlas_sha256=theirs,
        fc=fc,
        other_orders=() if told else tuple(other_network_orders(regions)),
    )


def _connectivity(path: Path, table: GradientTable) -> NDArray[np.float64] | None:
    """(R, R) of the .h5 file, or of the one beside a text file of the same numbers; None: there is none."""
    full = path if path.suffix == ".h5" else path.with_name("gradients.h5")
    if not full.is_file():
        return None
    same = load_gradients(full, allow_missing=True).values
    if not np.array_equal(same, table.values, equal_nan=True):
        return None
    with h5py.File(full, "r") as file:
        has_fc = "fc_mean" in file  # of vertices it is never formed
    return load_fc_mean(full) if has_fc else None


def _order_by_names(
    path: Path, names: list[str] | None, regions: Regions, *, same_atlas: bool
) -> NDArray[np.int64] | None:
    """(R,) row of the file that each region has; None: the rows are in our order as far as can be told."""
    order = row_order(names, regions.table)
    if names is None or order is None or (order.complete and not order.moved.any()):
        return None  # another naming of the same regions, at most
    if order.complete:
        if same_atlas:
            raise InputError(
                f"{path}: its names are in another order than those of INPUT, although both have the same "
                "atlas (by hash).",
                hint="One of the two was edited; make it again.",
            )
        log.warning("%s: its regions are in another order; put into that of INPUT, by name", path)
        return order.row_of_region
    if same_atlas:
        return None
    example = int(np.argmin(order.found)) if not order.found.all() else 0
    raise InputError(
        f"{path}: the names of its regions are not those of INPUT: {order.found.sum()} of {len(names)} are "
        f"found; row {example + 1} is {names[example]!r} there, {regions.names[example]!r} here."
        + (f" {order.problem}." if order.problem else ""),
        hint="Give gradients of the same atlas. A table without the column name (gradients.csv alone) is "
        "taken row by row.",
    )
