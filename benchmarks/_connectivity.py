"""How fast group connectivity streams over shards, and in how much memory.

The bound is `syrk`: the BLAS routine that forms X'X, alone, on the same series, centred and in memory, in the
same dtype (float64), on one core. What streaming adds is reading, centring, normalising, logarithms and the
sums. Scans of 450 regions, half of them 160 frames long and half 490.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _memory import peak_rss_mb
from numpy.typing import NDArray

from bjepa.gradients.connectivity.measure import Measure, mean_connectivity
from bjepa.gradients.connectivity.scan_maps import fisher_z
from bjepa.gradients.connectivity.series import unit_series
from bjepa.gradients.scans import ShardScans
from bjepa.preproc.shards import ShardReader, ShardScan, write_shard

N_ROIS, FRAMES = 450, (160, 490)
SCANS_OF_EACH = 50  # of each length, on disk; larger cohorts have each of them several times
COPIES = 4  # of them in the cohort that is timed


def measure_connectivity(*, repeats: int = 7) -> list[str]:
    """Lines `name: value unit`: share of syrk's speed, scans per second, error, memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohorts = [ShardScans(ShardReader(_copies([_write_shard(folder, n)], COPIES))) for n in FRAMES]
        times = [_time(scans, repeats) for scans in cohorts]
        error = max(_error(scans.subset(range(0, SCANS_OF_EACH, 5))) for scans in cohorts)
        shards = sorted(folder.glob("shard-*.h5"))
        memory = [_peak_mb(_copies(shards, copies)) for copies in (1, 10)]
    total = {step: sum(seconds[step] for seconds in times) for step in times[0]}
    lines = [f"fc_streaming_vs_syrk: {total['syrk'] / total['stream']:.2f}"]
    lines += [
        f"fc_streaming_vs_syrk_{n_frames}_frames: {seconds['syrk'] / seconds['stream']:.2f}"
        for n_frames, seconds in zip(FRAMES, times, strict=True)
    ]
    n_scans = SCANS_OF_EACH * COPIES * len(FRAMES)
    lines += [
        f"fc_scans_per_s_1_core: {n_scans / total['wall_1']:.0f} scans/s",
        f"fc_scans_per_s_all_cores: {n_scans / total['wall_all']:.0f} scans/s",
        f"fc_max_abs_error: {error:.1e}",
        f"fc_memory_mb_100_scans: {memory[0]} MB",
        f"fc_memory_mb_1000_scans: {memory[1]} MB",
    ]
    return lines


def _write_shard(folder: Path, n_frames: int) -> Path:
    rng = np.random.default_rng(n_frames)
    mixing = rng.standard_normal((N_ROIS, N_ROIS)) / 20 + np.eye(N_ROIS)
    path = folder / f"shard-{n_frames:05d}.h5"
    rois = {c: [f"{c}-{k}" for k in range(N_ROIS)] for c in ("name", "structure", "hemisphere")}
    rois |= {c: [""] * N_ROIS for c in ("network7", "network17")}
    write_shard(
        path,
        [
            ShardScan(
                entities={
                    "scan_id": f"sub-{number}_{n_frames}",
                    "participant_id": f"sub-{number}",
                    "session": "",
                    "task": "rest",
                    "run": "",
                },
                t_r=2.0,
                t_r_out=2.0,
                valid=np.ones(N_ROIS, dtype=bool),
                phases=[(rng.standard_normal((n_frames, N_ROIS)) @ mixing).astype(np.float32)],
            )
            for number in range(SCANS_OF_EACH)
        ],
        atlas="simulated",
        atlas_sha256="0" * 64,
        rois=rois,
        median=np.zeros(N_ROIS),
        iqr=np.ones(N_ROIS),
        scaling="none",
        target_t_r=2.0,
    )
    return path


def _time(scans: ShardScans, repeats: int) -> dict[str, float]:
    """Best of the repeats, in turn: CPU seconds of syrk and of the stream, wall seconds of the stream."""
    from scipy.linalg.blas import dsyrk
    from threadpoolctl import threadpool_limits

    units = [unit_series(scans.phases(number)[0])[0] for number in range(SCANS_OF_EACH)]
    triangle = np.zeros((N_ROIS, N_ROIS), order="F")

    def syrk() -> None:
        for unit in COPIES * units:
            dsyrk(1.0, unit.T, c=triangle, overwrite_c=1)

    best: dict[str, float] = {}
    for _ in range(repeats):
        with threadpool_limits(1):
            _keep_best(best, "syrk", time.process_time, syrk)
        start = time.perf_counter()
        _keep_best(best, "stream", time.process_time, lambda: mean_connectivity(scans, Measure()))
        best["wall_1"] = min(best.get("wall_1", np.inf), time.perf_counter() - start)
        _keep_best(
            best, "wall_all", time.perf_counter, lambda: mean_connectivity(scans, Measure(), n_jobs=-1)
        )
    return best


def _keep_best(best: dict[str, float], name: str, clock: Callable[[], float], run: Callable[[], Any]) -> None:
    start = clock()
    run()
    best[name] = min(best.get(name, np.inf), clock() - start)


def _error(scans: ShardScans) -> float:
    """Largest difference from the mean of maps that are formed one by one."""
    plain: NDArray[np.float64] = np.mean([fisher_z(scans.phases(n)[0]) for n in range(len(scans))], axis=0)
    return float(np.abs(mean_connectivity(scans, Measure()) - plain).max())


def _copies(shards: list[Path], copies: int) -> Path:
    """A folder that holds each of the shards so many times, as links."""
    folder = shards[0].parent / f"{copies}-of-{'-'.join(shard.stem for shard in shards)}"
    folder.mkdir()
    for number in range(copies):
        for shard in shards:
            (folder / f"{shard.stem}-{number}.h5").symlink_to(shard)
    return folder


def _peak_mb(folder: Path) -> int:
    """Peak memory of a process of its own that streams the shards of a folder, on one core."""
    command = [sys.executable, __file__, str(folder)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":  # one measurement of memory
    mean_connectivity(ShardScans(ShardReader(sys.argv[1])), Measure())
    print(peak_rss_mb())
