"""Template spaces, told by grids: where their volumes begin and end, and where the brain lies in them.

A header cannot say which template a volume was normalised to, but a grid can contradict the claim.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

Vector = tuple[float, float, float]

SURFACE_SPACE = "fsLR"  # of CIFTI files


@dataclass(frozen=True)
class TemplateSpace:
    """Facts of a template's published grids, in mm, RAS.

    corner : centre of the first voxel; the grids of 1 and 2 mm differ by up to 1 mm
    size : extent of the field of view
    brain : lowest and highest point of the cortical and subcortical atlases (cerebellum and stem reach lower)
    """

    corner: Vector
    size: Vector
    brain: tuple[Vector, Vector]


SPACES = {
    "MNI152NLin6Asym": TemplateSpace(
        (-90.0, -126.0, -72.0), (182.0, 218.0, 182.0), ((-70.0, -107.0, -50.0), (71.0, 73.0, 82.0))
    ),
    "MNI152NLin2009cAsym": TemplateSpace(
        (-96.0, -132.0, -78.0), (193.0, 229.0, 193.0), ((-72.0, -108.0, -52.0), (71.0, 74.0, 83.0))
    ),
}
_CORNER_TOLERANCE = 1.5  # mm; the corners of the two spaces differ by 6 mm
_SIZE_TOLERANCE = 4.0  # mm: grids are rounded to whole voxels; the two spaces differ by 11 mm
_OBLIQUE = 0.5  # degrees: normalised images lie along the template's axes, scanner images rarely do
_OUTSIDE = 10.0  # mm of the atlas' box outside the field of view: more than a tight field of view cuts off


def check_grid_in_space(affine: NDArray[np.float64], shape: tuple[int, ...], space: str) -> str:
    """Say why a scan on this grid can hardly be in template `space`; "" where nothing speaks against it.

    Looks for axes that are rotated against the template's, for a field of view that leaves out more than 10
    mm of where the template's brain lies, and for the very grid of another template. Unknown spaces pass. A
    scan that is in another space on a plausible grid, or mirrored, cannot be told from its header.
    """
    if space not in SPACES:
        return ""
    if (angle := _obliqueness(affine)) > _OBLIQUE:
        return (
            f"its axes are rotated by {angle:.1f} degrees, as in the scanner's space; images in {space} "
            "lie along the axes."
        )
    others = [name for name in SPACES if name != space and not grid_mismatch(affine, shape, name)]
    if others and grid_mismatch(affine, shape, space):
        return f"its grid is that of {others[0]}, not of {space}."
    first, last = _corners(affine, shape)
    half = np.abs(affine[:3, :3]).max(axis=1) / 2  # (3,) a voxel reaches half its size beyond its centre
    low, high = (np.asarray(point) for point in SPACES[space].brain)
    for axis, letter in enumerate("xyz"):
        for end, reach, missing in (
            (first[axis] - half[axis], low[axis], first[axis] - half[axis] - low[axis]),
            (last[axis] + half[axis], high[axis], high[axis] - last[axis] - half[axis]),
        ):
            if missing > _OUTSIDE:
                return (
                    f"its field of view ends at {letter} = {end:.0f} mm, the brain of {space} reaches to "
                    f"{reach:.0f} mm."
                )
    return ""


def grid_mismatch(affine: NDArray[np.float64], shape: tuple[int, ...], space: str) -> str:
    """Say why this is not a grid of template `space` at any resolution; "" if it is one."""
    if _obliqueness(affine) > _OBLIQUE:
        return "its axes are rotated"
    template = SPACES[space]
    first, last = _corners(affine, shape)
    voxel = voxel_sizes(affine)
    if np.abs(first - template.corner).max() > _CORNER_TOLERANCE:
        return f"its first voxel lies at {first.round(1).tolist()} mm, in {space} at {list(template.corner)}"
    size = last - first + np.abs(affine[:3, :3]).max(axis=1)
    if np.abs(size - template.size).max() > max(_SIZE_TOLERANCE, 1.5 * voxel.max()):
        return f"it extends over {size.round().tolist()} mm, {space} over {list(template.size)}"
    return ""


def _corners(affine: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.float64], ...]:
    """Centres (mm) of the lowest and the highest voxel of a grid along the axes."""
    x, y, z = shape[:3]
    ends = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
    places = (ends @ affine.T)[:, :3]  # (8, 3)
    return places.min(axis=0), places.max(axis=0)


def _obliqueness(affine: NDArray[np.float64]) -> float:
    """Largest angle between an axis of the grid and the nearest axis of space, degrees."""
    return float(np.degrees(nib.affines.obliquity(affine)).max())
