"""The brain within a rough region of a T1w head: what hangs together when thin bridges are cut.

Skull and fluid are dark in a T1w image and part the brain from the bright scalp, so within a region that is
mostly brain:
  1. tissue   brighter than 0.6 of the region's median (white and grey matter, but marrow and scalp too)
  2. cut      3 mm off its surface; what is thinner goes, the largest piece is the brain's inside
  3. grow     back by 5 mm, within the tissue
  4. close    gaps of up to 16 mm (sulci, ventricles), fill holes, stay in the region
"""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.raw.t1w import largest_piece
from bjepa.preproc.raw.work_grid import grid_around, grid_of, points_in_mask, resample, resample_mask

_GRID_MM = 1.5
_TISSUE = 0.6  # of the median: fluid lies at about 0.4, grey matter at 0.8
_CUT_MM = 3.0  # with 2 mm a real scalp stayed on at the vertex, with 4 mm gyri are lost
_GROW_MM = 5.0
_CLOSE_MM = 8.0


def brain_within(t1w: nib.Nifti1Image, region: nib.Nifti1Image) -> nib.Nifti1Image:
    """Brain mask (uint8) of a bias corrected T1w, on its grid, within a region that is mostly brain.

    A region without tissue gives an empty mask.
    """
    grid = grid_around(points_in_mask(region), _GRID_MM, _CLOSE_MM + 2 * _GRID_MM)
    values = np.asarray(resample(t1w, grid).dataobj)
    inside = np.asarray(resample_mask(region, grid).dataobj) > 0
    tissue = inside & (values > _TISSUE * np.median(values[inside]))
    core = largest_piece(_deeper(tissue, _CUT_MM))
    grown = largest_piece(tissue & ~_deeper(~core, _GROW_MM))
    closed = _deeper(~_deeper(~grown, _CLOSE_MM), _CLOSE_MM)
    brain = largest_piece((closed | grown) & inside)
    return resample_mask(grid.image(brain.astype(np.uint8)), grid_of(t1w))


def _deeper(mask: NDArray[np.bool_], mm: float) -> NDArray[np.bool_]:
    """What lies more than `mm` within the mask."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(mask, sampling=_GRID_MM) > mm, dtype=np.bool_)
