"""One table of numbers out of a file, in the formats that people have.

    .npy              the array
    .npz .mat .h5     the array that is asked for, else the one with a known name, else the only 2-D one
    .csv .tsv (.gz)   with or without a header and an index column of names; empty, nan and n/a are NaN
.mat is read in all its versions (7.3 is HDF5, stored with its axes exchanged). Nothing is unpickled.
"""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
_NOT_A_NUMBER = ("", "nan", "n/a", "na")
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, TypeError)


@dataclass(frozen=True)
class Table:
    values: NDArray[np.float64]  # (rows, columns)
    columns: list[str] | None  # names in the header, None without one
    key: str | None  # name of the array in .npz, .mat and .h5
    rows: list[str] | None = None  # names in the first column, None without


def table_suffix(path: Path) -> str | None:
    """The suffix of a table's name (`.csv.gz` whole), None where it is no table's."""
    return next((suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)), None)


def read_table(path: Path, *, variable: str | None = None, known_names: Sequence[str] = ()) -> Table:
    """Read a table of numbers.

    Parameters
    ----------
    variable : name of the array in `.npz`, `.mat` and `.h5`; an error for other formats
    known_names : names that are looked for, best first, where `variable` is not given

    Raises
    ------
    InputError
        Unknown format; unreadable or truncated file; several arrays to choose from; not 2-D; not numbers.
    """
    suffix = table_suffix(path)
    if suffix is None:
        raise InputError(
            f"{path}: tables are read from {', '.join(SUFFIXES)}, not {path.suffix!r}.",
            hint="For images, run bjepa-preprocess first.",
        )
    if suffix.startswith((".csv", ".tsv")):
        _refuse_variable(variable, path)
        return _read_text(path, delimiter="," if suffix.startswith(".csv") else "\t")
    try:
        key, found = _read_binary(path, suffix, variable, known_names)
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable {suffix} file ({error}).") from error
    if found.ndim != 2 or found.dtype.kind not in "fiub" or not found.size:
        raise InputError(
            f"{path} holds an array of shape {found.shape}, dtype {found.dtype}; a 2-D one of real numbers "
            "is needed."
        )
    return Table(found.astype(np.float64), None, key)


# --- arrays -------------------------------------------------------------------------------------------------


def _read_binary(
    path: Path, suffix: str, variable: str | None, known_names: Sequence[str]
) -> tuple[str | None, NDArray[Any]]:
    if suffix == ".npy":
        _refuse_variable(variable, path)
        return None, np.load(path, allow_pickle=False)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            key = variable or _only({name: archive[name].ndim for name in archive.files}, path, known_names)
            _check_there(key, archive.files, path)
            return key, archive[key]
    if suffix == ".mat" and not h5py.is_hdf5(path):
        return _read_old_matlab(path, variable, known_names)
    with h5py.File(path, "r") as file:
        found: dict[str, int] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):  # MATLAB keeps its own in #refs#
                found[name] = item.ndim

        file.visititems(note)
        key = variable.strip("/") if variable else _only(found, path, known_names)
        _check_there(key, found, path)
        array = np.asarray(file[key][()])
        return key, array.T if suffix == ".mat" else array


def _read_old_matlab(
    path: Path, variable: str | None, known_names: Sequence[str]
) -> tuple[str, NDArray[Any]]:
    from scipy.io import loadmat, whosmat

    no_numbers = ("char", "cell", "struct", "function", "object")
    try:
        shapes = {name: len(shape) for name, shape, kind in whosmat(path) if kind not in no_numbers}
        key = variable or _only(shapes, path, known_names)
        _check_there(key, shapes, path)
        return key, np.asarray(loadmat(path, variable_names=[key])[key])
    except InputError:
        raise
    except Exception as error:  # scipy raises many kinds for a broken file
        raise InputError(f"{path} is not a readable .mat file ({error}).") from error


def _only(dimensions: dict[str, int], path: Path, known_names: Sequence[str]) -> str:
    """The array that is meant: by its name, else the only table."""
    for name in known_names:
        if name in dimensions:
            return name
    tables = [name for name, n in dimensions.items() if n == 2]
    if len(tables) != 1:
        names = " or ".join([*known_names[:1], *known_names[-1:]])
        raise InputError(
            f"{path} holds {len(tables)} tables to choose from: {sorted(dimensions)[:12]}.",
            hint=f"Name the one that is meant {names}." if names else "Say which.",
        )
    return tables[0]


