"""bjepa-gradients: from scans, time series or a connectivity matrix to a gradient atlas."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bjepa.cli._common import DONE, add_atlas_dir, command_parser, run

PROG = "bjepa-gradients"
KERNELS = ("normalized_angle", "cosine", "pearson", "spearman", "gaussian")  # as gradients.affinity (tested)
EXAMPLES = """\
  # gradients of a preprocessed study, checked against BrainSpace
  bjepa-gradients derivatives/bjepa derivatives/bjepa/gradients --cross-check

  # only the participants of the training set, turned towards gradients made before
  bjepa-gradients derivatives/bjepa out --participants train.tsv --align-to group/gradients.csv

  # a connectivity matrix of your own, ten components
  bjepa-gradients mean_fc.csv out --n-components 10

  # a folder with one table of series per scan (rows are frames, columns regions)
  bjepa-gradients xcp_d_timeseries/ out --kernel cosine --sparsity 0.8"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(_gradients, _parser().parse_args(argv), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROG,
        "Compute connectivity gradients (diffusion map of the affinity of functional connectivity).\n"
        "Writes gradients.csv, .tsv, .h5, .nii.gz (if the atlas is a volume), eigenvalues.tsv, report.html.",
        EXAMPLES,
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help="output folder of bjepa-preprocess; folder or file of time series; or a square connectivity "
        "matrix (.npy .npz .csv .tsv .h5)",
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder for the results")
    parser.add_argument("--n-components", type=int, default=30, metavar="N", help="default: 30")
    parser.add_argument(
        "--sparsity",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="share of every row of the connectivity that is set to zero, in [0, 1); default: 0.9",
    )
    parser.add_argument(
        "--kernel", choices=KERNELS, default="normalized_angle", help="default: normalized_angle"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="density normalisation, 0 to 1; default: 0.5"
    )
    parser.add_argument(
        "--diffusion-time", type=float, default=0, metavar="T", help="0 (all times) or a number; default: 0"
    )
    parser.add_argument(
        "--scale-by-eigenvalues",
        type=_true_or_false,
        default=True,
        metavar="true|false",
        help="length of a component by its eigenvalue; false: plain eigenvectors; default: true",
    )
    parser.add_argument(
        "--align-to", type=Path, metavar="FILE", help="gradients (.csv .tsv .h5) to turn the result towards"
    )
    parser.add_argument(
        "--alignment",
        choices=("procrustes", "none"),
        help="how to turn them; default: procrustes with --align-to, none without",
    )
    parser.add_argument(
        "--participants",
        type=Path,
        metavar="FILE",
        help="use these only: a table with a column participant_id, or one id per line",
    )
    add_atlas_dir(parser)
    parser.add_argument(
        "--cross-check", action="store_true", help="compare with BrainSpace: cross_check.json, in the report"
    )
    return parser


def _gradients(args: argparse.Namespace) -> int:
    from bjepa.gradients.pipeline import make_gradients
    from bjepa.gradients.recipe import GradientOptions
    from bjepa.gradients.report import write_report
    from bjepa.preproc.errors import InputError

    if args.alignment == "procrustes" and args.align_to is None:
        raise InputError("--alignment procrustes needs --align-to FILE.")
    if args.alignment == "none" and args.align_to is not None:
        raise InputError("--alignment none contradicts --align-to.", hint="Leave one of them out.")
    made = make_gradients(
        args.input,
        args.output,
        GradientOptions(
            n_components=args.n_components,
            sparsity=args.sparsity,
            kernel=args.kernel,
            alpha=args.alpha,
            diffusion_time=args.diffusion_time,
            scale_by_eigenvalues=args.scale_by_eigenvalues,
        ),
        align_to=args.align_to,
        participants=args.participants,
        atlas_dir=args.atlas_dir,
        with_cross_check=args.cross_check,
        progress=_progress_bar,
        report=write_report,
    )
    n_rois, n_components = made.result.gradients.shape
    print(f"{n_components} gradients of {n_rois} regions: {args.output / 'report.html'}")
    if made.check is not None:
        verdict = "agrees" if made.check["agrees"] else "does NOT agree; report.html says why"
        print(f"BrainSpace {made.check['versions']['brainspace']}: {verdict}")
    return DONE


def _progress_bar(maps: Iterable[Any], n_scans: int) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(
        maps, total=n_scans, desc="connectivity", unit="scan", disable=None, file=sys.stderr
    )
    return bar


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"
