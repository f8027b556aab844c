"""The options of bjepa-gradients, in groups as a user meets them."""

import argparse
from pathlib import Path

from bjepa.cli._common import add_atlas_dir, at_least, command_parser

PROG = "bjepa-gradients"
# as bjepa.gradients has them (tested); importing it would make --help slow
KERNELS = ("normalized_angle", "cosine", "pearson", "spearman", "gaussian")
APPROACHES = ("dm", "le", "pca")
CONNECTIVITY = ("pearson", "ledoit-wolf", "partial", "tangent")
WEIGHTS = ("equal", "frames")
HEMISPHERES = ("L", "R")
NULLS = ("auto", "spin", "variogram")
N_SPLITS, N_PERMUTATIONS = 100, 1000

EXAMPLES = """\
  # gradients of a preprocessed study, checked against BrainSpace, with their split-half stability
  bjepa-gradients derivatives/bjepa derivatives/bjepa/gradients --cross-check --split-half --surface

  # turned towards the published HCP gradients (Schaefer parcels), so that gradient 1 is the known one
  bjepa-gradients derivatives/bjepa out --align-to hcp

  # only the participants of the training set, turned towards gradients made before
  bjepa-gradients derivatives/bjepa out --participants train.tsv --align-to group/gradients.h5

  # one set per diagnosis and one per participant, all aligned to the whole group
  bjepa-gradients derivatives/bjepa out --group-by diagnosis --per-participant

  # are these maps related to the gradients, more than smoothness explains?
  bjepa-gradients derivatives/bjepa out --maps myelin_thickness.tsv --null spin

  # a connectivity matrix of your own, ten components, compared with somebody's file
  bjepa-gradients mean_fc.csv out --n-components 10 --compare theirs.csv

  # one hemisphere at 32,492 vertices: each keeps its 300 nearest neighbours
  bjepa-gradients sub-01_hemi-L_bold.func.gii out --n-neighbors 300

exit status: 0 done; 2 wrong usage or input (nothing is written); 3 done, but some participants of
--per-participant have no gradients (failures.tsv).
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    p = command_parser(
        PROG,
        "Connectivity gradients: functional connectivity, affinity, diffusion map; exact and cross-checked.\n"
        "Writes gradients.csv, .tsv, .h5, .nii.gz (if the atlas is a volume), eigenvalues.tsv, report.html.",
        EXAMPLES,
    )
    p.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help="output folder of bjepa-preprocess; folder or file of time series; or a square connectivity "
        "matrix (.npy .npz .csv .tsv .h5); series also .func.gii .dtseries.nii",
    )
    p.add_argument("output", metavar="OUTPUT", type=Path, help="folder for the results")
    _add_scans(p.add_argument_group("scans and their connectivity"))
    _add_gradients(p.add_argument_group("gradients"))
    _add_alignment(p.add_argument_group("alignment"))
    _add_quality(p.add_argument_group("how good are they?"))
    _add_more(p.add_argument_group("more results"))
    _add_work(p.add_argument_group("work"))
    return p


def _add_scans(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--participants",
        type=Path,
        metavar="FILE",
        help="use these only: a table with a column participant_id, or one id per line",
    )
    group.add_argument(
        "--hemisphere",
        choices=HEMISPHERES,
        help="of surface files (.func.gii, .dtseries.nii); default: all that they hold",
    )
    group.add_argument(
        "--connectivity",
        choices=CONNECTIVITY,
        help="of a scan: Pearson r (default), r of the Ledoit-Wolf covariance, partial correlation of it; "
        "or the geometric mean of the covariances of all scans (tangent)",
    )
    group.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="of a scan in the mean: all the same (default), or by its frames",
    )


def _add_gradients(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--n-components", type=int, default=30, metavar="N", help="default: 30")
    group.add_argument(
        "--sparsity",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="share of every row of the connectivity that is set to zero, in [0, 1); default: 0.9",
    )
    group.add_argument("--kernel", choices=KERNELS, default=KERNELS[0], help=f"default: {KERNELS[0]}")
    group.add_argument(
        "--approach",
        choices=APPROACHES,
        default="dm",
        help="diffusion map (default), Laplacian eigenmaps, or principal components of the affinity",
    )
    group.add_argument("--alpha", type=float, help="dm: density normalisation, 0 to 1; default: 0.5")
    group.add_argument(
        "--diffusion-time", type=float, metavar="T", help="dm: 0 (all times) or a number; default: 0"
    )
    group.add_argument(
        "--scale-by-eigenvalues",
        type=_true_or_false,
        metavar="true|false",
        help="dm: length of a component by its eigenvalue; false: plain eigenvectors; default: true",
    )
    group.add_argument(
        "--keep-largest",
        action="store_true",
        help="where the graph of regions falls apart: gradients of its largest piece; others have none",
    )
    group.add_argument(
        "--n-neighbors",
        type=at_least(2),
        metavar="K",
        help="for vertices: of each row of the affinity keep the K largest, in bounded memory; "
        "default: all (a dense matrix)",
    )


def _add_alignment(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--align-to",
        metavar="FILE",
        help="gradients (.csv .tsv .h5) to turn the result towards, or the word hcp: those of the Human "
        "Connectome Project that BrainSpace ships (Schaefer parcels, 100 to 400)",
    )
    group.add_argument(
        "--alignment",
        choices=("procrustes", "joint", "none"),
        help="how: turn (procrustes, default), or embed both together (joint: the file must be a "
        "gradients.h5); also of --group-by towards the whole group",
    )


def _add_quality(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cross-check", action="store_true", help="compare with BrainSpace: cross_check.json, in the report"
    )
    group.add_argument(
        "--split-half",
        action="store_true",
        help="stability between random halves of the participants, with intervals: stability.tsv",
    )
    group.add_argument(
        "--n-splits", type=at_least(2), metavar="N", help=f"of --split-half; default: {N_SPLITS}"
    )
    group.add_argument(
        "--compare", type=Path, metavar="FILE", help="gradients of others: agreement per component"
    )
    group.add_argument(
        "--maps",
        type=Path,
        metavar="FILE",
        help="table with one row a region and a column per map: correlated with the gradients, p-values by "
        "a spatial null model of BrainSpace",
    )
    group.add_argument("--null", choices=NULLS, help="of --maps; default: spin on cortex, else variogram")
    group.add_argument(
        "--n-permutations", type=at_least(19), metavar="N", help=f"of --maps; default: {N_PERMUTATIONS}"
    )
    group.add_argument(
        "--seed", type=at_least(0), default=0, help="of the splits and permutations; default: 0"
    )


def _add_more(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--group-by",
        metavar="COLUMN",
        help="also gradients of each group: a column of --participants or of participants.tsv, or session, "
        "task, run; into OUTPUT/groups",
    )
    group.add_argument(
        "--per-participant",
        action="store_true",
        help="also gradients of each participant, aligned to the group: individuals.h5, individuals.tsv",
    )
    group.add_argument(
        "--surface", action="store_true", help="also pictures of the cortical surface (half a minute)"
    )


def _add_work(group: "argparse._ArgumentGroup") -> None:
    add_atlas_dir(group)
    group.add_argument(
        "--n-jobs", type=int, default=-1, metavar="N", help="processes; default: -1, all cores"
    )


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"
