"""Scaling of regional series: five methods, fitted in a stream, stored beside the data, invertible.

    robust          median and IQR of all frames of the participants that fit it (default, as the paper)
    robust-dynamic  each scan's mean of each region is removed first, then as robust
    robust-means    median and IQR of the participants' means (each over all its frames), as the released code
    zscore-scan     mean and standard deviation of each scan; nothing is fitted across scans
    none            raw units

What is stored is `((x - offset) / scale - median) / iqr`: `median` and `iqr` per region for everybody,
`offset` and `scale` per region and scan, only where the method has them. Nobody outside the named
participants enters `median` and `iqr`, so nothing leaks. Quantiles are exact (`quantiles.py`), whatever the
number of scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.quantiles import QuantileFinder

ScalingMethod = Literal["robust", "robust-dynamic", "robust-means", "zscore-scan", "none"]
SCALING_METHODS: tuple[str, ...] = get_args(ScalingMethod)
PER_SCAN = ("robust-dynamic", "zscore-scan")  # methods with an offset and a scale for each scan
FITS_NOTHING = ("zscore-scan", "none")  # methods that learn nothing from the participants

# An IQR below this share of the values it was taken from is float32 rounding, not signal.
VANISHING = 1e-6
# Means that differ between participants by less than this share of the SD within them are what is left of a
# mean that was removed (written with six digits, say), not a level of the scanner or of the brain: raw series
# differ by many SD, and the mean of 1,000 independent frames by 0.03 SD.
VANISHING_MEANS = 1e-4


@dataclass(frozen=True)
class ScanPart:
    """offset, scale : (n_rois,) float64, of one scan; 0 and 1 where the region is missing."""

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """median, iqr : (n_rois,) float64; in the units of the scans, of SDs for zscore-scan (there 0 and 1).

    unseen : numbers of the regions that no scan had that fitted it (their median is 0, their IQR 1)
    """

    method: ScalingMethod
    median: NDArray[np.float64]
    iqr: NDArray[np.float64]
    unseen: tuple[int, ...] = ()

    def apply(self, timeseries: NDArray[np.float32], part: ScanPart | None = None) -> NDArray[np.float32]:
        """(n_frames, n_rois) float32, scaled; `part` as `scan_part` gives it."""
        if (part is not None) != (self.method in PER_SCAN):
            raise ValueError(f"{self.method} {'has no' if part else 'needs the'} part of each scan.")
        values = timeseries if part is None else (timeseries - part.offset) / part.scale
        scaled: NDArray[np.float32] = ((values - self.median) / self.iqr).astype(np.float32)
        return scaled


def scan_part(
    method: ScalingMethod, frames: NDArray[np.float32], names: Sequence[str], scan_id: str
) -> ScanPart | None:
    """What `method` subtracts and divides in this scan alone; None where it does not.

    `frames` : all frames of the scan that are stored (n_frames, n_rois), NaN in missing regions.

    Raises
    ------
    InputError
        zscore-scan, and a region that does not vary within the scan.
    """
    if method not in PER_SCAN:
        return None
    mean = frames.mean(axis=0, dtype=np.float64)
    offset = np.nan_to_num(mean)
    if method == "robust-dynamic":
        return ScanPart(offset, np.ones_like(offset))
    sd = frames.std(axis=0, dtype=np.float64)
    flat = np.flatnonzero(sd <= VANISHING * np.abs(offset))
    if len(flat):
        raise InputError(
            f"{scan_id}: {_named(flat, names)} do not vary within the scan (SD 0).",
            hint="Check the scan and its mask, or use --scaling robust.",
        )
    return ScanPart(offset, np.nan_to_num(sd, nan=1.0))


class ScalingFit:
    """Learns the scaling from scans that are added one at a time, in as many passes as it wants.

    Memory does not grow with scans or frames (`QuantileFinder`), but for robust-means, which keeps the mean
    of each participant: 5.4 kB a participant at 450 regions, 216 MB for 40,000.

    Use::

        fit = ScalingFit("robust", names)
        while fit.wants_pass:
            for scan in scans:
                fit.add(scan.frames, scan.participant_id)
            fit.end_pass()
        scaling = fit.result()
    """

    def __init__(self, method: ScalingMethod, names: Sequence[str]) -> None:
        self.method, self.names = method, names
        self._finder = QuantileFinder(len(names)) if method in ("robust", "robust-dynamic") else None
        self._means: dict[str, _Mean] | None = {} if method == "robust-means" else None
        self._size = _Mean(len(names))  # of what an IQR is held against, over scans

    @property
    def wants_pass(self) -> bool:
        """Whether all scans must be added once more."""
        return self._means is not None or (self._finder is not None and self._finder.wants_pass)

    def add(self, frames: NDArray[np.float32], participant_id: str) -> None:
        """One scan's stored frames (n_frames, n_rois), NaN in missing regions."""
        if self._finder is not None:
            part = scan_part(self.method, frames, self.names, participant_id)
            if part is not None:
                self._size.add(np.abs(frames.mean(axis=0, dtype=np.float64))[None])
                frames = (frames - part.offset).astype(np.float32)
            self._finder.add(frames)
        elif self._means is not None:
            self._size.add(frames.std(axis=0, dtype=np.float64)[None])
            self._means.setdefault(participant_id, _Mean(len(self.names))).add(frames)

    def end_pass(self) -> None:
        """All scans have been added."""
        if self._finder is not None:
            self._finder.end_pass()
        elif self._means is not None:
            means = [mean.value() for mean in self._means.values()]
            self._quartiles = _percentiles(np.array(means).reshape(len(means), len(self.names)))
            self._n_participants, self._means = len(means), None

    def result(self) -> Scaling:
        """The scaling; median 0 and IQR 1 in a region that no scan has that was added (`unseen`).

        Raises
        ------
        InputError
            An IQR that is zero or mere rounding: the regions are named.
        """
        n_rois = len(self.names)
        if self.method in FITS_NOTHING:
            return Scaling(self.method, np.zeros(n_rois), np.ones(n_rois))
        low, median, high = self._finder.quantiles() if self._finder is not None else self._quartiles
        iqr = high - low
        if self.method == "robust-means":
            self._refuse_means(iqr)
        else:
            size = np.abs(median) if self.method == "robust" else self._size.value()
            self._refuse_flat(np.flatnonzero(iqr <= VANISHING * size))
        unseen = tuple(np.flatnonzero(np.isnan(median)).tolist())
        return Scaling(self.method, np.nan_to_num(median), np.nan_to_num(iqr, nan=1.0), unseen)

    def _refuse_flat(self, flat: NDArray[np.intp]) -> None:
        if len(flat):
            raise InputError(
                f"{_named(flat, self.names)} do not vary over the frames that fit the scaling (IQR 0).",
                hint="Check the scans and their mask, or use --scaling none.",
            )

    def _refuse_means(self, iqr: NDArray[np.float64]) -> None:
        """Means that are alike cannot scale anything."""
        flat = np.flatnonzero(iqr <= VANISHING_MEANS * self._size.value())
        if not len(flat):
            return
        if self._n_participants == 1:
            why = "only one participant fits the scaling, and robust-means compares participants"
        else:
            why = "the series were demeaned before, and robust-means scales by the means"
        raise InputError(
            f"the means of {_named(flat, self.names)} do not differ between the {self._n_participants} "
            f"participants that fit the scaling (IQR 0): {why}.",
            hint="Use --scaling robust, or series that kept their means.",
        )


