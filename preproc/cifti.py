"""Regional mean series of a CIFTI scan: grayordinates matched by what they are, averaged by a sparse matrix.

Grayordinates are matched by structure and vertex number, or structure and voxel, never by their position in
the file: files of 91,282, of 64,984 and of 59,412 grayordinates list them differently. What the atlas has and
the scan lacks (medial wall, missing structures) lowers the coverage of its region. A grayordinate is valid
when it is finite in every frame and not zero in every frame, as for volumes.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import sparse

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.atlas.dlabel import axis_kinds, load_cifti
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan

log = logging.getLogger(__name__)

_BLOCK_BYTES = 8 * 2**20  # of values in float64: the memory beyond the result, whatever the length


def extract_dtseries(path: Path, atlas: Atlas) -> RegionalScan:
    """Mean of every region of a CIFTI atlas in every frame of a `.dtseries.nii`.

    Parameters
    ----------
    path : dense series; T frames x any of the surface vertices and voxels that the atlas knows
    atlas : of kind "cifti"

    Returns
    -------
    RegionalScan with a column for each region, NaN where no grayordinate is valid; `coverage` is the share of
    the atlas' grayordinates that are; `t_r` in s, None where the file does not say it in seconds.

    Raises
    ------
    InputError
        A file that is not a dense series, is damaged, or has other surfaces or voxels than the atlas.
    """
    if atlas.kind != "cifti":
        raise InputError(
            f"{path} is CIFTI, the atlas {atlas.name} is of kind {atlas.kind!r}.",
            hint="Load the atlas with kind='cifti'.",
        )
    image = load_cifti(path)
    series, brain_models = _dense_axes(path, image)
    column = _column_of_grayordinates(path, brain_models, atlas)  # (n_grayordinates,) column + 1, 0 = none
    sums = np.zeros((atlas.n_rois, len(series)))
    n_valid = np.zeros(atlas.n_rois)
    n_invalid = 0
    for start, block in _blocks(path, image):  # block: (n_frames, n_block)
        used = column[start : start + block.shape[1]] > 0
        finite = np.isfinite(block).all(axis=0)
        valid = used & finite & (block != 0).any(axis=0)
        n_invalid += int((used & ~finite).sum())
        rows = column[start : start + block.shape[1]][valid] - 1  # (n_valid,) region of each
        entries = (np.ones(len(rows)), (rows, np.arange(len(rows))))
        adding = sparse.csr_array(entries, shape=(atlas.n_rois, len(rows)))
        sums += adding @ block.T[valid].astype(np.float64)
        n_valid += np.bincount(rows, minlength=atlas.n_rois)
    n_atlas = np.bincount(atlas.labels, minlength=atlas.n_rois + 1)[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums / n_valid[:, None]).T  # (n_frames, n_rois)
        coverage = np.where(n_atlas > 0, n_valid / n_atlas, 0.0)
    means[:, n_valid == 0] = np.nan
    return RegionalScan(means.astype(np.float32), coverage, _t_r(path, series), n_invalid)


def read_ptseries(path: Path) -> tuple[NDArray[np.float32], list[str], float | None]:
    """Read a parcellated series `.ptseries.nii`: values (T, n), the n names of its parcels, t_r in s or None.

    Raises InputError for anything else. Which atlas the parcels are of is for the caller to find by name.
    """
    image = load_cifti(path)
    if image.ndim != 2 or not isinstance(image.header.get_axis(1), nib.cifti2.ParcelsAxis):
        raise InputError(f"{path} is not a parcellated series: its axes are {axis_kinds(image)}.")
    series = image.header.get_axis(0)
    if not isinstance(series, nib.cifti2.SeriesAxis) or len(series) < 2:
        raise InputError(
            f"{path} holds parcels but is not a series over time: its axes are {axis_kinds(image)}, "
            f"{len(series)} long.",
            hint="Give a .ptseries.nii.",
        )
    values = np.empty(image.shape, dtype=np.float32)
    for start, block in _blocks(path, image):
        values[:, start : start + block.shape[1]] = block
    return values, [str(name) for name in image.header.get_axis(1).name], _t_r(path, series)


# --- what the file says of itself ---------------------------------------------------------------------------


def _dense_axes(path: Path, image: Any) -> tuple[Any, Any]:
    """The series axis and the brain models of a dense series; anything else is refused with its kind."""
    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if len(axes) != 2 or not isinstance(axes[1], nib.cifti2.BrainModelAxis):
        raise InputError(
            f"{path} is not a dense series: its axes are {axis_kinds(image)}.",
            hint="Give a .dtseries.nii (a .ptseries.nii is read as a table of regions).",
        )
    if not isinstance(axes[0], nib.cifti2.SeriesAxis) or len(axes[0]) < 2:
        raise InputError(
            f"{path} is not a series over time: its axes are {axis_kinds(image)}, {len(axes[0])} long.",
            hint="Give a .dtseries.nii of two frames or more, not a map (dscalar) or labels (dlabel).",
        )
    return axes[0], axes[1]


def _t_r(path: Path, series: Any) -> float | None:
    if series.unit == "SECOND" and np.isfinite(series.step) and series.step > 0:
        return float(series.step)
    log.warning("%s: its series steps by %g %s, which is no repetition time.", path, series.step, series.unit)
    return None


# --- matching -----------------------------------------------------------------------------------------------


def _column_of_grayordinates(path: Path, scan: Any, atlas: Atlas) -> NDArray[np.int64]:
    """Column + 1 (0 = none) of each grayordinate of a scan, by structure and vertex or voxel."""
    axis = atlas.labels_img.header.get_axis(1)
    labels_of = {str(name): (model, atlas.labels[rows]) for name, rows, model in axis.iter_structures()}
    column = np.zeros(len(scan), dtype=np.int64)
    shared = 0
    for structure, rows, model in scan.iter_structures():
        if str(structure) not in labels_of:
            continue
        shared += 1
        own, labels = labels_of[str(structure)]
        if str(structure) in scan.nvertices:
            column[rows] = _on_surface(path, str(structure), model, own, labels)
        else:
            column[rows] = _in_voxels(path, model, own, labels)
    if not shared or not column.any():
        raise InputError(
            f"{path} shares no grayordinate with the regions of {atlas.name}.",
            hint="Give a dtseries on the fsLR 32k surface.",
        )
    return column


def _on_surface(
    path: Path, structure: str, scan: Any, atlas: Any, labels: NDArray[np.int16]
) -> NDArray[np.int64]:
    n_scan, n_atlas = scan.nvertices[structure], atlas.nvertices.get(structure)
    if n_scan != n_atlas:
        raise InputError(
            f"{path}: {structure} has {n_scan} vertices, in the atlas {n_atlas}: another surface.",
            hint="Resample the scan to the surface of the atlas (fsLR 32k).",
        )
    of_vertex = np.zeros(n_scan, dtype=np.int64)
    of_vertex[atlas.vertex] = labels
    column: NDArray[np.int64] = of_vertex[scan.vertex]
    return column


def _in_voxels(path: Path, scan: Any, atlas: Any, labels: NDArray[np.int16]) -> NDArray[np.int64]:
    to_atlas = np.linalg.inv(atlas.affine) @ scan.affine
    place = apply_affine(to_atlas, scan.voxel)  # (n, 3) in voxels of the atlas
    voxel = np.rint(place).astype(np.int64)
    if np.abs(place - voxel).max() > 1e-2:
        raise InputError(
            f"{path}: its voxels are not on the grid of the atlas ({_grid(scan)} against {_grid(atlas)}).",
            hint="Resample the scan to the voxels of the atlas (2 mm MNI152NLin6Asym).",
        )
    label_of = {tuple(ijk): int(label) for ijk, label in zip(atlas.voxel.tolist(), labels, strict=True)}
    return np.array([label_of.get(tuple(ijk), 0) for ijk in voxel.tolist()], dtype=np.int64)


def _grid(axis: Any) -> str:
    sizes = nib.affines.voxel_sizes(axis.affine).round(2).tolist()
    return f"{sizes} mm, first voxel at {axis.affine[:3, 3].round(2).tolist()}"


# --- streaming ----------------------------------------------------------------------------------------------


def _blocks(path: Path, image: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """First column and values (n_frames, n) of blocks of columns, one after the other.

    CIFTI stores the series of one grayordinate or parcel after that of the other: a block of columns is one
    piece of the file, a block of frames would be 91,282.
    """
    n_frames, n_columns = image.shape
    size = max(1, _BLOCK_BYTES // (8 * n_frames))
    for start in range(0, n_columns, size):
        try:
            block = np.asarray(image.dataobj[:, start : start + size])
        except (OSError, ValueError, EOFError) as error:  # cut short
            raise InputError(f"{path} is damaged ({error}).", hint="Copy the file again.") from error
        yield start, block


def read_series_header(path: Path) -> tuple[int, float | None]:
    """Frames and t_r (s, None where the file does not say it) of a dense or parcellated series."""
    image = load_cifti(path)
    series = image.header.get_axis(0)
    if not isinstance(series, nib.cifti2.SeriesAxis):
        raise InputError(f"{path} is not a series over time: its axes are {axis_kinds(image)}.")
    return len(series), _t_r(path, series)
