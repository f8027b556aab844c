"""Gradients read from a file: `gradients.csv`, `gradients.tsv` or `gradients.h5`, ours or anybody's.

R regions, C components. A region without gradients (the option --keep-largest leaves some out) is a row of
NaN: `nan` in .csv, `n/a` in .tsv.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GradientTable:
    """Gradients as read from a file."""

    values: Array  # (R, C)
    atlas_sha256: str | None  # of the atlas's label array, None where the file does not say
    names: list[str] | None = None  # (R,) of the regions, None where the file does not say


def load_gradients(path: str | Path, *, allow_missing: bool = False) -> GradientTable:
    """Read gradients.

    A text file holds no hash; it is taken, with the names, from the `gradients.h5` beside it if that holds
    the same numbers.

    Parameters
    ----------
    allow_missing
        Whether regions may be without gradients: rows of NaN. Other non-finite values are always refused.

    Raises
    ------
    InputError
        No such file; another format; not a table of finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} is not a file of gradients.", hint="Give gradients.csv, gradients.tsv or gradients.h5."
        )
    if path.suffix == ".h5":
        table = _read_h5(path)
    elif path.suffix in (".csv", ".tsv"):
        table = _read_csv(path) if path.suffix == ".csv" else _read_tsv(path)
        beside = path.with_name("gradients.h5")
        if beside.is_file():
            full = _read_h5(beside)
            if np.array_equal(full.values, table.values, equal_nan=True):
                table = full
    else:
        raise InputError(f"{path}: gradients are read from .csv, .tsv or .h5, not {path.suffix!r}.")
    if not allow_missing:
        _refuse_missing(table, path)
    return table


def load_fc_mean(path: str | Path) -> Array:
    """The connectivity (R, R) that a `gradients.h5` was made from.

    Raises
    ------
    InputError
        Another file; one of vertices, whose connectivity was never formed.
    """
    path = Path(path)
    hint = "Give a gradients.h5 of bjepa-gradients, made without --n-neighbors."
    if path.suffix != ".h5" or not path.is_file():
        raise InputError(f"{path} holds no connectivity.", hint=hint)
    try:
        with h5py.File(path, "r") as file:
            if "fc_mean" not in file:
                raise InputError(f"{path} has no dataset /fc_mean; it has {sorted(file)[:12]}.", hint=hint)
            fc: Array = np.asarray(file["fc_mean"][()], dtype=np.float64)
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}).") from error
    if fc.ndim != 2 or fc.shape[0] != fc.shape[1] or not np.isfinite(fc).all():
        raise InputError(f"{path}: /fc_mean must be square and finite, got shape {fc.shape}.", hint=hint)
    return fc


def _read_csv(path: Path) -> GradientTable:
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a table of numbers separated by commas ({error}).",
            hint="gradients.csv has neither header nor index: one row per region.",
        ) from error
    return GradientTable(_checked(values, path), None)


def _read_tsv(path: Path) -> GradientTable:
    import pandas as pd

    try:
        # as text first: pandas' own parser is not exact to the last digit in every version
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        columns = [name for name in table.columns if str(name).startswith("gradient_")]
        values = table[columns].replace("n/a", "nan").to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path} is not a table separated by tabs ({error}).") from error
    if not columns:
        raise InputError(f"{path} has no column gradient_1; it has {list(table.columns)[:12]}.")
    names = table["name"].tolist() if "name" in table.columns else None
    return GradientTable(_checked(values, path), None, names)


def _read_h5(path: Path) -> GradientTable:
    try:
        with h5py.File(path, "r") as file:
            if "gradients" not in file:
                raise InputError(f"{path} has no dataset /gradients; it has {sorted(file)[:12]}.")
            values = file["gradients"][()]
            sha256 = str(file.attrs.get("atlas_sha256", "")) or None
            names = file["rois/name"].asstr()[()].tolist() if "rois/name" in file else None
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}).") from error
    return GradientTable(_checked(values, path), sha256, names)


def _checked(found: Any, path: Path) -> Array:
    """As float64 (R, C): finite, apart from whole rows of NaN."""
    try:
        values: Array = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: gradients must be numbers ({error}).") from error
    if values.ndim == 2 and values.size:
        bad = ~np.isfinite(values)
        bad[np.isnan(values).all(axis=1)] = False  # regions without gradients
        if not bad.any() and not np.isnan(values).all():
            return values
    found_bad = f"{values.shape} with {np.count_nonzero(~np.isfinite(values))} non-finite values"
    raise InputError(f"{path}: gradients must be (regions, components) and finite, got {found_bad}.")


def _refuse_missing(table: GradientTable, path: Path) -> None:
    rows = np.flatnonzero(np.isnan(table.values).all(axis=1))
    if not len(rows):
        return
    shown = ", ".join(f"{row + 1}{f' ({table.names[row]})' if table.names else ''}" for row in rows[:8])
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    raise InputError(
        f"{path}: {len(rows)} of {len(table.values)} regions have no gradients, rows {shown}{more} (counted "
        "from 1): regions left out by --keep-largest. Here every region needs some.",
        hint="Run bjepa-gradients without --keep-largest, with a lower --sparsity or the kernel "
        "normalized_angle, so that its graph holds together; or leave these regions out of the atlas.",
    )
