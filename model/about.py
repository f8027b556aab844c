"""What a model folder tells beside the network: the origin of the data, and how a new scan is made like them.

    atlas.tsv      the regions, in the order of the series
    scaling.tsv    index name median iqr: what the training data were scaled with
    README.md      the model card
    origin         of config.json: atlas, scaling, target_t_r, t_r_out, ...

T frames, R regions.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import SCALING_METHODS, Scaling, ScalingMethod, scan_part
from bjepa.preproc.shards import ShardReader

SCALING_COLUMNS = ["index", "name", "median", "iqr"]


@dataclass(frozen=True, kw_only=True)
class About:
    """Texts of the files, as they are; `origin` of config.json."""

    origin: dict[str, Any] = field(default_factory=dict)
    atlas_table: str | None = None
    scaling_table: str | None = None
    card: str | None = None

    @property
    def scaling(self) -> Scaling:
        """What the training data were scaled with.

        Raises
        ------
        InputError
            The folder had no scaling.tsv, or not one of a scaling that we know.
        """
        if self.scaling_table is None:
            raise InputError(
                "This model does not say how its training data were scaled (no scaling.tsv).",
                hint="Scale new scans as those were: median and IQR of each region.",
            )
        method = self.origin.get("scaling")
        if method not in SCALING_METHODS:
            raise InputError(
                f"The model's origin.scaling is {method!r}; known are {', '.join(SCALING_METHODS)}."
            )
        median, iqr = read_scaling(self.scaling_table, origin="scaling.tsv")
        return Scaling(cast(ScalingMethod, method), median, iqr)

    def scale(self, timeseries: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """One new scan as the training data were scaled: (T, R) float32, 0 in missing regions.

        Parameters
        ----------
        timeseries : (T, R)
            All frames of the scan, in its own units, at the repetition time of the training data
            (`origin["t_r_out"]`); NaN in regions that it lacks.

        Raises
        ------
        InputError
            Other regions than the model's; a region with some NaN; no scaling (see `scaling`).
        """
        scaling, series = self.scaling, np.asarray(timeseries, dtype=np.float32)
        n_rois = len(scaling.median)
        if series.ndim != 2 or series.shape[1] != n_rois:
            raise InputError(f"The series has shape {series.shape}; (frames, {n_rois} regions) is needed.")
        missing = np.isnan(series).all(axis=0)
        if not np.isfinite(series[:, ~missing]).all():
            raise InputError(
                "The series has non-finite values in regions that are there.",
                hint="A missing region is NaN in all frames.",
            )
        names = [str(number) for number in range(1, n_rois + 1)]
        part = scan_part(scaling.method, series, names, "The scan")
        scaled = scaling.apply(series, part)
        scaled[:, missing] = 0
        return scaled


def scaling_table(reader: ShardReader) -> str:
    """The text of scaling.tsv, 17 digits: what is read back is what was used, bit for bit."""
    rows = zip(reader.rois["name"], reader.median.tolist(), reader.iqr.tolist(), strict=True)
    lines = ["\t".join(SCALING_COLUMNS)]
    lines += [f"{i}\t{name}\t{median:.17g}\t{iqr:.17g}" for i, (name, median, iqr) in enumerate(rows, 1)]
    return "\n".join(lines) + "\n"


def count_scans(reader: ShardReader, series: NDArray[np.int64]) -> dict[str, int]:
    """How many scans and participants these series are of."""
    scans = np.unique(reader.series_scan[series]).tolist()
    participants = {reader.scans["participant_id"][scan] for scan in scans}
    return {"n_scans": len(scans), "n_participants": len(participants)}


def read_scaling(table: str, *, origin: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and IQR, (R,) each, of the text of a scaling.tsv; `origin` names it in errors."""
    rows = list(csv.reader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or rows[0] != SCALING_COLUMNS or any(len(row) != len(SCALING_COLUMNS) for row in rows):
        raise InputError(f"{origin} is not a table with the columns {' '.join(SCALING_COLUMNS)}.")
    try:
        values = np.array([[float(cell) for cell in row[2:]] for row in rows[1:]]).reshape(-1, 2)
    except ValueError as error:
        raise InputError(f"{origin} has a cell that is no number: {error}.") from error
    if not np.isfinite(values).all() or not (values[:, 1] > 0).all():
        raise InputError(f"{origin} needs finite medians and IQRs above 0.")
    return values[:, 0], values[:, 1]


def read_about(folder: Path, origin: dict[str, Any], *, n_rois: int) -> About:
    """What a model folder tells; a file that is not there is None.

    Raises
    ------
    InputError
        A file that is no text; a scaling.tsv that is damaged or of another number of regions.
    """

    def text(name: str) -> str | None:
        path = folder / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as text: {error}.") from error

    about = About(
        origin=origin,
        atlas_table=text("atlas.tsv"),
        scaling_table=text("scaling.tsv"),
        card=text("README.md"),
    )
    if about.scaling_table is not None:
        median, _ = read_scaling(about.scaling_table, origin=str(folder / "scaling.tsv"))
        if len(median) != n_rois:
            raise InputError(f"{folder / 'scaling.tsv'} has {len(median)} regions, the model {n_rois}.")
    return about
