"""Where a run sees white matter and cerebrospinal fluid, from the template's maps through the registration.

    white matter   the template's probability above 0.9
    fluid          the lateral ventricles only: neither grey nor white (together below 0.1), more than 20 mm
                   deep in the brain, away from the midline, the largest piece on either side. Fluid around
                   the brain is left out: it lies against grey matter and moves in and out of the skull
    brain          the run's own mask

A voxel counts when the tissue is found at its centre and at six points around it along the axes, so that no
grey matter is mixed in: white matter to one voxel away (an erosion by a voxel), the narrow ventricles to half
a voxel (the whole voxel lies in them). Where fewer than 20 voxels are left, the reach becomes smaller (1/2,
1/4, 0 voxels), and a note says so.
The ventricles are the template's, warped: for enlarged ventricles too small, which is the safe side.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

LEAST_VOXELS = 20
REACHES = {"wm": (1.0, 0.5, 0.25, 0.0), "csf": (0.5, 0.25, 0.0)}  # voxels; the first that leaves enough
_SURE = 0.9  # probability of a tissue
_DEEP = 20.0  # mm: at 15 the cisterns join in; the Sylvian fissure is out from 20
_MIDLINE = 4.0  # mm: third and fourth ventricle, and the fissure between the hemispheres, lie nearer
_COARSE = 2.0  # mm
_CLOSED = 10.0  # mm: sulci are this wide at most

Points = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class TissueMasks:
    """Masks (x, y, z) bool of one grid; `reach` in voxels of wm and csf; `notes` sentences for the user."""

    wm: NDArray[np.bool_]
    csf: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    reach: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def tissue_masks(
    gm: nib.Nifti1Image,
    wm: nib.Nifti1Image,
    points_to_template: Points,
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    brain_mask: NDArray[np.bool_],
) -> TissueMasks:
    """The masks of a run's grid.

    Parameters
    ----------
    gm, wm : probabilities in [0, 1] on one grid in template space (RAS mm, an MNI space)
    points_to_template : points of the run's space (n, 3) mm -> points of the template
    shape, affine : of the run's grid; brain_mask : (x, y, z), where the run has brain

    Raises InputError where no voxel of white matter or of the ventricles lies in the brain mask.
    """
    white = np.asarray(wm.dataobj, dtype=np.float32) > _SURE
    fluid = ventricles(np.asarray(gm.dataobj, np.float32) + np.asarray(wm.dataobj, np.float32), wm.affine)
    voxels = np.argwhere(brain_mask).astype(np.float64)  # (n, 3), once for both tissues
    found, reach, notes = {}, {}, []
    for name, title, tissue in (("wm", "white matter", white), ("csf", "ventricles", fluid)):
        seen = _Seen(tissue, np.asarray(wm.affine, dtype=np.float64), points_to_template, affine)
        chosen, reach[name] = _eroded(seen, voxels, REACHES[name], title)
        if reach[name] < REACHES[name][0]:
            notes.append(
                f"The mask of the {title} has {len(chosen)} voxels, {reach[name]:g} voxels away from other "
                f"tissue instead of {REACHES[name][0]:g}: its signal may hold some of the grey matter's."
            )
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(chosen.astype(np.int64).T)] = True
        found[name] = mask
    return TissueMasks(found["wm"], found["csf"], np.asarray(brain_mask, dtype=bool), reach, tuple(notes))


def ventricles(tissue: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(x, y, z) the lateral ventricles of a template; `tissue` = grey + white probability.

    Raises InputError where there is none: maps of something else than a brain in MNI space.
    """
    from scipy import ndimage

    size = np.linalg.norm(affine[:3, :3], axis=0)  # mm
    steps = np.maximum(1, np.rint(_COARSE / size)).astype(np.int64)  # depth need not be finer than this
    coarse = tissue[tuple(slice(None, None, step) for step in steps)] > 1 - _SURE
    deep = ndimage.distance_transform_edt(_filled(coarse, size * steps), sampling=size * steps) > _DEEP
    for axis, step in enumerate(steps):
        deep = np.repeat(deep, step, axis=axis)
    candidates = (tissue < 1 - _SURE) & deep[tuple(slice(n) for n in tissue.shape)]
    lateral = apply_affine(affine, np.argwhere(candidates))[:, 0]  # (n,) mm, left is negative
    chosen = np.zeros(tissue.shape, dtype=bool)
    for side in (lateral <= -_MIDLINE, lateral >= _MIDLINE):
        part = np.zeros(tissue.shape, dtype=bool)
        part[tuple(np.argwhere(candidates)[side].T)] = True
        pieces, n_pieces = ndimage.label(part)
        if n_pieces == 0:
            raise InputError(
                "The template's tissue maps have no lateral ventricles: neither grey nor white matter, "
                f"{_DEEP:g} mm deep, {_MIDLINE:g} mm beside the midline.",
                hint="Give maps of grey and white matter in an MNI space.",
            )
        chosen |= pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return chosen


def _filled(tissue: NDArray[np.bool_], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tissue with sulci and ventricles closed (a morphological closing by _CLOSED mm, then holes filled)."""
    from scipy import ndimage

    margin = [int(np.ceil(_CLOSED / s)) + 1 for s in size]
    padded = np.pad(tissue, [(m, m) for m in margin])
    grown = ndimage.distance_transform_edt(~padded, sampling=size) <= _CLOSED
    closed = ndimage.distance_transform_edt(grown, sampling=size) > _CLOSED
    inner = tuple(slice(m, -m) for m in margin)
    return np.asarray(ndimage.binary_fill_holes(closed | padded)[inner], dtype=bool)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A mask of the template, looked up from voxels of the run."""

    tissue: NDArray[np.bool_]
    tissue_affine: NDArray[np.float64]
    points_to_template: Points
    affine: NDArray[np.float64]

    def __call__(self, voxels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether `voxels` (n, 3), fractions allowed, lie in the tissue (nearest voxel of the map)."""
        points = self.points_to_template(apply_affine(self.affine, voxels))
        place = np.rint(apply_affine(np.linalg.inv(self.tissue_affine), points)).astype(np.int64)
        inside = ((place >= 0) & (place < self.tissue.shape)).all(axis=1)
        found = np.zeros(len(voxels), dtype=bool)
        found[inside] = self.tissue[tuple(place[inside].T)]
        return found


def _eroded(
    seen: _Seen, voxels: NDArray[np.float64], reaches: tuple[float, ...], title: str
) -> tuple[NDArray[np.float64], float]:
    """The voxels in the tissue to the largest reach that leaves LEAST_VOXELS, and that reach.

    At reach 0 any number from 1 is taken.
    """
    centred = voxels[seen(voxels)]
    for reach in reaches:
        chosen = centred
        for axis in range(3):
            for step in (-reach, reach) if reach else ():
                shifted = chosen.copy()
                shifted[:, axis] += step
                chosen = chosen[seen(shifted)]
        if len(chosen) >= (LEAST_VOXELS if reach else 1):
            return chosen, reach
    raise InputError(
        f"No voxel of the {title} lies inside the run's brain mask: the registration is wrong, or the run "
        "does not cover it.",
        hint="Look at the pictures of the registration; leave the run out.",
    )
