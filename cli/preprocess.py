"""bjepa-preprocess: scans to regional time series, scaled, in shards."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bjepa.cli._common import (
    DONE,
    NOTHING_DONE,
    SOME_FAILED,
    WRONG_INPUT,
    add_atlas_dir,
    command_parser,
    number,
    run,
)
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.preproc.atlas import Atlas
    from bjepa.preproc.group_stage import GroupOptions
    from bjepa.preproc.inputs import Dataset, ScanSource
    from bjepa.preproc.participant_stage import ParticipantOptions
    from bjepa.preproc.scan_files import Failure

PROG = "bjepa-preprocess"
log = logging.getLogger(PROG)

EXAMPLES = """\
  # fMRIPrep output, all participants, one machine
  bjepa-preprocess derivatives/fmriprep out --space MNI152NLin6Asym

  # a folder of normalised NIfTI files whose headers do not know their TR
  bjepa-preprocess bold/ out --space MNI152NLin6Asym --t-r 2.0 --atlas-dir ~/atlases

  # what would be done: TR, stride, space of each scan
  bjepa-preprocess bold/ out --space MNI152NLin6Asym --dry-run

  # many machines, then one: participants first, the group stage afterwards
  bjepa-preprocess derivatives/fmriprep out participant --participant-label 01 02
  bjepa-preprocess derivatives/fmriprep out group --scaling-participants train.txt

exit status: 0 all done; 1 nothing could be done; 2 wrong usage or input; 3 done, but some scans failed
(failures.tsv). Run the same command again to continue: finished scans are kept.
"""


def parser() -> argparse.ArgumentParser:
    """The options, in groups as a user meets them."""
    p = command_parser(
        PROG, "fMRI scans to regional time series, resampled, scaled, in HDF5 shards.", EXAMPLES
    )
    p.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="fMRIPrep folder, folder of NIfTI files, one file, or a .tsv manifest with a column 'path'",
    )
    p.add_argument("output", type=Path, metavar="OUTPUT", help="output folder (a BIDS derivative)")
    p.add_argument("stage", nargs="?", choices=("participant", "group"), help="default: both")

    atlas = p.add_argument_group("atlas")
    atlas.add_argument(
        "--atlas",
        default="tian-s3+schaefer-400",
        help="tian-s3+schaefer-400 (default), schaefer-400, schaefer-400-7networks, tian-s3, "
        "or a label volume (.nii.gz) with --atlas-labels",
    )
    atlas.add_argument(
        "--atlas-labels",
        type=Path,
        metavar="TSV",
        help="table of the label volume: columns index, name[, structure hemisphere network7 network17]",
    )
    add_atlas_dir(atlas)
    atlas.add_argument(
        "--space", help="template space, e.g. MNI152NLin6Asym; default: the space- entity of the file names"
    )
    atlas.add_argument(
        "--min-coverage",
        type=number(0, 1),
        default=0.5,
        help="a region with less of its weight inside the data is missing (default: 0.5)",
    )
    atlas.add_argument(
        "--max-missing",
        type=number(0, 1),
        default=0.05,
        help="a scan with a larger share of missing regions fails (default: 0.05)",
    )

    time = p.add_argument_group("time")
    time.add_argument(
        "--t-r",
        type=number(0.01, 60),
        metavar="S",
        help="repetition time in s; default: sidecar, else header if plausible",
    )
    time.add_argument("--target-t-r", type=number(0.01, 60), default=2.0, metavar="S", help="default: 2.0")
    time.add_argument(
        "--resample",
        choices=("stride", "none"),
        default="stride",
        help="stride (default): every s-th frame, s = max(1, round(target / t_r))",
    )
    time.add_argument(
        "--phases",
        choices=("all", "first"),
        default="all",
        help="of a strided scan keep all s phases as series of their own (default), or the first",
    )

    cleaning = p.add_argument_group("cleaning (at the scan's own t_r, regional means kept)")
    cleaning.add_argument(
        "--confounds",
        choices=("none", "simple", "compcor", "24p", "36p"),
        help="fMRIPrep confounds to regress out; default: simple for fMRIPrep, else none",
    )
    cleaning.add_argument("--high-pass", type=number(0, 100), metavar="HZ", help="remove what is slower")
    cleaning.add_argument("--low-pass", type=number(0, 100), metavar="HZ", help="remove what is faster")
    cleaning.add_argument(
        "--drop-initial",
        type=_frames_or_auto,
        default=0,
        metavar="N|auto",
        help="initial frames to drop; auto = fMRIPrep's non-steady-state frames (default: 0)",
    )

    scaling = p.add_argument_group("scaling")
    scaling.add_argument(
        "--scaling",
        choices=("robust", "none"),
        default="robust",
        help="robust (default): median and IQR of each region over all frames",
    )
    scaling.add_argument(
        "--scaling-participants",
        type=Path,
        metavar="FILE",
        help="participants (one a line) that alone fit the scaling; default: all",
    )

    chosen = p.add_argument_group("which scans")
    for name in ("participant-label", "session-label", "task-id", "run-id"):
        chosen.add_argument(f"--{name}", nargs="+", default=[], metavar="LABEL")

    work = p.add_argument_group("work")
    work.add_argument(
        "--n-jobs", type=_n_jobs, default=-1, metavar="N", help="processes (default: -1, all cores)"
    )
    work.add_argument("--overwrite", action="store_true", help="do finished scans again")
    work.add_argument("--dry-run", action="store_true", help="only list what would be done")
    return p


def _frames_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a number of frames or 'auto', got {text!r}")
    return int(text)


def _n_jobs(text: str) -> int:
    if text != "-1" and (not text.isdigit() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"must be 1 or more, or -1 for all cores, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit status."""
    return run(_preprocess, parser().parse_args(argv), prog=PROG)


