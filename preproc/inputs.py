"""What was given, as a list of scans: a folder, one file, a manifest or an fMRIPrep derivative.

Nothing of the images is read here but their names and JSON sidecars (BIDS inheritance: a sidecar higher up
whose entities all occur in the file's name applies too, the nearer one wins).
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id

log = logging.getLogger(__name__)

# in BIDS order; `desc-preproc` is what every fMRIPrep BOLD file says, so it is left out of names
_ENTITIES = (
    "sub",
    "ses",
    "task",
    "acq",
    "ce",
    "rec",
    "dir",
    "run",
    "echo",
    "part",
    "space",
    "res",
    "den",
    "desc",
)
_OTHER_SUFFIXES = ("mask", "dseg", "probseg", "boldref", "T1w", "T2w", "sbref", "epi", "xfm")
_MANIFEST_COLUMNS = ("path", "participant_id", "session", "task", "run", "t_r", "space", "mask", "confounds")


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """One scan to be preprocessed. Text is "" and values are None where nothing is known."""

    path: Path
    scan_id: str  # unique in the call; begins the names of the scan's output files
    participant_id: str  # with "sub-"
    session: str = ""
    task: str = ""
    run: str = ""
    space: str | None = None
    t_r: float | None = None  # s, from the sidecar or manifest
    mask: Path | None = None
    confounds: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """The scans of one call, and what made them ("fMRIPrep" and the like, "" where unknown)."""

    scans: list[ScanSource]
    made_by: str = ""


@dataclass(frozen=True)
class ScanFilter:
    """BIDS-App style choice of scans; an empty tuple keeps all. Labels with or without their `sub-`."""

    participant_label: Sequence[str] = field(default=())
    session_label: Sequence[str] = field(default=())
    task_id: Sequence[str] = field(default=())
    run_id: Sequence[str] = field(default=())
    space: str | None = None  # of images whose name says their space


def find_scans(given: Path, keep: ScanFilter, *, exclude: Path | None = None) -> Dataset:
    """The scans of `given` that `keep` keeps, sorted by scan_id. Raises InputError where there are none.

    `exclude` is the output folder: it may lie inside `given`, but nothing in it is input.
    """
    if not given.exists():
        raise InputError(
            f"INPUT {given} does not exist.", hint="Give a folder, a NIfTI file or a manifest (.tsv)."
        )
    made_by = ""
    if given.is_file() and given.suffix == ".tsv":
        scans = _from_manifest(given)
    elif given.is_file():
        scans = [_from_name(given, given.parent)]
    elif (description := given / "dataset_description.json").is_file():
        made_by = _made_by(description)
        scans = _from_derivative(given, exclude)
    else:
        scans = _from_folder(given, exclude)
    kept = [scan for scan in scans if _is_kept(scan, keep)]
    if not kept:
        raise InputError(
            f"INPUT {given}: none of its {len(scans)} scans is left by the filters {_told(keep)}.",
            hint="Compare the labels with the file names.",
        )
    _refuse_twins(kept)
    return Dataset(sorted(kept, key=lambda scan: scan.scan_id), made_by)


# --- the kinds of input -------------------------------------------------------------------------------------


def _from_folder(folder: Path, exclude: Path | None) -> list[ScanSource]:
    images = _images(folder, exclude)
    if not images:
        raise InputError(
            f"INPUT {folder} holds no NIfTI file (.nii, .nii.gz).",
            hint="Give the folder that holds the BOLD runs.",
        )
    return [_from_name(path, folder) for path in images]


def _images(folder: Path, exclude: Path | None) -> list[Path]:
    images = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if (
            hidden
            or not path.name.endswith((".nii", ".nii.gz"))
            or ".dtseries." in path.name
            or path.is_dir()
        ):
            continue
        if exclude is not None and path.resolve().is_relative_to(exclude.resolve()):
            continue
        if _stem(path).rsplit("_", 1)[-1] in _OTHER_SUFFIXES:
            log.debug("%s is not a BOLD run; passed over.", path)
            continue
        images.append(path)
    return images


def _from_derivative(folder: Path, exclude: Path | None) -> list[ScanSource]:
    description = _read_json(folder / "dataset_description.json")
    if description.get("DatasetType", "raw") != "derivative" and "GeneratedBy" not in description:
        raise InputError(
            f"INPUT {folder} is a raw BIDS folder; its scans are not in a template space.",
            hint="Run fMRIPrep and give its output folder, or give normalised NIfTI files.",
        )
    images = [path for path in _images(folder, exclude) if path.name.endswith(("bold.nii", "bold.nii.gz"))]
    preprocessed = [path for path in images if "_desc-preproc_" in path.name]
    if not preprocessed:
        raise InputError(
            f"INPUT {folder} holds no *_desc-preproc_bold.nii.gz.",
            hint="Give the derivative folder itself (the one with the sub-* folders).",
        )
    scans = []
    for path in preprocessed:
        mask = path.with_name(re.sub(r"_desc-preproc_bold(\.nii(\.gz)?)$", r"_desc-brain_mask\1", path.name))
        scans.append(replace(_from_name(path, folder), mask=mask if mask.is_file() else None))
    return scans


def _from_manifest(path: Path) -> list[ScanSource]:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"INPUT {path} cannot be read as a tab-separated table ({error}).") from error
    if "path" not in table.columns:
        raise InputError(
            f"INPUT {path} has no column 'path'; it has {list(table.columns)}.", hint="See --help."
        )
    if unknown := sorted(set(table.columns) - set(_MANIFEST_COLUMNS)):
        log.warning("%s: columns %s are not used.", path, unknown)
    return [_from_row(path, number, row) for number, row in enumerate(table.to_dict("records"), start=2)]


def _from_row(manifest: Path, line: int, row: dict[Any, str]) -> ScanSource:
    told = {k: v.strip() for k, v in row.items() if v.strip() not in ("", "n/a")}
    if "path" not in told:
        raise InputError(f"{manifest}, line {line}: column 'path' is empty.")
    scan = _from_name(manifest.parent / told["path"], manifest.parent)
    changes: dict[str, Any] = {k: told[k] for k in ("session", "task", "run", "space") if k in told}
    if "participant_id" in told:
        changes["participant_id"] = "sub-" + _label(bare_id(told["participant_id"]))
    if "t_r" in told:
        try:
            changes["t_r"] = float(told["t_r"])
        except ValueError as error:
            raise InputError(f"{manifest}, line {line}: t_r must be seconds, got {told['t_r']!r}.") from error
    changes |= {k: manifest.parent / told[k] for k in ("mask", "confounds") if k in told}
    scan = replace(scan, **changes)
    prefix, _, rest = scan.scan_id.partition("_")
    return (
        scan
        if prefix == scan.participant_id
        else replace(scan, scan_id=f"{scan.participant_id}_{rest or prefix}")
    )


def _made_by(description: Path) -> str:
    tools = _read_json(description).get("GeneratedBy") or [{}]
    return str(tools[0].get("Name", "")) if isinstance(tools, list) and isinstance(tools[0], dict) else ""


# --- one file -----------------------------------------------------------------------------------------------


def _from_name(path: Path, root: Path) -> ScanSource:
    entities, suffix = _entities(path)
    participant = entities.pop("sub", "") or _label(_stem(path))
    if "desc" in entities and entities["desc"] == "preproc":
        del entities["desc"]
    if suffix not in ("bold", "", _stem(path)):  # a name that is not BIDS keeps its last word, to stay unique
        entities["desc"] = entities.get("desc", "") + _label(suffix)
    sidecar = _sidecar(path, root)
    t_r = sidecar.get("RepetitionTime")
    return ScanSource(
        path=path,
        scan_id="_".join([f"sub-{participant}", *(f"{k}-{entities[k]}" for k in _ENTITIES if k in entities)]),
        participant_id=f"sub-{participant}",
        session=entities.get("ses", ""),
        task=entities.get("task", ""),
        run=entities.get("run", ""),
        space=entities.get("space"),
        t_r=float(t_r) if isinstance(t_r, int | float) else None,
    )


def _entities(path: Path) -> tuple[dict[str, str], str]:
    """BIDS entities and suffix of a file name; both empty where the name has no `sub-`."""
    from nilearn.interfaces.bids import parse_bids_filename

    parsed = parse_bids_filename(str(path))
    entities = {k: v for k, v in parsed["entities"].items() if v is not None}
    return (entities, str(parsed["suffix"])) if "sub" in entities else ({}, "")


def _sidecar(path: Path, root: Path) -> dict[str, Any]:
    """JSON facts of an image, by BIDS inheritance from `root` down to the file's own folder."""
    own = set(_stem(path).split("_"))
    suffix = _stem(path).rsplit("_", 1)[-1]
    folders = [folder for folder in (path.parent, *path.parent.parents) if folder.is_relative_to(root)]
    facts: dict[str, Any] = {}
    for folder in reversed(folders):  # the nearest comes last and wins
        applies = [
            p for p in folder.glob(f"*{suffix}.json") if set(p.name.removesuffix(".json").split("_")) <= own
        ]
        for sidecar in sorted(applies, key=lambda p: len(p.name)):
            facts |= _read_json(sidecar)
    return facts


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _label(text: str) -> str:
    """Letters and digits only, as BIDS labels are."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


# --- filters ------------------------------------------------------------------------------------------------


def _is_kept(scan: ScanSource, keep: ScanFilter) -> bool:
    return (
        _among(scan.participant_id, keep.participant_label, "sub-")
        and _among(scan.session, keep.session_label, "ses-")
        and _among(scan.task, keep.task_id, "task-")
        and _among(scan.run, keep.run_id, "run-")
        and (keep.space is None or scan.space is None or scan.space == keep.space)
    )


def _among(value: str, allowed: Iterable[str], prefix: str) -> bool:
    allowed = {label.removeprefix(prefix) for label in allowed}
    return not allowed or value.removeprefix(prefix) in allowed


def _told(keep: ScanFilter) -> str:
    return ", ".join(f"{k}={v}" for k, v in vars(keep).items() if v) or "(none)"


def _refuse_twins(scans: list[ScanSource]) -> None:
    twins = [name for name, count in Counter(scan.scan_id for scan in scans).items() if count > 1]
    if twins:
        paths = [str(scan.path) for scan in scans if scan.scan_id == twins[0]]
        raise InputError(
            f"{len(twins)} scan names occur more than once, e.g. {twins[0]} from {' and '.join(paths)}.",
            hint="Give BIDS names that differ, choose one --space, or a manifest with participant_id.",
        )
