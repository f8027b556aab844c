"""Realignment of a simulated run: time a volume, memory and error, beside antspyx on a few of its volumes.

    python benchmarks/realignment.py [--frames 200] [--motion-mm 8] [--ants-frames 5]

The run: 64 x 72 x 42 voxels of 3 x 3 x 3.6 mm, a head that moves by up to 8 mm, noise, dropout. Seconds are
those of the CPU, one thread. Errors are RMS over a sphere of 50 mm, after the one rigid matrix that lies
between the two references. antspyx registers each volume to our mean image (`BOLDRigid`, as it comes, one
thread).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from _memory import peak_rss_mb
from numpy.typing import NDArray

from bjepa.preproc.demo.raw_cohort import RawProtocol, RunTruth, write_raw_cohort
from bjepa.preproc.demo.raw_error import demo_labels, motion_error
from bjepa.preproc.raw.motion import estimate_motion
from bjepa.preproc.raw.reference import mean_image
from bjepa.preproc.stream import open_bold

F = NDArray[np.float64]


def main() -> None:
    """Simulate, realign, register a few volumes with antspyx, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--motion-mm", type=float, default=8.0)
    parser.add_argument("--ants-frames", type=int, default=5)
    args = parser.parse_args()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # ITK reads it once
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        protocol = RawProtocol(motion_mm=args.motion_mm)
        truth = write_raw_cohort(
            folder / "raw",
            atlas_labels=demo_labels(),
            n_participants=1,
            n_frames=args.frames,
            protocol=protocol,
        )[0].runs[0]
        ours = _ours(truth)
        frames = np.linspace(truth.n_non_steady, args.frames - 1, args.ants_frames).round().astype(int)
        theirs = _antspyx(truth, ours.boldref, frames, folder)
        few = motion_error(_only(truth, frames), ours.matrices[frames])
        memory = subprocess.run(
            [sys.executable, __file__, "--peak", str(truth.path)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    error = motion_error(truth, ours.matrices)
    their_few = motion_error(_only(truth, frames), theirs.matrices)
    print(f"ours: {ours.seconds:.3f} s/volume")
    print(f"antspyx: {theirs.seconds:.3f} s/volume")
    print(f"memory: {memory.strip()} MB, peak of a process that realigns")
    print(f"error_rms: {error.rms_mm:.3f} mm, {error.rms_degrees:.3f} degrees")
    print(f"error_largest: {error.largest_mm:.3f} mm")
    print(f"error_median_of_{len(frames)}_frames_ours: {few.median_mm:.3f} mm")
    print(f"error_median_of_{len(frames)}_frames_antspyx: {their_few.median_mm:.3f} mm")
    print(f"speedup: {theirs.seconds / ours.seconds:.0f} x")
    print(f"error_median: {error.median_mm:.3f} mm")


@dataclass(frozen=True, eq=False)
class _Result:
    seconds: float  # a volume
    matrices: F
    boldref: nib.Nifti1Image


def _ours(truth: RunTruth) -> _Result:
    bold = open_bold(truth.path)
    start = time.process_time()
    motion = estimate_motion(bold, skip=truth.n_non_steady)
    seconds = (time.process_time() - start) / bold.n_frames
    return _Result(seconds, motion.matrices, mean_image(bold, motion, skip=truth.n_non_steady))


def _antspyx(truth: RunTruth, boldref: nib.Nifti1Image, frames: NDArray[np.int64], folder: Path) -> _Result:
    import ants

    nib.save(boldref, folder / "boldref.nii")
    fixed, run = ants.image_read(str(folder / "boldref.nii")), nib.load(truth.path)
    matrices, seconds = [], 0.0
    for frame in frames:
        volume = np.asarray(run.dataobj[..., frame], dtype=np.float32)
        nib.save(nib.Nifti1Image(volume, boldref.affine), folder / "frame.nii")
        moving = ants.image_read(str(folder / "frame.nii"))
        start = time.process_time()
        found = ants.registration(
            fixed, moving, type_of_transform="BOLDRigid", outprefix=str(folder / f"frame-{frame}-")
        )
        seconds += time.process_time() - start
        transform = ants.read_transform(found["fwdtransforms"][0])
        matrices.append(_matrix_of(transform))
    return _Result(seconds / len(frames), np.stack(matrices), boldref)


def _matrix_of(transform: object) -> F:
    """(4, 4) RAS mm, from where the transform takes four points (ITK's are LPS)."""
    lps = np.array([-1.0, -1.0, 1.0])
    corners = 100 * np.vstack([np.zeros(3), np.eye(3)])
    moved = [lps * transform.apply_to_point(tuple(lps * corner)) for corner in corners]  # type: ignore[attr-defined]
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(moved[1:]) - moved[0]).T / 100
    matrix[:3, 3] = moved[0]
    return matrix


def _only(truth: RunTruth, frames: NDArray[np.int64]) -> RunTruth:
    return replace(truth, matrices=truth.matrices[frames])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        estimate_motion(open_bold(Path(sys.argv[2])))
        print(peak_rss_mb())
    else:
        main()
