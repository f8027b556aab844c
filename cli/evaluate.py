"""bjepa-evaluate: embed scans, read a model out, run what it must beat, compare all, and look inside."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bjepa.cli._common import DONE, at_least, command_parser, number, run
from bjepa.cli._evaluate_explain import EXAMPLES as EXPLAIN_EXAMPLES
from bjepa.cli._evaluate_explain import add_explain_options, explain_from_args
from bjepa.cli._evaluate_options import (
    DATA_HELP,
    MODEL_HELP,
    add_command,
    add_device,
    add_gradients,
    add_model,
    add_pooling,
    add_protocol,
    add_training,
    device_of,
    load_named_model,
    names_of,
    protocol_of,
)

PROG = "bjepa-evaluate"
EXAMPLES = """\
  bjepa-evaluate embed RUN OUT --output embedding.h5
  bjepa-evaluate probe RUN OUT participants.tsv --target age --methods fc-ridge,static-mean --output eval
  bjepa-evaluate finetune RUN OUT participants.tsv --target age --output eval-finetuned
  bjepa-evaluate baselines OUT participants.tsv --target sex --methods fc-logistic --output eval-sex
  bjepa-evaluate compare OUT participants.tsv --target age --model RUN --methods fc-ridge,random-encoder \\
      --output eval-all
  bjepa-evaluate explain RUN OUT --participants participants.tsv --target age --output eval-maps

`bjepa-evaluate COMMAND --help` tells the options of each. RUN is what bjepa-train wrote, OUT what
bjepa-preprocess wrote."""
EMBED_EXAMPLES = """\
  bjepa-evaluate embed RUN OUT --output embedding.h5
  bjepa-evaluate embed RUN OUT --pooling network_pairs --output connectivity-of-tokens.h5
  bjepa-evaluate embed RUN/model OUT --output embedding.h5 --device cuda --batch-size 32"""
PROBE_EXAMPLES = """\
  bjepa-evaluate probe RUN OUT participants.tsv --target age --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target age --methods fc-ridge,static-mean --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target age --pooling network_pairs --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target diagnosis --head attentive --output eval
  bjepa-evaluate probe RUN OUT participants.tsv --target age --group family_id --confounds sex,fd_mean \\
      --output eval"""
FINETUNE_EXAMPLES = """\
  bjepa-evaluate finetune RUN OUT participants.tsv --target age --output eval
  bjepa-evaluate finetune RUN OUT participants.tsv --target age --methods scratch,fc-ridge --output eval
  bjepa-evaluate finetune RUN OUT participants.tsv --target diagnosis --lora-rank 8 --n-seeds 3 \\
      --device cuda --precision bfloat16 --output eval"""
BASELINES_EXAMPLES = """\
  bjepa-evaluate baselines OUT participants.tsv --target age --output eval
  bjepa-evaluate baselines OUT participants.tsv --target sex --methods fc-logistic,static-mean --output eval
  bjepa-evaluate baselines OUT participants.tsv --target age --methods fc-ridge,brainnetcnn --output eval
  bjepa-evaluate baselines connectomes.npz participants.tsv --target age --n-splits 10 --output eval
  bjepa-evaluate baselines OUT participants.tsv --target age --leave-out site --output eval"""
COMPARE_EXAMPLES = """\
  bjepa-evaluate compare OUT participants.tsv --target age --model RUN --output eval
  bjepa-evaluate compare OUT participants.tsv --target age --model RUN --model owner/name \\
      --readouts probe,finetune --methods fc-ridge,static-mean,random-encoder,scratch --output eval
  bjepa-evaluate compare OUT participants.tsv --target sex --model RUN --confounds age,fd_mean \\
      --n-permutations 200 --learning-curve --output eval"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run bjepa-evaluate; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.words = [PROG, *words]
    commands = {
        "embed": _embed,
        "probe": _probe,
        "finetune": _finetune,
        "baselines": _baselines,
        "compare": _compare,
        "explain": explain_from_args,
    }
    return run(commands[args.command], args, prog=PROG)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROG, "Read scans with a trained model, and measure honestly what the model is worth.", EXAMPLES
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    _add_embed(add_command(commands, "embed", "one vector per scan, into an .h5 file", EMBED_EXAMPLES))
    _add_probe(add_command(commands, "probe", "predict a target from the frozen model", PROBE_EXAMPLES))
    _add_finetune(add_command(commands, "finetune", "train the model on to a target", FINETUNE_EXAMPLES))
    _add_baselines(add_command(commands, "baselines", "predict a target without a model", BASELINES_EXAMPLES))
    _add_compare(
        add_command(commands, "compare", "models, baselines and controls on one page", COMPARE_EXAMPLES)
    )
    add_explain_options(
        add_command(commands, "explain", "which regions a model attends to and uses", EXPLAIN_EXAMPLES)
    )
    return parser


def _add_embed(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.h5", help="embedding file to write"
    )
    add_pooling(parser)
    add_device(parser)


