"""model/export_graph.py: the graph gives the encoder's tokens, for any number of scans, without bjepa."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bjepa.model import JEPA, ModelConfig
from bjepa.model.export_graph import export_encoder
from bjepa.preproc.errors import InputError

CONFIG = ModelConfig(
    n_rois=7,
    n_frames=12,
    patch_size=3,
    n_gradients=5,
    embed_dim=24,
    depth=2,
    num_heads=3,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
    init_std=0.3,
    patch_init_std=0.5,
)
VARIANTS: list[dict[str, Any]] = [{}, {"time_position": "seconds"}, {"region_position": "learned"}]


def make(variant: dict[str, Any]) -> JEPA:
    """The target encoder is another one than the context encoder, and no bias is 0."""
    table = np.random.default_rng(0).normal(size=(7, 5))
    jepa = JEPA(dataclasses.replace(CONFIG, **variant), table, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    for parameter in jepa.target_encoder.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return jepa


def inputs(variant: dict[str, Any], n_scans: int) -> tuple[Tensor, ...]:
    x = torch.randn(n_scans, 7, 12, generator=torch.Generator().manual_seed(n_scans))
    seconds = torch.linspace(0.7, 3.1, n_scans)
    return (x, seconds) if "time_position" in variant else (x,)


def expected(jepa: JEPA, given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = jepa.target_encoder(given[0], t_r=given[1] if len(given) == 2 else None)
    return tokens


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exported_graph_is_the_target_encoder(tmp_path: Path, variant: dict[str, Any]) -> None:
    jepa = make(variant)
    export_encoder(jepa, tmp_path / "encoder.pt2")
    files = {"bjepa.json": ""}
    graph = torch.export.load(tmp_path / "encoder.pt2", extra_files=files).module()
    assert json.loads(files["bjepa.json"])["model"]["n_frames"] == 12
    for n_scans in (1, 5):
        given = inputs(variant, n_scans)
        torch.testing.assert_close(graph(*given), expected(jepa, given), atol=1e-5, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]


@pytest.mark.parametrize("variant", VARIANTS[:2])
def test_onnx_gives_the_same(tmp_path: Path, variant: dict[str, Any]) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime: Any = pytest.importorskip("onnxruntime")
    jepa = make(variant)
    export_encoder(jepa, tmp_path / "encoder.onnx")
    session = runtime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["bjepa"])
    assert told["model"]["embed_dim"] == 24
    for n_scans in (1, 5):
        given = inputs(variant, n_scans)
        feed = {name: tensor.numpy() for name, tensor in zip(("series", "t_r"), given, strict=False)}
        (tokens,) = session.run(["tokens"], feed)
        np.testing.assert_allclose(tokens, expected(jepa, given).numpy(), atol=1e-5, rtol=0)


def test_other_endings_and_missing_packages_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"must end in .pt2"):
        export_encoder(make({}), tmp_path / "encoder.pt")
    find = importlib.import_module("importlib.util").find_spec
    monkeypatch.setattr(
        "bjepa.model.export_graph.find_spec", lambda name: None if name == "onnxscript" else find("json")
    )
    with pytest.raises(InputError, match=r"onnxscript is needed.*\n?.*bjepa\[onnx\]"):
        export_encoder(make({}), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())
