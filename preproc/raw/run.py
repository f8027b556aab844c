"""One raw run: from the scanner's volumes to regional means and confounds, each voxel interpolated once.

Order of operations:
  1. motion, mean image, brain mask of the run                    (run_reference.py, kept)
  2. the participant's anatomy                                    (participant.py, kept)
  3. rigid registration of the mean image to the T1w              (kept)
  4. the atlas on the run's own grid, through the chain of transforms
  5. one pass over the volumes: slice timing if asked for, one cubic interpolation at the places where the
     head has moved to, regional means and confounds              (kept)
Kept in OUTPUT beside the scan's other files, besides those of stage 1:
    <scan_id>_from-boldref_to-T1w_mode-image_xfm.{txt,json}       ITK; key and measures
    <scan_id>_seg-<atlas>_dseg.nii.gz                             the atlas on the run's grid
    <scan_id>_space-<template>_boldref.nii.gz                     to look at
    <scan_id>_desc-confounds_timeseries.{tsv,json}                as fMRIPrep's
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import sparse

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import MeanImage, RegionalScan
from bjepa.preproc.files import write_aside, write_json, write_tsv
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.inputs.bids import clean_label
from bjepa.preproc.operator import Operator, smooth_operator
from bjepa.preproc.raw import figures
from bjepa.preproc.raw.agreement import agreement
from bjepa.preproc.raw.confounds import RunSignals
from bjepa.preproc.raw.coregister import coregister, load_rigid, save_rigid
from bjepa.preproc.raw.header import check_slices, header_notes
from bjepa.preproc.raw.motion_plot import draw_motion
from bjepa.preproc.raw.options import SEED
from bjepa.preproc.raw.participant import KeptAnatomy, RawSetup, anatomy_sidecar, participant_anatomy
from bjepa.preproc.raw.run_reference import RunReference, run_reference, run_stem, save_image
from bjepa.preproc.raw.sample import always_inside, stream_resampled
from bjepa.preproc.raw.slice_timing import SliceTiming
from bjepa.preproc.raw.stages import WORK, finished, stage_key
from bjepa.preproc.raw.subject_atlas import RunSpace, pull_image, region_coverage, subject_labels
from bjepa.preproc.raw.tissue import tissue_masks
from bjepa.preproc.raw.verdict import Finding, judge_run

log = logging.getLogger(__name__)

_VERSION = 1  # of stages 3 to 5: changed when their numbers change
MIN_VOXELS = 5  # a region with fewer voxels in the run has no mean that could be trusted: missing
_LOW_QUALITY = "There was no T1w image: registered to the template directly, which is off by 4 to 5 mm."


def forget_stages(source: ScanSource, atlas: Atlas, setup: RawSetup, output: Path) -> None:
    """Let every stage of a run and its participant be done again."""
    stem = run_stem(output, source)
    for sidecar in (
        stem.with_name(f"{stem.name}_boldref.json"),
        anatomy_sidecar(source, output, setup),
        _registration_path(stem).with_suffix(".json"),
        _Paths.of(stem, atlas, setup.template.name, output).sidecar,
    ):
        sidecar.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A raw run as any other scan: regional means, its table of confounds, what is to be told of it."""

    scan: RegionalScan
    confounds: Path
    facts: dict[str, Any]
    notes: list[str]


