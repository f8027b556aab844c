"""benchmarks/{learning,fingerprint}.py run from start to end, and their readouts and matches are right."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_allclose

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return {name: importlib.import_module(name) for name in ("_readouts", "fingerprint")}


def run(script: str, *arguments: str) -> dict[str, float]:
    """The lines `name: value unit` that it ends with."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = re.findall(r"^(\w+): (-?[\d.]+|nan)", done.stdout, flags=re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_second_order_readouts_are_correlations_without_place(modules: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(0)
    series, place = rng.standard_normal((3, 5, 40, 1)), 9 * rng.standard_normal((5, 40, 1))
    networks = np.array(["a", "b", "a", "c", "b"])
    found = modules["_readouts"].readouts(series + place, networks, reference_RTD=place)
    expected = np.asarray(np.corrcoef(series[1, :, :, 0]))[np.triu_indices(5, 1)]
    assert_allclose(np.tanh(found["pairs"][1]), expected, atol=1e-9)
    by_network = [series[1, networks == k, :, 0].mean(axis=0) for k in "abc"]
    expected = np.asarray(np.corrcoef(by_network))[np.triu_indices(3, 1)]
    assert_allclose(np.tanh(found["network pairs"][1]), expected, atol=1e-9)
    assert_allclose(found["region"][1], series[1].mean(axis=1)[:, 0], atol=1e-9)
    assert all(np.isfinite(values).all() and len(values) == 3 for values in found.values())


def test_best_readout_is_chosen_without_the_test_folds(modules: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(1)
    target = rng.standard_normal(60)
    good = target[:, None] + 0.3 * rng.standard_normal((60, 3))
    noise = {f"noise {i}": rng.standard_normal((60, 20)) for i in range(5)}
    scores = modules["_readouts"].score({**noise, "good": good}, target)
    assert scores["good"].r2 > 0.8 and scores["best"].r2 == scores["good"].r2
    alone = modules["_readouts"].score(noise, target)
    assert alone["best"].r2 < 0.2  # the luckiest of five on the test folds would look better
    mean, low, high = modules["_readouts"].interval([scores["good"]], minus=[scores["noise 0"]])
    assert low < mean < high and low > 0.3


def test_a_match_is_the_most_correlated_first_session(modules: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(2)
    first = rng.standard_normal((12, 50))
    second = 3 * first + 0.5 * rng.standard_normal((12, 50)) + 100
    assert modules["fingerprint"]._match(first, second) == 1.0
    assert modules["fingerprint"]._match(first, np.roll(second, 1, axis=0)) == 0.0
    low, high = modules["fingerprint"]._wilson(0.5, 10)
    assert_allclose([low, high], [0.2366, 0.7634], atol=1e-4)  # 5 of 10, as in tables


@pytest.mark.slow
def test_learning_runs_from_start_to_end(tmp_path: Path) -> None:
    table = tmp_path / "rows.tsv"
    found = run("learning.py", "--quick", "--output", str(table))
    assert {"released_age_r2", "small_age_r2", "fc_age_r2", "small_effective_rank", "time"} <= set(found)
    assert found["small_target_scan_share"] > max(0.2, 2 * found["released_target_scan_share"])
    assert found["small_loss"] > found["released_loss"]  # the lower loss is the collapse
    names = {line.split("\t")[0] for line in table.read_text().splitlines()}
    assert names == {"random (released)", "released", "random (small)", "small"}


@pytest.mark.slow
def test_fingerprint_runs_on_real_scans(shared: Path, tmp_path: Path) -> None:
    from bjepa.cli.gradients import main as gradients
    from bjepa.cli.preprocess import main as preprocess

    scans, out = shared / "data" / "timeseries" / "stages_fep_schaefer400", tmp_path / "out"
    series = "--series-atlas schaefer-400-7networks --series-axis roi-by-time --series-columns 1-400"
    options = f"--atlas schaefer-400 {series} --t-r 2.0 --scaling zscore-scan".split()
    assert preprocess([str(scans), str(out), *options]) == 0
    assert gradients([str(out), str(out / "gradients")]) == 0
    found = run("fingerprint.py", str(out), "--minutes", "0.1")
    assert found["participants"] == 28 and found["chance"] == pytest.approx(1 / 28, abs=1e-3)
    assert found["fc_right"] > 0.7 and found["trained_best_right"] > 0.5
