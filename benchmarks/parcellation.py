"""Parcellation against nilearn and against bare decompression, interleaved in one run.

    python benchmarks/parcellation.py [--frames 60] [--repeats 3]

Simulated int16 run on the demo atlas' kind of labels: a 3 mm grid against a 2 mm atlas, so that data must be
resampled. Prints CPU seconds (median over repeats) and, last, ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nilearn.maskers import NiftiLabelsMasker

from bjepa.preproc import extract_timeseries, load_atlas
from bjepa.preproc.atlas import Atlas

GRID, AFFINE = (61, 73, 61), np.array([[-3.0, 0, 0, 90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
ATLAS_GRID, ATLAS_AFFINE = (
    (91, 109, 91),
    np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]),
)


def main() -> None:
    """Make the data, time the three in turn, print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        atlas, bold = _make(Path(folder), args.frames)
        masker = NiftiLabelsMasker(atlas.labels_img, standardize=None, resampling_target="labels")
        contestants: dict[str, Callable[[], object]] = {
            "decompression": lambda: _inflate(bold),
            "bjepa": lambda: extract_timeseries(bold, atlas, operator_cache=Path(folder)),
            "nilearn": lambda: masker.fit_transform(bold),
        }
        extract_timeseries(bold, atlas, operator_cache=Path(folder))  # the operator is built once per grid
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(args.repeats):
            for name, run in contestants.items():
                start = time.process_time()
                run()
                seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':14s}{'CPU s':>8s}   {args.frames} frames of {GRID}, int16, .nii.gz; {atlas.n_rois} regions")
    for name, value in median.items():
        print(f"{name:14s}{value:8.2f}")
    print(f"speedup: {median['nilearn'] / median['bjepa']:.1f} x")
    print(f"over_decompression: {median['bjepa'] / median['decompression']:.2f} x")


def _make(folder: Path, n_frames: int) -> tuple[Atlas, Path]:
    """450 compact regions (nearest of random seeds within a ball) and a run of smooth-ish noise."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    inside = np.argwhere(np.ones(ATLAS_GRID, bool))
    centre = np.array(ATLAS_GRID) / 2
    inside = inside[np.linalg.norm((inside - centre) / centre, axis=1) < 0.75]
    seeds = inside[rng.choice(len(inside), 450, replace=False)]
    labels = np.zeros(ATLAS_GRID, np.int16)
    labels[tuple(inside.T)] = 1 + cKDTree(seeds).query(inside)[1]
    nib.save(nib.Nifti1Image(labels, ATLAS_AFFINE), folder / "labels.nii.gz")
    (folder / "labels.tsv").write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in range(1, 451)))
    data = rng.normal(8000, 300, (*GRID, n_frames)).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(AFFINE, code=4)
    nib.save(image, folder / "bold.nii.gz")
    atlas = load_atlas(folder / "labels.nii.gz", space="simulated", labels_tsv=folder / "labels.tsv")
    return atlas, folder / "bold.nii.gz"


def _inflate(path: Path) -> None:
    with igzip.open(path, "rb") as stream:
        while stream.read(1 << 20):
            pass


if __name__ == "__main__":
    main()