class _Mean:
    """A running mean of rows, per region, without the NaN."""

    __slots__ = ("_n", "_sum")

    def __init__(self, n_rois: int) -> None:
        self._sum, self._n = np.zeros(n_rois), np.zeros(n_rois, dtype=np.uint32)

    def add(self, rows: NDArray[np.floating]) -> None:
        known = ~np.isnan(rows)
        self._sum += np.where(known, rows, 0).sum(axis=0, dtype=np.float64)
        self._n += known.sum(axis=0, dtype=np.uint32)

    def value(self) -> NDArray[np.float64]:
        """(n_rois,), NaN where nothing was added."""
        mean: NDArray[np.float64] = np.divide(
            self._sum, self._n, out=np.full(len(self._n), np.nan), where=self._n > 0
        )
        return mean


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, n_columns) quartiles of each column (n, n_columns) without its NaN; NaN where nothing is left."""
    quartiles = np.full((3, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        known = values[~np.isnan(values[:, column]), column]
        if len(known):
            quartiles[:, column] = np.percentile(known, [25, 50, 75])
    return quartiles


def _named(regions: NDArray[np.intp], names: Sequence[str]) -> str:
    told = ", ".join(names[i] for i in regions[:10])
    return f"{len(regions)} regions ({told}{', …' if len(regions) > 10 else ''})"
