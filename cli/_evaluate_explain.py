"""Options of `bjepa-evaluate explain`, and how they become a run."""

import argparse
from pathlib import Path

from bjepa.cli._common import DONE, at_least
from bjepa.cli._evaluate_options import (
    DATA_HELP,
    add_device,
    add_model,
    add_pooling,
    add_training,
    device_of,
    load_named_model,
)

EXAMPLES = """\
  bjepa-evaluate explain RUN OUT --output explain
  bjepa-evaluate explain RUN OUT --layer all --limit 50 --output explain
  bjepa-evaluate explain RUN OUT --participants participants.tsv --target age --output explain-age
  bjepa-evaluate explain RUN OUT --participants participants.tsv --target sex --attribution \\
      integrated-gradients,occlusion --baseline participants --output explain-sex"""


def add_explain_options(parser: argparse.ArgumentParser) -> None:
    """All that follows `explain`."""
    add_model(parser)
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for tables, pictures and report"
    )
    parser.add_argument(
        "--participants",
        type=Path,
        metavar="FILE",
        help="participants.tsv that holds the target; without --target a list of those to explain; "
        "default: everyone with a scan",
    )
    parser.add_argument(
        "--limit",
        type=at_least(1),
        metavar="N",
        help="explain at most N participants, drawn by --seed; default: all",
    )
    parser.add_argument(
        "--layer",
        default="last",
        metavar="last|all|N",
        help="whose attention is shown, from 1; default: last",
    )

    prediction = parser.add_argument_group("attribution of a prediction")
    prediction.add_argument(
        "--target",
        metavar="COLUMN",
        help="column of --participants to predict from the frozen embedding, and to attribute to regions; "
        "default: attention alone",
    )
    prediction.add_argument(
        "--head",
        choices=("linear", "finetune"),
        default="linear",
        help="linear: ridge or logistic regression on the frozen, pooled tokens; finetune: the model "
        "fine-tuned in each split; default: linear",
    )
    add_pooling(prediction)
    add_training(prediction)
    prediction.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        default="auto",
        help="auto: regression for numbers with more than 10 distinct values; default: auto",
    )
    prediction.add_argument(
        "--class",
        dest="target_class",
        metavar="NAME",
        help="class whose output is explained; default: the last in order",
    )
    prediction.add_argument(
        "--group",
        default="participant_id",
        metavar="COLUMN",
        help="participants with the same value stay on one side of each split; default: participant_id",
    )
    prediction.add_argument(
        "--n-splits", type=at_least(3), default=5, metavar="K", help="folds, 3 or more; default: 5"
    )
    prediction.add_argument(
        "--attribution",
        default="integrated-gradients",
        metavar="A,B",
        help="integrated-gradients, occlusion (a pass for each region); default: integrated-gradients",
    )
    prediction.add_argument(
        "--baseline",
        choices=("auto", "median", "participants"),
        default="auto",
        help="what a region is compared with: its median, or windows of other participants; auto: the latter "
        "for poolings of pairs; default: auto",
    )
    prediction.add_argument(
        "--n-steps",
        type=at_least(2),
        default=8,
        metavar="N",
        help="points on the path of integrated gradients; default: 8",
    )

    check = parser.add_argument_group("sanity check")
    check.add_argument(
        "--sanity",
        choices=("cascade", "complete", "none"),
        default="cascade",
        help="weights drawn anew from the top in steps, all at once, or no check; default: cascade",
    )
    check.add_argument(
        "--sanity-participants",
        type=at_least(2),
        default=10,
        metavar="N",
        help="participants on whom it is checked, drawn by --seed; default: 10",
    )
    check.add_argument(
        "--sanity-draws", type=at_least(1), default=3, metavar="N", help="draws of new weights; default: 3"
    )

    parser.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="default: 0")
    add_device(parser)


def explain_from_args(args: argparse.Namespace) -> int:
    """Run it; the exit status. `args.words` is the command line."""
    from bjepa.model.explain.options import ExplainOptions
    from bjepa.model.explain.run import run_explain

    options = ExplainOptions(
        layer=args.layer,
        limit=args.limit,
        seed=args.seed,
        batch_size=args.batch_size,
        head=args.head,
        pooling=args.pooling,
        max_epochs=args.max_epochs,
        task=args.task,
        group=args.group,
        n_splits=args.n_splits,
        target_class=args.target_class,
        attribution=tuple(name.strip() for name in args.attribution.split(",")),
        baseline=args.baseline,
        n_steps=args.n_steps,
        sanity=args.sanity,
        sanity_participants=args.sanity_participants,
        sanity_draws=args.sanity_draws,
    )
    run_explain(
        load_named_model(args.model, args),
        args.data,
        args.output,
        participants=args.participants,
        target=args.target,
        options=options,
        device=device_of(args),
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE
