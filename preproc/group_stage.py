"""The group stage: files of all scans -> phases -> scaling -> shards, tables. Streams; never reads NIfTI."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_text
from bjepa.preproc.resample import Phases, Resampling, split_phases, stride_of
from bjepa.preproc.scaling import Scaling, ScalingMethod, fit_scaling
from bjepa.preproc.scan_files import FinishedScan
from bjepa.preproc.shards import ROI_COLUMNS, SCAN_COLUMNS, ShardScan, write_shard

log = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20
SCAN_TABLE_COLUMNS = (
    "scan_id participant_id session task run source space t_r stride t_r_out n_frames_in n_frames n_phases "
    "shard fd_mean tsnr_median coverage_min n_missing_rois"
).split()


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """What decides the shards. `target_t_r` in s; `scaling_participants`: None = all."""

    target_t_r: float = 2.0
    resample: Resampling = "stride"
    phases: Phases = "all"
    scaling: ScalingMethod = "robust"
    scaling_participants: frozenset[str] | None = None


@dataclass(frozen=True)
class GroupResult:
    """What the group stage made, for the report: scans.tsv, the scaling, and the scans themselves."""

    table: pd.DataFrame
    scaling: Scaling
    scans: list[FinishedScan]


@dataclass(frozen=True, eq=False)
class _Member:
    """A finished scan and what the group stage does with it."""

    scan: FinishedScan
    stride: int
    valid: NDArray[np.bool_]  # (n_rois,)

    def n_frames(self, phases: Phases) -> int:
        """Frames that are stored."""
        n_frames = int(self.scan.facts["n_frames"])
        return n_frames if phases == "all" else _n_frames_out(n_frames, self.stride)


def run_group(
    atlas: Atlas, output: Path, options: GroupOptions, *, progress: Callable[[str], None]
) -> GroupResult:
    """Scaling, shards and tables from all finished scans of this atlas in OUTPUT."""
    scans, foreign = scan_files.finished_scans(output, atlas.sha256)
    if foreign:
        log.warning(
            "%d finished scans of other atlases in %s are left out, e.g. %s.",
            len(foreign),
            output,
            foreign[0].path,
        )
    if not scans:
        raise InputError(f"{output} holds no finished scan.", hint="Run the stage 'participant' first.")
    _refuse_mixed_options(scans)
    members = [_member(scan, atlas, options) for scan in scans]
    scaling = _fit(members, atlas, options)
    shard_names = _write_shards(members, atlas, scaling, output, options, progress)
    rows = [_scan_row(m, options, shard) for m, shard in zip(members, shard_names, strict=True)]
    table = pd.DataFrame(rows, columns=SCAN_TABLE_COLUMNS)
    _write_tables(output, table, scaling, atlas)
    return GroupResult(table, scaling, scans)


def _refuse_mixed_options(scans: list[FinishedScan]) -> None:
    """Scans of one shard were cleaned alike; only t_r may have been given for some and not for others."""
    decisive = [
        {k: v for k, v in scan.facts["options"].items() if k not in ("t_r", "space")} for scan in scans
    ]
    for scan, options in zip(scans, decisive, strict=True):
        if options != decisive[0]:
            raise InputError(
                f"{scans[0].facts['scan_id']} was done with {decisive[0]}, "
                f"{scan.facts['scan_id']} with {options}.",
                hint="Run the stage 'participant' for all scans with the same options.",
            )


def _member(scan: FinishedScan, atlas: Atlas, options: GroupOptions) -> _Member:
    valid = np.ones(atlas.n_rois, dtype=bool)
    valid[scan.facts["missing"]] = False
    return _Member(scan, stride_of(scan.facts["t_r"], options.target_t_r, options.resample), valid)


def _fit(members: list[_Member], atlas: Atlas, options: GroupOptions) -> Scaling:
    """The scaling, from the frames of the participants that fit it."""
    fitting = members
    if options.scaling_participants is not None:
        present = {m.scan.facts["participant_id"] for m in members}
        fitting = [m for m in members if m.scan.facts["participant_id"] in options.scaling_participants]
        if not fitting:
            raise InputError(
                f"--scaling-participants names {len(options.scaling_participants)} participants; "
                "none of them has a finished scan.",
                hint=f"Participants here: {sorted(present)[:5]} …",
            )
        if absent := sorted(options.scaling_participants - present):
            log.warning("--scaling-participants: %d have no finished scan, e.g. %s.", len(absent), absent[0])

    def read(number: int, columns: slice) -> NDArray[np.float32]:
        series = fitting[number].scan.series(columns)
        return series if options.phases == "all" else series[:: fitting[number].stride]

    sizes = [(m.valid, m.n_frames(options.phases)) for m in fitting]
    return fit_scaling(sizes, read, atlas.table["name"].tolist(), options.scaling)


def _write_shards(
    members: list[_Member],
    atlas: Atlas,
    scaling: Scaling,
    output: Path,
    options: GroupOptions,
    progress: Callable[[str], None],
) -> list[str]:
    """Write all shards beside the old ones, then exchange the folders. Returns each scan's shard."""
    fresh = output / "work" / "shards-new"
    shutil.rmtree(fresh, ignore_errors=True)
    rois = {column: atlas.table[column].tolist() for column in ROI_COLUMNS}
    sizes = [4 * int(m.scan.facts["n_frames"]) * atlas.n_rois for m in members]
    names = []
    for number, group in enumerate(_split(sizes, SHARD_BYTES)):
        name = f"shard-{number:05d}.h5"
        scans = []
        for i in group:
            scans.append(_shard_scan(members[i], scaling, options))
            names.append(name)
            progress(scans[-1].entities["scan_id"])
        write_shard(
            fresh / name,
            scans,
            atlas=atlas.name,
            atlas_sha256=atlas.sha256,
            rois=rois,
            median=scaling.median,
            iqr=scaling.iqr,
            scaling=scaling.method,
            target_t_r=options.target_t_r,
        )
    old = output / "work" / "shards-old"
    shutil.rmtree(old, ignore_errors=True)
    if (output / "shards").exists():
        (output / "shards").rename(old)
    fresh.rename(output / "shards")
    shutil.rmtree(old, ignore_errors=True)
    return names


