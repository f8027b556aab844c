"""The demo atlas: 450 regions as a small label volume, built offline from the brainspace wheel's surfaces.

Order of operations:
  1. grid       isotropic voxels around the conte69 surfaces (MNI mm), x falling as in the FSL template
  2. cortex     a voxel takes the Schaefer-400 label of its nearest vertex, if one is within 0.85 voxel
  3. subcortex  balls around the 50 Tian S3 centroids; they win over cortex
  4. numbers    1-50 Tian S3, 51-450 Schaefer-400 in 17-network order (the wheel has 7-network order)

It has the names, order and places of the published atlas, not its borders: it is called `demo`, never
Schaefer, and is for the simulated cohort only.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_tsv

N_SUBCORTEX, N_CORTEX = 50, 400
N_ROIS = N_SUBCORTEX + N_CORTEX
RESOLUTION = 5.0  # mm; 450 labels are non-empty from 3 to 6 mm
SPACE = "MNI152NLin6Asym"
COLUMNS = ("index", "name", "structure", "hemisphere", "network7", "network17")


@dataclass(frozen=True, kw_only=True)
class DemoAtlas:
    """A label volume and one row per region, in column order."""

    labels: NDArray[np.int16]  # (x, y, z), 0 = background, else index
    affine: NDArray[np.float64]  # (4, 4), voxel to MNI mm
    table: Any  # pandas.DataFrame, COLUMNS and the published centroids x y z (mm)


def build_demo_atlas(resolution: float = RESOLUTION) -> DemoAtlas:
    """Build the demo atlas with isotropic voxels of `resolution` mm.

    Raises InputError if a region would be empty (voxels too large) or brainspace's files are not there.
    """
    from scipy.spatial import cKDTree

    table = demo_table()
    vertices, vertex_index = _cortex_vertices(table)  # (n, 3) mm, (n,) index or 0 on the medial wall
    shape, affine = _grid_around(vertices, resolution)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    millimetres = voxels @ affine[:3, :3].T + affine[:3, 3]  # (n_voxels, 3)

    labels = np.zeros(len(voxels), np.int16)
    distance, nearest = cKDTree(vertices).query(millimetres, distance_upper_bound=0.85 * resolution)
    near_cortex = np.isfinite(distance)
    labels[near_cortex] = vertex_index[nearest[near_cortex]]

    # a ball smaller than a voxel may hold no voxel centre: 1.1 voxels always does
    centroids = table[["x", "y", "z"]].to_numpy()[:N_SUBCORTEX]
    distance, nearest = cKDTree(centroids).query(millimetres)
    in_ball = distance <= max(4.5, 1.1 * resolution)
    labels[in_ball] = 1 + nearest[in_ball]

    empty = np.setdiff1d(np.arange(1, N_ROIS + 1), labels)
    if len(empty):
        raise InputError(
            f"resolution: at {resolution:g} mm regions {empty.tolist()} hold no voxel.",
            hint="Choose 3 to 6 mm.",
        )
    return DemoAtlas(labels=labels.reshape(shape), affine=affine, table=table)


def write_demo_atlas(atlas: DemoAtlas, folder: Path) -> None:
    """Write `demo_dseg.nii.gz` (int16), `demo_dseg.tsv` (COLUMNS) and `demo_dseg.json` into `folder`."""
    import nibabel as nib

    image = nib.Nifti1Image(atlas.labels, atlas.affine)
    image.set_sform(atlas.affine, code=4)  # 4: MNI152
    image.set_qform(atlas.affine, code=4)
    image.header.set_xyzt_units("mm")
    with write_aside(folder / "demo_dseg.nii.gz") as aside:
        nib.save(image, aside)
    write_tsv(folder / "demo_dseg.tsv", atlas.table[list(COLUMNS)])
    about = {
        "Description": "Demo atlas of bjepa: Schaefer-400 surface labels and balls around Tian S3 centroids.",
        "Space": SPACE,
        "Sources": ["conte69 surfaces and schaefer_400_conte69 labels of the brainspace package"],
    }
    write_json(folder / "demo_dseg.json", about)


@functools.cache
def demo_table() -> Any:
    """One row per region in column order: COLUMNS, centroid x y z (mm), and `label_7networks` (cortex).

    Do not modify: it is shared. `index` is 1 to 450; subcortical rows have the network "Subcortex".
    """
    import pandas as pd

    from bjepa.preproc.atlas.published import schaefer_table, tian_table

    subcortex = tian_table().assign(label_7networks=0)
    cortex = schaefer_table("17networks").drop(columns="label_17networks")
    table = pd.concat([subcortex, cortex], ignore_index=True)
    table["index"] = np.arange(1, N_ROIS + 1)
    return table


def _cortex_vertices(table: Any) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Vertices of both hemispheres in MNI mm, (n, 3), and the region index of each, (n,)."""
    import nibabel as nib

    datasets = brainspace_datasets()
    surfaces = [nib.load(datasets / "surfaces" / f"conte69_32k_{side}h.gii") for side in "lr"]
    vertices = np.vstack([surface.darrays[0].data for surface in surfaces]).astype(np.float64)
    label_7 = np.loadtxt(datasets / "parcellations" / "schaefer_400_conte69.csv").astype(np.int16)
    index_of_7 = np.zeros(N_CORTEX + 1, np.int16)  # 0, the medial wall, stays 0
    cortex = table[table["structure"] == "cortex"]
    index_of_7[cortex["label_7networks"]] = cortex["index"]
    return vertices, index_of_7[label_7]


def _grid_around(
    vertices: NDArray[np.float64], resolution: float
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Voxel centres on multiples of `resolution`, two voxels beyond the vertices on each side."""
    low = (np.floor(vertices.min(0) / resolution) - 2) * resolution
    high = (np.ceil(vertices.max(0) / resolution) + 2) * resolution
    x, y, z = np.rint((high - low) / resolution).astype(int) + 1
    affine = np.diag([-resolution, resolution, resolution, 1.0])
    affine[:3, 3] = high[0], low[1], low[2]  # first voxel: right, back, bottom
    return (int(x), int(y), int(z)), affine
