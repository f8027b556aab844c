"""What the rows of a gradient table are: names, networks, coordinates, and the label volume if there is one.

Read from the folder `atlas` that bjepa-preprocess writes beside the shards. Without it (a bare matrix), rows
are called region-1, region-2, ...
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Regions:
    """The regions in column order, 1..R."""

    table: (
        "pd.DataFrame"  # columns of atlas.tsv (at least index and name), one row per region, cells are text
    )
    atlas: str  # name of the atlas, "" if unknown
    atlas_sha256: str | None  # of the label array, None if unknown
    labels_img: Path | None  # the label volume, None for surface or table input

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.table["name"]]

    def column(self, name: str) -> list[str] | None:
        """A column of the table, None where it is absent or empty."""
        if name not in self.table.columns:
            return None
        cells = [str(cell) for cell in self.table[name]]
        return cells if any(cell not in ("", "n/a") for cell in cells) else None


def unnamed_regions(n_rois: int) -> Regions:
    """Regions of a matrix that says nothing about them."""
    import pandas as pd

    numbers = range(1, n_rois + 1)
    table = pd.DataFrame({"index": [str(n) for n in numbers], "name": [f"region-{n}" for n in numbers]})
    return Regions(table, atlas="", atlas_sha256=None, labels_img=None)


def named_regions(names: list[str]) -> Regions:
    """Regions of a table of series whose header names them."""
    import pandas as pd

    table = pd.DataFrame({"index": [str(n + 1) for n in range(len(names))], "name": names})
    return Regions(table, atlas="", atlas_sha256=None, labels_img=None)


def read_regions(folder: Path, *, n_rois: int, atlas_sha256: str) -> Regions:
    """Read `atlas.tsv`, `atlas.json` and `atlas.nii.gz` of a folder `atlas`.

    Raises
    ------
    InputError
        The folder describes another atlas than the shards: other hash or number of regions.
    """
    import pandas as pd

    try:
        table = pd.read_csv(folder / "atlas.tsv", sep="\t", dtype=str, keep_default_na=False)
        description = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a readable atlas folder ({error}).", hint=_REMAKE) from error
    found = str(description.get("sha256", ""))
    if found != atlas_sha256 or len(table) != n_rois or "name" not in table.columns:
        raise InputError(
            f"{folder} describes another atlas ({len(table)} regions, hash {found[:12]}) than the shards "
            f"beside it ({n_rois} regions, hash {atlas_sha256[:12]}).",
            hint=_REMAKE,
        )
    volume = folder / "atlas.nii.gz"
    return Regions(
        table,
        atlas=str(description.get("name", "")),
        atlas_sha256=atlas_sha256,
        labels_img=volume if volume.is_file() else None,
    )


_REMAKE = "Run bjepa-preprocess again with the stage 'group'; it writes both."
