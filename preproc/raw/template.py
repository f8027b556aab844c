"""Which template a participant is registered to, and how far it lies from the atlas.

The order (`choose_template`), the first that is there:
    1. the file of --template
    2. TemplateFlow's MNI152NLin2009cAsym: in its cache, else downloaded into it (hash checked)
    3. FSL's MNI152NLin6Asym of $FSLDIR, with the atlas in that space
    4. the one that nilearn brings along, MNI152NLin2009aSym, with the atlas in MNI152NLin2009cAsym
--space MNI152NLin6Asym turns the first two of the rest round: FSL, TemplateFlow's MNI152NLin6Asym, nilearn's.
nilearn's is another template than the atlas' own: the same place of the brain lies a median 1.55 mm apart in
the two (95 % within 3.4 mm; of MNI152NLin6Asym 1.83 mm), measured by registering them. `anatomy.py` finds
1.58 (3.3) mm over the voxels of the 450 regions, and 1.33 (2.9) mm for their centres.
"""

import logging
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bjepa.preproc.atlas.files import space_in_name
from bjepa.preproc.atlas.spaces import check_grid_in_space
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file, sha256_of_json
from bjepa.preproc.inputs.bids import is_label
from bjepa.preproc.raw.templateflow import PUBLISHED, templateflow_file

log = logging.getLogger(__name__)

SPACE_2009C, SPACE_6 = "MNI152NLin2009cAsym", "MNI152NLin6Asym"
BUNDLED = "MNI152NLin2009aSym"  # nilearn's
# median distance (mm) of a place in nilearn's template to the same place of the brain in the atlas' template
BUNDLED_ERROR_MM = {SPACE_2009C: 1.55, SPACE_6: 1.83}
_BRAIN_LITRES = (
    0.3,
    2.5,
)  # a template's brain, from infants on; a head in a template's box fills 3.5 and more


