"""The atlas: a label volume, its table, and the proof that the columns are in the order we say.

`load_atlas` takes the published volumes (Schaefer 2018 cortex, Tian 2020 subcortex) from a folder, or
downloads them, and puts them together on one grid; where the two overlap the subcortical label wins, as in
the volumes that the authors of the Tian atlas publish. Column order: the parts in the order of the name,
regions by label.

The 7- and the 17-network volumes of Schaefer-400 hold the same parcels under other numbers, and file names
are often wrong, so the order is proven by content: the centre of every label must lie where the table
(`tables/*.tsv`) has it. Labels in the 7-network order are renumbered; a volume that fits neither is refused.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc import atlas_files
from bjepa.preproc.atlas_files import SPACES, PublishedVolume
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_text
from bjepa.preproc.published_tables import REGION_COLUMNS, schaefer_table, tian_table

log = logging.getLogger(__name__)

DEFAULT_ATLAS = "tian-s3+schaefer-400"
TABLE_COLUMNS = (*REGION_COLUMNS, "n_voxels")
NO_VALUE = "n/a"  # as in BIDS tables

# A label's centre lies within this of its place in the table: the two MNI spaces differ by up to 3.5 mm, the
# same label of the other network order by a median of 58 mm.
CENTRE_TOLERANCE_MM = 6.0


@dataclass(frozen=True, eq=False)
class Atlas:
    """Regions in column order.

    Attributes
    ----------
    name : as asked for, e.g. "tian-s3+schaefer-400"
    order : "17networks", "7networks", or "as in FILE" for a user's own label volume
    space : template space of the volume, e.g. "MNI152NLin6Asym"
    labels_img : int16 volume, 0 = background, k = region in column k - 1
    table : TABLE_COLUMNS, one row per region; x y z in mm, n_voxels in this volume
    sources : where each part came from (file name and SHA-256), with licence and citation
    """

    name: str
    order: str
    space: str
    labels_img: nib.Nifti1Image
    table: pd.DataFrame
    sources: list[dict[str, str]]

    @property
    def n_rois(self) -> int:
        """Number of regions, R."""
        return len(self.table)

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """The label volume as an array."""
        return np.ascontiguousarray(np.asarray(self.labels_img.dataobj), dtype=np.int16)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the int16 label array in C order."""
        return hashlib.sha256(self.labels.tobytes()).hexdigest()


def load_atlas(
    name: str | Path = DEFAULT_ATLAS,
    *,
    space: str | None,
    atlas_dir: str | Path | None = None,
    labels_tsv: str | Path | None = None,
) -> Atlas:
    """Load an atlas in a template space.

    Parameters
    ----------
    name
        `tian-s3`, `schaefer-400` (17-network order), `schaefer-400-7networks`, a composite `A+B`, or the path
        of a label volume (then `labels_tsv` is needed).
    space
        One of SPACES; for a label volume any name, default: the `space-` or `tpl-` of its file name.
    atlas_dir
        Searched recursively for the published files before any download; default: the folder that the
        environment variable BJEPA_ATLAS_DIR names, if any.
    labels_tsv
        For a label volume: tab-separated, columns `index` (the label's number) and `name`, optionally
        `structure hemisphere network7 network17`.

    Raises
    ------
    InputError
        Unknown name or space, files not found, labels that are not where the table has them.
    """
    if labels_tsv is not None or str(name).endswith((".nii", ".nii.gz")):
        return _own_atlas(Path(name), labels_tsv, space)
    if space not in SPACES:
        raise InputError(
            f"space must be one of {sorted(SPACES)} for atlas {name!r}, got {space!r}.",
            hint="Give --space with the template that the scans were normalised to.",
        )
    parts = [_part(part) for part in str(name).split("+")]
    if len({part.published for part in parts}) < len(parts):
        raise InputError(f"atlas {name!r} names the same parcels twice.", hint="Give each part once.")
    given = atlas_dir or os.environ.get("BJEPA_ATLAS_DIR")
    folder = Path(given).expanduser() if given else None
    volumes = atlas_files.find_volumes({part.published for part in parts}, space, folder)
    return _assemble(str(name), space, parts, volumes)


# --- the published parts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    published: str  # key of atlas_files.PUBLISHED
    order: str  # of its columns: "17networks", "7networks" or "" where there is one order only
    table: pd.DataFrame  # REGION_COLUMNS, in column order
    others: dict[str, NDArray[np.int64]]  # other numberings of the same parcels: label there -> column + 1
    citation: dict[str, str]


