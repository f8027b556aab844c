"""One numeric table out of a file: a connectivity matrix or a time series, in the formats people have.

    .npy         the array
    .npz, .h5    the array named fc, fc_mean, relmat or timeseries, else the only 2-D one
    .csv, .tsv   with or without a header and an index column of names; empty, nan and n/a are NaN
Nothing is unpickled.
"""

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".h5")
MATRIX_NAMES, SERIES_NAMES = ("fc", "fc_mean", "relmat"), ("timeseries",)
_NOT_A_NUMBER = ("", "nan", "n/a", "na")


@dataclass(frozen=True)
class Table:
    values: NDArray[np.float64]  # (rows, columns)
    columns: list[str] | None  # names in the header, None without one
    key: str | None  # name of the array in .npz and .h5


def read_table(path: Path) -> Table:
    """Read a table of numbers.

    Raises
    ------
    InputError
        Unknown format; unreadable or truncated file; several arrays to choose from; not 2-D; not numbers.
    """
    if path.suffix in (".csv", ".tsv"):
        return _read_text(path, delimiter="," if path.suffix == ".csv" else "\t")
    if path.suffix not in (".npy", ".npz", ".h5"):
        raise InputError(
            f"{path}: tables are read from {', '.join(SUFFIXES)}, not {path.suffix!r}.",
            hint="For images, run bjepa-preprocess first.",
        )
    try:
        key, found = _read_binary(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable {path.suffix} file ({error}).") from error
    if found.ndim != 2 or found.dtype.kind not in "fiub" or not found.size:
        raise InputError(
            f"{path} holds an array of shape {found.shape}, dtype {found.dtype}; a 2-D one of real numbers "
            "is needed."
        )
    return Table(found.astype(np.float64), None, key)


def _read_binary(path: Path) -> tuple[str | None, NDArray[Any]]:
    if path.suffix == ".npy":
        return None, np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            key = _choose({name: archive[name].ndim for name in archive.files}, path)
            return key, archive[key]
    with h5py.File(path, "r") as file:
        found: dict[str, int] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item.ndim

        file.visititems(note)
        key = _choose(found, path)
        return key, file[key][()]


def _choose(dimensions: dict[str, int], path: Path) -> str:
    """The array that is meant: by its name, else the only table."""
    for name in (*MATRIX_NAMES, *SERIES_NAMES):
        if name in dimensions:
            return name
    tables = [name for name, n in dimensions.items() if n == 2]
    if len(tables) != 1:
        raise InputError(
            f"{path} holds {len(tables)} tables to choose from: {sorted(dimensions)[:12]}.",
            hint=f"Name the one that is meant fc or {SERIES_NAMES[0]}.",
        )
    return tables[0]


def _read_text(path: Path, *, delimiter: str) -> Table:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream, delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a readable text table ({error}).") from error
    if not rows:
        raise InputError(f"{path} is empty.")
    header = None
    if not all(_is_number(cell) for cell in rows[0]) or (rows[0][0].strip() == "" and len(rows[0]) > 1):
        header, rows = [cell.strip() for cell in rows[0]], rows[1:]
    elif len(rows[0]) > 2 and _counts(rows[0]):
        rows = rows[1:]  # a header of numbers 0, 1, 2, ... or 1, 2, 3, ... as pandas writes it, not a frame
    n_columns = len(rows[0]) if rows else 0
    uneven = [number for number, row in enumerate(rows) if len(row) != n_columns]
    if not rows or uneven:
        where = f"line {uneven[0] + 1 + (header is not None)} has another number of cells" if uneven else ""
        raise InputError(f"{path} is not a table: {where or 'it has a header and no rows'}.")
    if all(not _is_number(row[0]) for row in rows) or (header is not None and header[0] == ""):
        rows = [row[1:] for row in rows]  # an index of names
        header = header[1:] if header is not None and len(header) == n_columns else header
    try:
        values = np.array([[_number(cell) for cell in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise InputError(
            f"{path} holds a cell that is not a number ({error}).",
            hint="Columns must be regions; leave other columns out.",
        ) from error
    if not values.size:
        raise InputError(f"{path} holds no numbers.")
    return Table(values, header if header is not None and len(header) == values.shape[1] else None, None)


def _counts(cells: list[str]) -> bool:
    """Whether cells count up by one from 0 or 1, in whole numbers."""
    texts = [cell.strip() for cell in cells]
    return any(texts == [str(start + n) for n in range(len(texts))] for start in (0, 1))


def _number(cell: str) -> float:
    cell = cell.strip()
    return float("nan") if cell.lower() in _NOT_A_NUMBER else float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True
