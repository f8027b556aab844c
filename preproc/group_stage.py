"""The group stage: files of all scans -> phases -> scaling -> shards, tables. Streams; never reads NIfTI.

Passes over the scans, one scan in memory at a time:
  checking   facts and headers: files that belong together, one set of options
  reading    the scaling is fitted (`scaling.py`: one or two passes); the observer sees every scan once
  writing    resample, scale, store; the observer sees every scan a second time
Shards are written beside the old ones and exchanged as a whole. They hold no time stamp and no random name:
the same scans give the same bytes, also after a run that was killed.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_tsv
from bjepa.preproc.group_plan import GroupOptions, Member, Watch, plan_members, pooled
from bjepa.preproc.scaling import FITS_NOTHING, PER_SCAN, Scaling, ScalingFit, scan_part
from bjepa.preproc.scan_records import Common, ScanRecord
from bjepa.preproc.shards import ROI_COLUMNS, SCAN_COLUMNS, ShardScan, write_shard

__all__ = ["GroupOptions", "GroupResult", "run_group"]

log = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20
SCAN_TABLE_COLUMNS = (
    "scan_id participant_id session task run source space t_r stride t_r_out n_frames_in n_frames n_phases "
    "shard fd_mean tsnr_median coverage_min n_missing_rois"
).split()
# facts of a scan that its shard repeats; those that a scan does not have are left out
PROVENANCE = (
    "space mask tables confounds n_dropped n_censored n_frames_in n_invalid_voxels normalising_factor "
    "degrees_of_freedom fd_mean tsnr_median warnings options software"
).split()


class Observer(Protocol):
    """Who looks at the scans as they pass by, such as `report.CohortWatch`.

    Both get a scan's series (n_frames, n_rois) in the units of the scan, NaN in missing regions, its facts,
    and `censored` (n_frames,), True where a frame was filled in.
    """

    def observe(
        self, series: NDArray[np.float32], facts: Mapping[str, Any], *, censored: NDArray[np.bool_]
    ) -> None:
        """Called once for every scan, before anything is written."""

    def observe_again(
        self, series: NDArray[np.float32], facts: Mapping[str, Any], *, censored: NDArray[np.bool_]
    ) -> None:
        """Called once for every scan, in the order of scans.tsv, after `observe` has seen all."""


@dataclass(frozen=True)
class GroupResult:
    """What the group stage made, for the report: scans.tsv, the scaling, and the scans themselves.

    `scans` are in the order of `table`; `common` says what they share.
    """

    table: pd.DataFrame
    scaling: Scaling
    scans: list[ScanRecord]
    common: Common


def run_group(
    atlas: Atlas,
    output: Path,
    options: GroupOptions,
    *,
    progress: Callable[[str], None],
    phase: Callable[[str, int], None] = lambda name, total: None,
    observer: Observer | None = None,
) -> GroupResult:
    """Scaling, shards and tables from all finished scans of this atlas in OUTPUT.

    Parameters
    ----------
    progress : called with a scan's name as each is done, in each pass
    phase : called before each pass with its name and its number of scans
    observer : sees every scan twice
    """
    watch = Watch(phase, progress)
    with _alone(output):
        scan_files.sweep_output(output)
        members, common = plan_members(atlas, output, options, watch)
        scaling = _fit(members, atlas, options, observer, watch)
        shard_names = _write_shards(members, common, atlas, scaling, output, options, observer, watch)
        rows = [_scan_row(m, shard) for m, shard in zip(members, shard_names, strict=True)]
        table = pd.DataFrame(rows, columns=SCAN_TABLE_COLUMNS)
        _write_tables(output, table, scaling, atlas)
    return GroupResult(table, scaling, [m.scan for m in members], common)


# --- reading passes -----------------------------------------------------------------------------------------


def _fit(
    members: list[Member], atlas: Atlas, options: GroupOptions, observer: Observer | None, watch: Watch
) -> Scaling:
    """The scaling, from the stored frames of the participants that fit it; `observer` sees all."""
    fit = ScalingFit(options.scaling, atlas.table["name"].tolist())
    n_passes = 0
    while fit.wants_pass or (n_passes == 0 and observer is not None):
        n_passes += 1
        seen = members if n_passes == 1 and observer is not None else [m for m in members if m.fits]
        watch.phase(f"reading scans, pass {n_passes}", len(seen))
        for member in seen:
            series, marks = member.scan.read()
            if n_passes == 1 and observer is not None:
                observer.observe(series, member.scan.facts, censored=marks)
            if member.fits and fit.wants_pass:
                fit.add(pooled(member.phases_of(series, marks, options)), member.scan.participant_id)
            watch.scan(member.scan.scan_id)
        if fit.wants_pass:
            fit.end_pass()
    scaling = fit.result()
    _refuse_unscaled(members, scaling, atlas.table["name"].tolist())
    return scaling


def _refuse_unscaled(members: list[Member], scaling: Scaling, names: list[str]) -> None:
    """A region that no fitting scan has cannot be scaled in the scans that have it."""
    unseen = np.array(scaling.unseen, dtype=np.int64)
    had = [m.scan.scan_id for m in members if len(unseen) and m.scan.valid[unseen].any()]
    if had:
        told = ", ".join(names[i] for i in unseen[:5])
        raise InputError(
            f"--scaling-participants: {len(unseen)} regions ({told}{', …' if len(unseen) > 5 else ''}) are "
            f"missing in every scan that fits the scaling, and there in {len(had)} others, e.g. {had[0]}.",
            hint="Name participants who have them, or leave those scans out.",
        )


# --- writing ------------------------------------------------------------------------------------------------


def _write_shards(
    members: list[Member],
    common: Common,
    atlas: Atlas,
    scaling: Scaling,
    output: Path,
    options: GroupOptions,
    observer: Observer | None,
    watch: Watch,
) -> list[str]:
    """Write all shards beside the old ones, then exchange the folders. Returns each scan's shard."""
    fresh, old, shards = output / "work" / "shards-new", output / "work" / "shards-old", output / "shards"
    if old.exists() and not shards.exists():  # a run was killed between the two renames below
        old.rename(shards)
    shutil.rmtree(fresh, ignore_errors=True)
    watch.phase("writing shards", len(members))
    rois = {column: atlas.table[column].tolist() for column in ROI_COLUMNS}

    def scaled(numbers: Sequence[int]) -> Iterator[ShardScan]:
        for number in numbers:
            yield _shard_scan(members[number], scaling, atlas, options, observer)
            watch.scan(members[number].scan.scan_id)

    names: list[str] = []
    sizes = [4 * m.n_frames_stored * atlas.n_rois for m in members]
    for shard_number, numbers in enumerate(_split(sizes, SHARD_BYTES)):
        name = f"shard-{shard_number:05d}.h5"
        names += [name] * len(numbers)
        write_shard(
            fresh / name,
            scaled(numbers),
            n_frames=sum(members[number].n_frames_stored for number in numbers),
            atlas=atlas.name,
            atlas_sha256=atlas.sha256,
            rois=rois,
            median=scaling.median,
            iqr=scaling.iqr,
            scaling=scaling.method,
            target_t_r=options.target_t_r,
            space=", ".join(sorted(common.spaces)),
            options={"participant": common.options, "group": options.told()},
            software=common.software,
        )
    shutil.rmtree(old, ignore_errors=True)
    if shards.exists():
        shards.rename(old)
    fresh.rename(shards)
    shutil.rmtree(old, ignore_errors=True)
    return names


