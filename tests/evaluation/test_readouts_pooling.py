"""model/readouts/pooling.py: against numpy and scipy, missing regions, sizes, gradients."""

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import logm
from torch import Tensor

from bjepa.model.readouts.pooling import (
    BY_NETWORK,
    POOLINGS,
    SECOND_ORDER,
    SHRINKAGE,
    Pooling,
    check_pooling,
    n_features,
    network_numbers,
    pool,
)
from bjepa.preproc.errors import InputError

B, R, T, D = 3, 7, 4, 5
NAMES = ["Vis", "Default", "Vis", "Cont", "Default", "Vis", "Default"]  # Cont 0, Default 1, Vis 2
NETWORK = torch.from_numpy(network_numbers(NAMES))


@pytest.fixture
def tokens() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(B, R, T, D)) + 2)


def test_networks_are_numbered_by_name() -> None:
    assert NETWORK.tolist() == [2, 1, 2, 0, 1, 2, 1]


def test_first_order(tokens: Tensor) -> None:
    x = tokens.numpy()
    assert_allclose(pool(tokens, "mean"), x.mean(axis=(1, 2)))
    assert_allclose(pool(tokens, "region"), x.mean(axis=2).reshape(B, -1))
    means = [x[:, [n == name for n in NAMES]].mean(axis=(1, 2)) for name in ("Cont", "Default", "Vis")]
    assert_allclose(pool(tokens, "network", network_R=NETWORK), np.concatenate(means, axis=1))


def test_pairs_are_fisher_z_of_correlations(tokens: Tensor) -> None:
    x = tokens.numpy() - tokens.numpy().mean(axis=2, keepdims=True)
    upper = np.triu_indices(R, 1)
    expected = [np.arctanh(np.corrcoef(one.reshape(R, -1))[upper]) for one in x]
    assert_allclose(pool(tokens, "region_pairs"), expected, rtol=1e-9)
    nets = np.stack(
        [x[:, [n == name for n in NAMES]].mean(axis=1) for name in ("Cont", "Default", "Vis")], axis=1
    )
    expected = [np.arctanh(np.corrcoef(one.reshape(3, -1))[np.triu_indices(3, 1)]) for one in nets]
    assert_allclose(pool(tokens, "network_pairs", network_R=NETWORK), expected, rtol=1e-9)


def test_network_log_is_the_matrix_logarithm(tokens: Tensor) -> None:
    found = pool(tokens, "network_log", network_R=NETWORK).numpy()
    x = tokens.numpy() - tokens.numpy().mean(axis=2, keepdims=True)
    for one, values in zip(x, found, strict=True):
        rows = np.stack(
            [one[[n == k for n in NAMES]].mean(axis=0).ravel() for k in ("Cont", "Default", "Vis")]
        )
        covariance = rows @ rows.T / rows.shape[1]
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))
        logarithm = logm(shrunk)
        assert_allclose(np.linalg.norm(values), np.linalg.norm(logarithm))  # an isometry
        assert_allclose(values[[0, 3, 5]], np.diag(logarithm), atol=1e-9)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_law_what_does_not_change_with_time_is_no_fluctuation(tokens: Tensor, pooling: Pooling) -> None:
    place = torch.from_numpy(np.random.default_rng(1).normal(size=(R, 1, D)))
    moved = pool(tokens + place, pooling, network_R=NETWORK)
    same = np.allclose(moved, pool(tokens, pooling, network_R=NETWORK), atol=1e-9)
    assert same == (pooling in SECOND_ORDER)
    back = pool(tokens + place, pooling, network_R=NETWORK, place_RTD=place.expand(R, T, D))
    assert_allclose(back, pool(tokens, pooling, network_R=NETWORK), atol=1e-9)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_law_a_missing_region_has_no_part(tokens: Tensor, pooling: Pooling) -> None:
    present = torch.ones(B, R, dtype=torch.bool)
    present[1, [3, 6]] = False  # 3 is all of Cont, 6 one of Default
    spoilt = tokens.clone()
    spoilt[1, [3, 6]] = torch.nan
    found = pool(spoilt, pooling, present_BR=present, network_R=NETWORK)
    whole = pool(tokens, pooling, network_R=NETWORK)
    assert_allclose(found[[0, 2]], whole[[0, 2]])  # the other scans of the batch
    kept = torch.tensor([0, 1, 2, 4, 5])
    alone = pool(tokens[1:2, kept], pooling, network_R=NETWORK[kept] - 1)
    known = ~torch.isnan(found[1])
    if pooling == "network_log":
        assert not known.any()
    else:
        assert_allclose(found[1][known], alone[0])
        n_networks = int(NETWORK.max()) + 1
        size = n_features(pooling, n_rois=R, embed_dim=D, n_networks=n_networks)
        assert (int(known.sum()) < size) == (pooling != "mean")


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_sizes_and_finite_gradients(tokens: Tensor, pooling: Pooling) -> None:
    x = tokens.float().requires_grad_(True)
    flat = torch.zeros(1, R, T, D)  # tokens without any fluctuation: what a fresh network may give
    found = pool(torch.cat([x, flat + 0 * x[:1]]), pooling, network_R=NETWORK)
    assert found.shape == (B + 1, n_features(pooling, n_rois=R, embed_dim=D, n_networks=3))
    found[:B].square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_refuses() -> None:
    with pytest.raises(InputError, match=r"one of mean, network, region.*'median'"):
        check_pooling("median", n_patches=4)
    with pytest.raises(InputError, match="windows have one patch"):
        check_pooling("region_pairs", n_patches=1)
    for pooling in POOLINGS:
        check_pooling(pooling, n_patches=2)
    for pooling in BY_NETWORK:
        with pytest.raises(ValueError, match="needs network_R"):
            pool(torch.zeros(1, R, T, D), pooling)  # type: ignore[arg-type]
    assert_array_equal(network_numbers(["b", "a"]), [1, 0])
    with pytest.raises(InputError, match=r"two or more; the regions all have the network \['n/a'\]"):
        network_numbers(["n/a", "n/a"])
