"""A transform of space as one field of displacements: points in, points out; kept as ITK's vector images.

    p' = p + d(p)      d interpolated linearly from its grid, beyond the grid as at its border

Points and displacements are in mm, RAS (nibabel's world). On disk the field is a NIfTI vector image of shape
(x, y, z, 1, 3) whose components are LPS, as ITK and ANTs write and read it: `antsApplyTransforms -t FILE`
resamples with it the image that lies where the points come out.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Displacement:
    """field : (x, y, z, 3) float32, mm, RAS; affine : (4, 4) voxel of the field to mm."""

    field: NDArray[np.float32]
    affine: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where `points` (n, 3) mm go: (n, 3) mm."""
        from scipy.ndimage import map_coordinates

        voxels = apply_affine(np.linalg.inv(self.affine), points).T  # (3, n)
        moved = [
            map_coordinates(self.field[..., axis], voxels, order=1, mode="nearest", output=np.float64)
            for axis in range(3)
        ]
        return np.asarray(points + np.stack(moved, axis=1), dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write the field as ITK has it, whole or not at all."""
        data = (self.field * _LPS).astype(np.float32)[:, :, :, None, :]  # (x, y, z, 1, 3)
        image = nib.Nifti1Image(data, self.affine)
        image.header.set_intent("vector")
        image.header.set_xyzt_units("mm")
        with write_aside(path) as aside:
            nib.save(image, aside)


def load_displacement(path: Path) -> Displacement:
    """Read a field that `save` or ITK has written. Raises InputError for any other image."""
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image) or image.ndim != 5 or image.shape[3:] != (1, 3):
        raise InputError(f"{path} must be a field of displacements (x, y, z, 1, 3), got {image.shape}.")
    field = np.asarray(image.dataobj, dtype=np.float32)[:, :, :, 0, :] * _LPS.astype(np.float32)
    return Displacement(field, np.asarray(image.affine, dtype=np.float64))