def _part(name: str) -> _Part:
    match name:
        case "tian-s3":
            return _tian_part()
        case "schaefer-400" | "schaefer-400-17networks":
            return _schaefer_part("17networks")
        case "schaefer-400-7networks":
            return _schaefer_part("7networks")
        case _:
            known = ["tian-s3", "schaefer-400", "schaefer-400-7networks"]
            raise InputError(
                f"atlas part must be one of {known}, got {name!r}.",
                hint=f"Join parts with '+' ({DEFAULT_ATLAS}), or give a label volume and --atlas-labels.",
            )


def _tian_part() -> _Part:
    citation = atlas_files.PUBLISHED["tian-s3"].citation
    return _Part("tian-s3", "", tian_table(), {}, citation)


def _schaefer_part(order: str) -> _Part:
    other_order = "7networks" if order == "17networks" else "17networks"
    table = schaefer_table(order)
    column_of_other = np.zeros(len(table) + 1, dtype=np.int64)
    column_of_other[table[f"label_{other_order}"]] = table[f"label_{order}"]
    citation = atlas_files.PUBLISHED["schaefer-400"].citation
    return _Part("schaefer-400", order, table[list(REGION_COLUMNS)], {other_order: column_of_other}, citation)


def _assemble(name: str, space: str, parts: list[_Part], volumes: dict[str, PublishedVolume]) -> Atlas:
    first = volumes[parts[0].published]
    labels = np.zeros(first.labels.shape, dtype=np.int16)
    tables, sources, start = [], [], 0
    # subcortex is painted last: it wins where the two overlap
    offsets = dict(
        zip([p.published for p in parts], np.cumsum([0, *(len(p.table) for p in parts)]), strict=False)
    )
    for part in sorted(parts, key=lambda p: p.table["structure"].iloc[0] == "subcortex"):
        own = _in_column_order(part, volumes[part.published])
        labels[own > 0] = own[own > 0] + int(offsets[part.published])
    for part in parts:
        tables.append(part.table)
        sources.append(volumes[part.published].source | part.citation)
        start += len(part.table)
    table = pd.concat(tables, ignore_index=True)
    table["index"] = np.arange(1, start + 1)
    order = next((part.order for part in parts if part.order), "as published")
    return _finish(name, order, space, labels, first.affine, table, sources)


def _in_column_order(part: _Part, volume: PublishedVolume) -> NDArray[np.int64]:
    """The labels of one published volume, renumbered to the part's order after checking where they lie."""
    places = part.table[["x", "y", "z"]].to_numpy()  # (n_rois, 3) mm
    centres, counts = region_centres(volume.labels, volume.affine, len(places))
    if empty := (np.flatnonzero(counts == 0) + 1).tolist():
        raise InputError(
            f"{volume.path}: labels {empty} have no voxel.", hint="Take the file from its publisher again."
        )
    if _share_in_place(centres, places) > 0.98:
        return volume.labels
    for order, column_of in part.others.items():
        if _share_in_place(centres, places[column_of[1:] - 1]) > 0.98:
            log.warning("%s is in %s order; renumbered to %s order.", volume.path, order, part.order)
            return column_of[volume.labels]
    mirrored = _share_in_place(centres * [-1, 1, 1], places)
    found = (
        "left and right are exchanged"
        if mirrored > 0.98
        else f"only {_share_in_place(centres, places):.0%} of its labels lie within "
        f"{CENTRE_TOLERANCE_MM:.0f} mm of their place"
    )
    raise InputError(
        f"{volume.path} does not hold {part.published} in a known order: {found}.",
        hint="Use the volume of the publisher, in the space of the scans.",
    )


