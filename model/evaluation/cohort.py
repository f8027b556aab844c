"""Who is evaluated, and on what: participants with a scan and a value of the target, and the kind of task."""

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id

Task = Literal["regression", "classification"]
TASKS: tuple[str, ...] = get_args(Task)
MISSING = ("", "n/a", "na", "nan", "none", "null")  # compared in lower case; BIDS writes n/a
MAX_CLASSES_AUTO = 10  # numbers with more distinct values than this are a regression target
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Participants in the order of their ids, with target and group."""

    participant_id: list[str]  # without "sub-", sorted
    written_id: list[str]  # as participants.tsv writes them; so do the tables of an evaluation
    target: NDArray[Any]  # (n,): float64 values, or int64 numbers of `classes`
    group: list[str]  # those who share a group stay on one side of every split
    task: Task
    classes: list[str]  # sorted; the last is the positive one of two; empty in regression
    target_name: str
    columns: Mapping[str, list[str]] = field(default_factory=dict)  # others that were asked for, as written


def load_cohort(
    path: Path,
    *,
    target: str,
    with_scan: Collection[str],
    task: str = "auto",
    group: str = "participant_id",
    columns: Sequence[str] = (),
    of_scans: Mapping[str, Mapping[str, str]] | None = None,
) -> Cohort:
    """Read participants.tsv and keep those with a scan (`with_scan`: ids without "sub-") and a target value.

    `columns` (confounds, a site) must have a value too; they are looked for in the table, then in `of_scans`:
    name -> participant -> value. Who is left out, and the task chosen by `auto`, are told in the log. Raises
    InputError on a missing column, an id given twice, a target that does not suit the task, or nobody left.
    """
    needed = list(dict.fromkeys([target, group, *columns]))
    beside = {name: values for name, values in (of_scans or {}).items() if name in columns}
    table = _read_table(path, needed, elsewhere=beside)
    known = {
        name: {bare_id(i): v for i, v in zip(table["participant_id"], table[name], strict=True)}
        if name in table.columns
        else dict(beside[name])
        for name in needed
    }
    listed = [bare_id(i) for i in table["participant_id"]]
    _refuse_no_overlap(path, listed, with_scan)

    scanned = sorted(set(with_scan))
    in_table = set(listed)
    _tell_left_out("have a scan but no row in the table", [p for p in scanned if p not in in_table])
    for name in needed:
        _tell_left_out(
            f"have a scan but no value of {name!r}",
            [p for p in scanned if p in in_table and _missing(known[name].get(p, ""))],
        )
    without_scan = in_table - set(scanned)
    if without_scan:
        log.info("%d participants of %s have no scan", len(without_scan), path.name)

    kept = [
        p for p in scanned if p in in_table and not any(_missing(known[name].get(p, "")) for name in needed)
    ]
    if not kept:
        raise InputError(
            f"{path}: no participant with a scan has a value of {' and of '.join(map(repr, needed))}.",
            hint="Name a column that is filled in.",
        )
    values, groups = known[target], known[group]
    written = {bare_id(i): i for i in table["participant_id"]}
    cohort = Cohort(
        participant_id=kept,
        written_id=[written[p] for p in kept],
        target=np.empty(0),
        group=kept if group == "participant_id" else [groups[p] for p in kept],
        task="regression",
        classes=[],
        target_name=target,
        columns={name: [known[name][p] for p in kept] for name in columns},
    )
    return _with_target(cohort, [values[p] for p in kept], task)


def _with_target(cohort: Cohort, values: Sequence[str], task: str) -> Cohort:
    numbers = [finite_number(v) for v in values]
    numeric = all(n is not None for n in numbers)
    n_distinct = len({v if n is None else n for v, n in zip(values, numbers, strict=True)})
    name = cohort.target_name
    if task == "auto":
        task = "regression" if numeric and n_distinct > MAX_CLASSES_AUTO else "classification"
        log.info(
            "task: %s (%s has %d distinct %s)", task, name, n_distinct, "numbers" if numeric else "values"
        )
    if task not in TASKS:
        raise InputError(f"--task must be one of auto, {', '.join(TASKS)}, got {task!r}.")
    if n_distinct < 2:
        raise InputError(
            f"{name!r} is {values[0]!r} in all {len(values)} participants that are left.",
            hint="There is nothing to predict; name another column.",
        )
    if task == "classification":
        labels = [v if n is None or not numeric else f"{n:g}" for v, n in zip(values, numbers, strict=True)]
        classes = sorted(set(labels), key=(lambda c: (float(c), c)) if numeric else None)
        target = np.array([classes.index(label) for label in labels], dtype=np.int64)
        log.info("classes: %s", ", ".join(f"{c} ({n})" for c, n in sorted(Counter(labels).items())))
        return replace(cohort, target=target, task="classification", classes=classes)
    if not numeric:
        text = sorted({v for v, n in zip(values, numbers, strict=True) if n is None})
        raise InputError(
            f"{name!r} is no number in all participants: {', '.join(map(repr, text[:5]))}.",
            hint="Write unknown values as n/a, or use --task classification.",
        )
    return replace(cohort, target=np.array(numbers, dtype=np.float64), task="regression")


def _read_table(path: Path, columns: Sequence[str], *, elsewhere: Collection[str] = ()) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is not a file.", hint="Give a participants.tsv (BIDS).")
    try:
        table = pd.read_csv(
            path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{path} is not a table ({str(error).strip()}).",
            hint="Give tab-separated UTF-8 text with a header.",
        ) from error
    names = [str(c) for c in table.columns]
    for column in ("participant_id", *columns):
        if column not in names and column not in elsewhere:
            near = get_close_matches(column.lower(), [n.lower() for n in names], n=1)
            nearest = next((n for n in names if near and n.lower() == near[0]), None)
            raise InputError(
                f"{path} has no column {column!r}; its columns are {', '.join(names)}.",
                hint=f"Did you mean {nearest!r}?" if nearest else "Columns are separated by tabs.",
            )
    ids = Counter(bare_id(i) for i in table["participant_id"])
    if twice := sorted(i for i, n in ids.items() if n > 1):
        raise InputError(
            f"{path} names {len(twice)} participants more than once: {', '.join(twice[:5])}.",
            hint="Keep one row for each participant (sub-01 and 01 are the same).",
        )
    return table


def _refuse_no_overlap(path: Path, listed: list[str], with_scan: Collection[str]) -> None:
    if not set(listed) & set(with_scan):
        raise InputError(
            f"None of the {len(set(with_scan))} participants with a scan is in {path}: scans are of "
            f"{', '.join(sorted(with_scan)[:3])}, the table names {', '.join(sorted(listed)[:3])}.",
            hint="Ids must agree (the prefix 'sub-' does not matter).",
        )


def _tell_left_out(why: str, participants: Sequence[str]) -> None:
    if participants:
        log.warning("left out, %d participants %s: %s", len(participants), why, ", ".join(participants))


def _missing(value: str) -> bool:
    return value.strip().lower() in MISSING


def finite_number(value: str) -> float | None:
    """The number that a cell holds; None for text, infinity and NaN."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
