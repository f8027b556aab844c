"""A whole cohort in running sums: mean connectivity, motion's trace in it, static offsets, odd scans.

One pass over the scans, memory independent of their number (about 10 MB at 450 regions). An edge that a scan
lacks (a missing region) counts for the others: every edge and every region has its own number of scans.

QC-FC (Power et al. 2012; Ciric et al. 2017, NeuroImage 154:174): across scans, each edge's Fisher z is
correlated with the scan's mean FD. Motion raises short edges more than long ones, so QC-FC that falls with
distance is motion that the cleaning left behind.
"""

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.report.qc import METRICS, Metric
from bjepa.preproc.report.reasons import Reasons

LEAST_SCANS = 10  # fewer have neither a distribution to be odd in nor a QC-FC
ROBUST_Z = 3.5  # Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers
_LARGEST_R = 1 - 1e-7  # r of 1 (a region given twice) would be infinite as Fisher z

TYPICALITY = Metric(
    name="typicality",
    title="Typicality of FC",
    unit="r",
    bad="low",
    least=0.05,
    digits=2,
    what="correlation of the scan's FC with the mean FC of all scans",
)
ALL_METRICS = (*METRICS, TYPICALITY)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QcFc:
    """Across scans, the correlation of each edge with mean FD.

    correlation, distance : (n_edges,) edges that have both; distance between region centres in mm
    n_scans : scans with FD
    median_abs : median over edges of |r|; by chance `chance`
    distance_slope : Spearman correlation of QC-FC with distance, 0 where nothing of motion is left
    """

    correlation: Array
    distance: Array
    n_scans: int
    median_abs: float
    distance_slope: float | None

    @property
    def chance(self) -> float:
        """Median |r| of unrelated numbers: r has a standard deviation of 1 / sqrt(n - 1)."""
        return float(0.6745 / np.sqrt(self.n_scans - 1))


