"""Pictures of a raw run to look at: is the mask the brain's, does the atlas lie on it, how did the head move?

WebP of some 50 kB on a dark ground that is legible in light and dark pages, as the pictures of scans; written
aside, then renamed. The same input gives the same bytes. Slices are cut along the axes of the world (mm,
RAS), the left of the person on the left.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.raw import mosaic
from bjepa.preproc.raw.mosaic import Image, Plane, Sheet
from bjepa.preproc.raw.motion_plot import draw_motion

__all__ = [
    "draw_atlas_on_boldref",
    "draw_boldref_on_t1w",
    "draw_mask_on_boldref",
    "draw_motion",
    "draw_t1w_on_template",
]

_LINE = (255, 106, 80)  # of outlines and edges
_SECOND = (96, 200, 255)
_FIELD = 22  # px of a checkerboard: about 2 cm
_SMOOTH, _STRENGTH = 2.0, 0.03  # of edges: mm; share of the image's range a mm. Less is every sulcus

F = NDArray[np.float64]


def draw_mask_on_boldref(path: Path, boldref: nib.Nifti1Image, mask: nib.Nifti1Image) -> None:
    """The outline of the brain mask on the run's mean image."""
    inside = np.asarray(mask.dataobj) > 0
    seen = inside if inside.any() else mosaic.bright_voxels(_data(boldref))
    marks = Image(inside.astype(np.uint8), _affine(mask))
    sheet = Sheet()
    sheet.title(("mean BOLD image", mosaic.INK), ("outline: brain mask of the run", _LINE))
    for cut, slices in _grey_rows(_image(boldref), mosaic.planes(mosaic.box_of(seen, _affine(mask)))):
        for plane, picture in zip(cut, slices, strict=True):
            labels = marks.at(plane.points, order=0).astype(np.int64)
            mosaic.paint(picture, mosaic.outlines(labels), _LINE)
        sheet.row(slices, cut)
    sheet.save(path)


def draw_atlas_on_boldref(path: Path, boldref: nib.Nifti1Image, labels: nib.Nifti1Image) -> None:
    """All regions on the run's mean image; `labels` whole numbers on any grid, 0 = none."""
    regions = np.asarray(labels.dataobj).astype(np.int32)
    seen = regions > 0 if (regions > 0).any() else mosaic.bright_voxels(_data(boldref))
    affine = _affine(labels) if (regions > 0).any() else _affine(boldref)
    marks, colours = Image(regions, _affine(labels)), _region_colours(int(regions.max()))
    n_regions = len(np.unique(regions[regions > 0]))
    sheet = Sheet()
    sheet.title(("mean BOLD image", mosaic.INK), (f"colours: {n_regions} regions of the atlas", _SECOND))
    for cut, slices in _grey_rows(_image(boldref), mosaic.planes(mosaic.box_of(seen, affine))):
        for plane, picture in zip(cut, slices, strict=True):
            found = marks.at(plane.points, order=0).astype(np.int64)
            mosaic.paint(picture, found > 0, colours[found[found > 0]], opacity=0.2)
            border = mosaic.outlines(found)
            mosaic.paint(picture, border, colours[found[border]])
        sheet.row(slices, cut)
    sheet.save(path)


def draw_boldref_on_t1w(path: Path, boldref: nib.Nifti1Image, t1w: nib.Nifti1Image, matrix: F) -> None:
    """The run's mean image where the registration puts it, under the edges of the T1w image.

    Below, the axial slices of the T1w image itself with the same edges. matrix : (4, 4) a point of the run ->
    the same point of the T1w image, mm.
    """
    back = np.linalg.inv(matrix)
    moved = Image(_data(boldref), _affine(boldref), lambda points: apply_affine(back, points))
    box = mosaic.box_of(mosaic.bright_voxels(_data(boldref)), matrix @ _affine(boldref))
    cuts = mosaic.planes(box)
    lines = _edge_rows(_image(t1w), cuts, box)
    sheet = Sheet()
    sheet.title(("mean BOLD image, registered", mosaic.INK), ("lines: edges of the T1w image", _LINE))
    _add_rows(sheet, _grey_rows(moved, cuts), lines)
    sheet.title(("T1w image, axial slices as above", mosaic.INK), ("lines: its own edges", _LINE))
    _add_rows(sheet, _grey_rows(_image(t1w), cuts[:1]), lines[:1])
    sheet.save(path)


