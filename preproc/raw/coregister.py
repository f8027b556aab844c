"""BOLD to T1w of the same head: one rigid map, by mutual information, from five starts.

Order of operations:
  1. the T1w's brain (or head, where its mask is not known) on a grid of 1.5 mm
  2. five starts: the scanner's coordinates as they are; centres of mass together; that with the head pitched
     15 degrees up and down; tops of the two heads together (a slab's centre of mass is not the brain's)
  3. the EPI's bias (receiver coil) removed by N4: on a real whole head 0.8 mm from a reference, not 4
  4. a coarse search from each; the one of the largest mutual information goes on at full resolution
A single start has ended 43 mm off on a real pair; an affine map or a correlation as the measure fit worse
than rigid and mutual information. Not modelled: the distortion of echo-planar images.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.ants import Ants, RegistrationError, Schedule, ants_session, read_matrix, write_matrix
from bjepa.preproc.raw.options import SEED, RawOptions
from bjepa.preproc.raw.work_grid import grid_around, points_in_mask, resample, sample, widened

_WORK_MM = 1.5
_PITCH = np.deg2rad(15.0)
_COARSE = Schedule(iterations=(100,), shrink=(2,), sigmas=(2,), sampling=0.5)
_FULL = Schedule(iterations=(100, 100), shrink=(2, 1), sigmas=(1, 0), sampling=1.0)
_SLOPPY = Schedule(iterations=(30,), shrink=(2,), sigmas=(1,), sampling=0.5)
_BORDER_MM = 3.0  # around the brain, in the search; with it the last step is 0.4 mm worse
_BINS = 32
_LEAST_GAIN = 0.05  # outside the mask the gain is extrapolated
_AWAY_MM = 10.0


@dataclass(frozen=True, eq=False)
class Coregistration:
    """matrix : (4, 4) point of the boldref to point of the T1w, RAS mm, rigid

    metrics : `mi_ratio`, mutual information at the solution over its mean 10 mm to either side along three
        axes (good pairs 2 and more, wrong ones about 1); `mi`, in nats; `shift_mm`, how far the solution
        moves the centre of the brain; `angle_deg`, its rotation
    """

    matrix: NDArray[np.float64]
    metrics: dict[str, float]


def coregister(
    boldref: nib.Nifti1Image,
    bold_mask: nib.Nifti1Image,
    t1w: nib.Nifti1Image,
    t1_mask: nib.Nifti1Image | None,
    *,
    options: RawOptions,
) -> Coregistration:
    """The rigid map of a run's reference image to its T1w.

    Parameters
    ----------
    boldref, bold_mask : 3D, one grid; mask above 0 in the brain
    t1w, t1_mask : 3D, one grid; without a mask the whole head is matched
    options : `omp_threads` and `sloppy` (coarse grid, few iterations)

    Raises
    ------
    InputError
        An empty mask, or a registration that failed.
    """
    with ants_session(options.omp_threads, SEED) as ants:
        return coregister_with(ants, boldref, bold_mask, t1w, t1_mask, sloppy=options.sloppy)


def coregister_with(
    ants: Ants,
    boldref: nib.Nifti1Image,
    bold_mask: nib.Nifti1Image,
    t1w: nib.Nifti1Image,
    t1_mask: nib.Nifti1Image | None,
    *,
    sloppy: bool,
) -> Coregistration:
    """`coregister` within a session that is open already."""
    brain = points_in_mask(bold_mask)  # (n, 3)
    if len(brain) == 0:
        raise InputError("the brain mask of the BOLD run is empty.", hint="Look at its mean image.")
    t1w = masked(t1w, t1_mask)
    target = points_in_mask(t1_mask) if t1_mask is not None else _head_points(t1w)
    work = resample(t1w, grid_around(target, _WORK_MM * (2 if sloppy else 1), 10.0))
    wide = widened(bold_mask, _BORDER_MM)
    boldref = _even(ants, boldref, bold_mask)
    points = points_in_mask(wide)
    values = np.asarray(boldref.dataobj, dtype=np.float64)[np.asarray(wide.dataobj) > 0]

    def mi_at(matrix: NDArray[np.float64]) -> float:
        return mutual_information(values, sample(work, apply_affine(matrix, points)))

    first = _SLOPPY if sloppy else _COARSE
    try:
        tried = [
            ants.align(boldref, work, "Rigid", first, start=s, mask=wide) for s in _starts(brain, target)
        ]
        matrix = max(tried, key=mi_at)
        if not sloppy:
            matrix = ants.align(boldref, work, "Rigid", _FULL, start=matrix, mask=bold_mask)
    except RegistrationError as error:
        raise InputError(
            f"the BOLD run could not be registered to its T1w image ({error}).",
            hint="Check that both are of the same person and show a brain.",
        ) from error
    matrix = nearest_rigid(matrix)
    centre = brain.mean(axis=0)
    cosine = np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)
    metrics = {
        "mi_ratio": mi_ratio(values, points, work, matrix),
        "mi": mi_at(matrix),
        "shift_mm": float(np.linalg.norm(apply_affine(matrix, centre) - centre)),
        "angle_deg": float(np.rad2deg(np.arccos(cosine))),
    }
    return Coregistration(matrix, metrics)


def mi_ratio(
    values: NDArray[np.float64],
    points: NDArray[np.float64],
    image: nib.Nifti1Image,
    matrix: NDArray[np.float64],
) -> float:
    """Mutual information at the solution over its mean 10 mm to either side along three axes.

    values (n,) at points (n, 3) mm, with `image` where `matrix` (4, 4) takes the points: 2 and more where the
    two are alike, about 1 elsewhere.
    """
    steps = _AWAY_MM * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
    places = [apply_affine(shifted(step) @ matrix, points) for step in steps]
    found = [mutual_information(values, sample(image, there)) for there in places]
    around = float(np.mean(found[1:]))
    return found[0] / around if around > 0 else 0.0


def mutual_information(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mutual information of two samples (n,), nats, from a joint histogram of 32 x 32 bins."""
    counts, _, _ = np.histogram2d(_clipped(a), _clipped(b), bins=_BINS)
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / independent[some])).sum())


