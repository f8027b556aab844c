"""The paper's tables as recipes: all are well formed, one runs in seconds, every one in a slow test."""

import csv
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bjepa.model.baselines.methods import METHODS
from bjepa.model.config import load_recipe
from bjepa.model.evaluation.metrics import METRICS
from bjepa.preproc.demo.series_cohort import write_series_cohort

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "paper"
RECIPES = sorted(FOLDER.glob("*.toml"))


PUBLISHED = '[[published]]\nsource = "Table 1"\n'


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    sys.path.insert(0, str(FOLDER))  # as a script has it: run.py imports its neighbour
    spec = importlib.util.spec_from_file_location("paper_run", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 participants, 18 regions; age and sex are in connectivity, the other targets are drawn at random."""
    folder = tmp_path_factory.mktemp("cohort")
    write_series_cohort(folder, n_participants=30, every=25)
    rng = np.random.default_rng(0)
    lines = (folder / "participants.tsv").read_text().splitlines()
    head = [lines[0] + "\tneuroticism\tflanker\tdx\tamyloid"]
    rows = [
        f"{line}\t{rng.normal():.3f}\t{rng.normal():.3f}\t{('NC', 'MCI')[i % 2]}\t{i // 2 % 2}"
        for i, line in enumerate(lines[1:])
    ]
    (folder / "participants.tsv").write_text("\n".join(head + rows) + "\n")
    np.savetxt(folder / "gradients.csv", rng.normal(size=(18, 30)), delimiter=",")
    return folder


def words(recipe: Path, cohort: Path, output: Path) -> list[str]:
    return [
        *(str(recipe), "--data", str(cohort), "--participants", str(cohort / "participants.tsv")),
        *("--gradients", str(cohort / "gradients.csv"), "--output", str(output), "--quick"),
        *("--device", "cpu"),
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_name_what_there_is(runner: ModuleType, path: Path) -> None:
    recipe = runner.load_recipe(path)
    known = {metric for metrics in METRICS.values() for metric in metrics} | {"mse_z"}
    assert recipe["column"] and recipe["row"]
    assert all(metric in known for column in recipe["column"] for metric in column["metrics"])
    assert all(row["method"] in METHODS for row in recipe["row"] if "method" in row)
    assert {row["readout"] for row in recipe["row"] if "readout" in row} <= {"probe", "finetune"}
    assert {row["model"] for row in recipe["row"] if "model" in row} == set(recipe["pretraining"])
    for spec in recipe["pretraining"].values():
        load_recipe(spec["recipe"], n_rois=450, n_gradients=30, settings=spec.get("set", []))


def test_a_recipe_runs_goes_on_and_writes_its_table(
    runner: ModuleType, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        'title = "T"\npaper = "its table"\n[evaluation]\nscheme = "holdout"\nn_splits = 3\n'
        '[[column]]\ntarget = "age"\nmetrics = ["r2", "mse_z", "r"]\n'
        '[[column]]\ntarget = "iq"\nmetrics = ["r"]\n'
        '[pretraining.small]\nrecipe = "small"\n'
        '[[row]]\nlabel = "FC, ridge"\nmethod = "fc-ridge"\n'
        '[[row]]\nlabel = "random"\nmethod = "random-encoder"\nmodel = "small"\n'
        '[[row]]\nlabel = "probe"\nreadout = "probe"\nmodel = "small"\n'
        '[[published]]\nrow = "probe"\nsource = "Table 9"\nfigures.age = { r = "0.5 (.1)" }\n'
        '[[published]]\nlabel = "SwiFT"\nsource = "Table 8"\nfigures.iq = { r = "0.3" }\n'
        'figures.age = { r2 = "0" }\n'
    )
    assert runner.main(words(recipe, cohort, tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert "has no column 'iq'" in told and told.count("$ bjepa-evaluate") == 3
    table = (tmp_path / "out" / "table.md").read_text()
    lines = table.splitlines()
    assert "|  | age, R² ↑ | age, MSE, standardised ↓ | age, r (Pearson) ↑ |" in lines
    assert lines[lines.index("| *published: Table 9* |  |  | 0.5 (.1) |") - 1].startswith("| probe |")
    assert "| *published: SwiFT, Table 8* | 0 |  |  |" in lines and "arXiv:2409.19407" in table
    assert "(--quick)" in table
    with open(tmp_path / "out" / "table.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [r["row"] for r in rows[::3]] == ["FC, ridge", "random", "probe"]
    with open(tmp_path / "out" / "cells" / "age" / "random" / "summary.tsv", newline="") as file:
        by_hand = [r for r in csv.DictReader(file, delimiter="\t") if r["method"] == "random-encoder"]
    r2 = next(r for r in by_hand if r["metric"] == "r2")
    assert rows[3]["mean"] == r2["mean"] and rows[4]["metric"] == "mse_z"
    for ours, theirs in (("mean", "mean"), ("ci_low", "ci_high"), ("ci_high", "ci_low")):
        assert float(rows[4][ours]) == pytest.approx(1 - float(r2[theirs]), abs=1e-5)
    assert rows[8]["published"] == "0.5 (.1) [Table 9]" and rows[5]["published"] == "n/a"

    assert runner.main(words(recipe, cohort, tmp_path / "out")) == 0
    assert "$ bjepa-evaluate" not in capsys.readouterr().out  # finished cells are kept
    assert (tmp_path / "out" / "table.md").read_text() == table


@pytest.mark.parametrize(
    "change, says",
    [
        ("colour = 3\n", "unknown keys ['colour']"),
        ('[[row]]\nlabel = "x"\n', "row 'x' needs one of method and readout"),
        ('[[row]]\nlabel = "x"\nreadout = "probe"\nmodel = "m"\n', "row 'x' names no pretraining: 'm'"),
        ("a = \n", "is no recipe"),
        (PUBLISHED + 'row = "b"\nfigures.age = { r = "1" }\n', "needs a row of the recipe, or a label"),
        (PUBLISHED + 'row = "a"\nfigures.age = { r2 = "1" }\n', "without a column: [('age', 'r2')]"),
    ],
)
def test_refused(
    runner: ModuleType,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    says: str,
) -> None:
    base = 'title = "T"\npaper = "p"\n'
    rest = '[[column]]\ntarget = "age"\nmetrics = ["r"]\n[[row]]\nlabel = "a"\nmethod = "fc-ridge"\n'
    text = base + change + rest if not change.startswith("[[") else base + rest + change
    (tmp_path / "r.toml").write_text(text)
    assert runner.main(words(tmp_path / "r.toml", cohort, tmp_path / "out")) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs(runner: ModuleType, cohort: Path, tmp_path: Path, path: Path) -> None:
    recipe: dict[str, Any] = tomllib.loads(path.read_text())
    has_diagnosis = any(column["target"] == "diagnosis" for column in recipe["column"])
    extra = ["--column", "diagnosis=dx"] if has_diagnosis else []
    assert runner.main([*words(path, cohort, tmp_path), *extra]) == 0
    with open(tmp_path / "table.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(recipe["row"]) * sum(len(c["metrics"]) for c in recipe["column"])
    assert all(r["n_splits"] == "5" for r in rows)
