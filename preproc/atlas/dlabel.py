"""CIFTI label files (dlabel): which grayordinate belongs to which region, proven as far as it can be.

The order is told by the names in the file's own label table, whichever networks and release they are of. The
proof by content: every left label lies on left surface or in left voxels, the subcortical labels have their
centres where the table has them, and the number of vertices of the parcels is that of the published file
(known for 100, 200, 300, 400 and 1000 parcels).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.atlas.files import checked_folder, combined_parts, download, is_named, source_of
from bjepa.preproc.atlas.order import Numbering, prove_order
from bjepa.preproc.atlas.published import downloads
from bjepa.preproc.atlas.region_names import region_numbers
from bjepa.preproc.atlas.spaces import SURFACE_SPACE
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

# Files of 59,412 and of 64,984 vertices differ by 1 % (labels on the medial wall), shuffled ones by 40 %.
_VERTICES_TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class Dlabel:
    """A dlabel file as it is.

    keys : (n_grayordinates,) int64 label key of each, 0 = none; names : key -> name, without 0
    axis : nibabel's BrainModelAxis: structure, vertex or voxel of each grayordinate
    """

    path: Path
    keys: NDArray[np.int64]
    names: dict[int, str]
    axis: Any
    source: dict[str, str]


def read_dlabel(path: Path) -> Dlabel:
    """Read a dlabel file of one map on grayordinates; raises InputError for anything else."""
    image = load_cifti(path)
    label_axis, axis = (image.header.get_axis(i) for i in (0, 1))
    if not isinstance(label_axis, nib.cifti2.LabelAxis) or not isinstance(axis, nib.cifti2.BrainModelAxis):
        raise InputError(
            f"{path} is not a dense label file: its axes are {axis_kinds(image)}.", hint="Give a .dlabel.nii."
        )
    if len(label_axis) != 1:
        raise InputError(
            f"{path} holds {len(label_axis)} label maps ({list(label_axis.name)}).", hint="Give one."
        )
    values = np.asarray(image.dataobj)[0]
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min() < 0:
        raise InputError(f"{path} must hold whole label numbers from 0.")
    names = {int(key): str(name) for key, (name, _) in label_axis.label[0].items() if int(key) != 0}
    keys = values.astype(np.int64)
    if unnamed := sorted(set(np.unique(keys).tolist()) - names.keys() - {0}):
        raise InputError(f"{path}: labels {unnamed} are not in its label table.")
    return Dlabel(path, keys, names, axis, source_of(path))


def find_dlabel(names: set[str], folder: Path | None) -> Path:
    """The dlabel file of exactly `names` ("schaefer-400", "tian-s3"), of more, or a download (of both)."""
    if folder is not None:
        paths = sorted(p for p in checked_folder(folder).rglob("*.dlabel.nii") if p.is_file())
        exact = [p for p in paths if combined_parts(p) == names or (len(names) == 1 and _is_only(p, names))]
        larger = [p for p in paths if names < combined_parts(p)]
        # 17 networks first: no order is wrong, but the fewer renumberings the better
        for group in (exact, larger):
            if group:
                return min(group, key=lambda p: ("17networks" not in p.name.lower(), str(p)))
        log.warning("%s holds no .dlabel.nii of %s; downloading.", folder, " and ".join(sorted(names)))
    table = downloads()
    table = table[table["space"] == SURFACE_SPACE].set_index("atlas")
    for atlas in sorted(table.index, key=lambda a: (set(a.split("+")) != names, a)):
        if names <= set(atlas.split("+")):
            return download(atlas, table.loc[atlas])
    raise InputError(
        f"no CIFTI file of {' and '.join(sorted(names))} was found, and no download of it is known.",
        hint="Put its .dlabel.nii into the folder of --atlas-dir (or BJEPA_ATLAS_DIR).",
    )


def _is_only(path: Path, names: set[str]) -> bool:
    return not combined_parts(path) and is_named(path, min(names))


def in_column_order(
    dlabel: Dlabel,
    table: pd.DataFrame,
    n_vertices: "pd.Series[int] | None",
    what: str,
) -> NDArray[np.int16]:
    """Column + 1 of each grayordinate, (n_grayordinates,) int16, 0 = none; `table` as in atlas.tsv.

    `n_vertices` : published number of vertices of each cortical row, None if not known. Regions that have
    none there (two of Schaefer-1000) may be empty here.

    Raises
    ------
    InputError
        Regions that the label table lacks, names of another atlas, empty labels, labels that do not lie where
        they should.
    """
    keys = sorted(dlabel.names)
    found = region_numbers([dlabel.names[key] for key in keys], table)
    if found.problem or found.absent or found.ambiguous:
        raise InputError(
            f"{dlabel.path} does not hold {what}: "
            + (found.problem or f"it lacks {_few(found.absent + found.ambiguous)}")
            + ".",
            hint="Give the .dlabel.nii of this very atlas.",
        )
    column_of = np.zeros(max(keys) + 1, dtype=np.int64)
    column_of[[keys[number] for number in found.numbers]] = np.arange(1, len(table) + 1)
    if left_out := sorted(
        set(np.unique(dlabel.keys).tolist()) - {0} - set(np.flatnonzero(column_of).tolist())
    ):
        log.info("%s: %d labels that %s does not have are left out.", dlabel.path, len(left_out), what)
    labels = column_of[dlabel.keys]
    counts = np.bincount(labels, minlength=len(table) + 1)[1:]
    empty = counts == 0
    if n_vertices is not None:
        cortex = np.flatnonzero((table["structure"] == "cortex").to_numpy())
        _check_vertices(dlabel.path, what, counts[cortex], n_vertices.to_numpy())
        known_empty = cortex[n_vertices.to_numpy() == 0]
        for column in known_empty[empty[known_empty]]:
            log.warning("%s: %s has no vertex, as published.", dlabel.path, table["name"][column])
        empty[known_empty] = False
    if empty.any():
        raise InputError(
            f"{dlabel.path}: {_few(table['name'][empty].tolist())} have no grayordinate.",
            hint="Take the file from its publisher again.",
        )
    _check_hemispheres(dlabel, table, labels)
    _check_voxels(dlabel, table, labels, what)
    if found.naming and found.naming.split()[-1] not in _order_of_names(table):
        log.info("%s is named as %s; arranged as %s.", dlabel.path, found.naming, what)
    return labels.astype(np.int16)


def _order_of_names(table: pd.DataFrame) -> set[str]:
    return {match[0].lower() for name in table["name"] if (match := re.match(r"\d+Networks", name))}


def _check_vertices(path: Path, what: str, counts: NDArray[np.int64], published: NDArray[np.int64]) -> None:
    differing = np.abs(counts - published).sum() / published.sum()
    if differing > _VERTICES_TOLERANCE:
        raise InputError(
            f"{path} does not hold {what}: its parcels have other numbers of vertices than the published "
            f"ones ({differing:.0%} differ); names and labels do not belong together.",
            hint="Take the file from its publisher again.",
        )


def _check_hemispheres(dlabel: Dlabel, table: pd.DataFrame, labels: NDArray[np.int64]) -> None:
    """A left region must not lie on right surface, nor a right one on left (voxels may, at the midline)."""
    structure = np.asarray(dlabel.axis.name)
    side = np.array(["", *table["hemisphere"].str.upper().str[:1]])[labels]
    on_left, on_right = (structure == f"CIFTI_STRUCTURE_CORTEX_{where}" for where in ("LEFT", "RIGHT"))
    wrong = ((side == "L") & on_right) | ((side == "R") & on_left)
    if wrong.any():
        names = table["name"][np.unique(labels[wrong]) - 1].tolist()
        raise InputError(
            f"{dlabel.path}: {_few(names)} lie in the other hemisphere.",
            hint="Left and right are exchanged, or names and labels do not belong together.",
        )


def _check_voxels(dlabel: Dlabel, table: pd.DataFrame, labels: NDArray[np.int64], what: str) -> None:
    """Subcortical regions must have their centres where the table has them, if it has places."""
    subcortex = np.flatnonzero((table["structure"] == "subcortex").to_numpy())
    places = table[["x", "y", "z"]].to_numpy(dtype=np.float64)[subcortex]
    is_voxel = ~np.asarray(dlabel.axis.surface_mask) & (labels > 0)
    if not len(subcortex) or not np.isfinite(places).all():
        return
    row_of = np.zeros(len(table) + 1, dtype=np.int64)
    row_of[subcortex + 1] = np.arange(1, len(subcortex) + 1)
    region = row_of[labels[is_voxel]]
    points = apply_affine(dlabel.axis.affine, dlabel.axis.voxel[is_voxel])[region > 0]
    as_asked = Numbering("as published", np.arange(len(subcortex) + 1))
    prove_order(
        dlabel.path,
        what,
        points,
        region[region > 0],
        places,
        table["name"][subcortex].tolist(),
        [as_asked],
    )


def load_cifti(path: Path) -> Any:
    """A nibabel Cifti2Image; raises InputError for anything else."""
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file.")
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(f"{path} cannot be read as CIFTI ({error}).", hint="Copy the file again.") from error
    if not isinstance(image, nib.Cifti2Image):
        raise InputError(f"{path} is {type(image).__name__}, not CIFTI-2.")
    return image


def axis_kinds(image: Any) -> str:
    """What the axes of a CIFTI file are, e.g. "series, brain models"."""
    kinds = {
        nib.cifti2.SeriesAxis: "series",
        nib.cifti2.BrainModelAxis: "brain models",
        nib.cifti2.ScalarAxis: "scalars",
        nib.cifti2.LabelAxis: "labels",
        nib.cifti2.ParcelsAxis: "parcels",
    }
    return ", ".join(kinds[type(image.header.get_axis(i))] for i in range(image.ndim))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
