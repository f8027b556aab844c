"""Stages whose products are kept: done again only when what they are made from has changed.

A stage has a key, the hash of everything that decides its products: the content of its input files, options,
versions, and the keys of the stages before it. Its sidecar (JSON) holds the key and is written last, and is
deleted before the first product is replaced: a process killed midway leaves a stage that is done again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bjepa.preproc.files import sha256_of_file, sha256_of_json, write_json

WORK = Path("work") / "raw"  # in OUTPUT: what is kept between runs and of no use to anybody else


def stage_key(stage: str, *made_from: Any) -> str:
    """The key of a stage: 32 hexadecimal digits."""
    return sha256_of_json([stage, *made_from])[:32]


def finished(sidecar: Path, key: str, products: Sequence[Path]) -> dict[str, Any] | None:
    """What the sidecar of a finished stage says; None where the stage is to be done."""
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(facts, dict) and facts.get("key") == key and all(path.is_file() for path in products)
    return facts if whole else None


def content_sha256(path: Path, output: Path) -> str:
    """SHA-256 of a file's content; remembered in OUTPUT until size or time of change of the file differ."""
    stat = path.stat()
    seen = [str(path), stat.st_size, stat.st_mtime_ns]
    note = output / WORK / "hashes" / f"{sha256_of_json(str(path))[:16]}.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and known.get("file") == seen and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    sha256 = sha256_of_file(path)
    write_json(note, {"file": seen, "sha256": sha256})
    return sha256
