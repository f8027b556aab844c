"""What the group stage will do: which scans, resampled how, fitting the scaling or not."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_json
from bjepa.preproc.resample import (
    Phases,
    ResampleOptions,
    ResamplePlan,
    Resampling,
    plan_resampling,
    resample_series,
)
from bjepa.preproc.scaling import FITS_NOTHING, ScalingMethod
from bjepa.preproc.scan_files import failed_scans
from bjepa.preproc.scan_records import Common, ScanRecord, read_records, scan_paths

log = logging.getLogger(__name__)

Phase = tuple[NDArray[np.float32], NDArray[np.bool_]]  # (n_frames, n_rois), (n_frames,) True = censored


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is: before each pass its name and number of scans, then each scan's name."""

    phase: Callable[[str, int], None]
    scan: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """What decides the shards. `target_t_r` in s; `scaling_participants`: None = all."""

    target_t_r: float = 2.0
    resample: Resampling = "stride"
    phases: Phases = "all"
    scaling: ScalingMethod = "robust"
    scaling_participants: frozenset[str] | None = None

    @property
    def resampling(self) -> ResampleOptions:
        """The part that says how scans come to one t_r."""
        return ResampleOptions(target_t_r=self.target_t_r, how=self.resample, phases=self.phases)

    def told(self) -> dict[str, Any]:
        """For the attributes of a shard, which are small: of the named participants only number and hash."""
        named = self.scaling_participants
        listed = None if named is None else {"n": len(named), "sha256": sha256_of_json(sorted(named))}
        return asdict(self) | {"scaling_participants": listed}


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A finished scan and what the group stage does with it."""

    scan: ScanRecord
    plan: ResamplePlan
    fits: bool  # whether it fits the scaling

    @property
    def n_frames_stored(self) -> int:
        """Frames of all its series together: phases that are all kept hold every frame once."""
        return self.plan.n_frames_out if self.plan.n_phases == 1 else self.scan.n_frames

    def phases_of(
        self, series: NDArray[np.float32], marks: NDArray[np.bool_], options: GroupOptions
    ) -> list[Phase]:
        """Series (n_frames, n_rois) and marks (n_frames,) of this scan, brought to the target t_r."""
        return resample_series(series, marks, self.scan.t_r, options.resampling)


def pooled(phases: list[Phase]) -> NDArray[np.float32]:
    """All stored frames of a scan (n_frames, n_rois)."""
    return phases[0][0] if len(phases) == 1 else np.concatenate([series for series, _ in phases])


def plan_members(
    atlas: Atlas, output: Path, options: GroupOptions, watch: Watch
) -> tuple[list[Member], Common]:
    """All finished scans of this atlas in OUTPUT, in scan_id order, checked; and what they have in common."""
    paths = scan_paths(output)
    watch.phase("checking scans", len(paths))
    records, foreign, common = read_records(paths, atlas.sha256, atlas.n_rois, progress=watch.scan)
    if foreign.n_scans:
        log.warning(
            "%d finished scans of other atlases in %s are left out, e.g. %s.",
            *(foreign.n_scans, output, foreign.example),
        )
    records = _without_failed(records, output)
    if not records:
        raise InputError(f"{output} holds no finished scan.", hint="Run the stage 'participant' first.")
    _refuse_moved_atlas(common, atlas)
    _tell_of_vanished(records)
    for name, versions in common.software.items():
        if isinstance(versions, list):
            log.warning("The scans were made with several versions of %s: %s.", name, ", ".join(versions))
    fits = _fitting_participants(records, options)
    plans: dict[tuple[float, int], ResamplePlan] = {}  # most scans share one
    for scan in records:
        if (scan.t_r, scan.n_frames) not in plans:
            plans[scan.t_r, scan.n_frames] = plan_resampling(scan.t_r, scan.n_frames, options.resampling)
    members = [Member(s, plans[s.t_r, s.n_frames], s.participant_id in fits) for s in records]
    warnings = Counter(m.plan.warning for m in members if m.plan.warning)
    for warning, n_scans in warnings.most_common():
        log.warning("%d scans: %s", n_scans, warning)
    return members, common


def _without_failed(records: list[ScanRecord], output: Path) -> list[ScanRecord]:
    """A scan that failed when it was last tried has files of an earlier try: they are not its result."""
    failed = failed_scans(output)
    left_out = [scan.scan_id for scan in records if scan.scan_id in failed]
    if left_out:
        log.warning(
            "%d scans failed when last tried and are left out; files of an earlier try exist, e.g. of %s.",
            *(len(left_out), left_out[0]),
        )
    return [scan for scan in records if scan.scan_id not in failed]


def _refuse_moved_atlas(common: Common, atlas: Atlas) -> None:
    """The same labels at another place are other regions."""
    for place, scan_id in common.places.items():
        if place and list(place) != atlas.place:
            raise InputError(
                f"{scan_id} was averaged with labels at another place: affine {list(place)[:12]}, "
                f"the atlas given has {atlas.place[:12]}.",
                hint="Run the stage 'participant' again with this atlas.",
            )


def _tell_of_vanished(records: list[ScanRecord]) -> None:
    """Scans whose file has been removed or renamed stay; where no file is in reach nothing can be told."""
    gone = [scan for scan in records if not Path(scan.source).exists()]
    if 0 < len(gone) < len(records):
        log.warning(
            "%d of %d scans are of files that are no longer there, e.g. %s; they stay in the shards. Delete "
            "their files in OUTPUT to leave them out.",
            *(len(gone), len(records), gone[0].source),
        )


def _fitting_participants(records: list[ScanRecord], options: GroupOptions) -> frozenset[str]:
    present = frozenset(scan.participant_id for scan in records)
    if options.scaling_participants is None:
        return present
    if options.scaling in FITS_NOTHING:
        log.warning("--scaling-participants has no effect: --scaling %s fits nothing.", options.scaling)
    fits = present & options.scaling_participants
    if not fits:
        raise InputError(
            f"--scaling-participants names {len(options.scaling_participants)} participants; "
            "none of them has a finished scan.",
            hint=f"Participants here: {sorted(present)[:5]} …",
        )
    if absent := sorted(options.scaling_participants - present):
        log.warning("--scaling-participants: %d have no finished scan, e.g. %s.", len(absent), absent[0])
    return fits
