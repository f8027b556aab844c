"""Attention received and rollout: against torch's own multi-head attention and whole matrices, laws."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import nn

from bjepa.model import JEPA
from bjepa.model.explain.attention_columns import weighted_columns
from bjepa.model.explain.attention_maps import attention_maps
from bjepa.model.explain.maps import attention_over
from bjepa.model.explain.output_network import subject_of
from bjepa.model.explain.windows import Participants, Window, participants_of
from bjepa.preproc.shards import ShardReader


@pytest.fixture
def jepa(planted: Any) -> JEPA:
    made: JEPA = planted.plain(depth=3, seed=5)
    return made


def window_of(planted: Any, *, seed: int = 0, missing: tuple[int, ...] = ()) -> Window:
    x = np.random.default_rng(seed).normal(size=(planted.n_rois, planted.n_frames)).astype(np.float32)
    valid = np.ones(planted.n_rois, bool)
    valid[list(missing)] = False
    return Window(x_RL=x, valid_R=valid, t_r=2.0, share=1.0)


def matrices(jepa: JEPA, window: Window) -> list[NDArray[np.float64]]:
    """The attention matrix (n, n) of each layer, mean over heads, by torch's MultiheadAttention."""
    encoder, inputs = jepa.target_encoder, []
    handles = [b.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for b in encoder.blocks]
    T = jepa.config.n_patches
    kept = torch.tensor([[t for t in range(len(window.valid_R) * T) if window.valid_R[t // T]]])
    found = []
    with torch.no_grad():
        encoder(torch.from_numpy(window.x_RL)[None], kept)
        blocks: Any = encoder.blocks
        for block, x in zip(blocks, inputs, strict=True):
            judge = nn.MultiheadAttention(16, 2, batch_first=True)
            judge.in_proj_weight.copy_(block.attn.qkv.weight)
            judge.in_proj_bias.copy_(block.attn.qkv.bias)
            normed = block.norm1(x)[None]
            found.append(judge(normed, normed, normed, average_attn_weights=True)[1][0].double().numpy())
    for handle in handles:
        handle.remove()
    return found


def test_columns_equal_the_plain_softmax_in_any_chunks() -> None:
    g = torch.Generator().manual_seed(3)
    q, k = torch.randn(23, 3, 4, generator=g) * 2, torch.randn(17, 3, 4, generator=g)
    weights = torch.rand(2, 23, generator=g)
    scores = torch.einsum("mhd,nhd->hmn", q, k) / 2.0
    plain = scores.softmax(dim=-1).mean(dim=0)
    assert_allclose(plain.sum(dim=1), 1, atol=1e-6)
    for chunk in (1, 5, 23, 100):
        found = weighted_columns(q, k, weights, chunk=chunk)
        assert found.dtype == torch.float64
        assert_allclose(found, weights @ plain, atol=1e-5)
        assert_allclose(found.sum(dim=1), weights.sum(dim=1), rtol=1e-6)  # rows of attention add up to 1


def test_received_equals_the_column_means_of_torch(jepa: JEPA, planted: Any) -> None:
    window = window_of(planted)
    found = attention_maps(jepa.target_encoder, window, layers=[3, 1], rollout=False, chunk=7)
    assert found.rollout is None and list(found.received) == [1, 3]
    whole = matrices(jepa, window)
    for layer in (1, 3):
        columns = whole[layer - 1].mean(axis=0) * len(whole[0])  # 1: uniform
        assert_allclose(found.received[layer], columns.reshape(-1, 2).mean(axis=1), rtol=2e-5)
    assert np.ptp(found.received[3]) > 0.1  # else this proves nothing


def test_rollout_equals_the_product_of_whole_matrices(jepa: JEPA, planted: Any) -> None:
    window = window_of(planted, missing=(2, 39))
    found = attention_maps(jepa.target_encoder, window, layers=[2], rollout=True, chunk=11)
    assert found.rollout is not None
    product = np.eye(76)
    for matrix in matrices(jepa, window):
        product = (0.5 * matrix + 0.5 * np.eye(76)) @ product  # later layers on the left
    expected = np.full(planted.n_rois, np.nan)
    expected[window.valid_R] = (product.mean(axis=0) * 76).reshape(-1, 2).mean(axis=1)
    assert_allclose(found.rollout, expected, rtol=2e-5)
    first_only = matrices(jepa, window)[0].mean(axis=0) * 76
    assert np.abs(first_only.reshape(-1, 2).mean(axis=1) - expected[window.valid_R]).max() > 0.02


def test_law_a_missing_region_has_no_value_and_the_others_average_one(jepa: JEPA, planted: Any) -> None:
    window = window_of(planted, missing=(4,))
    found = attention_maps(jepa.target_encoder, window, layers=[1, 2], rollout=True)
    for values in (*found.received.values(), found.rollout):
        assert values is not None and np.flatnonzero(np.isnan(values)).tolist() == [4]
        assert_allclose(np.nanmean(values), 1, rtol=1e-6)
    spoilt = window_of(planted, missing=(4,))
    spoilt.x_RL[4] = 99
    again = attention_maps(jepa.target_encoder, spoilt, layers=[1, 2], rollout=True)
    assert_allclose(again.received[2], found.received[2], rtol=1e-5)


def test_leaves_no_hook(jepa: JEPA, planted: Any) -> None:
    attention_maps(jepa.target_encoder, window_of(planted), layers=[1], rollout=True)
    assert all(not block._forward_pre_hooks for block in jepa.target_encoder.blocks)


def test_participants_average_their_windows_by_phase_and_scan(
    jepa: JEPA, planted: Any, tmp_path: Any
) -> None:
    data, _ = planted.write(tmp_path / "out", n=4, missing={1: 3})
    people = participants_of(jepa, ShardReader(data), None)
    assert people.participant_id == ["00", "01", "02", "03"]
    shares = [[w.share for w in people[i]] for i in range(4)]
    assert shares == [[1.0], [0.5, 0.5], [1.0], [0.5, 0.5]]  # two phases; two windows
    subject = subject_of(jepa.target_encoder, [], np.zeros(4, dtype=np.int64))
    maps = attention_over(subject, people, layers=[2], rollout=True)
    one = [attention_maps(jepa.target_encoder, w, layers=[2], rollout=False).received[2] for w in people[3]]
    assert_allclose(maps["attention_layer_2"][3], np.mean(one, axis=0))
    assert maps["rollout"].shape == (4, planted.n_rois) and np.isnan(maps["rollout"][1, 3])


def test_planted_attention_is_found_and_has_the_size_of_its_scores(planted: Any) -> None:
    encoder = planted.jepa().target_encoder
    found = attention_maps(encoder, window_of(planted), layers=[1, 2], rollout=True)
    inside, outside = found.received[1][planted.regions], found.received[1][~planted.regions]
    assert inside.min() > 5 and outside.max() < 0.2
    assert_allclose(inside.sum() + outside.sum(), planted.n_rois)
    assert_allclose(found.received[2], 1, atol=1e-5)  # the second layer asks nothing
    assert found.rollout is not None
    # half of half: layer 1 passes 0.5 of what layer 2 hands down, and layer 2 mixes evenly
    assert_allclose(found.rollout, 0.5 * found.received[1] + 0.5, atol=1e-5)


def test_attention_alone_has_no_output(jepa: JEPA) -> None:
    subject = subject_of(jepa.target_encoder, [], np.zeros(2, dtype=np.int64))
    assert subject.encoder(1) is jepa.target_encoder
    with pytest.raises(ValueError, match="no output"):
        subject.output(0)


def test_first_window_alone(jepa: JEPA, planted: Any, tmp_path: Any) -> None:
    data, _ = planted.write(tmp_path / "out", n=3)
    people: Participants = participants_of(jepa, ShardReader(data), ["02", "nobody"])
    first = list(dataclasses.replace(people, first_window=True)[0])
    assert len(first) == 1 and first[0].share == 1.0
    assert (first[0].x_RL == next(people[0]).x_RL).all()
