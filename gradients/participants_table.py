"""Which group each scan belongs to: a column of a table of participants, or an entity of the scans.

COLUMN is looked for, in this order, and taken from the first place that has it:
  1. the table of --participants FILE, if it is one
  2. participants.tsv in INPUT, beside it, or beside the folder `derivatives` that it lies in
  3. the scans' own entities: session, task, run
Participants are compared without `sub-`. A cell that is empty or n/a, and a participant whom the table does
not name, belong to no group.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bjepa.gradients.scans import ENTITIES, Scans
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id, read_participants_table

log = logging.getLogger(__name__)

MISSING = ("", "n/a", "na", "nan")  # in small letters
MAX_NUMBERS = 30  # different numbers; more are a measurement (age in years), not groups
_OWN = "the scans' names"
_FEW = 5  # up to so many values, groups of one participant are told by a warning only


def group_labels(
    scans: Scans, column: str, *, participants: Path | None, source: Path
) -> tuple[list[str], str]:
    """The group of each scan, "" where it has none, and where the column was found.

    Parameters
    ----------
    participants
        FILE of --participants.
    source
        INPUT: a folder or file.

    Raises
    ------
    InputError
        No such column; one value for all; (nearly) as many values as participants, or more numbers than
        groups can have; values that would share a folder name.
    """
    tables = {str(path): read_participants_table(path) for path in _tables(participants, source)}
    own = [name for name in ENTITIES[1:] if any(scans.entities[name])]
    places = [path for path, table in tables.items() if column in table]
    if column in own:
        places.append(_OWN)
    if not places:
        there = [
            f"{path} has {[c for c in table if c != 'participant_id'][:20]}" for path, table in tables.items()
        ]
        raise InputError(
            f"--group-by {column}: no such column; {'; '.join([*there, f'{_OWN} have {own}'])}.",
            hint="Give one of these, or a table that has it as --participants FILE.",
        )
    where = places[0]
    if len(places) > 1:
        log.info("--group-by %s: taken from %s, not from %s", column, where, " or ".join(places[1:]))
    if where == _OWN:
        labels = [_cell(cell) for cell in scans.entities[column]]
    else:
        labels = _of_participants(scans, tables[where], column, where)
    _warn_missing(scans, labels, column, where)
    _check_groups(scans, labels, column, where)
    safe_names(column, set(labels) - {""})
    return labels, where


def safe_names(column: str, groups: Sequence[str] | set[str]) -> dict[str, str]:
    """The folder name of each group, `<column>-<group>`: letters, digits, `_ . + -`; the rest becomes `-`.

    Raises InputError where two groups would share one, capital or small.
    """

    def safe(text: str) -> str:
        return re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", text))[:60]

    names = {group: f"{safe(column)}-{safe(group)}" for group in sorted(groups)}
    taken: dict[str, str] = {}
    for group, name in names.items():
        if (other := taken.setdefault(name.casefold(), group)) != group:
            raise InputError(
                f"--group-by {column}: the groups {other!r} and {group!r} would share the folder {name}.",
                hint="Rename one of them in the table.",
            )
    return names


def natural_order(groups: Sequence[str] | set[str]) -> list[str]:
    """Sorted: numbers by size, then words."""
    return sorted(groups, key=lambda g: (0, float(g), g) if _is_number(g) else (1, 0.0, g))


def _tables(participants: Path | None, source: Path) -> list[Path]:
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    folders = [folder, folder.parent]
    if folder.parent.name == "derivatives":
        folders.append(folder.parent.parent)
    beside = [path for where in folders if (path := where / "participants.tsv").is_file()]
    if participants is None:
        return beside
    return [participants, *(path for path in beside if path != participants.resolve())]


def _of_participants(scans: Scans, table: dict[str, list[str]], column: str, where: str) -> list[str]:
    ids = [bare_id(name) for name in table["participant_id"]]
    if twice := sorted(name for name, count in Counter(ids).items() if name and count > 1):
        raise InputError(f"{where} names {twice[:5]} more than once.", hint="One row a participant.")
    by_id = dict(zip(ids, table[column], strict=True)) | {"": ""}  # a scan without an id is nobody's
    return [_cell(by_id.get(person, "")) for person in scans.entities["participant_id"]]


def _cell(text: str) -> str:
    return "" if text.lower() in MISSING else text


def _warn_missing(scans: Scans, labels: list[str], column: str, where: str) -> None:
    without = [number for number, label in enumerate(labels) if not label]
    if without:
        log.warning(
            "--group-by %s: %d of %d scans have no value in %s and belong to no group: %s",
            *(column, len(without), len(labels), where),
            ", ".join(scans.labels[number] for number in without[:8]) + (", ..." if len(without) > 8 else ""),
        )


def _check_groups(scans: Scans, labels: list[str], column: str, where: str) -> None:
    """Refuse what makes no groups."""
    groups = sorted(set(labels) - {""})
    people = {  # scans without an id are one participant each
        (label, person or f"scan {number}")
        for number, (label, person) in enumerate(zip(labels, scans.entities["participant_id"], strict=True))
        if label
    }
    n_people = len({person for _, person in people})
    what = f"--group-by {column} (from {where})"
    if not groups:
        raise InputError(
            f"{what}: none of the {len(labels)} scans has a value.",
            hint="Ids of participants are compared after removing `sub-`: do they agree with the scans'?",
        )
    if len(groups) == 1:
        raise InputError(
            f"{what} has one value, {groups[0]!r}, for all scans.",
            hint="That group is the whole; leave --group-by out, or choose another column.",
        )
    alone = len(people) == len(groups) and n_people > 1
    if alone or (n_people > 1 and len(groups) > _FEW and len(people) < 2 * len(groups)):
        raise InputError(
            f"{what} has {len(groups)} values for {n_people} participants ({', '.join(groups[:5])}, ...): "
            "hardly anybody shares one.",
            hint="Group by a column of few values; of numbers such as age make classes in a column of their "
            "own. For gradients of each participant: --per-participant.",
        )
    if len(groups) > MAX_NUMBERS and all(map(_is_number, groups)):
        raise InputError(
            f"{what} has {len(groups)} different numbers, from {min(map(float, groups)):g} to "
            f"{max(map(float, groups)):g}: a measurement, not groups.",
            hint="Make classes of it (e.g. young, old) in a column of their own.",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