def _preprocess(args: argparse.Namespace) -> int:
    from bjepa.preproc import scan_files
    from bjepa.preproc.atlas import load_atlas
    from bjepa.preproc.inputs import ScanFilter, find_scans

    keep = ScanFilter(args.participant_label, args.session_label, args.task_id, args.run_id, args.space)
    dataset = find_scans(args.input, keep, exclude=args.output)
    space = _one_space(args.space, dataset.scans)
    atlas = load_atlas(args.atlas, space=space, atlas_dir=args.atlas_dir, labels_tsv=args.atlas_labels)
    participant, group = _options(args, dataset, atlas)
    if args.dry_run:
        return _list_plan(dataset.scans, atlas, participant, group)

    scan_files.write_description(args.output, args.input, dataset.made_by)
    failures: list[Failure] = []
    if args.stage != "group":
        failures = _participant_stage(args, dataset.scans, atlas, participant)
        if len(failures) == len(dataset.scans):
            return WRONG_INPUT if all(f.error == "InputError" for f in failures) else NOTHING_DONE
    if args.stage != "participant":
        _group_stage(args.output, atlas, group)
    return SOME_FAILED if failures else DONE


def _one_space(given: str | None, scans: "Sequence[ScanSource]") -> str | None:
    """The space of this call: as given, else the one that all file names state (None: nobody says)."""
    named = {scan.space for scan in scans}
    if given is not None:
        return given
    if len(named) > 1:
        raise InputError(
            f"the scans are in several spaces: {sorted(str(s) for s in named)}.",
            hint="Choose one with --space.",
        )
    return named.pop()


def _options(
    args: argparse.Namespace, dataset: "Dataset", atlas: "Atlas"
) -> "tuple[ParticipantOptions, GroupOptions]":
    from bjepa.preproc.clean import CleaningOptions
    from bjepa.preproc.group_stage import GroupOptions
    from bjepa.preproc.participant_stage import ParticipantOptions
    from bjepa.preproc.participants import read_participant_list

    confounds = args.confounds or ("simple" if dataset.made_by.lower() == "fmriprep" else "none")
    fit_on = args.scaling_participants
    return (
        ParticipantOptions(
            space=atlas.space,
            t_r=args.t_r,
            cleaning=CleaningOptions(
                confounds=confounds,
                high_pass=args.high_pass,
                low_pass=args.low_pass,
                drop_initial=args.drop_initial,
            ),
            min_coverage=args.min_coverage,
            max_missing=args.max_missing,
        ),
        GroupOptions(
            target_t_r=args.target_t_r,
            resample=args.resample,
            phases=args.phases,
            scaling=args.scaling,
            scaling_participants=None if fit_on is None else frozenset(read_participant_list(fit_on)),
        ),
    )


def _participant_stage(
    args: argparse.Namespace, scans: "Sequence[ScanSource]", atlas: "Atlas", options: "ParticipantOptions"
) -> "list[Failure]":
    from tqdm import tqdm

    from bjepa.preproc.participant_stage import run_participants

    with tqdm(total=len(scans), desc="scans", unit="scan", disable=None, file=sys.stderr) as bar:
        failures = run_participants(
            scans,
            atlas,
            args.output,
            options,
            n_jobs=args.n_jobs,
            overwrite=args.overwrite,
            progress=lambda scan_id: (bar.set_postfix_str(scan_id, refresh=False), bar.update())[1],
        )
    for failure in failures:
        print(f"{PROG}: failed: {failure.message} {failure.hint}", file=sys.stderr)
    log.info("%d of %d scans done, %d failed.", len(scans) - len(failures), len(scans), len(failures))
    return failures


def _group_stage(output: Path, atlas: "Atlas", options: "GroupOptions") -> None:
    from tqdm import tqdm

    from bjepa.preproc.group_stage import run_group
    from bjepa.preproc.report import write_report

    with tqdm(desc="shards", unit="scan", disable=None, file=sys.stderr) as bar:
        result = run_group(atlas, output, options, progress=lambda _: bar.update())
    write_report(output, atlas, result, options)
    log.info("%d scans in %s; look at %s.", len(result.scans), output / "shards", output / "report.html")


def _list_plan(
    scans: "Sequence[ScanSource]", atlas: "Atlas", participant: "ParticipantOptions", group: "GroupOptions"
) -> int:
    """Print what would be done, scan by scan; nothing is written."""
    from rich.console import Console
    from rich.table import Table

    from bjepa.preproc.participant_stage import decide_t_r
    from bjepa.preproc.resample import stride_of
    from bjepa.preproc.stream import open_bold

    confounds = participant.cleaning.confounds
    title = f"atlas {atlas.name}, {atlas.n_rois} regions, {atlas.space}; confounds {confounds}"
    table = Table("scan", "frames", "TR (s)", "stride", "TR out (s)", "status", title=title)
    failed = 0
    for scan in scans:
        try:
            bold = open_bold(scan.path)
            t_r = decide_t_r(scan, bold.header_t_r, participant.t_r)
        except InputError as error:
            failed += 1
            print(f"{PROG}: would fail: {error}", file=sys.stderr)
            table.add_row(scan.scan_id, "", "", "", "", "would fail")
            continue
        stride = stride_of(t_r, group.target_t_r, group.resample)
        table.add_row(scan.scan_id, str(bold.n_frames), f"{t_r:g}", str(stride), f"{t_r * stride:g}", "to do")
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)  # a file gets whole lines
    return DONE if not failed else (SOME_FAILED if failed < len(scans) else WRONG_INPUT)
