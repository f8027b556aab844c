"""Is the loader ever the limit? Batches with masks, a second, against the fastest step that they must feed.

    python benchmarks/loader.py [--workers 0 2] [--batch-size 16] [--seconds 5] [--cold]

Writes shards of simulated series (450 regions, in a temporary folder) and reads them as training does, by
`read_portions`: with masks, collation, and a thread that reads ahead; nothing is computed beside it. One row
for each number of processes. Other work on the machine is not the loader's: the fastest second counts, and
the row of no process also gives the processor time of a series, which tells what a free core reaches.
The fastest step is that of the smallest shipped GPU recipe, `vit_small`, on one H100 at half of its peak,
counted with `flops.step_flops` and the mean mask; the margin is that of the best row.
"""

import argparse
import os
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from bjepa.model.config import Recipe, load_recipe
from bjepa.model.dataset import ShardDataset
from bjepa.model.flops import step_flops
from bjepa.model.loading import read_portions
from bjepa.model.masking import sample_mask
from bjepa.model.sampling import plan_epoch
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

PEAK_TFLOPS, UTILISATION = 989.0, 0.5  # H100 SXM, dense bf16
N_SCANS, N_FRAMES, N_SHARDS = 256, 490, 4
N_ROIS, N_GRADIENTS = 450, 30


def main() -> None:
    """Write shards, read epochs for the time given, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes (default: 0 2)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=5, help="of each row (default: 5)")
    parser.add_argument("--cold", action="store_true", help="drop the shards from the cache before each row")
    args = parser.parse_args()
    recipe = load_recipe("vit_small", n_rois=N_ROIS, n_gradients=N_GRADIENTS)
    recipe = replace(recipe, train=replace(recipe.train, batch_size=args.batch_size))
    needed = fastest_step(recipe)
    print(f"fastest step: {needed:.0f} series/s (vit_small, {UTILISATION:.0%} of {PEAK_TFLOPS:.0f} TFLOP/s)")
    rates, cpu_ms = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for n_workers in args.workers:
            with_workers = replace(recipe, data=replace(recipe.data, num_workers=n_workers))
            found = rate(Path(folder), with_workers, seconds=args.seconds, cold=args.cold)
            rates[n_workers], first, cpu_ms[n_workers] = found
            print(
                f"{n_workers} processes: {rates[n_workers] / args.batch_size:7.0f} batches/s "
                f"{rates[n_workers]:7.0f} series/s   first batch after {first:.2f} s"
            )
    for n_workers, fastest in rates.items():
        print(f"loader_workers_{n_workers}: {fastest:.0f} series/s")
    if 0 in cpu_ms:  # else it is spent elsewhere
        print(f"loader_cpu: {cpu_ms[0]:.3f} ms/series")
        print(f"loader_margin_of_a_free_core: {1000 / cpu_ms[0] / needed:.1f} x")
    print(f"mask_ms: {mask_ms(recipe):.3f} ms")
    print(f"loader_needed: {needed:.0f} series/s")
    print(f"loader_margin: {max(rates.values()) / needed:.1f} x")


def fastest_step(recipe: Recipe) -> float:
    """Series a second."""
    model, rng = recipe.model, np.random.default_rng(0)
    masks = [
        sample_mask(model.n_rois, model.n_patches, config=recipe.mask, generator=rng) for _ in range(200)
    ]
    flops = step_flops(
        model,
        context_lengths=[len(m.context_index) for m in masks],
        target_lengths=[len(m.target_index) for m in masks],
    )
    return UTILISATION * PEAK_TFLOPS * 1e12 / (flops.total / len(masks))


def write_data(folder: Path) -> None:
    """N_SHARDS shards of white noise."""
    rng = np.random.default_rng(0)
    for number in range(N_SHARDS):
        scans = [
            ShardScan(
                entities=dict(
                    scan_id=f"{number}-{n}", participant_id=f"{number}-{n}", session="", task="", run=""
                ),
                t_r=2.0,
                t_r_out=2.0,
                valid=np.ones(N_ROIS, dtype=bool),
                phases=[rng.standard_normal((N_FRAMES, N_ROIS), dtype=np.float32)],
            )
            for n in range(N_SCANS // N_SHARDS)
        ]
        write_shard(
            folder / f"shards/shard-{number:05}.h5",
            scans,
            atlas="simulated",
            atlas_sha256="00" * 32,
            rois={column: [f"r{i}" for i in range(N_ROIS)] for column in ROI_COLUMNS},
            median=np.zeros(N_ROIS),
            iqr=np.ones(N_ROIS),
            scaling="none",
            target_t_r=2.0,
        )


def rate(folder: Path, recipe: Recipe, *, seconds: int, cold: bool) -> tuple[float, float, float]:
    """Series a second in the fastest second, seconds until the first batch, and this process' ms a series."""
    reader = ShardReader(folder)
    model, train = recipe.model, recipe.train
    dataset = ShardDataset(
        reader, n_frames=model.n_frames, seed=train.seed, config=recipe.data, patch_size=model.patch_size
    )
    plan = [
        update
        for epoch in range(1, 1000)
        for update in plan_epoch(
            len(dataset), epoch=epoch, seed=train.seed, batch_size=train.batch_size, accumulation=1
        )
    ]
    if cold:
        forget(reader.paths)
    rates, n_series, n_all, began = [], 0, 0, time.perf_counter()
    with closing(read_portions(dataset, recipe, plan)) as portions:
        next(portions)
        first = time.perf_counter() - began
        lap, cpu = time.perf_counter(), time.process_time()
        for portion in portions:
            n_series += sum(len(batch.series) for batch in portion.batches)
            if (passed := time.perf_counter() - lap) > 1:
                rates.append(n_series / passed)
                n_all += n_series
                n_series, lap = 0, time.perf_counter()
                if len(rates) >= seconds:
                    break
        cpu = time.process_time() - cpu
    return max(rates), first, 1000 * cpu / n_all


def forget(paths: list[Path]) -> None:
    """Drop files from the system's cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def mask_ms(recipe: Recipe) -> float:
    """Milliseconds that a scan's masks take."""
    rng, n = np.random.default_rng(0), 2000
    began = time.perf_counter()
    for _ in range(n):
        sample_mask(recipe.model.n_rois, recipe.model.n_patches, config=recipe.mask, generator=rng)
    return 1000 * (time.perf_counter() - began) / n


if __name__ == "__main__":
    main()