class CohortSummary:
    """Running sums over scans; the order in which scans are added does not matter.

    Parameters
    ----------
    atlas_table : one row per region; columns x, y, z in mm give the distances (without them: no distances)
    """

    def __init__(self, atlas_table: pd.DataFrame) -> None:
        self.n_scans = 0
        self._table = atlas_table
        self.n_rois = len(atlas_table)
        rows, columns = np.triu_indices(self.n_rois, 1)
        self._rows, self._columns = rows, columns
        self._flat = rows * self.n_rois + columns
        self._edges = _Moments(len(rows))  # of Fisher z, all scans
        self._with_fd = _Moments(len(rows))  # the same, scans with FD
        self._fd_sum, self._fd_square, self._z_fd = (np.zeros(len(rows)) for _ in range(3))
        self._n_with_fd = 0
        self._fd_origin: float | None = None
        self._means = _Moments(self.n_rois)  # of the scans' regional means
        self._within = np.zeros(self.n_rois)  # sum of the variances within scans

    def add(
        self,
        series: NDArray[np.float32],
        facts: Mapping[str, Any],
        *,
        censored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in one scan.

        series : (n_frames, n_rois), unscaled, NaN in the columns of missing regions
        facts : of the scan's file; `fd_mean` in mm or None
        censored : (n_frames,) frames that were filled in and do not count
        """
        kept = series if censored is None or not censored.any() else series[~censored]
        if len(kept) < 3:
            return
        self.n_scans += 1
        z, mean, variance = _edges_of(kept, self._flat)
        self._means.add(mean)
        self._within += np.nan_to_num(variance)
        self._edges.add(z)
        fd_mean = facts.get("fd_mean")
        if fd_mean is not None and np.isfinite(fd_mean):
            self._add_motion(z, float(fd_mean))

    def _add_motion(self, z: Array, fd_mean: float) -> None:
        if self._fd_origin is None:  # sums about the first value: nothing is lost to cancellation
            self._fd_origin = fd_mean
        shifted = fd_mean - self._fd_origin
        there = np.isfinite(z)
        self._n_with_fd += 1
        self._with_fd.add(z)
        self._fd_sum += shifted * there
        self._fd_square += shifted**2 * there
        self._z_fd += np.where(there, z - self._with_fd.origin, 0.0) * shifted

    def mean_fc(self) -> Array:
        """(n_rois, n_rois) mean correlation (tanh of the mean Fisher z), diagonal 1, NaN where never seen."""
        return self._matrix(np.tanh(self._edges.mean()))

    def n_per_edge(self) -> NDArray[np.int64]:
        """(n_rois, n_rois) how many scans each edge was seen in; on the diagonal, each region."""
        counts = self._matrix(self._edges.n)
        np.fill_diagonal(counts, self._means.n)
        return counts.astype(np.int64)

    def between_to_within(self) -> Array:
        """(n_rois,) variance of the scans' means over the mean variance within scans; NaN below two scans."""
        between = self._means.variance()
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = between / (self._within / self._means.n)
        return np.where((self._means.n >= 2) & np.isfinite(ratio), ratio, np.nan)

    def qc_fc(self) -> QcFc | None:
        """Trace of motion in connectivity; None where fewer than LEAST_SCANS scans have FD, or all one."""
        n = self._with_fd.n
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = self._z_fd - self._with_fd.sum * self._fd_sum / n
            fd_spread = self._fd_square - self._fd_sum**2 / n
            r = covariance / np.sqrt(fd_spread * self._with_fd.variance() * n)
        distance = self._distances()
        seen = np.isfinite(r) & (n >= LEAST_SCANS)  # an edge of few scans has a wild r
        if not seen.any():
            return None
        both = seen & np.isfinite(distance)
        slope = None
        if both.sum() > 2:
            from scipy.stats import spearmanr

            slope = float(spearmanr(r[both], distance[both]).statistic)
        return QcFc(
            correlation=r[seen],
            distance=distance[seen],
            n_scans=self._n_with_fd,
            median_abs=float(np.median(np.abs(r[seen]))),
            distance_slope=slope if slope is not None and np.isfinite(slope) else None,
        )

    def typicality(
        self, series: NDArray[np.float32], *, censored: NDArray[np.bool_] | None = None
    ) -> float | None:
        """Correlation over edges of one scan's Fisher z with the mean of all: a second pass, after `add`.

        Low: noise, a wrong atlas order or space, another task. None where it cannot be computed.
        """
        kept = series if censored is None or not censored.any() else series[~censored]
        if len(kept) < 3 or self.n_scans < 2:
            return None
        z, _, _ = _edges_of(kept, self._flat)
        mean = self._edges.mean()
        both = np.isfinite(z) & np.isfinite(mean)
        if both.sum() < 3:
            return None
        a, b = (z[both], mean[both]) if not both.all() else (z, mean)
        a, b = a - a.mean(), b - b.mean()
        norm = np.sqrt((a @ a) * (b @ b))
        return float(a @ b / norm) if norm > 0 else None

    def _distances(self) -> Array:
        """(n_edges,) mm between the centres of two regions; NaN where unknown."""
        if not {"x", "y", "z"} <= set(self._table.columns):
            return np.full(len(self._rows), np.nan)
        centres = self._table[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        return np.asarray(np.linalg.norm(centres[self._rows] - centres[self._columns], axis=1))

    def _matrix(self, edges: NDArray[Any]) -> Array:
        whole = np.eye(self.n_rois)
        whole[self._rows, self._columns] = edges
        whole[self._columns, self._rows] = edges
        return whole


class _Moments:
    """Count, sum and sum of squares of every element, about the first value that was seen of it."""

    def __init__(self, size: int) -> None:
        self.n, self.sum, self._square = (np.zeros(size) for _ in range(3))
        self.origin = np.full(size, np.nan)
        self._complete = False

    def add(self, values: Array) -> None:
        """NaN is left out."""
        if not self._complete:
            unseen = np.isnan(self.origin)
            self.origin[unseen] = values[unseen]
            self._complete = not np.isnan(self.origin).any()
        shifted = values - self.origin
        there = np.isfinite(shifted)
        if not there.all():
            shifted = np.where(there, shifted, 0.0)
        self.n += there
        self.sum += shifted
        self._square += shifted**2

    def mean(self) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: Array = self.origin + self.sum / self.n
        return mean

    def variance(self) -> Array:
        """Of the population (division by n)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance: Array = np.maximum(self._square / self.n - (self.sum / self.n) ** 2, 0.0)
        return variance


def _edges_of(series: NDArray[np.float32], flat: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Fisher z (n_edges,), mean and variance (n_rois,) of one scan; NaN where a region is missing."""
    values = series.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    norm = np.sqrt(np.einsum("ij,ij->j", values, values))
    with np.errstate(invalid="ignore", divide="ignore"):
        values /= np.where(norm > 0, norm, np.nan)
    fc = values.T @ values  # (n_rois, n_rois); a NaN stays in the rows and columns of its region
    r = fc.ravel()[flat]
    np.clip(r, -_LARGEST_R, _LARGEST_R, out=r)
    return np.arctanh(r, out=r), mean, norm**2 / len(series)


class CohortWatch:
    """What the group stage shows its scans to: the sums, and every scan's numbers, a hundred bytes each.

    Give `observe` to the first pass over the scans and `observe_again` to the second.
    """

    def __init__(self, atlas_table: pd.DataFrame) -> None:
        self.summary = CohortSummary(atlas_table)
        self.warnings = Reasons()  # what was warned of while the scans were done
        self.raw: dict[str, str] = {}  # scan_id of raw runs -> how they were registered, as JSON
        self._names = [metric.name for metric in ALL_METRICS]
        self._ids: list[str] = []
        self._numbers = array("d")  # one row of t_r and ALL_METRICS a scan

    def observe(
        self,
        series: NDArray[np.float32],
        facts: Mapping[str, Any],
        *,
        censored: NDArray[np.bool_] | None = None,
    ) -> None:
        """First pass: the scan enters the sums."""
        self.summary.add(series, facts, censored=censored)

    def observe_again(
        self,
        series: NDArray[np.float32],
        facts: Mapping[str, Any],
        *,
        censored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Second pass, once the sums are complete: the scan is compared with all."""
        typical = self.summary.typicality(series, censored=censored)
        known = dict(facts.get("qc") or {}) | {"typicality": typical}
        self.warnings.add(str(facts["scan_id"]), facts.get("warnings") or [])
        if "raw" in facts:
            self.raw[str(facts["scan_id"])] = json.dumps(facts["raw"])
        self._ids.append(str(facts["scan_id"]))
        row = [facts.get("t_r"), *(known.get(name) for name in self._names)]
        self._numbers.extend(np.nan if value is None else float(value) for value in row)

    def qc_table(self) -> pd.DataFrame:
        """One row per scan, in the order of the second pass: scan_id, t_r, ALL_METRICS; NaN where unknown."""
        columns = ["t_r", *self._names]
        numbers = np.array(self._numbers).reshape(len(self._ids), len(columns))
        table = pd.DataFrame(numbers, columns=columns)
        table.insert(0, "scan_id", self._ids)
        return table


# --- scans that stand out -----------------------------------------------------------------------------------


class Outlier(NamedTuple):
    """One number of one scan, far on the bad side of the cohort; `limit` is the nearest value allowed."""

    scan_id: str
    metric: str
    value: float
    median: float
    limit: float


def find_outliers(table: pd.DataFrame) -> list[Outlier]:
    """Numbers whose robust z exceeds 3.5 on the side that is bad for them (Iglewicz & Hoaglin 1993).

    z = 0.6745 (x - median) / MAD; where more than half of the scans share a value, MAD is 0 and the mean
    absolute deviation takes its place: z = (x - median) / (1.2533 mean absolute deviation). A difference
    below the metric's `least` is none. Numbers depend on the repetition time (tSNR, lag 1, spikes), so scans
    are compared with those of the same t_r, rounded to 0.01 s, where the table has a column `t_r`; a group of
    fewer than LEAST_SCANS is not judged.

    Parameters
    ----------
    table : one row per scan; `scan_id` (column or index), any of ALL_METRICS, None or NaN where unknown

    Returns
    -------
    By scan in the table's order, then by metric.
    """
    ids = list(map(str, table["scan_id"] if "scan_id" in table else table.index))
    groups = np.zeros(len(table))
    if "t_r" in table:
        groups = pd.to_numeric(table["t_r"], errors="coerce").round(2).fillna(-1).to_numpy()
    found: list[tuple[int, Outlier]] = []
    for metric in ALL_METRICS:
        if metric.name not in table:
            continue
        values = pd.to_numeric(table[metric.name], errors="coerce").to_numpy(np.float64)
        for group in np.unique(groups):
            members = np.flatnonzero((groups == group) & np.isfinite(values))
            if len(members) < LEAST_SCANS:
                continue
            median, reach = _centre_and_reach(values[members], metric.least)
            for i in members:
                excess = values[i] - median
                if abs(excess) > reach and metric.bad in ("both", "high" if excess > 0 else "low"):
                    limit = median + np.sign(excess) * reach
                    found.append(
                        (int(i), Outlier(ids[i], metric.name, float(values[i]), median, float(limit)))
                    )
    return [outlier for _, outlier in sorted(found, key=lambda pair: pair[0])]


def _centre_and_reach(values: Array, least: float) -> tuple[float, float]:
    """Median, and how far from it a value may lie."""
    median = float(np.median(values))
    deviation = np.abs(values - median)
    mad, mean_deviation = float(np.median(deviation)), float(deviation.mean())
    spread = mad / 0.6745 if mad > 0 else 1.2533 * mean_deviation
    return median, max(ROBUST_Z * spread, least * (1 - 1e-9))
