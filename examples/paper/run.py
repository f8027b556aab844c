"""The tables of the Brain-JEPA paper as recipes that run on your own data.

    python examples/paper/run.py examples/paper/demographics.toml \\
        --data OUT --participants participants.tsv --gradients OUT/gradients/gradients.csv --output tables

OUT is an output folder of bjepa-preprocess. Every row of a recipe is a call of bjepa-train or
bjepa-evaluate, printed before it runs; rows that are finished are kept, so the same command goes on where it
stopped. All rows of a column are scored on the same splits, which is checked by their hash. The table is
written as table.md and table.tsv; docs/paper_tables.md says how it compares with the paper's.

A recipe (TOML):
    title, paper          what it is, and where the paper has it
    [evaluation]          options of bjepa-evaluate for all rows: scheme, n_splits, seed
    [[column]]            target, metrics; label
    [pretraining.NAME]    recipe, set: a call of bjepa-train
    [[row]]               label; method, a baseline, or readout with `model = NAME`; options.
                          scratch and random-encoder with a model take its architecture
    [[published]]         source, figures: { target = { metric = "as printed" } }; row, the row it stands
                          under, or label, where no row of ours is its like
Metrics: those of bjepa-evaluate, and mse_z, the MSE of scores standardised within the test part: 1 - R².
"""

import argparse
import csv
import json
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_table import METRICS, markdown, tsv

from bjepa.cli.evaluate import main as bjepa_evaluate
from bjepa.cli.train import main as bjepa_train
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_text