def draw_t1w_on_template(
    path: Path, on_template: nib.Nifti1Image, template_brain: nib.Nifti1Image, *, shown: str = "T1w image"
) -> None:
    """The T1w image warped to the template, under the template's edges; below, both in a checkerboard.

    shown : what `on_template` is, for the title, where there was no T1w image
    """
    template = _image(template_brain)
    box = mosaic.box_of(mosaic.bright_voxels(template.data), template.affine)
    cuts = mosaic.planes(box)
    warped = _grey_rows(_image(on_template), cuts)
    fields = [picture.copy() for picture in warped[0][1]]
    sheet = Sheet()
    sheet.title((f"{shown}, warped", mosaic.INK), ("lines: edges of the template", _LINE))
    _add_rows(sheet, warped, _edge_rows(template, cuts, box))
    sheet.title((f"checkerboard of the {shown} and", mosaic.INK), ("the template (bluish fields)", _SECOND))
    ((cut, others),) = _grey_rows(template, cuts[:1])
    for picture, other in zip(fields, others, strict=True):
        rows, columns = np.indices(picture.shape[:2]) // _FIELD
        odd = (rows + columns) % 2 == 1
        picture[odd] = other[odd] * np.array([0.82, 0.93, 1.0])
    sheet.row(fields, cut)
    sheet.save(path)


def _add_rows(
    sheet: Sheet,
    rows: list[tuple[list[Plane], list[mosaic.Picture]]],
    lines: list[list[NDArray[np.bool_]]],
) -> None:
    """Put rows of slices with their lines on the sheet."""
    for (cut, slices), of_row in zip(rows, lines, strict=True):
        for picture, line in zip(slices, of_row, strict=True):
            mosaic.paint(picture, line, _LINE)
        sheet.row(slices, cut)


def _data(image: nib.Nifti1Image) -> NDArray[np.float32]:
    data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0.0, neginf=0.0)
    return data[..., 0] if data.ndim == 4 else data


def _affine(image: nib.Nifti1Image) -> F:
    return np.asarray(image.affine, dtype=np.float64)


def _image(image: nib.Nifti1Image) -> Image:
    return Image(_data(image), _affine(image))


def _grey_rows(image: Image, cuts: list[list[Plane]]) -> list[tuple[list[Plane], list[mosaic.Picture]]]:
    """The slices of an image in grey, all in one scale."""
    values = [[image.at(plane.points) for plane in cut] for cut in cuts]
    limits = mosaic.window(values)
    return [
        (cut, [mosaic.grey(plane, limits) for plane in row]) for cut, row in zip(cuts, values, strict=True)
    ]


def _edge_rows(image: Image, cuts: list[list[Plane]], box: F) -> list[list[NDArray[np.bool_]]]:
    """Edges of an image's slices."""
    values = [[image.at(plane.points) for plane in cut] for cut in cuts]
    low, high = mosaic.window(values)
    mm = mosaic.mm_a_pixel(box)
    strength = _STRENGTH * (high - low)
    return [[mosaic.edges(plane, mm, strength=strength, smooth=_SMOOTH) for plane in row] for row in values]


def _region_colours(n_regions: int) -> F:
    """(n_regions + 1, 3) bright colours, those of neighbouring numbers far apart."""
    hue = np.arange(n_regions + 1) * 0.618034 % 1
    return np.stack([155 + 100 * np.cos(2 * np.pi * (hue - shift)) for shift in (0, 1 / 3, 2 / 3)], axis=1)
