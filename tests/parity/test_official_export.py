"""Written as the released code writes it: read, written again, and compared with its own file bit for bit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from bjepa.model import JEPA, ModelConfig, export_official_checkpoint, load_official_checkpoint
from bjepa.model.config import OptimizerConfig
from bjepa.model.train_step import make_optimizer
from bjepa.preproc.errors import InputError

SIZES = {"n_frames": 40, "patch_size": 4, "num_heads": 2, "predictor_num_heads": 2}
TINY = ModelConfig(
    n_rois=3,
    n_frames=20,
    patch_size=2,
    n_gradients=2,
    embed_dim=8,
    depth=1,
    num_heads=2,
    predictor_embed_dim=4,
    predictor_depth=1,
    predictor_num_heads=2,
)


def same(found: Any, expected: Any) -> None:
    """Keys in the same order, types, shapes, dtypes and bits the same, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert torch.equal(found, expected)
    else:
        assert found == expected


@pytest.fixture
def released(shared: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(shared / "reference/reference_tiny.pth.tar", weights_only=True)
    return content


@pytest.fixture
def gradients(shared: Path) -> NDArray[np.float32]:
    with np.load(shared / "reference/reference_tiny.npz") as stored:
        table: NDArray[np.float32] = stored["gradient"]
    return table


def read(path: Path, gradients: NDArray[np.float32]) -> JEPA:
    return load_official_checkpoint(path, gradients=gradients, **SIZES)


def test_the_container_comes_back_bit_for_bit(
    shared: Path, tmp_path: Path, released: dict[str, Any], gradients: NDArray[np.float32]
) -> None:
    jepa = read(shared / "reference/reference_tiny.pth.tar", gradients)
    optimizer = make_optimizer(jepa, OptimizerConfig())
    stored = released["opt"]["state"]
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in zip(sorted(stored), ours, strict=True):
        optimizer.state[parameter] = {
            name: value.reshape(parameter.shape) if value.ndim else value
            for name, value in stored[number].items()
        }
    for group, theirs in zip(optimizer.param_groups, released["opt"]["param_groups"], strict=True):
        group["lr"], group["weight_decay"] = theirs["lr"], theirs["weight_decay"]
    path = tmp_path / "again.pth.tar"
    notes = {name: released[name] for name in ("epoch", "loss", "batch_size", "world_size", "lr")}
    export_official_checkpoint(jepa, path, optimizer=optimizer, **notes)
    same(torch.load(path, weights_only=True), released)


def test_names_are_in_the_order_of_the_recorded_arrays(
    shared: Path, tmp_path: Path, gradients: NDArray[np.float32]
) -> None:
    jepa = read(shared / "reference/reference_tiny.pth.tar", gradients)
    export_official_checkpoint(jepa, tmp_path / "again.pth.tar", epoch=4)
    written = torch.load(tmp_path / "again.pth.tar", weights_only=True)
    with np.load(shared / "reference/reference_tiny.npz") as stored:
        for part in ("encoder", "predictor", "target_encoder"):
            recorded = [key.split("/", 1)[1] for key in stored if key.startswith(f"{part}/")]
            assert [name.removeprefix("module.") for name in written[part]] == recorded
            for name in recorded:  # the frozen tables emb_h too
                expected = stored[f"after/{part}/{name}"]
                np.testing.assert_array_equal(written[part][f"module.{name}"].numpy(), expected)


def test_without_an_optimizer_the_groups_are_those_before_the_first_update(
    shared: Path, tmp_path: Path, released: dict[str, Any], gradients: NDArray[np.float32]
) -> None:
    jepa = read(shared / "reference/reference_tiny.pth.tar", gradients)
    export_official_checkpoint(jepa, tmp_path / "again.pth.tar", epoch=0, lr=0.5)
    opt = torch.load(tmp_path / "again.pth.tar", weights_only=True)["opt"]
    assert opt["state"] == {}
    theirs = released["opt"]["param_groups"]
    assert [list(g) for g in opt["param_groups"]] == [list(g) for g in theirs]
    assert [g["params"] for g in opt["param_groups"]] == [g["params"] for g in theirs]
    assert [g["lr"] for g in opt["param_groups"]] == [0.5] * 4
    sizes = [t.shape for part in ("encoder", "predictor") for t in released[part].values()]
    frozen = torch.nn.ParameterList(torch.zeros(shape) for shape in sizes)
    groups = [{"params": [frozen[i] for i in range(len(g["params"]))]} for g in theirs]
    start = 0
    for group in groups:  # their own AdamW takes it: as many groups, as many parameters in each
        group["params"] = list(frozen)[start : (start := start + len(group["params"]))]
    torch.optim.AdamW(groups).load_state_dict(opt)


def test_the_safetensors_layout(
    shared: Path, tmp_path: Path, released: dict[str, Any], gradients: NDArray[np.float32]
) -> None:
    jepa = read(shared / "reference/reference_tiny.pth.tar", gradients)
    path = tmp_path / "again.safetensors"
    export_official_checkpoint(jepa, path, epoch=4)
    flat = safetensors.torch.load_file(path)
    assert flat["encoder.patch_embed.proj.weight"].shape == (32, 1, 1, 4)
    expected = {
        f"{part}.{name.removeprefix('module.')}": tensor
        for part in ("encoder", "predictor", "target_encoder")
        for name, tensor in released[part].items()
    }
    same(dict(sorted(flat.items())), dict(sorted(expected.items())))
    again = read(path, gradients)
    same(dict(again.state_dict()), dict(jepa.state_dict()))
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()["epoch"] == "4"


def test_a_model_trained_here_goes_out_and_comes_back(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(3, 2))
    jepa = JEPA(TINY, table, generator=torch.Generator().manual_seed(1))
    export_official_checkpoint(jepa, tmp_path / "x.pth.tar", epoch=1)
    again = load_official_checkpoint(
        tmp_path / "x.pth.tar",
        gradients=table,
        n_frames=20,
        patch_size=2,
        num_heads=2,
        predictor_num_heads=2,
    )
    x = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(2))
    assert torch.equal(again.target_encoder(x), jepa.eval().target_encoder(x))
    assert again.config == dataclasses.replace(TINY, init_std=0.02)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"region_position": "learned"}, "region_position is 'learned' instead of 'gradient'"),
        ({"time_position": "seconds"}, "time_position is 'seconds'"),
        ({"predicts": "signal"}, "predicts is 'signal'"),
        ({"mlp_ratio": 2.0}, "mlp_ratio is 2.0 instead of 4.0"),
        ({"predictor_num_heads": 1}, "predictor_num_heads is 1 instead of 2"),
        ({"n_frames": 18}, "is 9 instead of 10"),
    ],
)
def test_a_model_that_the_released_code_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    jepa = JEPA(dataclasses.replace(TINY, **change), np.ones((3, 2)) * [[1], [2], [4]])
    with pytest.raises(InputError, match=named):
        export_official_checkpoint(jepa, tmp_path / "x.pth.tar", epoch=1)
    assert not list(tmp_path.iterdir())


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    table = np.arange(6.0).reshape(3, 2)
    jepa, other = JEPA(TINY, table), JEPA(TINY, table)
    with pytest.raises(InputError, match="four groups"):
        export_official_checkpoint(
            jepa, tmp_path / "x.pth.tar", epoch=1, optimizer=make_optimizer(other, OptimizerConfig())
        )
    with pytest.raises(InputError, match="weights only"):
        export_official_checkpoint(
            jepa, tmp_path / "x.safetensors", epoch=1, optimizer=make_optimizer(jepa, OptimizerConfig())
        )
