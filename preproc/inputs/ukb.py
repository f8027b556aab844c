"""UK Biobank bulk data: regional series as csv.gz, one file a parcellation.

    1000011/i2/fMRI.Schaefer17n400p.csv.gz               participant / instance (also without the instance)
    1000011_31016_2_0/fMRI.Tian_Subcortex_S3_3T.csv.gz   participant_field_instance_array, as in bulk files
A header (label_name, timepoint_0, ...), then a row a region: its name and 490 frames. Written by Mansour L.
et al. 2023, doi:10.1016/j.neuroimage.2023.120407 (scripts/python/compute_*_fmri.py of their repository), from
ICA-FIX cleaned data in native space; means are kept.
"""

import re
from pathlib import Path

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import Tree, clean_label
from bjepa.preproc.inputs.known_tables import UKB, tables_of_parts
from bjepa.preproc.inputs.source import ScanFilter, ScanSource

# s; resting state, all instances: UK Biobank Brain Imaging Documentation, "Resting-state functional MRI"
# (490 frames of 0.735 s, multiband 8). --t-r overrules it.
T_R = 0.735

_TABLE = re.compile(r"fMRI\.(?P<parcellation>.+)\.csv(\.gz)?")
_BULK = re.compile(r"(?P<participant>\d+)_\d+_(?P<instance>\d)_\d")
_SESSION = re.compile(r"(?P<participant>\d+)_(?P<instance>\d)(_\d)?")
_INSTANCE = re.compile(r"i(?P<instance>\d)")
_NOT_A_PERSON = ("fMRI",)  # folders between the participant's and the tables


def is_table(path: Path) -> bool:
    """Whether a file is named as these tables are."""
    return _TABLE.fullmatch(path.name) is not None


def scans_of_bulk(tree: Tree, keep: ScanFilter) -> list[ScanSource]:
    """One scan for each participant and instance, of the tables that together hold the atlas."""
    parts = tables_of_parts(keep.atlas, UKB)
    tables: dict[Path, dict[str, Path]] = {}
    for path in tree.files(".csv.gz", ".csv"):
        if match := _TABLE.fullmatch(path.name):
            tables.setdefault(path.parent, {})[match["parcellation"]] = path
    there = sorted({name for found in tables.values() for name in found})
    if parts is None:
        raise InputError(
            f"INPUT {tree.root}: no UK Biobank table is known to hold the regions of {keep.atlas!r}.",
            hint=f"Here are {', '.join(there)}. Choose an --atlas of schaefer-N and tian-sK.",
        )
    return [_scan(folder, found, parts, keep, tree.root) for folder, found in tables.items()]


def _scan(
    folder: Path, found: dict[str, Path], parts: list[list[str]], keep: ScanFilter, root: Path
) -> ScanSource:
    participant, instance = _whose(folder, root)
    picked = [next((found[name] for name in options if name in found), None) for options in parts]
    complete = tuple(path for path in picked if path is not None)
    error = None
    if len(complete) < len(parts):
        lacking = [" or ".join(o) for o, path in zip(parts, picked, strict=True) if path is None]
        error = InputError(
            f"{folder} has no table fMRI.{' and no fMRI.'.join(lacking)}.csv.gz for {keep.atlas!r}.",
            hint=f"It has {', '.join(sorted(found))}.",
        )
    session = [f"ses-{instance}"] if instance else []
    return ScanSource(
        path=complete[0] if complete else next(iter(found.values())),
        kind="series",
        scan_id="_".join([f"sub-{participant}", *session, "task-rest"]),
        participant_id=f"sub-{participant}",
        session=instance,
        task="rest",
        t_r=T_R,
        tables=complete,
        denoised=True,
        error=error,
    )


def _whose(folder: Path, root: Path) -> tuple[str, str]:
    """Participant and instance ("" where no folder says it) from the folders that a table lies in."""
    instance = ""
    for name in [part for part in reversed(folder.parts) if part not in _NOT_A_PERSON]:
        if match := _INSTANCE.fullmatch(name):
            instance = match["instance"]
        elif match := _BULK.fullmatch(name) or _SESSION.fullmatch(name):
            return match["participant"], match["instance"]
        else:
            return clean_label(name.removeprefix("sub-")), instance
    raise InputError(f"INPUT {root}: no folder of {folder} names a participant.")
