"""model/masking.py: pools by construction, fairness, the released sampler's check values."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare

from bjepa.model.config import MaskConfig
from bjepa.model.mask_samplers import draw_paper
from bjepa.model.mask_samplers_released import released_masks
from bjepa.model.masking import KINDS, ScanMask, collate_masks, sample_mask
from bjepa.preproc.errors import InputError

R, T = 13, 5  # lopsided


def draw(n: int, *, n_rois: int = R, n_patches: int = T, config: MaskConfig | None = None) -> list[ScanMask]:
    generator = torch.Generator().manual_seed(3)
    config = config or MaskConfig()
    return [sample_mask(n_rois, n_patches, config=config, generator=generator) for _ in range(n)]


@pytest.mark.parametrize("num_blocks", [1, 3])
@pytest.mark.parametrize("n_rois, n_patches", [(R, T), (2, 2), (3, 11), (450, 10)])
def test_pools_hold_by_construction(n_rois: int, n_patches: int, num_blocks: int) -> None:
    for mask in draw(20, n_rois=n_rois, n_patches=n_patches, config=MaskConfig(num_blocks=num_blocks)):
        context, target = mask.context_index, mask.target_index
        assert len(context) and len(target)
        assert context.max() < n_rois * n_patches and target.max() < n_rois * n_patches
        assert len(set(context.tolist())) == len(context) and len(set(target.tolist())) == len(target)
        seen_rois, seen_time = set((context // n_patches).tolist()), set((context % n_patches).tolist())
        assert len(context) == len(seen_rois) * len(seen_time)  # a rectangle
        roi_seen = torch.tensor([int(t) // n_patches in seen_rois for t in target])
        time_seen = torch.tensor([int(t) % n_patches in seen_time for t in target])
        for kind, expected in zip(
            KINDS, (~roi_seen & time_seen, roi_seen & ~time_seen, ~roi_seen & ~time_seen), strict=True
        ):
            weight = mask.block_weight[KINDS.index(kind)]
            assert torch.equal(weight > 0, expected)
            assert_allclose(weight.sum(), 1, rtol=1e-5)


def test_blocks_are_runs_of_patches_and_share_weight() -> None:
    (mask,) = draw(1, config=MaskConfig(num_blocks=1))
    for weight in mask.block_weight:
        inside = weight > 0
        assert_allclose(weight[inside], 1 / inside.sum(), rtol=1e-5)  # one block: all its tokens alike
        patches = np.unique(mask.target_index[inside] % T)
        assert len(np.flatnonzero(np.diff([*patches, patches[0] + T]) != 1)) <= 1  # one run, around the end


N_DRAWS, SMALLEST_P = 20_000, 1e-4  # of 4 tests a sampler, so a fair one fails once in 2,500 seeds


def counts_of_one_token(lists: list[np.ndarray], n_rois: int, n_patches: int) -> np.ndarray:
    """How often each token is the one picked at random from a draw's list: (R, T).

    Tokens of one draw go together. One of each makes independent events, for which chi-square is right.
    """
    rng = np.random.default_rng(5)
    picked = [tokens[int(u * len(tokens))] for tokens, u in zip(lists, rng.random(len(lists)), strict=True)]
    return np.bincount(picked, minlength=n_rois * n_patches).reshape(n_rois, n_patches)


def p_values(lists: dict[str, list[np.ndarray]], n_rois: int, n_patches: int) -> dict[str, float]:
    """That regions, and patches, are equally often context, and target."""
    return {
        f"{axis} in {what}": float(
            chisquare(counts_of_one_token(found, n_rois, n_patches).sum(axis=n)).pvalue
        )
        for what, found in lists.items()
        for n, axis in enumerate(("patches", "regions"))
    }


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_law_every_region_and_patch_is_equally_often_there(num_blocks: int) -> None:
    config, rng = MaskConfig(num_blocks=num_blocks), np.random.default_rng(1)
    draws = [draw_paper(7, 5, config=config, rng=rng) for _ in range(N_DRAWS)]
    for draw in draws[:2000]:
        assert len(np.unique(draw.target)) == len(draw.target)
        assert not np.isin(draw.context, draw.target).any()
    found = p_values(dict(context=[d.context for d in draws], target=[d.target for d in draws]), 7, 5)
    assert min(found.values()) > SMALLEST_P, found


def test_the_law_finds_the_released_sampler_unfair() -> None:
    generator = torch.Generator().manual_seed(0)
    context, target = [], []
    for counter in range(125):
        masks = released_masks(16, 24, 10, counter=counter, generator=generator)
        context += list(masks.context_index.numpy())
        target += list(masks.target_index.numpy())
    found = p_values(dict(context=context, target=target), 24, 10)
    for what in ("regions in context", "patches in context", "patches in target"):
        assert found[what] < 1e-10, found
    for lists in (context, target):  # the last patch is never seen; it may be a target
        assert (counts_of_one_token(lists, 24, 10)[:, 9] == 0).all() == (lists is context)


@pytest.mark.parametrize("sampler", ["paper", "random", "block"])
def test_tokens_that_do_not_exist_are_in_no_list(sampler: Any) -> None:
    """7 x 4, of which 5 regions and 3 patches exist: the draw is that of a 5 x 3 grid."""
    valid, config = np.array([1, 0, 1, 1, 1, 0, 1], dtype=bool), MaskConfig(sampler=sampler)
    exist = np.flatnonzero(np.outer(valid, [1, 1, 1, 0]))
    for seed in range(50):
        rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
        mask = sample_mask(7, 4, config=config, generator=rng, valid_rois=valid, n_existing=3)
        small = sample_mask(5, 3, config=config, generator=same)
        assert_array_equal(mask.visible_index, exist)
        assert_array_equal(mask.context_index, exist[small.context_index])
        assert_array_equal(mask.target_index, exist[small.target_index])
        assert torch.equal(mask.block_weight, small.block_weight)
        assert small.visible_index is None
    whole = sample_mask(7, 4, config=config, generator=np.random.default_rng(0))
    masks = collate_masks([mask, whole], n_tokens=28)
    assert masks.visible_index is not None
    assert_array_equal(masks.visible_index[0], np.pad(exist, (0, 13), constant_values=-1))
    assert_array_equal(masks.visible_index[1], np.arange(28))
    assert collate_masks([whole, whole]).visible_index is None
    with pytest.raises(ValueError, match="2 patches that exist, got 7 and 1"):
        sample_mask(7, 4, config=config, generator=np.random.default_rng(0), n_existing=1)


@pytest.mark.parametrize("n_rois, n_patches", [(7, 5), (2, 2), (31, 3)])
def test_random_tokens(n_rois: int, n_patches: int) -> None:
    n_tokens = n_rois * n_patches
    for share in (0.01, 0.6, 0.99):
        config = MaskConfig(sampler="random", hidden_share=share)
        for mask in draw(20, n_rois=n_rois, n_patches=n_patches, config=config):
            both = torch.cat([mask.context_index, mask.target_index])
            assert_array_equal(both.sort().values, np.arange(n_tokens))  # shown or asked for, each once
            assert len(mask.target_index) == min(max(1, round(share * n_tokens)), n_tokens - 1)
            check_kinds(mask, n_patches)
            for weight in mask.block_weight:
                assert len(set(weight[weight > 0].tolist())) <= 1  # alike


@pytest.mark.parametrize("n_rois, n_patches", [(40, 12), (7, 5), (2, 2)])
@pytest.mark.parametrize("num_blocks", [1, 4])
def test_blocks_of_images(n_rois: int, n_patches: int, num_blocks: int) -> None:
    config = MaskConfig(sampler="block", num_blocks=num_blocks)
    for mask in draw(50, n_rois=n_rois, n_patches=n_patches, config=config):
        assert len(mask.context_index) and len(mask.target_index)
        assert not set(mask.context_index.tolist()) & set(mask.target_index.tolist())
        assert len(set(mask.target_index.tolist())) == len(mask.target_index)
        check_kinds(mask, n_patches)
        if num_blocks == 1:  # a filled rectangle, of the share and the shape asked for
            rois, patches = mask.target_index // n_patches, mask.target_index % n_patches
            height, width = int(rois.max() - rois.min()) + 1, int(patches.max() - patches.min()) + 1
            assert height * width == len(mask.target_index)
            if n_rois == 40:
                assert 0.15 - 0.04 < height * width / (n_rois * n_patches) < 0.2 + 0.04
                assert 0.5 < (height / n_rois) / (width / n_patches) < 2
    filled = MaskConfig(
        sampler="block", num_blocks=num_blocks, block_area=(1.0, 1.0), block_aspect=(1.0, 1.0)
    )
    (mask,) = draw(1, n_rois=n_rois, n_patches=n_patches, config=filled)
    assert len(mask.context_index) == 1  # blocks were given up, then a token


def check_kinds(mask: ScanMask, n_patches: int) -> None:
    """Weights are in the row that the context tells, and sum to 1 there."""
    shown_rois = set((mask.context_index // n_patches).tolist())
    shown_time = set((mask.context_index % n_patches).tolist())
    expected = [
        0 if t % n_patches in shown_time else 1 if t // n_patches in shown_rois else 2
        for t in mask.target_index.tolist()
    ]
    assert_array_equal((mask.block_weight > 0).sum(dim=0), 1)
    assert_array_equal(mask.block_weight.argmax(dim=0), expected)
    for kind, total in enumerate(mask.block_weight.sum(dim=1).tolist()):
        assert total == pytest.approx(1 if kind in expected else 0)


def test_blocks_weigh_alike_and_share_tokens() -> None:
    """A token in two blocks counts twice: one block of 60 tokens inside, or beside, one of 60."""
    config = MaskConfig(sampler="block", num_blocks=2, block_area=(0.3, 0.3), block_aspect=(1.0, 1.0))
    seen = set()
    for mask in draw(30, n_rois=20, n_patches=10, config=config):
        weight, n = mask.block_weight[0], len(mask.target_index)
        if mask.block_weight[1:].any():
            continue
        in_both = 2 * (11 * 5) - n
        assert_allclose(sorted(weight), [1 / 110] * (n - in_both) + [2 / 110] * in_both, rtol=1e-5)
        seen.add(in_both)
    assert len(seen) > 2


@pytest.mark.parametrize(
    "sampler, setting",
    [
        ("released", dict(num_blocks=2)),
        ("random", dict(unseen_time=(0.1, 0.2))),
        ("block", dict(hidden_share=0.5)),
        ("paper", dict(block_area=(0.1, 0.2))),
    ],
)
def test_keys_that_a_sampler_does_not_use_are_refused(sampler: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"mask.{next(iter(setting))} has no effect with .* = '{sampler}'"):
        MaskConfig(sampler=sampler, **setting)


@pytest.mark.parametrize(
    "setting", [dict(hidden_share=1.0), dict(block_aspect=(0.0, 1.0)), dict(context_area=(0.5, 1.5))]
)
def test_values_that_cannot_be_are_refused(setting: dict[str, Any]) -> None:
    sampler: Any = "random" if "hidden_share" in setting else "block"
    with pytest.raises(InputError, match=f"mask.{next(iter(setting))} must "):
        MaskConfig(sampler=sampler, **setting)


def test_shares_of_the_grid() -> None:
    masks = draw(200, n_rois=450, n_patches=10)
    context = np.mean([len(m.context_index) for m in masks]) / 4500
    assert 0.3 < context < 0.4  # 0.92 x 0.475 of the regions, about 0.8 of the time
    longest = max(len(np.unique(m.context_index // 10)) for m in masks)
    assert longest <= 450 - int(450 * 0.45)


def test_a_scan_is_asked_the_same_in_any_batch() -> None:
    masks = draw(4)
    batch = collate_masks(masks)
    for row, mask in enumerate(masks):
        n_context, n_target = len(mask.context_index), len(mask.target_index)
        assert torch.equal(batch.context_index[row, :n_context], mask.context_index)
        assert (batch.context_index[row, n_context:] == -1).all()
        assert torch.equal(batch.target_index[row, :n_target], mask.target_index)
        assert (batch.target_index[row, n_target:] == -1).all()
        assert torch.equal(batch.block_weight[row, :, :n_target], mask.block_weight)
        assert (batch.block_weight[row, :, n_target:] == 0).all()


@pytest.mark.parametrize(
    "n_rois, n_scans, expected",
    [
        (24, 2, [(36, 6416, 74, 16643), (36, 6950, 54, 13746), (63, 14416, 47, 10754)]),
        (
            450,
            16,
            [
                (752, 19913073, 1175, 42369400),
                (704, 17402572, 827, 28840297),
                (772, 18261465, 810, 27503528),
            ],
        ),
    ],
)
def test_released_sampler_check_values(
    n_rois: int, n_scans: int, expected: list[tuple[int, int, int, int]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for counter, numbers in enumerate(expected):
        masks = released_masks(n_scans, n_rois, 10, counter=counter, generator=generator)
        context, target = masks.context_index, masks.target_index
        assert context.shape[0] == target.shape[0] == n_scans
        assert (context.shape[1], int(context.sum()), target.shape[1], int(target.sum())) == numbers
        for seen, hidden in zip(context.tolist(), target.tolist(), strict=True):
            assert not set(seen) & set(hidden)
        weight = masks.block_weight.sum(dim=2)
        assert ((weight - 1).abs().lt(1e-5) | weight.eq(0)).all()


def test_refuses_grids_that_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="at least 2 regions and 2 patches"):
        draw(1, n_rois=1)
    with pytest.raises(ValueError, match="written out for 10 patches"):
        released_masks(2, 24, 9, counter=0, generator=torch.Generator())
