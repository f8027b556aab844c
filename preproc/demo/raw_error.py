"""How far an analysis of a simulated raw run is from what the simulator knows.

An analysis chooses its own reference position of the head. Where it lies is found first, from the motion
matrices, and everything else is compared there.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.demo.atlas import N_ROIS, build_demo_atlas
from bjepa.preproc.demo.raw_cohort import RunTruth

F = NDArray[np.float64]
_SPHERE = 50 * np.vstack([np.eye(3), -np.eye(3)])  # mm, about the head's centre


def demo_labels() -> nib.Nifti1Image:
    """The demo atlas as a label image."""
    atlas = build_demo_atlas()
    return nib.Nifti1Image(atlas.labels, atlas.affine)


def head_centre(run: RunTruth) -> F:
    """The middle of the run's grid, which the brain is near: (3,) mm."""
    return np.asarray(apply_affine(run.affine, (np.array(run.shape) - 1) / 2))


@dataclass(frozen=True)
class MotionError:
    """Over frames: mm that points on a sphere of 50 mm are off (root mean square of a frame), and degrees."""

    rms_mm: float
    median_mm: float
    largest_mm: float
    rms_degrees: float
    reference: F  # (4, 4) a point of the analysis' reference to the truth's


def motion_error(run: RunTruth, matrices: F) -> MotionError:
    """Compare (T, 4, 4) with the truth, after the one rigid matrix that lies between their references."""
    between = np.linalg.inv(run.matrices) @ matrices  # (T, 4, 4), each an estimate of the same matrix
    reference = mean_rigid(between)
    rest = np.linalg.inv(reference) @ between
    points = head_centre(run) + _SPHERE
    moved = np.stack([apply_affine(matrix, points) - points for matrix in rest])  # (T, 6, 3)
    mm = np.sqrt((moved**2).sum(axis=2).mean(axis=1))  # (T,)
    trace = np.trace(rest[:, :3, :3], axis1=1, axis2=2)
    degrees = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    return MotionError(
        rms_mm=float(np.sqrt((mm**2).mean())),
        median_mm=float(np.median(mm)),
        largest_mm=float(mm.max()),
        rms_degrees=float(np.sqrt((degrees**2).mean())),
        reference=reference,
    )


def mean_rigid(matrices: F) -> F:
    """The rigid matrix nearest to the mean of some that are near each other."""
    mean = matrices.mean(axis=0)
    u, _, v = np.linalg.svd(mean[:3, :3])
    mean[:3, :3] = u @ v
    return np.asarray(mean)


def rigid_error_mm(run: RunTruth, to_t1w: F, reference: F) -> float:
    """Largest distance within the head (sphere of 70 mm) of a boldref -> T1w matrix from the truth, mm."""
    points = head_centre(run) + 1.4 * _SPHERE
    between = apply_affine(to_t1w, points) - apply_affine(run.to_t1w @ reference, points)
    return float(np.linalg.norm(between, axis=1).max())


def centroids(labels: NDArray[np.int16], affine: F) -> F:
    """Mean place of each region's voxels, (450, 3) mm; NaN where it has none."""
    voxels = np.argwhere(labels > 0)
    region = labels[labels > 0]
    count = np.bincount(region, minlength=N_ROIS + 1)[1:]
    sums = np.stack([np.bincount(region, voxels[:, k], N_ROIS + 1)[1:] for k in range(3)], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / count[:, None]
    return np.asarray(apply_affine(affine, means))


def edges_r(a: F, b: F) -> float:
    """Correlation of two FC matrices (450, 450) over the regions that both have."""
    known = np.isfinite(np.diag(a)) & np.isfinite(np.diag(b))
    upper = np.triu_indices(int(known.sum()), 1)
    return float(np.corrcoef(a[np.ix_(known, known)][upper], b[np.ix_(known, known)][upper])[0, 1])
