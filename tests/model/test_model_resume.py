"""Killed and resumed equals uninterrupted, bit for bit; what checkpoints are written, when, and by whom."""

import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bjepa.cli.train import main
from bjepa.model.checkpoint import BackgroundWriter, load_checkpoint
from bjepa.model.runlog import read_metrics
from bjepa.preproc.files import find_leftovers

trainer: Any = importlib.import_module("bjepa.model.trainer")  # whose parts are replaced below
RECIPE = """\
[model]
n_frames = 12
patch_size = 3
embed_dim = 16
depth = 1
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
patch_init_std = 0.25
[train]
epochs = 5
batch_size = 1
accumulation = 2
checkpoint_every = 2
checkpoint_minutes = 1e-9
seed = 4
[optimizer]
warmup_epochs = 1
"""
UPDATES = 4  # an epoch: 7 series, 2 an update


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, write_seven_scans: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_seven_scans(folder)
    (folder / "recipe.toml").write_text(RECIPE)
    assert main(arguments(folder, "whole")) == 0
    return folder


def arguments(work: Path, run: str, more: Sequence[str] = ()) -> list[str]:
    given = {"--data": "data", "--gradients": "gradients.csv", "--output": run}
    paths = [word for option, name in given.items() for word in (option, str(work / name))]
    return [str(work / "recipe.toml"), *paths, "--device", "cpu", *more]


def kill_and_resume(
    work: Path, run: str, kills: list[tuple[str, float]], more: Sequence[str] = ()
) -> list[str]:
    task = {"arguments": arguments(work, run, ["--resume", *more]), "kills": kills}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_and_resume.py")), json.dumps(task)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "status" not in done.stdout, done.stdout + done.stderr
    return done.stdout.split()


def assert_as_uninterrupted(
    work: Path, run: str, other: str = "whole", *, numbered: tuple[int, ...] = (2, 4, 5)
) -> None:
    for name in ("model/model.safetensors", "checkpoints/best.pt", "checkpoints/last.pt"):
        if name.endswith(".pt"):
            one, two = (load_checkpoint(work / r / name) for r in (run, other))
            for found in (one, two):
                del found.progress["seconds"]
            assert one.progress == two.progress
            assert all(torch.equal(one.jepa[k], two.jepa[k]) for k in two.jepa)
        else:
            assert (work / run / name).read_bytes() == (work / other / name).read_bytes()
    rows = [read_metrics(work / r) for r in (run, other)]
    for row in [row for some in rows for row in some]:
        for name in ("samples_per_s", "tokens_per_s", "seconds", "memory_gb"):
            row.pop(name, None)
    assert rows[0] == rows[1]
    assert not find_leftovers(work / run)
    assert {p.name for p in (work / run / "checkpoints").iterdir()} == {
        *("last.pt", "best.pt"),
        *(f"epoch-{number:04d}.pt" for number in numbered),
    }


def test_killed_within_an_epoch_and_while_writing(work: Path) -> None:
    # the 7th update is the third of epoch 2; then half of a checkpoint; then wherever 0.15 s is
    kills: list[tuple[str, float]] = [("update", 7), ("write", 3), ("seconds", 0.15)]
    ended = kill_and_resume(work, "killed", kills)
    assert ended == ["killed", "killed", "killed", "done"]
    assert_as_uninterrupted(work, "killed")
    assert "Going on after epoch 1 and 2 of 4 updates (update 6)" in (work / "killed/log.txt").read_text()


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(work: Path) -> None:
    long = ["--set", "train.epochs=80", "--set", "train.checkpoint_every=40"]
    assert main(arguments(work, "long", long)) == 0
    seed = int(time.time())
    draw = random.Random(seed)
    kills: list[tuple[str, float]] = [("seconds", draw.uniform(0.1, 0.5)) for _ in range(6)]
    kills += [("update", draw.randint(1, 6)) for _ in range(2)]
    kills += [("write", draw.randint(1, 5)) for _ in range(2)]
    draw.shuffle(kills)
    ended = kill_and_resume(work, "ten", kills, long)
    assert ended == ["killed"] * 10 + ["done"], (seed, kills)
    assert_as_uninterrupted(work, "ten", "long", numbered=(40, 80))


