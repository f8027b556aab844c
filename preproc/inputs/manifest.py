"""A manifest: a tab-separated table with one scan a row, column `path` relative to the table."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import ENTITIES, Tree, clean_label
from bjepa.preproc.inputs.names import kind_of, scan_of_name, with_t_r
from bjepa.preproc.inputs.source import ScanSource
from bjepa.preproc.participants import bare_id

log = logging.getLogger(__name__)

COLUMNS = ("path", "participant_id", "session", "task", "run", "t_r", "space", "mask", "confounds")


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
    trees: dict[Path, Tree] = {}
    return [_of_row(path, line, row, trees) for line, row in enumerate(table.to_dict("records"), start=2)]


def _of_row(manifest: Path, line: int, row: dict[Any, str], trees: dict[Path, Tree]) -> ScanSource:
    where = f"{manifest}, line {line}"
    told = {k: v.strip() for k, v in row.items() if v.strip() not in ("", "n/a")}
    if "path" not in told:
        raise InputError(f"{where}: column 'path' is empty.")
    path = manifest.parent / told["path"]
    if kind_of(path) is None:
        raise InputError(f"{where}: {path.name} is neither an image (.nii, .nii.gz) nor a table of series.")
    scan = scan_of_name(path)
    changes: dict[str, Any] = {k: told[k] for k in ("session", "task", "run", "space") if k in told}
    if "participant_id" in told:
        changes["participant_id"] = "sub-" + clean_label(bare_id(told["participant_id"]))
    if "t_r" in told:
        try:
            changes["t_r"] = float(told["t_r"])
        except ValueError as error:
            raise InputError(f"{where}: t_r must be seconds, got {told['t_r']!r}.") from error
    else:
        if path.parent not in trees:
            trees[path.parent] = Tree(path.parent, deep=False)
        scan = with_t_r(scan, lambda: trees[path.parent].sidecar_facts(path))
    changes |= {k: manifest.parent / told[k] for k in ("mask", "confounds") if k in told}
    return _renamed(replace(scan, **changes), {k for k in ("session", "task", "run") if k in told})


def _renamed(scan: ScanSource, told: set[str]) -> ScanSource:
    """With a scan_id that says participant, session, task and run as the manifest does."""
    prefix, *rest = scan.scan_id.split("_")
    if prefix != scan.participant_id:
        rest = rest or [f"desc-{prefix.removeprefix('sub-')}"]
        prefix = scan.participant_id
    for key, column in (("ses-", "session"), ("task-", "task"), ("run-", "run")):
        if column in told:
            value = clean_label(str(getattr(scan, column)))
            rest = [f"{key}{value}", *(word for word in rest if not word.startswith(key))]
    rest.sort(key=lambda word: ENTITIES.index(word.split("-")[0]))
    return replace(scan, scan_id="_".join([prefix, *rest]))
