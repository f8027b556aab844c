"""One table of numbers out of a file, in the formats that people have.

    .npy              the array
    .npz .mat .h5     the array that is asked for, else the one with a known name, else the only 2-D one
    .csv .tsv (.gz)   with or without a header and an index (text_tables.py)
.mat is read in all its versions (7.3 is HDF5, stored with its axes exchanged). Nothing is unpickled.
"""

import zipfile
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.text_tables import read_text

SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, TypeError)


@dataclass(frozen=True)
class Table:
    values: NDArray[Any]  # (rows, columns) float64, or float32 if asked for
    columns: list[str] | None  # names in the header, None without one
    key: str | None  # name of the array in .npz, .mat and .h5
    rows: list[str] | None = None  # names in the first column, None without


def table_suffix(path: Path) -> str | None:
    """The suffix of a table's name (`.csv.gz` whole), None where it is no table's."""
    return next((suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)), None)


def read_table(
    path: Path,
    *,
    variable: str | None = None,
    known_names: Sequence[str] = (),
    option: str | None = None,
    keep_float32: bool = False,
) -> Table:
    """Read a table of numbers.

    Parameters
    ----------
    variable : name of the array in `.npz`, `.mat` and `.h5`; an error for other formats
    known_names : names that are looked for, best first, where `variable` is not given
    option : the command's option that gives `variable`, for the advice in errors
    keep_float32 : leave an array of float32 as it is (half the memory); others become float64 in any case

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
        text = read_text(path, delimiter="," if suffix.startswith(".csv") else "\t")
        return Table(text.values, text.columns, None, text.rows)
    try:
        key, found = _read_binary(path, suffix, variable, _Choice(known_names, option))
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable {suffix} file ({error}).") from error
    if found.ndim != 2 or found.dtype.kind not in "fiub" or not found.size:
        raise InputError(
            f"{path} holds an array of shape {found.shape}, dtype {found.dtype}; a 2-D one of real numbers "
            "is needed."
        )
    as_is = keep_float32 and found.dtype == np.float32
    return Table(found if as_is else found.astype(np.float64), None, key)


# --- arrays -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """How the array that is meant is found where nobody names it."""

    known_names: Sequence[str]
    option: str | None

    def only(self, shapes: Mapping[str, tuple[int, ...]], path: Path) -> str:
        """By its name, else the only table: single numbers and vectors are no series, if there is better."""
        if known := self.known(shapes):
            return known
        tables = [name for name, shape in shapes.items() if len(shape) == 2]
        for least in (max, min):  # first 1 x 1 goes, then 1 x N
            tables = [name for name in tables if least(shapes[name]) > 1] or tables
        if len(tables) != 1:
            call = (
                f"Call it {' or '.join(self.known_names)}"
                if self.known_names
                else "Leave that which is meant"
            )
            raise InputError(
                f"{path} holds {len(tables)} tables to choose from: {sorted(shapes)[:12]}.",
                hint=f"{call}{f', or say which with {self.option} NAME' if self.option else ''}.",
            )
        return tables[0]

    def known(self, names: Container[str]) -> str | None:
        return next((name for name in self.known_names if name in names), None)


def _read_binary(
    path: Path, suffix: str, variable: str | None, choice: _Choice
) -> tuple[str | None, NDArray[Any]]:
    if suffix == ".npy":
        _refuse_variable(variable, path)
        return None, np.load(path, allow_pickle=False)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            key = variable or choice.known(archive.files) or choice.only(_shapes(archive), path)
            _check_there(key, archive.files, path)
            return key, archive[key]
    if suffix == ".mat" and not h5py.is_hdf5(path):
        return _read_old_matlab(path, variable, choice)
    with h5py.File(path, "r") as file:
        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, item: Any) -> None:
            # MATLAB keeps its own in #refs#; its cells are references, its texts numbers that say so
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and not name.startswith("#"):
                if item.attrs.get("MATLAB_class") != b"char":
                    found[name] = item.shape

        file.visititems(note)
        key = variable.strip("/") if variable else choice.only(found, path)
        _check_there(key, found, path)
        array = np.asarray(file[key][()])
        return key, array.T if suffix == ".mat" else array


def _shapes(archive: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in a .npz, one array in memory at a time, without those that need unpickling."""
    shapes = {}
    for name in archive.files:
        try:
            shapes[name] = archive[name].shape
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
    return shapes


def _read_old_matlab(path: Path, variable: str | None, choice: _Choice) -> tuple[str, NDArray[Any]]:
    from scipy.io import loadmat, whosmat

    no_numbers = ("char", "cell", "struct", "function", "object")
    try:
        shapes = {name: shape for name, shape, kind in whosmat(path) if kind not in no_numbers}
        key = variable or choice.only(shapes, path)
        _check_there(key, shapes, path)
        return key, np.asarray(loadmat(path, variable_names=[key])[key])
    except InputError:
        raise
    except Exception as error:  # scipy raises many kinds for a broken file
        raise InputError(f"{path} is not a readable .mat file ({error}).") from error


def _check_there(key: str, names: Any, path: Path) -> None:
    if key not in names:
        raise InputError(f"{path} holds no array {key!r}; it holds {sorted(names)[:12]}.")


def _refuse_variable(variable: str | None, path: Path) -> None:
    if variable is not None:
        raise InputError(
            f"{path} holds one table without a name, so the variable {variable!r} cannot be chosen in it."
        )


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