def prepare_run(
    source: ScanSource,
    atlas: Atlas,
    setup: RawSetup,
    output: Path,
    *,
    t_r: float,
    smoothing_fwhm: float | None = None,
) -> PreparedRun:
    """Regional means (n_frames, n_rois) of a raw run and its confounds; `t_r` in s, smoothing in mm.

    Raises InputError for a run that cannot be read, and where a registration failed.
    """
    reference = run_reference(source, output)
    participant = participant_anatomy(source, output, setup)
    registered = _registered(source, reference, participant, setup, output)
    space = _run_space(reference, participant, registered.matrix)
    slice_timing = _slice_timing(source, reference, setup, t_r)

    stem = run_stem(output, source)
    paths = _Paths.of(stem, atlas, setup.template.name, output)
    timed = None if slice_timing is None else (source.slice_times, source.slice_axis)
    made_from = (registered.key, atlas.sha256, atlas.place, smoothing_fwhm, t_r, timed)
    key = stage_key("means", _VERSION, *made_from)
    pictures = paths.pictures(participant.low_quality)
    facts = finished(paths.sidecar, key, [*paths.products, *pictures.values()])
    if facts is None:
        paths.sidecar.unlink(missing_ok=True)
        notes = _make_means(reference, atlas, space, setup, slice_timing, paths, t_r, smoothing_fwhm)
        _draw(reference, participant, registered, paths, t_r)
        facts = {"notes": notes, "key": key}
        write_json(paths.sidecar, facts)
    findings = participant.findings + registered.findings
    return PreparedRun(
        scan=_read_means(paths, reference),
        confounds=paths.confounds,
        facts={
            **{f"template_{name}": value for name, value in setup.template.facts().items() if name != "name"},
            "template": setup.template.name,
            "low_quality": participant.low_quality,
            "slice_timing": slice_timing is not None,
            "options": asdict(setup.options),
            "n_non_steady": reference.n_non_steady,
            "metrics": participant.anatomy.metrics | registered.metrics,
            "findings": [asdict(finding) for finding in findings],
            "figures": {"template": participant.picture}
            | {name: str(path.relative_to(output)) for name, path in pictures.items()},
        },
        notes=[
            *source.notes,
            *header_notes(reference.bold, t_r),
            *([_LOW_QUALITY] if participant.low_quality else []),
            *([f"{setup.template.choice}."] if setup.template.mismatch else []),
            *facts["notes"],
            *(finding.sentence for finding in findings),
        ],
    )


# --- stage 3: to the T1w ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Registered:
    key: str
    matrix: NDArray[np.float64]  # (4, 4) boldref point -> T1w point, mm
    metrics: dict[str, float]
    findings: list[Finding]


def _registered(
    source: ScanSource,
    reference: RunReference,
    participant: KeptAnatomy,
    setup: RawSetup,
    output: Path,
) -> _Registered:
    """The registration of the run to its T1w, kept or made; raises InputError where it failed."""
    key = stage_key(
        "coregistration", _VERSION, reference.key, participant.key, SEED, setup.options.omp_threads
    )
    if participant.low_quality:
        return _Registered(key, np.eye(4), {}, [])
    stem = run_stem(output, source)
    transform = _registration_path(stem)
    sidecar = transform.with_suffix(".json")
    facts = finished(sidecar, key, [transform])
    if facts is None:
        sidecar.unlink(missing_ok=True)
        anatomy = participant.anatomy
        made = coregister(
            reference.boldref, reference.mask, anatomy.t1w, anatomy.brain_mask, options=setup.options
        )
        save_rigid(transform, made.matrix)
        facts = {
            "Sources": [str(source.path), str(source.t1w)],
            "metrics": made.metrics
            | agreement(reference.boldref, reference.mask, anatomy.t1w, anatomy.brain_mask, made.matrix),
            "key": key,
        }
        write_json(sidecar, facts)
    findings = judge_run(facts["metrics"], setup.thresholds)
    registered = _Registered(key, load_rigid(transform), facts["metrics"], findings)
    if failed := [finding.sentence for finding in findings if finding.level == "fail"]:
        picture = picture_of(stem, "coregistration")
        anatomy = participant.anatomy
        figures.draw_boldref_on_t1w(picture, reference.boldref, anatomy.t1w, registered.matrix)
        raise InputError(
            f"{source.path}: the registration to {source.t1w} failed: {' '.join(failed)}",
            hint=f"Look at {picture}; check that T1w and BOLD are of one person, oriented rightly and cover "
            "the head.",
        )
    return registered


