"""model/monitors.py on tokens made to be a case: all alike, place only, scan only, noise."""

import math

import pytest
import torch
from torch import Tensor

from bjepa.model.monitors import NAMES, dead_share, describe, effective_rank, scan_similarity

S, M, K, D = 5, 60, 31, 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_tokens_alike_is_complete_collapse() -> None:
    tokens = draw(1, 1, D).expand(S, M, D)
    found = describe(tokens, tokens, tokens)
    assert tuple(found) == NAMES
    assert found["target_std"] == pytest.approx(0, abs=1e-12) and found["effective_rank"] < 1.001
    assert found["context_effective_rank"] < 1.001
    assert found["scan_similarity"] == pytest.approx(1)
    zeros = describe(torch.zeros(S, M, D), torch.zeros(S, M, D))
    assert zeros["target_dead_share"] == zeros["prediction_dead_share"] == 1
    assert math.isnan(zeros["scan_similarity"]) and math.isnan(zeros["context_effective_rank"])


def test_place_only_has_spread_and_rank_and_nothing_of_a_scan() -> None:
    place = draw(1, M, D).expand(S, M, D)
    found = describe(place, place + 1e-3 * draw(S, M, D, seed=1))
    assert found["target_std"] > 0.8 and found["effective_rank"] > 10 and found["target_dead_share"] == 0
    assert found["target_scan_share"] < 1e-4 and found["scan_similarity"] > 0.999
    # a predictor that knows all places is no better than the mean of the others
    assert found["prediction_r2_over_position"] < 0.3


def test_scan_only_is_all_share_few_directions_and_unlike_scans() -> None:
    scan = draw(S, 1, D).expand(S, M, D)
    found = describe(scan, scan)
    assert found["target_scan_share"] == pytest.approx(1) and found["prediction_r2_over_position"] == 1
    assert found["effective_rank"] < S  # S points span S - 1 directions
    units = scan[:, 0] / scan[:, 0].norm(dim=1, keepdim=True)
    pairs = [float(units[i] @ units[j]) for i in range(S) for j in range(S) if i != j]
    assert found["scan_similarity"] == pytest.approx(sum(pairs) / len(pairs))


def test_noise_fills_all_directions() -> None:
    found = describe(draw(S, M, D, seed=1), draw(S, M, D), draw(S, K, 3, seed=2).repeat(1, 1, D // 3))
    assert found["effective_rank"] > 0.97 * D and 2.9 < found["context_effective_rank"] <= 3
    assert found["target_scan_share"] > 0.9 and abs(found["scan_similarity"]) < 0.3
    # twice the variance of noise against (1 + 1 / (S - 1)) of the others' mean
    assert found["prediction_r2_over_position"] == pytest.approx(1 - 2 / 1.25, abs=0.15)


def test_dead_features_are_counted_by_the_largest() -> None:
    scale = torch.ones(D, dtype=torch.float64)
    scale[:4] = torch.tensor([0.0, 0.002, 0.05, 0.5])
    tokens = draw(S, M, D) * scale + draw(1, 1, D)
    found = describe(draw(S, M, D), tokens)
    assert found["target_dead_share"] == pytest.approx(2 / D) and found["prediction_dead_share"] == 0
    assert dead_share(1e-6 * tokens) == dead_share(tokens)  # whatever the unit


def test_ranks_and_similarity_do_not_know_the_order_or_a_turn() -> None:
    tokens, turn = draw(S, M, D) * torch.arange(1, D + 1), torch.linalg.qr(draw(D, D, seed=3))[0]
    assert effective_rank((tokens @ turn).flatten(0, 1)) == pytest.approx(
        effective_rank(tokens.flatten(0, 1))
    )
    assert scan_similarity(tokens @ turn) == pytest.approx(scan_similarity(tokens))
    assert scan_similarity(tokens.flip(0, 1)) == pytest.approx(scan_similarity(tokens))
    assert scan_similarity(-3 * tokens[:2]) == pytest.approx(scan_similarity(tokens[:2]))
