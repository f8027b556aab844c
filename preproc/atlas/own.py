"""A user's own label image with a table of its regions: checked, and renumbered to the order of the table."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.atlas import files as atlas_files
from bjepa.preproc.atlas.dlabel import Dlabel, read_dlabel
from bjepa.preproc.atlas.order import region_centres
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

NO_VALUE = "n/a"  # as in BIDS tables
_FEW_REGIONS = 5  # a hemisphere; below, sides may be what they are by chance
_OPTIONAL = ("structure", "hemisphere", "network7", "network17")


def own_volume(
    path: Path, labels_tsv: Path | None, space: str | None
) -> tuple[NDArray[np.int16], NDArray[np.float64], pd.DataFrame, str, dict[str, str]]:
    """Labels (column + 1), affine, table, space and source of a NIfTI label volume."""
    if labels_tsv is None:
        raise InputError(
            f"{path}: a label volume needs a table of its regions.",
            hint="Give --atlas-labels with columns 'index' and 'name'.",
        )
    volume = atlas_files.read_volume(path)
    space = space or atlas_files.space_in_name(path)
    if space is None:
        raise InputError(f"{path}: the space of this label volume is unknown.", hint="Give --space.")
    table = _read_labels_tsv(labels_tsv)
    labels = _renumbered(path, labels_tsv, volume.labels, table)
    _check_sides(path, labels, volume.affine, table)
    table["index"] = np.arange(1, len(table) + 1)
    return labels, volume.affine, table, space, volume.source | {"labels": labels_tsv.name}


def own_dlabel(
    path: Path, labels_tsv: Path | None
) -> tuple[NDArray[np.int16], Dlabel, pd.DataFrame, dict[str, str]]:
    """Labels (column + 1) of each grayordinate, file, table and source of a dlabel file.

    Without a table the regions are those of the file's own label table, by key.
    """
    dlabel = read_dlabel(path)
    if labels_tsv is None:
        present = [key for key in sorted(dlabel.names) if (dlabel.keys == key).any()]
        if empty := sorted(dlabel.names.keys() - set(present)):
            raise InputError(
                f"{path}: labels {empty} of its label table have no grayordinate.",
                hint="Give --atlas-labels with a table ('index' and 'name') of those to use.",
            )
        if len(set(dlabel.names.values())) < len(dlabel.names):
            raise InputError(f"{path}: its label table has the same name twice.", hint="Give --atlas-labels.")
        table = pd.DataFrame({"index": present, "name": [dlabel.names[key] for key in present]})
        table = _with_optional(table)
        source = dlabel.source
    else:
        table = _read_labels_tsv(labels_tsv)
        source = dlabel.source | {"labels": labels_tsv.name}
    labels = _renumbered(path, labels_tsv or path, dlabel.keys, table)
    table["index"] = np.arange(1, len(table) + 1)
    return labels, dlabel, table, source


def own_table(labels_tsv: Path) -> pd.DataFrame:
    """The rows of a table of regions, numbered 1 to R in its order; places are not known (NaN)."""
    table = _read_labels_tsv(labels_tsv)
    return table.assign(index=np.arange(1, len(table) + 1), x=np.nan, y=np.nan, z=np.nan)


def _renumbered(
    path: Path, labels_tsv: Path, labels: NDArray[np.int64], table: pd.DataFrame
) -> NDArray[np.int16]:
    """Column + 1 in place of the table's numbers; every label has a row and every row a voxel."""
    numbers = table["index"].to_numpy()
    present = np.setdiff1d(np.unique(labels), [0])
    if unnamed := np.setdiff1d(present, numbers).tolist():
        raise InputError(
            f"{labels_tsv}: labels {unnamed} of {path} are not in the table.", hint="Add their rows."
        )
    if empty := np.setdiff1d(numbers, present).tolist():
        names = table.set_index("index")["name"].loc[empty].tolist()
        raise InputError(
            f"{path}: labels {empty} of {labels_tsv} have no voxel ({', '.join(names)}).",
            hint="Remove their rows, or mend the volume.",
        )
    column_of = np.zeros(int(numbers.max()) + 1, dtype=np.int16)
    column_of[numbers] = np.arange(1, len(numbers) + 1)
    renumbered: NDArray[np.int16] = column_of[labels]
    return renumbered


def _check_sides(
    path: Path, labels: NDArray[np.int16], affine: NDArray[np.float64], table: pd.DataFrame
) -> None:
    """Where the table tells hemispheres, left regions lie at lower x than right ones: else it is mirrored."""
    side = table["hemisphere"].astype(str).str.upper().str[:1].to_numpy()
    x = region_centres(labels, affine, len(table))[0][:, 0]  # (n_rois,) mm, to the right
    left, right = x[side == "L"], x[side == "R"]
    if min(len(left), len(right)) == 0 or np.median(left) <= np.median(right):
        return
    found = f"{path}: the regions that the table calls left lie to the right of those that it calls right"
    if min(len(left), len(right)) < _FEW_REGIONS:
        log.warning("%s.", found)
        return
    raise InputError(
        f"{found}: left and right are exchanged.",
        hint="Mend the volume's affine, or the column 'hemisphere'.",
    )


def _read_labels_tsv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t", dtype={"name": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a tab-separated table ({error}).") from error
    if missing := {"index", "name"} - set(table.columns):
        raise InputError(f"{path} lacks columns {sorted(missing)}; it has {list(table.columns)}.")
    numbers: Any = pd.to_numeric(table["index"], errors="coerce")
    if numbers.isna().any() or (numbers < 1).any() or (numbers % 1 != 0).any() or numbers.duplicated().any():
        raise InputError(f"{path}: column 'index' must hold whole numbers from 1, each once.")
    if table["name"].duplicated().any():
        repeated = table.loc[table["name"].duplicated(), "name"].tolist()
        raise InputError(f"{path}: names {repeated} occur more than once.")
    table["index"] = numbers.astype(np.int64)
    return _with_optional(table)


def _with_optional(table: pd.DataFrame) -> pd.DataFrame:
    for column in _OPTIONAL:
        if column not in table:
            table[column] = NO_VALUE
    return table
