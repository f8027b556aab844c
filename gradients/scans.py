"""The scans of INPUT: read one at a time, as often as a question needs, in any process.

T frames, R regions. Entities are those of the shards, or of BIDS names; "" where unknown.
"""

import re
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.surface_series import Hemisphere, is_surface_series
from bjepa.gradients.tables import Table, read_table
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

Array = NDArray[np.float64]
ENTITIES = ("participant_id", "session", "task", "run")
MIN_FRAMES = 3  # two frames correlate with r = +1 or -1, whatever they hold


class Scans(Protocol):
    """Scans of the same regions, by number. Picklable."""

    names: list[str] | None  # (R,) of the regions, None where the files do not say
    labels: list[str]  # (n,) of each scan, for messages
    entities: dict[str, list[str]]  # each of ENTITIES: (n,); participant_id without `sub-`

    def __len__(self) -> int: ...

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        """The series of scan `number`, one per phase of its stride: (T, R), frames that were censored left
        out, NaN in every frame of a region that the scan misses."""
        ...

    def subset(self, numbers: Sequence[int]) -> "Scans":
        """Some of the scans, in the order given."""
        ...


class ShardScans:
    """Scans in shards.

    Raises
    ------
    InputError
        From `phases`: scrubbing leaves fewer than MIN_FRAMES frames.
    """

    def __init__(self, reader: ShardReader, numbers: Sequence[int] | None = None) -> None:
        self.reader = reader
        self.numbers = list(range(len(reader.valid)) if numbers is None else numbers)
        self.names: list[str] | None = list(reader.rois["name"])
        self.labels = [f"scan {reader.scans['scan_id'][n]}" for n in self.numbers]
        self.entities = {name: [reader.scans[name][n] for n in self.numbers] for name in ENTITIES}
        self.entities["participant_id"] = [bare_id(name) for name in self.entities["participant_id"]]
        self._series: list[list[int]] = [[] for _ in reader.valid]  # numbers of each scan's series
        for number, scan in enumerate(reader.series_scan.tolist()):
            self._series[scan].append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        scan = self.numbers[number]
        missing = ~self.reader.valid[scan]
        found: list[NDArray[np.floating]] = []
        for series in self._series[scan]:
            values = self.reader[series]  # (T, R) float32
            censored = self.reader.censored(series)
            if censored.any():
                values = values[~censored]
                if len(values) < MIN_FRAMES:
                    raise InputError(
                        f"{self.labels[number]} has {len(values)} of {len(censored)} frames left after "
                        f"scrubbing; connectivity needs at least {MIN_FRAMES}.",
                        hint="Leave the scan out, or scrub less in bjepa-preprocess.",
                    )
            if missing.any():
                values[:, missing] = np.nan
            found.append(values)
        return found

    def subset(self, numbers: Sequence[int]) -> "ShardScans":
        part = copy(self)
        part.numbers = [self.numbers[n] for n in numbers]
        part.labels, part.entities = _rows(self, numbers)
        return part


class TableScans:
    """Files of series, one scan each."""

    def __init__(
        self, files: Sequence[Path], names: list[str] | None = None, *, hemisphere: Hemisphere | None = None
    ) -> None:
        self.files = list(files)
        self.names = names
        self.hemisphere: Hemisphere | None = hemisphere  # of surface files; None: all that they hold
        self.labels = [str(file) for file in self.files]
        self.entities = {name: [_entity(file, name) for file in self.files] for name in ENTITIES}

    def __len__(self) -> int:
        return len(self.files)

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        return [series_of(self.files[number], names=self.names, hemisphere=self.hemisphere)]

    def subset(self, numbers: Sequence[int]) -> "TableScans":
        part = copy(self)
        part.files = [self.files[n] for n in numbers]
        part.labels, part.entities = _rows(self, numbers)
        return part


class ArrayScans:
    """Series in memory, one scan each: (T, R)."""

    def __init__(self, arrays: Sequence[NDArray[np.floating]], names: list[str] | None = None) -> None:
        self.arrays = list(arrays)
        self.names = names
        self.labels = [f"scan {number}" for number in range(1, len(self.arrays) + 1)]
        self.entities = {name: [""] * len(self.arrays) for name in ENTITIES}

    def __len__(self) -> int:
        return len(self.arrays)

    def phases(self, number: int) -> list[NDArray[np.floating]]:
        return [np.asarray(self.arrays[number])]

    def subset(self, numbers: Sequence[int]) -> "ArrayScans":
        part = copy(self)
        part.arrays = [self.arrays[n] for n in numbers]
        part.labels, part.entities = _rows(self, numbers)
        return part


def _rows(scans: Scans, numbers: Sequence[int]) -> tuple[list[str], dict[str, list[str]]]:
    """Labels and entities of some scans."""
    entities = {name: [column[n] for n in numbers] for name, column in scans.entities.items()}
    return [scans.labels[n] for n in numbers], entities


def series_of(
    file: Path, *, names: list[str] | None = None, hemisphere: Hemisphere | None = None
) -> NDArray[np.floating]:
    """The series in a file (float32 if it holds such); raises InputError for a connectivity matrix, and for
    vertices other than `names`."""
    table = read_table(file, hemisphere=hemisphere, keep_float32=True)
    if names is not None and is_surface_series(file) and table.columns != names:
        raise InputError(
            f"{file} holds {len(table.columns or [])} vertices, not the {len(names)} of the first file.",
            hint="All scans need the same vertices in the same order.",
        )
    if names is not None and table.columns is not None and sorted(table.columns) == sorted(names):
        if table.columns != names:
            first = next(n for n, (a, b) in enumerate(zip(table.columns, names, strict=True)) if a != b)
            raise InputError(
                f"{file} has column {first + 1} {table.columns[first]!r}, where the first file has "
                f"{names[first]!r}: the same regions in another order.",
                hint="All scans need the same regions in the same order; sort the columns.",
            )
    if not is_series(table, file):
        raise InputError(
            f"{file} is a connectivity matrix among time series.", hint="Give it alone, as INPUT."
        )
    return table.values


def is_series(table: Table, path: Path) -> bool:
    """Whether a table is a time series rather than a connectivity matrix (then it must be square)."""
    from bjepa.gradients.tables import MATRIX_NAMES, SERIES_NAMES

    n_rows, n_columns = table.values.shape
    if table.key in SERIES_NAMES:
        return True
    if n_rows == n_columns:
        return False
    n = min(n_rows, n_columns, 4)  # a lost line leaves the first or the last corner symmetric
    corners = (table.values[:n, :n], table.values[-n:, -n:])
    if table.key in MATRIX_NAMES or (n > 2 and any(map(_looks_symmetric, corners))):
        raise InputError(
            f"{path} holds a connectivity matrix that is not square: {n_rows} x {n_columns}.",
            hint="Rows and columns must be the same regions; look for a lost or an extra line.",
        )
    return True


def _looks_symmetric(corner: Array) -> bool:
    return bool(np.ptp(corner) > 0 and np.allclose(corner, corner.T, rtol=0, atol=1e-6 * np.ptp(corner)))


_KEYS = {"participant_id": "sub", "session": "ses", "task": "task", "run": "run"}


def _entity(file: Path, name: str) -> str:
    pattern = rf"(?:^|[_/\\]){_KEYS[name]}-([A-Za-z0-9]+)"
    found = re.search(pattern, file.name) or re.search(pattern, str(file.parent))
    return found.group(1) if found else ""
