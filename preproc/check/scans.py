"""scans.tsv, the shards and each scan's own files against each other; stored series; sources."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.check.facts import TOLD_DIGITS, check_facts, check_place, check_row, check_shard_facts
from bjepa.preproc.check.folder import Folder, numbers, read_json
from bjepa.preproc.check.options import resampling_of
from bjepa.preproc.check.problem import RUN_ALL, RUN_GROUP, RUN_PARTICIPANT, Problem
from bjepa.preproc.check.shards import SCAN_TEXT, Shards, ShardScan
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file
from bjepa.preproc.resample import ResampleOptions, resample_series
from bjepa.preproc.shards import ShardReader

log = logging.getLogger(__name__)

# Stored values are float32 of (x - median) / iqr, computed in float64, and so is the way back: each rounding
# is 6e-8 of the larger of x and median.
ROUNDING = 1e-6

_NOTHING = np.empty((0, 0), np.float32), np.empty(0, np.bool_)


def check_scans(
    output: Path,
    folder: Folder,
    shards: Shards,
    *,
    n_compared: int | None,
    sources: bool,
    progress: Callable[[str], None],
) -> list[Problem]:
    """Problems of the scans; the stored series of `n_compared` are compared with their files (None: all)."""
    problems = [] if folder.scans is None else list(_table_and_shards(output, folder.scans, shards))
    stored = {scan.facts["scan_id"]: scan for scan in shards.scans}
    reader = None if shards.problems else ShardReader(output)  # it would refuse what is wrong with a shard
    compared = set() if reader is None else set(_spread(reader.scans["scan_id"], n_compared))
    rows = _rows(folder.scans)
    n_sources, absent = 0, list[Path]()
    met = set()
    for path in sorted(output.glob("sub-*/**/func/*_seg-*_timeseries.json")):
        progress(path.name)
        scan_id = path.name.rsplit("_seg-", 1)[0]
        facts, problem = read_json(path, RUN_PARTICIPANT)
        if problem is None and folder.atlas_sha256 not in (None, facts.get("atlas_sha256")):
            continue  # of another atlas: the group stage leaves it out, too
        met.add(scan_id)
        problems += [problem] if problem else (unlike := list(check_facts(path, facts)))
        if problem or unlike:
            continue
        found, series, censored = _files(path, facts, folder)
        found += check_place(output, path, facts)
        problems += found
        if sources:
            told = _sources(facts)
            n_sources, absent = n_sources + len(told), absent + [s for s in told if not s.is_file()]
            problems += _changed(path, told)
        if found:
            continue
        if scan_id not in stored:
            if shards.readable and facts["source"] not in folder.failed:  # else of an earlier try: left out
                problems.append(Problem(path, "is in no shard.", RUN_GROUP))
            continue
        scan = stored[scan_id]
        found = list(_file_and_shard(path, facts, scan))
        problems += found
        if not found:
            problems += check_shard_facts(path, facts, scan, scan.options)
        if scan_id in rows:
            problems += check_row(output / "scans.tsv", rows[scan_id], facts, _resampling_told(scan.options))
        if reader is not None and scan_id in compared and not found:
            problems += _same_content(path, scan_id, series, censored, reader)
    for scan_id in sorted(stored.keys() - met):
        where = output / "shards" / stored[scan_id].shard
        problems.append(Problem(where, f"{scan_id} has no .json of its own in {output}.", RUN_ALL))
    if absent:
        log.info(
            "%d of %d sources were not found and could not be checked, e.g. %s%s.",
            *(len(absent), n_sources, absent[0], "" if absent[0].is_absolute() else f" from {Path.cwd()}"),
        )
    return problems


def _rows(table: pd.DataFrame | None) -> dict[str, dict[str, str]]:
    """scans.tsv by scan_id; of a scan that is there twice, which is told, the last."""
    rows = [] if table is None else table.to_dict("records")
    return {row["scan_id"]: {str(column): text for column, text in row.items()} for row in rows}


def _resampling_told(options: dict[str, Any]) -> ResampleOptions | None:
    try:
        return resampling_of(options)
    except (InputError, TypeError):  # told of the shard
        return None


def _spread(scan_ids: list[str], n: int | None) -> list[str]:
    """At most n of them, evenly over the list, first and last among them."""
    if n is None or len(scan_ids) <= n:
        return scan_ids
    return [scan_ids[i] for i in np.linspace(0, len(scan_ids) - 1, n).round().astype(int)]


# --- scans.tsv against the shards ---------------------------------------------------------------------------


def _table_and_shards(output: Path, table: pd.DataFrame, shards: Shards) -> Iterator[Problem]:
    path = output / "scans.tsv"
    expected = {scan.facts["scan_id"]: _row(scan) for scan in shards.scans}
    told = table["scan_id"].tolist()
    if (absent := sorted(set(told) - expected.keys())) and shards.readable:
        yield Problem(path, f"{len(absent)} of its scans are in no shard, e.g. {absent[0]}.", RUN_GROUP)
    if unknown := sorted(expected.keys() - set(told)):
        yield Problem(
            path, f"{len(unknown)} scans of the shards are not in it, e.g. {unknown[0]}.", RUN_GROUP
        )
    text = {column: table[column].tolist() for column in table.columns}
    numeric = {"t_r", "t_r_out", "n_frames", "n_phases", "n_missing_rois"}
    values = {column: numbers(table[column]) for column in numeric}
    for number, scan_id in enumerate(told):
        for column, wanted in expected.get(scan_id, {}).items():
            if column in numeric:
                same = abs(values[column][number] - wanted) <= TOLD_DIGITS * wanted
            else:
                same = text[column][number].replace("n/a", "") == wanted
            if not same:
                what = f"{scan_id} has {column} {text[column][number]}, its shard {wanted or 'n/a'}."
                yield Problem(path, what, RUN_GROUP)


def _row(scan: ShardScan) -> dict[str, Any]:
    """The columns of scans.tsv that a shard tells."""
    return scan.facts | {
        "shard": scan.shard,
        "t_r": scan.t_r,
        "t_r_out": scan.t_r_out,
        "n_frames": max(scan.lengths, default=0),
        "n_phases": len(scan.lengths),
        "n_missing_rois": int((~scan.valid).sum()),
    }


# --- a scan's own files -------------------------------------------------------------------------------------


def _files(
    path: Path, facts: dict[str, Any], folder: Folder
) -> tuple[list[Problem], NDArray[np.float32], NDArray[np.bool_]]:
    """Problems of a scan's two files; its series (n_frames, n_rois) and its censored frames (n_frames,)."""
    series_path = path.with_suffix(".h5")
    try:
        with h5py.File(series_path, "r") as file:
            attributes = dict(file.attrs)
            series = file["timeseries"][:]
            censored = file["censored"][:] if "censored" in file else np.zeros(len(series), np.bool_)
    except FileNotFoundError:
        return [Problem(series_path, "is absent.", RUN_PARTICIPANT)], *_NOTHING
    except (OSError, KeyError, ValueError) as error:
        return [Problem(series_path, f"is damaged ({error}).", RUN_PARTICIPANT)], *_NOTHING
    problems = [
        Problem(
            series_path, f"{name} is {attributes.get(name)}, {path.name} has {facts[name]}.", RUN_PARTICIPANT
        )
        for name in ("key", "t_r", "atlas_sha256")
        if attributes.get(name) != facts[name]
    ]
    n_rois = len(facts["coverage"]) if folder.atlas is None else len(folder.atlas)
    wanted = (facts["n_frames"], n_rois)
    if series.shape != wanted or series.dtype != np.float32:
        what = f"/timeseries is {series.dtype} {series.shape}, not float32 {wanted}."
        return [*problems, Problem(series_path, what, RUN_PARTICIPANT)], *_NOTHING
    if censored.shape != wanted[:1] or censored.dtype != np.bool_:
        what = f"/censored is {censored.dtype} {censored.shape}, not bool {wanted[:1]}."
        return [*problems, Problem(series_path, what, RUN_PARTICIPANT)], *_NOTHING
    problems += _values(path, facts, series, censored)
    return problems, series, censored


