"""preproc/files.py: whole or not at all, and what killed processes leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bjepa.preproc.files import find_leftovers, sweep_leftovers, write_aside


def _leave_one(path: Path) -> None:
    """A process that is killed while it writes `path`."""
    code = (
        "import os, sys; from pathlib import Path; from bjepa.preproc.files import write_aside\n"
        "with write_aside(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    _leave_one(tmp_path / "deep" / "scan_timeseries.h5")
    _leave_one(tmp_path / "atlas.nii.gz")
    _leave_one(tmp_path / "noextension")
    others = tmp_path / ".my.notes.tmp"
    others.write_text("not ours")
    with write_aside(tmp_path / "living.tsv") as aside:  # this process is alive: its file stays
        aside.write_text("a")
        assert len(find_leftovers(tmp_path)) == 3 and len(find_leftovers(tmp_path, deep=False)) == 2
        assert sweep_leftovers(tmp_path) == 2 and sweep_leftovers(tmp_path / "deep") == 1
        assert aside.exists()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".my.notes.tmp", "living.tsv"]


def test_another_machines_file_is_left_until_it_is_a_day_old(tmp_path: Path) -> None:
    foreign = tmp_path / f".scan.elsewhere.{os.getpid()}.0123abcd.tmp.h5"
    foreign.write_text("half")
    assert find_leftovers(tmp_path) == []
    yesterday = time.time() - 25 * 3600
    os.utime(foreign, (yesterday, yesterday))
    assert find_leftovers(tmp_path) == [foreign]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_aside(path) as aside:
        aside.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
