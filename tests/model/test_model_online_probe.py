"""model/online_probe.py: finds what is there, nothing where nothing is, and never tests whom it has seen."""

import logging
import math
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bjepa.cli.train import main
from bjepa.model.config import Recipe, load_recipe
from bjepa.model.dataset import ShardDataset
from bjepa.model.jepa import JEPA
from bjepa.model.online_probe import MAX_SCANS, OnlineProbe
from bjepa.model.runlog import read_metrics
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

R, FRAMES, PEOPLE = 5, 11, 23
NETWORKS = ["Vis", "Default", "Vis", "Cont", "Default"]
RECIPE = """\
[model]
n_frames = 8
patch_size = 2
embed_dim = 8
depth = 1
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
patch_init_std = 0.25
[train]
epochs = 3
batch_size = 16
[optimizer]
warmup_epochs = 1
"""
CPU: Any = {"device": torch.device("cpu"), "precision": "fp32"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
    logging.captureWarnings(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans a participant (three of the first); `level` is what Vis adds, `luck` nothing."""
    folder = tmp_path_factory.mktemp("data") / "derivatives" / "bjepa"
    rng = np.random.default_rng(5)
    level = rng.normal(size=PEOPLE) * 2
    scans = []
    for person in range(PEOPLE):
        for run in range(3 if person == 0 else 2):
            series = rng.normal(size=(FRAMES, R)) * 0.3
            series[:, [0, 2]] += level[person]
            valid = np.ones(R, dtype=bool)
            valid[3] = (person, run) != (4, 1)  # a scan without the network Cont
            entities = {"scan_id": f"sub-{person:02d}_run-{run}", "participant_id": f"sub-{person:02d}"}
            scans.append(
                ShardScan(
                    entities=entities | {"session": "", "task": "", "run": str(run)},
                    t_r=2.0,
                    t_r_out=2.0,
                    valid=valid,
                    phases=[series.astype(np.float32)],
                )
            )
    write_shard(
        folder / "shards/shard-00000.h5",
        scans,
        atlas="tiny",
        atlas_sha256="f" * 64,
        rois={c: NETWORKS if c == "network7" else [f"{c}{i}" for i in range(R)] for c in ROI_COLUMNS},
        median=np.zeros(R),
        iqr=np.ones(R),
        scaling="robust",
        target_t_r=2.0,
    )
    rows = ["participant_id\tlevel\tluck\tside\tone\trare"]
    for person in range(PEOPLE):
        value = "n/a" if person == 7 else f"{level[person]:.4f}"
        side, rare = "high" if level[person] > 0 else "low", "b" if person < 3 else "a"
        rows.append(f"sub-{person:02d}\t{value}\t{rng.normal():.4f}\t{side}\t1\t{rare}")
    (folder.parent.parent / "participants.tsv").write_text("\n".join(rows) + "\n")
    np.savetxt(folder / "gradients.csv", rng.normal(size=(R, 3)), delimiter=",")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def probe_of(data: Path, column: str, *, seed: int = 0) -> tuple[OnlineProbe, JEPA]:
    settings = [f"train.probe_column={column}", f"train.seed={seed}"]
    recipe: Recipe = load_recipe(data / "recipe.toml", settings=settings, n_rois=R, n_gradients=3)
    dataset = ShardDataset(data, n_frames=recipe.model.n_frames)
    jepa = JEPA(recipe.model, np.eye(R)[:, :3], generator=torch.Generator().manual_seed(1))
    return OnlineProbe(dataset, recipe, data=data), jepa


@pytest.mark.parametrize("column", ["level", "side"])
def test_fit_and_test_never_share_a_participant(data: Path, column: str) -> None:
    for seed in range(4):
        probe, _ = probe_of(data, column, seed=seed)
        people = np.array(probe.participants)
        tested = []
        for fit, test in probe.folds:
            assert not set(people[fit]) & set(people[test])
            assert sorted([*fit, *test]) == list(range(len(people)))
            tested.extend(test.tolist())
        assert sorted(tested) == list(range(len(people)))
    assert len(set(people)) == PEOPLE - (column == "level") and len(people) == 2 * len(set(people)) + 1


def test_it_finds_what_is_in_the_signal_and_nothing_else(data: Path) -> None:
    probe, jepa = probe_of(data, "level")
    found = probe(jepa, **CPU)
    assert (
        set(found) == {"probe_r2", "probe_networks_r2", "probe_scans", "probe_chance"}
        and found["probe_scans"] == 45
    )
    assert found["probe_networks_r2"] > 0.8 and found["probe_r2"] > 0.5
    for seed in range(3):
        nothing, _ = probe_of(data, "luck", seed=seed)
        assert nothing(jepa, **CPU)["probe_r2"] < 0.25
    sides, _ = probe_of(data, "side")
    assert sides.score == "balanced_accuracy" and sides.chance == 0.5
    assert sides(jepa, **CPU)["probe_balanced_accuracy"] > 0.8


def test_who_a_participant_is_cannot_be_remembered(data: Path) -> None:
    """Features that name the participant and say nothing else score no better than the mean."""
    probe, _ = probe_of(data, "level")
    names = sorted(set(probe.participants))
    one_hot = np.eye(len(names))[[names.index(p) for p in probe.participants]]
    assert probe.held_out(one_hot) < 0.05
    assert probe.held_out(probe.target[:, None] * [1.0, 2.0]) > 0.99
    assert math.isnan(probe.held_out(np.full((len(probe.series), 2), np.nan)))


def test_embeddings_are_means_of_the_tokens_that_exist(data: Path) -> None:
    probe, jepa = probe_of(data, "side")
    pooled, networks = probe.embed(jepa, **CPU)
    lacking = [probe.dataset.scan_id(s) for s in probe.series].index("sub-04_run-1")
    whole = [probe.dataset.scan_id(s) for s in probe.series].index("sub-04_run-0")
    with torch.no_grad():
        tokens = jepa.target_encoder(probe.dataset.middle(probe.series[whole]).x[None])[0]
    tokens = tokens.reshape(R, 4, 8).double().numpy()
    np.testing.assert_allclose(pooled[whole], tokens.mean(axis=(0, 1)), atol=1e-6)
    by_name = {"Cont": [3], "Default": [1, 4], "Vis": [0, 2]}
    expected = [tokens[rows].mean(axis=(0, 1)) for rows in by_name.values()]
    np.testing.assert_allclose(networks[whole], np.concatenate(expected), atol=1e-6)
    np.testing.assert_allclose(networks[lacking, :8], pooled[lacking])  # has no token of Cont
    assert probe(jepa, **CPU, fit=False) == {}


def test_not_more_scans_than_it_may_and_every_participant_first(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_SCANS == 200
    monkeypatch.setattr("bjepa.model.online_probe.MAX_SCANS", 30)
    probe, _ = probe_of(data, "side")
    assert len(probe.series) == 30 and len(set(probe.participants)) == PEOPLE
    monkeypatch.setattr("bjepa.model.online_probe.MAX_SCANS", 11)
    probe, _ = probe_of(data, "luck")
    assert len(set(probe.participants)) == 11 and {"00", "22"} <= set(probe.participants)


def train(data: Path, output: Path, *settings: str) -> int:
    more = [word for setting in settings for word in ("--set", setting)]
    given = ["--data", str(data), "--gradients", str(data / "gradients.csv"), "--output", str(output)]
    return main([str(data / "recipe.toml"), *given, "--device", "cpu", *more])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.probe_column=levle"], "no column 'levle'"),
        (["train.probe_column=one"], "nothing to predict"),
        (["train.probe_column=rare"], "3 participants are 'b', the probe needs 5 of each"),
        (["train.wandb=true"], "needs the package wandb"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    data: Path,
    tmp_path: Path,
    settings: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(data, tmp_path / "run", *settings) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_without_a_table_or_with_few_participants(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(data / "recipe.toml", settings=["train.probe_column=level"], n_rois=R, n_gradients=3)
    dataset = ShardDataset(data, n_frames=8)
    with pytest.raises(InputError, match=r"needs participants.tsv in .*; there is none"):
        OnlineProbe(dataset, recipe, data=tmp_path)
    few = ShardDataset(data, n_frames=8, participants=[f"{p:02d}" for p in range(9)])
    with pytest.raises(InputError, match="8 participants of this run have a value, the probe needs 10"):
        OnlineProbe(few, replace(recipe), data=data)


def test_a_run_probes_every_so_often_and_at_the_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    fake = types.ModuleType("wandb")
    run = types.SimpleNamespace(log=lambda values, *, step: told.append((step, values)), finish=lambda: None)
    fake.init = lambda **_: run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = ["train.probe_column=level", "train.probe_every=2", "train.wandb=true"]
    assert train(data, tmp_path / "run", *settings) == 0
    epochs = [row for row in read_metrics(tmp_path / "run") if "step" not in row]
    assert [("probe_r2" in row) for row in epochs] == [False, True, True]
    assert {"context_tokens", "share_cross_roi", "tokens_per_s", "memory_gb"} <= set(epochs[0])
    assert epochs[0]["context_tokens"] + epochs[0]["target_tokens"] <= 20
    last = dict(told[-1:])
    assert last[9]["epoch/probe_r2"] == epochs[-1]["probe_r2"] and len(told) == 9 + 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Probe: level</h2>" in page and "not an evaluation: 45 scans" in page