def _values(
    path: Path, facts: dict[str, Any], series: NDArray[np.float32], censored: NDArray[np.bool_]
) -> Iterator[Problem]:
    if len(facts["coverage"]) != series.shape[1]:
        yield Problem(
            path, f"coverage has {len(facts['coverage'])} values, not {series.shape[1]}.", RUN_PARTICIPANT
        )
    missing = np.zeros(series.shape[1], dtype=bool)
    missing[[column for column in facts["missing"] if column < len(missing)]] = True
    if max(facts["missing"], default=-1) >= len(missing):
        yield Problem(path, f"missing names column {max(facts['missing'])}.", RUN_PARTICIPANT)
    if not np.isnan(series[:, missing]).all() or not np.isfinite(series[:, ~missing]).all():
        yield Problem(
            path.with_suffix(".h5"),
            f"/timeseries is not NaN exactly in the {missing.sum()} missing regions.",
            RUN_PARTICIPANT,
        )
    if facts.get("n_censored", censored.sum()) != censored.sum():
        yield Problem(
            path, f"n_censored is {facts['n_censored']}, {censored.sum()} frames are marked.", RUN_PARTICIPANT
        )


def _sources(facts: dict[str, Any]) -> dict[Path, str]:
    """The files that a scan was made of, and their hashes; none where they were not hashed."""
    told = {facts["source"]: facts.get("source_sha256")}
    told |= {table["path"]: table["sha256"] for table in facts.get("tables") or []}
    return {Path(name): sha256 for name, sha256 in told.items() if sha256}


