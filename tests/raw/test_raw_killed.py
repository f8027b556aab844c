"""Killed at random moments and repeated: the same bytes, and nothing half-written."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bjepa.preproc.files import find_leftovers
from bjepa.preproc.raw.template import choose_template


def _command(cohort: Any, out: Path) -> list[str]:
    call = "import sys; from bjepa.cli.preprocess import main; sys.exit(main())"
    template = choose_template(space="MNI152NLin2009cAsym").path  # by its file: nothing is asked of a network
    one = ("--participant-label", "02", "--template", str(template))
    return [sys.executable, "-c", call, *cohort.command(out, *one)]


def _bytes(out: Path) -> dict[str, bytes]:
    """Everything but the memory of hashes, which knows when files were last changed, and the lock."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "hashes" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.suffix != ".lock"}


def _kill_often(cohort: Any, folder: Path, n_kills: int) -> None:
    out, moments = folder / "out", random.Random(0)  # one place: files name where they lie
    started = time.perf_counter()
    subprocess.run(_command(cohort, out), check=True)
    duration = time.perf_counter() - started
    expected = _bytes(out)
    assert any(name.endswith("_timeseries.h5") for name in expected)
    hit = 0
    for number in range(n_kills):
        shutil.rmtree(out)
        process = subprocess.Popen(_command(cohort, out), start_new_session=True)
        time.sleep((moments.uniform(0.15, 0.95) if n_kills > 1 else 0.5) * duration)
        hit += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(_command(cohort, out), check=True)
        found = _bytes(out)
        differ = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        assert differ == [], f"kill {number}"
        assert find_leftovers(out) == []
    assert hit >= max(1, n_kills // 2), f"only {hit} of {n_kills} kills met a running process"


def test_killed_and_repeated_gives_the_same_bytes(small_cohort: Any, tmp_path: Path) -> None:
    _kill_often(small_cohort, tmp_path, n_kills=1)


@pytest.mark.slow
def test_killed_ten_times(small_cohort: Any, tmp_path: Path) -> None:
    _kill_often(small_cohort, tmp_path, n_kills=10)
