"""Gradients of a connectivity matrix: bjepa against BrainSpace, on the same data, in one run.

    python benchmarks/gradients.py [--nodes 400 1000 4000] [--repeats 25] [--no-connectivity]

Whole way of both: connectivity -> sparse rows -> normalized angle -> 30 components of a diffusion map; the
best of some repeats that take turns. 400 nodes are the HCP group matrix that BrainSpace ships; more are
simulated from it: nodes that mix the series of two of its regions, with noise.
Residuals are those of the eigenpairs of the Markov matrix, relative: ||M g - l g|| / (|l| ||g||), the largest
of the components; `subspace` is the smallest principal cosine between the two results.
Last, how fast group connectivity streams: _connectivity.py.
"""

import argparse
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _connectivity import measure_connectivity
from numpy.typing import NDArray

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.alignment.hcp import hcp_connectivity
from bjepa.gradients.embedding import Embedding, diffusion_map

Array = NDArray[np.float64]
N_COMPONENTS, SPARSITY, N_FRAMES = 30, 0.9, 600


def main() -> None:
    """Measure each size, print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[400, 1000, 4000])
    parser.add_argument("--repeats", type=int, default=25, help="3 of sizes above 2,000 (default: 25)")
    parser.add_argument("--no-connectivity", action="store_true", help="leave the streaming part out")
    args = parser.parse_args()
    logging.basicConfig(level="ERROR")  # equal values at the cut, said at every repeat
    print(f"{N_COMPONENTS} components, sparsity {SPARSITY}, {os.cpu_count()} cores\n")
    print(
        f"{'nodes':>6}{'affinity s':>12}{'map s':>9}{'bjepa s':>9}{'BrainSpace s':>14}{'solver':>11}", end=""
    )
    print(f"{'residual':>10}{'BrainSpace':>12}{'subspace':>10}")
    lines: list[str] = []
    for n_nodes in args.nodes:
        lines += _measure(n_nodes, args.repeats if n_nodes <= 2000 else min(3, args.repeats))
    if not args.no_connectivity:
        lines += measure_connectivity()
    print()
    print("\n".join(lines))


def _measure(n_nodes: int, repeats: int) -> list[str]:
    from brainspace.gradient import GradientMaps

    fc = connectivity(n_nodes)

    def theirs() -> Any:
        maps = GradientMaps(
            n_components=N_COMPONENTS, approach="dm", kernel="normalized_angle", random_state=0
        )
        return maps.fit(fc, sparsity=SPARSITY)

    def embed() -> Embedding:
        return diffusion_map(affinity, n_components=N_COMPONENTS)

    affinity_s = map_s = theirs_s = whole_s = np.inf
    for _ in range(repeats):
        affinity, first = _timed(lambda: compute_affinity(fc, sparsity=SPARSITY))
        ours, second = _timed(embed)
        fitted, other = _timed(theirs)
        affinity_s, map_s = min(affinity_s, first), min(map_s, second)
        whole_s, theirs_s = min(whole_s, first + second), min(theirs_s, other)
    residual, residual_theirs = ours.residuals.max(), _residual(affinity, fitted)
    cosine = principal_cosines(fitted.gradients_, ours.gradients).min()
    print(
        f"{n_nodes:>6}{affinity_s:>12.4f}{map_s:>9.4f}{whole_s:>9.4f}{theirs_s:>14.4f}{ours.solver:>11}"
        f"{residual:>10.0e}{residual_theirs:>12.0e}{cosine:>10.5f}",
        flush=True,
    )
    return [
        f"time_ratio_{n_nodes}: {theirs_s / whole_s:.2f} x",
        f"residual_{n_nodes}: {residual:.1e}",
        f"residual_brainspace_{n_nodes}: {residual_theirs:.1e}",
    ]


def connectivity(n_nodes: int) -> Array:
    """Fisher z (n, n), diagonal 0: the HCP matrix where it has as many nodes, else simulated from it."""
    hcp = hcp_connectivity(400)
    if n_nodes == len(hcp):
        return hcp
    rng = np.random.default_rng(n_nodes)
    r = np.tanh(hcp)
    np.fill_diagonal(r, 1)
    values, vectors = np.linalg.eigh(r)
    regions = (rng.standard_normal((N_FRAMES, len(r))) * np.sqrt(values.clip(0))) @ vectors.T  # (T, 400)
    first, second = rng.integers(len(r), size=(2, n_nodes))
    share = rng.uniform(0, 0.4, n_nodes)
    noise = 0.8 * rng.standard_normal((N_FRAMES, n_nodes))
    series = regions[:, first] * (1 - share) + regions[:, second] * share + noise
    z = np.corrcoef(series.T)
    np.fill_diagonal(z, 0)
    return np.arctanh(z, out=z)


def _residual(affinity: Array, fitted: Any) -> float:
    """Of BrainSpace's eigenpairs, in our affinity (theirs to 1e-8)."""
    degree = affinity.sum(axis=1)
    markov = affinity / np.sqrt(degree[:, None] * degree)
    markov /= markov.sum(axis=1, keepdims=True)
    values = fitted.lambdas_ / (1 + fitted.lambdas_)  # from lambda / (1 - lambda)
    error = np.linalg.norm(markov @ fitted.gradients_ - fitted.gradients_ * values, axis=0)
    return float((error / (np.abs(values) * np.linalg.norm(fitted.gradients_, axis=0))).max())


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
