"""examples/slurm/train.sh: one launcher a node; back into the queue at the time limit."""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples/slurm/train.sh"
JOB = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "16",
    "RECIPE": "vit_base",
    "DATA": "data folder",
    "GRADIENTS": "g.csv",
    "RUN": "run",
    "MORE": "--set train.parallel=fsdp",
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment whose srun and scontrol write down what they are told."""
    commands = {
        "srun": 'printf "%s\\n" "$@" > "$TOLD/srun"; echo "$OMP_NUM_THREADS" > "$TOLD/threads"; '
        'trap "touch $TOLD/ended; exit 1" TERM; [ -z "${SLEEP:-}" ] || { sleep "$SLEEP" & wait $!; }',
        "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "$@" > "$TOLD/scontrol"; '
        "fi",
    }
    for name, body in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.environ | JOB | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TOLD": str(tmp_path)}


@pytest.mark.parametrize("script", sorted(SCRIPT.parent.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_what_is_started(cluster: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(["bash", str(SCRIPT)], env=cluster, check=True)
    words = (tmp_path / "srun").read_text().splitlines()
    assert {"--ntasks=2", "--ntasks-per-node=1", "--nnodes=2", "--nproc-per-node=4"} <= set(words)
    assert "--rdzv-endpoint=node1:24242" in words and (tmp_path / "threads").read_text() == "4\n"
    command = words[words.index("--no-python") + 1 :]
    assert command == [
        *("bjepa-train", "vit_base", "--data", "data folder", "--gradients", "g.csv"),
        *("--output", "run", "--resume", "--set", "train.parallel=fsdp"),
    ]
    assert not (tmp_path / "scontrol").exists()
    missing = {name: value for name, value in cluster.items() if name != "DATA"}
    assert subprocess.run(["bash", str(SCRIPT)], env=missing, capture_output=True).returncode != 0


def test_time_limit_goes_back_into_the_queue(cluster: dict[str, str], tmp_path: Path) -> None:
    job = subprocess.Popen(["bash", str(SCRIPT)], env=cluster | {"SLEEP": "30", "MORE": ""})
    deadline = time.monotonic() + 20
    while not (tmp_path / "threads").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)  # until it waits
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    assert (tmp_path / "ended").exists()  # asked to end, so that it can write a checkpoint
    assert (tmp_path / "scontrol").read_text() == "requeue 4242\n"
