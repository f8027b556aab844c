"""model/positions.py and what is predicted: the variants, each with its effect."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bjepa.model import JEPA, ModelConfig, load_model
from bjepa.model.config import RegionPosition
from bjepa.model.hub import save_model
from bjepa.model.positions import sinusoids
from bjepa.model.tokens import TokenList

CONFIG = ModelConfig(
    n_rois=5,
    n_frames=12,
    patch_size=3,
    n_gradients=3,
    embed_dim=16,
    depth=1,
    num_heads=2,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
)


def make(config: ModelConfig) -> JEPA:
    generator = torch.Generator().manual_seed(1)
    return JEPA(config, torch.randn(5, 3, generator=generator), generator=generator).eval()


def scans() -> torch.Tensor:
    return torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind, n_trained", [("gradient", 2), ("sinusoidal", 0), ("learned", 1)])
def test_region_positions(kind: RegionPosition, n_trained: int, tmp_path: Path) -> None:
    jepa = make(replace(CONFIG, region_position=kind))
    positions = jepa.context_encoder.positions
    table = positions()
    assert table.shape == (20, 16)
    assert torch.equal(table[:, :8], positions.time)
    regions = table[:, 8:].unflatten(0, (5, 4))
    assert torch.equal(regions[:, 0], regions[:, 3])  # the same for all patches
    assert len(regions[:, 0].unique(dim=0)) == 5
    trained = [p for p in positions.parameters() if p.requires_grad]
    assert len(trained) == n_trained
    if kind == "sinusoidal":
        assert torch.equal(regions[:, 1], sinusoids(torch.arange(5), 8))
    if kind == "learned":
        assert 0.01 < positions.region.std() < 0.03
        assert torch.equal(jepa.target_encoder.positions.region, positions.region)
    save_model(jepa, tmp_path)
    assert torch.equal(load_model(tmp_path).target_encoder(scans()), jepa.target_encoder(scans()))


def test_gradients_matter_only_where_they_are_the_position() -> None:
    for kind, matters in (("gradient", True), ("sinusoidal", False), ("learned", False)):
        config = replace(CONFIG, region_position=kind)  # type: ignore[arg-type]
        one, other = (
            JEPA(config, g, generator=torch.Generator().manual_seed(1))
            for g in (torch.eye(5, 3), torch.eye(5, 3).flip(0))
        )
        same = torch.equal(one.target_encoder(scans()), other.target_encoder(scans()))
        assert same != matters


def test_seconds_are_patches_at_two_seconds_and_scale_with_t_r() -> None:
    jepa = make(replace(CONFIG, time_position="seconds"))
    plain = make(CONFIG)
    x, two = scans(), torch.full((2,), 2.0)
    torch.testing.assert_close(jepa.target_encoder(x, t_r=two), plain.target_encoder(x), atol=1e-6, rtol=0)
    tokens = TokenList.all_of(2, 20, device=torch.device("cpu"))
    table = jepa.context_encoder.positions.of(tokens, torch.tensor([2.0, 4.0])).view(2, 20, 16)
    # patch 1 at 4 s begins when patch 2 at 2 s does
    torch.testing.assert_close(table[1, 1, :8], table[0, 2, :8])
    assert not torch.allclose(table[1, 1, :8], table[0, 1, :8], atol=1e-3)
    torch.testing.assert_close(table[1, :, 8:], table[0, :, 8:])
    other = torch.tensor([2.0, 0.735])
    context, target = torch.tensor([[0, 3, 9], [0, 3, 9]]), torch.tensor([[5], [6]])
    slow, fast = jepa(x, context, target, t_r=two), jepa(x, context, target, t_r=other)
    for a, b in zip(slow, fast, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=0)
        assert not torch.allclose(a[1], b[1], atol=1e-6)
    with pytest.raises(ValueError, match="needs t_r"):
        jepa.target_encoder(x)


def test_the_signal_itself_as_target() -> None:
    jepa = make(replace(CONFIG, predicts="signal"))
    x, context = scans(), torch.tensor([[0, 3, 9], [1, 2, -1]])
    predicted, targets = jepa(x, context, torch.tensor([[5, 19], [6, -1]]))
    assert predicted.shape == targets.shape == (2, 2, 3)
    assert torch.equal(targets[0, 0], x[0, 1, 3:6]) and torch.equal(targets[0, 1], x[0, 4, 9:12])
    assert torch.equal(targets[1, 0], x[1, 1, 6:9]) and (targets[1, 1] == 0).all()
    (predicted - targets).square().mean().backward()
    assert all(p.grad is not None for p in jepa.context_encoder.parameters() if p.requires_grad)
