"""Regional mean series of one scan: the atlas' sparse operator applied to a stream of frames.

A voxel is valid when it is in the mask, finite in every frame and not zero in every frame; a regional mean is
the weighted mean over valid voxels, so a partly covered region keeps its level. Differs from nilearn's
NiftiLabelsMasker: data are interpolated linearly onto the atlas (there by a cubic spline), every region has
its column (there empty ones can vanish or become 0), invalid voxels are left out (there averaged in as
zeros).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.operator import Operator, cached_operator
from bjepa.preproc.stream import BoldFile, open_bold, stream_frames

_PICTURED_FRAMES = 20  # frames in the mean image, at least: enough to look at, and 1 % of the time


@dataclass(frozen=True, eq=False)
class MeanImage:
    """What the scan looks like: the mean of 20 to 39 evenly spaced frames, for pictures only.

    data : (x, y, z) float32, in the scan's units; affine : (4, 4) voxel to mm
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionalScan:
    """Regional means of one scan, in the scan's own units.

    timeseries : (n_frames, n_rois) float32, NaN in the columns of regions without any valid voxel
    coverage : (n_rois,) float64 in [0, 1], the share of each region's weight on valid voxels
    t_r : s, as the header says; None where it does not
    n_invalid_voxels : voxels left out for a non-finite value in some frame
    mean_image : of a volume; None for surfaces and tables
    """

    timeseries: NDArray[np.float32]
    coverage: NDArray[np.float64]
    t_r: float | None
    n_invalid_voxels: int = 0
    mean_image: MeanImage | None = None


def extract_timeseries(
    img: str | Path,
    atlas: Atlas,
    mask: str | Path | None = None,
    *,
    smoothing_fwhm: float | None = None,
    operator_cache: Path | None = None,
) -> RegionalScan:
    """Mean of every region of `atlas` in every frame of a 4D NIfTI file.

    Parameters
    ----------
    img : `.nii` or `.nii.gz`, 4D, any orientation and data type, in the space of the atlas
    mask : brain mask on the same grid; voxels at 0 are left out
    smoothing_fwhm : full width at half maximum, mm, of a Gaussian that the volumes are smoothed with first
        (within the valid voxels: what is outside the mask does not bleed in); None: no smoothing
    operator_cache : folder that keeps the operator of each grid

    Raises
    ------
    InputError
        A file that is damaged, not 4D or without orientation; a mask on another grid.
    """
    if atlas.kind != "volume":
        raise InputError(
            f"{img} is a volume, the atlas {atlas.name} is of kind {atlas.kind!r}.",
            hint="Load the atlas with kind='volume'.",
        )
    bold = open_bold(Path(img))
    plain = cached_operator(atlas, bold.shape[:3], bold.affine, folder=operator_cache)
    operator = plain
    if smoothing_fwhm:
        operator = cached_operator(
            atlas, bold.shape[:3], bold.affine, smoothing_fwhm=smoothing_fwhm, folder=operator_cache
        )
    in_mask = np.ones(int(np.prod(bold.shape[:3])), dtype=bool)  # of the whole grid
    if mask is not None:
        in_mask = _mask_values(Path(mask), bold)
    use = in_mask[operator.voxels]  # (n_used,)

    picture = _MeanVolume(bold)
    sums, ever_nonzero, finite = _stream_sums(bold, operator, use, picture)
    n_invalid = int((use & ~finite).sum())
    if n_invalid:  # a NaN has spoilt every region that uses it: stream again without those voxels
        use = use & finite
        sums, ever_nonzero, _ = _stream_sums(bold, operator, use, None)
    valid = use & ever_nonzero
    valid_weight = operator.weights @ valid.astype(np.float64)  # (n_rois,)
    coverage = _coverage(plain, operator, valid)
    # a voxel at 0 in every frame is no data, but its raw value is only 0 where the file has no intercept
    sums -= _raw_zero(bold) * (operator.weights @ (use & ~valid).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / valid_weight * bold.slope + bold.inter  # (n_frames, n_rois)
    means[:, (valid_weight == 0) | (coverage == 0)] = np.nan
    return RegionalScan(means.astype(np.float32), coverage, bold.header_t_r, n_invalid, picture.image())


def _coverage(plain: Operator, used: Operator, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n_rois,) share of each region's own (unsmoothed) weight that lies on valid voxels."""
    if plain is not used:  # every voxel of the plain operator is one of the smoothed operator
        valid = valid[np.searchsorted(used.voxels, plain.voxels)]
    share: NDArray[np.float64] = (plain.weights @ valid.astype(np.float64)) / plain.n_atlas_voxels
    return share


class _MeanVolume:
    """Adds up some of the volumes that stream by."""

    def __init__(self, bold: BoldFile) -> None:
        self._bold = bold
        step = max(1, bold.n_frames // _PICTURED_FRAMES)
        self._frames = set(range(0, bold.n_frames, step))
        self._sum = np.zeros(int(np.prod(bold.shape[:3])), dtype=np.float64)

    def __call__(self, frame: int, volume: NDArray[Any]) -> None:
        if frame in self._frames:
            self._sum += np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)

    def image(self) -> MeanImage:
        mean = self._sum / len(self._frames) * self._bold.slope + self._bold.inter
        return MeanImage(mean.astype(np.float32).reshape(self._bold.shape[:3], order="F"), self._bold.affine)


def _stream_sums(
    bold: BoldFile, operator: Operator, use: NDArray[np.bool_], picture: _MeanVolume | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Weighted sums (n_frames, n_rois) of the raw values of voxels in `use`, and what was met on the way.

    Also returns, per used voxel of the operator: not zero in every frame; finite in every frame.
    """
    zero = _raw_zero(bold)
    weights = operator.weights[:, use]
    always_zero = np.arange(int(use.sum()))  # positions not yet seen to differ from 0: few after one frame
    finite = np.ones(int(use.sum()), dtype=bool)
    sums = np.empty((bold.n_frames, weights.shape[0]))
    for frame, values in enumerate(stream_frames(bold, operator.voxels[use], look=picture)):
        sums[frame] = weights @ values
        always_zero = always_zero[values[always_zero] == zero]
        if not np.isfinite(sums[frame]).all():
            finite &= np.isfinite(values)
    nonzero = np.ones(int(use.sum()), dtype=bool)
    nonzero[always_zero] = False
    everywhere_nonzero, everywhere_finite = np.zeros(len(use), bool), np.ones(len(use), bool)
    everywhere_nonzero[use], everywhere_finite[use] = nonzero, finite
    return sums, everywhere_nonzero, everywhere_finite


def _raw_zero(bold: BoldFile) -> float:
    """The raw value that stands for 0: of integers the nearest, since 0 was rounded to it when written."""
    zero = -bold.inter / bold.slope
    return float(np.rint(zero)) if bold.dtype.kind in "iu" else float(np.array(zero, dtype=bold.dtype))


def _mask_values(path: Path, bold: BoldFile) -> NDArray[np.bool_]:
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(f"mask {path} cannot be read ({error}).") from error
    shape, affine = image.shape, np.asarray(image.affine)
    if shape[:3] != bold.shape[:3] or len(shape) != 3 or not np.allclose(affine, bold.affine, atol=1e-3):
        raise InputError(
            f"mask {path} is not on the grid of {bold.path}: shape {shape} against {bold.shape[:3]}.",
            hint="Give the mask that belongs to the run and space.",
        )
    values = np.asarray(image.dataobj)
    return np.asarray(values > 0).ravel(order="F")
