"""Values of regions spread over the places of the atlas: a 4D volume, or CIFTI grayordinates.

A place outside every region, and one of a region without value (NaN), gets 0: viewers show 0 as background,
while NaN is drawn, or breaks the colour scale, in several of them. Which regions have no value is told by
gradients.tsv ("n/a") and by /kept of gradients.h5.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.files import write_aside

Array = NDArray[np.float64]


def paint(values: Array, labels_img: Any) -> NDArray[np.float32]:
    """Spread (R, C) values over the voxels labelled 1..R: (x, y, z, C) float32, 0 elsewhere."""
    return _spread(values, np.asarray(labels_img.dataobj).astype(np.int64))


def _spread(values: Array, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    by_label = np.zeros((values.shape[0] + 1, values.shape[1]), dtype=np.float32)
    by_label[1:] = np.where(np.isnan(values), 0.0, values)
    painted: NDArray[np.float32] = by_label[labels]
    return painted


def write_volume(path: Path, values: Array, labels_img: Any) -> None:
    """Each voxel takes the values (R, C) of its region: (x, y, z, C) float32 in the grid of the atlas."""
    import nibabel

    nib: Any = nibabel  # partly typed
    volume = nib.Nifti1Image(paint(values, labels_img), labels_img.affine)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = b"connectivity gradients, one per volume"
    with write_aside(path) as aside:
        nib.save(volume, aside)


def write_grayordinates(path: Path, values: Array, dlabel: Path) -> None:
    """Each vertex and voxel of `dlabel` (labels 1..R) takes the values (R, C) of its region: .dscalar.nii.

    One map per component, float32, called gradient_1 and so on.

    Raises
    ------
    InputError
        `dlabel` is no dense label file.
    """
    import nibabel

    from bjepa.preproc.atlas.dlabel import read_dlabel

    nib: Any = nibabel
    labels = read_dlabel(dlabel)
    names = [f"gradient_{number}" for number in range(1, values.shape[1] + 1)]
    header = (nib.cifti2.ScalarAxis(names), labels.axis)
    image = nib.Cifti2Image(_spread(values, labels.keys).T, header=header)  # (C, grayordinates)
    image.nifti_header.set_intent("ConnDenseScalar")
    image.update_headers()
    with write_aside(path) as aside:
        nib.save(image, aside)
