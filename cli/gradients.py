"""bjepa-gradients: from scans, time series or a connectivity matrix to a gradient atlas."""

import argparse
from collections.abc import Sequence
from typing import Any

from bjepa.cli._common import DONE, SOME_FAILED, run
from bjepa.cli._gradients_options import N_PERMUTATIONS, N_SPLITS, PROG, parser
from bjepa.preproc.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(_gradients, parser().parse_args(argv), prog=PROG)


def _gradients(args: argparse.Namespace) -> int:
    from bjepa.cli._progress import PhaseBar
    from bjepa.gradients.pipeline import Asked, make_gradients
    from bjepa.gradients.recipe import GradientOptions
    from bjepa.gradients.report import write_report

    _check_usage(args)
    with PhaseBar(unit="") as bar:
        made = make_gradients(
            args.input,
            args.output,
            GradientOptions(
                n_components=args.n_components,
                sparsity=args.sparsity,
                kernel=args.kernel,
                approach=args.approach,
                alpha=args.alpha,
                diffusion_time=args.diffusion_time,
                scale_by_eigenvalues=args.scale_by_eigenvalues,
                keep_largest=args.keep_largest,
            ),
            asked=Asked(
                align_to=args.align_to,
                alignment=args.alignment or "procrustes",
                cross_check=args.cross_check,
                split_half=args.split_half,
                n_splits=args.n_splits or N_SPLITS,
                compare=args.compare,
                maps=args.maps,
                null=args.null or "auto",
                n_permutations=args.n_permutations or N_PERMUTATIONS,
                seed=args.seed,
                group_by=args.group_by,
                per_participant=args.per_participant,
                surface=args.surface,
            ),
            connectivity=args.connectivity or "pearson",
            weights=args.weights or "equal",
            n_neighbors=args.n_neighbors,
            participants=args.participants,
            atlas_dir=args.atlas_dir,
            hemisphere=args.hemisphere,
            n_jobs=args.n_jobs,
            bar=bar,
            report=write_report,
        )
    _tell(args, made)
    return SOME_FAILED if made.n_failed else DONE


def _check_usage(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other or that would do nothing."""
    if args.alignment in ("procrustes", "joint") and args.align_to is None and args.group_by is None:
        raise InputError(
            f"--alignment {args.alignment} needs --align-to FILE (or --group-by COLUMN): towards what?"
        )
    if args.alignment == "none" and args.align_to is not None:
        raise InputError("--alignment none contradicts --align-to.", hint="Leave one of them out.")
    needs = (("n_splits", "split_half"), ("null", "maps"), ("n_permutations", "maps"))
    for option, needed in needs:
        if getattr(args, option) is not None and not getattr(args, needed):
            raise InputError(f"{_flag(option)} does nothing without {_flag(needed)}.")
    if args.n_jobs == 0:
        raise InputError("--n-jobs must be a number of processes, or -1 for all cores, got 0.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _tell(args: argparse.Namespace, made: Any) -> None:
    n_rois, n_components = made.result.gradients.shape
    print(f"{n_components} gradients of {n_rois} regions: {args.output / 'report.html'}")
    if made.check is not None:
        verdict = "agrees" if made.check["agrees"] else "does NOT agree; report.html says why"
        print(f"BrainSpace {made.check['versions']['brainspace']}: {verdict}")
    if made.alignment is not None:
        r = ", ".join(f"{value:.2f}" for value in made.alignment.r[:3])
        print(f"Aligned to {made.alignment.reference}: r of gradients 1 to {min(3, n_components)} = {r}")
    if made.stability is not None:
        rows = made.stability.table.query("structure == 'all'").head(3)
        told = ", ".join(f"{r.r:.2f} [{r.r_low:.2f}, {r.r_high:.2f}]" for r in rows.itertuples())
        print(f"Between halves of the participants: r = {told}")
