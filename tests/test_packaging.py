"""The house stands: what is built is what is here, under one name; importing it is quick and does nothing."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("preproc", "gradients", "model", "cli")


def _files() -> set[str]:
    found = set()
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*"):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and "__pycache__" not in parts and not any(p.startswith(".") for p in parts):
                found.add("bjepa/" + "/".join(parts))
    return found


def test_wheel_holds_the_tree(tmp_path: Path) -> None:
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    plugin = "brainmarks/models/bjepa.py"  # in the namespace where that package looks for models
    assert packed == _files() | {"bjepa/__init__.py", "bjepa/py.typed", plugin}


def test_src_is_four_links() -> None:
    held = {p.name for p in (ROOT / "src/bjepa").iterdir()} - {"__pycache__"}
    assert held == {"__init__.py", "py.typed", *LAYERS}
    for layer in LAYERS:
        assert os.readlink(ROOT / "src/bjepa" / layer) == f"../../{layer}"


def test_every_folder_of_code_is_a_package() -> None:
    for layer in LAYERS:
        for folder in {path.parent for path in (ROOT / layer).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder


def test_console_scripts_are_callable() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {f"bjepa-{c}" for c in ("preprocess", "gradients", "train", "evaluate", "demo")}
    for target in scripts.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("command", ["preprocess", "gradients", "train", "evaluate", "demo"])
def test_every_command_has_help_with_examples_and_a_version(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"bjepa.cli.{command}").main
    for option, says in (("--help", f"bjepa-{command} "), ("--version", f"bjepa-{command} 0.")):
        with pytest.raises(SystemExit) as stopped:
            main([option])
        assert stopped.value.code == 0
        told = capsys.readouterr().out
        assert says in told
        if option == "--help":
            assert "--log-level" in told and "example" in told


def test_one_copy_of_each_module() -> None:
    code = (
        "import bjepa, pkgutil, importlib, sys, json\n"
        "for m in pkgutil.walk_packages(bjepa.__path__, 'bjepa.'): importlib.import_module(m.name)\n"
        f"print(json.dumps([m for m in sys.modules if m.split('.')[0] in {LAYERS!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_importing_bjepa_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import bjepa; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['bjepa']"


def test_help_needs_neither_torch_nor_nilearn() -> None:
    for command in ("preprocess", "gradients", "train", "evaluate", "demo"):
        code = (
            f"import sys\nfrom bjepa.cli.{command} import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "print([m for m in ('torch', 'nilearn', 'brainspace', 'vtk') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", command


def test_stages_import_leftwards_only() -> None:
    import bjepa

    names = [m.name for m in pkgutil.walk_packages(bjepa.__path__, "bjepa.")]
    assert {n.split(".")[1] for n in names} == set(LAYERS)
    for i, layer in enumerate(LAYERS):
        for path in (ROOT / layer).rglob("*.py"):
            for later in LAYERS[i + 1 :]:
                text = path.read_text()
                assert f"from bjepa.{later}" not in text and f"import bjepa.{later}" not in text, path
