"""What was given, as a list of scans: one file, a manifest, or a folder of images, tables or derivatives.

    folder with dataset_description.json   fMRIPrep or XCP-D derivative (derivatives.py), or raw BIDS
                                           (raw_bids.py)
    folder with fMRI.*.csv.gz              UK Biobank bulk (ukb.py)
    other folder                           its BOLD images; without images its tables of series
    .tsv with a column `path`              manifest (manifest.py)
    one file                               an image, or a table of series
Nothing is read here but names, JSON sidecars and manifests. A scan whose sidecar is broken carries its error.
"""

import csv
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bjepa.preproc.atlas.spaces import SURFACE_SPACE
from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs import ukb
from bjepa.preproc.inputs.bids import Tree, dataset_root, facts_of_file, parse_name, passes, stem_of
from bjepa.preproc.inputs.derivatives import refuse_the_same_run_twice, scans_of_derivative
from bjepa.preproc.inputs.manifest import scans_of_manifest
from bjepa.preproc.inputs.names import kind_of, scan_of_file, scan_of_name, with_t_r
from bjepa.preproc.inputs.raw_bids import is_raw, scans_of_raw
from bjepa.preproc.inputs.source import Dataset, Kind, ScanFilter, ScanSource
from bjepa.preproc.number_tables import SUFFIXES as TABLE_SUFFIXES
from bjepa.preproc.participants import read_participant_list
from bjepa.preproc.text_tables import is_number

log = logging.getLogger(__name__)

_OTHER_SUFFIXES = ("mask", "dseg", "probseg", "boldref", "T1w", "T2w", "sbref", "epi", "xfm")


def find_scans(given: Path, keep: ScanFilter, *, exclude: Path | None = None) -> Dataset:
    """The scans of `given` that `keep` keeps, sorted by scan_id. Raises InputError where there are none.

    `exclude` is the output folder: it may lie inside `given`, but nothing in it is input.
    """
    if not given.exists():
        raise InputError(
            f"INPUT {given} does not exist.",
            hint="Give a folder, an image, a table of series or a manifest (.tsv).",
        )
    keep = replace(keep, participant_label=participants_of(keep.participant_label))
    is_dataset = given.is_dir() and (given / "dataset_description.json").is_file()
    is_derivative = is_dataset and not is_raw(given)
    if is_derivative:
        dataset = scans_of_derivative(given, keep, exclude)
    elif is_dataset:
        dataset = scans_of_raw(given, keep, exclude)
    elif given.is_dir():
        dataset = _of_folder(given, keep, exclude)
    elif _is_manifest(given):
        dataset = Dataset(scans_of_manifest(given))
    else:
        dataset = Dataset([_of_file(given)])
    kept = _kept(dataset.scans, keep)
    if not kept:
        raise InputError(
            f"INPUT {given}: none of its {len(dataset.scans)} scans is left by the filters {_told(keep)}.",
            hint="Compare the labels with the file names.",
        )
    _tell_labels_without_scan(dataset.scans, keep)
    if is_derivative:
        refuse_the_same_run_twice(kept)
    _refuse_twins(kept)
    _refuse_mixed_kinds(kept)
    return Dataset(sorted(kept, key=lambda scan: scan.scan_id), dataset.made_by)


# --- the kinds of input -------------------------------------------------------------------------------------


def _of_folder(folder: Path, keep: ScanFilter, exclude: Path | None) -> Dataset:
    tree = Tree(folder, exclude)
    if any(ukb.is_table(path) for path in tree.files(".csv.gz", ".csv")):
        return Dataset(ukb.scans_of_bulk(tree, keep), "UK Biobank")
    images, series = _images(tree, keep), _series(tree)
    if images and (named := [path for path in series if "timeseries" in path.name]):
        raise InputError(
            f"INPUT {folder} holds {len(images)} images and {len(named)} tables of series "
            f"({named[0].name} ...).",
            hint="Give the folder of the one or the other, or a manifest.",
        )
    _tell_if_raw(folder, tree, images)
    files = images or series
    if not files:
        raise InputError(
            f"INPUT {folder} holds no NIfTI file (.nii, .nii.gz) and no table of series "
            f"({', '.join(TABLE_SUFFIXES)}, .ptseries.nii).",
            hint="Give the folder that holds the BOLD runs.",
        )
    if not images:
        log.info("%s: %d tables of series, e.g. %s.", folder, len(files), files[0].name)
    scans = [
        scan_of_file(tree, path) for path in files if passes(parse_name(path).entities, keep.bids_filter)
    ]
    return Dataset(scans)


def _tell_if_raw(folder: Path, tree: Tree, images: list[Path]) -> None:
    """Names without a space, and a T1w image beside them: probably raw, and not in a template's space."""
    named = [parse_name(path) for path in images]
    if not named or any("space" in name.entities or name.suffix != "bold" for name in named):
        return
    t1ws = (p for p in tree.files("_T1w.nii", "_T1w.nii.gz") if "space" not in parse_name(p).entities)
    if (t1w := next(t1ws, None)) is None:
        return
    root = dataset_root(folder)
    do = (
        f"give {root}, with --participant-label"
        if root != Path(os.path.abspath(folder))
        else 'put a dataset_description.json ({"Name": "x", "BIDSVersion": "1.9.0"}) beside the sub-*'
    )
    log.warning(
        "%s looks like raw BIDS: no name says a space, and there is %s. It is taken as a folder of "
        "normalised images. If it is raw: %s.",
        *(folder, t1w.name, do),
    )


