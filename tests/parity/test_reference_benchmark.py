"""benchmarks/reference_parity.py: all items within their limits, and what it says when one is not."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("reference_parity", ROOT / "benchmarks/reference_parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reference_parity", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["reference_parity.py", "--reference", str(shared / "reference")])
    yield module


def test_all_items_are_met(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main() == 0
    lines = capsys.readouterr().out.splitlines()
    name, value = lines[-1].split(": ")
    assert name == "max_difference" and float(value) <= 1e-5
    assert sum("limit" in line for line in lines) >= 25 and not any("EXCEEDED" in line for line in lines)


@pytest.mark.parametrize("difference", [2e-5, float("nan")])
def test_one_that_is_not_met_is_told(
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    difference: float,
) -> None:
    items = [benchmark.Item("good", 1e-9, 1e-6), benchmark.Item("bad", difference, 1e-5)]
    monkeypatch.setattr(benchmark, "compare", lambda folder: iter(items))
    assert benchmark.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("EXCEEDED") for line in lines[:2]] == [False, True]


def test_without_the_recorded_arrays_it_says_what_to_give(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["reference_parity.py", "--reference", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"give --reference DIR"):
        benchmark.main()
