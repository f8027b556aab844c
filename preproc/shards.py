"""Shards: scaled regional series, back to back in plain HDF5, with an index and their origin.

    /timeseries   float32 (total frames, n_rois), contiguous, uncompressed: a clip is one contiguous read
    /series/*     one row per stored series (each phase of a strided scan is a series of its own)
    /scans/*      one row per scan; /rois/* one row per region; /scaling/* what was subtracted and divided

`stored = (x - median) / iqr`, so the input is recoverable. A reader needs h5py and numpy only.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

FORMAT, FORMAT_VERSION = "bjepa-shard", 1
SCAN_COLUMNS = ("scan_id", "participant_id", "session", "task", "run")
ROI_COLUMNS = ("name", "structure", "hemisphere", "network7", "network17")
ROIS_IN_FORMAT = ("name", "structure", "network7", "network17")  # required of every shard, foreign ones too


@dataclass(frozen=True, kw_only=True)
class ShardScan:
    """One scan on its way into a shard: its series (phases), already scaled."""

    entities: dict[str, str]  # the SCAN_COLUMNS
    t_r: float  # s, of the scan
    t_r_out: float  # s, of the stored series
    valid: NDArray[np.bool_]  # (n_rois,), False where the region is missing
    phases: Sequence[NDArray[np.float32]]  # each (n_frames, n_rois)


def write_shard(
    path: Path,
    scans: Sequence[ShardScan],
    *,
    atlas: str,
    atlas_sha256: str,
    rois: dict[str, Sequence[str]],
    median: NDArray[np.float64],
    iqr: NDArray[np.float64],
    scaling: str,
    target_t_r: float,
) -> None:
    """Write one shard, whole or not at all.

    `rois` holds the ROI_COLUMNS, each of length n_rois; `median` and `iqr` are (n_rois,) in the units of the
    scan. Columns of missing regions are stored as 0. Refuses non-finite values in valid columns.
    """
    n_rois = len(median)
    lengths = np.array([len(phase) for scan in scans for phase in scan.phases], dtype=np.int64)
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
        )
        frames = shard.create_dataset("timeseries", (int(lengths.sum()), n_rois), np.float32)
        row = 0
        for scan in scans:
            for phase in scan.phases:
                stored = np.where(scan.valid, phase, 0).astype(np.float32)  # (n_frames, n_rois)
                if not np.isfinite(stored).all():
                    raise ValueError(f"{scan.entities['scan_id']} has non-finite values in valid regions")
                frames[row : row + len(stored)] = stored
                row += len(stored)

        series = shard.create_group("series")
        series["offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        series["length"] = lengths
        series["scan"] = np.repeat(np.arange(len(scans)), [len(s.phases) for s in scans]).astype(np.int32)
        series["phase"] = np.concatenate([np.arange(len(s.phases)) for s in scans]).astype(np.int8)

        table = shard.create_group("scans")
        for column in SCAN_COLUMNS:
            _write_strings(table, column, [scan.entities[column] for scan in scans])
        table["t_r"] = np.array([scan.t_r for scan in scans], dtype=np.float64)
        table["t_r_out"] = np.array([scan.t_r_out for scan in scans], dtype=np.float64)
        table["valid"] = np.stack([scan.valid for scan in scans])  # (n_scans, n_rois)

        regions = shard.create_group("rois")
        for column in ROI_COLUMNS:
            _write_strings(regions, column, rois[column])
        shard["scaling/median"] = median.astype(np.float64)
        shard["scaling/iqr"] = iqr.astype(np.float64)


def _write_strings(group: Any, name: str, values: Sequence[str]) -> None:
    group.create_dataset(name, data=list(values), dtype=h5py.string_dtype("utf-8"))


@dataclass(frozen=True)
class _Series:
    shard: int  # which file
    offset: int  # first row in its /timeseries
    length: int  # frames
    scan: int  # row in ShardReader.scans
    phase: int


class ShardReader:
    """All series of an output folder (or of one shard), by number.

    Parameters
    ----------
    path
        Output folder of bjepa-preprocess, its `shards` folder, or one `.h5` shard.

    Attributes
    ----------
    scans : dict of columns, one entry per scan: the SCAN_COLUMNS (str), `t_r` and `t_r_out` (float64, s)
    valid : (n_scans, n_rois) bool, False where a region is missing in a scan (its stored column is 0)
    series_scan, series_phase, series_length : (n_series,) int64: scan row, phase and frames of each series
    rois : dict of columns (str), one entry per region, in column order
    median, iqr : (n_rois,) float64, in the units of the scans
    atlas, atlas_sha256, scaling, target_t_r, n_rois : as in the shards, the same in all of them

    Files are opened when first read, anew in each process (safe to fork and to pickle).

    Raises
    ------
    InputError
        No shard there; a truncated or foreign file; shards that disagree.
    """

    def __init__(self, path: str | Path) -> None:
        self.paths = _find_shards(Path(path))
        self._open_files: dict[int, Any] = {}
        self._pid = os.getpid()
        self._series: list[_Series] = []
        scans: dict[str, list[Any]] = {c: [] for c in (*SCAN_COLUMNS, "t_r", "t_r_out")}
        valid: list[NDArray[np.bool_]] = []
        for number, shard_path in enumerate(self.paths):
            with _open(shard_path) as shard:
                try:
                    self._read_header(shard, first=number == 0)
                    first_scan = len(scans["scan_id"])
                    for column in SCAN_COLUMNS:
                        scans[column].extend(shard[f"scans/{column}"].asstr()[:].tolist())
                    for column in ("t_r", "t_r_out"):
                        scans[column].extend(shard[f"scans/{column}"][:].tolist())
                    valid.append(shard["scans/valid"][:].astype(bool))
                    index = [
                        shard[f"series/{name}"][:].tolist() for name in ("offset", "length", "scan", "phase")
                    ]
                except KeyError as error:
                    raise InputError(
                        f"{shard_path} lacks a part of a shard: {error}.", hint=_REMAKE
                    ) from error
            self._series.extend(
                _Series(number, offset, length, first_scan + scan, phase)
                for offset, length, scan, phase in zip(*index, strict=True)
            )
        self.scans = scans
        self.valid = np.concatenate(valid)  # (n_scans, n_rois)
        self.series_scan = np.array([s.scan for s in self._series], dtype=np.int64)
        self.series_phase = np.array([s.phase for s in self._series], dtype=np.int64)
        self.series_length = np.array([s.length for s in self._series], dtype=np.int64)

    def _read_header(self, shard: Any, *, first: bool) -> None:
        header = {k: shard.attrs[k] for k in ("atlas", "atlas_sha256", "scaling", "target_t_r", "n_rois")}
        if first:
            self.atlas, self.atlas_sha256 = str(header["atlas"]), str(header["atlas_sha256"])
            self.scaling, self.target_t_r = str(header["scaling"]), float(header["target_t_r"])
            self.n_rois = int(header["n_rois"])
            columns = [c for c in ROI_COLUMNS if c in ROIS_IN_FORMAT or c in shard["rois"]]
            self.rois = {c: shard[f"rois/{c}"].asstr()[:].tolist() for c in columns}
            self.median = shard["scaling/median"][:].astype(np.float64)
            self.iqr = shard["scaling/iqr"][:].astype(np.float64)
        elif str(header["atlas_sha256"]) != self.atlas_sha256 or int(header["n_rois"]) != self.n_rois:
            raise InputError(
                f"{shard.filename} was made with atlas {header['atlas']} ({header['n_rois']} regions), "
                f"{self.paths[0].name} with {self.atlas} ({self.n_rois}).",
                hint="Keep shards of different atlases in different folders.",
            )

    def __len__(self) -> int:
        """Number of series."""
        return len(self._series)

    def __getitem__(self, number: int) -> NDArray[np.float32]:
        """Series `number`, whole: (n_frames, n_rois) float32, scaled."""
        return self.read(number)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))

    def read(self, number: int, start: int = 0, n_frames: int | None = None) -> NDArray[np.float32]:
        """Frames `start` to `start + n_frames` of a series: (n_frames, n_rois) float32, scaled."""
        series = self._series[number]
        stop = series.length if n_frames is None else start + n_frames
        if not 0 <= start <= stop <= series.length:
            raise IndexError(f"frames {start} to {stop} asked of series {number}, which has {series.length}")
        frames = self._file(series.shard)["timeseries"]
        clip: NDArray[np.float32] = frames[series.offset + start : series.offset + stop]
        return clip

    def unscale(self, timeseries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back to the units of the scan: (..., n_rois) float32."""
        original: NDArray[np.float32] = (timeseries.astype(np.float64) * self.iqr + self.median).astype(
            np.float32
        )
        return original

    def _file(self, number: int) -> Any:
        if os.getpid() != self._pid:  # HDF5 handles must not cross a fork
            self._open_files, self._pid = {}, os.getpid()
        if number not in self._open_files:
            self._open_files[number] = _open(self.paths[number])
        return self._open_files[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": {}}


_REMAKE = "Run bjepa-preprocess again with the stage 'group'; it rewrites the shards."


def _find_shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / "shards" if (path / "shards").is_dir() else path
    found = sorted(folder.glob("shard-*.h5"))
    if not found:
        raise InputError(
            f"{path} holds no shard (looked for {folder}/shard-*.h5).",
            hint="Give the output folder of bjepa-preprocess after its stage 'group'.",
        )
    return found


def _open(path: Path) -> Any:
    try:
        shard = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}).", hint=_REMAKE) from error
    found = (shard.attrs.get("format"), shard.attrs.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        shard.close()
        raise InputError(
            f"{path} is not a shard: format {found[0]!r}, version {found[1]!r}; "
            f"{FORMAT!r}, version {FORMAT_VERSION} is needed.",
            hint=_REMAKE,
        )
    return shard
