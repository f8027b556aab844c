"""What each readout of a model finds in the simulated cohort, under the protocol of bjepa-evaluate.

    python benchmarks/readouts.py [--minutes 2] [--participants 100] [--readouts A,B] [--targets age,sex]

Recipe `small` is trained for some minutes on participants without labels (one thread), then each readout
predicts age (R²) and sex (AUC) of other participants: 5 folds, intervals over folds. `untrained` is the same
network before training. Age and sex are in connectivity alone. An hour for all readouts on one core.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _small_training import make_recipe, new_model, train_for
from numpy.typing import NDArray

from bjepa.gradients import compute_affinity, diffusion_map, functional_connectivity
from bjepa.model import JEPA
from bjepa.model.about import SCALING_COLUMNS, About
from bjepa.model.evaluation.evaluate import Protocol, evaluate, prepare
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.metrics import LABELS, MAIN_METRIC
from bjepa.model.evaluation.model_methods import NAMES, finetune_of, readout_of
from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.evaluation.wording import format_estimate
from bjepa.preproc.demo.series_cohort import T_R, write_series_cohort
from bjepa.preproc.scaling import ScalingFit, ScalingMethod, scan_part
from bjepa.preproc.shards import ShardReader

# fine-tuning beside that of NAMES, with the pooling that reads connectivity
BY_PAIRS = {"finetune-network_pairs": None, "lora-network_pairs": 8}  # name -> rank of LoRA
N_GRADIENTS = 10


def main() -> None:
    """Simulate, train, print a row for each readout and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2, help="of training (default: 2)")
    parser.add_argument("--participants", type=int, default=100, help="with labels (default: 100)")
    parser.add_argument("--unlabelled", type=int, default=300, help="that train (default: 300)")
    parser.add_argument("--every", type=int, default=10, help="region of the 450 (default: every 10th)")
    parser.add_argument("--scaling", default="robust-dynamic", help="of training (default: robust-dynamic)")
    parser.add_argument("--readouts", help=f"of {', '.join([*NAMES, *BY_PAIRS])} (default: all)")
    parser.add_argument("--targets", default="age,sex")
    args = parser.parse_args()
    names = args.readouts.split(",") if args.readouts else [*NAMES, *BY_PAIRS]
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        labelled, unlabelled = Path(folder) / "labelled", Path(folder) / "unlabelled"
        write_series_cohort(labelled, n_participants=args.participants, every=args.every)
        write_series_cohort(
            unlabelled,
            n_participants=args.unlabelled,
            every=args.every,
            first=args.participants + 1,
        )
        models = trained_and_not(ShardReader(unlabelled), scaling=args.scaling, seconds=60 * args.minutes)
        scans = load_scan_data(labelled)
        print(f"{'readout':26}{'model':12}{'target':8}{'':6}{'mean [95 %]':26}time")
        for target in args.targets.split(","):
            protocol = Protocol(participants=labelled / "participants.tsv", target=target)
            prepared = prepare(scans, protocol)
            metric = MAIN_METRIC[prepared[0].task]
            for name in names:
                for state, model in models.items():
                    began = time.process_time()
                    method = method_of(name, model)
                    done = evaluate(scans, {name: method}, protocol, prepared=prepared)
                    found = format_estimate(done.results[0].estimates[metric])
                    spent = time.process_time() - began
                    print(
                        f"{name:26}{state:12}{target:8}{LABELS[metric]:6}{found:26}{spent:.0f} s", flush=True
                    )


def trained_and_not(reader: ShardReader, *, scaling: ScalingMethod, seconds: float) -> dict[str, JEPA]:
    """The network before and after training, each with the scaling of its training data."""
    series, table = scaled_anew(reader, scaling)
    gradients = diffusion_map(
        compute_affinity(functional_connectivity(series)), n_components=N_GRADIENTS
    ).gradients
    recipe = make_recipe("small", n_rois=reader.n_rois, n_gradients=N_GRADIENTS, seed=0)
    models = {}
    for state in ("untrained", "trained"):
        models[state] = new_model(recipe, gradients)
        models[state].about = About(origin={"scaling": scaling}, scaling_table=table)
    series_SRF = np.stack([one.T for one in series])
    done = train_for(models["trained"], series_SRF, recipe, seconds=seconds, t_r=T_R)
    print(f"{scaling}: {done.n_updates} updates, loss {done.loss:.3f}", flush=True)
    return models


def scaled_anew(reader: ShardReader, method: ScalingMethod) -> tuple[list[NDArray[np.float32]], str]:
    """Each series (F, R) scaled by `method`, and the text of scaling.tsv."""
    names = reader.rois["name"]
    raw = [reader.unscale(reader[i], i) for i in range(len(reader))]
    fit = ScalingFit(method, names)
    while fit.wants_pass:
        for number, one in enumerate(raw):
            fit.add(one, str(number))
        fit.end_pass()
    found = fit.result()
    rows = [SCALING_COLUMNS] + [
        [str(i), name, f"{median:.17g}", f"{iqr:.17g}"]
        for i, (name, median, iqr) in enumerate(zip(names, found.median, found.iqr, strict=True), 1)
    ]
    series = [found.apply(one, scan_part(method, one, names, str(i))) for i, one in enumerate(raw)]
    return series, "".join("\t".join(row) + "\n" for row in rows)


def method_of(name: str, model: JEPA) -> Method:
    """The readout of that name."""
    if name in BY_PAIRS:
        return finetune_of(model, pooling="network_pairs", lora_rank=BY_PAIRS[name])
    return readout_of(name, model, batch_size=16, device="cpu")


if __name__ == "__main__":
    main()
