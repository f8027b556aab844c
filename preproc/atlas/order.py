"""The proof that labels are the regions we say: their centres lie where the published table has them.

Names of files and of networks are not believed. A label's centre must lie within 6 mm of its place, and no
exchange of labels may fit better (with 1,000 parcels, neighbours are 8 mm apart: distance alone would not see
two of them exchanged). The sum of squared distances does not depend on a common shift, so the 2 to 4 mm
between the MNI spaces do not matter to the second test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

# The two MNI spaces differ by up to 4.1 mm, the same label of the other network order by a median of 58 mm.
CENTRE_TOLERANCE_MM = 6.0
_SHARE_IN_PLACE = 0.98


@dataclass(frozen=True, eq=False)
class Numbering:
    """One published numbering of an atlas' regions.

    name : e.g. "7networks"; column_of : (n_rois + 1,) label there -> column + 1, 0 for the background
    """

    name: str
    column_of: NDArray[np.int64]


def prove_order(
    path: Path,
    what: str,
    points: NDArray[np.float64],
    region: NDArray[np.int64],
    places: NDArray[np.float64],
    names: Sequence[str],
    numberings: Sequence[Numbering],
) -> Numbering:
    """Find the numbering that the labels of a file are in.

    Parameters
    ----------
    path, what : file and atlas, for messages
    points, region : (n, 3) mm and (n,) label > 0 of each labelled voxel
    places, names : (n_rois, 3) mm and name of each column
    numberings : those that are known; the first is wanted

    Raises
    ------
    InputError
        Labels that are too many, have no voxel, are mirrored, exchanged or somewhere else.
    """
    n_rois = len(places)
    if len(extra := np.unique(region[region > n_rois])):
        raise InputError(
            f"{path}: labels {extra.tolist()} are beyond the {n_rois} of {what}.",
            hint="Give the file of this very atlas and size.",
        )
    centres, counts = centres_of(points, region, n_rois)
    present = np.flatnonzero(counts)  # label - 1
    for numbering in numberings:
        columns = numbering.column_of[1:] - 1
        if _in_place(centres[present], places[columns[present]]):
            if empty := np.setdiff1d(np.arange(n_rois), present).tolist():
                raise InputError(
                    f"{path}: labels {[label + 1 for label in empty]} have no voxel "
                    f"({', '.join(names[columns[label]] for label in empty)}).",
                    hint="Take the file from its publisher again.",
                )
            return numbering
    found = _how_it_differs(centres, places, numberings, present)
    raise InputError(
        f"{path} does not hold {what} in a known order: {found}.",
        hint="Use the volume of the publisher, in the space of the scans.",
    )


def _in_place(centres: NDArray[np.float64], places: NDArray[np.float64]) -> bool:
    return _share_in_place(centres, places) > _SHARE_IN_PLACE and not len(_exchanged(centres, places))


def _share_in_place(centres: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    if not len(centres):
        return 0.0
    return float((np.linalg.norm(centres - places, axis=1) < CENTRE_TOLERANCE_MM).mean())


def _exchanged(centres: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions that another assignment of centres to places fits better (least squares; 0.2 s for 1,000)."""
    from scipy.optimize import linear_sum_assignment

    best = linear_sum_assignment(-centres @ places.T)[1]
    return np.flatnonzero(best != np.arange(len(best)))


def _how_it_differs(
    centres: NDArray[np.float64],
    places: NDArray[np.float64],
    numberings: Sequence[Numbering],
    present: NDArray[np.intp],
) -> str:
    centres = centres[present]
    by_order = [places[numbering.column_of[1:] - 1][present] for numbering in numberings]
    if any(_in_place(centres * [-1, 1, 1], of_order) for of_order in by_order):
        return "left and right are exchanged"
    for of_order in by_order:
        shift = np.median(centres - of_order, axis=0)
        if np.abs(shift).max() > 1 and _in_place(centres - shift, of_order):
            return f"all labels are shifted by {shift.round(1).tolist()} mm"
    closest = max(by_order, key=lambda of_order: _share_in_place(centres, of_order))
    share = _share_in_place(centres, closest)
    if share > _SHARE_IN_PLACE:
        exchanged = (present[_exchanged(centres, closest)] + 1).tolist()
        return f"labels {exchanged} are exchanged among each other"
    return f"only {share:.0%} of its labels lie within {CENTRE_TOLERANCE_MM:.0f} mm of their place"


def region_centres(
    labels: NDArray[Any], affine: NDArray[np.float64], n_rois: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean position (n_rois, 3) in mm, NaN if empty, and voxel count (n_rois,) of labels 1 to n_rois."""
    points = apply_affine(affine, np.argwhere(labels > 0))  # (n_voxels, 3) mm
    return centres_of(points, labels[labels > 0].astype(np.int64), n_rois)


def centres_of(
    points: NDArray[np.float64], region: NDArray[np.int64], n_rois: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean (n_rois, 3) of the points of each region 1 to n_rois, NaN if it has none, and their number."""
    counts = np.bincount(region, minlength=n_rois + 1)[1 : n_rois + 1]
    sums = [np.bincount(region, points[:, axis], n_rois + 1)[1 : n_rois + 1] for axis in range(3)]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=1) / counts[:, None], counts