def test_what_is_written_and_when(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, str]] = []
    save = trainer.save_checkpoint

    def noted(path: Path, checkpoint: Any) -> None:
        written.append((path.name, checkpoint.update, threading.current_thread().name))
        save(path, checkpoint)

    better = iter([0.1, math.nan, 0.05, 0.2, 0.1])
    look = trainer.Monitor.__call__
    monkeypatch.setattr(
        trainer.Monitor, "__call__", lambda *a, **k: look(*a, **k) | {trainer.BEST_BY: next(better)}
    )
    monkeypatch.setattr(trainer, "save_checkpoint", noted)
    assert main(arguments(work, "written", ["--set", "train.checkpoint_minutes=0"])) == 0
    assert [w[:2] for w in written] == [
        *(("best.pt", 4), ("last.pt", 4)),
        *(("epoch-0002.pt", 8), ("last.pt", 8)),
        ("last.pt", 12),
        *(("epoch-0004.pt", 16), ("best.pt", 16), ("last.pt", 16)),
        *(("epoch-0005.pt", 20), ("last.pt", 20)),
    ]
    assert {w[2] for w in written} == {"bjepa-writer"}
    best = load_checkpoint(work / "written/checkpoints/best.pt")
    assert best.progress["best"] == 0.2 and best.epoch == 4
    # what is written does not change what is learnt
    model = "model/model.safetensors"
    assert (work / "written" / model).read_bytes() == (work / "whole" / model).read_bytes()


def test_a_checkpoint_is_of_its_moment_though_training_goes_on(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, release, seen = trainer.save_checkpoint, threading.Event(), []

    def slow(path: Path, checkpoint: Any) -> None:
        if checkpoint.update == 1:
            assert release.wait(60)
        seen.append(checkpoint.update)
        save(path.with_name(f"at-{checkpoint.update}.pt"), checkpoint)

    step = trainer.train_step

    def released_later(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        steps.append(1)
        if len(steps) == 3:  # two more updates were made while the first checkpoint waited
            release.set()
        return result

    steps: list[int] = []
    monkeypatch.setattr(trainer, "save_checkpoint", slow)
    monkeypatch.setattr(trainer, "train_step", released_later)
    assert (
        main(arguments(work, "moment", ["--set", "train.epochs=1", "--set", "train.checkpoint_every=9"])) == 0
    )
    assert seen[0] == 1 and 2 not in seen  # at most one is under way: that after update 2 was left out
    monkeypatch.undo()

    states: list[Any] = []

    def keep_and_stop(run: Any, _: Any) -> None:
        states.append(run.checkpoint())
        raise KeyboardInterrupt

    # a run that stops after its first update has the same weights
    monkeypatch.setattr(trainer, "_save_within_epoch", keep_and_stop)
    assert main(arguments(work, "stopped", ["--set", "train.epochs=1"])) == 1
    first = load_checkpoint(work / "moment/checkpoints/at-1.pt")
    assert all(torch.equal(first.jepa[k], states[0].jepa[k]) for k in first.jepa)


def test_writing_that_fails_stops_the_run(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, checkpoint: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    assert main(arguments(work, "full")) == 1
    error = capsys.readouterr().err
    assert "last.pt: No space left on device" in error and "Traceback" not in error


def test_a_writer_does_one_job_at_a_time() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def job() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1

    def fail() -> None:
        raise OSError("broken")

    with BackgroundWriter() as writer:
        for _ in range(3):
            writer.start(job)
        assert not writer.is_idle
        writer.wait()
        assert writer.is_idle and (at_once, most) == (0, 1)
        writer.start(fail)
        with pytest.raises(OSError, match="broken"):
            writer.wait()
        assert writer.is_idle  # told once
    with pytest.raises(OSError, match="broken"), BackgroundWriter() as writer:
        writer.start(fail)


def test_sigterm_ends_the_session_with_a_checkpoint(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, steps = trainer.train_step, []

    def asked_to_end(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) in (6, 8):  # the second of epoch 2; the last of epoch 2, after resuming
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(trainer, "train_step", asked_to_end)
    more = ["--resume", "--set", "train.checkpoint_minutes=0"]
    for update in (6, 8):
        assert main(arguments(work, "asked", more)) == 1
        assert f"SIGTERM: stopped after update {update}" in capsys.readouterr().err
        assert load_checkpoint(work / "asked/checkpoints/last.pt").update == update
        assert signal.getsignal(signal.SIGTERM) == before
        with open(work / "asked/metrics.jsonl", "a") as torn:  # what a kill may leave behind
            torn.write('{"step": 99, "epoch": 3, "loss": 1.0}\n{"epoch": 9, "loss": 1.0}\n{"step": 100, "ep')
    assert main(arguments(work, "asked", more)) == 0
    assert_as_uninterrupted(work, "asked")