@dataclass(frozen=True, kw_only=True)
class Template:
    """A T1w template, by its files (an object is small and can be sent to processes).

    name : label in file names, e.g. "MNI152NLin2009aSym"
    space : of the atlas that is used with it
    path, mask : T1w image; brain mask, None where the image is skull-stripped
    grey, white : maps of grey and white matter, probabilities
    error_mm : how far the template lies from the atlas' own, mm, median; None where it is not known
    choice : why it is this one, a sentence
    sha256 : of all files, one after the other; `files` has each one's name and SHA-256
    """

    name: str
    space: str
    path: Path
    mask: Path | None
    grey: Path
    white: Path
    error_mm: float | None
    choice: str
    sha256: str
    files: tuple[tuple[str, str], ...]

    def brain(self) -> nib.Nifti1Image:
        """The skull-stripped image, float32, 0 outside the brain."""
        image = _load(self.path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        if self.mask is not None:
            data = np.where(np.asarray(_load(self.mask).dataobj) > 0.5, data, np.float32(0))
        return nib.Nifti1Image(data, image.affine)

    def tissue(self) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
        """Probability (0 to 1, float32) of grey and of white matter, each on a grid of its own."""
        return _probability(self.grey), _probability(self.white)

    @property
    def mismatch(self) -> str:
        """How far it lies from the atlas' own template, a clause; "" where it is that or unknown."""
        if not self.error_mm:
            return ""
        return f"template mismatch about {math.floor(self.error_mm * 10) / 10:g} mm"  # 1.55: 1.5

    def facts(self) -> dict[str, Any]:
        """What is written of it."""
        return {
            "name": self.name,
            "space": self.space,
            "error_mm": self.error_mm,
            "choice": self.choice,
            "sha256": self.sha256,
            "files": dict(self.files),
        }


def choose_template(
    given: Path | None = None, space: str | None = None, *, name: str | None = None
) -> Template:
    """The template to register to.

    Parameters
    ----------
    given
        File of --template: skull-stripped, or with a brain mask beside it (`desc-brain_mask` in the place of
        its last entity or word, FSL's `<name>_brain_mask`).
    space
        Of the atlas; None: as the template's. A file whose name does not say its space needs it.
    name
        The one of the known templates to take and no other: what was begun with it goes on with it.

    Raises
    ------
    InputError
        A file that is no template of the space, or whose skull is not stripped; no template for the space.
    """
    if given is not None:
        return _given(given, space)
    if space not in (None, *BUNDLED_ERROR_MM):
        raise InputError(
            f"no template is known for --space {space}; known are {', '.join(BUNDLED_ERROR_MM)}.",
            hint="Give --template FILE: the skull-stripped T1w template of that space.",
        )
    order = [_fsl, _templateflow_6] if space == SPACE_6 else [_templateflow_2009c]
    order += [_fsl] if space is None else []
    for find in [] if name == BUNDLED else order:
        if (template := find()) is not None:
            log.info("template: %s.", template.choice)
            return template
    if name not in (None, BUNDLED):
        raise InputError(
            f"the template {name} ({space}), which OUTPUT was begun with, is not to be had now.",
            hint="Give --template with its file, or another OUTPUT.",
        )
    template = _bundled(space or SPACE_2009C)
    log.warning("template: %s.", template.choice)
    return template


# --- the four places ----------------------------------------------------------------------------------------


def _given(path: Path, space: str | None) -> Template:
    image = _load(path)
    named = space_in_name(path)
    if named and space and named != space:
        raise InputError(
            f"--template {path.name} is in {named} by its name, the atlas is in {space}.",
            hint="Give the template of the atlas' space (--space), or another atlas.",
        )
    space = space or named
    if space is None or not is_label(space):
        raise InputError(
            f"--template {path}: its space is unknown (space {space!r}).",
            hint="Give --space (e.g. MNI152NLin6Asym), or name the file tpl-SPACE_T1w.nii.gz.",
        )
    if image.ndim != 3:
        raise InputError(f"--template {path} must be a 3D image, got shape {image.shape}.")
    if contradiction := check_grid_in_space(np.asarray(image.affine), image.shape, space):
        raise InputError(
            f"--template {path} is no template of {space}: {contradiction}",
            hint="Give the file as its publisher made it, and its own --space.",
        )
    mask = _mask_beside(path)
    litres = _filled_litres(image, mask)
    low, high = _BRAIN_LITRES
    if not low <= litres <= high:
        what = f"its brain mask {mask.name}" if mask else "what is not background in it"
        raise InputError(
            f"--template {path}: {what} fills {litres:.2f} litres, a brain fills {low:g} to {high:g}.",
            hint="Give the skull-stripped template, or put its brain mask beside it "
            f"({path.name.split('.nii')[0].removesuffix('_T1w')}_desc-brain_mask.nii.gz).",
        )
    grey, white = _tissue_beside(path, space)
    choice = f"{path.name}, given with --template, taken as a template of {space}"
    return _template(space, space, path, mask, (grey, white), None, choice)


def _templateflow_2009c() -> Template | None:
    return _templateflow(SPACE_2009C)


def _templateflow_6() -> Template | None:
    return _templateflow(SPACE_6)


def _templateflow(space: str) -> Template | None:
    found: dict[str, Path] = {}
    for what in PUBLISHED[space]:
        if (path := templateflow_file(space, what)) is None:
            return None  # without one the others are of no use, and need not be tried
        found[what] = path
    bundled = _bundled_files()
    tissue = found.get("label-GM_probseg", bundled[1]), found.get("label-WM_probseg", bundled[2])
    choice = f"TemplateFlow's {space}, the template of the atlas"
    return _template(space, space, found["T1w"], found["desc-brain_mask"], tissue, 0.0, choice)


def _fsl() -> Template | None:
    if not (fsl := os.environ.get("FSLDIR")):
        return None
    path = Path(fsl) / "data" / "standard" / "MNI152_T1_1mm_brain.nii.gz"
    if not path.is_file():
        log.warning("FSLDIR is %s, but there is no %s.", fsl, path)
        return None
    choice = f"FSL's {SPACE_6} ({path}), the template of the atlas in that space"
    return _template(SPACE_6, SPACE_6, path, None, _bundled_files()[1:], 0.0, choice)


def _bundled(space: str) -> Template:
    path, grey, white = _bundled_files()
    choice = f"nilearn's {BUNDLED}, for no other was found; the atlas is in {space}"
    template = _template(BUNDLED, space, path, None, (grey, white), BUNDLED_ERROR_MM[space], choice)
    return replace(template, choice=f"{choice}: {template.mismatch}")


def _bundled_files() -> tuple[Path, Path, Path]:
    """T1w (skull-stripped), grey and white matter of nilearn's MNI152NLin2009aSym, 1 mm."""
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    files = [folder / f"mni_icbm152_{what}_tal_nlin_sym_09a_converted.nii.gz" for what in ("t1", "gm", "wm")]
    return files[0], files[1], files[2]


def _template(
    name: str,
    space: str,
    path: Path,
    mask: Path | None,
    tissue: tuple[Path, Path],
    error_mm: float | None,
    choice: str,
) -> Template:
    files = tuple((p.name, sha256_of_file(p)) for p in (path, mask, *tissue) if p is not None)
    return Template(
        name=name,
        space=space,
        path=path,
        mask=mask,
        grey=tissue[0],
        white=tissue[1],
        error_mm=error_mm,
        choice=choice,
        sha256=sha256_of_json([sha256 for _, sha256 in files]),
        files=files,
    )


# --- a user's own file --------------------------------------------------------------------------------------


def _mask_beside(path: Path) -> Path | None:
    """The brain mask of a template file, as TemplateFlow and FSL name it, None where there is none."""
    stem, ending = path.name.split(".nii")[0], ".nii" + path.name.split(".nii")[1]
    bare = stem.removesuffix("_T1w")
    for name in (f"{bare}_desc-brain_mask{ending}", f"{stem}_brain_mask{ending}"):
        if (mask := path.with_name(name)).is_file():
            return mask
    return None


def _filled_litres(image: nib.Nifti1Image, mask: Path | None) -> float:
    """Volume of the mask; without one, of what is brighter than a twentieth of the brightest part."""
    data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32))
    if mask is not None:
        inside = _load(mask)
        if inside.shape != image.shape or not np.allclose(inside.affine, image.affine, atol=1e-3):
            raise InputError(f"{mask} is not on the grid of the template {image.get_filename()}.")
        filled = np.asarray(inside.dataobj) > 0.5
    else:
        filled = data > 0.05 * np.percentile(data, 99.5)
    return float(filled.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1e6)


