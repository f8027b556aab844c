"""model/{objective,ema,schedules,monitors,train_step}.py: hand computations and laws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bjepa.model import JEPA, ModelConfig
from bjepa.model.batch import Batch
from bjepa.model.config import MaskConfig, ObjectiveConfig, OptimizerConfig
from bjepa.model.ema import ema_at, ema_update
from bjepa.model.masking import Masks, collate_masks
from bjepa.model.masking import sample_mask as draw_mask
from bjepa.model.monitors import describe, effective_rank, variance_parts
from bjepa.model.objective import objective
from bjepa.model.schedules import lr_at, weight_decay_at
from bjepa.model.train_step import NonFiniteLossError, make_optimizer, train_step

CONFIG = ModelConfig(
    n_rois=6,
    n_frames=12,
    patch_size=3,
    n_gradients=4,
    embed_dim=16,
    depth=1,
    num_heads=2,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
)


PAPER, POOLED = ObjectiveConfig(loss="paper"), ObjectiveConfig(loss="smooth_l1_pooled")


def masks() -> Masks:
    """Two scans, four places; scan 1 has one place of padding and no Double-Cross target."""
    weight = torch.tensor(
        [
            [[0.5, 0.5, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]],
            [[0.25, 0.75, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 0]],
        ]
    )
    return Masks(torch.tensor([[0], [0]]), torch.tensor([[1, 2, 3, 4], [1, 2, 3, -1]]), weight)


def test_paper_loss_by_hand() -> None:
    difference = torch.zeros(2, 4, 5)
    for scan, values in enumerate([[1, 3, 2, 4], [2, 1, 5, 99]]):
        difference[scan] = torch.tensor(values, dtype=torch.float32)[:, None]
    found = objective(difference, torch.zeros(2, 4, 5), masks(), config=PAPER)
    first = ((0.5 * 1 + 0.5 * 9) + 4 + 16) / 3
    second = ((0.25 * 4 + 0.75 * 1) + 25) / 2  # two kinds; padding (99) does not count
    assert_allclose(found.loss, (first + second) / 2)
    assert_allclose(found.per_kind, [(5 + 1.75) / 2, (4 + 25) / 2, 16])


def test_smooth_l1_is_pooled_over_elements() -> None:
    difference = torch.tensor([0.5, 2.0, 0.0, 1.0])[None, :, None].repeat(2, 1, 5)
    found = objective(difference, torch.zeros(2, 4, 5), masks(), config=POOLED)
    values = [0.125, 1.5, 0.0, 0.5]
    assert_allclose(found.loss, (sum(values) + sum(values[:3])) / 7)


def test_a_kind_that_is_absent_is_nan() -> None:
    one = Masks(*(t[1:] for t in (masks().context_index, masks().target_index, masks().block_weight)))
    found = objective(torch.ones(1, 4, 5), torch.zeros(1, 4, 5), one, config=PAPER)
    assert found.per_kind[2].isnan() and found.loss.isfinite()


def test_ema_ends_where_it_says() -> None:
    config = ObjectiveConfig(ema_start=0.9, ema_end=1.0)
    values = [ema_at(u, n_updates=11, accumulation=4, config=config) for u in range(11)]
    assert_allclose(values, np.linspace(0.9, 1.0, 11))
    assert ema_at(0, n_updates=1, accumulation=1, config=config) == 0.9
    released = ObjectiveConfig(ema_schedule="released", ema_start=0.996)
    assert ema_at(37499, n_updates=37500, accumulation=8, config=released) == pytest.approx(0.9965, abs=1e-6)


def test_ema_update_averages_and_leaves_the_time_table() -> None:
    jepa = JEPA(CONFIG, torch.randn(6, 4))
    with torch.no_grad():
        for p in jepa.context_encoder.parameters():
            p.add_(1.0)
    before = [p.clone() for p in jepa.target_encoder.parameters()]
    ema_update(jepa.target_encoder, jepa.context_encoder, 0.75)
    for (name, after), was in zip(jepa.target_encoder.named_parameters(), before, strict=True):
        expected = was if name == "positions.time" else 0.75 * was + 0.25 * (was + 1)
        torch.testing.assert_close(after, expected)


def test_schedules_ends_and_peak() -> None:
    config = OptimizerConfig(start_lr=1e-4, lr=1e-2, final_lr=1e-6, weight_decay=0.1, final_weight_decay=0.3)
    lr = [lr_at(u, n_updates=20, n_warmup=5, config=config) for u in range(20)]
    assert np.argmax(lr) == 4 and lr[4] == pytest.approx(1e-2)
    assert lr[19] == pytest.approx(1e-6) and (np.diff(lr[:5]) > 0).all() and (np.diff(lr[4:]) < 0).all()
    decay = [weight_decay_at(u, n_updates=20, config=config) for u in range(20)]
    assert (np.diff(decay) > 0).all() and decay[19] == pytest.approx(0.3)


def batch(series: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    drawn = [draw_mask(6, 4, config=MaskConfig(), generator=generator) for _ in series]
    return Batch(
        torch.randn(len(series), 6, 12, generator=generator),
        collate_masks(drawn),
        series,
        torch.full((len(series),), 2.0),
    )


def fresh() -> tuple[JEPA, torch.optim.AdamW]:
    generator = torch.Generator().manual_seed(1)
    jepa = JEPA(CONFIG, torch.randn(6, 4, generator=generator), generator=generator)
    return jepa, make_optimizer(jepa, OptimizerConfig(eps=1e-3))  # eps: rounding is not blown up to +-lr


def test_law_portions_of_a_batch_make_the_same_update() -> None:
    whole, results = batch([4, 7, 1]), []
    parts = (whole.masks.context_index, whole.masks.target_index, whole.masks.block_weight)
    portions = [
        Batch(whole.x[s], Masks(*(m[s] for m in parts)), whole.series[s], whole.t_r[s])
        for s in (slice(0, 1), slice(1, 3))
    ]
    for batches in ([whole], portions):
        jepa, optimizer = fresh()
        result = train_step(
            jepa, batches, optimizer, objective_config=PAPER, lr=1e-2, weight_decay=0.1, ema=0.9
        )
        results.append((result, jepa.state_dict()))
    (one, weights), (two, also) = results
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-4)
    for name in weights:
        torch.testing.assert_close(weights[name], also[name], atol=1e-5, rtol=0)


def test_a_step_clips_decays_and_moves_the_target() -> None:
    jepa, optimizer = fresh()
    before = {k: v.clone() for k, v in jepa.state_dict().items()}
    settings: dict[str, Any] = {"lr": 0.0, "weight_decay": 0.5, "ema": 0.5}
    result = train_step(
        jepa, [batch([0, 1])], optimizer, objective_config=PAPER, max_grad_norm=1e-3, **settings
    )
    norm = torch.stack([p.grad.norm() for p in jepa.parameters() if p.grad is not None]).norm()
    assert result.grad_norm > 0.01 and norm == pytest.approx(1e-3, rel=1e-2)
    assert all(torch.equal(before[k], v) for k, v in jepa.state_dict().items() if "target" not in k)  # lr 0
    decays = {group["decays"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {True: 0.5, False: 0.0}
    low = train_step(
        jepa,
        [batch([0, 1])],
        optimizer,
        objective_config=POOLED,
        precision="bf16",
        **settings,
    )
    assert math.isfinite(low.loss)


def test_a_broken_scan_is_named_and_nothing_is_updated() -> None:
    jepa, optimizer = fresh()
    before = {k: v.clone() for k, v in jepa.state_dict().items()}
    broken = batch([4, 7, 1])
    broken.x[1, 2, 5] = math.nan
    with pytest.raises(NonFiniteLossError) as caught:
        train_step(
            jepa,
            [batch([2, 3]), broken],
            optimizer,
            objective_config=PAPER,
            lr=1e-2,
            weight_decay=0.0,
            ema=0.5,
        )
    assert caught.value.series == [7]
    assert all(torch.equal(before[k], v) for k, v in jepa.state_dict().items())


def test_variance_parts_are_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    position = 0.5 * torch.randn(1, 3000, 8, generator=generator)
    scan_and_place = 1.0 * torch.randn(3, 3000, 8, generator=generator)
    within, between = variance_parts(position + scan_and_place)
    assert within == pytest.approx(8 * 1, rel=0.1) and between == pytest.approx(8 / 4, rel=0.1)


def test_monitors_tell_collapse_from_learning() -> None:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, 50, 8, generator=generator)
    own = torch.randn(5, 50, 8, generator=generator)
    collapsed = describe(position.expand(5, -1, -1), position + 0.01 * own)
    assert collapsed["target_scan_share"] < 0.001
    assert abs(collapsed["prediction_r2_over_position"]) < 0.3  # perfect positions are worth nothing
    learning = describe(position + own, position + own)
    assert 0.4 < learning["target_scan_share"] < 0.6
    assert learning["prediction_r2_over_position"] == 1.0
    constant = describe(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    assert math.isnan(constant["target_scan_share"]) and constant["effective_rank"] == 1.0


def test_effective_rank_counts_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(9, 9, generator=generator))[0][:3]
    tokens = torch.randn(4000, 3, generator=generator, dtype=torch.float64) @ basis.double()
    assert effective_rank(tokens) == pytest.approx(3, rel=0.02)
