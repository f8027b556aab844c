"""Do a BOLD run and a T1w image show the same brain? Measures within it, after the rigid registration.

The outline of two brains fits whoever they belong to, so mutual information over the whole head has a peak
for any two. Only in one person the folding is alike too: here the information is taken within the brain
alone, from what is left after smooth changes (the coil's gain, the outline's blur) are taken away, and
compared with what it is a few mm away.

    inner_mi_ratio    mutual information at the solution over its mean 4 mm to either side along three axes
    mask_overlap      Dice coefficient of the run's brain mask and the T1w image's, within the run's grid
"""

from collections.abc import Iterator

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

F = NDArray[np.float64]

AWAY = 4.0  # mm: half the width of a gyrus
_INNER = 4.0  # mm from the mask's border, where the outline is not felt
_SMOOTH = 20.0  # mm, full width at half maximum of what is taken away
_BINS = 16


def agreement(
    boldref: nib.Nifti1Image,
    bold_mask: nib.Nifti1Image,
    t1w: nib.Nifti1Image,
    t1_mask: nib.Nifti1Image,
    matrix: F,
) -> dict[str, float]:
    """`inner_mi_ratio` and `mask_overlap` of a run and a T1w image, for `judge_run`.

    Parameters
    ----------
    boldref, bold_mask : (x, y, z), on one grid; t1w, t1_mask : likewise; masks above 0 in the brain
    matrix : (4, 4) boldref point to T1w point, mm
    """
    brain = np.asarray(bold_mask.dataobj) > 0
    anatomy = np.asarray(t1_mask.dataobj) > 0
    grid = np.indices(brain.shape).reshape(3, -1).T
    affine = np.asarray(boldref.affine, dtype=np.float64)
    places = apply_affine(matrix, apply_affine(affine, grid))
    there = _at(anatomy.astype(np.float32), t1_mask.affine, places).reshape(brain.shape) > 0.5
    both = int((brain & there).sum())
    overlap = 2 * both / max(1, int(brain.sum() + there.sum()))

    inner = _eroded(brain & there, affine, _INNER)
    if inner.sum() < 500:  # too little in common to say anything about its inside
        return {"inner_mi_ratio": 0.0, "mask_overlap": overlap}
    epi = _detail(np.asarray(boldref.dataobj, dtype=np.float32), brain & there, affine)[inner]
    points = apply_affine(affine, np.argwhere(inner))
    detail = _detail(np.asarray(t1w.dataobj, dtype=np.float32), anatomy, t1w.affine)
    values = [
        _information(epi, _at(detail, t1w.affine, apply_affine(matrix, points + step))) for step in _steps()
    ]
    away = float(np.mean(values[1:]))
    return {"inner_mi_ratio": values[0] / away if away > 0 else 0.0, "mask_overlap": overlap}


def _steps() -> Iterator[F]:
    yield np.zeros(3)
    yield from AWAY * np.vstack([np.eye(3), -np.eye(3)])


def _at(volume: NDArray[np.float32], affine: F, points: F) -> NDArray[np.float32]:
    """A volume at points (n, 3) mm, linearly; 0 outside."""
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(affine), points).T
    return np.asarray(map_coordinates(volume, voxels, order=1, output=np.float32))


def _detail(volume: NDArray[np.float32], inside: NDArray[np.bool_], affine: F) -> NDArray[np.float32]:
    """Relative to the smooth mean of the surroundings that lie inside; 0 outside."""
    from scipy.ndimage import gaussian_filter

    sigma = _SMOOTH / 2.3548 / np.linalg.norm(affine[:3, :3], axis=0)
    weight = gaussian_filter(inside.astype(np.float32), sigma)
    mean = gaussian_filter(np.where(inside, volume, np.float32(0)), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = volume * weight / mean - 1
    return np.where(inside & np.isfinite(relative), relative, np.float32(0)).astype(np.float32)


def _eroded(mask: NDArray[np.bool_], affine: F, radius: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(mask, 1)  # the grid's border is a border
    depth = distance_transform_edt(padded, sampling=np.linalg.norm(affine[:3, :3], axis=0))
    return np.asarray(depth[1:-1, 1:-1, 1:-1] > radius)


def _information(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mutual information of two samples, nats, from a histogram of ranks: bins of equal content."""
    bins = [np.argsort(np.argsort(x, kind="stable"), kind="stable") * _BINS // len(x) for x in (a, b)]
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS**2).reshape(_BINS, _BINS) / len(a)
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / expected[some])).sum())
