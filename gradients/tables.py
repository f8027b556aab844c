"""A connectivity matrix or a time series out of one file: which array of several is meant, and its numbers.

.npy              the array
.npz, .mat, .h5   the array named fc, fc_mean, relmat or timeseries, else the only 2-D one
.csv, .tsv        (also .gz) with or without a header and an index column of names
"""

from pathlib import Path

from bjepa.preproc import number_tables
from bjepa.preproc.number_tables import SUFFIXES, Table

__all__ = ["MATRIX_NAMES", "SERIES_NAMES", "SUFFIXES", "Table", "read_table"]

MATRIX_NAMES, SERIES_NAMES = ("fc", "fc_mean", "relmat"), ("timeseries",)


def read_table(path: Path) -> Table:
    """Read a table of numbers; raises InputError as bjepa.preproc.number_tables does."""
    return number_tables.read_table(path, known_names=(*MATRIX_NAMES, *SERIES_NAMES))
