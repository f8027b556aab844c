"""A scan's identity from the name of its file, and its TR from its sidecars."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import ENTITIES, Tree, clean_label, parse_name, stem_of, t_r_of
from bjepa.preproc.inputs.source import Kind, ScanSource
from bjepa.preproc.number_tables import table_suffix

PARCELLATION = ("seg", "atlas", "stat", "den")  # say what a table holds, not whose it is


def kind_of(path: Path) -> Kind | None:
    """What a file is by its extension; None: nothing that is read here."""
    if path.name.endswith(".dtseries.nii"):
        return "dtseries"
    if path.name.endswith(".ptseries.nii") or table_suffix(path) is not None:
        return "series"
    return "volume" if path.name.endswith((".nii", ".nii.gz")) else None


def scan_of_name(path: Path) -> ScanSource:
    """The scan that a file holds."""
    kind = kind_of(path) or "volume"
    name = parse_name(path)
    entities, stem = name.entities, stem_of(path)
    participant = entities.pop("sub", "") or clean_label(stem.removesuffix("_timeseries"))
    if entities.get("desc") == "preproc":  # every BOLD file of fMRIPrep says so
        del entities["desc"]
    left_out = PARCELLATION if kind == "series" else ()
    if name.suffix not in ("bold", "timeseries", "", stem):  # not a BIDS name: the last word keeps it unique
        entities["desc"] = entities.get("desc", "") + clean_label(name.suffix)
    words = [f"{k}-{entities[k]}" for k in ENTITIES if k in entities and k not in left_out]
    return ScanSource(
        path=path,
        kind=kind,
        scan_id="_".join([f"sub-{participant}", *words]),
        participant_id=f"sub-{participant}",
        session=entities.get("ses", ""),
        task=entities.get("task", ""),
        run=entities.get("run", ""),
        space=entities.get("space"),
        tables=(path,) if kind == "series" else (),
    )


def scan_of_file(tree: Tree, path: Path) -> ScanSource:
    """The scan that a file of the tree holds, with the TR of its sidecars."""
    return with_t_r(scan_of_name(path), lambda: tree.sidecar_facts(path))


def with_t_r(scan: ScanSource, facts: Callable[[], Mapping[str, Any]]) -> ScanSource:
    """The scan with the TR of its sidecars; a sidecar that cannot be read makes this scan fail, no other."""
    try:
        return replace(scan, t_r=t_r_of(facts(), scan.path))
    except InputError as error:
        return replace(scan, error=error)
