"""Weights of a file that is damaged, foreign, of other sizes or malicious: refused before they act."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bjepa.cli.evaluate import main
from bjepa.model import JEPA, ModelConfig, export_official_checkpoint, load_model, load_official_checkpoint
from bjepa.model.hub import save_model
from bjepa.preproc.errors import InputError

CONFIG = ModelConfig(
    n_rois=5,
    n_frames=30,
    patch_size=3,
    n_gradients=2,
    embed_dim=12,
    depth=2,
    num_heads=3,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
)
TABLE = np.random.default_rng(0).normal(size=(5, 2))
RELEASED = ModelConfig(
    n_rois=5,
    n_frames=30,
    patch_size=3,
    n_gradients=2,
    embed_dim=8,
    depth=2,
    num_heads=2,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(JEPA(CONFIG, TABLE, generator=torch.Generator().manual_seed(0)), tmp_path / "model")
    return tmp_path / "model"


def edit_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    change(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a network now has allocated too early."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a network was made")

    monkeypatch.setattr("bjepa.model.hub.JEPA", never)
    monkeypatch.setattr("bjepa.model.official.JEPA", never)


@pytest.mark.parametrize(
    "absurd",
    [
        {"n_rois": 10**12},
        {"n_frames": 3 * 10**12},
        {"patch_size": 30},
        {"embed_dim": 12 * 10**12},
        {"depth": 10**12},
        {"mlp_ratio": 1e30},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": float("inf")},
        {"predictor_embed_dim": 8 * 10**12},
        {"predictor_depth": 10**12},
    ],
)
def test_absurd_sizes_are_refused_before_a_network_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, absurd: dict[str, Any]
) -> None:
    described = json.loads((folder / "config.json").read_text())
    described["model"] |= absurd
    (folder / "config.json").write_text(json.dumps(described))
    forbid_models(monkeypatch)
    with pytest.raises(InputError, match=r"does not fit this model|not a size"):
        load_model(folder)


def test_as_many_gradients_as_there_are_not(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    described["model"]["n_gradients"] = 10**12
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="needs 5 regions x 1000000000000 gradients"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_is_converted_openly(
    folder: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["predictor.proj.weight"] = state["predictor.proj.weight"].to(dtype)

    expected = load_model(folder).predictor.proj.weight.to(dtype).float()
    edit_state(folder, change)
    with caplog.at_level(logging.WARNING):
        found = load_model(folder)
    assert found.predictor.proj.weight.dtype == torch.float32
    assert torch.equal(found.predictor.proj.weight, expected)
    assert f"weights in {str(dtype).removeprefix('torch.')}: read as float32" in caplog.text


def test_whole_numbers_and_non_finite_weights_are_refused(folder: Path) -> None:
    def count(state: dict[str, torch.Tensor]) -> None:
        state["predictor.proj.bias"] = torch.zeros(12, dtype=torch.int32)

    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["predictor.proj.bias"] = torch.zeros(12)
        state["predictor.proj.bias"][3] = float("nan")
        state["predictor.proj.bias"][4] = float("inf")

    edit_state(folder, count)
    with pytest.raises(InputError, match=r"predictor.proj.bias holds int32"):
        load_model(folder)
    edit_state(folder, spoil)
    with pytest.raises(InputError, match=r"predictor.proj.bias has 2 non-finite values of 12"):
        load_model(folder)


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _lie(folder: Path) -> None:
    """A header that promises more than the file has."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _payload(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.save({"encoder": Malicious(folder.parent / "executed")}, folder / name)

    return write


