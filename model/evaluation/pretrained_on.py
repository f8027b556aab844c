"""Were the participants who are tested among those a model was pretrained on? As far as its run folder tells.

Pretraining sees no target, so this is not a leak of the target; but the encoder has seen the very scans it is
tested on, which new people's scans it has not. Ids alone do not tell: "01" is somebody in every data set. So
the shards must be the same files (by their hashes).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bjepa.model.evaluation.scan_data import ScanData
from bjepa.preproc.files import sha256_of_file
from bjepa.preproc.participants import bare_id


def count_pretrained_on(model: Path, data: ScanData, participants: Sequence[str]) -> int | None:
    """How many of `participants` (ids without "sub-") the model was pretrained on; None: not known.

    `model`: a run folder of bjepa-train, or its folder `model`. Known is a run whose shards are those of
    `data`; a run on other data, a published model, a folder without run.json are not.
    """
    found = [path for path in (model / "run.json", model.parent / "run.json") if path.is_file()]
    if data.reader is None or not model.is_dir() or not found:
        return None
    try:
        run = json.loads(found[0].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files, listed = run.get("files_sha256"), run.get("participants")
    if not isinstance(files, dict) or not isinstance(listed, list | None):
        return None
    known = set(files.values())
    same = [number for number, path in enumerate(data.reader.paths) if sha256_of_file(path) in known]
    if len(same) < len(data.reader.paths):
        return None
    return len(participants) if listed is None else len(set(participants) & {bare_id(p) for p in listed})
