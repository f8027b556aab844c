"""The parcellation as one sparse matrix.

Resampling a volume linearly onto the atlas grid and averaging within a region are both linear in the volume,
so together they are one matrix W (n_rois, n_voxels):

    W[r, v] = sum over the atlas voxels of region r of the trilinear weight that voxel v has at their place

Corners outside the field of view are dropped; W is not normalised. With a set of valid voxels, the regional
mean is `(W @ x) / (W @ valid)` and the coverage of a region is `(W @ valid) / n_atlas_voxels`. Every region
keeps its row on every grid, where resampling the labels to a coarse grid loses some (3 of 450 at 7.5 mm).

Smoothing is linear too. A Gaussian filter S of the volumes, followed by W, is the one matrix W S: since S is
symmetric, its rows are the rows of W, smoothed as if they were volumes. Smoothing a run so costs 10 times the
entries of W (2 ms a volume at 2 mm and 6 mm FWHM), not a filter over every volume (150 ms).
"""

import hashlib
import logging
import zipfile
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import sparse

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.files import write_aside

log = logging.getLogger(__name__)

_FORMAT = 2  # part of the cache's file name: change it when the matrix changes


@dataclass(frozen=True, eq=False)
class Operator:
    """W, restricted to the voxels that any region uses.

    voxels : (n_used,) Fortran-order positions in the volume, ascending
    weights : (n_rois, n_used) float64 CSR
    n_atlas_voxels : (n_rois,) voxels of each region in the atlas volume
    """

    voxels: NDArray[np.intp]
    weights: sparse.csr_array
    n_atlas_voxels: NDArray[np.float64]


def build_operator(atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Operator:
    """The operator of `atlas` on a grid of `shape` and `affine` (voxel to mm, any orientation)."""
    labelled = np.argwhere(atlas.labels > 0)  # (n_labelled, 3)
    region = atlas.labels[atlas.labels > 0].astype(np.int64) - 1  # (n_labelled,)
    to_grid = np.linalg.inv(affine) @ atlas.labels_img.affine
    # rounding: on the atlas' own grid inv(A) @ A misses whole voxels by 1e-15 and would drop the border
    place = np.round(apply_affine(to_grid, labelled), 6)  # (n_labelled, 3), in voxels of the grid
    low = np.floor(place).astype(np.int64)
    fraction = place - low

    rows, columns, values = [], [], []
    for corner in product((0, 1), repeat=3):
        weight = np.where(corner, fraction, 1 - fraction).prod(axis=1)  # (n_labelled,)
        voxel = low + corner
        inside = ((voxel >= 0) & (voxel < shape)).all(axis=1) & (weight > 0)
        rows.append(region[inside])
        columns.append(np.ravel_multi_index(tuple(voxel[inside].T), shape, order="F"))
        values.append(weight[inside])
    voxels, used = np.unique(np.concatenate(columns), return_inverse=True)
    entries = (np.concatenate(values), (np.concatenate(rows), used))
    weights = sparse.csr_array(
        sparse.coo_array(entries, shape=(atlas.n_rois, len(voxels)))
    )  # sums duplicates
    return Operator(voxels.astype(np.intp), weights, _count(region, atlas.n_rois))


def _count(region: NDArray[np.int64], n_rois: int) -> NDArray[np.float64]:
    return np.bincount(region, minlength=n_rois).astype(np.float64)


def smooth_operator(
    operator: Operator,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    smoothing_fwhm: float,
) -> Operator:
    """The operator of volumes that are smoothed first; `smoothing_fwhm` in mm along each axis of the grid.

    The filter is that of nilearn.image.smooth_img (scipy's `gaussian_filter1d` axis by axis, zeros outside).
    """
    from scipy.ndimage import gaussian_filter1d

    sigma = smoothing_fwhm / (np.sqrt(8 * np.log(2)) * voxel_sizes(affine))  # (3,) voxels
    margin = np.ceil(4 * sigma + 1).astype(int)  # scipy cuts the Gaussian at 4 sigma
    rows, columns, values = [], [], []
    for region in range(operator.weights.shape[0]):
        row = operator.weights[[region]]
        if row.nnz == 0:
            continue
        place = np.array(np.unravel_index(operator.voxels[row.indices], shape, order="F"))  # (3, n)
        low = np.maximum(place.min(axis=1) - margin, 0)
        high = np.minimum(place.max(axis=1) + margin + 1, shape)
        box = np.zeros(high - low)
        box[tuple(place - low[:, None])] = row.data
        for axis in range(3):
            box = gaussian_filter1d(box, sigma[axis], axis=axis, mode="constant")
        there = np.nonzero(box)
        rows.append(np.full(len(there[0]), region))
        columns.append(np.ravel_multi_index(tuple(np.array(there) + low[:, None]), shape, order="F"))
        values.append(box[there])
    voxels, used = np.unique(np.concatenate([operator.voxels, *columns]), return_inverse=True)
    used = used[len(operator.voxels) :]
    entries = (np.concatenate(values), (np.concatenate(rows), used))
    weights = sparse.csr_array(sparse.coo_array(entries, shape=(operator.weights.shape[0], len(voxels))))
    return Operator(voxels.astype(np.intp), weights, operator.n_atlas_voxels)


def cached_operator(
    atlas: Atlas,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    *,
    smoothing_fwhm: float | None = None,
    folder: Path | None,
) -> Operator:
    """The operator of a grid, kept in `folder` (one file of about 0.5 MB per grid); None: built anew."""
    if folder is None:
        return _operator(atlas, shape, affine, smoothing_fwhm)
    grid = np.concatenate(
        [
            np.asarray(shape, np.float64),
            affine.ravel(),
            _labels_affine(atlas).ravel(),
            [smoothing_fwhm or 0.0],
        ]
    )
    key = hashlib.sha256(grid.tobytes() + atlas.sha256.encode()).hexdigest()[:16]
    path = folder / f"operator-v{_FORMAT}-{key}.npz"
    if (kept := _read_kept(path, atlas.n_rois)) is not None:
        return kept
    operator = _operator(atlas, shape, affine, smoothing_fwhm)
    w = operator.weights
    with write_aside(path) as aside:
        np.savez(
            aside,
            voxels=operator.voxels,
            data=w.data,
            indices=w.indices,
            indptr=w.indptr,
            n_atlas_voxels=operator.n_atlas_voxels,
        )
    return operator


def _read_kept(path: Path, n_rois: int) -> Operator | None:
    """The operator of a file; None where there is none, or it is damaged and must be built again."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = (kept["data"], kept["indices"], kept["indptr"])
            weights = sparse.csr_array(parts, shape=(n_rois, len(kept["voxels"])))
            return Operator(kept["voxels"], weights, kept["n_atlas_voxels"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s) and is made again.", path, error)
        return None


def _operator(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], smoothing_fwhm: float | None
) -> Operator:
    plain = build_operator(atlas, shape, affine)
    return smooth_operator(plain, shape, affine, smoothing_fwhm) if smoothing_fwhm else plain


def _labels_affine(atlas: Atlas) -> NDArray[np.float64]:
    return np.asarray(atlas.labels_img.affine, dtype=np.float64)
