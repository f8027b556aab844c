"""Which vertex of a cortical surface belongs to which region.

Ways, the first that can be shown to hold is taken, none is guessed:
  1. vertices   INPUT has one value a vertex of a known mesh: fs_LR 32k (64,984 both hemispheres, left first;
                32,492 one) or fsaverage5 (20,484; 10,242); or vertices of fs_LR 32k by their names, as CIFTI
                files have them, without the medial wall
  2. dlabel     the file atlas.dlabel.nii beside the shards, fs_LR 32k: its keys are the column numbers
  3. Schaefer   regions with the names of Schaefer 100, 200, 300, 400 or 1000 (of 7 or 17 networks, also among
                others): the vertex labels that ship with BrainSpace, in 7-network order
  4. volume     labels of the atlas volume next to each vertex of fsaverage5 (nilearn's vol_to_surf, most
                frequent label between white matter and pial surface): approximate

Meshes: Conte69 midthickness, fs_LR 32k (Van Essen et al. 2012, doi:10.1093/cercor/bhr291), in the BrainSpace
package; fsaverage5 (Fischl et al. 1999), in nilearn. Nothing is downloaded.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.regions import Regions
from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

FSLR_VERTICES, FSAVERAGE5_VERTICES = 32492, 10242  # of one hemisphere
SCHAEFER_ON_FSLR = (100, 200, 300, 400, 1000)  # parcels; those whose vertex labels BrainSpace has
MAX_GAP = 4.0  # mm, or one voxel: a vertex takes no label from further away
SIDES = ("left", "right")


@dataclass(frozen=True, kw_only=True, eq=False)
class Hemisphere:
    """A mesh of V vertices, and the region of each."""

    side: str  # one of SIDES
    vertices: NDArray[np.float64]  # (V, 3) mm, x to the right, y to the front, z up
    faces: NDArray[np.int64]  # (F, 3) vertex numbers, counter-clockwise seen from outside
    depth: NDArray[np.float64]  # (V,) above 0 in a sulcus, for the grey background
    labels: NDArray[np.int64]  # (V,) 1..R, 0 where no region is


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceLabels:
    """The regions on a surface, and how they came there (one sentence, for a caption)."""

    hemispheres: list[Hemisphere]
    mesh: str  # "fs_LR 32k" or "fsaverage5"
    how: str
    is_approximate: bool = False

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers (from 1) of the regions that have a vertex."""
        labels = np.concatenate([hemisphere.labels for hemisphere in self.hemispheres])
        return np.setdiff1d(labels, [0])


def surface_labels(regions: Regions) -> SurfaceLabels | None:
    """The regions, numbers 1..R, on a cortical surface; None (and why, in the log) where no way is known."""
    n_rois = len(regions.table)
    found = _as_vertices(n_rois, regions.column("hemisphere")) or _from_vertex_names(regions.names)
    if found is None and regions.dlabel is not None:
        found = _from_dlabel(regions.dlabel, n_rois)
    if found is None:
        found = _from_schaefer_names(regions.names)
    if found is None and regions.labels_img is not None:
        found = _from_volume(regions)
    if found is None:
        log.warning(
            "no surface is drawn: %d regions are neither vertices of a known mesh, nor named as Schaefer "
            "100, 200, 300, 400 or 1000, and there is no label file of them.",
            n_rois,
        )
    return found


def _as_vertices(n_rois: int, hemisphere: list[str] | None) -> SurfaceLabels | None:
    for one, make, mesh in (
        (FSLR_VERTICES, _fslr, "fs_LR 32k"),
        (FSAVERAGE5_VERTICES, _fsaverage5, "fsaverage5"),
    ):
        labels = np.arange(1, n_rois + 1)
        if n_rois == 2 * one:
            how = f"one value a vertex of {mesh}: both hemispheres, left first"
            return SurfaceLabels(hemispheres=make(labels, SIDES), mesh=mesh, how=how)
        if n_rois == one:
            told = {side[:1].upper() for side in hemisphere or []}
            side = "right" if told == {"R"} else "left"
            how = f"one value a vertex of {mesh}, {side} hemisphere"
            if told not in ({"L"}, {"R"}):
                how += " (INPUT does not say which; left is taken)"
                log.warning(
                    "%d vertices are one hemisphere, INPUT does not say which: drawn as left.", n_rois
                )
            return SurfaceLabels(hemispheres=make(labels, (side,)), mesh=mesh, how=how)
    return None


