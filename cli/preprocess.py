"""bjepa-preprocess: scans to regional time series, scaled, in shards."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.cli import _preprocess_raw as raw_fmri
from bjepa.cli._common import DONE, NOTHING_DONE, SOME_FAILED, WRONG_INPUT, run
from bjepa.cli._preprocess_options import PROG, parser
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.preproc.atlas import Atlas
    from bjepa.preproc.group_stage import GroupOptions
    from bjepa.preproc.inputs import Dataset, ScanFilter, ScanSource
    from bjepa.preproc.participant_stage import ParticipantOptions
    from bjepa.preproc.raw.participant import RawSetup
    from bjepa.preproc.scan_files import Failure

log = logging.getLogger(PROG)

FILTERS = ("participant_label", "session_label", "task_id", "run_id", "bids_filter_file")
# options that decide the numbers of one scan -> their names in the facts of a scan
OF_A_SCAN = {
    "confounds": "cleaning.confounds",
    "high_pass": "cleaning.high_pass",
    "low_pass": "cleaning.low_pass",
    "drop_initial": "cleaning.drop_initial",
    "smoothing_fwhm": "smoothing_fwhm",
    "normalise_mean": "normalise_mean",
    "min_coverage": "min_coverage",
    "max_missing": "max_missing",
    "t_r": "t_r",
    "series_atlas": "layout.atlas",
    "series_axis": "layout.axis",
    "series_columns": "layout.columns",
    "series_variable": "layout.variable",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit status."""
    p = parser()
    args = p.parse_intermixed_args(argv)  # INPUT, OUTPUT and stage may stand between options
    if args.check is None and (args.input is None or args.output is None):
        p.error("the arguments INPUT and OUTPUT are required (or --check OUTPUT)")
    if args.check is not None and args.input is not None:
        p.error(f"--check {args.check} verifies one output folder and takes no INPUT, got {args.input}")
    if args.export and args.stage == "participant":
        p.error("--export writes what the stage 'group' has made; it goes with 'group' or with both stages")
    if args.check_all and args.check is None:
        p.error("--check-all goes with --check OUTPUT")
    return run(_preprocess if args.check is None else _check, args, prog=PROG)


def _preprocess(args: argparse.Namespace) -> int:
    from bjepa.cli._preprocess_plan import list_plan
    from bjepa.preproc import scan_files
    from bjepa.preproc.exports import check_exports
    from bjepa.preproc.inputs import find_scans

    args.input = args.input.absolute()  # the same scan, however INPUT is written
    dataset = find_scans(args.input, _filter(args), exclude=args.output)
    raw = raw_fmri.raw_setup(args, dataset)
    dataset = raw_fmri.in_template_space(dataset, raw)
    atlas = _atlas(args, dataset.scans)
    participant, group = _options(args, dataset, atlas)
    check_exports(atlas.table, args.export)
    if raw is not None and args.stage != "group":
        raw_fmri.check_can_register(args)
    if args.dry_run:
        return list_plan(dataset.scans, atlas, participant, group, raw)

    scan_files.check_output_is_ours(args.output)
    if args.stage == "group":
        _refuse_unused(args, participant, raw)
    scan_files.write_description(args.output, args.input, dataset.made_by)
    if args.stage != "group" and raw is not None:
        raw_fmri.write_template(args.output, raw.template)
    failures: list[Failure] = []
    if args.stage != "group":
        failures = _participant_stage(args, dataset.scans, atlas, participant, raw)
        if len(failures) == len(dataset.scans):
            return WRONG_INPUT if all(f.error == "InputError" for f in failures) else NOTHING_DONE
    if args.stage != "participant":
        _group_stage(args, atlas, group)
    return SOME_FAILED if any(scan_files.read_failures(args.output)) else DONE


def _check(args: argparse.Namespace) -> int:
    from bjepa.cli._progress import PhaseBar
    from bjepa.preproc.check import check_output

    with PhaseBar() as bar:
        bar.begin("checking", 0)
        problems = check_output(
            args.check, sources=not args.no_source_hash, all_scans=args.check_all, progress=bar.scan
        )
    for problem in problems:
        print(problem)
    told = f"{len(problems)} problems" if problems else "whole, and what it says it is"
    log.info("%s: %s.", args.check, told)
    return WRONG_INPUT if problems else DONE


# --- what was asked for -------------------------------------------------------------------------------------


def _filter(args: argparse.Namespace) -> "ScanFilter":
    from bjepa.preproc.inputs import ScanFilter
    from bjepa.preproc.inputs.bids import read_bids_filter

    wanted = raw_fmri.raw_wanted(args)
    file = args.bids_filter_file
    return ScanFilter(
        participant_label=args.participant_label,
        session_label=args.session_label,
        task_id=args.task_id,
        run_id=args.run_id,
        space=args.space,
        bids_filter=read_bids_filter(file, needed=not wanted.t1w_filter) if file else {},
        atlas=args.atlas,
        xcpd=args.xcpd,
        raw=wanted,
    )