def _shard_scan(
    member: Member,
    scaling: Scaling,
    atlas: Atlas,
    options: GroupOptions,
    observer: Observer | None,
) -> ShardScan:
    scan = member.scan
    series, marks = scan.read()
    facts = scan.facts
    if observer is not None:
        observer.observe_again(series, facts, censored=marks)
    phases = member.phases_of(series, marks, options)
    part = None
    if scaling.method in PER_SCAN:
        part = scan_part(scaling.method, pooled(phases), atlas.table["name"].tolist(), scan.scan_id)
    return ShardScan(
        entities={column: facts[column] for column in SCAN_COLUMNS},
        t_r=scan.t_r,
        t_r_out=member.plan.t_r_out,
        valid=scan.valid,
        phases=[scaling.apply(phase, part) for phase, _ in phases],
        censored=[censored for _, censored in phases],
        part=part,
        fits_scaling=member.fits and scaling.method not in FITS_NOTHING,
        source=scan.source,
        source_sha256=facts.get("source_sha256") or "",
        provenance={name: facts[name] for name in PROVENANCE if name in facts},
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


def _scan_row(member: Member, shard: str) -> dict[str, Any]:
    scan, plan = member.scan, member.plan
    same = (*SCAN_COLUMNS, "source", "space", "t_r", "n_frames_in", "fd_mean", "tsnr_median", "coverage_min")
    return {column: getattr(scan, column) for column in same} | {
        "stride": plan.stride,
        "t_r_out": plan.t_r_out,
        "n_frames": plan.n_frames_out,
        "n_phases": plan.n_phases,
        "shard": shard,
        "n_missing_rois": int((~scan.valid).sum()),
    }


def _write_tables(output: Path, scans: pd.DataFrame, scaling: Scaling, atlas: Atlas) -> None:
    write_tsv(output / "scans.tsv", scans.replace("", np.nan), float_format="%.6g")
    table = pd.DataFrame(
        {
            "index": atlas.table["index"],
            "name": atlas.table["name"],
            "median": scaling.median,
            "iqr": scaling.iqr,
        }
    )
    write_tsv(output / "scaling.tsv", table)
    scan_files.write_failures_table(output)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One group stage at a time: two would write into one folder. The lock ends with its process."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    (output / "work").mkdir(parents=True, exist_ok=True)
    with open(output / "work" / "group.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another stage 'group' is at work in {output}.", hint="Wait until it is done."
            ) from error
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): run one stage 'group' at a time.", lock.name, error)
        yield