def _from_vertex_names(names: list[str]) -> SurfaceLabels | None:
    """Names like L-00012 of more vertices than fsaverage5 has: the mesh of CIFTI series."""
    named = [re.fullmatch(r"([LR])-(\d{5})", name) for name in names]
    if len(names) <= FSAVERAGE5_VERTICES or not all(named):
        return None
    side = np.array([match[1] == "R" for match in named if match])
    vertex = np.array([int(match[2]) for match in named if match])
    if vertex.max() >= FSLR_VERTICES:
        return None
    labels = np.zeros((2, FSLR_VERTICES), dtype=np.int64)
    labels[side.astype(int), vertex] = np.arange(1, len(names) + 1)
    there = [not side.all(), bool(side.any())]  # left, right
    sides = tuple(name for name, is_there in zip(SIDES, there, strict=True) if is_there)
    how = "one value a vertex of fs_LR 32k, by the names of the vertices"
    return SurfaceLabels(hemispheres=_fslr(labels[there].ravel(), sides), mesh="fs_LR 32k", how=how)


def _from_dlabel(path: Path, n_rois: int) -> SurfaceLabels | None:
    from bjepa.preproc.atlas.dlabel import read_dlabel

    file = read_dlabel(path)
    if file.keys.max(initial=0) > n_rois:
        raise InputError(f"{path} has label {file.keys.max()}, but there are {n_rois} regions.")
    labels = np.zeros(2 * FSLR_VERTICES, dtype=np.int64)
    structure = np.asarray(file.axis.name)
    for side, name in enumerate(("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")):
        if file.axis.nvertices.get(name, FSLR_VERTICES) != FSLR_VERTICES:
            log.warning("%s is not on fs_LR 32k (%d vertices).", path, file.axis.nvertices[name])
            return None
        of_side = structure == name
        labels[side * FSLR_VERTICES + np.asarray(file.axis.vertex)[of_side]] = file.keys[of_side]
    how = f"the vertices of each region as in {path.parent.name}/{path.name}"
    return SurfaceLabels(hemispheres=_fslr(labels, SIDES), mesh="fs_LR 32k", how=how)


def _from_schaefer_names(names: list[str]) -> SurfaceLabels | None:
    from bjepa.preproc.atlas.published import schaefer_table
    from bjepa.preproc.atlas.region_names import region_numbers

    for n_parcels in SCHAEFER_ON_FSLR:
        found = region_numbers(names, schaefer_table("7networks", n_parcels))
        if found.problem or found.absent or found.ambiguous:
            continue
        column_of = np.concatenate(
            [[0], found.numbers + 1]
        )  # by 7-network label; 0, the medial wall, stays 0
        file = brainspace_datasets() / "parcellations" / f"schaefer_{n_parcels}_conte69.csv"
        labels = column_of[np.loadtxt(file).astype(np.int64)]
        how = (
            f"the vertices of each parcel as published for Schaefer-{n_parcels} (labels of the BrainSpace "
            f"package, found by the names of the regions: {found.naming.split()[1]})"
        )
        return SurfaceLabels(hemispheres=_fslr(labels, SIDES), mesh="fs_LR 32k", how=how)
    return None