def _tissue_beside(path: Path, space: str) -> tuple[Path, Path]:
    """Tissue maps beside a template file, as TemplateFlow names them; nilearn's for the MNI templates."""
    stem, ending = path.name.split(".nii")[0], ".nii" + path.name.split(".nii")[1]
    bare = stem.removesuffix("_T1w").removesuffix("_desc-brain")
    beside = [path.with_name(f"{bare}_label-{tissue}_probseg{ending}") for tissue in ("GM", "WM")]
    if all(map_.is_file() for map_ in beside):
        return beside[0], beside[1]
    if not space.startswith("MNI152"):
        raise InputError(
            f"--template {path}: white matter and CSF of {space} are unknown.",
            hint=f"Put {beside[0].name} and {beside[1].name} (probabilities) beside it.",
        )
    return _bundled_files()[1:]


def _probability(path: Path) -> nib.Nifti1Image:
    image = _load(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    scale = np.float32(255 if values.max() > 1.5 else 1)  # stored as bytes
    return nib.Nifti1Image(np.clip(values / scale, 0, 1), image.affine)


def _load(path: Path) -> nib.Nifti1Image:
    if not path.is_file():
        raise InputError(f"the template {path} does not exist or is not a file.")
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(f"the template {path} cannot be read as NIfTI ({error}).") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"the template {path} is not a NIfTI volume.")
    return image