def _changed(path: Path, sources: dict[Path, str]) -> Iterator[Problem]:
    for source, sha256 in sources.items():
        if source.is_file() and sha256_of_file(source) != sha256:
            yield Problem(
                source,
                f"has changed since {path.name} was made of it: its SHA-256 is another.",
                "Bring the file back, or do the scan again (--overwrite).",
            )


# --- a scan's files against its shard -----------------------------------------------------------------------


def _file_and_shard(path: Path, facts: dict[str, Any], scan: ShardScan) -> Iterator[Problem]:
    for name in (*SCAN_TEXT, "t_r"):
        stored = scan.t_r if name == "t_r" else scan.facts[name]
        if facts[name] != stored:
            yield Problem(path, f"{name} is {facts[name]!r}, {scan.shard} has {stored!r}.", RUN_GROUP)
    if np.flatnonzero(~scan.valid).tolist() != sorted(facts["missing"]):
        yield Problem(path, f"missing are other regions than /scans/valid of {scan.shard} says.", RUN_GROUP)


def _same_content(
    path: Path,
    scan_id: str,
    series: NDArray[np.float32],
    censored: NDArray[np.bool_],
    reader: ShardReader,
) -> Iterator[Problem]:
    """What is stored, scaled back, is the scan's series brought to the stored repetition time."""
    row = reader.scans["scan_id"].index(scan_id)
    t_r, t_r_out = reader.scans["t_r"][row], reader.scans["t_r_out"][row]
    own = np.flatnonzero(reader.series_scan == row)
    expected = resample_series(series, censored, t_r, _resampling(reader, t_r_out, len(own)))
    if [len(phase) for phase, _ in expected] != reader.series_length[own].tolist():
        yield Problem(path, "its stored series have other lengths than its own file gives.", RUN_GROUP)
        return
    valid = reader.valid[row]
    for number, (phase, marks) in zip(own.tolist(), expected, strict=True):
        back = reader.unscale(reader[number], number)[:, valid].astype(np.float64)
        wanted = phase[:, valid].astype(np.float64)
        allowed = ROUNDING * (np.abs(wanted).max(axis=0) + np.abs(reader.median[valid]))
        if (np.abs(back - wanted) > allowed).any():
            worst = int(np.flatnonzero(valid)[np.argmax(np.abs(back - wanted).max(axis=0) - allowed)])
            what = f"its series {reader.series_phase[number]} is stored with other values, e.g. in column"
            yield Problem(path, f"{what} {worst + 1}.", RUN_GROUP)
        if not np.array_equal(reader.censored(number), marks):
            what = f"its series {reader.series_phase[number]} is stored with other marks of censored frames."
            yield Problem(path, what, RUN_GROUP)


def _resampling(reader: ShardReader, t_r_out: float, n_series: int) -> ResampleOptions:
    """As the shard says; shards of earlier versions do not, and then there was only striding."""
    by_stride = ResampleOptions(target_t_r=t_r_out, how="stride", phases="all" if n_series > 1 else "first")
    return resampling_of(reader.options) or by_stride
