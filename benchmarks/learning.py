"""Does it learn? Small models on a simulated cohort: the released recipe, ours, and what needs no training.

    python benchmarks/learning.py [--minutes 60] [--seeds 3] [--jobs 2] [--recipe small] [--output FILE.tsv]
    python benchmarks/learning.py --quick        # 2 minutes: does it run? Its numbers say nothing

The cohort: the demo's generator (preproc/demo/simulate.py) at the level of regions, every 5th of the 450
(90), 160 frames at 2 s for all, with white measurement noise of half the signal's amplitude; every region has
variance 1 and age is in connectivity alone. 800 participants without labels train; 200 others are scored:
monitors, then ridge on readouts of the tokens (_readouts.py), nested 5-fold x 2, intervals over participants.
Each pair of recipe and seed trains for the same time in a process of its own, on one thread; rows appear when
they are done, also in FILE.tsv.

`random` rows are the same network before training: those of the released initial weights and those of ours.
`best` is the readout chosen inside each training part, so that no test fold picks it.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _readouts import Score, connectivity, interval, readouts, score
from _small_training import (
    Trained,
    look,
    make_recipe,
    new_model,
    tokens_of_scans,
    train_for,
)

from bjepa.gradients import compute_affinity, diffusion_map
from bjepa.preproc.demo.atlas import demo_table
from bjepa.preproc.demo.simulate import (
    draw_participant,
    haemodynamic_response,
    make_population,
    participant_root,
)

T_R, N_FRAMES, NOISE = 2.0, 160, 0.5
N_GRADIENTS = 10
STREAM = 4  # of a participant's draws, beside those of the demo
MONITORS = ("target_scan_share", "prediction_r2_over_position", "effective_rank")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """What the jobs share. S participants, R regions, F frames."""

    unlabelled_SRF: Array
    series_SRF: Array
    age_S: NDArray[np.float64]
    networks_R: NDArray[np.str_]
    gradients_RC: NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A network, trained or not."""

    recipe: str  # "released" or the recipe's name
    trained: Trained | None  # None: random weights
    seed: int
    monitors: dict[str, float]
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        """As in the table."""
        return self.recipe if self.trained else f"random ({self.recipe})"


