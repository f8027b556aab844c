"""Who finds what was planted: all methods on the simulated cohort, under one protocol.

Age and sex are in connectivity alone; `shuffled` is age given to other participants. A method that works
finds the first two and not the third; static-mean finds nothing. Networks whose tokens are averaged
(FIRST_ORDER) are not expected to find connectivity (docs/decisions/0014): printed, not counted.

    python benchmarks/evaluation.py                     quick methods, 100 participants (minutes)
    python benchmarks/evaluation.py --all               networks too (an hour on 2 cores)

The cohort: preproc/demo/series_cohort.py, every 10th of the 450 regions. 5 folds; intervals over folds.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bjepa.model.baselines.methods import METHODS
from bjepa.model.evaluation.evaluate import Protocol, baseline_methods, evaluate, prepare
from bjepa.model.evaluation.metrics import CHANCE, LABELS, MAIN_METRIC
from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.evaluation.wording import format_estimate
from bjepa.preproc.demo.series_cohort import write_series_cohort

TARGETS = ("age", "sex", "shuffled")
FIRST_ORDER = ("brainlm", "scratch", "random-encoder", "random-encoder-network", "random-encoder-region")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=100, help="default: 100")
    parser.add_argument("--every", type=int, default=10, help="region of the 450 (default: every 10th)")
    parser.add_argument("--all", action="store_true", help="methods that train a network too")
    parser.add_argument("--methods", help="A,B in place of the quick ones")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--max-epochs", type=int, help="of methods that train a network")
    args = parser.parse_args()
    names = [n for n, m in METHODS.items() if args.all or not m.trains_network]
    if args.methods:
        names = args.methods.split(",")
    logging.basicConfig(level=logging.WARNING)

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_series_cohort(data, n_participants=args.participants, every=args.every)
        table = pd.read_csv(data / "participants.tsv", sep="\t")
        table["shuffled"] = np.random.default_rng(1).permutation(table["age"])
        table.to_csv(data / "participants.tsv", sep="\t", index=False)
        scans = load_scan_data(data)
        assert scans.reader is not None
        print(f"{args.participants} participants, {scans.reader.n_rois} regions x 160 frames at 2 s")
        print(f"{'method':30}{'target':10}{'':6}{'mean [95 %]':24}{'above chance':20}time")
        wrong = 0
        for target in args.targets.split(","):
            protocol = Protocol(
                participants=data / "participants.tsv", target=target, max_epochs=args.max_epochs
            )
            prepared = prepare(scans, protocol)
            task = prepared[0].task
            metric = MAIN_METRIC[task]
            for name in names:
                if task not in METHODS[name].tasks:
                    continue
                began = time.monotonic()
                done = evaluate(scans, baseline_methods([name], scans), protocol, prepared=prepared)
                found = done.results[0].estimates[metric]
                above = found.low > CHANCE[metric]
                planted = target != "shuffled" and name != "static-mean"
                counted = not (planted and name in FIRST_ORDER)
                wrong += counted and above != planted
                verdict = ("yes" if above else "no") + ("" if counted else " (not counted)")
                print(
                    f"{name:30}{target:10}{LABELS[metric]:6}{format_estimate(found):24}"
                    f"{verdict:20}{time.monotonic() - began:.1f} s",
                    flush=True,
                )
    print(f"not_as_planted: {wrong} results")


if __name__ == "__main__":
    main()
