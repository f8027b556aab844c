"""Raw fMRI of a simulated participant through bjepa-preprocess: minutes, memory, and how near the truth.

    python benchmarks/raw.py [--frames 200] [--threads 1] [--motion-mm 3] [--template FILE --atlas FILE]
                             [--keep FOLDER] [--sloppy]

One participant at full quality (T1w of 1 mm, BOLD of 64 x 72 x 42 voxels, 3 x 3 x 3.6 mm), two runs. The
first call does the first run and with it the anatomy, the second call the second run alone; each is a process
of its own. Times are of the clock, with those of the CPU beside them for a busy machine. By default the head
is made of nilearn's template and registered to it, with the demo atlas; with --template and --atlas (a label
image 1 to 450 in that template's space) it is made of those, and --register says what it is registered to:
`given`, or `bundled` (nilearn's).
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from _memory import peak_rss_mb

from bjepa.preproc.demo.atlas import N_ROIS, build_demo_atlas, write_demo_atlas
from bjepa.preproc.demo.raw_accuracy import run_accuracy
from bjepa.preproc.demo.raw_cohort import RawProtocol, write_raw_cohort

SPACE = "MNI152NLin2009cAsym"


def main() -> None:
    """Simulate, run the command twice, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of a registration (default: 1)")
    parser.add_argument("--motion-mm", type=float, default=3.0)
    parser.add_argument("--template", type=Path, help="skull-stripped T1w that the head is made of")
    parser.add_argument("--atlas", type=Path, help="label image in the space of --template")
    parser.add_argument("--register", choices=("given", "bundled"), default="given")
    parser.add_argument("--keep", type=Path, help="folder for input and output (default: deleted)")
    parser.add_argument("--sloppy", action="store_true", help="few iterations: to try this file")
    parser.add_argument("--command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # for its memory
    args = parser.parse_args()
    if args.command is not None:
        _run(args.command)
        return
    if (args.template is None) != (args.atlas is None):
        parser.error("--template and --atlas go together")
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _measure(args, folder)


def _measure(args: argparse.Namespace, folder: Path) -> None:
    atlas = _atlas(args.atlas, folder)
    begin = time.perf_counter()
    (truth,) = write_raw_cohort(
        folder / "raw",
        atlas_labels=nib.load(atlas),
        template=None if args.template is None else nib.load(args.template),
        n_participants=1,
        n_frames=args.frames,
        runs=2,
        protocol=RawProtocol(motion_mm=args.motion_mm),
    )
    print(f"simulated two runs of {args.frames} volumes in {time.perf_counter() - begin:.0f} s")
    command = [str(folder / "raw"), str(folder / "out"), "participant", "--space", SPACE]
    command += ["--atlas", str(atlas), "--atlas-labels", str(atlas.with_name("labels.tsv"))]
    command += ["--omp-threads", str(args.threads), "--n-jobs", "1", "--confounds", "none"]
    command += ["--sloppy"] if args.sloppy else []
    if args.template is not None and args.register == "given":
        command += ["--template", str(args.template)]
    first, second = (_call([*command, "--run-id", run], args.threads) for run in "12")
    found = [run_accuracy(folder / "out", truth, run) for run in truth.runs]
    print(f"{os.cpu_count()} cores, {args.threads} thread(s), motion to {args.motion_mm:g} mm\n")
    print(f"{'run':>4}{'motion':>9}{'rigid':>8}{'centroids':>11}{'p95':>7}{'lost':>6}{'fc r':>7}{'true':>7}")
    for number, one in enumerate(found, 1):
        print(
            f"{number:4}{one.motion_rms_mm:9.3f}{one.rigid_mm:8.2f}{one.centroid_median_mm:11.2f}"
            f"{one.centroid_p95_mm:7.2f}{len(one.lost):6}{one.fc_r:7.3f}{one.fc_r_true_labels:7.3f}"
        )
    print(f"\nparticipant_with_one_run: {first['seconds'] / 60:.1f} min")
    print(f"participant_with_one_run_cpu: {first['cpu_seconds'] / 60:.1f} min")
    print(f"further_run: {second['seconds']:.0f} s")
    print(f"further_run_cpu: {second['cpu_seconds']:.0f} s")
    print(f"peak_rss: {max(first['peak_mb'], second['peak_mb'])} MB")
    print(f"motion_rms: {max(one.motion_rms_mm for one in found):.3f} mm")
    print(f"motion_rms_rotation: {max(one.motion_rms_degrees for one in found):.3f} degrees")
    print(f"centroid_median: {max(one.centroid_median_mm for one in found):.2f} mm")
    print(f"centroid_p95: {max(one.centroid_p95_mm for one in found):.2f} mm")
    print(f"fc_r: {min(one.fc_r for one in found):.3f}")
    print(f"fc_r_true_labels: {min(one.fc_r_true_labels for one in found):.3f}")


def _atlas(given: Path | None, folder: Path) -> Path:
    """The label image with `labels.tsv` beside it: the demo atlas at 3 mm, or the given one as int16."""
    if given is None:
        write_demo_atlas(build_demo_atlas(3.0), folder / "atlas")
        (folder / "atlas" / "demo_dseg.tsv").replace(folder / "atlas" / "labels.tsv")
        return folder / "atlas" / "demo_dseg.nii.gz"
    image, path = nib.load(given), folder / "atlas" / "atlas.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), path)
    index = np.arange(1, N_ROIS + 1)
    table = pd.DataFrame({"index": index, "name": [f"region-{k}" for k in index]})
    table.to_csv(path.with_name("labels.tsv"), sep="\t", index=False)
    return path


def _call(command: list[str], threads: int) -> dict[str, Any]:
    """The command in a process of its own: seconds and peak MB."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | {name: str(threads) for name in names}
    done = subprocess.run(
        [sys.executable, __file__, "--command", *command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if told["status"] != 0:
        raise SystemExit(f"bjepa-preprocess ended with {told['status']}")
    return told


def _run(command: list[str]) -> None:
    from bjepa.cli.preprocess import main as preprocess

    begin = time.perf_counter()
    status = preprocess(command)
    told = {"status": status, "seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time()}
    print(json.dumps(told | {"peak_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
