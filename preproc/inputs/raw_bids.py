"""Scans of a raw BIDS folder: BOLD runs as the scanner gave them, each with its T1w image (raw_t1w.py).

    sub-*/[ses-*/]func/*_bold.nii[.gz]     runs; phase images and derivatives (space-, desc-) are passed over
    sub-*/[ses-*/]anat/*_T1w.nii[.gz]      T1w images
Sidecars are inherited as everywhere: RepetitionTime, SliceTiming, SliceEncodingDirection. Nothing is read but
names and sidecars; what is wrong with a run is its `error`, and the others go on.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import Tree, parse_name, passes, read_json
from bjepa.preproc.inputs.names import scan_of_file
from bjepa.preproc.inputs.raw_t1w import told, with_guides, with_t1w
from bjepa.preproc.inputs.source import Dataset, ScanFilter, ScanSource

log = logging.getLogger(__name__)

MADE_BY = "raw BIDS"
_PARTS_TAKEN = (None, "mag")  # of complex-valued images
_AXES = {"i": 0, "j": 1, "k": 2}


def is_raw(folder: Path) -> bool:
    """Whether a folder with a dataset_description.json is raw BIDS: it says so, or says nothing else.

    Converters to BIDS write GeneratedBy into raw folders too; old derivatives say neither, and are told by
    the names of their images.
    """
    description = read_json(folder / "dataset_description.json")
    kind = description.get("DatasetType")
    if kind is None and "GeneratedBy" not in description and "PipelineDescription" not in description:
        kind = "raw"
    return bool(kind == "raw")


def scans_of_raw(folder: Path, keep: ScanFilter, exclude: Path | None) -> Dataset:
    """The runs of a raw BIDS folder that the filter file keeps; what is wrong with one is its `error`.

    Raises InputError where there are no runs at all.
    """
    tree = Tree(folder, exclude)
    images = list(_named(tree, "func", "bold"))
    runs = [path for path in images if passes(parse_name(path).entities, keep.bids_filter)]
    if not runs:
        raise InputError(
            f"INPUT {folder} is a raw BIDS folder without sub-*/[ses-*/]func/*_bold.nii.gz"
            f"{' that the filter file keeps' if images else ''}.",
            hint=_what_to_give(tree),
        )
    if inside := _derivatives(folder):
        log.info("%s is taken as raw; %s would be read if it were INPUT.", folder, " or ".join(inside))
    t1ws = _by_participant(_named(tree, "anat", "T1w"))
    echoes = _by_run(runs)
    scans = []
    for path in runs:
        scan = replace(scan_of_file(tree, path), kind="raw")
        if scan.error is None:
            scan = _with_slice_times(scan, tree.sidecar_facts(path), keep)
        scan = _one_echo(scan, echoes[_run_key(path)])
        scan = with_t1w(scan, t1ws.get(scan.participant_id, []), keep, folder)
        scans.append(_with_content(scan))
    return Dataset(with_guides(scans, images, t1ws, keep), MADE_BY)


# --- the files ----------------------------------------------------------------------------------------------


def _named(tree: Tree, datatype: str, suffix: str) -> Iterable[Path]:
    """Raw images of a datatype, under the participants' own folders."""
    for path in tree.files(f"_{suffix}.nii", f"_{suffix}.nii.gz"):
        *sessions, folder = path.relative_to(tree.root).parts[1:-1] or ("",)
        entities = parse_name(path).entities
        if (
            path.relative_to(tree.root).parts[0] == f"sub-{entities.get('sub')}"
            and folder == datatype
            and sessions in ([], [f"ses-{entities.get('ses')}"])
            and not {"space", "desc"} & entities.keys()
            and entities.get("part") in _PARTS_TAKEN
        ):
            yield path


def _derivatives(folder: Path) -> list[str]:
    return sorted(str(p.parent) for p in (folder / "derivatives").glob("*/dataset_description.json"))


def _what_to_give(tree: Tree) -> str:
    if inside := _derivatives(tree.root):
        return f"Give {' or '.join(inside)}."
    if any(
        "_space-" in p.name or "_desc-preproc_" in p.name for p in tree.files("_bold.nii", "_bold.nii.gz")
    ):
        return 'It holds preprocessed images: its dataset_description.json needs "DatasetType": "derivative".'
    return "Give the folder that holds the sub-* folders, with their func and anat."


