"""The options of bjepa-preprocess, in groups as a user meets them."""

import argparse
from pathlib import Path
from typing import get_args

from bjepa.cli._common import add_atlas_dir, command_parser, number
from bjepa.preproc.atlas import DEFAULT_ATLAS
from bjepa.preproc.exports import EXPORT_KINDS
from bjepa.preproc.inputs.source import XcpdChoice
from bjepa.preproc.resample import TARGET_T_R, Phases, Resampling
from bjepa.preproc.scaling import SCALING_METHODS
from bjepa.preproc.series_tables import Axis

PROG = "bjepa-preprocess"

# options of raw BIDS folders alone -> their defaults
RAW_OPTIONS: dict[str, object] = {
    "template": None,
    "t1_mask": None,
    "allow_no_t1w": False,
    "slice_timing": False,
    "omp_threads": 1,
    "sloppy": False,
}

EXAMPLES = """\
  # fMRIPrep output, all participants, one machine
  bjepa-preprocess derivatives/fmriprep out --space MNI152NLin6Asym

  # XCP-D output: its parcellated tables, mapped by the names of the regions
  bjepa-preprocess derivatives/xcp_d out --atlas schaefer-400

  # a folder of normalised NIfTI files whose headers do not know their TR
  bjepa-preprocess bold/ out --space MNI152NLin6Asym --t-r 2.0 --atlas-dir ~/atlases

  # regional series as regions x frames, the first 400 rows Schaefer-400 in 7-network order
  bjepa-preprocess series/ out --atlas schaefer-400 --series-atlas schaefer-400-7networks \\
      --series-axis roi-by-time --series-columns 1-400 --t-r 2.0

  # raw BIDS: BOLD and T1w as the scanner gave them (pip install 'bjepa[raw]')
  bjepa-preprocess raw/ out --slice-timing --drop-initial auto --n-jobs 4

  # raw BIDS with brain masks of your own, against your own template
  bjepa-preprocess raw/ out --t1-mask 'derivatives/masks/{participant_id}/{t1w}_desc-brain_mask.nii.gz' \\
      --template tpl-MNI152NLin6Asym_desc-brain_T1w.nii.gz

  # what would be done: space, TR, stride and cleaning of each scan
  bjepa-preprocess bold/ out --space MNI152NLin6Asym --dry-run

  # many machines, then one: participants first, the group stage afterwards
  bjepa-preprocess derivatives/fmriprep out participant --participant-label 01 02
  bjepa-preprocess derivatives/fmriprep out group --scaling-participants train.txt

  # is an output folder whole, and what it says it is?
  bjepa-preprocess --check out

exit status: 0 all done; 1 nothing could be done; 2 wrong usage or input; 3 done, but some scans failed
(failures.tsv). Run the same command again to continue: finished scans are kept.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    p = command_parser(
        PROG, "fMRI scans to regional time series, cleaned, resampled, scaled, in HDF5 shards.", EXAMPLES
    )
    p.add_argument(
        "input",
        type=Path,
        nargs="?",
        metavar="INPUT",
        help="fMRIPrep or XCP-D folder, raw BIDS folder, folder of NIfTI or CIFTI files or of tables of "
        "regional series, UK Biobank bulk folder, one such file, or a .tsv manifest with a column 'path'",
    )
    p.add_argument("output", type=Path, nargs="?", metavar="OUTPUT", help="output folder (a BIDS derivative)")
    p.add_argument("stage", nargs="?", choices=("participant", "group"), help="default: both")
    _add_atlas(p.add_argument_group("atlas"))
    _add_series(p.add_argument_group("tables of regional series"))
    _add_time(p.add_argument_group("time"))
    _add_cleaning(p.add_argument_group("cleaning (at the scan's own t_r, regional means kept)"))
    _add_scaling(p.add_argument_group("scaling"))
    _add_choice(p.add_argument_group("which scans"))
    _add_raw(p.add_argument_group("raw BIDS (docs/raw.md)"))
    _add_work(p.add_argument_group("work"))
    return p


def _add_atlas(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--atlas",
        default=DEFAULT_ATLAS,
        help=f"{DEFAULT_ATLAS} (default), schaefer-N (100 to 1000, 17-network order), "
        "schaefer-N-7networks, tian-sK (1 to 4), a composite A+B, or a label image (.nii.gz with "
        "--atlas-labels; .dlabel.nii)",
    )
    group.add_argument(
        "--atlas-labels",
        type=Path,
        metavar="TSV",
        help="table of the label image: columns index, name[, structure hemisphere network7 network17]",
    )
    add_atlas_dir(group)
    group.add_argument(
        "--space",
        help="template space, e.g. MNI152NLin6Asym; default: the space- entity of the file names; raw "
        "BIDS: that of the template",
    )
    group.add_argument(
        "--min-coverage",
        type=number(0, 1),
        default=0.5,
        help="a region with less of its weight inside the data is missing (default: 0.5)",
    )
    group.add_argument(
        "--max-missing",
        type=number(0, 1),
        default=0.05,
        help="a scan with a larger share of missing regions fails (default: 0.05)",
    )


def _add_series(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--series-atlas",
        metavar="ATLAS",
        help="the atlas whose regions the columns are, in its order; default: that of --atlas",
    )
    group.add_argument(
        "--series-axis",
        choices=get_args(Axis),
        default="auto",
        help="what rows and columns are; auto (default): decided by the number of regions, else refused",
    )
    group.add_argument(
        "--series-columns",
        type=_first_to_last,
        metavar="FIRST-LAST",
        help="which regions of the table to take, counted from 1, e.g. 1-400; default: all",
    )
    group.add_argument(
        "--series-variable",
        metavar="NAME",
        help="name of the array in .npz, .mat and .h5 files; default: timeseries, else the only table",
    )


def _add_time(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--t-r",
        type=number(0.01, 60),
        metavar="S",
        help="repetition time in s; default: sidecar, else header if plausible",
    )
    group.add_argument(
        "--target-t-r", type=number(*TARGET_T_R), default=2.0, metavar="S", help="default: 2.0"
    )
    group.add_argument(
        "--resample",
        choices=get_args(Resampling),
        default="stride",
        help="stride (default): every s-th frame, s = max(1, round(target / t_r)), unfiltered; "
        "decimate: anti-aliased, to the exact target; none",
    )
    group.add_argument(
        "--phases",
        choices=get_args(Phases),
        default="all",
        help="of a strided scan keep all s phases as series of their own (default), or the first",
    )


def _add_cleaning(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--confounds",
        metavar="STRATEGY",
        help="what to regress out: none, simple, scrubbing, compcor, ica_aroma (as nilearn's "
        "load_confounds_strategy), 24p, 36p, table (all columns of a manifest's table), or a .json of "
        "load_confounds arguments; "
        "default: simple for fMRIPrep and raw BIDS, else none",
    )
    group.add_argument("--high-pass", type=number(0, 100), metavar="HZ", help="remove what is slower")
    group.add_argument("--low-pass", type=number(0, 100), metavar="HZ", help="remove what is faster")
    group.add_argument(
        "--drop-initial",
        type=_frames_or_auto,
        default=0,
        metavar="N|auto",
        help="initial frames to drop; auto = the non-steady-state frames of fMRIPrep's or our table "
        "(default: 0)",
    )
    group.add_argument(
        "--smoothing-fwhm",
        type=number(0.1, 50),
        metavar="MM",
        help="smooth volumes with a Gaussian of this width first (default: not)",
    )
    group.add_argument(
        "--normalise-mean",
        action="store_true",
        help="multiply each scan by one factor that makes the median of its regional means 10,000 "
        "(removes scanner gain)",
    )


def _add_scaling(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--scaling",
        choices=SCALING_METHODS,
        default="robust",
        help="robust (default): median and IQR of each region over all frames; robust-dynamic: after each "
        "scan's regional mean is removed; robust-means: over the participants' means (as the released "
        "numbers); zscore-scan: mean and SD of each scan",
    )
    group.add_argument(
        "--scaling-participants",
        type=Path,
        metavar="FILE",
        help="participants (one a line) that alone fit the scaling; default: all",
    )


def _add_choice(group: "argparse._ArgumentGroup") -> None:
    for name in ("participant-label", "session-label", "task-id", "run-id"):
        more = "; or one file that lists them" if name == "participant-label" else ""
        group.add_argument(
            f"--{name}", nargs="+", default=[], metavar="LABEL", help=f"with or without prefix{more}"
        )
    group.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="JSON",
        help='as fMRIPrep has it: {"bold": {"task": "rest", "acquisition": ["a", "b"]}}; raw BIDS also "t1w"',
    )
    group.add_argument(
        "--xcpd",
        choices=get_args(XcpdChoice),
        default="auto",
        help="of XCP-D output take the parcellated tables or the denoised images; "
        "auto (default): tables where they hold the atlas",
    )


def _add_raw(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="T1w template to register to, skull-stripped or with its desc-brain_mask beside it, in the "
        "space of its name or of --space; default: the first that is there of TemplateFlow's "
        "MNI152NLin2009cAsym (cached, or downloaded), $FSLDIR's MNI152NLin6Asym, nilearn's (about 1.5 mm "
        "off the atlas)",
    )
    group.add_argument(
        "--t1-mask",
        metavar="FILE-PATTERN",
        help="brain masks of the T1w images, relative to INPUT, with {participant_id} (sub-01), {session}, "
        "{t1w} (name of the T1w image before _T1w) and * ? **; one file each",
    )
    group.add_argument(
        "--allow-no-t1w",
        action="store_true",
        help="register runs without T1w image to the template directly: off by 4 to 5 mm, marked low quality",
    )
    group.add_argument(
        "--slice-timing",
        action="store_true",
        help="shift the slices in time by SliceTiming of the sidecar",
    )
    group.add_argument(
        "--omp-threads",
        type=_one_or_more,
        default=RAW_OPTIONS["omp_threads"],
        metavar="N",
        help="threads of one registration (default: 1, which alone gives the same bytes each time)",
    )
    group.add_argument(
        "--sloppy", action="store_true", help="coarse and quick registrations: for tests, never for data"
    )


def _add_work(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--n-jobs", type=_n_jobs, default=-1, metavar="N", help="processes (default: -1, all cores)"
    )
    group.add_argument(
        "--dask",
        metavar="local|ADDRESS",
        help="do the scans on a Dask cluster instead: on this machine, or at a scheduler's address",
    )
    group.add_argument("--overwrite", action="store_true", help="do finished scans again")
    group.add_argument("--dry-run", action="store_true", help="only list what would be done")
    group.add_argument(
        "--no-source-hash",
        action="store_true",
        help="do not keep the SHA-256 of each input file (saves reading huge sets twice); with --check: do "
        "not compare it",
    )
    group.add_argument(
        "--export",
        nargs="+",
        default=[],
        choices=EXPORT_KINDS,
        metavar="KIND",
        help=f"also write into OUTPUT/exports: {', '.join(EXPORT_KINDS)}",
    )
    group.add_argument(
        "--check",
        type=Path,
        metavar="OUTPUT",
        help="verify an output folder against its format and its hashes, and do nothing else",
    )
    group.add_argument(
        "--check-all",
        action="store_true",
        help="with --check: compare the stored series of every scan with its own file, not of 20",
    )


def _first_to_last(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"must be FIRST-LAST, counted from 1, e.g. 1-400, got {text!r}")
    return int(first), int(last)


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


def _one_or_more(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)
