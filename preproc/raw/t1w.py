"""Reading a T1w image: what is refused, and whether its skull is still there."""

from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.header import check_t1w

_STRIPPED_LITRES = (0.5, 2.6)  # of all voxels above the background: a brain; a head has 3.5 and more
_BACKGROUND = 0.01  # of the 99th percentile: what interpolation leaves around a stripped brain lies below


def read_t1w(path: Path) -> nib.Nifti1Image:
    """A T1w image as float32, slope and intercept applied, 3D; NaN and infinite voxels become 0.

    Raises InputError for what is no 3D image with an orientation, or holds nothing.
    """
    image, data = _load(path, "T1w image")
    check_t1w(image, path)
    data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    if np.ptp(data) == 0:
        raise InputError(f"{path} is empty: all its voxels are {data.flat[0]:g}.")
    return nib.Nifti1Image(data, np.asarray(image.affine, dtype=np.float64))


def read_t1_mask(path: Path, t1w: nib.Nifti1Image, t1w_path: Path) -> nib.Nifti1Image:
    """The brain mask (uint8) of a T1w image; InputError if it is not on its grid or is empty."""
    image, data = _load(path, "brain mask")
    if data.shape != t1w.shape or not np.allclose(image.affine, t1w.affine, atol=1e-2):
        raise InputError(
            f"brain mask {path} is not on the grid of {t1w_path}: shape {data.shape} against {t1w.shape}.",
            hint="Give the mask that was made from this T1w image.",
        )
    mask = np.nan_to_num(data) > 0.5
    if not mask.any():
        raise InputError(f"brain mask {path} is empty: no voxel above 0.5.")
    return nib.Nifti1Image(mask.astype(np.uint8), t1w.affine)


def stripped_brain(t1w: nib.Nifti1Image) -> nib.Nifti1Image | None:
    """The brain mask (uint8) of an image whose skull is stripped; None if the head is still there.

    Stripped is what has as much volume above the background as a brain; its largest piece, holes filled.
    """
    data = np.asarray(t1w.dataobj)
    positive = data[data > 0]
    if positive.size == 0:
        return None
    above = data > _BACKGROUND * np.percentile(positive, 99)
    litres = float(above.sum() * abs(np.linalg.det(t1w.affine[:3, :3])) / 1e6)
    if not _STRIPPED_LITRES[0] <= litres <= _STRIPPED_LITRES[1] or litres > 0.9 * _litres(t1w):
        return None
    return nib.Nifti1Image(largest_piece(above).astype(np.uint8), t1w.affine)


def largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece of `mask`, its holes filled."""
    from scipy.ndimage import binary_fill_holes, label

    pieces, n = label(mask)
    if n > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        mask = pieces == sizes.argmax()
    return np.asarray(binary_fill_holes(mask), dtype=np.bool_)


def _litres(image: nib.Nifti1Image) -> float:
    return float(np.prod(image.shape[:3]) * abs(np.linalg.det(image.affine[:3, :3])) / 1e6)


def _load(path: Path, what: str) -> tuple[Any, NDArray[np.float32]]:
    """The image and its values; of a 4D image with one volume that volume."""
    try:
        image = nib.load(path)
        data = np.asarray(cast(Any, image).dataobj, dtype=np.float32)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(
            f"{what} {path} cannot be read ({error}).", hint="Copy or convert it again."
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{what} {path} is {type(image).__name__}, not NIfTI.", hint="Give .nii or .nii.gz.")
    return image, data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
