"""`bjepa-preprocess --dry-run`: what would be done to each scan, and nothing written.

Everything but the images is read and tried as the run does it: confounds, dropped frames, filter, resampling.
What only the images tell (missing regions, the grid, damaged data) is not foretold; of raw runs neither are
confounds, frames that are not steady, and registrations, which their preprocessing makes.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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
RAW_COLUMNS = (*COLUMNS[:8], "T1w", "slice times", "told")
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
    columns = COLUMNS
    if raw is not None:
        columns = RAW_COLUMNS
        title += f"; template: {raw.template.choice}"
    table = Table(*columns, title=title)
    failed = 0
    warnings: dict[str, list[str]] = {}
    for scan in scans:
        try:
            row, noted = (
                _row(scan, participant, group) if raw is None else _raw_row(scan, participant, group, raw)
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


def _raw_row(
    scan: ScanSource, participant: ParticipantOptions, group: GroupOptions, raw: "RawSetup"
) -> tuple[list[str], set[str]]:
    """As `_row`; what preprocessing makes is left out: confounds, and with `auto` the frames to drop."""
    from bjepa.preproc.clean import Confounds, plan_cleaning
    from bjepa.preproc.participant_stage import input_files
    from bjepa.preproc.raw.header import check_raw_header, check_slices, check_t1w_header, header_notes
    from bjepa.preproc.repetition_time import decide_t_r
    from bjepa.preproc.resample import plan_resampling
    from bjepa.preproc.stream import open_bold

    if scan.error is not None:
        raise scan.error
    bold = open_bold(scan.path)
    check_raw_header(bold)
    t_r = decide_t_r(scan, bold.header_t_r, participant.t_r)
    input_files(scan)  # refused where one is not there
    for image in (scan.t1w, scan.t1_mask):
        if image is not None:
            check_t1w_header(image)
    shifted = raw.options.slice_timing and scan.slice_times is not None
    if shifted and scan.slice_times is not None:
        check_slices(bold, scan.slice_times, scan.slice_axis, t_r)
    auto = participant.cleaning.drop_initial == "auto"
    known = replace(
        participant.cleaning,
        confounds="none",
        drop_initial=0 if auto else participant.cleaning.drop_initial,
    )
    cleaned = plan_cleaning(bold.n_frames, Confounds(), known, t_r=t_r)
    plan = plan_resampling(t_r, bold.n_frames - cleaned.n_dropped, group.resampling)
    notes = [*scan.notes, *header_notes(bold, t_r), plan.warning, *cleaned.warnings]
    told = {note for note in notes if note}
    return [
        str(bold.n_frames),
        f"{t_r:g}",
        str(plan.stride),
        f"{plan.t_r_out:g}",
        f"{'at most ' if auto else ''}{plan.n_frames_out}",
        str(plan.n_phases),
        "none" if scan.t1w is None else scan.t1w.name,
        ("used" if shifted else "there, not used") if scan.slice_times is not None else "none",
        str(len(told)) if told else "",
    ], told
