"""The series of some participants, read when they are needed, in the units of the scans.

They are *unscaled*: the scaling of the shards was fitted on whoever bjepa-preprocess was given, test
participants too. A method scales them with what it fits on its own training participants (`region_scaling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.scan_data import ScanData
from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import PER_SCAN
from bjepa.preproc.shards import ShardReader


@dataclass(frozen=True)
class Recordings:
    """Series (phases of scans) of participants. `recordings[rows]` is some of the participants."""

    reader: ShardReader
    series: tuple[NDArray[np.int64], ...]  # per participant: numbers of its series in the reader

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, rows: NDArray[np.int64]) -> Recordings:
        return Recordings(self.reader, tuple(self.series[int(row)] for row in rows))

    @property
    def n_rois(self) -> int:
        """Regions of a series."""
        return int(self.reader.n_rois)

    @property
    def participant(self) -> NDArray[np.int64]:
        """(n_series,) for each series, in the order of the participants, whose it is: 0 .. len(self) - 1."""
        return np.repeat(np.arange(len(self)), [len(s) for s in self.series])

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(n_series,) the numbers in the reader, in the order of the participants."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self.series])

    def read(self, number: int) -> NDArray[np.float32]:
        """Series `number` of the reader, (T, R) in the units of the scan; NaN in missing regions.

        Of shards scaled per scan whose offsets were not kept, the series as stored: a scan's own scale
        tells nothing of others.
        """
        reader = self.reader
        series = reader[number]
        if reader.scaling not in PER_SCAN or reader.per_scan:
            series = reader.unscale(series, number)
        present = reader.valid[reader.series_scan[number]]
        if present.all():
            return series
        series = series.copy()
        series[:, ~present] = np.nan
        return series

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """All series, in the order of the participants."""
        return (self.read(int(number)) for number in self.numbers)


def recordings_of(data: ScanData, participants: Sequence[str]) -> Recordings:
    """The series of the participants, in their order. Raises InputError where there are connectomes only."""
    if data.reader is None:
        raise InputError(
            f"This method needs series; {data.source} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess, or leave the method out of --methods.",
        )
    rows: dict[str, list[int]] = {participant: [] for participant in participants}
    for number, scan in enumerate(data.reader.series_scan):
        if (owner := data.participant_id[int(scan)]) in rows:
            rows[owner].append(number)
    return Recordings(data.reader, tuple(np.array(rows[p], dtype=np.int64) for p in participants))


def region_scaling(recordings: Recordings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(median, iqr) of each region, (R,) float32, over all frames of these participants; iqr 1 where it is 0.

    Robust scaling as in bjepa-preprocess, fitted on those who are given: in a Fold, on those who train.
    Regions are read in blocks, so that memory stays bounded.
    """
    numbers, n_rois = recordings.numbers, recordings.n_rois
    n_frames = int(recordings.reader.series_length[numbers].sum())
    block = max(1, int(2**27 // max(n_frames, 1)))  # regions at a time: 0.5 GB
    median, iqr = np.empty(n_rois, dtype=np.float32), np.empty(n_rois, dtype=np.float32)
    for start in range(0, n_rois, block):
        part = slice(start, start + block)
        frames = np.concatenate([series[:, part] for series in recordings])  # (sum T, block)
        low, mid, high = np.nanpercentile(frames, [25, 50, 75], axis=0)
        median[part], iqr[part] = np.nan_to_num(mid), np.nan_to_num(high - low)
    iqr[iqr <= 0] = 1
    return median, iqr


def scaled(
    series: NDArray[np.float32], scaling: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """One series (T, R) with the scaling of `region_scaling`; missing regions are 0."""
    median, iqr = scaling
    filled: NDArray[np.float32] = np.nan_to_num((series - median) / iqr, nan=0.0).astype(np.float32)
    return filled
