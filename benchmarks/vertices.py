"""Gradients of one hemisphere's vertices: time of each part, peak memory, and whether the truth is found.

    python benchmarks/vertices.py [--vertices 32492] [--frames 1200] [--neighbors 1000] [--n-jobs 2]

Series of points spread evenly over a sphere: three time courses weighted by x, y and z, a local field and
white noise. Their connectivity depends on the angle between two points only, so the components must be
spherical harmonics: the first three x, y and z turned anyhow, the first eight those of degrees 1 and 2.
The last lines give the smallest principal cosine with them.
"""

import argparse
import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from _memory import peak_rss_mb
from numpy.typing import NDArray

from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.embedding import embed
from bjepa.gradients.neighbours import MAX_MEMORY_GB, sparse_affinity
from bjepa.gradients.scans import ArrayScans

Array = NDArray[np.float64]
N_FEATURES, FIELD_WIDTH = 500, 0.15  # of the local field; radians (15 mm on a sphere of 100 mm)


def main() -> None:
    """Simulate, run both parts, print the table and the last lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vertices", type=int, default=32_492)
    parser.add_argument("--frames", type=int, default=1200)
    parser.add_argument("--neighbors", type=int, default=1000)
    parser.add_argument("--n-jobs", type=int, default=-1)
    parser.add_argument("--max-memory-gb", type=float, default=MAX_MEMORY_GB)
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")

    points = sphere(args.vertices)
    series = simulate(points, args.frames)
    laps = [clocks()]

    def progress(steps: Iterable[Any], total: int) -> Iterable[Any]:
        yield from steps
        laps.append(clocks())

    affinity = sparse_affinity(
        ArrayScans([series]),
        n_neighbors=args.neighbors,
        n_jobs=args.n_jobs,
        max_memory_gb=args.max_memory_gb,
        progress=progress,
    )
    laps.append(clocks())
    result = embed(affinity, n_components=10)
    laps.append(clocks())

    names = ("connectivity", "affinity", "union", "embedding")
    took = {name: laps[part + 1] - laps[part] for part, name in enumerate(names)}  # (2,) s
    harmonics = degrees_1_and_2(points)
    cosines = {n: principal_cosines(centred(result.gradients[:, :n]), harmonics[:, :n]).min() for n in (3, 8)}
    print(f"{args.vertices:,} vertices, {args.frames} frames, {args.neighbors} neighbours, normalized_angle")
    print(f"affinity: {affinity.nnz:,} values, {100 * affinity.nnz / args.vertices**2:.1f} % of all pairs\n")
    print(f"{'part':14}{'s':>9}{'CPU s':>9}   (on {args.n_jobs} threads)")
    for name, (wall, cpu) in took.items():
        print(f"{name:14}{wall:9.1f}{cpu:9.1f}")
    print("eigenvalues:", *result.eigenvalues.round(4))
    wall, cpu = sum(took.values(), start=np.zeros(2)) / 60
    print(f"time: {wall:.1f} min")
    print(f"cpu_time: {cpu:.1f} min")
    print(f"peak_memory: {peak_rss_mb() / 1e3:.2f} GB")
    print(f"largest_residual: {result.residuals.max():.1e}")
    print(f"cosine_min_3: {cosines[3]:.4f}")
    print(f"cosine_min_8: {cosines[8]:.4f}")


def clocks() -> Array:
    """Wall clock and this process's CPU clock (which other programs do not slow), s."""
    return np.array([time.perf_counter(), time.process_time()])


def sphere(n: int) -> Array:
    """(n, 3) unit vectors spread evenly (a spiral of the golden angle)."""
    k = np.arange(n) + 0.5
    z, angle = 1 - 2 * k / n, np.pi * (1 + 5**0.5) * k
    root = np.sqrt(1 - z**2)
    return np.stack([root * np.cos(angle), root * np.sin(angle), z], axis=1)


def simulate(points: Array, n_frames: int) -> NDArray[np.float32]:
    """(T, V) float32."""
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((3, N_FEATURES)) / FIELD_WIDTH
    field = np.cos(points @ waves + rng.uniform(0, 2 * np.pi, N_FEATURES)) * np.sqrt(2 / N_FEATURES)  # (V, F)
    basis = np.hstack([np.sqrt(3) * points, 0.7 * field]).astype(np.float32)
    series = rng.standard_normal((n_frames, basis.shape[1]), dtype=np.float32) @ basis.T
    series += rng.standard_normal(series.shape, dtype=np.float32)
    return series


def degrees_1_and_2(points: Array) -> Array:
    """Real spherical harmonics (V, 8), not normalised: x y z, then those of degree 2."""
    x, y, z = points.T
    return np.stack([x, y, z, x * y, y * z, x * z, x**2 - y**2, 3 * z**2 - 1], axis=1)


def centred(gradients: Array) -> Array:
    return gradients - gradients.mean(axis=0)


if __name__ == "__main__":
    main()
