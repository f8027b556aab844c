"""The atlas: labels, their table, and the proof that the columns are in the order we say.

`load_atlas` takes the published label files (Schaefer 2018 cortex, Tian 2020 subcortex) from a folder, or
downloads them, and puts them together on one grid; where the two overlap the subcortical label wins, as in
the volumes that the authors of the Tian atlas publish. Column order: the parts in the order of the name,
regions by label. An atlas is a volume, or labels of CIFTI grayordinates, or its table alone (for series that
are regional already).

The 7- and the 17-network files of a Schaefer size hold the same parcels under other numbers, and file names
are often wrong, so the order is proven by content (order.py, dlabel.py). Labels in the other order are
renumbered; a file that fits neither is refused. docs/atlases.md says what can be detected and what cannot.
"""

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.atlas import dlabel
from bjepa.preproc.atlas import files as atlas_files
from bjepa.preproc.atlas.files import SPACES, PublishedVolume
from bjepa.preproc.atlas.order import Numbering, centres_of, prove_order, region_centres
from bjepa.preproc.atlas.own import NO_VALUE, own_dlabel, own_table, own_volume
from bjepa.preproc.atlas.published import (
    REGION_COLUMNS,
    SCHAEFER_SIZES,
    schaefer_table,
    schaefer_vertices,
    tian_table,
)
from bjepa.preproc.atlas.spaces import SURFACE_SPACE
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_tsv

log = logging.getLogger(__name__)

DEFAULT_ATLAS = "tian-s3+schaefer-400"
TABLE_COLUMNS = (*REGION_COLUMNS, "n_voxels")
Kind = Literal["volume", "cifti", "table"]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Regions in column order.

    Attributes
    ----------
    name : as asked for, e.g. "tian-s3+schaefer-400"
    order : "17networks", "7networks", or "as in FILE" for a user's own labels
    space : template space, e.g. "MNI152NLin6Asym"; "fsLR" for CIFTI; "n/a" for a table
    labels_img : 0 = background, k = region in column k - 1. A volume: nibabel Nifti1Image, int16; CIFTI:
        Cifti2Image with one label map; None for a table
    table : TABLE_COLUMNS, one row per region; x y z in mm; n_voxels in this volume, or grayordinates
    sources : where each part came from (file name and SHA-256), with licence and citation
    kind : "volume", "cifti", or "table" (regions known by name only)
    """

    name: str
    order: str
    space: str
    labels_img: Any
    table: pd.DataFrame
    sources: list[dict[str, str]]
    kind: Kind = "volume"

    @property
    def n_rois(self) -> int:
        """Number of regions, R."""
        return len(self.table)

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """The label volume (x, y, z), or the label of each grayordinate (n,), as an array."""
        if self.labels_img is None:
            raise InputError(
                f"atlas {self.name} is known by the names of its regions only.",
                hint="Voxels and grayordinates need an atlas of kind 'volume' or 'cifti'.",
            )
        values = np.asarray(self.labels_img.dataobj)
        return np.ascontiguousarray(values[0] if self.kind == "cifti" else values, dtype=np.int16)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the int16 label array in C order; of a table, of its names joined by newlines."""
        if self.kind == "table":
            return hashlib.sha256("\n".join(self.table["name"]).encode()).hexdigest()
        return hashlib.sha256(self.labels.tobytes()).hexdigest()

    @cached_property
    def place(self) -> list[float]:
        """Where the labels lie: the affine of a volume, row by row (mm, rounded to 1e-6); else nothing."""
        if self.kind != "volume":
            return []
        rounded: list[float] = (
            np.round(np.asarray(self.labels_img.affine, dtype=np.float64), 6).ravel().tolist()
        )
        return rounded


