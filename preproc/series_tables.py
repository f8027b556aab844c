"""Regional series that somebody has made, brought into the order of an atlas.

The columns are found, in this order:
  1. by name    the header (or first column) names regions of the atlas; names of other releases, of the
                other network order, of XCP-D and UK Biobank are understood (region_names.py); further
                columns are left out
  2. by number  no names: the table holds the regions of `layout.atlas` (default: the atlas itself) in its
                order

Which axis is time follows from names, from `layout.axis`, or from the number of regions; never from how
smooth the data look. What fits two ways or none is refused. A number of regions that the data contradict (100
frames of another atlas are no 100 regions) is refused too.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas, load_atlas
from bjepa.preproc.atlas.region_names import RegionNumbers, region_numbers
from bjepa.preproc.censoring import put_back, read_outliers
from bjepa.preproc.cifti import read_ptseries
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.number_tables import Table, looks_transposed, read_table, table_suffix

log = logging.getLogger(__name__)

Axis = Literal["auto", "time-by-roi", "roi-by-time"]
_SERIES_NAMES = ("timeseries",)


@dataclass(frozen=True, kw_only=True)
class SeriesLayout:
    """How tables of series are to be read, where they do not say it themselves.

    atlas : name of the atlas whose regions the table holds, in its order ("schaefer-400-7networks");
        None: the output atlas
    axis : "time-by-roi" (rows are frames), "roi-by-time", or "auto": by the number of regions
    columns : first and last region to take, from 1; None: all
    variable : name of the array in `.npz`, `.mat` and `.h5`; None: "timeseries", else the only table
    """

    atlas: str | None = None
    axis: Axis = "auto"
    columns: tuple[int, int] | None = None
    variable: str | None = None


def read_series(source: ScanSource, atlas: Atlas, layout: SeriesLayout) -> RegionalScan:
    """The series of a scan, (n_frames, n_rois) float32 in the order of `atlas`.

    A region whose column has a frame without a number (n/a), or is 0 throughout, is missing: NaN, coverage 0.
    Coverage is XCP-D's where it is given, else 1. Frames that XCP-D has cut out as outliers are put back,
    interpolated, so that frames stay evenly spaced; `source.outliers` marks them.

    Raises
    ------
    InputError
        A table that cannot be read, whose axes are not clear, or that lacks regions.
    """
    declared = _declared(layout, atlas)
    named = [_regions_of(path, atlas, layout, n_declared=len(declared)) for path in source.tables]
    series, names, t_r = _joined(named)
    where = source.path.name
    positions = _positions(names, series.shape[1], atlas, declared, layout, where)
    return _finish(series[:, positions], source, atlas, [names[p] for p in positions] if names else None, t_r)


# --- one table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Columns:
    """A table whose columns are regions."""

    path: Path
    values: NDArray[np.float64]  # (n_frames, n_columns)
    names: list[str] | None  # only where they name regions of the atlas
    t_r: float | None = None


def _regions_of(path: Path, atlas: Atlas, layout: SeriesLayout, *, n_declared: int) -> _Columns:
    if path.name.endswith(".ptseries.nii"):
        values, names_of_parcels, t_r = read_ptseries(path)
        found = _Columns(path, values.astype(np.float64), names_of_parcels, t_r)
    else:
        variable = _variable(path, layout)
        table = read_table(path, variable=variable, known_names=_SERIES_NAMES, option="--series-variable")
        found = _oriented(table, path, atlas, layout, n_declared)
    if layout.columns is None:
        return found
    first, last = layout.columns
    n_columns = found.values.shape[1]
    if not 1 <= first <= last <= n_columns:
        raise InputError(
            f"{path}: regions {first}-{last} cannot be taken from its {n_columns}.",
            hint=f"Give --series-columns within 1-{n_columns}.",
        )
    names = None if found.names is None else found.names[first - 1 : last]
    return replace(found, values=found.values[:, first - 1 : last], names=names)


def _variable(path: Path, layout: SeriesLayout) -> str | None:
    """Tables of text and .npy have no variables; given for a folder of both kinds, it is of the others."""
    return layout.variable if table_suffix(path) in (".npz", ".mat", ".h5") else None


def _oriented(table: Table, path: Path, atlas: Atlas, layout: SeriesLayout, n_declared: int) -> _Columns:
    """The table with time along the rows."""
    by_columns = _names_regions(table.columns, atlas)
    by_rows = _names_regions(table.rows, atlas)
    if by_columns and by_rows:
        raise InputError(f"{path}: both its rows and its columns are named as regions: no time series.")
    if by_columns or by_rows:
        axis: Axis = "time-by-roi" if by_columns else "roi-by-time"
        if layout.axis not in ("auto", axis):
            raise InputError(
                f"{path}: its {'columns' if by_columns else 'rows'} have names of regions, so it is {axis}, "
                f"not {layout.axis}.",
                hint="Leave --series-axis out.",
            )
    else:
        axis = _axis_by_size(table, path, layout, n_declared)
    if not (by_columns or by_rows):
        _refuse_foreign_names(table.rows if axis == "roi-by-time" else table.columns, path, atlas, layout)
    if axis == "roi-by-time":
        return _Columns(path, table.values.T, table.rows if by_rows else None)
    return _Columns(path, table.values, table.columns if by_columns else None)


def _names_regions(names: list[str] | None, atlas: Atlas) -> bool:
    """Whether names are of regions: of this atlas, or of parcels that it might know under other names."""
    if not names:
        return False
    found = region_numbers(names, atlas.table)
    return bool((found.numbers >= 0).any() or found.ambiguous or found.problem)


def _refuse_foreign_names(names: list[str] | None, path: Path, atlas: Atlas, layout: SeriesLayout) -> None:
    """Names that are no regions of the atlas must not pass as its order, unless somebody says so."""
    if not names or layout.atlas is not None or len({name.rstrip("0123456789") for name in names}) == 1:
        return
    raise InputError(
        f"{path}: its regions have names that --atlas {atlas.name} does not know, e.g. {names[:3]}.",
        hint="If they are in the order of a known atlas, name it with --series-atlas.",
    )


def _axis_by_size(table: Table, path: Path, layout: SeriesLayout, n_declared: int) -> Axis:
    n_rows, n_columns = table.values.shape
    if _is_connectivity(table.values):
        raise InputError(
            f"{path} is a symmetric {n_rows} x {n_columns} matrix, as connectivity is, and no time series."
        )
    if layout.axis != "auto":
        return layout.axis
    if layout.columns is not None:  # more regions than are wanted
        fits = [n >= layout.columns[1] for n in table.values.shape]
        regions = f"region {layout.columns[1]} that is to be taken"
    else:
        fits = [n == n_declared for n in table.values.shape]
        regions = f"the {n_declared} regions that are expected"
    if all(fits):
        raise InputError(
            f"{path} is a table of {n_rows} x {n_columns}; both axes have {regions}.",
            hint="Give --series-axis time-by-roi (rows are frames) or roi-by-time.",
        )
    if not any(fits):
        raise InputError(
            f"{path} is a table of {n_rows} x {n_columns}; no axis has {regions}.",
            hint="Say with --series-atlas which regions it holds, with --series-columns which to take.",
        )
    axis: Axis = "roi-by-time" if fits[0] else "time-by-roi"
    regions_last = table.values.T if axis == "roi-by-time" else table.values
    if looks_transposed(regions_last if layout.columns is None else regions_last[:, : layout.columns[1]]):
        raise InputError(
            f"{path} is a table of {n_rows} x {n_columns}: by {regions} it is {axis}, but its values change "
            "less from region to region than from frame to frame, as if the axes were exchanged.",
            hint="Look at the table, and give --series-axis (or another --series-atlas).",
        )
    return axis


def _is_connectivity(values: NDArray[np.float64]) -> bool:
    return values.shape[0] == values.shape[1] and bool(np.allclose(values, values.T, equal_nan=True))


# --- all tables of a scan -----------------------------------------------------------------------------------


def _joined(tables: list[_Columns]) -> tuple[NDArray[np.float64], list[str] | None, float | None]:
    """Columns of all tables side by side, (n_frames, n_columns), with their names."""
    first = tables[0]
    for other in tables[1:]:
        if len(other.values) != len(first.values):
            raise InputError(
                f"{first.path} has {len(first.values)} frames, {other.path.name} has {len(other.values)}: "
                "tables of one scan must have the same."
            )
    if len(tables) > 1 and (nameless := [table.path.name for table in tables if table.names is None]):
        raise InputError(
            f"{first.path} and others are one scan, but {nameless[0]} does not name its regions."
        )
    names = None if first.names is None else [name for table in tables for name in table.names or ()]
    return np.hstack([table.values for table in tables]), names, first.t_r


def _declared(layout: SeriesLayout, atlas: Atlas) -> list[str]:
    """Names of the regions that a table without names holds, in its order."""
    if layout.atlas is None:
        return [str(name) for name in atlas.table["name"]]
    return [str(name) for name in load_atlas(layout.atlas, space=None, kind="table").table["name"]]


def _positions(
    names: list[str] | None,
    n_columns: int,
    atlas: Atlas,
    declared: list[str],
    layout: SeriesLayout,
    where: str,
) -> NDArray[np.int64]:
    """(n_rois,) the column of each region of the atlas."""
    told = f"--series-atlas {layout.atlas}" if layout.atlas else f"--atlas {atlas.name}"
    if names is None:
        if n_columns != len(declared):
            raise InputError(
                f"{where} holds {n_columns} regions without names, {told} has {len(declared)}.",
                hint="Say with --series-atlas which regions it holds, in which order, and with "
                "--series-columns which of them to take.",
            )
        found, names_in = region_numbers(declared, atlas.table), told
    else:
        found, names_in = region_numbers(names, atlas.table), where
    _check_complete(found, atlas, names_in)
    return found.numbers


def _check_complete(found: RegionNumbers, atlas: Atlas, where: str) -> None:
    if found.problem:
        raise InputError(
            f"{where}: {found.problem}", hint=f"The regions of --atlas {atlas.name} must be in it."
        )
    if found.ambiguous:
        raise InputError(
            f"{where}: {len(found.ambiguous)} regions of {atlas.name} could be several columns, "
            f"e.g. {found.ambiguous[:3]}.",
            hint="Give each region one column.",
        )
    if found.absent:
        raise InputError(
            f"{where} lacks {len(found.absent)} of the {atlas.n_rois} regions of {atlas.name}, "
            f"e.g. {found.absent[:3]}.",
            hint="Choose an --atlas whose regions are all there.",
        )


# --- values, coverage, censored frames ----------------------------------------------------------------------


def _finish(
    series: NDArray[np.float64], source: ScanSource, atlas: Atlas, names: list[str] | None, t_r: float | None
) -> RegionalScan:
    is_number = np.isfinite(series)
    if empty := np.flatnonzero(~is_number.any(axis=1)).tolist():
        raise InputError(
            f"{source.path}: frames {[n + 1 for n in empty[:5]]} hold no number in any region "
            f"({len(empty)} of {len(series)}).",
            hint="Frames must be evenly spaced and complete; interpolate censored ones first.",
        )
    missing = ~is_number.all(axis=0) | ~np.any(np.nan_to_num(series), axis=0)  # (n_rois,)
    partly = missing & is_number.any(axis=0) & np.any(np.nan_to_num(series), axis=0)
    if partly.any():
        log.warning(
            "%s: %d regions lack a number in some frames and count as missing, e.g. %s.",
            *(source.path.name, int(partly.sum()), atlas.table["name"][np.flatnonzero(partly)[0]]),
        )
    series = np.where(missing, np.nan, series)
    if source.outliers is not None:
        series = put_back(series, read_outliers(source.outliers), where=source.path)
    coverage = np.where(missing, 0.0, _coverage(source, names, len(missing)))
    return RegionalScan(series.astype(np.float32), coverage, t_r)


def _coverage(source: ScanSource, names: list[str] | None, n_rois: int) -> NDArray[np.float64]:
    """(n_rois,) XCP-D's coverage of each region, 1 where there is none."""
    if not source.coverage or names is None:
        return np.ones(n_rois)
    share: dict[str, float] = {}
    for path in source.coverage:
        table = read_table(path)
        if table.rows is None or table.values.shape[1] != 1:
            raise InputError(f"{path} is no table of coverage: a name and a share in each row.")
        share |= dict(zip(table.rows, table.values[:, 0].tolist(), strict=True))
    if lacking := [name for name in names if name not in share]:
        raise InputError(f"{source.coverage[0]} says nothing of {lacking[:3]} ({len(lacking)} regions).")
    coverage: NDArray[np.float64] = np.nan_to_num(np.array([share[name] for name in names]))
    return coverage
