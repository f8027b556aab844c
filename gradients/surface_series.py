"""Series of the vertices of a cortical surface: GIFTI (.func.gii, one hemisphere) and CIFTI (.dtseries.nii).

Vertices are named by hemisphere and number, from 0 as surface files count them: L-00000. A .func.gii holds
every vertex, the medial wall as zeros; a .dtseries.nii lists those that it has. Of a .dtseries.nii only the
cortical surface is read, of both hemispheres or one; its voxels (subcortex, cerebellum) are left out, which
is said. Numbers are float32, as most such files hold them.

T frames, V vertices.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Hemisphere = Literal["L", "R"]
HEMISPHERES: tuple[Hemisphere, ...] = get_args(Hemisphere)
SURFACE_SUFFIXES = (".func.gii", ".dtseries.nii")
_STRUCTURES = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
_IN_NAME = {"l": "L", "lh": "L", "r": "R", "rh": "R"}


def is_surface_series(path: Path) -> bool:
    return path.name.lower().endswith(SURFACE_SUFFIXES)


def read_surface_series(
    path: Path, *, hemisphere: Hemisphere | None = None
) -> tuple[NDArray[np.float32], list[str]]:
    """Series (T, V) float32 and the names (V,) of the vertices.

    Parameters
    ----------
    hemisphere
        Of a .dtseries.nii the one that is read, None for both. Of a .func.gii it must be the one it holds.

    Raises
    ------
    InputError
        Not such a file, or damaged; no series over time; the hemisphere is not in it.
    """
    _check_hemisphere(hemisphere)
    if path.name.lower().endswith(".func.gii"):
        return _read_gifti(path, hemisphere)
    return _read_cifti(path, hemisphere)


def choose_hemisphere(files: Sequence[Path], hemisphere: Hemisphere | None) -> list[Path]:
    """The files of one hemisphere, by their names (hemi-L, .L., lh.); files that hold both stay.

    Raises
    ------
    InputError
        Files of both hemispheres where none is chosen: they are no scans of the same vertices. None is left.
    """
    _check_hemisphere(hemisphere)
    sides = [_side_of_name(file) if file.name.lower().endswith(".gii") else None for file in files]
    if hemisphere is None:
        if {"L", "R"} <= set(sides):
            raise InputError(
                f"{files[sides.index('L')]} holds the left, {files[sides.index('R')]} the right hemisphere.",
                hint="Choose one (--hemisphere L or R), or give .dtseries.nii files, which hold both.",
            )
        return list(files)
    left = [file for file, side in zip(files, sides, strict=True) if side in (None, hemisphere)]
    if files and not left:
        raise InputError(f"none of {len(files)} files is of hemisphere {hemisphere} ({files[0]}, ...).")
    return left


def _check_hemisphere(hemisphere: str | None) -> None:
    if hemisphere not in (None, *HEMISPHERES):
        raise InputError(f"hemisphere must be one of {HEMISPHERES}, got {hemisphere!r}.")


def _side_of_name(file: Path) -> str | None:
    found = re.search(r"(?:^|_)hemi-([LR])(?=[_.])|(?:^|[._])(lh|rh|L|R)(?=[._])", file.name)
    return _IN_NAME[(found.group(1) or found.group(2)).lower()] if found else None


def _vertex_names(side: str, vertices: NDArray[np.integer], n_vertices: int) -> list[str]:
    width = max(5, len(str(n_vertices - 1)))
    return [f"{side}-{vertex:0{width}d}" for vertex in vertices.tolist()]


# --- GIFTI --------------------------------------------------------------------------------------------------


def _read_gifti(path: Path, hemisphere: str | None) -> tuple[NDArray[np.float32], list[str]]:
    import nibabel

    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file.")
    try:
        image = nibabel.load(path)
    except Exception as error:  # nibabel and its XML parser raise many kinds for a broken file
        raise InputError(f"{path} cannot be read as GIFTI ({error}).", hint="Copy the file again.") from error
    if not isinstance(image, nibabel.GiftiImage):
        raise InputError(f"{path} is {type(image).__name__}, not GIFTI.")
    frames = [array.data for array in image.darrays]
    shapes = {frame.shape for frame in frames}
    if len(frames) < 2 or len(shapes) != 1 or len(frames[0].shape) != 1:
        raise InputError(
            f"{path} holds {len(frames)} arrays of shape {sorted(shapes)}, not a series: one array of all "
            "vertices per frame, two frames or more.",
            hint="Give a .func.gii of a scan, not a map (.shape.gii), labels or a surface.",
        )
    side = _side_of_gifti(path, image)
    if hemisphere is not None and side != hemisphere:
        raise InputError(
            f"{path} holds hemisphere {side or 'unknown (neither its name nor its metadata say it)'}, "
            f"not {hemisphere}."
        )
    series = np.array(frames, dtype=np.float32)  # (T, V)
    return series, _vertex_names(side or "vertex", np.arange(series.shape[1]), series.shape[1])


def _side_of_gifti(path: Path, image: Any) -> str | None:
    """Its metadata say it (AnatomicalStructurePrimary), or its name."""
    told = [dict(part.meta).get("AnatomicalStructurePrimary", "") for part in (image, *image.darrays[:1])]
    structure = {"CortexLeft": "L", "CortexRight": "R"}
    in_meta = next((structure[text] for text in told if text in structure), None)
    in_name = _side_of_name(path)
    if None not in (in_meta, in_name) and in_meta != in_name:
        raise InputError(
            f"{path}: its name says hemisphere {in_name}, its metadata {in_meta}.",
            hint="Rename the file or repair it (wb_command -set-structure).",
        )
    return in_meta or in_name


# --- CIFTI --------------------------------------------------------------------------------------------------


def _read_cifti(path: Path, hemisphere: str | None) -> tuple[NDArray[np.float32], list[str]]:
    import nibabel

    from bjepa.preproc.atlas.dlabel import axis_kinds, load_cifti

    image = load_cifti(path)
    axes = [image.header.get_axis(number) for number in range(image.ndim)]
    time_first = isinstance(axes[0], nibabel.cifti2.SeriesAxis) and len(axes[0]) > 1
    if len(axes) != 2 or not time_first or not isinstance(axes[1], nibabel.cifti2.BrainModelAxis):
        raise InputError(
            f"{path} is not a dense series over time: its axes are {axis_kinds(image)}, {image.shape} long.",
            hint="Give a .dtseries.nii of two frames or more.",
        )
    wanted = {_STRUCTURES[side]: side for side in (HEMISPHERES if hemisphere is None else (hemisphere,))}
    blocks, names = [], []
    for structure, rows, model in axes[1].iter_structures():
        if str(structure) not in wanted:
            continue
        try:
            blocks.append(np.asarray(image.dataobj[:, rows], dtype=np.float32))
        except (OSError, ValueError, EOFError) as error:  # cut short
            raise InputError(f"{path} is damaged ({error}).", hint="Copy the file again.") from error
        names += _vertex_names(wanted[str(structure)], model.vertex, model.nvertices[str(structure)])
    if not blocks:
        held = [str(structure) for structure, *_ in axes[1].iter_structures()]
        raise InputError(
            f"{path} holds no {' or '.join(wanted)}, but {held[:6]}.",
            hint="For a volume, run bjepa-preprocess with an atlas first.",
        )
    if left_out := image.shape[1] - len(names):
        log.info("%s: %d of %d grayordinates are read", path.name, len(names), len(names) + left_out)
    return np.concatenate(blocks, axis=1), names
