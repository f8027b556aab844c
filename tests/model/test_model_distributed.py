"""bjepa-train under torchrun on two processes (gloo) against one: the same losses and weights."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bjepa.cli.train import main
from bjepa.model.checkpoint import load_checkpoint
from bjepa.model.runlog import read_metrics

trainer: Any = importlib.import_module("bjepa.model.trainer")  # a part of which is replaced below
# 7 series, 5 an update, one at a time: shares of 3 and 2 (and a filler), then of 1 and 1. 20 updates
RECIPE = """\
[model]
n_frames = 12
patch_size = 3
embed_dim = 16
depth = 2
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
[train]
epochs = 10
batch_size = 1
accumulation = 5
seed = 4
[optimizer]
warmup_epochs = 1
max_grad_norm = 0.5
# gradients that are 0 but for rounding (the keys' biases) would be blown up to steps of lr
eps = 1e-3
"""
TOLERANCE = 1e-5  # of losses and weights after 20 updates


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, write_seven_scans: Callable[[Path], None]) -> Path:
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("work")
    write_seven_scans(folder)
    (folder / "recipe.toml").write_text(RECIPE)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(arguments(folder, "alone")) == 0
        with monkeypatch.context() as patch:  # stopped after update 11 of 20, in the middle of an epoch
            patch.setattr(trainer, "train_step", stop_at(11))
            assert main(arguments(folder, "begun alone")) == 1
    finally:
        torch.set_num_threads(n_threads)
    return folder


def stop_at(update: int) -> Callable[..., Any]:
    """train_step that sends SIGTERM in that update."""
    step, calls = trainer.train_step, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    return counted


def arguments(work: Path, run: str, more: Sequence[str] = ()) -> list[str]:
    given = {"--data": "data", "--gradients": "gradients.csv", "--output": run}
    paths = [word for option, name in given.items() for word in (option, str(work / name))]
    return [str(work / "recipe.toml"), *paths, "--device", "cpu", *more]


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
SCRIPT = """\
import json, os, sys
import torch.distributed as dist
from bjepa.cli.train import main
from bjepa.model import trainer

trainer.write_report = lambda *_, **__: None  # a second a run, and nothing to do with this
dist.init_process_group("gloo")  # once for all runs
for arguments, expected in json.loads(sys.argv[1]):
    status = main(arguments)
    assert status == expected, (os.environ["RANK"], arguments, status)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(work: Path) -> str:
    """stderr of one torchrun in which everything that these tests look at is run."""
    fsdp = ["--set", "train.parallel=fsdp", "--set", "train.activation_checkpointing=true"]
    jobs = [
        (arguments(work, "ddp"), 0),
        (arguments(work, "fsdp", fsdp), 0),
        (arguments(work, "alone"), 2),
        (arguments(work, "begun alone", [*fsdp, "--resume"]), 0),
    ]
    (work / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", str(work / "train.py"), json.dumps(jobs)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same(work: Path, run: str, other: str, *, tolerance: float = TOLERANCE) -> None:
    rows = [[r for r in read_metrics(work / name) if "step" in r] for name in (run, other)]
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]] == list(range(1, 21))
    for name in ("loss", "grad_norm", "loss_cross_roi", "loss_cross_time", "loss_double_cross", "lr", "ema"):
        one, two = (np.array([r[name] for r in some], dtype=float) for some in rows)
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance, err_msg=name)
    weights, expected = (load_file(work / name / "model/model.safetensors") for name in (run, other))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(work: Path, told: str, parallel: str) -> None:
    assert f"2 processes, {parallel}" in told
    assert_same(work, parallel, "alone")
    alone, here = (load_checkpoint(work / run / "checkpoints/last.pt") for run in ("alone", parallel))
    assert here.update == 20
    for number, moments in alone.optimizer["state"].items():  # one format: whole tensors
        for name, value in moments.items():
            torch.testing.assert_close(here.optimizer["state"][number][name], value, rtol=0, atol=TOLERANCE)


def test_a_run_goes_on_in_another_number_of_processes(work: Path, told: str) -> None:
    assert "Going on after epoch 5 and 1 of 2 updates (update 11)" in told
    assert "The run began with 1 processes, this session has 2" in told
    assert_same(work, "begun alone", "alone")


def test_the_first_process_tells_for_all(told: str) -> None:
    assert told.count("epoch 10/10: loss") == 3  # three runs
    assert "alone is not empty" in told  # all of them stop, none waits for the others
