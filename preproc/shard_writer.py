"""Writing shards. The format is described in `shards.py`, which also reads them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.preproc.files import write_aside
from bjepa.preproc.scaling import ScanPart

FORMAT, FORMAT_VERSION = "bjepa-shard", 1
SCAN_COLUMNS = ("scan_id", "participant_id", "session", "task", "run")
ROI_COLUMNS = ("name", "structure", "hemisphere", "network7", "network17")


@dataclass(frozen=True, kw_only=True)
class ShardScan:
    """One scan on its way into a shard: its series (phases), already scaled.

    What has a default is left out of a shard in which no scan gives it.
    """

    entities: dict[str, str]  # the SCAN_COLUMNS
    t_r: float  # s, of the scan
    t_r_out: float  # s, of the stored series
    valid: NDArray[np.bool_]  # (n_rois,), False where the region is missing
    phases: Sequence[NDArray[np.float32]]  # each (n_frames, n_rois)
    censored: Sequence[NDArray[np.bool_]] | None = (
        None  # for each phase (n_frames,), True = frame was filled in
    )
    part: ScanPart | None = None  # what was subtracted and divided in this scan alone
    fits_scaling: bool | None = None  # whether its participant entered median and IQR
    source: str = ""  # path of the input
    source_sha256: str = ""  # of the input; "" = not hashed
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON-serialisable: how it was made


def write_shard(
    path: Path,
    scans: Iterable[ShardScan],
    *,
    atlas: str,
    atlas_sha256: str,
    rois: dict[str, Sequence[str]],
    median: NDArray[np.float64],
    iqr: NDArray[np.float64],
    scaling: str,
    target_t_r: float,
    space: str = "",
    options: dict[str, Any] | None = None,
    software: dict[str, Any] | None = None,
    n_frames: int | None = None,
) -> None:
    """Write one shard, whole or not at all; the same arguments give the same bytes.

    `rois` holds the ROI_COLUMNS, each of length n_rois; `median` and `iqr` are (n_rois,) in the units of the
    scan. Columns of missing regions are stored as 0. Refuses non-finite values in valid columns.
    With `n_frames`, the number of frames of all scans together, one scan is in memory at a time: `scans` may
    then be a generator.
    """
    n_rois = len(median)
    if n_frames is None:
        scans = list(scans)
        n_frames = sum(len(phase) for scan in scans for phase in scan.phases)
    with write_aside(path) as aside, h5py.File(aside, "w") as shard:
        shard.attrs.update(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            bjepa_version=bjepa.__version__,
            atlas=atlas,
            atlas_sha256=atlas_sha256,
            n_rois=n_rois,
            scaling=scaling,
            target_t_r=target_t_r,
            space=space,
            options=_json(options or {}),
            software=_json(software or {}),
        )
        frames = shard.create_dataset("timeseries", (n_frames, n_rois), np.float32)
        row, written = 0, []
        for scan in scans:
            for phase in scan.phases:
                stored = np.where(scan.valid, phase, 0).astype(np.float32)  # (n_frames, n_rois)
                if not np.isfinite(stored).all():
                    raise ValueError(f"{scan.entities['scan_id']} has non-finite values in valid regions")
                frames[row : row + len(stored)] = stored
                row += len(stored)
            written.append(_Written(replace(scan, phases=[]), [len(phase) for phase in scan.phases]))
        if row != n_frames:
            raise ValueError(f"the scans have {row} frames, {n_frames} were announced")
        _write_series(shard, written)
        _write_scans(shard.create_group("scans"), [part.scan for part in written])
        regions = shard.create_group("rois")
        for column in ROI_COLUMNS:
            _write_strings(regions, column, rois[column])
        shard["scaling/median"] = median.astype(np.float64)
        shard["scaling/iqr"] = iqr.astype(np.float64)


@dataclass(frozen=True)
class _Written:
    """A scan whose frames are in the file: the rest of it, and the frames of each phase."""

    scan: ShardScan
    lengths: list[int]


def _write_series(shard: Any, written: Sequence[_Written]) -> None:
    lengths = np.array([length for part in written for length in part.lengths], dtype=np.int64)
    series = shard.create_group("series")
    series["offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    series["length"] = lengths
    n_phases = [len(part.lengths) for part in written]
    series["scan"] = np.repeat(np.arange(len(written)), n_phases).astype(np.int32)
    series["phase"] = np.concatenate([np.arange(n) for n in n_phases]).astype(np.int8)
    if any(part.scan.censored is not None for part in written):
        shard["censored"] = np.concatenate([marks for part in written for marks in _censored(part)])


def _censored(part: _Written) -> Sequence[NDArray[np.bool_]]:
    marks = part.scan.censored or [np.zeros(length, dtype=bool) for length in part.lengths]
    if [len(m) for m in marks] != part.lengths:
        raise ValueError(f"{part.scan.entities['scan_id']} has other numbers of frames and of marks")
    return marks


def _write_scans(table: Any, scans: Sequence[ShardScan]) -> None:
    for column in SCAN_COLUMNS:
        _write_strings(table, column, [scan.entities[column] for scan in scans])
    table["t_r"] = np.array([scan.t_r for scan in scans], dtype=np.float64)
    table["t_r_out"] = np.array([scan.t_r_out for scan in scans], dtype=np.float64)
    table["valid"] = np.stack([scan.valid for scan in scans])  # (n_scans, n_rois)
    parts = [scan.part for scan in scans if scan.part is not None]
    if len(parts) not in (0, len(scans)):
        raise ValueError("some scans of the shard have a scaling of their own, others have not")
    if parts:
        table["offset"] = np.stack([part.offset for part in parts])  # (n_scans, n_rois) float64
        table["scale"] = np.stack([part.scale for part in parts])
    if any(scan.fits_scaling is not None for scan in scans):
        table["fits_scaling"] = np.array([bool(scan.fits_scaling) for scan in scans])
    if any(scan.source for scan in scans):
        _write_strings(table, "source", [scan.source for scan in scans])
        _write_strings(table, "source_sha256", [scan.source_sha256 for scan in scans])
        _write_strings(table, "provenance", [_json(scan.provenance) for scan in scans])


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=True)


def _write_strings(group: Any, name: str, values: Sequence[str]) -> None:
    group.create_dataset(name, data=list(values), dtype=h5py.string_dtype("utf-8"))
