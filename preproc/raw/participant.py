"""The anatomy of a participant: one T1w image brought to the template, once, whatever runs there are.

Kept in OUTPUT under the name of the T1w image (or, without one, of the run):
    <t1w>_desc-preproc_T1w.nii.gz                                   bias corrected
    <t1w>_desc-brain_mask.nii.gz
    <t1w>_from-<template>_to-T1w_mode-image_xfm.nii.gz              brings the template's images to the T1w
    <t1w>_from-T1w_to-<template>_mode-image_xfm.nii.gz              brings the T1w to the template
    <t1w>_space-<template>_desc-preproc_T1w.nii.gz                  to look at
    <t1w>_desc-preproc_T1w.json                                     key and measures; written last
The brain of a T1w image is found with the help of a run's brain mask: that of the first usable one of all its
runs (`ScanSource.guides`), whichever runs are asked for.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sweep_leftovers, write_json
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.inputs.bids import parse_name, stem_of
from bjepa.preproc.inputs.names import scan_of_name
from bjepa.preproc.raw.anatomy import Anatomy, prepare_anatomy, prepare_without_t1w
from bjepa.preproc.raw.displacement import load_displacement
from bjepa.preproc.raw.figures import draw_t1w_on_template
from bjepa.preproc.raw.options import SEED, RawOptions
from bjepa.preproc.raw.run_reference import RunReference, run_reference, run_stem, save_image
from bjepa.preproc.raw.stages import content_sha256, finished, stage_key
from bjepa.preproc.raw.template import Template
from bjepa.preproc.raw.verdict import Finding, Thresholds, judge_anatomy, judge_run
from bjepa.preproc.software import software_versions

log = logging.getLogger(__name__)

_VERSION = 1  # of this stage: changed when its numbers change


@dataclass(frozen=True, kw_only=True)
class RawSetup:
    """What all runs of a call share."""

    template: Template
    options: RawOptions
    thresholds: Thresholds


@dataclass(frozen=True, eq=False)
class KeptAnatomy:
    """An anatomy and what is known of it. picture : the T1w on the template, relative to OUTPUT."""

    key: str
    anatomy: Anatomy
    findings: list[Finding]
    picture: str
    low_quality: bool


def one_run_each(scans: list[ScanSource]) -> list[ScanSource]:
    """One run for every anatomy that the scans need: of each T1w image (without one: every run itself)."""
    first: dict[tuple[str, str], ScanSource] = {}
    for scan in scans:
        first.setdefault((scan.participant_id, str(scan.t1w or scan.path)), scan)
    return list(first.values())


def anatomy_sidecar(source: ScanSource, output: Path, setup: RawSetup) -> Path:
    """The file without which the anatomy of a run is made anew."""
    return _Paths.of(source, output, setup.template.name).sidecar


def participant_anatomy(source: ScanSource, output: Path, setup: RawSetup) -> KeptAnatomy:
    """The anatomy that a run needs, kept or made.

    Raises InputError where it cannot be made, or where the measures say that the registration failed.
    """
    kept = _anatomy(source, output, setup)
    if failed := [finding.sentence for finding in kept.findings if finding.level == "fail"]:
        raise InputError(
            f"{source.t1w or source.path}: the registration to the template failed: {' '.join(failed)}",
            hint=f"Look at {output / kept.picture}; check that T1w and BOLD are of one person, oriented "
            "rightly and cover the head.",
        )
    return kept


def _anatomy(source: ScanSource, output: Path, setup: RawSetup) -> KeptAnatomy:
    guide = _guide(source, output)
    paths = _Paths.of(source, output, setup.template.name)
    key = _key(source, output, setup, guide)
    facts = finished(paths.sidecar, key, paths.products)
    if facts is None:
        paths.sidecar.unlink(missing_ok=True)
        sweep_leftovers(paths.sidecar.parent, paths.picture.parent)
        facts = _make(source, setup, guide, paths) | {"key": key}
        write_json(paths.sidecar, facts)
        log.info("%s registered to %s.", source.t1w or source.path, setup.template.name)
    return KeptAnatomy(
        key=key,
        anatomy=_read(paths, facts["metrics"]),  # as it was written: the same whether kept or made
        findings=_judged(facts["metrics"], setup, without_t1w=source.t1w is None),
        picture=str(paths.picture.relative_to(output)),
        low_quality=source.t1w is None,
    )


def _judged(metrics: dict[str, float], setup: RawSetup, *, without_t1w: bool) -> list[Finding]:
    """A run that was registered to the template itself is judged as a run too."""
    findings = judge_anatomy(metrics, setup.thresholds)
    return findings + (judge_run(metrics, setup.thresholds) if without_t1w else [])


def _make(source: ScanSource, setup: RawSetup, guide: RunReference, paths: "_Paths") -> dict[str, Any]:
    """Register and write all files but the sidecar, whose content is returned."""
    if source.t1w is None:
        anatomy = prepare_without_t1w(guide.boldref, guide.mask, setup.template, options=setup.options)
    else:
        anatomy = prepare_anatomy(
            source.t1w,
            setup.template,
            boldref=guide.boldref,
            bold_mask=guide.mask,
            t1_mask=source.t1_mask,
            options=setup.options,
        )
    _write(paths, anatomy)
    shown = "T1w image" if source.t1w else "mean BOLD image"
    draw_t1w_on_template(paths.picture, anatomy.on_template, setup.template.brain(), shown=shown)
    return {
        "Description": "Registered to the template."
        + ("" if source.t1w else " There was no T1w image: the BOLD reference itself, low quality."),
        "Sources": [str(path) for path in (source.t1w, source.t1_mask, guide.bold.path) if path],
        "SkullStripped": False,
        "template": setup.template.facts(),
        "metrics": anatomy.metrics,
    }


def _guide(source: ScanSource, output: Path) -> RunReference:
    """The reference of the run whose brain mask helps to find the brain of the T1w image."""
    if source.t1w is None:
        return run_reference(source, output)
    for path in source.guides:
        try:
            return run_reference(scan_of_name(path), output)
        except InputError as error:  # it fails as a scan of its own; the next one guides
            log.info("%s does not guide %s: %s", path.name, source.t1w.name, error.message)
    return run_reference(source, output)


def _key(source: ScanSource, output: Path, setup: RawSetup, guide: RunReference) -> str:
    images = [content_sha256(path, output) for path in (source.t1w, source.t1_mask) if path is not None]
    decided = (setup.options.sloppy, setup.options.omp_threads, SEED)
    return stage_key("anatomy", _VERSION, images, guide.key, setup.template.sha256, decided, _software())


def _software() -> dict[str, str]:
    from importlib.metadata import version

    return software_versions() | {"antspyx": version("antspyx")}


# --- its files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    t1w: Path
    mask: Path
    to_template: Path
    from_template: Path
    on_template: Path
    sidecar: Path
    picture: Path

    @classmethod
    def of(cls, source: ScanSource, output: Path, template: str) -> "_Paths":
        if source.t1w is None:
            stem, own, suffix = run_stem(output, source), "boldref", "desc-lowquality_boldref"
        else:
            session = parse_name(source.t1w).entities.get("ses", "")
            folder = output / source.participant_id / (f"ses-{session}" if session else "") / "anat"
            stem, own, suffix = folder / stem_of(source.t1w).removesuffix("_T1w"), "T1w", "desc-preproc_T1w"

        def beside(ending: str) -> Path:
            return stem.with_name(f"{stem.name}_{ending}")

        return cls(
            t1w=beside(f"{suffix}.nii.gz"),
            mask=beside(f"desc-{'lowquality' if source.t1w is None else 'brain'}_mask.nii.gz"),
            # named by what it does to images; the points go the other way
            to_template=beside(f"from-{template}_to-{own}_mode-image_xfm.nii.gz"),
            from_template=beside(f"from-{own}_to-{template}_mode-image_xfm.nii.gz"),
            on_template=beside(f"space-{template}_{suffix}.nii.gz"),
            sidecar=beside(f"{suffix}.json"),
            picture=stem.parent.parent / "figures" / f"{stem.name}_space-{template}_{own}.webp",
        )

    @property
    def products(self) -> list[Path]:
        return [self.t1w, self.mask, self.to_template, self.from_template, self.on_template, self.picture]


def _write(paths: _Paths, anatomy: Anatomy) -> None:
    save_image(paths.t1w, anatomy.t1w)
    save_image(paths.mask, anatomy.brain_mask)
    save_image(paths.on_template, anatomy.on_template)
    anatomy.to_template.save(paths.to_template)
    anatomy.from_template.save(paths.from_template)


def _read(paths: _Paths, metrics: dict[str, float]) -> Anatomy:
    return Anatomy(
        t1w=nib.load(paths.t1w),
        brain_mask=nib.load(paths.mask),
        to_template=load_displacement(paths.to_template),
        from_template=load_displacement(paths.from_template),
        on_template=nib.load(paths.on_template),
        metrics=metrics,
    )
