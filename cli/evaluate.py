"""bjepa-evaluate: embed scans, probe the embedding, and run the baselines that it must beat."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bjepa.cli._common import DONE, LOG_LEVELS, at_least, command_parser, run

if TYPE_CHECKING:
    from bjepa.model.evaluation.evaluate import Protocol

PROG = "bjepa-evaluate"
EXAMPLES = """\
  bjepa-evaluate embed RUN OUT --output embedding.h5
  bjepa-evaluate probe RUN OUT participants.tsv --target age --methods fc-ridge,static-mean --output eval
  bjepa-evaluate baselines OUT participants.tsv --target sex --methods fc-logistic --output eval-sex
  bjepa-evaluate baselines connectomes.npz participants.tsv --target age --output eval-age

`bjepa-evaluate COMMAND --help` tells the options of each. RUN is what bjepa-train wrote, OUT what
bjepa-preprocess wrote."""
EMBED_EXAMPLES = """\
  bjepa-evaluate embed RUN OUT --output embedding.h5
  bjepa-evaluate embed RUN/model OUT --output embedding.h5 --device cuda --batch-size 32"""
PROBE_EXAMPLES = """\
  bjepa-evaluate probe RUN OUT participants.tsv --target age --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target age --methods fc-ridge,static-mean --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target diagnosis --group family_id --output eval"""
BASELINES_EXAMPLES = """\
  bjepa-evaluate baselines OUT participants.tsv --target age --output eval
  bjepa-evaluate baselines OUT participants.tsv --target sex --methods fc-logistic,static-mean --output eval
  bjepa-evaluate baselines connectomes.npz participants.tsv --target age --n-splits 10 --output eval"""
MODEL_HELP = "run folder of bjepa-train, its folder 'model', or owner/name of the Hugging Face Hub"
DATA_HELP = "output folder of bjepa-preprocess"


def main(argv: Sequence[str] | None = None) -> int:
    """Run bjepa-evaluate; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.words = [PROG, *words]
    commands = {"embed": _embed, "probe": _probe, "baselines": _baselines}
    return run(commands[args.command], args, prog=PROG)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROG, "Embed scans with a trained model, and measure what the embedding is worth.", EXAMPLES
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )

    embed = _command(commands, "embed", "one vector per scan, into an .h5 file", EMBED_EXAMPLES)
    _add_model(embed)
    embed.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    embed.add_argument(
        "--output", type=Path, required=True, metavar="FILE.h5", help="embedding file to write"
    )
    _add_device(embed)

    probe = _command(commands, "probe", "predict a target from the frozen embedding", PROBE_EXAMPLES)
    _add_model(probe)
    probe.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    _add_protocol(probe)
    probe.add_argument(
        "--methods",
        metavar="A,B",
        help="baselines to run beside the probe, under the same splits; default: none",
    )
    _add_device(probe)

    baselines = _command(commands, "baselines", "predict a target without a model", BASELINES_EXAMPLES)
    baselines.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help=f"{DATA_HELP}, or an .npz with fc (n, R, R) and participant_id",
    )
    _add_protocol(baselines)
    baselines.add_argument(
        "--methods",
        metavar="A,B",
        help="static-mean, fc-ridge, fc-logistic; default: all that suit task and data",
    )
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
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


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=8, metavar="N", help="windows at a time; default: 8"
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--group",
        default="participant_id",
        metavar="COLUMN",
        help="participants with the same value stay on one side of each split; default: participant_id",
    )
    parser.add_argument("--n-splits", type=int, metavar="K", help="folds, 3 or more; default: 5")
    parser.add_argument("--seed", type=int, metavar="S", help="of the splits; default: 0")
    parser.add_argument(
        "--splits", type=Path, metavar="FILE", help="reuse this splits.tsv (no --n-splits, no --seed)"
    )


def _embed(args: argparse.Namespace) -> int:
    from bjepa.model import load_model
    from bjepa.model.device import choose_device
    from bjepa.model.evaluation.commands import run_embed

    run_embed(
        load_model(args.model),
        args.data,
        args.output,
        batch_size=args.batch_size,
        device=str(choose_device(args.device)),
    )
    return DONE


def _probe(args: argparse.Namespace) -> int:
    from bjepa.model import load_model
    from bjepa.model.device import choose_device
    from bjepa.model.evaluation.commands import run_probe

    run_probe(
        load_model(args.model),
        args.data,
        _protocol(args),
        args.output,
        methods=_names(args.methods) or (),
        batch_size=args.batch_size,
        device=str(choose_device(args.device)),
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE


def _baselines(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_baselines

    run_baselines(args.data, _protocol(args), args.output, methods=_names(args.methods), command=args.words)
    print(args.output / "report.html")
    return DONE


def _protocol(args: argparse.Namespace) -> "Protocol":
    from bjepa.model.evaluation.evaluate import Protocol
    from bjepa.preproc.errors import InputError

    if args.splits is not None and (args.n_splits is not None or args.seed is not None):
        raise InputError(
            "--splits was given with --n-splits or --seed, which it would ignore.",
            hint="The file decides the folds: leave the other two out.",
        )
    return Protocol(
        participants=args.participants,
        target=args.target,
        task=args.task,
        group=args.group,
        n_splits=5 if args.n_splits is None else args.n_splits,
        seed=0 if args.seed is None else args.seed,
        splits=args.splits,
    )


def _names(methods: str | None) -> list[str] | None:
    if methods is None:
        return None
    from bjepa.preproc.errors import InputError

    names = [name.strip() for name in methods.split(",")]
    if not all(names):
        raise InputError(
            f"--methods must be names between commas, got {methods!r}.", hint="fc-ridge,static-mean"
        )
    return names
