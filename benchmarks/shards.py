"""Random clips from a shard against the same series in csv.gz, and eight processes reading at once.

    python benchmarks/shards.py [--scans 300] [--seconds 3]

Scans of 490 frames x 450 regions, float32, stored as the stage `group` stores them, and some of them as one
csv.gz a scan, read with pandas. A clip is 160 frames from a random place of a random scan. Files are in the
page cache for both (`warm`); `cold` drops a scan's pages before each clip. Prints clips per second, and last
the ratios.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

N_FRAMES, N_ROIS, CLIP = 490, 450, 160
N_CSV, N_WORKERS = 12, 8


def main() -> None:
    """Write both, check that they hold the same, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=300, help="in shards of 290 scans (default: 300)")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, args.scans)
        reader = ShardReader(folder)
        for scan in range(2):
            np.testing.assert_allclose(_clip_of_csv(folder, scan, 7), reader.read(scan, 7, CLIP), rtol=1e-6)

        def from_shard(rng: np.random.Generator) -> None:
            scan = int(rng.integers(len(reader)))
            reader.read(scan, int(rng.integers(N_FRAMES - CLIP + 1)), CLIP)

        def from_csv(rng: np.random.Generator) -> None:
            _clip_of_csv(folder, int(rng.integers(N_CSV)), int(rng.integers(N_FRAMES - CLIP + 1)))

        def from_cold_shard(rng: np.random.Generator) -> None:
            _forget(reader.paths)
            from_shard(rng)

        rates = {
            "csv.gz, pandas": _rate(from_csv, args.seconds),
            "shard, warm": _rate(from_shard, args.seconds),
            "shard, cold": _rate(from_cold_shard, args.seconds),
            f"shard, {N_WORKERS} processes": _rate_of_many(folder, args.seconds),
        }
        size = sum(path.stat().st_size for path in reader.paths)
        csv = (folder / "csv/0.csv.gz").stat().st_size
    print(
        f"{args.scans} scans of {N_FRAMES} x {N_ROIS} float32, clips of {CLIP} frames, {os.cpu_count()} cores"
    )
    print(f"on disk, a scan: shard {size / args.scans / 1e3:.0f} kB, csv.gz {csv / 1e3:.0f} kB\n")
    print(f"{'':22}{'clips/s':>10}{'ms/clip':>10}{'MB/s':>9}")
    for what, rate in rates.items():
        print(f"{what:22}{rate:10,.0f}{1e3 / rate:10.3f}{rate * CLIP * N_ROIS * 4 / 1e6:9,.0f}")
    print()
    print(f"clips_per_second_8_processes: {rates[f'shard, {N_WORKERS} processes']:.0f} clips/s")
    print(f"clips_per_second: {rates['shard, warm']:.0f} clips/s")
    print(f"speedup: {rates['shard, warm'] / rates['csv.gz, pandas']:.0f} x")


def _write(folder: Path, n_scans: int) -> None:
    (folder / "csv").mkdir()
    first = 0
    while first < n_scans:
        scans = [_scan(number) for number in range(first, min(first + 290, n_scans))]
        write_shard(
            folder / f"shards/shard-{first // 290:05d}.h5",
            scans,
            atlas="simulated",
            atlas_sha256="0" * 64,
            rois={column: [f"r{k}" for k in range(N_ROIS)] for column in ROI_COLUMNS},
            median=np.zeros(N_ROIS),
            iqr=np.ones(N_ROIS),
            scaling="robust",
            target_t_r=2.0,
        )
        first += len(scans)
    for number in range(N_CSV):
        table = pd.DataFrame(_scan(number).phases[0])
        table.to_csv(folder / f"csv/{number}.csv.gz", index=False, header=False)


def _scan(number: int) -> ShardScan:
    series = np.random.default_rng(number).normal(size=(N_FRAMES, N_ROIS)).astype(np.float32)
    entities = dict(scan_id=f"sub-{number}", participant_id=f"sub-{number}", session="", task="rest", run="")
    return ShardScan(
        entities=entities, t_r=2.0, t_r_out=2.0, valid=np.ones(N_ROIS, dtype=bool), phases=[series]
    )


def _clip_of_csv(folder: Path, scan: int, start: int) -> np.ndarray:
    table = pd.read_csv(folder / f"csv/{scan}.csv.gz", header=None, dtype=np.float32)
    return table.to_numpy()[start : start + CLIP]


def _rate(read: Callable[[np.random.Generator], None], seconds: float, seed: int = 0) -> float:
    """Calls per second, after a tenth of the time to warm up."""
    rng = np.random.default_rng(seed)
    for limit in (seconds / 10, seconds):
        n_calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < limit:
            read(rng)
            n_calls += 1
        rate = n_calls / (time.perf_counter() - start)
    return rate


def _forget(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _rate_of_many(folder: Path, seconds: float) -> float:
    """Clips per second of all processes together; each opens the shards itself."""
    begin = time.time() + 2  # all are up by then
    with ProcessPoolExecutor(N_WORKERS) as pool:
        waiting = [pool.submit(_work, folder, seconds, begin, seed) for seed in range(N_WORKERS)]
        return sum(worker.result() for worker in waiting)


def _work(folder: Path, seconds: float, begin: float, seed: int) -> float:
    reader = ShardReader(folder)

    def read(rng: np.random.Generator) -> None:
        reader.read(int(rng.integers(len(reader))), int(rng.integers(N_FRAMES - CLIP + 1)), CLIP)

    time.sleep(max(0.0, begin - time.time()))
    return _rate(read, seconds, seed)


if __name__ == "__main__":
    main()
