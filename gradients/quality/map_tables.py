"""Maps of other properties of the regions, out of a table: thickness, myelin, receptor densities, ...

Order of operations, for R regions (.tsv, .csv; also .gz):
  1. header   a first row of numbers is no header: columns are then map-1, map-2, ...
  2. rows     by the column `name` (also Schaefer names of another release or network naming), else by `index`
              (1 to R), else all R of them in the order of the regions. By name or index, regions may be
              absent, and rows in any order
  3. columns  those of an atlas (structure, x, ...) are left out, and those without any number (warning). All
              others are maps; a cell that is empty, nan or n/a is a region without a value
"""

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.regions import Regions
from bjepa.preproc.atlas.region_names import region_numbers
from bjepa.preproc.errors import InputError
from bjepa.preproc.text_tables import counts, is_number

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SUFFIXES = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
ATLAS_COLUMNS = (
    *("index", "name", "label", "structure", "hemisphere", "network7", "network17"),
    *("x", "y", "z", "n_voxels", "n_vertices"),
)


def read_maps(path: str | Path, regions: Regions) -> "pd.DataFrame":
    """One row a region in the order of `regions`, one float64 column a map; NaN where there is no value.

    `.attrs["file"]` of the result is the name of the file.

    Raises
    ------
    InputError
        Not such a file; other rows than the regions; a name twice or unknown; no column of numbers; a cell
        that is no number among numbers.
    """
    path = Path(path)
    table = _read(path)
    if not len(table):
        raise InputError(f"{path} has a header but no rows.", hint="One row a region, one column a map.")
    rows = _rows(table, regions, path)  # (R,) of the table, -1 where it lacks the region
    found = {}
    for column in table.columns:
        if column in ATLAS_COLUMNS or column == "":
            continue
        values = _numbers(table[column].tolist(), column, path)
        if values is not None:
            found[column] = np.where(rows >= 0, values[rows], np.nan)
    if not found:
        raise InputError(
            f"{path} has no column of numbers besides those of an atlas; it has {list(table.columns)[:12]}.",
            hint="One row a region, one column a map.",
        )
    import pandas as pd

    maps = pd.DataFrame(found)
    maps.attrs["file"] = path.name
    return maps


def _read(path: Path) -> "pd.DataFrame":
    """All cells as text, without spaces around them."""
    import pandas as pd

    delimiter = next((d for suffix, d in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
    if delimiter is None or not path.is_file():
        what = "is not there" if delimiter else f"must be one of {', '.join(SUFFIXES)}"
        raise InputError(f"{path} {what}.", hint="Give a table: one row a region, one column a map.")
    try:
        cells = pd.read_csv(
            path, sep=delimiter, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable table ({error}).") from error
    cells = cells.map(lambda cell: str(cell).strip())
    first = cells.iloc[0].tolist()
    if all(map(is_number, first)) and not counts(first):
        return cells.set_axis([f"map-{n}" for n in range(1, len(first) + 1)], axis=1)
    if twice := [name for name, count in Counter(first).items() if count > 1]:
        raise InputError(f"{path} has columns of the same name: {twice[:5]}.")
    table: pd.DataFrame = cells.iloc[1:].reset_index(drop=True).set_axis(first, axis=1)
    if "" in table and "name" not in table and not all(map(is_number, table[""])):
        table = table.rename(columns={"": "name"})  # as pandas and R write an index
    return table


def _rows(table: "pd.DataFrame", regions: Regions, path: Path) -> NDArray[np.int64]:
    names, n_rois = regions.names, len(regions.table)
    unnamed = names == [f"region-{number}" for number in range(1, n_rois + 1)]
    if "name" in table and not (unnamed and len(table) == n_rois):
        return _by_name(table["name"].tolist(), regions, path)
    if "name" in table:
        log.warning("%s: the regions have no names; its rows are taken in order", path)
    if "index" in table:
        return _by_index(table["index"].tolist(), n_rois, path)
    if len(table) != n_rois:
        raise InputError(
            f"{path} has {len(table)} rows, there are {n_rois} regions.",
            hint="Give one row a region in their order, or a column `name` (or `index`, 1 to the number of "
            "regions) that says which.",
        )
    return np.arange(n_rois)


def _by_name(given: list[str], regions: Regions, path: Path) -> NDArray[np.int64]:
    _refuse_twice(given, "name", path)
    own = {name: row for row, name in enumerate(given)}
    if set(given) <= set(regions.names):
        rows = np.array([own.get(name, -1) for name in regions.names])
        unknown: list[str] = []
    else:
        matched = region_numbers(given, regions.table)
        rows, problem = matched.numbers, matched.problem
        unknown = [name for row, name in enumerate(given) if row not in set(rows.tolist())]
        if unknown:
            _refuse_unknown(unknown, regions, path, problem)
    if n_absent := np.count_nonzero(rows < 0):
        log.info("%s: %d of %d regions are not in it", path, n_absent, len(rows))
    return rows


def _by_index(given: list[str], n_rois: int, path: Path) -> NDArray[np.int64]:
    _refuse_twice(given, "index", path)
    wrong = [cell for cell in given if not cell.isdecimal() or not 1 <= int(cell) <= n_rois]
    if wrong:
        raise InputError(f"{path}: index must be 1 to {n_rois}, got {wrong[:5]}.")
    rows = np.full(n_rois, -1)
    rows[[int(cell) - 1 for cell in given]] = np.arange(len(given))
    return rows


def _refuse_twice(given: list[str], column: str, path: Path) -> None:
    if twice := [cell for cell, count in Counter(given).items() if count > 1]:
        raise InputError(
            f"{path}: the column {column} has {twice[:5]} more than once.", hint="One row a region."
        )


def _refuse_unknown(unknown: list[str], regions: Regions, path: Path, problem: str) -> NoReturn:
    raise InputError(
        f"{path}: {len(unknown)} names are not of these regions, for instance {unknown[:3]}; these are "
        f"called {regions.names[:3]} ...{f' ({problem})' if problem else ''}.",
        hint="Give maps of the same atlas; leave other rows out.",
    )


def _numbers(cells: list[str], column: str, path: Path) -> NDArray[np.float64] | None:
    """Cells as numbers; None (and a warning) for a column of words."""
    words = [number for number, cell in enumerate(cells) if not is_number(cell)]
    if not words:
        values = np.array(
            [float(cell) if cell.lower() not in ("", "n/a", "na") else np.nan for cell in cells]
        )
        if np.isinf(values).any():
            raise InputError(
                f"{path}, column {column!r}: row {int(np.isinf(values).argmax()) + 1} is infinite."
            )
        return values
    if len(words) == len([cell for cell in cells if cell]):
        log.warning("%s: the column %r has no numbers and is left out", path, column)
        return None
    raise InputError(
        f"{path}, column {column!r}: row {words[0] + 1} is no number: {cells[words[0]]!r}.",
        hint="Missing numbers are empty, nan or n/a.",
    )