def load_atlas(
    name: str | Path = DEFAULT_ATLAS,
    *,
    space: str | None = None,
    atlas_dir: str | Path | None = None,
    labels_tsv: str | Path | None = None,
    kind: Kind = "volume",
) -> Atlas:
    """Load an atlas.

    Parameters
    ----------
    name
        `tian-s1` to `tian-s4`, `schaefer-N` (N from 100 to 1000; 17-network order), `schaefer-N-7networks`, a
        composite `A+B`, or the path of a label volume (then `labels_tsv` is needed) or a `.dlabel.nii`.
    space
        One of SPACES; for a label volume any name, default: the `space-` or `tpl-` of its file name. CIFTI
        and tables need none.
    atlas_dir
        Searched recursively for the published files before any download; default: the folder that the
        environment variable BJEPA_ATLAS_DIR names, if any.
    labels_tsv
        For a label volume: tab-separated, columns `index` (the label's number) and `name`, optionally
        `structure hemisphere network7 network17`. For a table: its rows are the columns of the series; `name`
        may be any word then.
    kind
        "volume"; "cifti": labels of grayordinates (fsLR 32k surface, 2 mm voxels); "table": names alone.

    Raises
    ------
    InputError
        Unknown name or space, files not found, labels that are not where the table has them.
    """
    if kind not in ("volume", "cifti", "table"):
        raise InputError(f"kind must be 'volume', 'cifti' or 'table', got {kind!r}.")
    is_dlabel = str(name).endswith(".dlabel.nii")
    if is_dlabel or labels_tsv is not None or str(name).endswith((".nii", ".nii.gz")):
        return _own_atlas(Path(name), None if labels_tsv is None else Path(labels_tsv), space, kind)
    parts = [_part(part) for part in str(name).split("+")]
    if len({part.published for part in parts}) < len(parts):
        raise InputError(f"atlas {name!r} names the same parcels twice.", hint="Give each part once.")
    if len({part.family for part in parts}) < len(parts):
        raise InputError(
            f"atlas {name!r} joins two parcellations of the same structure.",
            hint="Give one Schaefer size and one Tian scale at most.",
        )
    if kind == "table":
        return _table_atlas(str(name), parts)
    given = atlas_dir or os.environ.get("BJEPA_ATLAS_DIR")
    folder = Path(given).expanduser() if given else None
    if kind == "cifti":
        return _cifti_atlas(str(name), parts, folder)
    if space not in SPACES:
        raise InputError(
            f"space must be one of {sorted(SPACES)} for atlas {name!r}, got {space!r}.",
            hint="Give --space with the template that the scans were normalised to.",
        )
    volumes = atlas_files.find_volumes({part.published for part in parts}, space, folder)
    return _volume_atlas(str(name), space, parts, volumes)


# --- the published parts ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    published: str  # "schaefer-400", "tian-s3"
    family: str  # "schaefer", "tian"
    order: str  # of its columns: "17networks", "7networks" or "" where there is one order only
    table: pd.DataFrame  # REGION_COLUMNS, in column order
    numberings: list[Numbering]  # known ones of the same parcels, its own first


def _part(name: str) -> _Part:
    if named := re.fullmatch(r"tian-s([1-4])", name):
        table = tian_table(int(named[1]))
        return _Part(name, "tian", "", table, [_identity("as published", len(table))])
    if named := re.fullmatch(r"schaefer-(\d+)(?:-(7networks|17networks))?", name):
        n_parcels, order = int(named[1]), named[2] or "17networks"
        if n_parcels in SCHAEFER_SIZES:
            return _schaefer_part(n_parcels, order)
    known = ["tian-s1 to tian-s4", "schaefer-N", "schaefer-N-7networks"]
    raise InputError(
        f"atlas part must be one of {known} (N: 100, 200 ... 1000), got {name!r}.",
        hint=f"Join parts with '+' ({DEFAULT_ATLAS}), or give a label volume and --atlas-labels.",
    )


def _schaefer_part(n_parcels: int, order: str) -> _Part:
    other_order = "7networks" if order == "17networks" else "17networks"
    table = schaefer_table(order, n_parcels)
    column_of_other = np.zeros(len(table) + 1, dtype=np.int64)
    column_of_other[table[f"label_{other_order}"]] = table[f"label_{order}"]
    numberings = [_identity(order, len(table)), Numbering(other_order, column_of_other)]
    return _Part(f"schaefer-{n_parcels}", "schaefer", order, table[list(REGION_COLUMNS)], numberings)


