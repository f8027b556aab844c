"""One scan's regional series on disk, `<entities>_seg-<atlas>_timeseries.{h5,json}`, and failures.

The HDF5 file holds `/timeseries` (n_frames, n_rois) float32: raw means (cleaned if asked), at the scan's own
t_r, NaN in missing regions; and `/censored` (n_frames,) bool, True where a scrubbed frame was filled in. The
JSON file says where they came from; it is written last. Both carry the same `key`, which names the input, its
options and the software: a scan is finished when both are there with the key that is asked for, so a process
killed between the two files leaves a scan that is done again, never one that is half of each.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bjepa
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_json, sweep_leftovers, write_aside, write_json, write_tsv
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.inputs.bids import clean_label

log = logging.getLogger(__name__)

MAKER = "bjepa-preprocess"
_FAILURES = Path("work") / "failures"
_REPLACED = ("shards", "scans.tsv", "failures.tsv", "scaling.tsv")  # by a run


@dataclass(frozen=True)
class Failure:
    """A scan that could not be done; one row of failures.tsv."""

    source: str
    stage: str
    error: str
    message: str
    hint: str


_FAILURE_FIELDS = tuple(field.name for field in fields(Failure))


def func_folder(root: Path, participant_id: str, session: str) -> Path:
    """Where BIDS has the functional files of a participant's session ("": none)."""
    return root / participant_id / (f"ses-{session}" if session else "") / "func"


def scan_stem(output: Path, source: ScanSource, atlas_name: str) -> Path:
    """Path of a scan's files without their extension."""
    folder = func_folder(output, source.participant_id, source.session)
    return folder / f"{source.scan_id}_seg-{clean_label(atlas_name)}_timeseries"


def picture_path(stem: Path) -> Path:
    """Where the picture of a scan lies: `figures/` beside `func/`, as fMRIPrep has it."""
    return stem.parent.parent / "figures" / (stem.name.removesuffix("_timeseries") + "_qc.webp")


def sweep_scan(stem: Path) -> None:
    """Delete what killed processes left where this scan's files lie."""
    sweep_leftovers(stem.parent, picture_path(stem).parent)


def sweep_output(output: Path) -> None:
    """Delete what killed processes left in OUTPUT but in the folders of scans: each scan sweeps its own.

    Those are too many to walk through at every call of a study of thousands.
    """
    work = output / "work"
    n_swept = sweep_leftovers(
        *(output, output / "atlas", output / "exports", output / _FAILURES),
        *(work / "operators", work / "raw", work / "raw" / "hashes"),
    )
    if n_swept:
        log.info("%d temporary files of killed processes removed from %s.", n_swept, output)


def write_scan(
    stem: Path, timeseries: NDArray[np.float32], censored: NDArray[np.bool_], facts: dict[str, Any]
) -> None:
    """Write series (n_frames, n_rois), marks (n_frames,) and facts, the facts last."""
    with write_aside(_with(stem, ".h5")) as aside, h5py.File(aside, "w") as file:
        file["timeseries"] = timeseries
        file["censored"] = censored
        file.attrs.update(t_r=facts["t_r"], atlas_sha256=facts["atlas_sha256"], key=facts["key"])
    write_json(_with(stem, ".json"), facts)


def is_finished(stem: Path, key: str) -> bool:
    """Whether this very scan, with these options, is already there."""
    try:
        if read_facts(_with(stem, ".json")).get("key") != key:
            return False
        with h5py.File(_with(stem, ".h5"), "r") as file:
            return bool(file.attrs.get("key") == key)
    except (OSError, ValueError):  # absent or damaged: to be done again
        return False


def read_facts(path: Path) -> dict[str, Any]:
    """All that a scan's JSON file says."""
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def write_failure(output: Path, source: ScanSource, failure: Failure) -> None:
    """Keep why a scan failed, in a file of its own: many processes may fail at once."""
    write_json(_note(output, source.scan_id), {"scan_id": source.scan_id} | asdict(failure))


def forget_failure(output: Path, source: ScanSource) -> None:
    """The scan has been done after all."""
    _note(output, source.scan_id).unlink(missing_ok=True)


def forget_vanished_failures(output: Path) -> None:
    """A scan whose file is no longer there has not failed; it is gone. A damaged note says nothing."""
    for path in (output / _FAILURES).glob("*.json"):
        note = _read_note(path)
        if note is None or not Path(note["source"]).exists():
            path.unlink(missing_ok=True)


def read_failures(output: Path) -> Iterator[Failure]:
    """All failures kept, by scan_id."""
    for path in sorted((output / _FAILURES).glob("*.json")):
        if (note := _read_note(path)) is not None:
            yield Failure(**{name: note[name] for name in _FAILURE_FIELDS})


def failed_scans(output: Path) -> set[str]:
    """scan_id of the scans that failed when they were last tried."""
    notes = (_read_note(path) for path in (output / _FAILURES).glob("*.json"))
    return {note["scan_id"] for note in notes if note is not None and "scan_id" in note}


def _note(output: Path, scan_id: str) -> Path:
    """A scan's note; a name too long for a file system (255 bytes) is told by its hash."""
    short = scan_id if len(scan_id) < 200 else sha256_of_json(scan_id)[:32]
    return output / _FAILURES / f"{short}.json"


def _read_note(path: Path) -> dict[str, str] | None:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and note.keys() >= set(_FAILURE_FIELDS) else None


def write_failures_table(output: Path) -> None:
    """`failures.tsv`: one row a scan that could not be done."""
    rows = [asdict(failure) for failure in read_failures(output)]
    table = pd.DataFrame(rows, columns=list(_FAILURE_FIELDS))
    write_tsv(output / "failures.tsv", table)


def check_output_is_ours(output: Path) -> None:
    """Refuse an OUTPUT that is not a folder, or a folder that somebody else has made: much would be replaced.

    Raises InputError; a folder that is absent, empty, or made by bjepa-preprocess passes.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"OUTPUT {output} is a file.", hint="Give a folder, new or of an earlier run.")
    path = output / "dataset_description.json"
    try:
        made_by = json.loads(path.read_text(encoding="utf-8"))["GeneratedBy"][0]["Name"]
    except FileNotFoundError:
        made_by = MAKER if not any((output / name).exists() for name in _REPLACED) else "something else"
    except (OSError, ValueError, LookupError, TypeError):
        made_by = "something else"
    if made_by != MAKER:
        raise InputError(
            f"OUTPUT {output} is a folder of {made_by}, not of {MAKER}: its tables and shards would be lost.",
            hint="Give a folder of its own, new or of an earlier run.",
        )


def write_description(output: Path, source: Path, made_by: str) -> None:
    """`dataset_description.json` of a BIDS derivative."""
    write_json(
        output / "dataset_description.json",
        {
            "Name": "bjepa regional time series",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": MAKER, "Version": bjepa.__version__}],
            "SourceDatasets": [
                {"URL": source.resolve().as_uri()} | ({"Description": made_by} if made_by else {})
            ],
        },
    )


def _with(stem: Path, extension: str) -> Path:
    return stem.with_name(stem.name + extension)
