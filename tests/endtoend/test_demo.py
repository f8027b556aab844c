"""bjepa-demo: the whole way on a small cohort, and what it does with folders and failures."""

import importlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from bjepa.cli import _demo_summary, demo
from bjepa.cli._demo_summary import Summary
from bjepa.cli.demo import MADE, MARKER, Step, demo_steps, main, run_step


def small_summary(*, fc: float = 0.5, embedding: float = 0.0, means: float = 0.0) -> Summary:
    return Summary(
        n_scans=12,
        n_failed=1,
        disk_mb=40.2,
        seconds=31.5,
        gradients_abs_r=[0.96, 0.94, 0.97, 0.5],
        n_epochs=3,
        loss_first_epoch=0.3,
        loss_last_epoch=0.1,
        age_r2_fc=fc,
        age_r2_embedding=embedding,
        age_r2_static_mean=means,
    )


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Neither simulates nor runs commands; the second command fails. Gives the steps asked for."""
    asked: list[Step] = []

    def run_one(step: Step) -> int:
        asked.append(step)
        return 0 if len(asked) < 2 else 3

    monkeypatch.setattr(demo, "run_step", run_one)
    monkeypatch.setattr(demo, "_simulate", lambda folder, **options: None)
    return asked


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process: six times fewer imports."""

    def run_one(step: Step) -> int:
        module = importlib.import_module(f"bjepa.cli.{step.words[0].removeprefix('bjepa-')}")
        return int(module.main(step.words[1:]))

    monkeypatch.setattr(demo, "run_step", run_one)


@pytest.mark.usefixtures("one_process")
def test_whole_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main([str(folder), "--participants", "12", "--epochs", "1", "--n-jobs", "1"]) == 0
    printed = capfd.readouterr().out

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["n_scans"], summary["n_failed"], summary["n_epochs"]) == (12, 0, 1)
    # 12 participants: 0.981 0.976 0.972
    assert min(summary["gradients_abs_r"][:3]) > 0.95
    assert summary["age_r2_static_mean"] < 0.1
    assert summary["age_r2_fc"] > summary["age_r2_static_mean"]
    assert np.isfinite([summary["loss_first_epoch"], summary["age_r2_embedding"]]).all()

    for command in summary["commands"]:
        assert f"$ {command}\n" in printed
    assert len(summary["commands"]) == 6
    assert "12 done, 0 failed" in printed
    assert str(folder / "index.html") in printed.replace("\n", "")
    page = (folder / "index.html").read_text()
    assert not re.search(r"(src|href)=.?https?:", page)
    for target in re.findall(r'href="([^"d][^"]*)"', page):
        assert (folder / target).is_file(), target
    assert not [path for path in folder.iterdir() if path.name not in (*MADE, MARKER)]

    with h5py.File(next((folder / "shards" / "shards").glob("*.h5"))) as shard:
        assert set(np.round(shard["scans/t_r"][:], 3)) == {0.735, 2.0}
        assert shard["scans/valid"][:].all()
        structure = shard["rois/structure"].asstr()[:]
    assert structure.tolist() == ["subcortex"] * 50 + ["cortex"] * 400
    assert len(pd.read_csv(folder / "gradients" / "gradients.csv", header=None)) == 450


def test_a_failing_command_stops_the_demo_with_its_status(
    tmp_path: Path, no_work: list[Step], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), "--n-jobs", "3", "--epochs", "7"]) == 3
    assert [step.words[0] for step in no_work] == ["bjepa-preprocess", "bjepa-gradients"]
    assert no_work[0].words[-2:] == ("--n-jobs", "3")
    assert "bjepa-gradients stopped with exit status 3" in capsys.readouterr().err
    assert not (tmp_path / "new" / "summary.json").exists()


def test_a_killed_command_is_nothing_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run_step", lambda step: -9)
    monkeypatch.setattr(demo, "_simulate", lambda folder, **options: None)
    assert main([str(tmp_path / "new")]) == 1


def test_run_step_gives_the_exit_status_of_the_command(tmp_path: Path) -> None:
    assert run_step(Step("", ("bjepa-demo", "--version"))) == 0
    (tmp_path / "file").touch()
    assert run_step(Step("", ("bjepa-demo", str(tmp_path / "file")))) == 2


def test_refuses_too_few_participants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--participants", "9"])
    assert "must be 10 or more, got 9" in capsys.readouterr().err


def test_epochs_reach_the_recipe() -> None:
    words = demo_steps(Path("a folder"), epochs=4)[2].words
    assert words[:2] == ("bjepa-train", "demo")
    assert words[-2:] == ("--set", "train.epochs=4")
    assert "--set" not in demo_steps(Path("a folder"))[2].words


def test_a_folder_of_somebody_else_is_never_touched(
    tmp_path: Path, no_work: list[Step], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "mine.txt").write_text("mine")
    assert main([str(tmp_path), "--overwrite"]) == 2
    assert "is not empty and not from bjepa-demo" in capsys.readouterr().err
    assert (tmp_path / "cohort" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort"]
    assert main([str(tmp_path / "cohort" / "mine.txt")]) == 2
    assert no_work == []


def test_overwrite_replaces_what_a_demo_made_and_nothing_else(
    tmp_path: Path, no_work: list[Step], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    assert main([str(folder)]) == 3  # leaves a marked folder
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text("kept")
    (folder / "run").symlink_to(elsewhere)
    (folder / "shards").mkdir()
    (folder / "summary.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")

    assert main([str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "summary.json").exists()

    assert main([str(folder), "--overwrite"]) == 3
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "notes.txt"]
    assert (elsewhere / "kept.txt").read_text() == "kept"


def test_summary_says_what_holds(capsys: pytest.CaptureFixture[str]) -> None:
    bad = small_summary(fc=0.1, means=0.05)
    assert list(bad.checks.values()) == [False, False, True]
    _demo_summary.print_summary(Path("out"), bad)
    printed = capsys.readouterr().out
    assert printed.count("✗") == 3  # two checks, and the line that explains the mark
    assert "12 done, 1 failed" in printed
    assert "0.3 → 0.1" in printed
    assert "does not predict age" in small_summary(embedding=0.02).verdict
    assert "some of the age effect" in small_summary(embedding=0.3).verdict
    assert "unexpected" in small_summary(embedding=0.7).verdict


def test_loss_is_the_mean_over_the_steps_of_an_epoch(tmp_path: Path) -> None:
    steps = [(0, 4.0), (0, 2.0), (1, 2.0), (2, 0.5), (2, 1.0)]
    lines = [json.dumps({"step": i, "epoch": epoch, "loss": loss}) for i, (epoch, loss) in enumerate(steps)]
    lines.insert(2, json.dumps({"epoch": 0, "last_step": 2, "loss": 9.0, "target_std": 0.3}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert _demo_summary._loss_by_epoch(tmp_path / "metrics.jsonl") == [3.0, 2.0, 0.75]
