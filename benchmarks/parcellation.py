"""Parcellation against nilearn and against bare decompression, interleaved in one run.

    python benchmarks/parcellation.py [--frames 200] [--frames-3mm 60] [--repeats 3]

Two simulated runs, as scanners and pipelines give them: int16 on the atlas' own 2 mm grid (91 x 109 x 91),
and float32 on a 3 mm grid, which must be resampled. 450 compact regions. Prints CPU seconds (median over
repeats), the peak memory of each contestant in a process of its own, and last the ratios. Writing the runs
takes a minute.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from _memory import peak_rss_mb
from isal import igzip

from bjepa.preproc import extract_timeseries, load_atlas
from bjepa.preproc.atlas import Atlas

N_ROIS = 450
GRID_2MM = (91, 109, 91), np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
GRID_3MM = (61, 73, 61), np.array([[-3.0, 0, 0, 90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
CONTESTANTS = ("decompression", "bjepa", "nilearn")


@dataclass(frozen=True)
class Case:
    """One run on disk."""

    name: str
    path: Path
    n_frames: int
    what: str


def main() -> None:
    """Make the runs, time the three in turn, print the tables and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=200, help="of the 2 mm run (default: 200)")
    parser.add_argument("--frames-3mm", type=int, default=60, help="of the 3 mm run (default: 60)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # contestant, run: alone, for its memory
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        _contestants(args.folder, Path(args.one[1]))[args.one[0]]()
        print(peak_rss_mb())
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_atlas(folder)
        cases = [
            _write_run(folder, "2mm", GRID_2MM, args.frames, np.int16),
            _write_run(folder, "3mm", GRID_3MM, args.frames_3mm, np.float32),
            _write_run(folder, "2mm-long", GRID_2MM, 3 * args.frames, np.int16),
        ]
        ratios = {}
        for case in cases[:2]:
            ratios[case.name] = _measure(folder, case, args.repeats)
        long_rss = _peak_rss("bjepa", folder, cases[2])
        print(f"\nbjepa, {cases[2].n_frames} frames of 2 mm: peak RSS {long_rss} MB")
    for case_name, (speedup, over, rss) in ratios.items():
        suffix = {"2mm": "", "3mm": "_resampled"}[case_name]  # without suffix: on the atlas' own grid
        print(f"speedup{suffix}: {speedup:.1f} x")
        print(f"over_decompression{suffix}: {over:.2f} x")
        print(f"peak_rss{suffix}: {rss} MB")
    print(f"peak_rss_three_times_the_frames: {long_rss} MB")


def _measure(folder: Path, case: Case, repeats: int) -> tuple[float, float, int]:
    run = _contestants(folder, case.path)
    run["bjepa"]()  # the operator is built once per grid and kept
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(repeats):
        for name in CONTESTANTS:
            start = time.process_time()
            run[name]()
            seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rss = {name: _peak_rss(name, folder, case) for name in CONTESTANTS}
    print(f"\n{case.what}; {N_ROIS} regions\n{'':14s}{'CPU s':>8s}{'peak RSS MB':>13s}")
    for name in CONTESTANTS:
        print(f"{name:14s}{median[name]:8.2f}{rss[name]:13d}")
    return median["nilearn"] / median["bjepa"], median["bjepa"] / median["decompression"], rss["bjepa"]


def _contestants(folder: Path, run: Path) -> dict[str, Callable[[], object]]:
    atlas = _atlas(folder)
    return {
        "decompression": lambda: _inflate(run),
        "bjepa": lambda: extract_timeseries(run, atlas, operator_cache=folder),
        "nilearn": lambda: _by_nilearn(run, atlas),
    }


def _by_nilearn(run: Path, atlas: Atlas) -> object:
    from nilearn.maskers import NiftiLabelsMasker  # here, so that the others' memory does not hold it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that images are resampled, which is what is measured
        masker = NiftiLabelsMasker(atlas.labels_img, standardize=None, resampling_target="labels")
        return masker.fit_transform(run)


def _peak_rss(contestant: str, folder: Path, case: Case) -> int:
    """MB, of a process that does nothing else (Python and its libraries included)."""
    command = [sys.executable, __file__, "--one", contestant, str(case.path), "--folder", str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _write_atlas(folder: Path) -> None:
    """450 compact regions: nearest of random seeds within an ellipsoid."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    shape, affine = GRID_2MM
    inside = _brain(shape)
    seeds = inside[rng.choice(len(inside), N_ROIS, replace=False)]
    labels = np.zeros(shape, np.int16)
    labels[tuple(inside.T)] = 1 + cKDTree(seeds).query(inside)[1]
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    (folder / "labels.tsv").write_text(
        "index\tname\n" + "".join(f"{k}\tr{k}\n" for k in range(1, N_ROIS + 1))
    )


def _atlas(folder: Path) -> Atlas:
    return load_atlas(folder / "labels.nii.gz", space="simulated", labels_tsv=folder / "labels.tsv")


def _brain(shape: tuple[int, int, int]) -> np.ndarray:
    """(n, 3) voxels of an ellipsoid: 17 % of the volume, about 150,000 voxels at 2 mm."""
    voxels = np.argwhere(np.ones(shape, bool))
    centre = np.array(shape) / 2
    return voxels[np.linalg.norm((voxels - centre) / centre, axis=1) < 0.69]


def _write_run(
    folder: Path, name: str, grid: tuple[tuple[int, int, int], np.ndarray], n_frames: int, dtype: type
) -> Case:
    """A brain of level 8,000 that fluctuates by 1.5 % on a dim, noisy background."""
    shape, affine = grid
    rng = np.random.default_rng(1)
    level = np.full(shape, 40.0, np.float32)
    level[tuple(_brain(shape).T)] = 8000.0
    data = np.empty((*shape, n_frames), dtype, order="F")
    for frame in range(n_frames):
        noise = rng.standard_normal(shape, dtype=np.float32)
        data[..., frame] = level + (level * 0.015 + 5) * noise
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    path = folder / f"{name}.nii.gz"
    nib.save(image, path)
    what = f"{n_frames} frames of {shape}, {np.dtype(dtype).name}, .nii.gz of {path.stat().st_size >> 20} MB"
    return Case(name, path, n_frames, what)


def _inflate(path: Path) -> None:
    with igzip.open(path, "rb") as stream:
        while stream.read(1 << 20):
            pass


if __name__ == "__main__":
    main()
