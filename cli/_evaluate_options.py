"""Options of bjepa-evaluate that several of its commands share, and what becomes of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bjepa.cli._common import LOG_LEVELS, at_least
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.model import JEPA
    from bjepa.model.evaluation.evaluate import Protocol

DATA_HELP = "output folder of bjepa-preprocess"
MODEL_HELP = (
    "run folder of bjepa-train, its folder 'model', owner/name of the Hugging Face Hub, or a checkpoint of "
    "the released code (with --gradients)"
)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A parser for one command, with its examples as written."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # also after the command's name; SUPPRESS leaves what was said before it
    parser.add_argument("--log-level", choices=LOG_LEVELS, default=argparse.SUPPRESS, help="default: info")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, and what a checkpoint of the released code does not say itself."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_gradients(parser)


def add_gradients(parser: argparse.ArgumentParser) -> None:
    """`--gradients` and `--num-heads`, for a checkpoint of the released code."""
    parser.add_argument(
        "--gradients",
        type=Path,
        metavar="FILE",
        help="gradient table (CSV, regions x gradients) that a checkpoint of the released code was trained "
        "with; other models bring theirs",
    )
    parser.add_argument(
        "--num-heads",
        type=at_least(1),
        metavar="N",
        help="attention heads of such a checkpoint; default: those of ViT-S, ViT-B or ViT-L by its width",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--batch-size`."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=8, metavar="N", help="windows read at a time; default: 8"
    )


def add_pooling(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """`--pooling` of a window's tokens."""
    parser.add_argument(
        "--pooling",
        choices=("mean", "network", "region", "region_pairs", "network_pairs", "network_log"),
        default="mean",
        help="mean: over all tokens, as the paper; network, region: over those of each; region_pairs, "
        "network_pairs: correlations of their tokens (what fluctuates together); network_log: the logarithm "
        "of the networks' covariance; default: mean",
    )


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """PARTICIPANTS, the target, the splits, confounds and permutations: what all methods share."""
    parser.add_argument(
        "participants", type=Path, metavar="PARTICIPANTS", help="participants.tsv (participant_id, target, …)"
    )
    parser.add_argument("--target", required=True, metavar="COLUMN", help="column of PARTICIPANTS to predict")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for tables and report"
    )
    parser.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        default="auto",
        help="auto: regression for numbers with more than 10 distinct values; default: auto",
    )
    splits = parser.add_argument_group("splits, the same for all methods")
    splits.add_argument(
        "--group",
        default="participant_id",
        metavar="COLUMN",
        help="participants with the same value stay on one side of each split; default: participant_id",
    )
    splits.add_argument(
        "--scheme",
        choices=("k-fold", "holdout"),
        help="k-fold: each participant is tested once; holdout: 60 / 20 / 20 %% drawn anew for each split "
        "(the paper's way); default: k-fold",
    )
    splits.add_argument("--n-splits", type=int, metavar="K", help="folds (3 or more) or draws; default: 5")
    splits.add_argument(
        "--n-repeats", type=at_least(1), metavar="N", help="k-fold: that often, with new folds; default: 1"
    )
    splits.add_argument(
        "--leave-out", metavar="COLUMN", help="test on one value of COLUMN (a site) at a time; no folds"
    )
    splits.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="default: 0")
    splits.add_argument(
        "--splits", type=Path, metavar="FILE", help="reuse this splits.tsv, in place of drawing splits"
    )
    honesty = parser.add_argument_group("what else might explain it")
    honesty.add_argument(
        "--confounds",
        metavar="A,B",
        help="columns of PARTICIPANTS, or fd_mean, tsnr_median, t_r, n_frames of the scans: each method is "
        "run with and without them regressed out inside the folds, and the confounds alone as a control",
    )
    honesty.add_argument(
        "--n-permutations",
        type=at_least(0),
        default=0,
        metavar="N",
        help="refit quick methods to N permuted targets for a p-value; default: 0",
    )


def add_training(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """What bounds the methods that train a network."""
    parser.add_argument(
        "--max-epochs",
        type=at_least(1),
        metavar="N",
        help="methods that train a network stop here at the latest; default: as each method says",
    )


def protocol_of(args: argparse.Namespace, *, device: str = "cpu") -> "Protocol":
    """The protocol that the options describe. Raises InputError where one would be ignored."""
    from bjepa.model.evaluation.evaluate import Protocol

    drawn = {"--n-splits": args.n_splits, "--scheme": args.scheme, "--n-repeats": args.n_repeats}
    if args.splits is not None:
        _refuse_ignored("--splits", {**drawn, "--leave-out": args.leave_out}, "The file decides the splits")
    if args.leave_out is not None:
        _refuse_ignored("--leave-out", drawn, "Each value of the column is one split")
    if args.scheme == "holdout":
        _refuse_ignored("--scheme holdout", {"--n-repeats": args.n_repeats}, "Use --n-splits for more draws")
    return Protocol(
        participants=args.participants,
        target=args.target,
        task=args.task,
        group=args.group,
        n_splits=5 if args.n_splits is None else args.n_splits,
        seed=args.seed,
        scheme="leave-out" if args.leave_out is not None else args.scheme or "k-fold",
        n_repeats=args.n_repeats or 1,
        leave_out=args.leave_out,
        splits=args.splits,
        confounds=tuple(names_of("--confounds", args.confounds) or ()),
        n_permutations=args.n_permutations,
        device=device,
        max_epochs=getattr(args, "max_epochs", None),
    )


def _refuse_ignored(option: str, others: dict[str, object], why: str) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(
            f"{option} was given with {' and '.join(given)}, which it would ignore.",
            hint=f"{why}: leave the other out.",
        )


def names_of(option: str, text: str | None) -> list[str] | None:
    """Names between commas; None where the option was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"{option} must be names between commas, got {text!r}.", hint="For example A,B.")
    return names


def load_named_model(name: str, args: argparse.Namespace) -> "JEPA":
    """A model by what MODEL may be, with the options of `add_gradients`."""
    from bjepa.model.readouts.load import load_evaluated_model

    return load_evaluated_model(name, gradients=args.gradients, num_heads=args.num_heads)


def device_of(args: argparse.Namespace) -> str:
    """The device that `--device` names; `auto` takes the best there is."""
    from bjepa.model.device import choose_device

    return str(choose_device(args.device))