def _add_one_model(parser: argparse.ArgumentParser) -> None:
    """What `probe` and `finetune` share: a model on data, the protocol, baselines beside it."""
    add_model(parser)
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    add_protocol(parser)
    _add_methods(parser, "baselines to run beside it, under the same splits; default: none")
    add_pooling(parser)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    _add_one_model(parser)
    parser.add_argument(
        "--head",
        choices=("linear", "released", "attentive"),
        default="linear",
        help="linear: ridge or logistic regression; released: batch norm and a linear layer trained by LARS, "
        "as the released code; attentive: a learned query attends to the tokens (no --pooling); "
        "default: linear",
    )
    add_device(parser)
    add_training(parser)


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    _add_one_model(parser)
    add_training(parser)
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--epochs", type=at_least(1), metavar="N", help="of the schedule; default: 50")
    group.add_argument("--lr", type=number(1e-9, 10), metavar="RATE", help="peak rate; default: 0.001")
    group.add_argument(
        "--layer-decay",
        type=number(1e-3, 1),
        default=0.75,
        metavar="X",
        help="rate of a layer over that of the next one; default: 0.75",
    )
    group.add_argument(
        "--lora-rank", type=at_least(1), metavar="R", help="train changes of rank R in place of all weights"
    )
    group.add_argument(
        "--patience", type=at_least(1), metavar="N", help="epochs without a better validation; default: 15"
    )
    group.add_argument(
        "--n-seeds", type=at_least(1), default=1, metavar="N", help="fits that are averaged; default: 1"
    )
    group.add_argument("--accumulate", type=at_least(1), metavar="N", help="batches an update; default: 1")
    group.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    group.add_argument("--batch-size", type=at_least(1), metavar="N", help="windows a batch; default: 16")


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help=f"{DATA_HELP}, or an .npz with fc (n, R, R) and participant_id",
    )
    add_protocol(parser)
    _add_methods(parser, "default: the quick ones that suit task and data")
    parser.add_argument("--learning-curve", action="store_true", help="scores of fewer participants too")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    add_training(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    add_protocol(parser)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        dest="models",
        help=f"{MODEL_HELP}; may be given several times",
    )
    add_gradients(parser)
    parser.add_argument(
        "--readouts",
        default="probe",
        metavar="A,B",
        help="of each model: probe, probe-POOLING (see probe --help), released-probe, attentive-probe, "
        "finetune, lora; default: probe",
    )
    _add_methods(
        parser,
        "baselines and controls; default: the quick ones that suit the task, and for each readout the same "
        "without pretraining (random-encoder, scratch)",
    )
    parser.add_argument("--learning-curve", action="store_true", help="scores of fewer participants too")
    add_device(parser)
    add_training(parser)


def _add_methods(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--methods", metavar="A,B", help=f"{METHOD_NAMES}; {default}")


METHOD_NAMES = (
    "static-mean, fc-ridge, fc-logistic, fc-svm, fc-krr, tangent-ridge, tangent-logistic, coskew-ridge, "
    "coskew-logistic, brainnetcnn, bnt, braingnn, brainlm, brainmass, scratch, random-encoder, "
    "random-encoder-POOLING"
)


def _embed(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_embed

    run_embed(
        load_named_model(args.model, args),
        args.data,
        args.output,
        pooling=args.pooling,
        batch_size=args.batch_size,
        device=device_of(args),
    )
    return DONE


def _probe(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_probe

    run_probe(
        args.model,
        load_named_model(args.model, args),
        args.data,
        protocol_of(args, device=device_of(args)),
        args.output,
        methods=names_of("--methods", args.methods) or (),
        pooling=args.pooling,
        head=args.head,
        batch_size=args.batch_size,
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE


def _finetune(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_finetune

    given = {
        name: getattr(args, name)
        for name in ("epochs", "lr", "patience", "accumulate", "precision", "batch_size")
        if getattr(args, name) is not None
    }
    run_finetune(
        args.model,
        load_named_model(args.model, args),
        args.data,
        protocol_of(args, device=device_of(args)),
        args.output,
        methods=names_of("--methods", args.methods) or (),
        pooling=args.pooling,
        settings=given,
        layer_decay=args.layer_decay,
        lora_rank=args.lora_rank,
        n_seeds=args.n_seeds,
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE


def _baselines(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_baselines

    run_baselines(
        args.data,
        protocol_of(args, device=device_of(args)),
        args.output,
        methods=names_of("--methods", args.methods),
        learning_curves=args.learning_curve,
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE


def _compare(args: argparse.Namespace) -> int:
    from bjepa.model.evaluation.commands import run_compare

    run_compare(
        {name: load_named_model(name, args) for name in args.models},
        args.data,
        protocol_of(args, device=device_of(args)),
        args.output,
        readouts=names_of("--readouts", args.readouts) or (),
        methods=names_of("--methods", args.methods),
        learning_curves=args.learning_curve,
        batch_size=args.batch_size,
        command=args.words,
    )
    print(args.output / "report.html")
    return DONE