def _registration_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}_from-boldref_to-T1w_mode-image_xfm.txt")


def _run_space(reference: RunReference, participant: KeptAnatomy, matrix: NDArray[np.float64]) -> RunSpace:
    anatomy, back = participant.anatomy, np.linalg.inv(matrix)
    return RunSpace(
        shape=reference.bold.shape[:3],
        affine=reference.boldref.affine,
        to_template=lambda points: anatomy.to_template(apply_affine(matrix, points)),
        from_template=lambda points: apply_affine(back, anatomy.from_template(points)),
    )


def _slice_timing(
    source: ScanSource, reference: RunReference, setup: RawSetup, t_r: float
) -> SliceTiming | None:
    if not setup.options.slice_timing or source.slice_times is None:
        return None
    check_slices(reference.bold, source.slice_times, source.slice_axis, t_r)
    return SliceTiming(
        times=np.asarray(source.slice_times),
        axis=source.slice_axis,
        t_r=t_r,
        skip=reference.n_non_steady,
    )


# --- stages 4 and 5: regional means and confounds -----------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    stem: Path
    dseg: Path
    in_template: Path
    confounds: Path
    means: Path
    sidecar: Path

    @classmethod
    def of(cls, stem: Path, atlas: Atlas, template: str, output: Path) -> "_Paths":
        label = clean_label(atlas.name)
        return cls(
            stem=stem,
            dseg=stem.with_name(f"{stem.name}_seg-{label}_dseg.nii.gz"),
            in_template=stem.with_name(f"{stem.name}_space-{template}_boldref.nii.gz"),
            confounds=stem.with_name(f"{stem.name}_desc-confounds_timeseries.tsv"),
            means=output / WORK / f"{stem.name}_seg-{label}_means.h5",
            sidecar=output / WORK / f"{stem.name}_seg-{label}_means.json",
        )

    @property
    def products(self) -> list[Path]:
        return [
            self.dseg,
            self.in_template,
            self.confounds,
            self.confounds.with_suffix(".json"),
            self.means,
        ]

    def pictures(self, low_quality: bool) -> dict[str, Path]:
        names = ["mask", "atlas", "motion"] + ([] if low_quality else ["coregistration"])
        return {name: picture_of(self.stem, name) for name in names}


def picture_of(stem: Path, name: str) -> Path:
    """Where a picture of a run lies: `figures/` beside `func/`, as fMRIPrep has it."""
    return stem.parent.parent / "figures" / f"{stem.name}_desc-{name}_bold.webp"


def _make_means(
    reference: RunReference,
    atlas: Atlas,
    space: RunSpace,
    setup: RawSetup,
    slice_timing: SliceTiming | None,
    paths: _Paths,
    t_r: float,
    smoothing_fwhm: float | None,
) -> list[str]:
    """The one pass over the volumes; writes all products. Returns what the user must be told."""
    bold, motion = reference.bold, reference.motion
    labels = subject_labels(atlas, space)
    grey, white = setup.template.tissue()
    brain = np.asarray(reference.mask.dataobj) > 0
    tissue = tissue_masks(grey, white, space.to_template, space.shape, space.affine, brain)
    operator = _label_operator(labels, atlas.n_rois)
    if smoothing_fwhm:
        operator = smooth_operator(operator, space.shape, space.affine, smoothing_fwhm)

    voxels = np.union1d(operator.voxels, np.flatnonzero(brain.ravel(order="F")))
    inside = always_inside(space.shape, space.affine, motion.matrices, voxels)
    signals = RunSignals(tissue, voxels, bold.n_frames, t_r)
    used = np.searchsorted(voxels, operator.voxels)
    weights = operator.weights @ sparse.diags_array(inside[used].astype(np.float64))
    sums = np.empty((bold.n_frames, atlas.n_rois))
    ever_nonzero = np.zeros(len(voxels), dtype=bool)
    for frame, values in enumerate(
        stream_resampled(bold, motion.matrices, voxels, slice_timing=slice_timing)
    ):
        sums[frame] = weights @ values[used]
        ever_nonzero |= values != 0
        signals.add(frame, values)

    valid = np.zeros(space.shape, dtype=bool).ravel(order="F")
    valid[voxels] = inside & ever_nonzero
    valid = valid.reshape(space.shape, order="F")
    valid_weight = weights @ ever_nonzero[used].astype(np.float64)  # (n_rois,)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / valid_weight  # (n_frames, n_rois)
    n_voxels = np.bincount(labels[valid], minlength=atlas.n_rois + 1)[1:]
    means[:, n_voxels < MIN_VOXELS] = np.nan
    table, described = signals.table(motion, reference.n_non_steady)

    image = nib.Nifti1Image(labels, space.affine)
    image.header.set_xyzt_units("mm")
    save_image(paths.dseg, image)
    save_image(paths.in_template, _in_template(reference, atlas, space))
    write_tsv(paths.confounds, table)
    write_json(paths.confounds.with_suffix(".json"), described)
    with write_aside(paths.means) as aside, h5py.File(aside, "w") as file:
        file["timeseries"] = means.astype(np.float32)
        file["coverage"] = region_coverage(atlas, space, valid)
        file["n_voxels"] = n_voxels
    return list(tissue.notes)


def _label_operator(labels: NDArray[np.int16], n_rois: int) -> Operator:
    """Sums over the voxels of each region, as the operator of an atlas on the run's own grid."""
    flat = labels.ravel(order="F")
    voxels = np.flatnonzero(flat)
    region = flat[voxels].astype(np.intp) - 1
    weights = sparse.csr_array(
        (np.ones(len(voxels)), (region, np.arange(len(voxels)))), shape=(n_rois, len(voxels))
    )
    return Operator(voxels, weights, np.bincount(region, minlength=n_rois).astype(np.float64))


def _in_template(reference: RunReference, atlas: Atlas, space: RunSpace) -> nib.Nifti1Image:
    """The run's mean image on the atlas' grid, for the picture of the scan."""
    data = np.asarray(reference.boldref.dataobj, dtype=np.float32)
    affine = np.asarray(atlas.labels_img.affine)
    pulled = pull_image(data, space.affine, atlas.labels.shape, affine, space.from_template)
    return nib.Nifti1Image(pulled, affine)


def _read_means(paths: _Paths, reference: RunReference) -> RegionalScan:
    with h5py.File(paths.means, "r") as file:
        means, coverage = file["timeseries"][:], file["coverage"][:]
    picture = nib.load(paths.in_template)
    mean_image = MeanImage(np.asarray(picture.dataobj, dtype=np.float32), np.asarray(picture.affine))
    return RegionalScan(means, coverage, reference.bold.header_t_r, 0, mean_image)


def _draw(
    reference: RunReference,
    participant: KeptAnatomy,
    registered: _Registered,
    paths: _Paths,
    t_r: float,
) -> None:
    """All pictures of a run."""
    import pandas as pd

    boldref = reference.boldref
    figures.draw_mask_on_boldref(picture_of(paths.stem, "mask"), boldref, reference.mask)
    figures.draw_atlas_on_boldref(picture_of(paths.stem, "atlas"), boldref, nib.load(paths.dseg))
    if not participant.low_quality:  # else there is nothing to lay it on
        figures.draw_boldref_on_t1w(
            picture_of(paths.stem, "coregistration"), boldref, participant.anatomy.t1w, registered.matrix
        )
    table = pd.read_csv(paths.confounds, sep="\t", na_values="n/a")
    draw_motion(
        picture_of(paths.stem, "motion"),
        reference.motion.params,
        table["framewise_displacement"].to_numpy(),
        table["std_dvars"].to_numpy(),
        reference.n_non_steady,
        t_r,
    )