def main() -> None:
    """Simulate, train in processes, print each row when it is there, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="of the whole run (default: 60)")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--jobs", type=int, default=2, help="processes, a thread each (default: 2)")
    parser.add_argument(
        "--recipe", default="small", help="ours: a shipped name or a TOML file (default: small)"
    )
    parser.add_argument("--participants", type=int, default=200, help="with labels (default: 200)")
    parser.add_argument("--unlabelled", type=int, default=800, help="that train (default: 800)")
    parser.add_argument("--every", type=int, default=5, help="region of the 450 (default: every 5th)")
    parser.add_argument("--output", type=Path, help="table of the rows, written as they come")
    parser.add_argument("--quick", action="store_true", help="a small cohort, one seed, 2 minutes")
    args = parser.parse_args()
    if args.quick:
        args.minutes, args.seeds, args.participants, args.unlabelled, args.every = 2, 1, 40, 40, 10
    began = time.monotonic()
    data = simulate(args.participants, args.unlabelled, every=args.every)
    print(
        f"{args.participants} participants with labels, {args.unlabelled} without, "
        f"{len(data.networks_R)} regions x {N_FRAMES} frames at {T_R} s, noise {NOISE}",
        flush=True,
    )
    base = {
        "FC ridge": score({"FC": connectivity(data.series_SRF)}, data.age_S)["best"],
        "static means": score({"mean": data.series_SRF.mean(axis=2)}, data.age_S)["best"],
    }
    for name, found in base.items():
        print(f"{name:24} age R2 {_with_interval([found])}", flush=True)
    rows = _run(args, data, began)
    _summary(rows, base, ours=args.recipe)
    print(f"time: {(time.monotonic() - began) / 60:.1f} min")


def simulate(n_labelled: int, n_unlabelled: int, *, every: int) -> Data:
    """Participants 1.. with labels, the next ones without; seed 0, whatever the seeds of the networks."""
    from scipy.signal import fftconvolve

    population = make_population(0)
    chosen = np.arange(every // 2, len(population.fc), every)
    response = haemodynamic_response(T_R)
    response /= np.linalg.norm(response)
    series, age = [], []
    for number in range(1, n_labelled + n_unlabelled + 1):
        participant = draw_participant(population, number)
        rng = np.random.default_rng((population.seed, number, STREAM))
        root = participant_root(population, participant)[chosen]
        white = rng.standard_normal((N_FRAMES + len(response) - 1, root.shape[1]))
        signal = fftconvolve(white, response[:, None], mode="valid", axes=0) @ root.T  # variance 1
        noisy = signal + NOISE * rng.standard_normal(signal.shape)
        series.append((noisy.T / math.sqrt(1 + NOISE**2)).astype(np.float32))
        age.append(participant.age)
    unlabelled = np.stack(series[n_labelled:])
    upper = np.triu_indices(len(chosen), 1)
    group = np.zeros((len(chosen), len(chosen)))
    group[upper] = connectivity(unlabelled).mean(axis=0)
    gradients = diffusion_map(compute_affinity(group + group.T), n_components=N_GRADIENTS).gradients
    networks = demo_table()["network17"].to_numpy().astype(str)[chosen]
    return Data(unlabelled, np.stack(series[:n_labelled]), np.array(age[:n_labelled]), networks, gradients)


def job(recipe: str, seed: int, data: Data, seconds: float) -> tuple[Row, Row]:
    """A network before and after training."""
    import torch

    torch.set_num_threads(1)
    config = make_recipe(recipe, n_rois=len(data.networks_R), n_gradients=N_GRADIENTS, seed=seed)
    jepa = new_model(config, data.gradients_RC)

    def row(trained: Trained | None) -> Row:
        reference = tokens_of_scans(jepa, data.unlabelled_SRF[: len(data.series_SRF)]).mean(axis=0)
        tokens = tokens_of_scans(jepa, data.series_SRF)
        found = score(readouts(tokens, data.networks_R, reference_RTD=reference), data.age_S)
        return Row(recipe, trained, seed, look(jepa, data.series_SRF[:64], config), found)

    before = row(None)
    return before, row(train_for(jepa, data.unlabelled_SRF, config, seconds=seconds, t_r=T_R))


def _run(args: argparse.Namespace, data: Data, began: float) -> list[Row]:
    """All pairs of recipe and seed, in `args.jobs` processes; what is left of the time is shared equally."""
    pairs = [(recipe, seed) for seed in range(args.seeds) for recipe in ("released", args.recipe)]
    left = 60 * args.minutes - (time.monotonic() - began)
    waves = math.ceil(len(pairs) / args.jobs)
    # a network is scored before and after: 30 s at full size on an idle core, twice that on a busy one
    scoring = 60 * args.participants / 200 + 10
    seconds = max(5.0, 0.97 * left / waves - scoring)
    print(f"each trains for {seconds / 60:.1f} min, {args.jobs} at a time\n", flush=True)
    _print_head()
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        futures = {pool.submit(job, recipe, seed, data, seconds): (recipe, seed) for recipe, seed in pairs}
        for future in as_completed(futures):
            try:
                found = future.result()
            except FloatingPointError as error:  # a recipe that diverges is a result as well
                print(f"{futures[future][0]} seed {futures[future][1]}: {error}", file=sys.stderr, flush=True)
                continue
            for row in found:
                _print(row)
                if args.output:
                    _append(args.output, row)
            rows += found
    return rows


def _print_head() -> None:
    print(
        f"{'':22}{'seed':>5}{'series':>9}{'loss':>9}{'share':>8}{'R2 pos':>9}{'rank':>7}   age R2 by readout"
    )


def _print(row: Row) -> None:
    share, r2, rank = (row.monitors[name] for name in MONITORS)
    series = str(row.trained.n_series) if row.trained else "-"
    loss = f"{row.trained.loss:.4f}" if row.trained else "-"
    print(f"{row.name:22}{row.seed:5}{series:>9}{loss:>9}{share:8.3f}{r2:9.3f}{rank:7.1f}")
    for name, found in row.scores.items():
        print(f"{'':69}   {name:14}{_with_interval([found])}")
    sys.stdout.flush()


def _append(path: Path, row: Row) -> None:
    values: dict[str, Any] = {"network": row.name, "seed": row.seed}
    values |= {"updates": row.trained.n_updates, "series": row.trained.n_series} if row.trained else {}
    values |= {"loss": row.trained.loss} if row.trained else {}
    values |= row.monitors
    with path.open("a", encoding="utf-8") as file:
        for name, value in values.items():
            if name not in ("network", "seed"):
                file.write(f"{row.name}\t{row.seed}\t{name}\t{value:.6g}\t\t\n")
        for name, found in row.scores.items():
            mean, low, high = interval([found])
            file.write(f"{row.name}\t{row.seed}\tage_r2 {name}\t{mean:.4f}\t{low:.4f}\t{high:.4f}\n")


def _summary(rows: list[Row], base: dict[str, Score], *, ours: str) -> None:
    """Means over the seeds, and the lines that a program reads."""
    names = [f"random ({r})" for r in ("released", ours)] + ["released", ours]
    by_name = {name: [row for row in rows if row.name == name] for name in names}
    by_name = {name: some for name, some in by_name.items() if some}
    if ours not in by_name:
        sys.exit(f"no network of {ours} was trained to its end")
    print(f"\nmean over the seeds\n{'readout':14}" + "".join(f"{name:>30}" for name in by_name))
    for readout in by_name[ours][0].scores:
        cells = [_with_interval([row.scores[readout] for row in some]) for some in by_name.values()]
        print(f"{readout:14}" + "".join(f"{cell:>30}" for cell in cells))
    print()
    for name, some in by_name.items():
        key = name.replace("random (", "random_").rstrip(")")
        if some[0].trained:
            print(f"{key}_loss: {np.mean([r.trained.loss for r in some if r.trained]):.4f}")
        for monitor in MONITORS:
            print(f"{key}_{monitor}: {np.mean([r.monitors[monitor] for r in some]):.3f}")
        print(f"{key}_age_r2: {interval([r.scores['best'] for r in some])[0]:.3f} R2")
    best = [row.scores["best"] for row in by_name[ours]]
    for name, others in (
        *((name, [row.scores["best"] for row in some]) for name, some in by_name.items() if name != ours),
        *((name, [found] * len(best)) for name, found in base.items()),
    ):
        if len(others) == len(best):
            print(f"ours minus {name}, paired: {_with_interval(best, others)} R2")
    print(f"fc_age_r2: {base['FC ridge'].r2:.3f} R2\nstatic_age_r2: {base['static means'].r2:.3f} R2")


def _with_interval(scores: list[Score], minus: list[Score] | None = None) -> str:
    mean, low, high = interval(scores, minus)
    return f"{mean:6.3f} [{low:6.3f}, {high:6.3f}]"


if __name__ == "__main__":
    main()
