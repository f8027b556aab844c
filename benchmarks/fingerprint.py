"""Whose scan is it? Second sessions matched to first ones by embeddings, connectivity and random weights.

    bjepa-preprocess .../stages_fep_schaefer400 OUT --atlas schaefer-400 \\
        --series-atlas schaefer-400-7networks --series-axis roi-by-time --series-columns 1-400 --t-r 2.0 \\
        --scaling zscore-scan
    bjepa-gradients OUT OUT/gradients
    python benchmarks/fingerprint.py OUT [--minutes 30] [--recipe small] [--sessions 1 2]

The recipe trains for that time on one thread, on the first sessions alone (of all participants), with a
random quarter of the regions in each window. Then both sessions become vectors by the readouts of
_readouts.py, the mean of the first sessions is taken off, and each second session is given to the
participant whose first session has the largest correlation with it: `right` is the share of true ones, with
Wilson's 95 % interval. Beside it: the same of the network before training, of static means, of connectivity
by all frames and by those that fill whole windows, which alone are embedded.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _readouts import Array, connectivity, readouts
from _small_training import look, make_recipe, new_model, tokens_of_scans, train_for

from bjepa.model.inputs import read_inputs
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

DROP_ROIS = 0.75


def main() -> None:
    """Read, train, match."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="output folder of bjepa-preprocess")
    parser.add_argument("--gradients", type=Path, help="default: DATA/gradients/gradients.csv")
    parser.add_argument("--minutes", type=float, default=30, help="of training (default: 30)")
    parser.add_argument("--recipe", default="small", help="a shipped name or a TOML file (default: small)")
    parser.add_argument("--sessions", nargs=2, default=["1", "2"], metavar=("FIRST", "SECOND"))
    parser.add_argument("--drop-rois", type=float, default=DROP_ROIS, help=f"default: {DROP_ROIS}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    inputs = read_inputs(args.data, args.gradients or args.data / "gradients" / "gradients.csv")
    first, second = (_session(inputs.reader, session) for session in args.sessions)
    both = sorted(set(first) & set(second))
    if len(both) < 2:
        sys.exit(f"{len(both)} participants have sessions {' and '.join(args.sessions)}; 2 are needed")
    training = np.stack([first[p] for p in sorted(first)])
    pair = np.stack([first[p] for p in both]), np.stack([second[p] for p in both])
    networks = np.array(inputs.reader.rois["network17"]).astype(str)
    t_r = float(np.median(inputs.reader.scans["t_r_out"]))
    print(
        f"{len(both)} participants with both sessions, {len(first)} first ones to learn from, "
        f"{len(networks)} regions x {training.shape[2]} frames at {t_r:g} s"
    )
    right = {
        "FC": _match(*(connectivity(x) for x in pair)),
        "static means": _match(*(x.mean(axis=2) for x in pair)),
    }
    recipe = make_recipe(
        args.recipe,
        n_rois=len(networks),
        n_gradients=inputs.gradients.shape[1],
        seed=args.seed,
        changes={"data": {"drop_rois": args.drop_rois}},
    )
    used = training.shape[2] // recipe.model.n_frames * recipe.model.n_frames
    right["FC, embedded frames"] = _match(*(connectivity(x[:, :, :used]) for x in pair))
    jepa = new_model(recipe, inputs.gradients)

    def embed(name: str) -> None:
        tokens = [tokens_of_scans(jepa, x) for x in pair]
        place = tokens[0].mean(axis=0)
        vectors = [readouts(t, networks, reference_RTD=place) for t in tokens]
        right.update({f"{name} {readout}": _match(*(v[readout] for v in vectors)) for readout in vectors[0]})

    embed("random")
    began = time.process_time()
    trained = train_for(jepa, training, recipe, seconds=60 * args.minutes, t_r=t_r)
    minutes = (time.process_time() - began) / 60
    embed("trained")
    monitors = look(jepa, pair[1], recipe)

    print(f"{'':24}{'right':>7}   95 % interval")
    for name, share in right.items():
        low, high = _wilson(share, len(both))
        print(f"{name:24}{share:7.1%}   [{low:.1%}, {high:.1%}]")
    print()
    for name, value in monitors.items():
        print(f"{name}: {value:.3f}")
    print(f"loss: {trained.loss:.4f}\nupdates: {trained.n_updates}\nseries: {trained.n_series}")
    print(f"cpu_minutes: {minutes:.1f} min\nparticipants: {len(both)}")
    for name in ("random", "trained"):
        of_it = {readout: share for readout, share in right.items() if readout.startswith(name)}
        print(f"{name}_best_right: {max(of_it.values()):.3f} ({max(of_it, key=lambda r: of_it[r])})")
    print(f"fc_embedded_frames_right: {right['FC, embedded frames']:.3f}")
    print(f"fc_right: {right['FC']:.3f}\nstatic_means_right: {right['static means']:.3f}")
    print(f"chance: {1 / len(both):.3f}")


def _session(reader: ShardReader, session: str) -> dict[str, NDArray[np.float32]]:
    """Participant -> (R, F), the first series of the session, cut to the shortest of all scans."""
    frames = int(reader.series_length.min())
    found: dict[str, NDArray[np.float32]] = {}
    for number, scan in enumerate(reader.series_scan):
        participant = bare_id(reader.scans["participant_id"][scan])
        if str(reader.scans["session"][scan]).removeprefix("ses-") == session and participant not in found:
            found[participant] = np.ascontiguousarray(reader.read(number, 0, frames).T)
    return found


def _match(first: Array, second: Array) -> float:
    """Share of rows of `second` whose most correlated row of `first` is the one with the same number."""
    mean = first.mean(axis=0)
    a, b = (x - mean for x in (first, second))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return float(((b @ a.T).argmax(axis=1) == np.arange(len(a))).mean())


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


if __name__ == "__main__":
    main()
