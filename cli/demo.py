"""bjepa-demo: simulate a cohort offline, and take it through the four commands that a user would type."""

import argparse
import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bjepa.cli._common import DONE, NOTHING_DONE, at_least, command_parser, run
from bjepa.preproc.errors import InputError

PROG = "bjepa-demo"
EXAMPLES = """\
  bjepa-demo                                  # into ./bjepa-demo, a few minutes on two cores
  bjepa-demo out --overwrite                  # again, replacing what the last demo left in out/
  bjepa-demo out --participants 24 --epochs 2 # a quick look"""
MIN_PARTICIPANTS = 10  # five folds of two
MARKER = ".bjepa-demo"  # a folder with this file is ours; without it nothing is ever removed
MADE = (
    "cohort",
    "atlas",
    "truth.h5",
    "shards",
    "gradients",
    "run",
    "evaluation",
    "summary.json",
    "index.html",
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A command line, and what it does in one line."""

    title: str
    words: tuple[str, ...]  # bjepa-…, arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run bjepa-demo; the exit status: 0, or that of the command that failed."""
    parser = command_parser(
        PROG,
        "Simulate a small cohort as NIfTI files, without network, and run every stage on it:\n"
        "preprocess, gradients, train, evaluate. Prints each command line, and at the end what came out.\n"
        "About 300 MB of disk, under 2 GB of memory.",
        EXAMPLES,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("bjepa-demo"),
        metavar="DIR",
        help="default: ./bjepa-demo",
    )
    parser.add_argument(
        "--participants",
        type=at_least(MIN_PARTICIPANTS),
        default=60,
        metavar="N",
        help=f"simulated participants, one scan each, {MIN_PARTICIPANTS} or more; default: 60",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the simulated cohort; default: 0")
    parser.add_argument(
        "--epochs", type=at_least(1), metavar="N", help="training epochs; default: as the recipe `demo`"
    )
    parser.add_argument(
        "--n-jobs", type=at_least(1), metavar="N", help="processes of bjepa-preprocess; default: all cores"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier demo in DIR; other files there stay"
    )
    return run(_demo, parser.parse_args(argv), prog=PROG)


def _demo(args: argparse.Namespace) -> int:
    from bjepa.cli._demo_summary import print_summary, summarise, write_summary

    started = time.perf_counter()
    _prepare_folder(args.folder, overwrite=args.overwrite)
    print(f"Simulating {args.participants} participants into {args.folder}/cohort", flush=True)
    _simulate(args.folder, n_participants=args.participants, seed=args.seed)

    steps = demo_steps(args.folder, n_jobs=args.n_jobs, epochs=args.epochs)
    for step in steps:
        print(f"\n{step.title}\n$ {shlex.join(step.words)}", flush=True)
        status = run_step(step)
        if status != DONE:
            log.error("%s stopped with exit status %d; see its message above.", step.words[0], status)
            return status if status > 0 else NOTHING_DONE  # below 0: ended by a signal

    summary = summarise(args.folder, seconds=time.perf_counter() - started)
    write_summary(args.folder, summary, commands=[shlex.join(step.words) for step in steps])
    print_summary(args.folder, summary)
    return DONE


def demo_steps(folder: Path, *, n_jobs: int | None = None, epochs: int | None = None) -> list[Step]:
    """The command lines of the demo, in order. The cohort and the atlas must be in `folder`."""
    cohort, shards, run_folder = folder / "cohort", folder / "shards", folder / "run"
    participants, evaluation = cohort / "participants.tsv", folder / "evaluation"
    atlas = folder / "atlas" / "demo_dseg.nii.gz"
    labels = folder / "atlas" / "demo_dseg.tsv"
    jobs = [] if n_jobs is None else ["--n-jobs", n_jobs]
    shorter = [] if epochs is None else ["--set", f"train.epochs={epochs}"]
    gradients = folder / "gradients"
    return [
        _step(
            "From scans to regional time series",
            "bjepa-preprocess", cohort, shards, "--atlas", atlas, "--atlas-labels", labels,
            "--confounds", "none", *jobs,
        ),
        _step(
            "From time series to a gradient atlas",
            "bjepa-gradients", shards, gradients, "--cross-check", "--split-half",
        ),
        _step(
            "Pretraining",
            "bjepa-train", "demo", "--data", shards, "--gradients", gradients / "gradients.csv",
            "--output", run_folder, *shorter,
        ),
        _step(
            "One vector per scan",
            "bjepa-evaluate", "embed", run_folder, shards, "--output", evaluation / "embedding.h5",
        ),
        _step(
            "Age from the embedding, and from regional means as a control",
            "bjepa-evaluate", "probe", run_folder, shards, participants, "--target", "age",
            "--methods", "static-mean", "--output", evaluation / "age-probe",
        ),
        _step(
            "Age without a model: from connectivity, and from regional means",
            "bjepa-evaluate", "baselines", shards, participants, "--target", "age",
            "--methods", "fc-ridge,static-mean", "--output", evaluation / "age-baselines",
        ),
    ]  # fmt: skip


def run_step(step: Step) -> int:
    """Run a command in a process of its own, so that its memory is given back; the exit status."""
    module = step.words[0].removeprefix("bjepa-")
    # not the script on PATH: that may belong to another environment. -P: nothing from the working folder
    code = f"import sys; from bjepa.cli.{module} import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-P", "-c", code, *step.words[1:]], check=False).returncode


def _step(title: str, *words: object) -> Step:
    return Step(title, tuple(str(word) for word in words))


def _simulate(folder: Path, *, n_participants: int, seed: int) -> None:
    from tqdm import tqdm

    from bjepa.preproc.demo.atlas import build_demo_atlas, write_demo_atlas
    from bjepa.preproc.demo.cohort import write_cohort

    atlas = build_demo_atlas()
    write_demo_atlas(atlas, folder / "atlas")
    write_cohort(
        folder / "cohort",
        folder / "truth.h5",
        atlas,
        n_participants=n_participants,
        seed=seed,
        progress=lambda numbers: tqdm(numbers, desc="simulate", unit="scan", disable=None),
    )


def _prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Leave `folder` without results of an earlier demo, and marked as a demo folder.

    Removes only what a demo makes, only from a folder that a demo has marked, only with `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"DIR {folder} is a file.", hint="Name a folder.")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise InputError(
                f"DIR {folder} is not empty and not from {PROG}; nothing in it is touched.",
                hint="Name a new or empty folder.",
            )
        if not overwrite:
            raise InputError(
                f"DIR {folder} holds an earlier demo.",
                hint="Give --overwrite to replace it, or name another folder.",
            )
        for name in MADE:
            made = folder / name
            if made.is_dir() and not made.is_symlink():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(f"Made by {PROG}, which may replace: {' '.join(MADE)}\n", encoding="utf-8")
