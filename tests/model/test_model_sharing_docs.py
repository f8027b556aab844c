"""docs/sharing.md: every snippet runs, in its order, and does what the page says."""

import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bjepa.cli.evaluate import main as evaluate
from bjepa.cli.train import main as train
from bjepa.model import export_official_checkpoint, load_model, load_official_checkpoint
from bjepa.model.official_export import to_official
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

R = 3
PAGE = Path(__file__).parents[2] / "docs/sharing.md"
RECIPE = """\
[model]
n_frames = 160
patch_size = 16
embed_dim = 8
depth = 1
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
[train]
epochs = 1
batch_size = 2
"""


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    scans = [
        ShardScan(
            entities={"scan_id": f"s{i}", "participant_id": f"p{i}", "session": "", "task": "", "run": ""},
            t_r=2.0,
            t_r_out=2.0,
            valid=np.ones(R, dtype=bool),
            phases=[rng.normal(size=(n_frames, R)).astype(np.float32)],
        )
        for i, n_frames in enumerate((171, 164))
    ]
    write_shard(
        folder / "shards/shard-00000.h5",
        scans,
        atlas="three",
        atlas_sha256="d" * 64,
        rois={column: [f"{column}{i}" for i in range(R)] for column in ROI_COLUMNS},
        median=np.array([600.0, 700.0, 90.0]),
        iqr=np.array([3.0, 5.0, 0.5]),
        scaling="robust",
        target_t_r=2.0,
    )


def put_into_cache(model: Path, repository: Path) -> None:
    """As huggingface_hub keeps what it has fetched."""
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    for path in model.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())


class Api:
    """In place of the hub."""

    def __init__(self, token: str | None = None) -> None: ...

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        assert private and exist_ok

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: Sequence[str], commit_message: str
    ) -> Any:
        assert {path.name for path in folder_path.iterdir()} == set(allow_patterns)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_every_snippet_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "out")
    gradients = np.random.default_rng(1).normal(size=(R, 2))
    np.savetxt("gradients.csv", gradients, delimiter=",")
    Path("recipe.toml").write_text(RECIPE)
    words = ["recipe.toml", "--data", "out", "--gradients", "gradients.csv", "--output", "run"]
    assert train([*words, "--device", "cpu"]) == 0
    put_into_cache(tmp_path / "run/model", tmp_path / "cache/models--brains--small-one")
    reader = ShardReader("out")
    raw = reader.unscale(reader[0])
    raw[:, 1] = np.nan
    np.save("series.npy", raw)
    export_official_checkpoint(load_model("run"), "released.pth.tar", epoch=1)

    names: dict[str, Any] = {}
    n_python, n_commands = 0, 0
    for language, text in blocks():
        if language == "python":
            exec(text, names)
            n_python += 1
            continue
        for line in text.splitlines():
            program, *rest = shlex.split(line)
            assert program == "bjepa-evaluate" and evaluate(rest) == 0
            n_commands += 1
    assert (n_python, n_commands) == (8, 2)

    assert "three [2.0] robust" in capsys.readouterr().out
    np.testing.assert_allclose(names["scaled"][:, [0, 2]], reader[0][:, [0, 2]], atol=1e-4)
    assert not names["scaled"][:, 1].any() and names["vector"].shape == (1, 8)
    np.testing.assert_allclose(names["again"], reader[0], atol=1e-4)
    assert Path("embedding-of-theirs.h5").is_file() and Path("encoder.onnx").is_file()
    assert names["tokens"].shape == (1, R * 10, 8)
    written = torch.load("run.pth.tar", weights_only=True)
    assert len(written["opt"]["state"]) == len(written["encoder"]) + len(written["predictor"]) - 2
    for path in ("run.pth.tar", "run.safetensors"):
        back = load_official_checkpoint(path, gradients=gradients, num_heads=2, predictor_num_heads=2)
        for name, tensor in to_official("predictor", load_model("run").predictor.state_dict()).items():
            assert torch.equal(to_official("predictor", back.predictor.state_dict())[name], tensor)
