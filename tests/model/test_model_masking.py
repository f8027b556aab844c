"""model/masking.py: pools by construction, fairness, the released sampler's check values."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import chisquare

from bjepa.model.config import MaskConfig
from bjepa.model.masking import KINDS, ScanMask, collate_masks, released_masks, sample_mask

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


@pytest.mark.parametrize("what", ["context_index", "target_index"])
def test_law_every_region_and_patch_is_equally_often_there(what: str) -> None:
    n = 3000
    counts = torch.zeros(R * T)
    for mask in draw(n):
        counts[getattr(mask, what)] += 1
    grid = counts.view(R, T).numpy()
    # tokens of one draw go together, so counts are not multinomial: scale to the number of draws
    for axis in (0, 1):
        share = grid.sum(axis=axis) / grid.sum()
        assert chisquare(share * n).pvalue > 1e-3


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
