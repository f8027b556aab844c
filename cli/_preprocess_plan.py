"""`bjepa-preprocess --dry-run`: what would be done to each scan, and nothing written."""

import sys
from collections.abc import Sequence

from bjepa.cli._common import DONE, SOME_FAILED, WRONG_INPUT
from bjepa.cli._preprocess_options import PROG
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.group_stage import GroupOptions
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.participant_stage import ParticipantOptions

COLUMNS = (
    "scan",
    "kind",
    "frames",
    "TR (s)",
    "stride",
    "TR out (s)",
    "frames out",
    "series",
    "mask",
    "confounds",
)


def list_plan(
    scans: Sequence[ScanSource],
    atlas: Atlas,
    participant: ParticipantOptions,
    group: GroupOptions,
) -> int:
    """Print the plan, scan by scan; the exit status is that of the run it foretells."""
    from rich.console import Console
    from rich.table import Table

    title = (
        f"atlas {atlas.name}, {atlas.n_rois} regions, {atlas.order} order, {atlas.space}; "
        f"confounds {participant.cleaning.confounds}; resampling {group.resample}; scaling {group.scaling}"
    )
    table = Table(*COLUMNS, title=title)
    failed, warnings = 0, set()
    for scan in scans:
        try:
            row, warning = _row(scan, participant, group)
        except InputError as error:
            failed += 1
            print(f"{PROG}: would fail: {error}", file=sys.stderr)
            table.add_row(scan.scan_id, scan.kind, *[""] * (len(COLUMNS) - 3), "would fail")
            continue
        table.add_row(scan.scan_id, scan.kind, *row)
        warnings |= {warning} if warning else set()
    console = Console()
    if not console.is_terminal:  # a file gets whole lines
        console = Console(width=240)
    console.print(table)
    for warning in sorted(warnings):
        print(f"{PROG}: note: {warning}", file=sys.stderr)
    return DONE if not failed else (SOME_FAILED if failed < len(scans) else WRONG_INPUT)


def _row(scan: ScanSource, participant: ParticipantOptions, group: GroupOptions) -> tuple[list[str], str]:
    from bjepa.preproc.clean import confounds_beside
    from bjepa.preproc.read_scan import read_header
    from bjepa.preproc.repetition_time import decide_t_r
    from bjepa.preproc.resample import plan_resampling

    header = read_header(scan)
    t_r = decide_t_r(scan, header.t_r, participant.t_r)
    n_frames = header.n_frames
    plan = plan_resampling(t_r, n_frames or 0, group.resampling)
    confounds = scan.confounds or confounds_beside(scan.path)
    return [
        "?" if n_frames is None else str(n_frames),
        f"{t_r:g}",
        str(plan.stride),
        f"{plan.t_r_out:g}",
        "?" if n_frames is None else str(plan.n_frames_out),
        str(plan.n_phases) if n_frames is not None else str(plan.stride),
        "yes" if scan.mask is not None else "none",
        "yes" if confounds is not None else "none",
    ], plan.warning