def _images(tree: Tree, keep: ScanFilter) -> list[Path]:
    """BOLD images; surface files (dtseries) only where there are no volumes or fsLR is asked for."""
    found: dict[Kind, list[Path]] = {"volume": [], "dtseries": []}
    for path in tree.files(".nii", ".nii.gz"):
        kind = kind_of(path)
        if kind not in found or path.name.endswith(
            (".dlabel.nii", ".dscalar.nii", ".pconn.nii", ".pscalar.nii")
        ):
            continue
        if stem_of(path).rsplit("_", 1)[-1] in _OTHER_SUFFIXES:
            log.debug("%s is not a BOLD run; passed over.", path)
            continue
        found[kind].append(path)
    if found["dtseries"] and found["volume"]:
        taken: Kind = "dtseries" if keep.space == SURFACE_SPACE else "volume"
        other: Kind = "volume" if taken == "dtseries" else "dtseries"
        log.info("%d files of kind %s left out (--space %s chooses).", len(found[other]), other, keep.space)
        return found[taken]
    return found["volume"] or found["dtseries"]


def _series(tree: Tree) -> list[Path]:
    """Tables in a folder: those called *timeseries*, else all; no confounds, participants or sidecars."""
    found = [
        path
        for path in tree.files(*TABLE_SUFFIXES, ".ptseries.nii")
        if not path.name.startswith("participants") and "confounds" not in path.name
    ]
    return [path for path in found if "timeseries" in path.name] or found


def _of_file(path: Path) -> ScanSource:
    if kind_of(path) is None:
        raise InputError(
            f"INPUT {path.name} is neither an image (.nii, .nii.gz) nor a table of series "
            f"({', '.join(TABLE_SUFFIXES)}) nor a manifest (.tsv).",
        )
    return with_t_r(scan_of_name(path), lambda: facts_of_file(path, {}))


def _is_manifest(path: Path) -> bool:
    """A .tsv with a column `path`, or one whose second line is no row of numbers (no table of series)."""
    if path.suffix != ".tsv":
        return False
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter="\t")
            first, second = next(rows, []), next(rows, [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"INPUT {path} cannot be read as a tab-separated table ({error}).") from error
    return "path" in first or len(first) < 2 or not all(is_number(cell) for cell in second[1:])


# --- filters ------------------------------------------------------------------------------------------------


def participants_of(labels: Sequence[str]) -> list[str]:
    """Participant labels, with those of files (a list, or a table with participant_id) in their place."""
    known: list[str] = []
    for label in labels:
        path = Path(label)
        if path.suffix in (".tsv", ".csv", ".txt") or len(path.parts) > 1:
            known += read_participant_list(path)
        else:
            known.append(label)
    return known


class _Asked(NamedTuple):
    """One of the filters by label."""

    option: str
    attribute: str  # of a ScanSource
    prefix: str
    labels: set[str]  # as `_bare` gives them; empty: not asked for

    def label_of(self, scan: ScanSource) -> str:
        return _bare(getattr(scan, self.attribute), self.prefix)


def _asked(keep: ScanFilter) -> list[_Asked]:
    filters = (
        ("--participant-label", "participant_id", "sub-", keep.participant_label),
        ("--session-label", "session", "ses-", keep.session_label),
        ("--task-id", "task", "task-", keep.task_id),
        ("--run-id", "run", "run-", keep.run_id),
    )
    return [
        _Asked(option, attribute, prefix, {_bare(label, prefix) for label in labels})
        for option, attribute, prefix, labels in filters
    ]


def _bare(label: str, prefix: str) -> str:
    """Without its prefix; a run is a number, and 01 is 1 (BIDS: an index)."""
    bare = label.removeprefix(prefix)
    return str(int(bare)) if prefix == "run-" and bare.isdigit() else bare


def _kept(scans: list[ScanSource], keep: ScanFilter) -> list[ScanSource]:
    asked = [one for one in _asked(keep) if one.labels]
    return [
        scan
        for scan in scans
        if all(one.label_of(scan) in one.labels for one in asked)
        and (keep.space is None or scan.space is None or scan.space == keep.space)
    ]


def _tell_labels_without_scan(scans: list[ScanSource], keep: ScanFilter) -> None:
    """A label that no scan has is told: a typing error must not leave participants out in silence."""
    for one in _asked(keep):
        if absent := sorted(one.labels - {one.label_of(scan) for scan in scans}):
            log.warning("%s: no scan has %s%s.", one.option, absent[:12], " ..." if len(absent) > 12 else "")


def _told(keep: ScanFilter) -> str:
    filters = {k: v for k, v in vars(keep).items() if k not in ("atlas", "xcpd", "raw")}
    return ", ".join(f"{k}={v}" for k, v in filters.items() if v) or "(none)"


def _refuse_twins(scans: list[ScanSource]) -> None:
    twins = [name for name, count in Counter(scan.scan_id for scan in scans).items() if count > 1]
    if twins:
        paths = [str(scan.path) for scan in scans if scan.scan_id == twins[0]]
        raise InputError(
            f"{len(twins)} scan names occur more than once, e.g. {twins[0]} from {' and '.join(paths)}.",
            hint="Give BIDS names that differ, choose one --space, or a manifest with participant_id.",
        )


def _refuse_mixed_kinds(scans: list[ScanSource]) -> None:
    kinds = {scan.kind: scan.path.name for scan in scans}
    if len(kinds) > 1:
        raise InputError(
            f"the scans are of several kinds: {', '.join(f'{k} ({v})' for k, v in sorted(kinds.items()))}.",
            hint="A call has one atlas, of one kind: give volumes, surface files and tables each in its own.",
        )
