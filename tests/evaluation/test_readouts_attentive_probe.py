"""The attentive probe: the formula, missing tokens, a frozen encoder, and that it finds what a mean hides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.model import JEPA, ModelConfig
from bjepa.model.evaluation.embedding_file import model_sha256
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.readouts.attentive_probe import AttentiveHead, attentive_probe_method
from bjepa.model.readouts.fit_network import FitSettings

N_ROIS, N = 6, 60
TARGET = np.random.default_rng(2).normal(size=N)


def make_head() -> AttentiveHead:
    head = AttentiveHead(12, num_heads=3, n_outputs=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return head.eval()


def test_attention_by_the_formula() -> None:
    head = make_head()
    tokens = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(2))
    x = torch.nn.functional.layer_norm(
        tokens[0], (12,), head.norm_tokens.weight, head.norm_tokens.bias, eps=1e-6
    )
    q = head.to_q(head.query)
    mixed = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        score = head.to_k(x)[:, part] @ q[part] / 2  # sqrt(4)
        mixed.append(score.softmax(dim=0) @ head.to_v(x)[:, part])
    z = head.query + head.proj(torch.cat(mixed))
    z = z + head.fc2(torch.nn.functional.gelu(head.fc1(head.norm_mlp(z))))
    expected = head.head(head.norm_out(z))
    found = head(tokens, torch.ones(1, 7, dtype=torch.bool))
    assert_allclose(found[0].detach().numpy(), expected.detach().numpy(), atol=1e-5)


def test_law_order_and_missing_tokens_do_not_matter() -> None:
    head = make_head()
    tokens = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(3))
    exists = torch.ones(2, 9, dtype=torch.bool)
    exists[0, 5:] = False
    found = head(tokens, exists).detach()
    spoilt = tokens.clone()
    spoilt[0, 5:] = 1e3
    assert_allclose(head(spoilt, exists).detach().numpy(), found.numpy(), atol=1e-5)
    assert_allclose(head(tokens[:1, :5], exists[:1, :5]).detach().numpy(), found[:1].numpy(), atol=1e-5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    assert_allclose(head(tokens[:, order], exists[:, order]).detach().numpy(), found.numpy(), atol=1e-5)


@pytest.fixture
def jepa() -> JEPA:
    config = ModelConfig(
        n_rois=N_ROIS, n_frames=12, patch_size=4, n_gradients=3, embed_dim=16, depth=1, num_heads=2,
        predictor_embed_dim=8, predictor_depth=1, predictor_num_heads=2, patch_init_std=0.5, init_std=0.1,
    )  # fmt: skip
    gradients = np.random.default_rng(1).normal(size=(N_ROIS, 3))
    return JEPA(config, gradients, generator=torch.Generator().manual_seed(0)).train()


@pytest.fixture
def data(write_cohort: Any) -> Path:
    """The level of region 0 is the target; region 3 is missing in some."""
    rng = np.random.default_rng(3)
    phases = []
    for t in TARGET:
        x = rng.normal(size=(12 * rng.integers(1, 4) + 5, N_ROIS))
        x[:, 0] += 2 * t
        phases.append([x.astype(np.float32)])
    valid = np.ones((N, N_ROIS), bool)
    valid[::7, 3] = False
    path: Path = write_cohort(phases, valid=valid)
    return path


def test_it_learns_and_the_model_stays_as_it_was(jepa: JEPA, data: Path) -> None:
    method = attentive_probe_method(jepa, settings=FitSettings(epochs=30, lr=3e-3, warmup_epochs=2))
    recordings = method.inputs(load_scan_data(data), [f"{i:02d}" for i in range(N)])
    inner = np.arange(45) % 5
    fold = Fold(
        task="regression",
        classes=[],
        inputs=recordings[np.arange(45)],
        target=TARGET[:45],
        inner_fold=inner,
        is_val=inner == 1,
        test_inputs=recordings[np.arange(45, N)],
        seed=7,
    )
    before = model_sha256(jepa)
    found = method.fit_predict(fold)
    assert np.corrcoef(found.values, TARGET[45:])[0, 1] > 0.8
    assert model_sha256(jepa) == before and jepa.target_encoder.training
    assert_array_equal(method.fit_predict(fold).values, found.values)
    assert found.settings["n_trained_weights"] == sum(
        p.numel() for p in AttentiveHead(16, num_heads=2, n_outputs=1).parameters()
    )
