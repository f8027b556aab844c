"""Time, memory and disk of the group stage, and what 40,000 scans would take.

    python benchmarks/group_stage.py [--scans 2000] [--frames 490] [--scaling robust]

Writes simulated scan files (490 frames x 450 regions and facts as long as real ones: 0.9 MB a scan, and as
much again for its shard), runs the group stage on a quarter of them and on all, each in a process of its own,
and prints time and peak memory of both. Memory must not grow with the scans but for their records. The
projection takes time and disk as proportional and memory as linear; files are in the page cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _memory import peak_rss_mb

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.group_stage import GroupOptions, run_group
from bjepa.preproc.report import CohortWatch, write_report
from bjepa.preproc.scaling import SCALING_METHODS
from bjepa.preproc.scan_files import write_scan

N_ROIS, PROJECTED = 450, 40_000


def main() -> None:
    """Write scans, measure, print the table and the projection."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=490, help="of a scan, 0.735 s apart (default: 490)")
    parser.add_argument("--scaling", choices=SCALING_METHODS, default="robust")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # the stage itself, for its memory
    args = parser.parse_args()
    if args.run is not None:
        _run(args.run, args.scaling)
        return
    few = max(1, args.scans // 4)
    with tempfile.TemporaryDirectory() as name:
        folder, measured = Path(name), {}
        for first, n_scans in ((0, few), (few, args.scans)):
            for number in range(first, n_scans):
                _write_scan(folder, number, args.frames)
            measured[n_scans] = _measure(folder, args.scaling)
        disk = {part: _bytes(folder, part) / args.scans for part in ("sub-*/func/*", "shards/*")}
    growth = (measured[args.scans]["peak_mb"] - measured[few]["peak_mb"]) / max(1, args.scans - few)
    per_scan = measured[args.scans]["seconds"] / args.scans
    print(f"scaling {args.scaling}, {args.frames} frames x {N_ROIS} regions, {os.cpu_count()} cores\n")
    print(f"{'scans':>8}{'s':>9}{'ms/scan':>9}{'peak MB':>9}   passes (s)")
    for n_scans, m in measured.items():
        passes = ", ".join(f"{name} {seconds:.1f}" for name, seconds in m["passes"].items())
        rate = 1e3 * m["seconds"] / n_scans
        print(f"{n_scans:8,}{m['seconds']:9.1f}{rate:9.1f}{m['peak_mb']:9,.0f}   {passes}")
    projected_mb = measured[args.scans]["peak_mb"] + max(0.0, growth) * (PROJECTED - args.scans)
    shown = sum(disk.values()) / 1e3
    print(
        f"\ndisk, a scan: files {disk['sub-*/func/*'] / 1e3:,.0f} kB, shard {disk['shards/*'] / 1e3:,.0f} kB"
    )
    print(f"memory_growth: {1e3 * growth:.2f} kB/scan")
    print(f"projected_time: {PROJECTED * per_scan / 60:.0f} min for {PROJECTED:,} scans")
    print(f"projected_memory: {projected_mb:.0f} MB for {PROJECTED:,} scans")
    print(f"projected_disk: {PROJECTED * shown / 1e6:.0f} GB for {PROJECTED:,} scans, both stages")


def _atlas() -> Atlas:
    index = np.arange(1, N_ROIS + 1)
    columns = ("name", "structure", "hemisphere", "network7", "network17")
    table = pd.DataFrame({"index": index, **{c: [f"{c}-{k}" for k in index] for c in columns}})
    return Atlas("simulated", "none", "n/a", None, table, [], kind="table")


def _write_scan(folder: Path, number: int, n_frames: int) -> None:
    rng = np.random.default_rng(number)
    level = rng.uniform(5000, 12000, N_ROIS) * rng.normal(1, 0.1)
    series = (rng.standard_normal((n_frames, N_ROIS), dtype=np.float32) * 80 + level).astype(np.float32)
    participant = f"sub-{number:07d}"
    facts: dict[str, Any] = {
        "scan_id": f"{participant}_ses-2_task-rest_space-MNI152NLin6Asym",
        "participant_id": participant,
        "session": "2",
        "task": "rest",
        "run": "",
        "source": f"/data/derivatives/fmriprep/{participant}/ses-2/func/{participant}_ses-2_task-rest"
        "_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz",
        "source_sha256": f"{number:064x}",
        "mask": None,
        "space": "n/a",
        "t_r": 0.735,
        "n_frames_in": n_frames,
        "n_frames": n_frames,
        "fd_mean": float(rng.uniform(0.05, 0.4)),
        "tsnr_median": float(rng.uniform(40, 90)),
        "coverage": rng.uniform(0.8, 1, N_ROIS).round(4).tolist(),
        "missing": [],
        "n_censored": 0,
        "n_dropped": 0,
        "n_invalid_voxels": 0,
        "confounds": [f"a_comp_cor_{k:02d}" for k in range(60)],
        "options": {"space": "n/a", "t_r": None, "min_coverage": 0.5, "max_missing": 0.05},
        "atlas": "simulated",
        "atlas_sha256": _atlas().sha256,
        "software": {"bjepa": "0", "numpy": "0"},
        "key": f"{number:032x}",
        "qc": {f"number_{k}": float(rng.random()) for k in range(12)},
    }
    stem = folder / participant / "func" / f"{facts['scan_id']}_seg-simulated_timeseries"
    write_scan(stem, series, np.zeros(n_frames, dtype=bool), facts)


def _measure(folder: Path, scaling: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", str(folder), "--scaling", scaling]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _run(folder: Path, scaling: Any) -> None:
    """The group stage as the command runs it; prints seconds, seconds of each pass, peak MB."""
    started: list[tuple[str, float]] = []
    begin = time.perf_counter()
    atlas, options = _atlas(), GroupOptions(scaling=scaling)
    watch = CohortWatch(atlas.table)
    result = run_group(
        atlas,
        folder,
        options,
        progress=lambda _: None,
        phase=lambda name, _: started.append((name, time.perf_counter())),
        observer=watch,
    )
    started.append(("report", time.perf_counter()))
    write_report(folder, atlas, result, options, watch.summary, watch.qc_table())
    end = time.perf_counter()
    ends = [t for _, t in started[1:]] + [end]
    passes = {name: stop - start for (name, start), stop in zip(started, ends, strict=True)}
    print(json.dumps({"seconds": end - begin, "passes": passes, "peak_mb": peak_rss_mb()}))


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


if __name__ == "__main__":
    main()
