"""What a scan's JSON file tells: of the right kind, in the right folder, and told alike elsewhere."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bjepa.preproc.check.folder import numbers
from bjepa.preproc.check.problem import RUN_GROUP, RUN_PARTICIPANT, Problem
from bjepa.preproc.check.shards import SCAN_TEXT, ShardScan
from bjepa.preproc.errors import InputError
from bjepa.preproc.resample import ResampleOptions, plan_resampling

TOLD_DIGITS = 1e-5  # relative: scans.tsv has six digits
MAY_DIFFER = ("t_r", "space")  # options in which the scans of one shard may differ
# facts that a shard repeats for each scan, where the scan has them
PROVENANCE = (
    "space mask tables confounds n_dropped n_censored n_frames_in n_invalid_voxels normalising_factor "
    "degrees_of_freedom fd_mean tsnr_median warnings options software"
).split()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


# every scan has these: what they must be, and in words
FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: (_is_text, "text") for name in (*SCAN_TEXT, "source", "atlas_sha256", "key")},
    "t_r": (_is_number, "a number"),
    "n_frames": (_is_count, "a count"),
    "coverage": (_are(_is_number), "a list of numbers"),
    "missing": (_are(_is_count), "a list of column numbers"),
}


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(value.get(name)) for name in ("path", "sha256"))


# these only if they have been told
OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "space": (_is_text, "text"),
    "n_frames_in": (_is_count, "a count"),
    "n_censored": (_is_count, "a count"),
    "tables": (_are(_is_table), "a list of files and hashes"),
    **{name: (lambda x: x is None or _is_number(x), "a number") for name in ("fd_mean", "tsnr_median")},
    "source_sha256": (lambda x: x is None or _is_text(x), "text"),
    "options": (lambda x: isinstance(x, dict), "an object"),
}


def check_facts(path: Path, facts: dict[str, Any]) -> Iterator[Problem]:
    """Every fact is there and of its kind; the rest of the check relies on it."""
    if absent := [name for name in FACTS if name not in facts]:
        yield Problem(path, f"lacks {absent}.", RUN_PARTICIPANT)
    for name, (fits, kind) in (FACTS | OPTIONAL).items():
        if name in facts and not fits(facts[name]):
            told = repr(facts[name])
            yield Problem(
                path, f"{name} is {told[:60]}{' …' if len(told) > 60 else ''}, not {kind}.", RUN_PARTICIPANT
            )


def check_place(output: Path, path: Path, facts: dict[str, Any]) -> Iterator[Problem]:
    """A scan lies in the folders of its participant and session, under its own name."""
    folders = list(path.relative_to(output).parts[:-1])
    wanted = [facts["participant_id"], *([f"ses-{facts['session']}"] if facts["session"] else []), "func"]
    if folders != wanted:
        what = f"is of {'/'.join(wanted)}, and lies in {'/'.join(folders)}."
        yield Problem(path, what, "Give the folder its name back, or do the scan again.")
    if path.name.rsplit("_seg-", 1)[0] != facts["scan_id"]:
        yield Problem(path, f"is named otherwise than its scan_id, {facts['scan_id']}.", RUN_PARTICIPANT)


def check_row(
    path: Path, row: dict[str, str], facts: dict[str, Any], resampling: ResampleOptions | None
) -> Iterator[Problem]:
    """The columns of a row of scans.tsv, at `path`, that only the scan's own JSON file tells."""
    repeated = ("source", "space", "n_frames_in", "fd_mean", "tsnr_median")
    wanted: dict[str, Any] = {name: facts[name] for name in repeated if name in facts}
    wanted["coverage_min"] = min(facts["coverage"], default=None)
    if resampling is not None:
        try:
            wanted["stride"] = plan_resampling(facts["t_r"], facts["n_frames"], resampling).stride
        except InputError:  # told of the shard
            pass
    for column, value in wanted.items():
        if not _tells(row[column], value):
            what = f"{facts['scan_id']} has {column} {row[column]}, its JSON file {value}."
            yield Problem(path, what, RUN_GROUP)


def _tells(text: str, value: Any) -> bool:
    if value is None or value == "":
        return text in ("", "n/a")
    if isinstance(value, str):
        return text == value
    told = float(numbers(pd.Series([text]))[0])
    return bool(abs(told - value) <= TOLD_DIGITS * abs(value))


def check_shard_facts(
    path: Path, facts: dict[str, Any], scan: ShardScan, shard_options: dict[str, Any]
) -> Iterator[Problem]:
    """What the shard repeats of the scan's JSON file at `path`; shards of earlier versions repeat less."""
    if scan.source is not None:
        for name, stored in (("source", scan.source), ("source_sha256", scan.source_sha256)):
            if (facts.get(name) or "") != stored:
                yield Problem(path, f"{name} is {facts.get(name)}, {scan.shard} has {stored}.", RUN_GROUP)
        told = {name: facts[name] for name in PROVENANCE if name in facts}
        if differing := _differing(told, scan.provenance or {}):
            what = f"/scans/provenance of {scan.shard} tells otherwise of {', '.join(differing[:5])}."
            yield Problem(path, what, RUN_GROUP)
    if isinstance(own := facts.get("options"), dict) and "participant" in shard_options:
        shared = shard_options["participant"] or {}
        own = {name: value for name, value in own.items() if name not in MAY_DIFFER}
        if differing := _differing(own, shared):
            what = f"its options are others than those of {scan.shard}: {', '.join(differing[:5])}."
            yield Problem(path, what, "Do all scans with the same options, then run the stage 'group'.")


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
