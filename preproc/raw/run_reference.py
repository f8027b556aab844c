"""The first stage of a run: how the head moved, what the run looks like on average, where the brain is.

Kept in OUTPUT, beside the scan's other files:
    <scan_id>_boldref.nii.gz                                       mean of the realigned steady volumes
    <scan_id>_desc-brain_mask.nii.gz
    <scan_id>_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt     ITK transforms, one a volume
    <scan_id>_boldref.json                                         key and facts, written last
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.raw.ants import write_matrix
from bjepa.preproc.raw.header import check_raw_header
from bjepa.preproc.raw.motion import Motion, estimate_motion
from bjepa.preproc.raw.reference import bold_mask, mean_image
from bjepa.preproc.raw.stages import WORK, content_sha256, finished, stage_key
from bjepa.preproc.raw.steady_state import n_non_steady
from bjepa.preproc.scan_files import func_folder
from bjepa.preproc.software import software_versions
from bjepa.preproc.stream import BoldFile, open_bold, stream_frames

_VERSION = 1  # of this stage: changed when its numbers change
_FIRST_FRAMES = 40  # looked at for a signal that is not steady yet


@dataclass(frozen=True, eq=False)
class RunReference:
    """key : of the stage; boldref, mask : images on the run's grid; n_non_steady : volumes at the start."""

    key: str
    bold: BoldFile
    motion: Motion
    boldref: nib.Nifti1Image
    mask: nib.Nifti1Image
    n_non_steady: int


def run_stem(output: Path, source: ScanSource) -> Path:
    """Where a run's files lie in OUTPUT, and how their names begin."""
    return func_folder(output, source.participant_id, source.session) / source.scan_id


def run_reference(source: ScanSource, output: Path) -> RunReference:
    """The reference of a run, kept or made. Raises InputError for a run that cannot be used."""
    bold = open_bold(source.path)
    check_raw_header(bold)
    key = stage_key("reference", _VERSION, content_sha256(source.path, output), software_versions())
    stem = run_stem(output, source)
    paths = _Paths.of(stem, output)
    facts = finished(paths.sidecar, key, paths.products)
    if facts is None:
        paths.sidecar.unlink(missing_ok=True)
        facts = _make(source, bold, paths) | {"key": key}
        write_json(paths.sidecar, facts)
    return RunReference(  # as it was written: the same whether kept or made
        key=key,
        bold=bold,
        motion=_read_motion(paths.motion),
        boldref=nib.load(paths.boldref),
        mask=nib.load(paths.mask),
        n_non_steady=facts["n_non_steady"],
    )


def _make(source: ScanSource, bold: BoldFile, paths: "_Paths") -> dict[str, Any]:
    """Do the stage and write all files but the sidecar, whose content is returned."""
    first = n_non_steady(_first_global_signal(bold))
    motion = estimate_motion(bold, skip=first)
    boldref = mean_image(bold, motion, skip=first)
    try:
        mask = bold_mask(boldref)
    except InputError as error:  # it was given an image: say of which run
        raise InputError(f"{source.path}: {error.message}", hint=error.hint) from error
    save_image(paths.boldref, boldref)
    save_image(paths.mask, mask)
    write_matrix(paths.transforms, motion.matrices)
    _write_motion(paths.motion, motion)
    return {
        "Description": "Mean of the realigned steady volumes.",
        "Sources": [str(source.path)],
        "n_non_steady": first,
    }


@dataclass(frozen=True)
class _Paths:
    boldref: Path
    mask: Path
    transforms: Path
    motion: Path
    sidecar: Path

    @classmethod
    def of(cls, stem: Path, output: Path) -> "_Paths":
        def beside(ending: str) -> Path:
            return stem.with_name(stem.name + ending)

        return cls(
            boldref=beside("_boldref.nii.gz"),
            mask=beside("_desc-brain_mask.nii.gz"),
            transforms=beside("_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"),
            motion=output / WORK / f"{stem.name}_motion.h5",
            sidecar=beside("_boldref.json"),
        )

    @property
    def products(self) -> list[Path]:
        return [self.boldref, self.mask, self.transforms, self.motion]


def _first_global_signal(bold: BoldFile) -> Any:
    """Mean of each of the first volumes (n,), in the scan's units."""
    every = np.arange(0, int(np.prod(bold.shape[:3])), 3)  # a third of the voxels tells the level
    signal = []
    for frame, values in enumerate(stream_frames(bold, every)):
        if frame == _FIRST_FRAMES:
            break
        signal.append(float(np.nanmean(values)))
    return np.asarray(signal) * bold.slope + bold.inter


def save_image(path: Path, image: nib.Nifti1Image) -> None:
    """Write an image, whole or not at all."""
    with write_aside(path) as aside:
        nib.save(image, aside)


def _write_motion(path: Path, motion: Motion) -> None:
    with write_aside(path) as aside, h5py.File(aside, "w") as file:
        file["params"], file["matrices"], file["centre"] = motion.params, motion.matrices, motion.centre


def _read_motion(path: Path) -> Motion:
    with h5py.File(path, "r") as file:
        return Motion(params=file["params"][:], matrices=file["matrices"][:], centre=file["centre"][:])
