"""What INPUT is, and the group connectivity it holds.

    output folder of bjepa-preprocess, or a shard     mean Fisher z over its scans
    folder of tables of series, or one such table     mean Fisher z over the files, one scan each
    one square matrix                                 taken as it is, diagonal included

R regions.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.bar import NO_BAR, Bar
from bjepa.gradients.connectivity.measure import (
    Kind,
    Measure,
    Weights,
    fit_measure,
    mean_connectivity,
)
from bjepa.gradients.regions import (
    Regions,
    named_regions,
    regions_of_shards,
    regions_of_vertices,
    unnamed_regions,
)
from bjepa.gradients.scans import Scans, ShardScans, TableScans, is_series
from bjepa.gradients.surface_series import Hemisphere, choose_hemisphere, is_surface_series
from bjepa.gradients.tables import SUFFIXES, read_table, table_suffix
from bjepa.preproc.errors import InputError
from bjepa.preproc.number_tables import looks_transposed
from bjepa.preproc.participants import bare_id, read_participant_list
from bjepa.preproc.shards import FORMAT as SHARD_FORMAT
from bjepa.preproc.shards import ShardReader

log = logging.getLogger(__name__)

MIN_ROIS = 3  # with two there is one edge and no profile to compare


@dataclass(frozen=True, kw_only=True)
class Input:
    """What INPUT holds: scans, or one matrix."""

    regions: Regions
    scans: Scans | None = None
    matrix: NDArray[np.float64] | None = None  # (R, R), symmetric, finite

    def need_scans(self, option: str) -> Scans:
        """The scans; InputError naming the option where INPUT is a matrix."""
        if self.scans is None:
            raise InputError(
                f"{option} needs scans, but INPUT is one connectivity matrix.",
                hint="Give an output folder of bjepa-preprocess or a folder of time series.",
            )
        return self.scans


@dataclass(frozen=True, kw_only=True)
class GroupConnectivity:
    """Connectivity of all scans that take part; `fc` is None where it is too large to be formed."""

    fc: NDArray[np.float64] | None  # (R, R), symmetric, finite
    regions: Regions
    n_scans: int  # 0 for a matrix, which does not say
    n_participants: int  # 0 where unknown
    scans: Scans | None = None  # None for a matrix
    measure: Measure = field(default_factory=Measure)


def open_input(
    path: Path,
    *,
    participants: Path | None = None,
    atlas_dir: Path | None = None,
    hemisphere: Hemisphere | None = None,
) -> Input:
    """Find out what INPUT is, and which scans take part. Reads no series but the first table's.

    Parameters
    ----------
    participants
        File of the participants to use: a table with a column participant_id, or one id per line.
    atlas_dir
        Folder with the published atlas files; asked only where the shards have no folder `atlas` beside them.
    hemisphere
        Of surface files (.func.gii, .dtseries.nii), L or R; None: all that they hold.

    Raises
    ------
    InputError
        Nothing there that can be read; a matrix that is no connectivity; no participant left; a hemisphere of
        something else than surface files.
    """
    if not path.exists():
        raise InputError(f"INPUT {path} does not exist.")
    wanted = None if participants is None else {bare_id(name) for name in read_participant_list(participants)}
    if _holds_shards(path):
        if hemisphere is not None:
            raise InputError(
                f"--hemisphere {hemisphere} chooses vertices of surface files, but {path} holds shards of "
                "regions.",
                hint="Leave it out.",
            )
        return _open_shards(path, wanted, atlas_dir)
    if path.is_dir():
        return _open_series(_series_files(path), wanted, hemisphere)
    table = read_table(path, hemisphere=hemisphere)
    if is_series(table, path):
        return _open_series([path], wanted, hemisphere)
    if wanted is not None:
        raise InputError(
            f"--participants cannot choose within one matrix ({path}).",
            hint="Give the scans: an output folder of bjepa-preprocess or a folder of time series.",
        )
    matrix = check_connectivity(table.values, path)
    regions = named_regions(table.columns) if table.columns else unnamed_regions(len(matrix))
    return Input(regions=regions, matrix=matrix)


def group_connectivity(
    given: Input,
    *,
    kind: Kind = "pearson",
    weights: Weights = "equal",
    n_jobs: int = 1,
    bar: Bar = NO_BAR,
) -> GroupConnectivity:
    """The connectivity of the group: mean over its scans, or the matrix that was given.

    Raises
    ------
    InputError
        As `fit_measure` and `mean_connectivity`.
    """
    scans = given.scans
    if scans is None:
        return GroupConnectivity(fc=given.matrix, regions=given.regions, n_scans=0, n_participants=0)
    if kind == "tangent":
        bar.begin("geometric mean", 0)  # as many passes as it takes
    measure = fit_measure(kind, scans, n_jobs=n_jobs, progress=bar.step)
    bar.begin("connectivity", len(scans))
    mean = mean_connectivity(scans, measure, weights=weights, n_jobs=n_jobs, progress=bar.step)
    return GroupConnectivity(
        fc=measure.group(mean),
        regions=given.regions,
        n_scans=len(scans),
        n_participants=count_participants(scans),
        scans=scans,
        measure=measure,
    )


def count_participants(scans: Scans) -> int:
    """How many there are; 0 where a scan does not say whose it is."""
    known = set(scans.entities["participant_id"])
    return 0 if "" in known else len(known)


def _holds_shards(path: Path) -> bool:
    if path.is_dir():
        # `atlas` without `shards`: bjepa-preprocess before its stage group, which ShardReader asks for
        made = (path / "shards", path / "atlas" / "atlas.json")
        return any(part.exists() for part in made) or any(path.glob("shard-*.h5"))
    if path.suffix == ".h5" and h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == SHARD_FORMAT)
    return False


def _open_shards(path: Path, wanted: set[str] | None, atlas_dir: Path | None) -> Input:
    reader = ShardReader(path)
    scans = ShardScans(reader)
    scans = scans.subset(_chosen(scans, wanted))
    log.info("%d scans of %d regions, shards of %s", len(scans), reader.n_rois, path)
    return Input(scans=scans, regions=regions_of_shards(reader, path, atlas_dir))


def _open_series(files: list[Path], wanted: set[str] | None, hemisphere: Hemisphere | None) -> Input:
    scans = TableScans(choose_hemisphere(files, hemisphere), hemisphere=hemisphere)
    scans = scans.subset(_chosen(scans, wanted))
    first = read_table(scans.files[0], hemisphere=hemisphere)
    scans.names = first.columns
    log.info(
        "%d files of series; %s: rows are frames (%d), columns regions (%d)",
        *(len(scans), scans.files[0].name, *first.values.shape),
    )
    if is_surface_series(scans.files[0]):
        return Input(scans=scans, regions=regions_of_vertices(first.columns or []))
    if looks_transposed(first.values):
        log.warning(
            "%s: neighbours along the columns are more alike than along the rows, as if columns were frames. "
            "Rows must be frames: transpose the tables if they are regions.",
            scans.files[0],
        )
    regions = named_regions(first.columns) if first.columns else unnamed_regions(first.values.shape[1])
    return Input(scans=scans, regions=regions)


def _series_files(folder: Path) -> list[Path]:
    """Tables in a folder: those called *timeseries*, else all; no hidden ones, confounds or results."""
    found = sorted(
        file
        for file in folder.rglob("*")
        if table_suffix(file) is not None
        and file.is_file()
        and not file.name.startswith((".", "participants"))
        and "confounds" not in file.name  # fMRIPrep: desc-confounds_timeseries.tsv
        and not (file.parent / "gradients.h5").is_file()  # OUTPUT of an earlier run inside INPUT
    )
    named = [file for file in found if "timeseries" in file.name]
    if not (named or found):
        raise InputError(
            f"{folder} holds neither shards nor tables of series ({', '.join(SUFFIXES)}).",
            hint="For images, run bjepa-preprocess first and give its output folder.",
        )
    return named or found


def check_connectivity(values: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """A square matrix as connectivity: finite, symmetric (to 1e-6 of its largest value), no region without.

    The diagonal is left as it is. Returns the mean of matrix and transpose, so that rounding does not matter.
    """
    if len(values) < MIN_ROIS:
        raise InputError(f"{path} has {len(values)} regions; connectivity needs at least {MIN_ROIS}.")
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0] + 1
        on_diagonal = " all on the diagonal" if not (bad & ~np.eye(len(bad), dtype=bool)).any() else ""
        raise InputError(
            f"{path}: {np.count_nonzero(bad)} values are not finite,{on_diagonal} first in row {row}, "
            f"column {column}.",
            hint="Set the diagonal to 0." if on_diagonal else "Leave regions without signal out.",
        )
    difference = np.abs(values - values.T)
    if difference.max() > 1e-6 * np.abs(values).max():
        row, column = np.unravel_index(difference.argmax(), difference.shape)
        raise InputError(
            f"{path} is square but not symmetric: {values[row, column]:.6g} in row {row + 1}, column "
            f"{column + 1}, {values[column, row]:.6g} opposite.",
            hint="Connectivity must be symmetric. If it is a series of as many frames as regions, give it as "
            "the array `timeseries` of an .npz file.",
        )
    off_diagonal = values[~np.eye(len(values), dtype=bool)].reshape(len(values), -1)  # (R, R - 1)
    constant = np.flatnonzero((off_diagonal == off_diagonal[:, :1]).all(axis=1)) + 1
    if len(constant):
        raise InputError(
            f"{path}: regions {constant[:12].tolist()} ({len(constant)} in all, counted from 1) have the "
            "same connectivity with every other region: no signal.",
            hint="Leave these regions out.",
        )
    return (values + values.T) / 2


def _chosen(scans: Scans, wanted: set[str] | None) -> list[int]:
    """Numbers of the scans of the participants that are wanted."""
    people = scans.entities["participant_id"]
    if wanted is None:
        return list(range(len(scans)))
    there = set(people) - {""}
    if not wanted & there:
        raise InputError(
            f"--participants names {len(wanted)} participants ({sorted(wanted)[:5]}, ...), none of whom is "
            f"in INPUT ({sorted(there)[:5]}, ...).",
            hint="Ids are compared after removing `sub-`; files of series need `sub-` in their names.",
        )
    if absent := sorted(wanted - there):
        log.warning(
            "%d participants of --participants are not in INPUT: %s", len(absent), ", ".join(absent[:8])
        )
    return [number for number, person in enumerate(people) if person in wanted]
