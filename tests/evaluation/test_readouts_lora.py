"""LoRA: nothing changes at the start, merging changes nothing, only A and B are trained."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor, nn

from bjepa.model import JEPA, ModelConfig
from bjepa.model.encoder import Encoder
from bjepa.model.readouts.lora import LoRALinear, add_lora, merge_lora
from bjepa.preproc.errors import InputError

RANK, WIDE, DEPTH = 3, 8, 2


@pytest.fixture
def encoder() -> Encoder:
    config = ModelConfig(
        n_rois=5,
        n_frames=12,
        patch_size=4,
        n_gradients=3,
        embed_dim=WIDE,
        depth=DEPTH,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
        init_std=0.2,
    )
    gradients = np.random.default_rng(1).normal(size=(5, 3))
    return JEPA(config, gradients, generator=torch.Generator().manual_seed(0)).context_encoder


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))


def shaken(encoder: Encoder) -> Encoder:
    """With changes that are not zero."""
    for part in encoder.modules():
        if isinstance(part, LoRALinear):
            nn.init.normal_(part.up, std=0.3, generator=torch.Generator().manual_seed(2))
    return encoder


def test_at_the_start_it_is_the_encoder_it_was(encoder: Encoder, x: Tensor) -> None:
    before = encoder(x)
    add_lora(encoder, rank=RANK)
    assert_array_equal(encoder(x).detach(), before.detach())
    assert float((shaken(encoder)(x) - before).detach().abs().max()) > 0.1


def test_law_merged_weights_do_the_same(encoder: Encoder, x: Tensor) -> None:
    names = set(encoder.state_dict())
    add_lora(encoder, rank=RANK, alpha=1.5)
    wrapped = shaken(encoder)(x).detach()
    merge_lora(encoder)
    assert_allclose(encoder(x).detach(), wrapped, atol=2e-6)
    assert set(encoder.state_dict()) == names
    assert not any(isinstance(part, LoRALinear) for part in encoder.modules())


def test_changes_and_nothing_else_are_trained(encoder: Encoder, x: Tensor) -> None:
    whole = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    add_lora(encoder, rank=RANK)
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    sides = 4 * WIDE + 2 * WIDE + 5 * WIDE + 5 * WIDE  # in + out of qkv, proj, fc1, fc2
    assert sum(p.numel() for p in trained.values()) == DEPTH * RANK * sides
    assert {name.rsplit(".", 1)[1] for name in trained} == {"down", "up"}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):  # of A the gradient is zero until B moved
        optimizer.zero_grad()
        encoder(x).pow(3).sum().backward()
        optimizer.step()
    after = {n.replace(".base.", "."): p.detach() for n, p in encoder.named_parameters() if ".base." in n}
    for name, value in after.items():
        assert_array_equal(value, whole[name])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())


def test_the_formula() -> None:
    base = nn.Linear(7, 5)
    plain = copy.deepcopy(base)
    layer = LoRALinear(base, rank=2, alpha=6.0, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(layer.up)
    x = torch.randn(3, 7)
    expected = x @ (plain.weight + 6.0 / 2 * layer.up @ layer.down).T + plain.bias
    assert_allclose(layer(x).detach(), expected.detach(), atol=1e-5)
    assert_allclose(nn.functional.linear(x, layer.weight, layer.bias).detach(), expected.detach(), atol=1e-5)
    wide = LoRALinear(nn.Linear(4000, 40), rank=20, alpha=1, generator=torch.Generator().manual_seed(0))
    assert wide.down.detach().var() == pytest.approx(1 / 4000, rel=0.03)


def test_some_tokens_alone_see_the_changes_too(encoder: Encoder, x: Tensor) -> None:
    add_lora(encoder, rank=RANK)
    shaken(encoder)
    at = torch.tensor([[2, 7], [0, 1], [3, 14], [5, 6]])
    tokens = encoder(x).detach()
    expected = torch.stack([one[index] for one, index in zip(tokens, at, strict=True)])
    assert_allclose(encoder(x, at=at).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 9])
def test_refuses_a_rank_that_is_none(encoder: Encoder, rank: int) -> None:
    with pytest.raises(InputError, match=f"lora_rank must be from 1 to 8 for this model, got {rank}"):
        add_lora(encoder, rank=rank)