def _share_in_place(centres: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    return float((np.linalg.norm(centres - places, axis=1) < CENTRE_TOLERANCE_MM).mean())


def region_centres(
    labels: NDArray[Any], affine: NDArray[np.float64], n_rois: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean position (n_rois, 3) in mm, NaN if empty, and voxel count (n_rois,) of labels 1 to n_rois."""
    voxels = np.argwhere(labels > 0)
    region = labels[labels > 0].astype(np.int64)
    xyz = apply_affine(affine, voxels)  # (n_voxels, 3) mm
    counts = np.bincount(region, minlength=n_rois + 1)[1 : n_rois + 1]
    sums = [np.bincount(region, xyz[:, axis], n_rois + 1)[1 : n_rois + 1] for axis in range(3)]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=1) / counts[:, None], counts


def _finish(
    name: str,
    order: str,
    space: str,
    labels: NDArray[np.int16],
    affine: NDArray[np.float64],
    table: pd.DataFrame,
    sources: list[dict[str, str]],
) -> Atlas:
    centres, counts = region_centres(labels, affine, len(table))
    table = table.assign(x=centres[:, 0].round(2), y=centres[:, 1].round(2), z=centres[:, 2].round(2))
    table = table.assign(n_voxels=counts)[list(TABLE_COLUMNS)]
    image = nib.Nifti1Image(labels, affine)
    image.set_qform(affine, code=4)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm")
    return Atlas(name, order, space, image, table, sources)


# --- a user's own label volume ------------------------------------------------------------------------------


def _own_atlas(path: Path, labels_tsv: str | Path | None, space: str | None) -> Atlas:
    if labels_tsv is None:
        raise InputError(
            f"{path}: a label volume needs a table of its regions.",
            hint="Give --atlas-labels with columns 'index' and 'name'.",
        )
    volume = atlas_files.read_volume(path)
    space = space or atlas_files.space_in_name(path)
    if space is None:
        raise InputError(f"{path}: the space of this label volume is unknown.", hint="Give --space.")
    table = _read_labels_tsv(Path(labels_tsv))
    numbers = table["index"].to_numpy()
    present = np.setdiff1d(np.unique(volume.labels), [0])
    if unnamed := np.setdiff1d(present, numbers).tolist():
        raise InputError(
            f"{labels_tsv}: labels {unnamed} of {path} are not in the table.", hint="Add their rows."
        )
    if empty := np.setdiff1d(numbers, present).tolist():
        raise InputError(
            f"{path}: labels {empty} of {labels_tsv} have no voxel.",
            hint="Remove their rows, or mend the volume.",
        )
    column_of = np.zeros(int(numbers.max()) + 1, dtype=np.int16)
    column_of[numbers] = np.arange(1, len(numbers) + 1)
    table["index"] = np.arange(1, len(table) + 1)
    source = volume.source | {"labels": Path(labels_tsv).name}
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return _finish(
        name,
        f"as in {Path(labels_tsv).name}",
        space,
        column_of[volume.labels],
        volume.affine,
        table,
        [source],
    )


def _read_labels_tsv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t", dtype={"name": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a tab-separated table ({error}).") from error
    if missing := {"index", "name"} - set(table.columns):
        raise InputError(f"{path} lacks columns {sorted(missing)}; it has {list(table.columns)}.")
    numbers = pd.to_numeric(table["index"], errors="coerce")
    if numbers.isna().any() or (numbers < 1).any() or (numbers % 1 != 0).any() or numbers.duplicated().any():
        raise InputError(f"{path}: column 'index' must hold whole numbers from 1, each once.")
    if table["name"].duplicated().any():
        repeated = table.loc[table["name"].duplicated(), "name"].tolist()
        raise InputError(f"{path}: names {repeated} occur more than once.")
    table["index"] = numbers.astype(np.int64)
    for column in ("structure", "hemisphere", "network7", "network17"):
        if column not in table:
            table[column] = NO_VALUE
    return table


# --- to and from an output folder ---------------------------------------------------------------------------


def save_atlas(atlas: Atlas, folder: Path) -> None:
    """Write `atlas.tsv`, `atlas.nii.gz` and `atlas.json`, each whole or not at all."""
    write_text(folder / "atlas.tsv", atlas.table.to_csv(sep="\t", index=False))
    with write_aside(folder / "atlas.nii.gz") as aside:
        nib.save(nib.Nifti1Image(atlas.labels, atlas.labels_img.affine, atlas.labels_img.header), aside)
    facts = {"name": atlas.name, "order": atlas.order, "space": atlas.space, "sha256": atlas.sha256}
    origin = {
        "sources": [{k: v for k, v in s.items() if k in ("file", "sha256", "labels")} for s in atlas.sources],
        "licences": sorted({s["licence"] for s in atlas.sources if "licence" in s}),
        "citations": sorted({s["citation"] for s in atlas.sources if "citation" in s}),
    }
    write_json(folder / "atlas.json", facts | origin)
