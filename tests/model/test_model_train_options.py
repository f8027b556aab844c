"""Options of speed, memory and rules: none changes what is learnt, or it changes it as it says."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bjepa.model.batch import Batch
from bjepa.model.config import MaskConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from bjepa.model.distributed import World
from bjepa.model.jepa import JEPA
from bjepa.model.masking import collate_masks, sample_mask
from bjepa.model.schedules import lr_factor
from bjepa.model.train_step import NonFiniteLossError, StepResult, make_optimizer, train_step

CONFIG = ModelConfig(
    n_rois=6,
    n_frames=12,
    patch_size=3,
    n_gradients=4,
    embed_dim=16,
    depth=2,
    num_heads=2,
    predictor_embed_dim=8,
    predictor_depth=2,
    predictor_num_heads=2,
)
SETTINGS: dict[str, Any] = {
    "objective_config": ObjectiveConfig(),
    "lr": 1e-2,
    "weight_decay": 0.1,
    "ema": 0.9,
}


def draw_batch(series: list[int]) -> Batch:
    """Each series its own window and mask, in whatever batch it is."""
    masks, windows = [], []
    for number in series:
        generator = torch.Generator().manual_seed(number)
        masks.append(sample_mask(6, 4, config=MaskConfig(), generator=generator))
        windows.append(torch.randn(6, 12, generator=generator))
    return Batch(torch.stack(windows), collate_masks(masks), series, torch.full((len(series),), 2.0))


def fresh() -> tuple[JEPA, torch.optim.AdamW]:
    generator = torch.Generator().manual_seed(1)
    jepa = JEPA(CONFIG, torch.randn(6, 4, generator=generator), generator=generator)
    return jepa, make_optimizer(jepa, OptimizerConfig(eps=1e-3))  # eps: rounding is not blown up to +-lr


def three_updates(
    prepare: Callable[[JEPA], None] = lambda _: None,
) -> tuple[list[StepResult], dict[str, Tensor]]:
    jepa, optimizer = fresh()
    prepare(jepa)
    results = [train_step(jepa, [draw_batch([n, 7 + n, 3])], optimizer, **SETTINGS) for n in range(3)]
    return results, jepa.state_dict()


def assert_same(one: Any, other: Any, *, tolerance: float) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        assert a.loss == pytest.approx(b.loss, abs=tolerance)
        assert a.grad_norm == pytest.approx(b.grad_norm, abs=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        torch.testing.assert_close(tensor, other[1][name], rtol=0, atol=tolerance)


def test_activation_checkpointing_changes_nothing() -> None:
    kept: list[int] = []

    def count(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    sizes = []
    for enabled in (False, True):
        kept.clear()
        jepa, optimizer = fresh()
        jepa.set_activation_checkpointing(enabled)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            train_step(jepa, [draw_batch([0, 7, 3])], optimizer, **SETTINGS)
        sizes.append(sum(kept))
    assert_same(three_updates(), three_updates(lambda j: j.set_activation_checkpointing(True)), tolerance=0)
    assert sizes[1] < sizes[0] / 2


def test_fused_adamw_is_used_and_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(group["fused"] for group in fresh()[1].param_groups)
    fused = three_updates()
    monkeypatch.setattr("bjepa.model.train_step.FUSED", ())
    assert not any(group["fused"] for group in fresh()[1].param_groups)
    assert_same(fused, three_updates(), tolerance=1e-6)


@pytest.mark.slow
def test_compiled_blocks_equal_the_others() -> None:
    assert_same(three_updates(), three_updates(lambda j: j.compile_blocks()), tolerance=1e-6)


def test_weights_share_out_an_update_and_a_filler_counts_nothing() -> None:
    batches = [draw_batch(series) for series in ([4, 7, 1], [2, 9], [5])]
    found = []
    for some, weights in ((batches[:2], [3 / 5, 2 / 5]), (batches, [3 / 5, 2 / 5, 0.0])):
        jepa, optimizer = fresh()
        result = train_step(jepa, some, optimizer, weights=weights, **SETTINGS)
        found.append(([result], jepa.state_dict()))
        assert result.per_kind == pytest.approx(found[0][0][0].per_kind, rel=1e-6)
    assert_same(*found, tolerance=1e-7)
    # the numbers of the kinds are means over scans, so cutting an update in another way leaves them
    jepa, optimizer = fresh()
    result = train_step(jepa, [draw_batch([4]), draw_batch([7, 1, 2, 9])], optimizer, **SETTINGS)
    assert result.per_kind == pytest.approx(found[0][0][0].per_kind, rel=1e-5)


class _Pair(World):
    """Two processes of which the other one has the same numbers, and the series 40."""

    def total(self, values: Tensor) -> Tensor:
        return 2 * values

    def union(self, numbers: list[int]) -> list[int]:
        return sorted({*numbers, 40}) if numbers else []


def test_scans_that_are_not_finite_are_named_over_all_batches_and_processes() -> None:
    jepa, optimizer = fresh()
    before = copy.deepcopy(jepa.state_dict())
    batches = [draw_batch(series) for series in ([4, 7, 1], [2, 9])]
    batches[0].x[2, 0, 3], batches[1].x[0, 5, 1] = math.inf, math.nan
    with pytest.raises(NonFiniteLossError, match="the loss is nan") as caught:
        train_step(jepa, batches, optimizer, world=_Pair(size=2), **SETTINGS)
    assert caught.value.series == [1, 2, 40]
    assert all(torch.equal(before[name], tensor) for name, tensor in jepa.state_dict().items())
    assert not optimizer.state


def test_a_gradient_that_is_not_finite_names_the_update() -> None:
    jepa, optimizer = fresh()
    weight = jepa.predictor.proj.weight
    weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(NonFiniteLossError, match="the gradient's norm is") as caught:
        train_step(jepa, [draw_batch([4, 7]), draw_batch([2])], optimizer, **SETTINGS)
    assert caught.value.series == [2, 4, 7]


@pytest.mark.parametrize(
    "rule, series, factor",
    [("none", 64, 1), ("linear", 64, 1 / 8), ("sqrt", 128, 1 / 2), ("linear", 1024, 2)],
)
def test_learning_rates_follow_the_batch(rule: str, series: int, factor: float) -> None:
    config = OptimizerConfig(lr_scaling=rule)  # type: ignore[arg-type]
    assert lr_factor(config, series_per_update=series) == pytest.approx(factor)
    other = OptimizerConfig(lr_scaling=rule, lr_batch=series)  # type: ignore[arg-type]
    assert lr_factor(other, series_per_update=series) == 1
