"""The released probe: LARS by its formula, the head as described, and that it learns."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_network import FitSettings, fit_network
from bjepa.model.readouts.released_probe import LARS, RATES, RELEASED_PROBE, ReleasedHead, fit_released_probe


def test_lars_by_the_formula() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(3, 5)), rng.normal(size=3)
    weight, bias = (nn.Parameter(torch.tensor(v)) for v in (w, b))
    optimizer = LARS([weight, bias], lr=0.3, weight_decay=0.05, trust=0.01)
    v_w, v_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(4):
        g_w, g_b = rng.normal(size=w.shape), rng.normal(size=b.shape)
        weight.grad, bias.grad = torch.tensor(g_w), torch.tensor(g_b)
        optimizer.step()
        d = g_w + 0.05 * w
        v_w = 0.9 * v_w + 0.01 * np.linalg.norm(w) / np.linalg.norm(d) * d
        v_b = 0.9 * v_b + g_b
        w, b = w - 0.3 * v_w, b - 0.3 * v_b
    assert_allclose(weight.detach().numpy(), w, rtol=1e-12)
    assert_allclose(bias.detach().numpy(), b, rtol=1e-12)


def test_law_a_matrix_moves_alike_whatever_the_size_of_the_gradient() -> None:
    moved = []
    for size in (1e-4, 1.0, 1e5):
        weight = nn.Parameter(torch.ones(2, 3))
        weight.grad = size * torch.arange(6.0).reshape(2, 3)
        LARS([weight], lr=1.0).step()
        moved.append((weight.detach() - 1).numpy())
    assert_allclose(moved[0], moved[1], rtol=1e-5)
    assert_allclose(moved[2], moved[1], rtol=1e-5)
    zero = nn.Parameter(torch.zeros(2, 3))
    zero.grad = torch.ones(2, 3)
    LARS([zero], lr=0.5).step()  # a weight of length 0 has no rate of its own
    assert_allclose(zero.detach().numpy(), -0.5)


def test_head_is_as_described() -> None:
    head = ReleasedHead(200, 3, generator=torch.Generator().manual_seed(0))
    assert [name for name, _ in head.named_parameters()] == ["head.weight", "head.bias"]
    assert (
        head.head.weight.std().item() == torch.tensor(0.01).item()
        or abs(head.head.weight.std().item() - 0.01) < 1e-3
    )
    x = torch.randn(31, 200, generator=torch.Generator().manual_seed(1)) * 7 + 3
    normed = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    batch = (normed - normed.mean(dim=0)) / (normed.var(dim=0, unbiased=False) + 1e-6).sqrt()
    expected = batch @ head.head.weight.T + head.head.bias
    assert_allclose(head(x).detach().numpy(), expected.detach().numpy(), atol=1e-5)


def fold_of(task: Task, *, hole: bool = False) -> tuple[Fold, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(260, 12)).astype(np.float32)
    y = 30 + 9 * (x[:, 3] - x[:, 4]) if task == "regression" else (x[:, 3] > x[:, 4]).astype(np.int64)
    if hole:
        x[5, 3] = np.nan
    n = 200
    fold = Fold(
        task=task,
        classes=[] if task == "regression" else ["a", "b"],
        inputs=x[:n],
        target=y[:n],
        inner_fold=np.arange(n) % 4,
        is_val=np.arange(n) % 4 == 1,
        test_inputs=x[n:],
        seed=5,
    )
    return fold, y[n:]


def test_it_finds_a_class_at_a_rate_chosen_on_the_validation_part() -> None:
    fold, truth = fold_of("classification", hole=True)
    found = fit_released_probe(fold)
    assert found.values.shape == (60, 2) and found.settings["lr"] > RATES[0]
    assert np.mean(found.values.argmax(axis=1) == truth) > 0.85
    assert fit_released_probe(fold).values.tobytes() == found.values.tobytes()


def test_the_released_rate_leaves_the_head_as_it_was_drawn() -> None:
    assert (RELEASED_PROBE.batch_size, RELEASED_PROBE.epochs, RELEASED_PROBE.lr) == (64, 50, 2.5e-4)
    x = np.random.default_rng(3).normal(size=(400, 12)).astype(np.float32)
    train = Samples.of_arrays(x, target=(x[:, 3] > x[:, 4]).astype(np.int64))
    head = ReleasedHead(12, 2, generator=torch.Generator().manual_seed(0))
    drawn = head.head.weight.detach().clone()
    fit_network(
        head, train, train, task="classification", settings=RELEASED_PROBE, seed=0, make_optimizer=LARS
    )
    assert 0 < torch.linalg.vector_norm(head.head.weight - drawn) < 1e-3 * torch.linalg.vector_norm(drawn)


def test_a_larger_rate_learns_a_regression() -> None:
    fold, truth = fold_of("regression")
    settings = FitSettings(epochs=60, batch_size=32, patience=60)
    found = fit_released_probe(fold, settings=settings, rates=[10.0])
    assert np.corrcoef(found.values, truth)[0, 1] > 0.9


def test_a_rate_that_diverges_is_left_out() -> None:
    """The bias moves by plain momentum: in a regression 25 takes it to infinity."""
    fold, truth = fold_of("regression")
    with pytest.raises(FloatingPointError, match=r"diverged at every rate of \[25.0\]"):
        fit_released_probe(fold, rates=[25.0])
    found = fit_released_probe(fold)
    assert found.settings["lr"] in RATES[:-1] and np.isfinite(found.values).all()
    assert np.corrcoef(found.values, truth)[0, 1] > 0