def _identity(name: str, n_rois: int) -> Numbering:
    return Numbering(name, np.arange(n_rois + 1))


def _joined_table(parts: list[_Part]) -> pd.DataFrame:
    """REGION_COLUMNS of all parts, numbered 1 to R."""
    table = pd.concat([part.table for part in parts], ignore_index=True)
    table["index"] = np.arange(1, len(table) + 1)
    return table


def _order(parts: list[_Part]) -> str:
    return next((part.order for part in parts if part.order), "as published")


# --- the three kinds ----------------------------------------------------------------------------------------


def _volume_atlas(name: str, space: str, parts: list[_Part], volumes: dict[str, PublishedVolume]) -> Atlas:
    first = volumes[parts[0].published]
    labels = np.zeros(first.labels.shape, dtype=np.int16)
    offsets = np.cumsum([0, *(len(part.table) for part in parts)])
    # subcortex is painted last: it wins where the two overlap
    for part, offset in sorted(zip(parts, offsets, strict=False), key=lambda p: p[0].family == "tian"):
        own = _in_column_order(part, volumes[part.published])
        labels[own > 0] = own[own > 0] + int(offset)
    sources = [volumes[part.published].source | atlas_files.CITATIONS[part.family] for part in parts]
    return _finish_volume(name, _order(parts), space, labels, first.affine, _joined_table(parts), sources)


def _in_column_order(part: _Part, volume: PublishedVolume) -> NDArray[np.int64]:
    """The labels of one published volume, renumbered to the part's order after checking where they lie."""
    labelled = volume.labels > 0
    points = nib.affines.apply_affine(volume.affine, np.argwhere(labelled))  # (n, 3) mm
    numbering = prove_order(
        volume.path,
        part.published,
        points,
        volume.labels[labelled],
        part.table[["x", "y", "z"]].to_numpy(),
        part.table["name"].tolist(),
        part.numberings,
    )
    if numbering is part.numberings[0]:
        return volume.labels
    log.warning("%s is in %s order; renumbered to %s order.", volume.path, numbering.name, part.order)
    return numbering.column_of[volume.labels]


def _finish_volume(
    name: str,
    order: str,
    space: str,
    labels: NDArray[np.int16],
    affine: NDArray[np.float64],
    table: pd.DataFrame,
    sources: list[dict[str, str]],
) -> Atlas:
    centres, counts = region_centres(labels, affine, len(table))
    image = nib.Nifti1Image(labels, affine)
    image.set_qform(affine, code=4)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm")
    return Atlas(name, order, space, image, _with_places(table, centres, counts), sources)


def _with_places(table: pd.DataFrame, centres: NDArray[Any], counts: Any) -> pd.DataFrame:
    table = table.assign(x=centres[:, 0].round(2), y=centres[:, 1].round(2), z=centres[:, 2].round(2))
    return table.assign(n_voxels=counts)[list(TABLE_COLUMNS)]


def _cifti_atlas(name: str, parts: list[_Part], folder: Path | None) -> Atlas:
    path = dlabel.find_dlabel({part.published for part in parts}, folder)
    file = dlabel.read_dlabel(path)
    table = _joined_table(parts)
    n_vertices = next(
        (schaefer_vertices(part.order, len(part.table)) for part in parts if part.family == "schaefer"), None
    )
    labels = dlabel.in_column_order(file, table, n_vertices, name)
    sources = [file.source | atlas_files.CITATIONS[part.family] for part in parts]
    return _finish_cifti(name, _order(parts), labels, file.axis, table, sources)


