"""Lists of participants: one id a line, or a table with a column participant_id; with or without `sub-`."""

import csv
from collections import Counter
from pathlib import Path

from bjepa.preproc.errors import InputError


def bare_id(participant_id: str) -> str:
    """A participant's id without the BIDS prefix: `sub-01` and `01` are the same participant."""
    return participant_id.strip().removeprefix("sub-")


def read_participant_list(path: Path) -> list[str]:
    """Participant ids (with `sub-`), in the file's order.

    A `.csv` is split at commas, everything else at tabs. Raises InputError for a file that cannot be read, is
    empty, has several columns but no participant_id, or names somebody twice.
    """
    columns = read_participants_table(path)
    ids = ["sub-" + name for cell in columns["participant_id"] if (name := bare_id(cell))]
    if not ids:
        raise InputError(f"{path} names no participant.", hint="One id a line, e.g. sub-01.")
    if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
        raise InputError(f"{path} names {twice[:5]} more than once.")
    return ids


def read_participants_table(path: Path) -> dict[str, list[str]]:
    """All columns, as text without spaces around it; `participant_id` alone for a list of ids.

    Cells that a row lacks at its end are empty. Raises InputError for a file that cannot be read, or that has
    several columns but no participant_id.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = "," if path.suffix == ".csv" else "\t"
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a readable list of participants ({error}).") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "participant_id" in header:
        rows = rows[1:]
    elif len(header) > 1:
        raise InputError(f"{path} has no column participant_id; it has {header[:12]}.")
    else:
        header = ["participant_id"]
    place = header.index("participant_id")
    if short := [number for number, row in enumerate(rows, start=1) if len(row) <= place]:
        raise InputError(f"{path}: row {short[0]} has fewer cells than the header.")
    return {
        name: [row[column].strip() if column < len(row) else "" for row in rows]
        for column, name in enumerate(header)
    }
