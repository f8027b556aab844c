"""What a run looks like on average, and where the brain is in it.

The mask is found in five steps:
  1. the volume is smoothed a little and its shading removed, as far as tissue tells it
  2. tissue is what is brighter than Otsu's threshold
  3. what is thinner than about 12 mm is cut away, the largest piece that is left is the brain
  4. what was cut from the brain's own surface is given back
  5. holes and narrow clefts are filled
At the border of the grid the volume is continued, so that a slab keeps its outer slices.
"""

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.motion import Motion
from bjepa.preproc.raw.slice_timing import SliceTiming, shift_volumes
from bjepa.preproc.raw.volumes import MovedMean, spline_of, stream_volumes
from bjepa.preproc.stream import BoldFile

F = NDArray[np.float64]
Mask = NDArray[np.bool_]

_N_MEAN = 100  # frames in the mean, at most: a tenth of one frame's noise is left
_SMOOTH = 3.0  # mm, full width at half maximum
_SHADING = 60.0  # mm, full width at half maximum of what is taken for shading
_CUT = 6.0  # mm, radius: thinner than twice this is not brain (skin, muscle, bridges to the eyes)
_CLOSE = 6.0  # mm, radius of the clefts that are filled


def mean_image(
    bold: BoldFile, motion: Motion, *, skip: int = 0, slice_timing: SliceTiming | None = None
) -> nib.Nifti1Image:
    """Mean of the realigned steady frames (up to 100, evenly spaced): (x, y, z) float32, the run's affine.

    In the scan's own units; 0 where no frame has data.
    """
    n_steady = bold.n_frames - skip
    averaged = set(skip + np.linspace(0, n_steady - 1, min(_N_MEAN, n_steady)).round().astype(int))
    volumes = stream_volumes(bold)
    if slice_timing is not None:
        volumes = shift_volumes(volumes, slice_timing)
    mean = MovedMean(bold)
    for number, volume in enumerate(volumes):
        if number in averaged:
            mean.add(spline_of(volume), motion.matrices[number])
    return _image(mean.volume().astype(np.float32), bold.affine)


def bold_mask(boldref: nib.Nifti1Image) -> nib.Nifti1Image:
    """The brain in a mean EPI image: (x, y, z) uint8, 1 = brain, same affine.

    Raises InputError where there is nothing like a brain.
    """
    from scipy import ndimage

    affine = np.asarray(boldref.affine, dtype=np.float64)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)  # mm
    data = np.nan_to_num(np.asarray(boldref.dataobj, dtype=np.float64))
    smoothed = ndimage.gaussian_filter(np.clip(data, 0, None), _SMOOTH / 2.3548 / sizes, mode="nearest")
    tissue = _tissue(smoothed, sizes)
    core = _largest(_shrunk(tissue, _CUT, sizes))
    if not core.any():
        raise InputError("No brain was found in the mean BOLD image: nothing bright is as thick as a brain.")
    brain = _grown(core, _CUT * 1.2, sizes) & tissue
    brain = _shrunk(_grown(brain, _CLOSE, sizes), _CLOSE, sizes) | brain
    brain = ndimage.binary_fill_holes(brain)
    return _image(brain.astype(np.uint8), affine)


def _tissue(smoothed: F, sizes: F) -> Mask:
    """Voxels brighter than the background, first as the volume is, then with the shading removed."""
    from scipy import ndimage

    tissue = smoothed > _otsu(smoothed)
    sigma = _SHADING / 2.3548 / sizes
    weight = ndimage.gaussian_filter(tissue.astype(np.float64), sigma, mode="nearest")
    shading = ndimage.gaussian_filter(np.where(tissue, smoothed, 0), sigma, mode="nearest")
    flat = smoothed / np.maximum(shading / np.maximum(weight, 1e-3), 1e-12)
    flat[weight < 1e-3] = 0
    return np.asarray(flat > _otsu(flat))


def _otsu(volume: F) -> float:
    """The threshold that parts the values best in two classes (Otsu 1979)."""
    top = float(np.percentile(volume, 99.5))
    counts, edges = np.histogram(volume, bins=256, range=(0.0, max(top, 1e-12)))
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    return float(edges[1:][np.nanargmax(np.nan_to_num(below * above * gap**2))])


def _largest(mask: Mask) -> Mask:
    from scipy import ndimage

    pieces, n_pieces = ndimage.label(mask)
    if n_pieces < 2:
        return mask
    return np.asarray(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))


def _shrunk(mask: Mask, radius: float, sizes: F) -> Mask:
    """Voxels of `mask` further than `radius` mm from its outside; beyond the grid there is no outside."""
    return np.asarray(_distance(mask, sizes) > radius)


def _grown(mask: Mask, radius: float, sizes: F) -> Mask:
    return np.asarray(_distance(~mask, sizes) <= radius)


def _distance(mask: Mask, sizes: F) -> Any:
    """mm from each voxel of `mask` to the nearest outside it; 0 outside."""
    from scipy import ndimage

    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, sampling=sizes)


def _image(data: NDArray[Any], affine: F) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image