def _finish_cifti(
    name: str,
    order: str,
    labels: NDArray[np.int16],
    axis: Any,
    table: pd.DataFrame,
    sources: list[dict[str, str]],
) -> Atlas:
    counts = np.bincount(labels, minlength=len(table) + 1)[1:]
    if "x" in table:  # a surface has no place in mm: the published one
        centres = table[["x", "y", "z"]].to_numpy()
    else:
        voxel = ~np.asarray(axis.surface_mask) & (labels > 0)
        centres, n_inside = centres_of(
            nib.affines.apply_affine(axis.affine, axis.voxel[voxel]) if voxel.any() else np.empty((0, 3)),
            labels[voxel].astype(np.int64),
            len(table),
        )
        centres[n_inside < counts] = np.nan
    table = _with_places(table, centres, counts)
    # grey, apart from the background: colours are for viewers, and not part of the atlas
    names = {0: ("???", (0.0, 0.0, 0.0, 0.0))}
    names |= {k: (name, (0.5, 0.5, 0.5, 1.0)) for k, name in enumerate(table["name"], start=1)}
    label_axis = nib.cifti2.LabelAxis([name], [names])
    image = nib.Cifti2Image(labels[None], header=(label_axis, axis))
    image.nifti_header.set_intent("ConnDenseLabel")
    image.update_headers()
    return Atlas(name, order, SURFACE_SPACE, image, table, sources, kind="cifti")


def _table_atlas(name: str, parts: list[_Part]) -> Atlas:
    table = _joined_table(parts).assign(n_voxels=NO_VALUE)[list(TABLE_COLUMNS)]
    sources = [atlas_files.CITATIONS[part.family] for part in parts]
    return Atlas(name, _order(parts), NO_VALUE, None, table, sources, kind="table")


def _own_atlas(path: Path, labels_tsv: Path | None, space: str | None, kind: Kind) -> Atlas:
    order = f"as in {(labels_tsv or path).name}"
    name = re.sub(r"(\.dlabel)?\.nii(\.gz)?$", "", path.name)
    if kind == "table":
        if labels_tsv is None:
            raise InputError(f"{path}: the regions of this atlas are unknown.", hint="Give --atlas-labels.")
        table = own_table(labels_tsv).assign(n_voxels=NO_VALUE)
        return Atlas(name, order, NO_VALUE, None, table[list(TABLE_COLUMNS)], [], kind="table")
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file.", hint="Give a label image, or an atlas.")
    if path.name.endswith(".dlabel.nii"):
        labels, file, table, source = own_dlabel(path, labels_tsv)
        return _finish_cifti(name, order, labels, file.axis, table, [source])
    if kind == "cifti":
        raise InputError(f"{path} is a volume, the scans are CIFTI.", hint="Give a .dlabel.nii.")
    labels, affine, table, own_space, source = own_volume(path, labels_tsv, space)
    return _finish_volume(name, order, own_space, labels, affine, table, [source])


# --- to an output folder ------------------------------------------------------------------------------------


def save_atlas(atlas: Atlas, folder: Path) -> None:
    """Write `atlas.tsv`, `atlas.json`, and the labels: `atlas.nii.gz`, or `atlas.dlabel.nii` for CIFTI.

    Each file appears whole or not at all.
    """
    write_tsv(folder / "atlas.tsv", atlas.table)
    if atlas.kind == "volume":
        with write_aside(folder / "atlas.nii.gz") as aside:
            nib.save(nib.Nifti1Image(atlas.labels, atlas.labels_img.affine, atlas.labels_img.header), aside)
    elif atlas.kind == "cifti":
        with write_aside(folder / "atlas.dlabel.nii") as aside:
            nib.save(atlas.labels_img, aside)
    facts = {"name": atlas.name, "order": atlas.order, "space": atlas.space, "sha256": atlas.sha256}
    kept = ("file", "sha256", "known", "labels")
    origin = {
        "kind": atlas.kind,
        "sources": [{k: v for k, v in s.items() if k in kept} for s in atlas.sources if "file" in s],
        "licences": sorted({s["licence"] for s in atlas.sources if "licence" in s}),
        "citations": sorted({s["citation"] for s in atlas.sources if "citation" in s}),
    }
    write_json(folder / "atlas.json", facts | origin)
