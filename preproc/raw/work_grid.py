"""Grids that registrations work on: isotropic, axes along the world's, as large as asked.

A T1w has 5 million voxels in any orientation, its header may shear or mirror. Registration sees a smoothed
copy on a grid of 2 or 4 mm whose axes are right, anterior, superior; what it finds is in mm of the world, so
it holds for the image as it was.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Grid:
    """shape : (x, y, z) voxels; affine : (4, 4) voxel to mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def points(self) -> NDArray[np.float64]:
        """(n, 3) mm, the centres of all voxels in C order."""
        voxels = np.indices(self.shape).reshape(3, -1).T
        return np.asarray(apply_affine(self.affine, voxels), dtype=np.float64)

    def image(self, values: NDArray[np.generic]) -> nib.Nifti1Image:
        """An image of this grid from `values` of its shape, or flat in C order."""
        image = nib.Nifti1Image(np.reshape(values, self.shape), self.affine)
        image.header.set_xyzt_units("mm")
        return image


def grid_of(image: nib.Nifti1Image) -> Grid:
    """The grid of a 3D image."""
    x, y, z = (int(n) for n in image.shape[:3])
    return Grid((x, y, z), np.asarray(image.affine, dtype=np.float64))


def grid_around(points: NDArray[np.float64], voxel_size: float, margin: float) -> Grid:
    """The smallest grid of `voxel_size` mm that holds `points` (n, 3) mm and `margin` mm around them."""
    low = np.floor((points.min(axis=0) - margin) / voxel_size) * voxel_size
    steps = np.ceil((points.max(axis=0) + margin - low) / voxel_size).astype(int) + 1
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = low
    return Grid((int(steps[0]), int(steps[1]), int(steps[2])), affine)


def corners_of(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(8, 3) mm, the centres of the voxels at the corners of a grid."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]], indexing="ij")).reshape(3, -1).T
    return np.asarray(apply_affine(affine, ends), dtype=np.float64)


def corners(image: nib.Nifti1Image) -> NDArray[np.float64]:
    """`corners_of` an image."""
    return corners_of(image.shape, image.affine)


def points_in_mask(mask: nib.Nifti1Image) -> NDArray[np.float64]:
    """(n, 3) mm, the centres of the voxels above 0, in C order."""
    return np.asarray(apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0)), dtype=np.float64)


def resample(image: nib.Nifti1Image, grid: Grid, *, order: int = 1) -> nib.Nifti1Image:
    """`image` on `grid`, float32, 0 outside its field of view.

    order 1 is linear, after a Gaussian that removes what the coarser grid cannot hold (per axis, full width
    at half maximum = root of the difference of the squared voxel sizes); order 0 takes the nearest voxel.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    data = np.asarray(image.dataobj, dtype=np.float32)
    if order > 0:
        fine, coarse = voxel_sizes(image.affine), float(voxel_sizes(grid.affine).max())
        fwhm = np.sqrt(np.maximum(coarse**2 - fine**2, 0.0)) / fine  # voxels
        if fwhm.any():
            data = gaussian_filter(data, fwhm / 2.3548, mode="constant", truncate=3.0)
    to_voxel = np.linalg.inv(image.affine) @ grid.affine
    moved = affine_transform(
        data, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=grid.shape, order=order, mode="constant"
    )
    return grid.image(moved.astype(np.float32))


def resample_mask(mask: nib.Nifti1Image, grid: Grid) -> nib.Nifti1Image:
    """A mask on another grid, uint8: voxels of which more than half lies in it."""
    ones = nib.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
    return grid.image((np.asarray(resample(ones, grid).dataobj) > 0.5).astype(np.uint8))


def sample(image: nib.Nifti1Image, points: NDArray[np.float64], *, order: int = 1) -> NDArray[np.float64]:
    """Values (n,) of `image` at `points` (n, 3) mm, linear or nearest (`order` 0); 0 outside."""
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(image.affine), points).T
    data = np.asarray(image.dataobj, dtype=np.float32)
    return np.asarray(map_coordinates(data, voxels, order=order, mode="constant", output=np.float64))


def widened(mask: nib.Nifti1Image, mm: float) -> nib.Nifti1Image:
    """All voxels of its grid within `mm` of a mask, uint8."""
    from scipy.ndimage import distance_transform_edt

    away = distance_transform_edt(np.asarray(mask.dataobj) == 0, sampling=voxel_sizes(mask.affine))
    return nib.Nifti1Image((away <= mm).astype(np.uint8), mask.affine)