def _clipped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the tails: a few bright vessels would leave the brain in two or three bins."""
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip(values, low, high)


def masked(image: nib.Nifti1Image, mask: nib.Nifti1Image | None) -> nib.Nifti1Image:
    """`image` float32, 0 outside `mask` of the same grid; as it is without a mask."""
    data = np.asarray(image.dataobj, dtype=np.float32)
    if mask is not None:
        data = np.where(np.asarray(mask.dataobj) > 0, data, np.float32(0))
    return nib.Nifti1Image(data, image.affine)


def _even(ants: Ants, boldref: nib.Nifti1Image, mask: nib.Nifti1Image) -> nib.Nifti1Image:
    """The boldref without the gain of the receiver coil.

    Three levels of N4: with two, part of a surface coil's gain stays (1.4 mm off instead of 0.6).
    """
    gain = np.asarray(ants.bias_field(boldref, mask, shrink=2, iterations=(50, 50, 50)).dataobj)
    data = np.asarray(boldref.dataobj, dtype=np.float32)
    return nib.Nifti1Image((data / np.maximum(gain, _LEAST_GAIN)).astype(np.float32), boldref.affine)


def nearest_rigid(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """`matrix` with its rotation made orthonormal to the last bit (it comes in single precision)."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    rigid = matrix.copy()
    rigid[:3, :3] = u @ vt
    return rigid


def save_rigid(path: Path, matrix: NDArray[np.float64]) -> None:
    """Write the map boldref -> T1w as ITK's text transform.

    `antsApplyTransforms -t FILE` puts the T1w on the BOLD's grid, `-t [FILE,1]` the BOLD on the T1w's.
    """
    write_matrix(path, matrix)


def load_rigid(path: Path) -> NDArray[np.float64]:
    """Read (4, 4) RAS mm back. Raises InputError for another file or a map that is not rigid."""
    matrix = read_matrix(path)
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-4):
        raise InputError(f"{path} is not rigid: its rotation part is {matrix[:3, :3].tolist()}.")
    return matrix


def _head_points(t1w: nib.Nifti1Image) -> NDArray[np.float64]:
    """(n, 3) mm, voxels brighter than the background of a whole head."""
    data = np.asarray(t1w.dataobj)
    threshold = 0.15 * np.percentile(data, 99)
    return points_in_mask(nib.Nifti1Image((data > threshold).astype(np.uint8), t1w.affine))


def _starts(brain: NDArray[np.float64], target: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Five maps (4, 4) of BOLD to T1w points."""
    centre, goal = brain.mean(axis=0), target.mean(axis=0)
    together = shifted(goal - centre)
    tops = goal - centre
    tops[2] = np.percentile(target[:, 2], 99) - np.percentile(brain[:, 2], 99)
    return [np.eye(4), together, *(pitched(a, goal) @ together for a in (_PITCH, -_PITCH)), shifted(tops)]


def shifted(step: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = step
    return matrix


def pitched(angle: float, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about the left-right axis through `centre`."""
    rotation = np.eye(4)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation[1:3, 1:3] = [[cos, -sin], [sin, cos]]
    return np.asarray(shifted(centre) @ rotation @ shifted(-centre), dtype=np.float64)
