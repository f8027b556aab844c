"""bjepa-train: from shards and gradients to a trained model."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bjepa.cli._common import DONE, NOTHING_DONE, command_parser, run
from bjepa.model.config import RECIPES
from bjepa.preproc.errors import InputError

PROG = "bjepa-train"
EXAMPLES = """\
  # a small model, minutes on a laptop
  bjepa-train demo --data derivatives/bjepa --gradients derivatives/bjepa/gradients/gradients.csv --output run

  # go on after a crash or a time limit (starts if there is nothing yet: the same line for every job)
  bjepa-train vit_base --data derivatives/bjepa --gradients gradients.csv --output run --resume

  # change settings; see all of them
  bjepa-train vit_small --set train.epochs=100 --set model.n_frames=96 --print-config

  # several GPUs of one machine
  torchrun --nproc-per-node=gpu --no-python bjepa-train vit_large --set train.parallel=fsdp ...

  # learn from the training set only, with a recipe of your own
  bjepa-train my_recipe.toml --data out --gradients gradients.csv --output run --participants train.tsv"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    args.command_line = [PROG, *given]
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process tells for all
        args.log_level = "error"
    return run(_train, args, prog=PROG)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROG,
        "Pretrain a Brain-JEPA model on the output of bjepa-preprocess.\n"
        "Writes a run folder: config.toml, run.json, metrics.jsonl, report.html, checkpoints/, model/.",
        EXAMPLES,
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(RECIPES)}, or a TOML file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="output folder of bjepa-preprocess")
    parser.add_argument(
        "--gradients", type=Path, metavar="FILE", help="gradients.csv, .tsv or .h5 of the same atlas"
    )
    parser.add_argument("--output", type=Path, metavar="RUN", help="the run's folder; must be empty")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="settings",
        help="change a key of the recipe; may be given again",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in RUN, or start it if RUN is empty"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--participants",
        type=Path,
        metavar="FILE",
        help="learn from these only: one id a line, or a .tsv with participant_id",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the recipe with all its keys as TOML, and stop"
    )
    return parser


def _train(args: argparse.Namespace) -> int:
    if args.print_config:
        from bjepa.model.config import load_recipe, recipe_to_toml

        print(recipe_to_toml(load_recipe(args.recipe, settings=args.settings)), end="")
        return DONE
    missing = [f"--{name}" for name in ("data", "gradients", "output") if getattr(args, name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} must be given (only --print-config works without).")

    from bjepa.model.trainer import TrainingStopped, train

    try:
        train(
            args.recipe,
            data=args.data,
            gradients=args.gradients,
            output=args.output,
            settings=args.settings,
            resume=args.resume,
            device=args.device,
            participants=args.participants,
            command=args.command_line,
        )
    except TrainingStopped as error:
        logging.getLogger(PROG).error("%s", error)
        return NOTHING_DONE
    return DONE