def _shard_scan(member: _Member, scaling: Scaling, options: GroupOptions) -> ShardScan:
    facts = member.scan.facts
    scaled = scaling.apply(member.scan.series())  # (n_frames, n_rois)
    return ShardScan(
        entities={column: facts[column] for column in SCAN_COLUMNS},
        t_r=facts["t_r"],
        t_r_out=facts["t_r"] * member.stride,
        valid=member.valid,
        phases=split_phases(scaled, member.stride, options.phases),
    )


def _split(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive numbers in groups of at most `limit` bytes, at least one in each."""
    groups: list[list[int]] = []
    filled = limit
    for i, size in enumerate(sizes):
        if filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += size
    return groups


def _scan_row(member: _Member, options: GroupOptions, shard: str) -> dict[str, Any]:
    fact, stride = member.scan.facts, member.stride
    return {column: fact[column] for column in (*SCAN_COLUMNS, "source", "space", "t_r", "n_frames_in")} | {
        "stride": stride,
        "t_r_out": fact["t_r"] * stride,
        "n_frames": _n_frames_out(fact["n_frames"], stride),
        "n_phases": min(stride, fact["n_frames"]) if options.phases == "all" else 1,
        "shard": shard,
        "fd_mean": fact["fd_mean"],
        "tsnr_median": fact["tsnr_median"],
        "coverage_min": min(fact["coverage"]),
        "n_missing_rois": len(fact["missing"]),
    }


def _n_frames_out(n_frames: int, stride: int) -> int:
    """Frames of the first phase, the longest: every stride-th, rounded up."""
    return -(-n_frames // stride)


def _write_tables(output: Path, scans: pd.DataFrame, scaling: Scaling, atlas: Atlas) -> None:
    blank = scans.replace("", np.nan)
    write_text(output / "scans.tsv", blank.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))
    table = pd.DataFrame(
        {
            "index": atlas.table["index"],
            "name": atlas.table["name"],
            "median": scaling.median,
            "iqr": scaling.iqr,
        }
    )
    write_text(output / "scaling.tsv", table.to_csv(sep="\t", index=False))
    scan_files.write_failures_table(output)
