"""model/{positions,blocks,encoder,predictor,jepa,hub}.py: sizes, laws, saving and loading, refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import bjepa.model
from bjepa.model import JEPA, ModelConfig, load_model, load_official_checkpoint
from bjepa.model.blocks import SelfAttention
from bjepa.model.config import load_recipe
from bjepa.model.encoder import pieces_of
from bjepa.model.hub import save_model
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
)


@pytest.fixture
def jepa() -> JEPA:
    generator = torch.Generator().manual_seed(5)
    made = JEPA(CONFIG, torch.randn(7, 5, generator=generator), generator=generator).eval()
    with torch.no_grad():
        for p in made.parameters():  # no zero bias hides a fault
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return made


def scans(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 7, 12, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize(
    "recipe, encoder, trained, predictor, n_tensors",
    [
        ("vit_small", 22_170_816, 21_306_816, 11_813_568, 151),
        ("vit_base", 86_808_960, 85_080_960, 12_108_864, 151),
        ("vit_large", 304_648_704, 302_344_704, 12_305_728, 295),
    ],
)
def test_sizes(recipe: str, encoder: int, trained: int, predictor: int, n_tensors: int) -> None:
    with torch.device("meta"):
        jepa = JEPA(load_recipe(recipe).model, torch.empty(450, 30))
    parameters = list(jepa.context_encoder.parameters())
    assert sum(p.numel() for p in parameters) == encoder
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained
    assert len(parameters) == n_tensors
    assert sum(p.numel() for p in jepa.predictor.parameters()) == predictor
    assert len(list(jepa.predictor.parameters())) == 82
    assert not any(p.requires_grad for p in jepa.target_encoder.parameters())


def test_initial_weights() -> None:
    config = replace(CONFIG, embed_dim=240, num_heads=3, init_std=0.02, patch_init_std=0.3)
    jepa = JEPA(config, torch.randn(7, 5), generator=torch.Generator().manual_seed(0))
    fc2 = jepa.state_dict()["context_encoder.blocks.1.mlp.fc2.weight"]
    assert fc2.std().item() == pytest.approx(0.02, rel=0.02)
    assert jepa.context_encoder.patch_embed.proj.weight.std().item() == pytest.approx(0.3, rel=0.1)
    assert jepa.context_encoder.patch_embed.proj.bias.abs().max() == 0
    for ours, copied in zip(jepa.context_encoder.parameters(), jepa.target_encoder.parameters(), strict=True):
        assert torch.equal(ours, copied)
    again = JEPA(config, torch.randn(7, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.predictor.proj.weight, jepa.predictor.proj.weight)


def test_block_agrees_with_torch(jepa: JEPA) -> None:
    block = jepa.context_encoder.blocks[0]
    peer = nn.TransformerEncoderLayer(
        24, 3, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
    }
    ours = block.state_dict()
    peer.load_state_dict({theirs: ours[names.get(theirs, theirs)] for theirs in peer.state_dict()})
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(1))
    found = block(x.flatten(0, 1), (11, 11)).unflatten(0, (2, 11))
    torch.testing.assert_close(found, peer(x), atol=2e-6, rtol=0)


def test_tokens_are_region_major_and_local(jepa: JEPA) -> None:
    x = scans(1)
    changed = x.clone()
    changed[0, 4, 6:9] += 1  # region 4, patch 2
    before, after = (jepa.context_encoder.patch_embed(pieces_of(v, 3)) for v in (x, changed))
    moved = (before - after).abs().sum(dim=1).nonzero().flatten()
    assert moved.tolist() == [4 * 4 + 2]


@pytest.mark.parametrize("attention", ["sdpa", "math"])
def test_law_padding_never_influences_a_result(jepa: JEPA, attention: Any) -> None:
    for part in jepa.modules():
        if isinstance(part, SelfAttention):
            part.attention = attention
    x = scans(2)
    context = torch.tensor([[3, 8, 12, 27, -1, -1], [0, 5, 6, 9, 14, 20]])
    target = torch.tensor([[1, 2, -1], [7, 21, 22]])
    tokens = jepa.context_encoder(x, context)
    predicted = jepa.predictor(tokens, context, target)
    alone = jepa.context_encoder(x[:1], context[:1, :4])
    alone_predicted = jepa.predictor(alone, context[:1, :4], target[:1, :2])
    torch.testing.assert_close(tokens[:1, :4], alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(predicted[:1, :2], alone_predicted, atol=2e-6, rtol=0)
    assert (tokens[0, 4:] == 0).all() and (predicted[0, 2:] == 0).all()
    spoilt = tokens.clone()
    spoilt[0, 4:] = 1e3
    torch.testing.assert_close(jepa.predictor(spoilt, context, target), predicted, atol=2e-6, rtol=0)


def test_law_order_of_the_list_is_the_order_of_the_tokens(jepa: JEPA) -> None:
    x, index, order = scans(1), torch.tensor([[3, 9, 1, 22, 14]]), torch.tensor([2, 4, 0, 3, 1])
    tokens = jepa.context_encoder(x, index)
    torch.testing.assert_close(jepa.context_encoder(x, index[:, order]), tokens[:, order], atol=2e-6, rtol=0)


def test_whole_scan_equals_all_indices(jepa: JEPA) -> None:
    x = scans(2)
    index = torch.arange(28).repeat(2, 1)
    torch.testing.assert_close(jepa.target_encoder(x), jepa.target_encoder(x, index), atol=2e-6, rtol=0)
    targets = jepa.targets(x, torch.tensor([[3, 3], [27, 0]]))  # duplicates stay
    assert torch.equal(targets[0, 0], targets[0, 1])
    assert not targets.requires_grad
    torch.testing.assert_close(targets.mean(dim=2), torch.zeros(2, 2), atol=1e-6, rtol=0)


def test_bfloat16_is_near_and_gives_float32(jepa: JEPA) -> None:
    x = scans(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = jepa.target_encoder(x)
        positions = jepa.target_encoder.positions()
    assert tokens.dtype == positions.dtype == torch.float32
    assert torch.equal(positions, jepa.target_encoder.positions())
    torch.testing.assert_close(tokens, jepa.target_encoder(x), atol=0.1, rtol=0)


def test_saved_and_read_again(jepa: JEPA, tmp_path: Path) -> None:
    jepa.atlas_sha256 = "abc"
    save_model(jepa, tmp_path / "run/model", atlas_table="index\tname\n1\tA\n", origin={"atlas": "x"})
    names = {path.name for path in (tmp_path / "run/model").iterdir()}
    assert names == {"config.json", "model.safetensors", "gradients.csv", "atlas.tsv"}
    x = scans()
    for path in (tmp_path / "run", tmp_path / "run/model"):
        found = load_model(path)
        assert found.config == CONFIG and found.atlas_sha256 == "abc" and not found.training
        assert torch.equal(found.gradients, jepa.gradients)
        assert torch.equal(found.target_encoder(x), jepa.target_encoder(x))
    first = (tmp_path / "run/model/model.safetensors").read_bytes()
    save_model(jepa, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == first
    assert not (tmp_path / "again/atlas.tsv").exists()


def _drop_a_weight(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["context_encoder.extra"] = state.pop("predictor.proj.bias")
    safetensors.torch.save_file(state, folder / "model.safetensors")


def _edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        described = json.loads(path.read_text())
        described["model"] |= changes
        path.write_text(json.dumps(described))

    return edit


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: (f / "config.json").unlink(), "holds no model"),
        (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "does not describe a model"),
        (lambda f: (f / "model.safetensors").unlink(), "missing or damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04garbage"), "missing or damaged"),
        (lambda f: (f / "gradients.csv").write_text("a,b\n"), "gradients.csv"),
        (_drop_a_weight, "lacks predictor.proj.bias; has unknown context_encoder.extra"),
        (_edit_config(embed_dim=48), "instead of"),
        (_edit_config(embeddim=48), "Did you mean 'embed_dim'"),
        (_edit_config(n_gradients=4), "needs 7 regions x 4 gradients"),
    ],
)
def test_refuses_damaged_model_folders(
    jepa: JEPA, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    save_model(jepa, tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=says):
        load_model(tmp_path)


def test_refuses_wrong_shapes(jepa: JEPA) -> None:
    with pytest.raises(ValueError, match="transpose"):
        jepa.target_encoder(scans().transpose(1, 2))
    tokens = jepa.context_encoder(scans(1), torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="must agree"):
        jepa.predictor(tokens, torch.tensor([[1, 2, 3]]), torch.tensor([[4]]))
    with pytest.raises(InputError, match="6 x 5"):
        JEPA(CONFIG, np.ones((6, 5)))
    with pytest.raises(InputError, match="non-finite"):
        JEPA(CONFIG, np.full((7, 5), np.nan))


def released_layout(jepa: JEPA) -> dict[str, dict[str, torch.Tensor]]:
    """The state of a JEPA under the released names."""
    theirs: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "predictor": {}, "target_encoder": {}}
    for name, tensor in jepa.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "predictor":
            rest = rest.replace("positions.time", "predictor_2dpe_proj.emb_h")
            rest = rest.replace("positions.gradient.", "predictor_2dpe_proj.predictor_pos_embed_proj.")
            for ours in ("embed.", "blocks.", "norm.", "proj."):
                rest = f"predictor_{rest}" if rest.startswith(ours) else rest
        else:
            rest = rest.replace("positions.time", "pos_embed_proj.emb_h")
            rest = rest.replace("positions.gradient.", "pos_embed_proj.predictor_pos_embed_proj.")
            tensor = tensor[:, None, None, :] if rest == "patch_embed.proj.weight" else tensor
        theirs["encoder" if part == "context_encoder" else part][rest] = tensor.clone()
    return theirs


def test_released_layouts_are_read(jepa: JEPA, tmp_path: Path) -> None:
    parts = released_layout(jepa)
    container: dict[str, Any] = {p: {f"module.{n}": t for n, t in s.items()} for p, s in parts.items()}
    torch.save(container | {"epoch": 3, "scaler": None}, tmp_path / "x.pth.tar")
    flat = {f"{p}.{n}": t.contiguous() for p, s in parts.items() for n, t in s.items()}
    safetensors.torch.save_file(flat, tmp_path / "x.safetensors")
    fit: dict[str, Any] = {
        "gradients": jepa.gradients,
        "patch_size": 3,
        "num_heads": 3,
        "predictor_num_heads": 2,
    }
    for name, n_frames in (("x.pth.tar", 12), ("x.safetensors", 13)):  # 13: one sample beyond the last patch
        found = load_official_checkpoint(tmp_path / name, n_frames=n_frames, **fit)
        assert found.config == CONFIG
        assert torch.equal(found.target_encoder(scans()), jepa.target_encoder(scans()))
    with pytest.raises(InputError, match="patches of 3 frames and 28 tokens"):
        load_official_checkpoint(tmp_path / "x.pth.tar", n_frames=12, **(fit | {"patch_size": 4}))
    with pytest.raises(InputError, match="7 regions x 5 gradients"):
        load_official_checkpoint(
            tmp_path / "x.pth.tar", n_frames=12, **(fit | {"gradients": np.ones((6, 5))})
        )


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    "content, says",
    [
        ({"encoder": Malicious()}, "nothing in it was run"),
        ([1, 2], "holds a list"),
        ({"encoder": {"a": torch.ones(1)}}, "no weights under 'predictor'"),
        ({p: {"module.a": torch.ones(1)} for p in ("encoder", "predictor", "target_encoder")}, "missing"),
    ],
)
def test_foreign_and_malicious_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "x.pth.tar")
    with pytest.raises(InputError, match=says):
        load_official_checkpoint("x.pth.tar", gradients=np.ones((7, 5)))
    assert not Path("executed").exists()


def test_truncated_and_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"encoder": torch.randn(500)}, tmp_path / "whole.pth.tar")
    whole = (tmp_path / "whole.pth.tar").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="read safely"):
            load_official_checkpoint(tmp_path / name, gradients=np.ones((7, 5)))
    with pytest.raises(InputError, match="no file"):
        load_official_checkpoint(tmp_path / "none", gradients=np.ones((7, 5)))
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        load_official_checkpoint(tmp_path / "x.safetensors", gradients=np.ones((7, 5)))
    safetensors.torch.save_file({"other.a": torch.ones(1)}, tmp_path / "y.safetensors")
    with pytest.raises(InputError, match="must begin with"):
        load_official_checkpoint(tmp_path / "y.safetensors", gradients=np.ones((7, 5)))


def test_public_names() -> None:
    for name in ("JEPA", "ModelConfig", "load_model", "load_official_checkpoint", "ShardDataset", "Embedder"):
        assert getattr(bjepa.model, name).__name__ == name
        assert name in dir(bjepa.model)
    with pytest.raises(AttributeError, match="no attribute 'Jepa'"):
        bjepa.model.Jepa  # noqa: B018
