"""What the header of a raw run forbids, and what it makes doubtful."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.stream import BoldFile, checked_affine

MIN_FRAMES = 10
PLAUSIBLE_VOXEL = (0.5, 10.0)  # mm; animals and phantoms lie below, a header without units above
PLAUSIBLE_HEAD = (50.0, 600.0)  # mm, extent of a T1w image
MIN_SLICES = 8  # fewer are a localiser or a partial slab that no registration can place

_LARGE_VOXEL = 4.0  # mm
_SHORT = 5.0  # minutes
_OBLIQUE = 30.0  # degrees


def check_raw_header(bold: BoldFile) -> None:
    """Refuse a run that cannot be preprocessed. That it is 4D and oriented, `open_bold` has seen to.

    Raises InputError for fewer than MIN_FRAMES volumes, voxels that are no head's, or fewer than MIN_SLICES
    voxels along an axis.
    """
    if bold.n_frames < MIN_FRAMES:
        raise InputError(
            f"{bold.path} has {bold.n_frames} volumes; a raw run needs {MIN_FRAMES} at least.",
            hint="Give the BOLD run, not a single-band reference or a field map.",
        )
    sizes = voxel_sizes(bold.affine)
    low, high = PLAUSIBLE_VOXEL
    if sizes.min() < low or sizes.max() > high:
        raise InputError(
            f"{bold.path} has voxels of {_mm(sizes)} mm; {low:g} to {high:g} mm are plausible for a "
            "human head.",
            hint="Restore the original header: its units or its affine are wrong.",
        )
    if min(bold.shape[:3]) < MIN_SLICES:
        raise InputError(
            f"{bold.path} has a grid of {bold.shape[:3]} voxels; {MIN_SLICES} along each axis are needed.",
            hint="A slab of the head cannot be registered; give runs that cover the brain.",
        )


def check_t1w_header(path: Path) -> None:
    """Refuse a T1w image that is no oriented volume of a head. Raises InputError."""
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(f"{path} cannot be read as NIfTI ({error}).", hint="Copy it again.") from error
    check_t1w(image, path)


def check_t1w(image: Any, path: Path) -> None:
    """`check_t1w_header` of an image that is open already."""
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path} is {type(image).__name__}, not NIfTI.", hint="Give .nii or .nii.gz.")
    if len(image.shape) < 3 or image.shape[3:] not in ((), (1,)):
        raise InputError(
            f"{path} must be one 3D image, got shape {image.shape}.",
            hint="Give the T1w image itself; of several volumes, average or choose one.",
        )
    affine = checked_affine(image, path, hint="Convert it again from DICOM, or restore the original header.")
    extent = voxel_sizes(affine) * image.shape[:3]  # (3,) mm
    low, high = PLAUSIBLE_HEAD
    if extent.min() < low or extent.max() > high:
        raise InputError(
            f"{path} is {_mm(extent)} mm large; a head needs {low:g} to {high:g} mm.",
            hint="Restore the original header: its voxel sizes or units are wrong.",
        )


def check_slices(bold: BoldFile, times: tuple[float, ...], axis: int, t_r: float) -> None:
    """Refuse slice times (s) that do not fit the run: one a slice along `axis`, each within the volume.

    Raises InputError.
    """
    n_slices = bold.shape[axis]
    if len(times) != n_slices:
        raise InputError(
            f"{bold.path} has {n_slices} slices along axis {'ijk'[axis]}, SliceTiming has {len(times)} "
            "times.",
            hint="Mend SliceTiming or SliceEncodingDirection of its sidecar, or leave out --slice-timing.",
        )
    if max(times) > t_r * (1 + 1e-6):
        raise InputError(
            f"{bold.path}: SliceTiming reaches {max(times):g} s, a volume takes {t_r:g} s.",
            hint="Seconds from the start of the volume are needed (not milliseconds).",
        )


def header_notes(bold: BoldFile, t_r: float) -> list[str]:
    """What a user must be told of a run, sentences; `t_r` in s."""
    notes = []
    sizes = voxel_sizes(bold.affine)
    if sizes.max() > _LARGE_VOXEL + 1e-3:
        notes.append(f"voxels of {_mm(sizes)} mm are large: small subcortical regions hold few of them.")
    minutes = bold.n_frames * t_r / 60
    if minutes < _SHORT:
        notes.append(f"the run lasts {minutes:.1f} minutes: connectivity from less than 5 is unreliable.")
    angle = float(np.degrees(obliquity(bold.affine)).max())
    if angle > _OBLIQUE:
        notes.append(f"slices are tilted by {angle:.0f} degrees: look at the registration's picture.")
    return notes


def _mm(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)