DAMAGES = [
    pytest.param(_truncate, id="truncated"),
    pytest.param(_lie, id="lying header"),
    pytest.param(_payload("model.safetensors"), id="pickle for weights"),
    pytest.param(_payload("config.json"), id="pickle for description"),
    pytest.param(_payload("gradients.csv"), id="pickle for gradients"),
    pytest.param(lambda f: (f / "model.safetensors").write_bytes(b""), id="empty"),
    pytest.param(lambda f: (f / "model.safetensors").unlink(), id="missing"),
    pytest.param(lambda f: (f / "config.json").write_text("[" * 100_000), id="deep"),
    pytest.param(lambda f: (f / "config.json").write_text('{"format": "other"}'), id="foreign"),
    pytest.param(lambda f: (f / "config.json").unlink(), id="no description"),
    pytest.param(lambda f: (f / "gradients.csv").write_text("nan,1\n" * 5), id="gradients"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_folder_ends_the_command_with_2(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    assert main(["embed", str(folder), str(tmp_path / "data"), "--output", str(tmp_path / "x.h5")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("bjepa-evaluate: error: ") and str(folder) in told
    assert not (tmp_path / "executed").exists() and not (tmp_path / "x.h5").exists()


def released(path: Path) -> Path:
    jepa = JEPA(RELEASED, TABLE, generator=torch.Generator().manual_seed(0))
    export_official_checkpoint(jepa, path, epoch=1)
    return path


def read(path: Path) -> JEPA:
    return load_official_checkpoint(
        path, gradients=TABLE, n_frames=30, patch_size=3, num_heads=2, predictor_num_heads=2
    )


def test_a_checkpoint_for_a_model_folder_is_told_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = released(tmp_path / "x.pth.tar")
    assert main(["embed", str(path), str(tmp_path), "--output", str(tmp_path / "x.h5")]) == 2
    told = capsys.readouterr().err
    assert "does not hold the gradients" in told and "--gradients FILE" in told


def _first(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return edit


def _repeat(content: dict[str, Any]) -> None:
    content["encoder"]["module.pos_embed_proj.emb_h"] = torch.ones(1, 1).expand(10**12, 4)


def _dataless(content: dict[str, Any]) -> None:
    content["encoder"]["module.pos_embed_proj.emb_h"] = torch.ones(10**12, 4, device="meta")


def _sparse(content: dict[str, Any]) -> None:
    content["encoder"]["module.pos_embed_proj.emb_h"] = torch.ones(50, 4).to_sparse()


def _nan(content: dict[str, Any]) -> None:
    content["target_encoder"]["module.norm.bias"] = torch.full((8,), float("nan"))


def _numbered(content: dict[str, Any]) -> None:
    content["predictor"][3] = torch.ones(2)


def _flat(content: dict[str, Any]) -> None:
    for part in ("encoder", "target_encoder"):
        content[part]["module.patch_embed.proj.weight"] = torch.tensor(1.0)


def _hollow(content: dict[str, Any]) -> None:
    content["encoder"]["module.patch_embed.proj.weight"] = torch.ones(0, 1, 1, 3)


def _payload_in_opt(content: dict[str, Any]) -> None:
    content["opt"] = Malicious(Path("executed"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "nothing in it was run"),
        (lambda p: p.write_bytes(b"\x80\x02garbage"), "nothing in it was run"),
        (lambda p: p.write_bytes(b""), "nothing in it was run"),
        (lambda p: p.unlink(), "There is no file"),
        (_first(_payload_in_opt), "nothing in it was run"),
        (_first(_repeat), "not a plain tensor"),
        (_first(_dataless), "not a plain tensor"),
        (_first(_sparse), "not a plain tensor"),
        (_first(_nan), "has 8 non-finite values"),
        (_first(_numbered), "no weights under 'predictor'"),
        (_first(_flat), "missing or misshapen"),
        (_first(_hollow), "is missing or misshapen"),
        (_first(lambda c: c.pop("predictor")), "no weights under 'predictor'"),
        (_first(lambda c: c["encoder"].pop("module.norm.bias")), "lacks context_encoder.norm.bias"),
    ],
)
def test_a_released_checkpoint_that_is_not_right_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = released(tmp_path / "x.pth.tar")
    damage(path)
    with pytest.raises(InputError, match=says):
        read(path)
    assert not (tmp_path / "executed").exists()


def test_a_released_safetensors_file_that_is_not_right_is_refused(tmp_path: Path) -> None:
    path = released(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match="missing or damaged"):
        read(path)
    state = safetensors.torch.load(whole)
    safetensors.torch.save_file(state | {"decoder.x": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"'decoder.x'; names must begin"):
        read(path)
    state["encoder.norm.bias"][0] = float("inf")
    safetensors.torch.save_file(state, path)
    with pytest.raises(InputError, match="1 non-finite values of 8"):
        read(path)


def test_a_good_one_is_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert load_model(tmp_path / "copy").config == CONFIG
    assert read(released(tmp_path / "x.pth.tar")).config == RELEASED