def _by_participant(paths: Iterable[Path]) -> Mapping[str, list[Path]]:
    found = defaultdict(list)
    for path in sorted(paths):
        found[f"sub-{parse_name(path).entities['sub']}"].append(path)
    return found


def _with_content(scan: ScanSource) -> ScanSource:
    """A run whose files are links to nothing (datalad, git-annex) says so."""
    for path in (scan.path, scan.t1w, scan.t1_mask):
        if path is not None and path.is_symlink() and not path.exists():
            error = InputError(
                f"{path} is a link to a file that is not there.",
                hint=f"Of a datalad or git-annex folder: datalad get {path}.",
            )
            return replace(scan, error=scan.error or error)
    return scan


# --- echoes -------------------------------------------------------------------------------------------------


def _run_key(path: Path) -> frozenset[tuple[str, str]]:
    entities = parse_name(path).entities
    return frozenset((k, v) for k, v in entities.items() if k not in ("echo", "part"))


def _by_run(paths: Iterable[Path]) -> Mapping[frozenset[tuple[str, str]], list[Path]]:
    found = defaultdict(list)
    for path in paths:
        found[_run_key(path)].append(path)
    return found


def _one_echo(scan: ScanSource, of_this_run: list[Path]) -> ScanSource:
    """Several echoes of a run are refused; one, chosen or alone, is told."""
    entities = parse_name(scan.path).entities
    if len(of_this_run) > 1:
        differ = "echo" if "echo" in entities else "part"
        return replace(
            scan,
            error=scan.error
            or InputError(
                f"{scan.path} is one of {len(of_this_run)} images of its run (echoes, parts); they are not "
                "combined.",
                hint="Choose one with --bids-filter-file, for example "
                f'{{"bold": {{"{differ}": "{entities.get(differ, "mag")}"}}}}, or use fMRIPrep.',
            ),
        )
    if "echo" in entities:
        return told(scan, f"echo {entities['echo']} of a multi-echo run is used alone.")
    return scan


# --- slice times --------------------------------------------------------------------------------------------


def _with_slice_times(scan: ScanSource, facts: Mapping[str, Any], keep: ScanFilter) -> ScanSource:
    """With the times of its slices along the axis of the array, in the array's order."""
    if "VolumeTiming" in facts and "RepetitionTime" not in facts:
        error = InputError(f"{scan.path}: VolumeTiming, volumes at uneven times, is not supported.")
        return replace(scan, error=error)
    try:
        times, axis = slice_times_of(facts, scan.path, scan.t_r)
    except InputError as error:
        if keep.raw.slice_timing:
            return replace(scan, error=error)
        return told(scan, f"its SliceTiming cannot be used: {error.message}")
    if times is None and keep.raw.slice_timing:
        scan = told(scan, "no SliceTiming in its sidecar: slices were not shifted in time.")
    return replace(scan, slice_times=times, slice_axis=axis)


def slice_times_of(
    facts: Mapping[str, Any], path: Path, t_r: float | None
) -> tuple[tuple[float, ...] | None, int]:
    """SliceTiming (s) in the order of the array, None where there is none; and the array's axis of slices.

    A negative SliceEncodingDirection lists them from the array's end (BIDS). Raises InputError for values
    that are no times within the volume.
    """
    direction = facts.get("SliceEncodingDirection", "k")
    if not (isinstance(direction, str) and re.fullmatch(r"[ijk]-?", direction)):
        raise InputError(
            f"{path}: SliceEncodingDirection must be i, j or k, with or without '-', got {direction!r}.",
            hint="Mend its sidecar, or leave out --slice-timing.",
        )
    times = facts.get("SliceTiming")
    if times is None:
        return None, _AXES[direction[0]]
    if not (isinstance(times, list) and times and all(_is_time(value) for value in times)):
        raise InputError(
            f"{path}: SliceTiming must be a list of seconds, 0 or more, got {str(times)[:80]}.",
            hint="Mend its sidecar, or leave out --slice-timing.",
        )
    if t_r is not None and max(times) > t_r * (1 + 1e-6):
        raise InputError(
            f"{path}: SliceTiming reaches {max(times):g} s, RepetitionTime is {t_r:g} s.",
            hint="Seconds from the start of the volume are needed (not milliseconds).",
        )
    in_order = times[::-1] if direction.endswith("-") else times
    return tuple(float(value) for value in in_order), _AXES[direction[0]]


def _is_time(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
