"""The numbers in a table of text, and the names at its edges: what is header, what is index, what is data.

    header   the first row, if most of its cells are words, or if it counts (0, 1, 2, ... or 1, 2, 3, ... as
             pandas writes columns without names). A row of numbers with a few words in it is data: refused at
             the first word, not lost as a header
    index    columns on the left that are no series: one of names, and any that counts the rows from 0 or 1.
             A region that counts so is not to be expected: it would rise by exactly 1 with every frame, in
             whole numbers. An index that is not seen would become a region, or a frame

Empty cells, nan and n/a are NaN.
"""

import csv
import gzip
import io
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

_NOT_A_NUMBER = ("", "nan", "n/a", "na")
_MIN_COUNTED = 3  # two cells "0, 1" or "1, 2" may well be numbers


@dataclass(frozen=True)
class TextTable:
    values: NDArray[np.float64]  # (rows, columns)
    columns: list[str] | None  # names in the header, None without one
    rows: list[str] | None  # names in an index column, None without


def read_text(path: Path, *, delimiter: str) -> TextTable:
    """Read a table of text (`.gz` too).

    Raises
    ------
    InputError
        Unreadable or empty file; rows of unequal length; a cell that is no number.
    """
    lines, cells = _cells(path, delimiter)
    if not cells:
        raise InputError(f"{path} is empty.")
    header = None
    if _is_header(cells):
        header, cells, lines = [cell.strip() for cell in cells[0]], cells[1:], lines[1:]
    n_columns = len(cells[0]) if cells else 0
    uneven = [line for line, row in zip(lines, cells, strict=True) if len(row) != n_columns]
    if not cells or uneven:
        where = f"line {uneven[0]} has another number of cells" if uneven else ""
        raise InputError(f"{path} is not a table: {where or 'it has a header and no rows'}.")
    n_index, names = _index(path, header, cells)
    if header is not None:
        without_index = len(header) - n_columns + n_index  # as many names of the header are of index columns
        header = header[without_index:] if len(header) in (n_columns, n_columns - 1) else None
    values = _values(path, [row[n_index:] for row in cells], lines, n_index)
    if not values.size:
        raise InputError(f"{path} holds no numbers.")
    if header is not None and (len(header) != values.shape[1] or counts(header)):
        header = None  # numbers of columns are no names
    return TextTable(values, header, names)


def _cells(path: Path, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """Rows that are not empty, and the number of the line that each ends on."""
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"{path} is not a readable text table ({error}).") from error
    return [line for line, _ in rows], [row for _, row in rows]


# --- header -------------------------------------------------------------------------------------------------


def _is_header(cells: list[list[str]]) -> bool:
    """Whether the first row names columns: it is words for the most part, or it counts."""
    first = [cell.strip() for cell in cells[0]]
    n_edge = next((n for n, cell in enumerate(first) if cell and is_number(cell)), len(first))
    rest = first[n_edge:]  # after the names of index columns: all from the first number on
    below = [[row[n].strip() for row in cells[1:] if len(row) > n] for n in range(n_edge)]
    if counts(rest) or any(_counts_rows(column) for column in below):
        return True  # `roi,0,1,2,...`; or `roi,101,205,...` above `1,...`, `2,...`
    words = [cell for cell in first if not is_number(cell)]
    if words or not rest or first[0]:
        return 2 * len(words) > len([cell for cell in first if cell])
    # an empty cell, then numbers: a header, or a frame whose first region is missing
    over_names = bool(below[0]) and all(not is_number(cell) for cell in below[0])
    labels = all(cell.isdigit() for cell in rest) and len(set(rest)) == len(rest)
    return over_names or (labels and any(below[0]))


# --- index --------------------------------------------------------------------------------------------------


def _index(path: Path, header: list[str] | None, cells: list[list[str]]) -> tuple[int, list[str] | None]:
    """How many columns on the left are index, and the names among them."""
    n_columns, n_index, names = len(cells[0]), 0, None
    unnamed = header is not None and (
        len(header) == n_columns - 1 or header[:1] == [""]
    )  # as R and pandas do
    while n_index < n_columns:
        column = [row[n_index].strip() for row in cells]
        if _counts_rows(column) and n_columns - n_index > 1:
            log.info("%s: column %d counts the rows and is left out.", path, n_index + 1)
        elif names is None and (all(not is_number(cell) for cell in column) or (unnamed and n_index == 0)):
            names = column
        else:
            break
        n_index += 1
    return n_index, names


def _counts_rows(column: list[str]) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ... to its end, however the numbers are written."""
    if len(column) < _MIN_COUNTED or not is_number(column[-1]):
        return False
    last = _number(column[-1])
    if last not in (len(column) - 1, len(column)) or not all(map(is_number, column)):
        return False
    start = last - len(column) + 1
    return [_number(cell) for cell in column] == [start + n for n in range(len(column))]


def counts(cells: list[str]) -> bool:
    """Whether cells count up by one from 0 or 1, in whole numbers."""
    if len(cells) < _MIN_COUNTED:
        return False
    texts = [cell.strip() for cell in cells]
    return any(texts == [str(start + n) for n in range(len(texts))] for start in (0, 1))


# --- numbers ------------------------------------------------------------------------------------------------


def _values(path: Path, rows: list[list[str]], lines: list[int], n_index: int) -> NDArray[np.float64]:
    try:
        return np.array(rows, dtype=np.float64)  # numbers alone: three times as fast as cell by cell
    except ValueError:
        for line, row in zip(lines, rows, strict=True):
            for column, cell in enumerate(row, start=n_index + 1):
                if not is_number(cell):
                    raise InputError(
                        f"{path}, line {line}, column {column} holds a cell that is not a number: {cell!r}.",
                        hint="Columns must be regions; leave other columns out. Missing numbers are n/a, nan "
                        "or empty.",
                    ) from None
        return np.array([[_number(cell) for cell in row] for row in rows], dtype=np.float64)


def _number(cell: str) -> float:
    cell = cell.strip()
    return float("nan") if cell.lower() in _NOT_A_NUMBER else float(cell)


def is_number(cell: str) -> bool:
    """Whether a cell of text is a number, or one of the words for none."""
    try:
        _number(cell)
    except ValueError:
        return False
    return True