QUICK = [  # of every pretraining, with --quick: minutes instead of days
    *("model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.predictor_embed_dim=16"),
    *("model.predictor_depth=1", "model.predictor_num_heads=2", "train.epochs=2", "train.batch_size=8"),
    *("train.accumulation=1", "optimizer.warmup_epochs=0"),
]
QUICK_EPOCHS = 2
KEYS = {"title", "paper", "note", "evaluation", "column", "pretraining", "row", "published"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a recipe; the exit status."""
    args = _parser().parse_args(argv)
    try:
        recipe = load_recipe(args.recipe)
        columns = _columns_there(recipe, args)
        models = {name: _pretrain(name, args, spec) for name, spec in recipe["pretraining"].items()}
        cells = {
            (row["label"], column["target"]): _cell(row, column, recipe, models, args)
            for column in columns
            for row in recipe["row"]
        }
        _check_splits(cells, columns)
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if args.quick:
        recipe["note"] = f"**Tiny networks, {QUICK_EPOCHS} epochs (--quick): that it runs, no more.**"
    text = markdown(recipe, columns, cells)
    write_text(args.output / "table.md", text)
    write_text(args.output / "table.tsv", tsv(recipe, columns, cells))
    print(f"\n{text}\n{args.output / 'table.md'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="output folder of bjepa-preprocess")
    parser.add_argument("--participants", type=Path, required=True, help="participants.tsv with the targets")
    parser.add_argument("--gradients", type=Path, required=True, help="gradients.csv of bjepa-gradients")
    parser.add_argument("--output", type=Path, required=True, help="folder for models, cells and the table")
    parser.add_argument(
        "--pretrain-data", type=Path, help="other scans to pretrain on, as in the paper; default: --data"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="TARGET=NAME",
        help="your name of a target: sex=Gender; repeatable",
    )
    parser.add_argument("--confounds", metavar="A,B", help="see bjepa-evaluate compare --help")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--quick", action="store_true", help="tiny networks, 2 epochs: to see that it runs")
    return parser


def load_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe. Raises InputError on a file that is none, an unknown key, a row without a model."""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no recipe: {error}.", hint="Name a file of examples/paper/.") from error
    if unknown := set(recipe) - KEYS:
        raise InputError(f"{path}: unknown keys {sorted(unknown)}; known: {sorted(KEYS)}.")
    recipe.setdefault("pretraining", {})
    for row in recipe["row"]:
        if ("method" in row) == ("readout" in row):
            raise InputError(f"{path}: row {row['label']!r} needs one of method and readout.")
        if ("readout" in row or "model" in row) and row.get("model") not in recipe["pretraining"]:
            raise InputError(f"{path}: row {row['label']!r} names no pretraining: {row.get('model')!r}.")
    for column in recipe["column"]:
        if strange := [metric for metric in column["metrics"] if metric not in METRICS]:
            raise InputError(f"{path}: unknown metrics {strange}; known: {', '.join(METRICS)}.")
    _check_published(path, recipe)
    return recipe


def _check_published(path: Path, recipe: dict[str, Any]) -> None:
    """Every published figure has a place in the table."""
    rows = {row["label"] for row in recipe["row"]}
    heads = {(column["target"], metric) for column in recipe["column"] for metric in column["metrics"]}
    for entry in recipe.get("published", []):
        if ("row" in entry) == ("label" in entry) or entry.get("row", next(iter(rows))) not in rows:
            raise InputError(f"{path}: a published entry needs a row of the recipe, or a label: {entry}.")
        figures = {(target, metric) for target, known in entry["figures"].items() for metric in known}
        if lost := figures - heads:
            raise InputError(f"{path}: published figures without a column: {sorted(lost)}.")


def _columns_there(recipe: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The recipe's columns whose target the table has, by the user's name."""
    renamed = dict(pair.partition("=")[::2] for pair in args.column)
    if strange := set(renamed) - {column["target"] for column in recipe["column"]}:
        raise InputError(f"--column: the recipe has no target {', '.join(sorted(strange))}.")
    with open(args.participants, encoding="utf-8", newline="") as file:
        names = next(csv.reader(file, delimiter="\t"), [])
    columns = [c | {"name": renamed.get(c["target"], c["target"])} for c in recipe["column"]]
    there = [c for c in columns if c["name"] in names]
    for column in columns:
        if column not in there:
            option = f"--column {column['target']}=NAME"
            print(f"left out: {args.participants} has no column {column['name']!r}; is it another? {option}")
    if not there:
        raise InputError(f"{args.participants} has none of the targets; its columns are {', '.join(names)}.")
    return there


def _pretrain(name: str, args: argparse.Namespace, spec: dict[str, Any]) -> Path:
    """A run folder, trained to its end; the same command goes on with a run that was stopped."""
    run = args.output / "models" / name
    settings = [*spec.get("set", []), *(QUICK if args.quick else [])]
    words = [
        *(spec["recipe"], "--data", args.pretrain_data or args.data, "--gradients", args.gradients),
        *("--output", run, "--resume", "--device", args.device),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    _call("bjepa-train", bjepa_train, words)
    return run


def _cell(
    row: dict[str, Any],
    column: dict[str, Any],
    recipe: dict[str, Any],
    models: dict[str, Path],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Scores of one row in one column: run unless it is there, made by the same command."""
    folder = args.output / "cells" / _slug(column["target"]) / _slug(row["label"])
    if "model" in row:
        words: list[Any] = [row.get("readout", "probe"), models[row["model"]], args.data, args.participants]
    else:
        words = ["baselines", args.data, args.participants]
    words += ["--methods", row["method"]] if "method" in row else []
    words += ["--target", column["name"], "--output", folder, "--device", args.device]
    for options in (recipe.get("evaluation", {}), row.get("options", {})):
        words += [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    if args.confounds:
        words += ["--confounds", args.confounds]
    if args.quick:
        words += ["--max-epochs", QUICK_EPOCHS]
    written = [str(word) for word in words]
    done = folder / "run.json"
    if not (done.is_file() and json.loads(done.read_text())["command"][1:] == written):
        _call("bjepa-evaluate", bjepa_evaluate, words)
    run = json.loads(done.read_text())
    with open(folder / "summary.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    own = {r["metric"]: r for r in rows if r["method"] == row.get("method", rows[0]["method"])}
    if "r2" in own:
        own["mse_z"] = _one_minus(own["r2"])
    return {"splits": run["splits_sha256"], "n": run["participants"]["n"]} | own


def _one_minus(found: dict[str, str]) -> dict[str, str]:
    """MSE over the variance of the test part is 1 - R² in each split, so its mean and interval are, too."""
    if found["mean"] == "n/a":
        return found
    ends = {"mean": "mean", "ci_low": "ci_high", "ci_high": "ci_low"}
    return found | {key: f"{1 - float(found[end]):.6g}" for key, end in ends.items()}


def _call(program: str, command: Any, words: Sequence[Any]) -> None:
    written = [str(word) for word in words]
    print(f"\n$ {program} {shlex.join(written)}", flush=True)
    if status := command(written):
        raise RuntimeError(f"{program} stopped with exit status {status}; its message is above.")


def _check_splits(cells: dict[tuple[str, str], dict[str, Any]], columns: list[dict[str, Any]]) -> None:
    for column in columns:
        hashes = {cell["splits"] for (_, target), cell in cells.items() if target == column["target"]}
        if len(hashes) > 1:
            raise RuntimeError(f"rows of {column['target']} were scored on {len(hashes)} different splits.")


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label.lower()).strip("-")


if __name__ == "__main__":
    raise SystemExit(main())
