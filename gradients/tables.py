"""A connectivity matrix or a time series out of one file: which array of several is meant, and its numbers.

.npy                       the array
.npz, .mat, .h5            the array named fc, fc_mean, relmat or timeseries, else the only 2-D one
.csv, .tsv                 (also .gz) with or without a header and an index column of names
.func.gii, .dtseries.nii   series of the vertices of a surface (surface_series.py)
"""

from pathlib import Path

from bjepa.gradients.surface_series import (
    SURFACE_SUFFIXES,
    Hemisphere,
    is_surface_series,
    read_surface_series,
)
from bjepa.preproc import number_tables
from bjepa.preproc.errors import InputError
from bjepa.preproc.number_tables import Table

__all__ = ["MATRIX_NAMES", "SERIES_NAMES", "SUFFIXES", "Table", "read_table", "table_suffix"]

MATRIX_NAMES, SERIES_NAMES = ("fc", "fc_mean", "relmat"), ("timeseries",)
SUFFIXES = (*number_tables.SUFFIXES, *SURFACE_SUFFIXES)


def read_table(path: Path, *, hemisphere: Hemisphere | None = None, keep_float32: bool = False) -> Table:
    """Read a table of numbers.

    Parameters
    ----------
    hemisphere
        Of a surface file; None: all that it holds.
    keep_float32
        Leave numbers that are float32 in the file as they are: half the memory. Surface files always are.

    Raises
    ------
    InputError
        As bjepa.preproc.number_tables and bjepa.gradients.surface_series; a hemisphere of another table.
    """
    if is_surface_series(path):
        values, names = read_surface_series(path, hemisphere=hemisphere)
        return Table(values, names, "timeseries")  # so that a square one is no connectivity
    if hemisphere is not None:
        raise InputError(
            f"{path} does not say where its columns lie, so hemisphere {hemisphere} cannot be chosen.",
            hint=f"Only {' and '.join(SURFACE_SUFFIXES)} files do.",
        )
    names_known = (*MATRIX_NAMES, *SERIES_NAMES)
    return number_tables.read_table(path, known_names=names_known, keep_float32=keep_float32)


def table_suffix(path: Path) -> str | None:
    """The suffix of a file that `read_table` reads, None for others."""
    surface = (suffix for suffix in SURFACE_SUFFIXES if path.name.lower().endswith(suffix))
    return next(surface, None) or number_tables.table_suffix(path)
