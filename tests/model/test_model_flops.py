"""model/flops.py against torch's own counter of what is really run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bjepa.model import JEPA, ModelConfig
from bjepa.model.config import Predicts, RegionPosition, load_recipe
from bjepa.model.flops import step_flops
from bjepa.model.tokens import pad


@pytest.mark.parametrize(
    "predicts, region_position, some_visible",
    [("latent", "gradient", False), ("latent", "learned", True), ("signal", "gradient", False)],
)
def test_agrees_with_torchs_counter(
    predicts: Predicts, region_position: RegionPosition, some_visible: bool
) -> None:
    config = ModelConfig(
        n_rois=7,
        n_frames=15,
        patch_size=3,
        n_gradients=4,
        embed_dim=24,
        depth=3,
        num_heads=3,
        predictor_embed_dim=16,
        predictor_depth=2,
        predictor_num_heads=2,
        attention="math",
        predicts=predicts,
        region_position=region_position,
    )
    jepa = JEPA(config, torch.randn(7, 4, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(3, 7, 15, generator=torch.Generator().manual_seed(0))
    context = pad([torch.tensor([0, 4, 5, 9, 21]), torch.tensor([2, 3]), torch.arange(20, 33)])
    target = pad([torch.tensor([1, 30]), torch.tensor([7, 8, 34]), torch.tensor([4])])
    visible = pad([torch.arange(35), torch.arange(0, 35, 1)[2:], torch.arange(35)]) if some_visible else None
    with FlopCounterMode(display=False) as counter:
        predicted, targets = jepa(x, context, target, visible_index=visible)
        (predicted - targets).square().mean().backward()
    counted = counter.get_total_flops()
    found = step_flops(
        config,
        context_lengths=[5, 2, 13],
        target_lengths=[2, 3, 1],
        visible_lengths=[35, 33, 35] if some_visible else None,
    )
    # patches and gradient atlas need no gradient: their products count twice, not three times
    spared = 2 * 20 * 3 * 24 + (region_position == "gradient") * 2 * 7 * 4 * (12 + 2 * 8)
    assert counted == found.total - spared
    naive = step_flops(config, context_lengths=[5, 2, 13], target_lengths=[2, 3, 1], all_tokens=True)
    assert naive.total > found.total


def test_a_vit_base_sample_costs_two_teraflop() -> None:
    """Findings: about 2.2 TFLOP a sample in the released setting (cut lists), all tokens."""
    config = load_recipe("vit_base").model
    found = step_flops(config, context_lengths=[821], target_lengths=[864], all_tokens=True)
    assert found.total == pytest.approx(2.2e12, rel=0.1)
