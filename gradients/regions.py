"""What the rows of a gradient table are: names, networks, coordinates, and the labels if they are in a file.

Read from the folder `atlas` that bjepa-preprocess writes beside the shards. Without it (a bare matrix), rows
are called region-1, region-2, ...
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions in column order, 1..R."""

    table: "pd.DataFrame"  # (R rows) columns of atlas.tsv, at least index and name; text
    atlas: str = ""  # name of the atlas, "" if unknown
    atlas_sha256: str | None = None  # of the label array, None if unknown
    labels_img: Any = None  # the label volume (nibabel image), None for surface or table input
    dlabel: Path | None = None  # the CIFTI label file (labels 1..R), None for volume or table input

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.table["name"]]

    def column(self, name: str) -> list[str] | None:
        """A column of the table, None where it is absent or empty."""
        if name not in self.table.columns:
            return None
        cells = [str(cell) for cell in self.table[name]]
        return cells if any(cell not in ("", "n/a") for cell in cells) else None

    def networks(self) -> list[str] | None:
        """The seven-network name of each region, None where unknown."""
        found = self.column("network7")
        if found is not None:
            return found
        # names of the Schaefer atlas carry it: 7Networks_LH_Vis_1
        named = [re.match(r"7Networks_[LR]H_([A-Za-z]+)", name) for name in self.names]
        return [match.group(1) if match else "other" for match in named] if any(named) else None


def unnamed_regions(n_rois: int) -> Regions:
    """Regions of a matrix that says nothing about them."""
    return named_regions([f"region-{number}" for number in range(1, n_rois + 1)])


def named_regions(names: list[str]) -> Regions:
    """Regions of a table whose header names them."""
    return Regions(table=_table({"name": names}))


def regions_of_vertices(names: list[str]) -> Regions:
    """Regions of surface series: one a vertex, named L-00000 (`surface_series.py`)."""
    sides = [name[0] if name[:2] in ("L-", "R-") else "" for name in names]
    return Regions(table=_table({"name": names, "structure": ["cortex"] * len(names), "hemisphere": sides}))


def regions_of_shards(reader: ShardReader, path: Path, atlas_dir: Path | None = None) -> Regions:
    """Regions of shards: from the folder `atlas` beside them, else from the shards themselves.

    Without that folder, `atlas_dir` (published atlas files) is searched for the volume that the shards name.
    """
    path = path if path.is_dir() else path.parent
    for folder in (path / "atlas", path.parent / "atlas"):
        if (folder / "atlas.tsv").is_file():
            return read_regions(folder, n_rois=reader.n_rois, atlas_sha256=reader.atlas_sha256)
    return Regions(
        table=_table(reader.rois),
        atlas=reader.atlas,
        atlas_sha256=reader.atlas_sha256,
        labels_img=_find_volume(reader, atlas_dir) if atlas_dir is not None else None,
    )


def read_regions(folder: Path, *, n_rois: int, atlas_sha256: str) -> Regions:
    """Read `atlas.tsv`, `atlas.json`, `atlas.nii.gz` of a folder `atlas`; note where `atlas.dlabel.nii` is.

    Raises
    ------
    InputError
        The folder describes another atlas than the shards: other hash or number of regions.
    """
    import nibabel
    import pandas as pd

    try:
        table = pd.read_csv(folder / "atlas.tsv", sep="\t", dtype=str, keep_default_na=False)
        description = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
        volume = folder / "atlas.nii.gz"
        labels_img = nibabel.load(volume) if volume.is_file() else None
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{folder} is not a readable atlas folder ({error}).", hint=_REMAKE) from error
    found = str(description.get("sha256", ""))
    if found != atlas_sha256 or len(table) != n_rois or "name" not in table.columns:
        raise InputError(
            f"{folder} describes another atlas ({len(table)} regions, hash {found[:12]}) than the shards "
            f"beside it ({n_rois} regions, hash {atlas_sha256[:12]}).",
            hint=_REMAKE,
        )
    dlabel = folder / "atlas.dlabel.nii"
    return Regions(
        table=table,
        atlas=str(description.get("name", "")),
        atlas_sha256=atlas_sha256,
        labels_img=labels_img,
        dlabel=dlabel if dlabel.is_file() else None,
    )


def _find_volume(reader: ShardReader, atlas_dir: Path) -> Any:
    """The published label volume whose hash is that of the shards, None (and a warning) if there is none."""
    from bjepa.preproc.atlas import load_atlas
    from bjepa.preproc.atlas.files import SPACES

    for space in SPACES:
        try:
            atlas = load_atlas(reader.atlas, space=space, atlas_dir=atlas_dir)
        except InputError as error:
            log.debug("%s in %s: %s", reader.atlas, space, error)
            continue
        if atlas.sha256 == reader.atlas_sha256:
            return atlas.labels_img
    log.warning("%s holds no volume of the atlas of these shards (%s)", atlas_dir, reader.atlas)
    return None


def _table(columns: "dict[str, list[str]]") -> "pd.DataFrame":
    import pandas as pd

    n_rois = len(columns["name"])
    return pd.DataFrame({"index": [str(number) for number in range(1, n_rois + 1)], **columns})


_REMAKE = "Run bjepa-preprocess again with the stage 'group'; it writes both."
