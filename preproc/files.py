"""Files appear whole: written beside their place, then renamed; and the SHA-256 that names their content."""

import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` when the block ends without error.

    A reader sees the old file or the new one, never a part. The temporary name is random, so two processes
    that write the same file do not meet; after an error nothing is left. It also names machine and process,
    so that what a killed process left can be told from what a living one is writing (`sweep_leftovers`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: nibabel and numpy choose the format by it
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    writer = f"{_machine()}.{os.getpid()}.{secrets.token_hex(4)}"
    aside = path.with_name(f".{path.name.removesuffix(suffixes)}.{writer}.tmp{suffixes}")
    try:
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


_LEFTOVER = re.compile(r"\.(?P<machine>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp(\.[A-Za-z0-9.]+)?$")
_FOREIGN_AGE = 24 * 3600  # s: another machine's file older than this is nobody's


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "unknown"


def find_leftovers(folder: Path, *, deep: bool = True) -> list[Path]:
    """Temporary files in `folder` (and below, if `deep`) that no process is writing: killed ones left them.

    A file of this machine counts when its process is gone, another machine's when it is a day old.
    """
    found = []
    for path in sorted((folder.rglob if deep else folder.glob)(".*.tmp*")):
        named = _LEFTOVER.search(path.name)
        if named is None:
            continue
        if named["machine"] == _machine():
            abandoned = not _is_alive(int(named["pid"]))
        else:
            abandoned = time.time() - path.stat().st_mtime > _FOREIGN_AGE
        if abandoned:
            found.append(path)
    return found


def sweep_leftovers(*folders: Path) -> int:
    """Delete `find_leftovers` of these folders, not below them; returns how many."""
    leftovers = [path for folder in folders for path in find_leftovers(folder, deep=False)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with write_aside(path) as aside:
        # a file name that is no UTF-8 is told as its bytes; in JSON that is its own escape
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_tsv(path: Path, table: Any, *, float_format: str | None = None) -> None:
    """Write a pandas.DataFrame with tabs and a header, without its index; NaN is "n/a", as in BIDS."""
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format=float_format))


def write_json(path: Path, content: Any) -> None:
    """Write JSON with two-space indent, whole or not at all. Refuses NaN, which is not JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """Hexadecimal SHA-256 of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
