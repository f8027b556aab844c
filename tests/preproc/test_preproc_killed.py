"""kill -9 at random moments, then the same command again: the same bytes, and nothing half-written."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bjepa.preproc.files import find_leftovers

SHAPE, AFFINE = (9, 11, 7), np.diag([3.0, 3.5, 4.0, 1.0])
N_SCANS, N_ROIS = 30, 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "bold").mkdir()
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.int16)
    for region in range(1, N_ROIS + 1):
        labels[1:8, 2 * region - 1 : 2 * region + 1, 1:6] = region
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "own.nii.gz")
    names = "".join(f"{k}\tr{k}\n" for k in range(1, N_ROIS + 1))
    (folder / "own.tsv").write_text("index\tname\n" + names)
    for scan in range(N_SCANS):
        n_frames, t_r = 40 + scan, (0.8, 2.0)[scan % 2]
        data = rng.normal(1000, 20, (*SHAPE, n_frames)).astype(np.float32)
        image = nib.Nifti1Image(data, AFFINE)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((3.0, 3.5, 4.0, t_r))
        image.set_sform(AFFINE, code=4)
        nib.save(image, folder / "bold" / f"sub-{scan:02d}_task-rest_bold.nii.gz")
    return folder


def _command(cohort: Path, out: Path, stage: str) -> list[str]:
    return [
        *(sys.executable, "-c", "import sys; from bjepa.cli.preprocess import main; sys.exit(main())"),
        *(str(cohort / "bold"), str(out), stage, "--atlas", str(cohort / "own.nii.gz")),
        *("--atlas-labels", str(cohort / "own.tsv"), "--space", "here", "--low-pass", "0.2"),
        *("--n-jobs", "1", "--log-level", "error"),
    ]


def _run(cohort: Path, out: Path, stage: str) -> None:
    subprocess.run(_command(cohort, out, stage), check=True, stderr=subprocess.DEVNULL)


def _run_and_kill(cohort: Path, out: Path, stage: str, moments: random.Random) -> bool:
    """Whether the process was still at work when it was killed.

    Start-up takes longer than the work: wait until a random number of scans is done, or the group stage has
    taken its lock, and then a random moment more.
    """
    process = subprocess.Popen(
        _command(cohort, out, stage), stderr=subprocess.DEVNULL, start_new_session=True
    )
    n_done = moments.randrange(N_SCANS)
    while process.poll() is None:
        done = len(list(out.glob("sub-*/func/*_timeseries.json")))
        if done >= n_done if stage == "participant" else (out / "work/group.lock").exists():
            break
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.03 if stage == "participant" else 0.6))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def _bytes(out: Path) -> dict[str, bytes]:
    """Everything that a reader would open, by name."""
    kept = [*out.glob("shards/*.h5"), *out.glob("sub-*/**/*.*"), *out.glob("*.tsv")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(kept)}


def _kill_often(cohort: Path, folder: Path, n_kills: int) -> None:
    whole = folder / "whole"
    for stage in ("participant", "group"):
        _run(cohort, whole, stage)
    expected = _bytes(whole)
    assert len([name for name in expected if name.endswith("_timeseries.json")]) == N_SCANS
    moments = random.Random(0)
    for stage in ("participant", "group"):
        hit = 0
        for number in range(n_kills):
            out = folder / f"{stage}-{number}"
            if stage == "group":
                _run(cohort, out, "participant")
            hit += _run_and_kill(cohort, out, stage, moments)
            _run(cohort, out, stage)
            if stage == "participant":
                _run(cohort, out, "group")
            assert _bytes(out) == expected, f"killed in {stage}, number {number}"
            assert find_leftovers(out) == [] and not list(out.rglob("shards-*"))
        assert hit >= n_kills // 2, f"only {hit} of {n_kills} kills met a running process"


def test_killed_and_repeated_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    _kill_often(cohort, tmp_path, n_kills=2)


@pytest.mark.slow
def test_killed_twenty_times_in_each_stage(cohort: Path, tmp_path: Path) -> None:
    _kill_often(cohort, tmp_path, n_kills=20)
