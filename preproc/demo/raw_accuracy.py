"""What bjepa-preprocess made of a simulated raw run, against the simulator's truth."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.demo.atlas import N_ROIS
from bjepa.preproc.demo.raw_cohort import RawTruth, RunTruth
from bjepa.preproc.demo.raw_error import centroids, edges_r, motion_error, rigid_error_mm
from bjepa.preproc.raw.coregister import load_rigid
from bjepa.preproc.raw.sample import always_inside, stream_resampled
from bjepa.preproc.raw.stages import WORK
from bjepa.preproc.stream import open_bold

F = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RunAccuracy:
    """mm: where points are, against where they should be; fc_r: correlation of edges with the planted FC.

    lost : regions that the truth has in the run's grid and the result has not
    fc_r_true_labels : the same from the true labels, with the result's motion: what registration costs
    """

    motion_rms_mm: float
    motion_rms_degrees: float
    rigid_mm: float
    centroid_median_mm: float
    centroid_p95_mm: float
    lost: tuple[int, ...]
    fc_r: float
    fc_r_true_labels: float


def run_accuracy(output: Path, truth: RawTruth, run: RunTruth) -> RunAccuracy:
    """Read OUTPUT of the command for one run (`--confounds none`, `--drop-initial` 0) and compare.

    Series are detrended linearly and without the volumes that are not steady before they are correlated.
    """
    name = run.path.name.removesuffix("_bold.nii.gz")
    parts = run.path.parent.parts
    func = output.joinpath(*parts[parts.index(truth.participant_id) :])
    with h5py.File(output / WORK / f"{name}_motion.h5", "r") as file:
        matrices = file["matrices"][:]
    motion = motion_error(run, matrices)
    to_t1w = load_rigid(func / f"{name}_from-boldref_to-T1w_mode-image_xfm.txt")
    labels = np.asarray(nib.load(next(func.glob(f"{name}_seg-*_dseg.nii.gz"))).dataobj).astype(np.int16)
    with h5py.File(next(func.glob(f"{name}_seg-*_timeseries.h5")), "r") as file:
        series = file["timeseries"][:].astype(np.float64)

    true = truth.labels(run, motion.reference)
    off = np.linalg.norm(centroids(labels, run.affine) - centroids(true, run.affine), axis=1)
    means = regional_means(run.path, matrices, true)
    return RunAccuracy(
        motion_rms_mm=motion.rms_mm,
        motion_rms_degrees=motion.rms_degrees,
        rigid_mm=rigid_error_mm(run, to_t1w, motion.reference),
        centroid_median_mm=float(np.nanmedian(off)),
        centroid_p95_mm=float(np.nanpercentile(off, 95)),
        lost=tuple(int(label) for label in np.setdiff1d(np.unique(true), np.unique(labels))),
        fc_r=edges_r(_fc(series[run.n_non_steady :]), run.fc),
        fc_r_true_labels=edges_r(_fc(means[run.n_non_steady :]), run.fc),
    )


def regional_means(path: Path, matrices: F, labels: NDArray[np.int16]) -> F:
    """Means (T, 450) of a run over `labels` (x, y, z) of its reference; NaN where a region has no voxel.

    Voxels that leave the grid in any frame are left out: one that comes and goes would follow the motion.
    """
    bold, flat = open_bold(path), labels.ravel(order="F")
    voxels = np.flatnonzero(flat)
    voxels = voxels[always_inside(bold.shape[:3], bold.affine, matrices, voxels)]
    region = flat[voxels]
    count = np.bincount(region, minlength=N_ROIS + 1)[1:]
    sums = [
        np.bincount(region, values, N_ROIS + 1)[1:] for values in stream_resampled(bold, matrices, voxels)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.stack(sums) / count)


def _fc(series: F) -> F:
    """Correlation (450, 450) of linearly detrended series; NaN for regions without data."""
    known = np.isfinite(series).all(axis=0)
    trend = np.vander(np.linspace(-1, 1, len(series)), 2)
    clean = series[:, known] - trend @ np.linalg.lstsq(trend, series[:, known], rcond=None)[0]
    fc = np.full((series.shape[1],) * 2, np.nan)
    fc[np.ix_(known, known)] = np.corrcoef(clean.T)
    return fc