def _from_volume(regions: Regions) -> SurfaceLabels:
    """Labels of the volume at fsaverage5.

    Where structure and hemisphere are known, a side takes cortical labels of its own side only.
    """
    volume = np.asarray(regions.labels_img.dataobj).astype(np.int64)  # (x, y, z)
    structure, hemisphere = regions.column("structure"), regions.column("hemisphere")
    n_rois = len(regions.table)
    found = []
    for side, other in zip(SIDES, ("R", "L"), strict=True):
        is_here = np.ones(n_rois + 1, dtype=bool)
        if structure is not None:
            is_here[1:] &= np.array(structure) != "subcortex"
        if hemisphere is not None:
            is_here[1:] &= np.array([cell[:1].upper() != other for cell in hemisphere])
        found.append(_project(np.where(is_here[volume], volume, 0), regions.labels_img.affine, side))
    return SurfaceLabels(
        hemispheres=_fsaverage5(np.concatenate(found), SIDES),
        mesh="fsaverage5",
        how="each vertex takes the label that the atlas volume has most often between white matter and pial "
        "surface. This is approximate: volume and surface come from different brains, and borders are off by "
        "some millimetres",
        is_approximate=True,
    )


def _project(labels: NDArray[np.int64], affine: NDArray[np.float64], side: str) -> NDArray[np.int64]:
    """(V,) label of each vertex of one side of fsaverage5, 0 where none is near (MAX_GAP)."""
    import nibabel as nib
    from nilearn.surface import vol_to_surf
    from scipy.ndimage import distance_transform_edt

    # background within reach takes the nearest label: else it would win where a vertex lies beside the cortex
    spacing = np.linalg.norm(affine[:3, :3], axis=0)  # mm
    distance, nearest = distance_transform_edt(labels == 0, sampling=spacing, return_indices=True)
    filled = np.where(distance <= max(MAX_GAP, spacing.max()), labels[tuple(nearest)], 0)
    folder = _fsaverage5_folder()
    found = vol_to_surf(
        nib.Nifti1Image(filled.astype(np.int32), affine),
        str(folder / f"pial_{side}.gii.gz"),
        inner_mesh=str(folder / f"white_{side}.gii.gz"),
        interpolation="nearest_most_frequent",
    )
    return np.asarray(found).astype(np.int64)


def _fslr(labels: NDArray[np.int64], sides: tuple[str, ...]) -> list[Hemisphere]:
    import nibabel as nib

    folder = brainspace_datasets()
    curvature = np.loadtxt(folder / "matrices" / "main_group" / "conte69_32k_curvature.csv")
    made = []
    for place, side in enumerate(sides):
        mesh: Any = nib.load(folder / "surfaces" / f"conte69_32k_{side[0]}h.gii")
        start = SIDES.index(side) * FSLR_VERTICES
        made.append(
            Hemisphere(
                side=side,
                vertices=mesh.darrays[0].data.astype(np.float64),
                faces=mesh.darrays[1].data.astype(np.int64),
                depth=curvature[start : start + FSLR_VERTICES],
                labels=labels[place * FSLR_VERTICES : (place + 1) * FSLR_VERTICES],
            )
        )
    return made


def _fsaverage5(labels: NDArray[np.int64], sides: tuple[str, ...]) -> list[Hemisphere]:
    import nibabel as nib

    folder = _fsaverage5_folder()
    made = []
    for place, side in enumerate(sides):
        mesh: Any = nib.load(folder / f"pial_{side}.gii.gz")
        sulci: Any = nib.load(folder / f"sulc_{side}.gii.gz")
        made.append(
            Hemisphere(
                side=side,
                vertices=mesh.darrays[0].data.astype(np.float64),
                faces=mesh.darrays[1].data.astype(np.int64),
                depth=sulci.darrays[0].data.astype(np.float64),
                labels=labels[place * FSAVERAGE5_VERTICES : (place + 1) * FSAVERAGE5_VERTICES],
            )
        )
    return made


def _fsaverage5_folder() -> Path:
    import nilearn

    return Path(nilearn.__file__).parent / "datasets" / "data" / "fsaverage5"