def _atlas(args: argparse.Namespace, scans: "Sequence[ScanSource]") -> "Atlas":
    """The atlas in the form and space of the scans.

    Tables of series need no image of the atlas: its table is enough, unless --space says which one they were
    made with.
    """
    from bjepa.preproc.atlas import load_atlas
    from bjepa.preproc.atlas.spaces import SURFACE_SPACE

    kind = scans[0].kind
    if kind == "series" and args.space is None:
        return load_atlas(args.atlas, space=None, kind="table", labels_tsv=args.atlas_labels)
    space = _one_space(args.space, scans)
    return load_atlas(
        args.atlas,
        space=space,
        kind="cifti" if kind == "dtseries" or space == SURFACE_SPACE else "volume",
        atlas_dir=args.atlas_dir,
        labels_tsv=args.atlas_labels,
    )


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
    from bjepa.preproc.series_tables import SeriesLayout

    fit_on = args.scaling_participants
    return (
        ParticipantOptions(
            space=atlas.space,
            t_r=args.t_r,
            smoothing_fwhm=args.smoothing_fwhm,
            normalise_mean=args.normalise_mean,
            cleaning=CleaningOptions(
                confounds=_confounds(args.confounds, dataset),
                high_pass=args.high_pass,
                low_pass=args.low_pass,
                drop_initial=args.drop_initial,
            ),
            layout=SeriesLayout(
                atlas=args.series_atlas,
                axis=args.series_axis,
                columns=args.series_columns,
                variable=args.series_variable,
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


def _confounds(given: str | None, dataset: "Dataset") -> "str | dict[str, Any]":
    """What is asked for; by default `simple` for images of fMRIPrep and raw runs, not cleaned yet."""
    from bjepa.preproc.strategies import parse_strategy

    kind = dataset.scans[0].kind
    to_clean = kind == "raw" or (dataset.made_by.lower() == "fmriprep" and kind != "series")
    return parse_strategy(given or ("simple" if to_clean else "none"))


def _refuse_unused(args: argparse.Namespace, options: "ParticipantOptions", raw: "RawSetup | None") -> None:
    """Options of the stage participant that are given to the stage group must be those its scans have."""
    from dataclasses import asdict

    from bjepa.preproc.scan_files import read_facts
    from bjepa.preproc.scan_records import scan_paths

    if filters := [name for name in (*FILTERS, "t1_mask") if getattr(args, name)]:
        log.warning(
            "%s: the stage 'group' takes every finished scan of %s.", _options_of(filters), args.output
        )
    paths = scan_paths(args.output)
    defaults = parser()
    of_a_scan = OF_A_SCAN | (raw_fmri.OF_A_SCAN if raw is not None else {})
    given = [name for name in of_a_scan if getattr(args, name) != defaults.get_default(name)]
    if not (given and paths):
        return
    facts = read_facts(Path(paths[0]))
    done = _flat(facts["options"]) | raw_fmri.flat_facts(facts)
    wanted = _flat(asdict(options)) | raw_fmri.flat_setup(raw)
    for name in given:
        key = of_a_scan[name]
        if json.dumps(wanted[key]) != json.dumps(done.get(key)):
            raise InputError(
                f"{_options_of([name])} {getattr(args, name)} belongs to the stage 'participant'; the scans "
                f"of {args.output} were done with {done.get(key)!r}.",
                hint="Run the stage 'participant' with it first, or leave it out.",
            )


def _options_of(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a scan with those of its cleaning and layout beside them."""
    parts = ("cleaning", "layout")
    flat = {k: v for k, v in options.items() if k not in parts}
    for part in parts:
        flat |= {f"{part}.{k}": v for k, v in options.get(part, {}).items()}
    return flat


# --- the stages ---------------------------------------------------------------------------------------------


def _participant_stage(
    args: argparse.Namespace,
    scans: "Sequence[ScanSource]",
    atlas: "Atlas",
    options: "ParticipantOptions",
    raw: "RawSetup | None" = None,
) -> "list[Failure]":
    from tqdm.contrib.logging import logging_redirect_tqdm

    from bjepa.cli._progress import PhaseBar
    from bjepa.preproc.participant_stage import run_participants

    failed = 0
    with PhaseBar() as bar:

        def progress(name: str, failure: "Failure | None") -> None:
            nonlocal failed
            failed += failure is not None
            bar.scan(f"{failed} failed, {name}")

        with logging_redirect_tqdm():
            failures = run_participants(
                scans,
                atlas,
                args.output,
                options,
                n_jobs=args.n_jobs,
                dask=args.dask,
                overwrite=args.overwrite,
                hash_sources=not args.no_source_hash,
                raw=raw,
                begin=bar.begin,
                progress=progress,
            )
    for failure in failures:
        print(f"{PROG}: failed: {failure.message} {failure.hint}", file=sys.stderr)
    log.info("%d of %d scans done, %d failed.", len(scans) - len(failures), len(scans), len(failures))
    return failures


def _group_stage(args: argparse.Namespace, atlas: "Atlas", options: "GroupOptions") -> None:
    """Scaling, shards, tables, report and exports, from what the participant stage has made."""
    from bjepa.cli._progress import PhaseBar
    from bjepa.preproc.exports import write_exports
    from bjepa.preproc.group_stage import run_group
    from bjepa.preproc.report import CohortWatch, write_report

    watch = CohortWatch(atlas.table)
    with PhaseBar() as bar:
        result = run_group(
            atlas,
            args.output,
            options,
            progress=bar.scan,
            phase=bar.begin,
            observer=watch,
        )
        if args.export:
            bar.begin("exports", len(args.export) * len(result.scans))
            written = write_exports(
                args.output, atlas.table, args.export, result.scans, n_jobs=args.n_jobs, progress=bar.scan
            )
            log.info("exported to %s.", ", ".join(map(str, written)))
    write_report(
        args.output,
        atlas,
        result,
        options,
        watch.summary,
        watch.qc_table(),
        told_of_scans=watch.warnings.most_common(),
        told_of_raw=watch.raw,
    )
    log.info(
        "%d scans in %s; look at %s.",
        *(len(result.scans), args.output / "shards", args.output / "report.html"),
    )