def _check_there(key: str, names: Any, path: Path) -> None:
    if key not in names:
        raise InputError(f"{path} holds no array {key!r}; it holds {sorted(names)[:12]}.")


def _refuse_variable(variable: str | None, path: Path) -> None:
    if variable is not None:
        raise InputError(
            f"{path} holds one table without a name, so the variable {variable!r} cannot be chosen in it."
        )


# --- text ---------------------------------------------------------------------------------------------------


def _read_text(path: Path, *, delimiter: str) -> Table:
    rows = _cells(path, delimiter)
    if not rows:
        raise InputError(f"{path} is empty.")
    header = None
    if not all(is_number(cell) for cell in rows[0]) or (rows[0][0].strip() == "" and len(rows[0]) > 1):
        header, rows = [cell.strip() for cell in rows[0]], rows[1:]
    elif len(rows[0]) > 2 and _counts(rows[0]):
        rows = rows[1:]  # a header of numbers 0, 1, 2, ... or 1, 2, 3, ... as pandas writes it, not a frame
    n_columns = len(rows[0]) if rows else 0
    uneven = [number for number, row in enumerate(rows) if len(row) != n_columns]
    if not rows or uneven:
        where = f"line {uneven[0] + 1 + (header is not None)} has another number of cells" if uneven else ""
        raise InputError(f"{path} is not a table: {where or 'it has a header and no rows'}.")
    names = None
    if all(not is_number(row[0]) for row in rows) or (header is not None and header[0] == ""):
        names = [row[0].strip() for row in rows]
        rows = [row[1:] for row in rows]  # an index of names
        header = header[1:] if header is not None and len(header) == n_columns else header
    try:
        values = _values(rows)
    except ValueError as error:
        raise InputError(
            f"{path} holds a cell that is not a number ({error}).",
            hint="Columns must be regions; leave other columns out.",
        ) from error
    if not values.size:
        raise InputError(f"{path} holds no numbers.")
    columns = header if header is not None and len(header) == values.shape[1] else None
    return Table(values, columns, None, names)


def _cells(path: Path, delimiter: str) -> list[list[str]]:
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        return [row for row in csv.reader(text, delimiter=delimiter) if row]
    except (*_UNREADABLE, csv.Error) as error:
        raise InputError(f"{path} is not a readable text table ({error}).") from error


def _values(rows: list[list[str]]) -> NDArray[np.float64]:
    try:
        return np.array(rows, dtype=np.float64)  # numbers alone: three times as fast as cell by cell
    except ValueError:
        return np.array([[_number(cell) for cell in row] for row in rows], dtype=np.float64)


def _counts(cells: list[str]) -> bool:
    """Whether cells count up by one from 0 or 1, in whole numbers."""
    texts = [cell.strip() for cell in cells]
    return any(texts == [str(start + n) for n in range(len(texts))] for start in (0, 1))


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


# --- which axis is time? ------------------------------------------------------------------------------------


def looks_transposed(values: NDArray[np.float64]) -> bool:
    """Whether a table (T, R) is smoother along its columns than along its rows.

    Lag-1 autocorrelation of real fMRI, levels removed, is 0.6 to 0.9 over frames and 0.3 to 0.6 over regions
    in atlas order, always larger over frames; the margin of 0.1 keeps white noise from a false alarm.
    """
    numbers = values[~np.isnan(values).all(axis=1)]
    numbers = numbers[:, np.isfinite(numbers).all(axis=0)]
    if not numbers.size:
        return False
    numbers = numbers - numbers.mean(axis=0) - numbers.mean(axis=1, keepdims=True) + numbers.mean()
    return _smoothness(numbers.T) > _smoothness(numbers) + 0.1


def _smoothness(values: NDArray[np.float64]) -> float:
    """Mean lag-1 autocorrelation down the columns, of those that vary (more than by rounding)."""
    deviation = values.std(axis=0)
    varying = values[:, deviation > 1e-9 * np.abs(values).max()]
    if not varying.size:
        return 0.0
    centred = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    return float((centred[1:] * centred[:-1]).mean())
