"""`bjepa-preprocess --dry-run`: what would be done to each scan, and nothing written.

Everything but the images is read and tried as the run does it: confounds, dropped frames, filter, resampling.
What only the images tell (missing regions, the grid, damaged data) is not foretold; nor are the registrations
of raw runs (_preprocess_raw_plan.py).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bjepa.cli import _preprocess_raw_plan as raw_plan
from bjepa.cli._common import DONE, SOME_FAILED, WRONG_INPUT
from bjepa.cli._preprocess_options import PROG
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.group_stage import GroupOptions
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.participant_stage import ParticipantOptions

if TYPE_CHECKING:
    from bjepa.preproc.raw.participant import RawSetup

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
    "censored",
)
# A table has no header: its length is that of its confounds; without any, it is taken to be long enough.
LONG_ENOUGH = 10_000  # frames


def list_plan(
    scans: Sequence[ScanSource],
    atlas: Atlas,
    participant: ParticipantOptions,
    group: GroupOptions,
    raw: "RawSetup | None" = None,
) -> int:
    """Print the plan, scan by scan; the exit status is that of the run it foretells."""
    from rich.console import Console
    from rich.table import Table

    title = (
        f"atlas {atlas.name}, {atlas.n_rois} regions, {atlas.order} order, {atlas.space}; "
        f"confounds {participant.cleaning.confounds}; resampling {group.resample}; scaling {group.scaling}"
    )
    columns: tuple[str, ...] = COLUMNS
    if raw is not None:
        columns = raw_plan.COLUMNS
        title += f"; template: {raw.template.choice}"
    table = Table(*columns, title=title)
    failed = 0
    warnings: dict[str, list[str]] = {}
    for scan in scans:
        try:
            row, noted = (
                _row(scan, participant, group) if raw is None else raw_plan.row(scan, participant, group, raw)
            )
        except InputError as error:
            failed += 1
            where = "" if str(scan.path) in str(error) else f"{scan.path}: "
            print(f"{PROG}: would fail: {where}{error}", file=sys.stderr)
            table.add_row(scan.scan_id, scan.kind, *[""] * (len(columns) - 3), "would fail")
            continue
        table.add_row(scan.scan_id, scan.kind, *row)
        for sentence in noted:
            warnings.setdefault(sentence, []).append(scan.scan_id)
    console = Console()
    if not console.is_terminal:  # a file gets whole lines
        console = Console(width=240)
    console.print(table)
    for warning, of in sorted(warnings.items()):
        which = of[0] if len(of) == 1 else f"{len(of)} scans, {of[0]} the first"
        print(f"{PROG}: note: {warning} ({which})", file=sys.stderr)
    return DONE if not failed else (SOME_FAILED if failed < len(scans) else WRONG_INPUT)


def _row(
    scan: ScanSource, participant: ParticipantOptions, group: GroupOptions
) -> tuple[list[str], set[str]]:
    """The columns after scan and kind, and what is to be noted; refused as the run refuses."""
    from bjepa.preproc.clean import plan_cleaning
    from bjepa.preproc.participant_stage import confounds_of, input_files
    from bjepa.preproc.read_scan import check_smoothing, n_frames_whole, read_header
    from bjepa.preproc.repetition_time import decide_t_r
    from bjepa.preproc.resample import plan_resampling

    header = read_header(scan)
    t_r = decide_t_r(scan, header.t_r, participant.t_r)
    input_files(scan)  # refused where one is not there
    check_smoothing(scan, participant.smoothing_fwhm)
    known = n_frames_whole(scan, header)
    confounds = confounds_of(scan, known, participant)
    if known is None:
        rows = [len(given) for given in (confounds.values, confounds.sample_mask) if given is not None]
        n_frames = rows[0] if rows else LONG_ENOUGH
    else:
        n_frames = known
    cleaned = plan_cleaning(n_frames, confounds, participant.cleaning, t_r=t_r)
    plan = plan_resampling(t_r, n_frames - cleaned.n_dropped, group.resampling)
    return [
        "?" if known is None else str(known),
        f"{t_r:g}",
        str(plan.stride),
        f"{plan.t_r_out:g}",
        "?" if known is None else str(plan.n_frames_out),
        str(plan.n_phases),
        "yes" if scan.mask is not None else "none",
        "0" if confounds.values is None else str(confounds.values.shape[1]),
        str(int(cleaned.censored.sum())),
    ], {warning for warning in (plan.warning, *cleaned.warnings) if warning}
