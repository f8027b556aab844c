"""A manifest: a tab-separated table with one scan a row, column `path` relative to the table.

Its labels become names of folders and files, so they are letters and digits, as BIDS says, with or without
their prefix (`ses-1`, `1`). In participant_id other characters are left out (`NDAR-INV01` becomes
sub-NDARINV01), unless two participants would become one.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import ENTITIES, Tree, clean_label, facts_of_file, is_label
from bjepa.preproc.inputs.names import kind_of, scan_of_name, with_t_r
from bjepa.preproc.inputs.source import ScanSource
from bjepa.preproc.participants import bare_id

log = logging.getLogger(__name__)

COLUMNS = ("path", "participant_id", "session", "task", "run", "t_r", "space", "mask", "confounds")
_PREFIXES = {"session": "ses-", "task": "task-", "run": "run-"}


def scans_of_manifest(path: Path) -> list[ScanSource]:
    """The scans of a manifest. Raises InputError with the line that is wrong."""
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"INPUT {path} cannot be read as a tab-separated table ({error}).") from error
    if "path" not in table.columns:
        raise InputError(
            f"INPUT {path} has no column 'path'; it has {list(table.columns)[:12]}.", hint="See --help."
        )
    if unknown := sorted(set(table.columns) - set(COLUMNS)):
        log.warning("%s: columns %s are not used.", path, unknown)
    if table.empty:
        raise InputError(f"INPUT {path} has a header and no rows.", hint="Write one scan a row.")
    trees: dict[Path, Tree] = {}
    known: dict[str, tuple[str, int]] = {}  # label of a participant -> the id that was given, and where
    rows = table.fillna("").to_dict("records")  # a line with fewer cells than the header has NaN
    return [_of_row(path, line, row, trees, known) for line, row in enumerate(rows, start=2)]


def _of_row(
    manifest: Path,
    line: int,
    row: dict[Any, str],
    trees: dict[Path, Tree],
    known: dict[str, tuple[str, int]],
) -> ScanSource:
    where = f"{manifest}, line {line}"
    told = {k: v.strip() for k, v in row.items() if v.strip() not in ("", "n/a")}
    if "path" not in told:
        raise InputError(f"{where}: column 'path' is empty.")
    path = manifest.parent / told["path"]
    if kind_of(path) is None:
        raise InputError(f"{where}: {path.name} is neither an image (.nii, .nii.gz) nor a table of series.")
    scan = scan_of_name(path)
    changes: dict[str, Any] = {k: _label(told[k], k, where) for k in _PREFIXES if k in told}
    if "space" in told:
        changes["space"] = told["space"]
    given = bare_id(told.get("participant_id", scan.participant_id))
    changes["participant_id"] = f"sub-{_participant(given, line, where, known)}"
    if "t_r" in told:
        try:
            changes["t_r"] = float(told["t_r"])
        except ValueError as error:
            raise InputError(f"{where}: t_r must be seconds, got {told['t_r']!r}.") from error
    else:
        scan = with_t_r(scan, lambda: facts_of_file(path, trees))
    changes |= {k: manifest.parent / told[k] for k in ("mask", "confounds") if k in told}
    return _renamed(replace(scan, **changes), {k for k in _PREFIXES if k in told})


def _label(value: str, column: str, where: str) -> str:
    label = value.removeprefix(_PREFIXES[column])
    if not is_label(label):
        raise InputError(
            f"{where}: {column} {value!r} is no label.",
            hint=f"Letters and digits only, with or without {_PREFIXES[column]!r} before them.",
        )
    return label


def _participant(given: str, line: int, where: str, known: dict[str, tuple[str, int]]) -> str:
    """The label of a participant; `known` is those of the lines before."""
    label = clean_label(given)
    if not label:
        raise InputError(
            f"{where}: participant_id {given!r} holds no letter and no digit.",
            hint="Letters and digits, with or without 'sub-' before them; other characters are left out.",
        )
    other, its_line = known.setdefault(label, (given, line))
    if other != given:
        raise InputError(
            f"{where}: participant_id {given!r} and {other!r} (line {its_line}) would both become "
            f"sub-{label}: only letters and digits are kept.",
            hint="Give participants ids that differ in letters and digits, and one participant one id.",
        )
    return label


def _renamed(scan: ScanSource, told: set[str]) -> ScanSource:
    """With a scan_id that says participant, session, task and run as the manifest does."""
    prefix, *rest = scan.scan_id.split("_")
    if prefix != scan.participant_id:
        rest = rest or [f"desc-{prefix.removeprefix('sub-')}"]
        prefix = scan.participant_id
    for column, key in _PREFIXES.items():
        if column in told:
            rest = [f"{key}{getattr(scan, column)}", *(word for word in rest if not word.startswith(key))]
    rest.sort(key=lambda word: ENTITIES.index(word.split("-")[0]))
    return replace(scan, scan_id="_".join([prefix, *rest]))
