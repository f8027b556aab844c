"""model/readouts/fit_network.py: order, accumulation, rates, early stopping; against torch, and laws."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_network import (
    FitSettings,
    fit_network,
    lr_factor_at,
    plain_groups,
    predict_network,
)
from bjepa.preproc.errors import InputError

D = 5


def make_network(seed: int = 0, n_outputs: int = 1, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(D, 7), nn.LayerNorm(7), nn.Dropout(dropout), nn.GELU(), nn.Linear(7, n_outputs)
    )


def make_samples(
    n: int, seed: int = 0, *, classes: int = 0, per_participant: int = 1, noise: float = 0.1
) -> Samples:
    """Targets of mean 50 and SD about 20, or classes, that are linear in the inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(np.float32)
    score = x @ np.array([1.0, -1, 0.5, 0, 0]) + noise * rng.normal(size=n)
    target: NDArray[Any] = np.digitize(score, [-0.6, 0.6][: classes - 1]) if classes else 50 + 13 * score
    owner = np.repeat(np.arange(n), per_participant)
    jitter = 0.01 * rng.normal(size=(len(owner), D))
    return Samples.of_arrays((x[owner] + jitter).astype(np.float32), participant=owner, target=target)


class Recorder(nn.Module):
    """Notes the inputs it is given in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x[:, 0].int().tolist())
        out: Tensor = self.linear(x)
        return out


def test_learns_a_regression_in_its_units() -> None:
    settings = FitSettings(epochs=60, lr=1e-2, batch_size=16)
    train, val, test = make_samples(120), make_samples(40, 1), make_samples(50, 2)
    fitted = fit_network(make_network(), train, val, task="regression", settings=settings, seed=3)
    assert train.target is not None and test.target is not None
    assert_allclose([fitted.target_mean, fitted.target_std], [train.target.mean(), train.target.std()])
    found = predict_network(fitted, test, task="regression", batch_size=7)
    assert 1 - np.var(found - test.target) / np.var(test.target) > 0.9
    assert abs(found.mean() - test.target.mean()) < 3 and not fitted.network.training


def test_learns_classes_as_probabilities() -> None:
    settings = FitSettings(epochs=40, lr=1e-2, label_smoothing=0.05)
    train, val, test = (
        make_samples(n, s, classes=3, per_participant=2) for n, s in ((120, 0), (40, 1), (50, 2))
    )
    fitted = fit_network(
        make_network(n_outputs=3), train, val, task="classification", settings=settings, seed=3
    )
    found = predict_network(fitted, test, task="classification")
    assert found.shape == (50, 3)
    assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == test.target).mean() > 0.85


def test_each_epoch_has_another_order_given_by_the_seed() -> None:
    samples = Samples.of_arrays(np.arange(11, dtype=np.float32)[:, None], target=np.linspace(0, 1, 11))

    def orders(seed: int) -> list[list[int]]:
        network = Recorder()
        settings = FitSettings(epochs=3, batch_size=5, warmup_epochs=0)
        fit_network(network, samples, samples, task="regression", settings=settings, seed=seed)
        assert [len(s) for s in network.seen[:2]] == [5, 6]  # 5 + 5 + 1: the last one is not left alone
        return [network.seen[i] + network.seen[i + 1] for i in (0, 2, 4)]

    first = orders(0)
    assert all(sorted(order) == list(range(11)) for order in first)
    assert first[0] != first[1] and first[1] != first[2] and first[0] != list(range(11))
    assert orders(0) == first and orders(1) != first


def test_law_accumulated_batches_are_one_batch() -> None:
    train, val = make_samples(30), make_samples(9, 1)  # 3 * 8 + 4 + 2: the last update is smaller
    found = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        settings = FitSettings(
            epochs=4, lr=1e-2, batch_size=batch_size, accumulate=accumulate, warmup_epochs=1
        )
        fitted = fit_network(make_network(), train, val, task="regression", settings=settings, seed=1)
        found.append(fitted)
    one, two = (torch.cat([p.flatten() for p in f.network.parameters()]).detach() for f in found)
    assert_allclose(two, one, atol=2e-5)
    assert_allclose(
        [h["train_loss"] for h in found[1].history], [h["train_loss"] for h in found[0].history], rtol=1e-4
    )
    start = torch.cat([p.flatten() for p in make_network().parameters()]).detach()
    assert (one - start).abs().max() > 0.01


def test_one_epoch_equals_torch_by_hand() -> None:
    train, val = make_samples(12), make_samples(6, 1)
    settings = FitSettings(epochs=1, batch_size=12, lr=3e-3, weight_decay=0.2, warmup_epochs=0, clip_grad=0.5)
    fitted = fit_network(make_network(), train, val, task="regression", settings=settings, seed=5)
    network = make_network()
    assert train.target is not None
    (x,) = train.read(np.arange(12))
    y = torch.tensor((train.target - train.target.mean()) / train.target.std(), dtype=torch.float32)
    decayed = [network[0].weight, network[4].weight]
    rest = [p for p in network.parameters() if all(p is not d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    loss = ((network(x)[:, 0] - y) ** 2).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()
    assert fitted.history[0]["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for one, other in zip(fitted.network.parameters(), network.parameters(), strict=True):
        assert_allclose(one.detach(), other.detach(), atol=1e-6)


def test_the_best_epoch_comes_back_and_patience_ends_it() -> None:
    train, val = make_samples(10, noise=3), make_samples(40, 1, noise=3)  # overfits at once
    settings = FitSettings(epochs=200, lr=2e-2, batch_size=10, patience=7, warmup_epochs=1)
    fitted = fit_network(make_network(), train, val, task="regression", settings=settings, seed=0)
    losses = [h["val_loss"] for h in fitted.history]
    assert fitted.best_epoch == 1 + int(np.argmin(losses)) and len(losses) == fitted.best_epoch + 7 < 200
    assert val.target is not None
    found = predict_network(fitted, val, task="regression")
    error = float(np.mean(((found - val.target) / fitted.target_std) ** 2))
    assert error == pytest.approx(min(losses), rel=1e-6) and min(losses) < losses[-1]
    short = fit_network(
        make_network(), train, val, task="regression", settings=settings, seed=0, max_epochs=2
    )
    assert len(short.history) == 2


def test_the_rate_rises_then_falls() -> None:
    factors = np.array([lr_factor_at(u, n_updates=20, n_warmup=5) for u in range(20)])
    assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert_allclose(factors[5:], 0.5 * (1 + np.cos(np.pi * np.arange(1, 16) / 16)))
    assert (np.diff(factors[4:]) < 0).all() and factors[-1] > 0
    assert lr_factor_at(0, n_updates=3, n_warmup=0) == 1.0


def test_groups_get_their_share_of_the_rate() -> None:
    rates: list[list[float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def groups(network: nn.Module) -> list[dict[str, Any]]:
        first, *_, last = network.children()
        return [{"params": list(first.parameters()), "lr_scale": 0.25}, {"params": list(last.parameters())}]

    settings = FitSettings(epochs=4, batch_size=4, lr=0.02, warmup_epochs=2)
    before = [p.clone() for p in make_network()[1].parameters()]
    fitted = fit_network(
        make_network(),
        make_samples(12),
        make_samples(4, 1),
        task="regression",
        settings=settings,
        seed=0,
        parameter_groups=groups,
        make_optimizer=Watched,
    )
    expected = np.array([lr_factor_at(u, n_updates=12, n_warmup=6) for u in range(12)]) * 0.02
    assert_allclose(rates, np.stack([0.25 * expected, expected], axis=1))
    assert_allclose([h["lr"] for h in fitted.history], expected[2::3])
    for one, other in zip(before, fitted.network.get_submodule("1").parameters(), strict=True):
        assert_array_equal(one.detach(), other.detach())  # in no group: not trained


def test_plain_groups_spare_vectors_and_the_frozen() -> None:
    network = make_network()
    network[0].weight.requires_grad_(False)
    decays, spared = plain_groups(network)
    assert [tuple(p.shape) for p in decays["params"]] == [(1, 7)] and "weight_decay" not in decays
    assert len(spared["params"]) == 4 and spared["weight_decay"] == 0.0


def test_same_seed_same_bytes_and_the_global_generator_stays() -> None:
    def fit(seed: int) -> tuple[NDArray[np.float64], Tensor]:
        settings = FitSettings(epochs=3, warmup_epochs=1)
        network = make_network(dropout=0.5)
        torch.manual_seed(99)
        fitted = fit_network(
            network, make_samples(30), make_samples(9, 1), task="regression", settings=settings, seed=seed
        )
        after = torch.rand(2)
        return predict_network(fitted, make_samples(8, 2), task="regression"), after

    one, after = fit(0)
    again, _ = fit(0)
    assert_array_equal(one, again)
    assert np.abs(one - fit(1)[0]).max() > 1e-3
    torch.manual_seed(99)
    assert_array_equal(after, torch.rand(2))


def test_law_a_participants_prediction_is_the_mean_of_its_samples() -> None:
    fitted = fit_network(
        make_network(n_outputs=2),
        make_samples(20, classes=2),
        make_samples(9, 1, classes=2),
        task="classification",
        settings=FitSettings(epochs=1, warmup_epochs=0),
        seed=0,
    )
    x = np.random.default_rng(4).normal(size=(5, D)).astype(np.float32)
    alone = predict_network(fitted, Samples.of_arrays(x), task="classification")
    owner = np.array([1, 0, 1, 1, 0])
    found = predict_network(
        fitted, Samples.of_arrays(x, participant=owner), task="classification", batch_size=2
    )
    assert_allclose(found, [alone[[1, 4]].mean(axis=0), alone[[0, 2, 3]].mean(axis=0)], atol=1e-7)


def test_loss_extra_is_added() -> None:
    def fit(weight: float) -> float:
        fitted = fit_network(
            make_network(),
            make_samples(30),
            make_samples(9, 1),
            task="regression",
            settings=FitSettings(epochs=20, lr=1e-2, weight_decay=0),
            seed=0,
            loss_extra=lambda n: weight * torch.stack([(p**2).sum() for p in n.parameters()]).sum(),
        )
        return float(sum((p.detach() ** 2).sum() for p in fitted.network.parameters()))

    assert fit(0.3) < 0.7 * fit(0.0)


def test_bfloat16_runs_and_learns() -> None:
    settings = FitSettings(epochs=40, lr=1e-2, precision="bfloat16")
    train, test = make_samples(120), make_samples(50, 2)
    fitted = fit_network(
        make_network(), train, make_samples(40, 1), task="regression", settings=settings, seed=3
    )
    found = predict_network(fitted, test, task="regression")
    assert test.target is not None and np.corrcoef(found, test.target)[0, 1] > 0.9
    assert all(p.dtype == torch.float32 for p in fitted.network.parameters())
    with torch.no_grad():
        exact = (
            fitted.network(test.read(np.arange(50))[0])[:, 0].numpy() * fitted.target_std + fitted.target_mean
        )
    assert 1e-4 < np.abs(found - exact).max() < 3  # it was computed in bfloat16


def test_refuses_what_is_not_finite() -> None:
    settings = FitSettings(epochs=2, warmup_epochs=0)
    good = make_samples(12)
    x = np.zeros((12, D), dtype=np.float32)
    x[7, 2] = np.nan
    broken = Samples.of_arrays(x, target=np.arange(12.0))
    with pytest.raises(InputError, match="participants number 7 have non-finite"):
        fit_network(make_network(), broken, good, task="regression", settings=settings, seed=0)
    network = make_network()
    with pytest.raises(FloatingPointError, match="Epoch 1, update 0: the loss is nan"):
        fit_network(
            network,
            good,
            good,
            task="regression",
            settings=settings,
            seed=0,
            loss_extra=lambda n: torch.tensor(float("nan")),
        )
    for one, other in zip(network.parameters(), make_network().parameters(), strict=True):
        assert_array_equal(one.detach(), other.detach())  # nothing was updated
    empty = Samples.of_arrays(
        np.zeros((0, D), np.float32), participant=np.empty(0, np.int64), target=np.empty(0)
    )
    with pytest.raises(InputError, match="validation part has no samples"):
        fit_network(make_network(), good, empty, task="regression", settings=settings, seed=0)
    with pytest.raises(InputError, match="targets that are not finite"):
        nan_target = Samples.of_arrays(np.zeros((3, D), np.float32), target=np.array([1, np.nan, 2]))
        fit_network(make_network(), nan_target, good, task="regression", settings=settings, seed=0)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"precision": "float16"}, "precision must be float32 or bfloat16"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"epochs": 3, "warmup_epochs": 4}, "more than epochs"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more"),
    ],
)
def test_refuses_settings(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        FitSettings(**options)
