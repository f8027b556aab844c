"""Shards: scaled regional series, back to back in plain HDF5, with an index and their origin.

    /timeseries   float32 (total frames, n_rois), contiguous, uncompressed: a clip is one contiguous read
    /censored     bool (total frames,), True where a scrubbed frame was filled in (absent: none)
    /series/*     one row per stored series (each phase of a strided scan is a series of its own)
    /scans/*      one row per scan: entities, t_r, valid regions, source, source_sha256, provenance (JSON),
                  fits_scaling; offset and scale (n_scans, n_rois) where the scaling has a part of each scan
    /rois/*       one row per region
    /scaling/*    median and iqr (n_rois,): what was subtracted and divided
    attrs         format, versions, atlas, scaling, target_t_r, space, options (JSON), software (JSON)

`x = (stored * iqr + median) * scale + offset` (scale 1, offset 0 where there are none), so the input is
recoverable. A reader needs h5py and numpy only. Written by `shard_writer.py`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.shard_writer import (
    FORMAT,
    FORMAT_VERSION,
    ROI_COLUMNS,
    SCAN_COLUMNS,
    ShardScan,
    write_shard,
)

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "ROI_COLUMNS",
    "SCAN_COLUMNS",
    "ShardReader",
    "ShardScan",
    "write_shard",
]

ROIS_IN_FORMAT = ("name", "structure", "network7", "network17")  # required of every shard, foreign ones too


@dataclass(frozen=True)
class _Series:
    shard: int  # which file
    offset: int  # first row in its /timeseries
    length: int  # frames
    scan: int  # row in ShardReader.scans
    row: int  # row in /scans of the shard
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
    per_scan : whether the scaling has a part of each scan, so that `unscale` must know the series
    space, options, software : of the first shard ("" and {} in shards of earlier versions)

    Files are opened when first read, anew in each process (safe to fork and to pickle).

    Raises
    ------
    InputError
        No shard there; a truncated or foreign file; shards that disagree.
    """

    def __init__(self, path: str | Path) -> None:
        self.paths = _find_shards(Path(path))
        self._open_files: dict[int, Any] = {}
        self._open_frames: dict[int, Any] = {}
        self._pid = os.getpid()
        self._series: list[_Series] = []
        self._scan_places: list[tuple[int, int]] = []  # of each scan its shard and row there
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
                    self._scan_places.extend((number, row) for row in range(len(valid[-1])))
                    index = [
                        shard[f"series/{name}"][:].tolist() for name in ("offset", "length", "scan", "phase")
                    ]
                except KeyError as error:
                    raise InputError(
                        f"{shard_path} lacks a part of a shard: {error}.", hint=_REMAKE
                    ) from error
            self._series.extend(
                _Series(number, offset, length, first_scan + scan, scan, phase)
                for offset, length, scan, phase in zip(*index, strict=True)
            )
        self.scans = scans
        self.valid = np.concatenate(valid)  # (n_scans, n_rois)
        self.series_scan = np.array([s.scan for s in self._series], dtype=np.int64)
        self.series_phase = np.array([s.phase for s in self._series], dtype=np.int64)
        self.series_length = np.array([s.length for s in self._series], dtype=np.int64)

    def _read_header(self, shard: Any, *, first: bool) -> None:
        header = {k: shard.attrs[k] for k in ("atlas", "atlas_sha256", "scaling", "target_t_r", "n_rois")}
        median, iqr = (shard[f"scaling/{name}"][:].astype(np.float64) for name in ("median", "iqr"))
        per_scan = "offset" in shard["scans"]
        if first:
            self.atlas, self.atlas_sha256 = str(header["atlas"]), str(header["atlas_sha256"])
            self.scaling, self.target_t_r = str(header["scaling"]), float(header["target_t_r"])
            self.n_rois = int(header["n_rois"])
            columns = [c for c in ROI_COLUMNS if c in ROIS_IN_FORMAT or c in shard["rois"]]
            self.rois = {c: shard[f"rois/{c}"].asstr()[:].tolist() for c in columns}
            self.median, self.iqr, self.per_scan = median, iqr, per_scan
            self.space = str(shard.attrs.get("space", ""))
            self.options, self.software = (
                json.loads(shard.attrs.get(name, "{}")) for name in ("options", "software")
            )
            return
        if str(header["atlas_sha256"]) != self.atlas_sha256 or int(header["n_rois"]) != self.n_rois:
            raise InputError(
                f"{shard.filename} was made with atlas {header['atlas']} ({header['n_rois']} regions), "
                f"{self.paths[0].name} with {self.atlas} ({self.n_rois}).",
                hint="Keep shards of different atlases in different folders.",
            )
        same = np.array_equal(median, self.median) and np.array_equal(iqr, self.iqr)
        if not same or str(header["scaling"]) != self.scaling or per_scan != self.per_scan:
            raise InputError(
                f"{shard.filename} was scaled otherwise ({header['scaling']}) than {self.paths[0].name} "
                f"({self.scaling}): their median and IQR must be the same.",
                hint="Keep shards of different runs of the stage 'group' in different folders.",
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
        frames = self._frames(series.shard)
        clip: NDArray[np.float32] = frames[series.offset + start : series.offset + stop]
        return clip

    def censored(self, number: int) -> NDArray[np.bool_]:
        """(n_frames,) of a series, True where a scrubbed frame was filled in."""
        series = self._series[number]
        shard = self._file(series.shard)
        if "censored" not in shard:
            return np.zeros(series.length, dtype=bool)
        marks: NDArray[np.bool_] = shard["censored"][series.offset : series.offset + series.length]
        return marks

    def unscale(self, timeseries: NDArray[np.float32], series: int | None = None) -> NDArray[np.float32]:
        """Back to the units of the scan: (..., n_rois) float32.

        Parameters
        ----------
        timeseries : frames (..., n_rois) of one series, as read
        series
            Number of that series. Needed where the scaling has a part of each scan (`per_scan`).

        Raises
        ------
        InputError
            `series` is not given though it is needed.
        """
        original = timeseries.astype(np.float64) * self.iqr + self.median
        if self.per_scan:
            if series is None:
                raise InputError(
                    f"these shards are scaled by {self.scaling}, which differs from scan to scan: unscale "
                    "must know the series.",
                    hint="Call reader.unscale(reader[i], i).",
                )
            at = self._series[series]
            table = self._file(at.shard)["scans"]
            original = original * table["scale"][at.row] + table["offset"][at.row]
        back: NDArray[np.float32] = original.astype(np.float32)
        return back

    def provenance(self, scan: int) -> dict[str, Any]:
        """Where scan number `scan` comes from and how it was made; {} in shards of earlier versions."""
        shard, row = self._scan_places[scan]
        table = self._file(shard)["scans"]
        if "source" not in table:
            return {}
        source, digest, how = (table[name].asstr()[row] for name in ("source", "source_sha256", "provenance"))
        return {"source": source, "source_sha256": digest, **json.loads(how)}

    def _file(self, number: int) -> Any:
        if os.getpid() != self._pid:  # HDF5 handles must not cross a fork
            self._open_files, self._open_frames, self._pid = {}, {}, os.getpid()
        if number not in self._open_files:
            self._open_files[number] = _open(self.paths[number])
        return self._open_files[number]

    def _frames(self, number: int) -> Any:
        """The open /timeseries of a shard. Kept: looking up its name takes three times as long as a clip."""
        shard = self._file(number)
        if number not in self._open_frames:
            self._open_frames[number] = shard["timeseries"]
        return self._open_frames[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": {}, "_open_frames": {}}


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
