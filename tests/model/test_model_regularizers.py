"""model/{objective,regularizers}.py: terms against collapse, by hand, by closed forms, by their effect."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bjepa.model import JEPA
from bjepa.model.batch import Batch
from bjepa.model.config import (
    MaskConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Recipe,
    TrainConfig,
)
from bjepa.model.masking import Masks, collate_masks, sample_mask
from bjepa.model.objective import objective
from bjepa.model.regularizers import (
    covariance_penalty,
    sketched_normality,
    variance_hinge,
    without_position,
)
from bjepa.model.train_step import make_optimizer, train_step
from bjepa.preproc.errors import InputError

SMALL = ModelConfig(
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


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks_of_three() -> Masks:
    weight = torch.tensor([[[0.5, 0.5], [0, 0], [0, 0]]]).repeat(3, 1, 1)
    context = torch.tensor([[0, 3, 5], [0, 3, 7], [0, 4, -1]])
    return Masks(context, torch.tensor([[1, 2]] * 3), weight)


def test_place_is_taken_out_by_hand() -> None:
    tokens = torch.tensor([[1.0, 10, 7], [2, 30, 7], [6, 50, 99]])[..., None]  # (3, 3, 1)
    found = without_position(tokens, masks_of_three().context_index)
    # number 0: mean 3 of three scans; number 3: mean 20 of two; 5, 7 and 4 are with one scan, 99 is padding
    expected = [(1 - 3) * 1.5**0.5, (10 - 20) * 2**0.5, (2 - 3) * 1.5**0.5, (30 - 20) * 2**0.5, 3 * 1.5**0.5]
    assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_law_places_do_not_count_and_variance_is_without_bias() -> None:
    index = torch.stack(
        [torch.randperm(40, generator=torch.Generator().manual_seed(s))[:17] for s in range(3)]
    )
    tokens = 0.7 * normal(3, 17, 500)
    place = 50 * normal(40, 500, seed=1)
    alone = without_position(tokens, index)
    torch.testing.assert_close(without_position(tokens + place[index], index), alone, atol=1e-4, rtol=0)
    assert alone.std() == pytest.approx(0.7, rel=0.03)


def test_vicreg_terms_against_numpy() -> None:
    z = normal(200, 7).double() * torch.linspace(0.2, 2, 7).double()
    covariance = np.einsum("ni,nj->ij", z.numpy(), z.numpy()) / 200
    std = np.sqrt(np.diag(covariance) + 1e-4)
    assert_allclose(variance_hinge(z), np.maximum(0, 1 - std).mean(), rtol=1e-9)
    off = covariance[~np.eye(7, dtype=bool)]
    assert_allclose(covariance_penalty(z), (off**2).sum() / 7, rtol=1e-9)


def test_sigreg_is_the_closed_form_of_epps_and_pulley() -> None:
    """With weight N(0, 1): (1/n²) sum exp(-(yi - yj)²/2) - sqrt(2)/n sum exp(-yi²/4) + 1/sqrt(3)."""
    z = 0.3 + 1.7 * normal(60, 5)
    drawn = torch.randn(5, 9, generator=torch.Generator().manual_seed(42))
    y = (z @ (drawn / drawn.norm(dim=0))).double().numpy()
    pairs = np.exp(-((y[:, None] - y[None]) ** 2) / 2).mean(axis=(0, 1))
    exact = pairs - math.sqrt(2) * np.exp(-(y**2) / 4).mean(axis=0) + 1 / math.sqrt(3)
    found = sketched_normality(z, n_projections=9, seed=42)
    assert found == pytest.approx(exact.mean(), rel=2e-3)


def test_sigreg_is_least_for_an_isotropic_gaussian_and_draws_from_its_seed_alone() -> None:
    good = normal(3000, 6)
    worse = {
        "collapsed": 0.05 * good,
        "one direction": good * torch.tensor([1.0, 0, 0, 0, 0, 0]),
        "wide": 3 * good,
    }
    least = sketched_normality(good, n_projections=32, seed=1)
    assert least < 1e-3
    for name, tokens in worse.items():
        assert sketched_normality(tokens, n_projections=32, seed=1) > 20 * least, name
    torch.manual_seed(3)
    state = torch.get_rng_state()
    other = sketched_normality(worse["wide"][:50], n_projections=4, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert other == sketched_normality(worse["wide"][:50], n_projections=4, seed=2)
    assert other != sketched_normality(worse["wide"][:50], n_projections=4, seed=3)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ObjectiveConfig(regularizer="vicreg", covariance_weight=0.5), {"variance", "covariance"}),
        (ObjectiveConfig(regularizer="sigreg", n_projections=8), {"normality"}),
    ],
)
def test_the_term_is_added_with_its_weight(config: ObjectiveConfig, names: set[str]) -> None:
    predicted, targets, context = normal(3, 2, 5), normal(3, 2, 5, seed=1), normal(3, 3, 5, seed=2)
    masks = masks_of_three()
    plain = objective(predicted, targets, masks, config=ObjectiveConfig())
    found = objective(predicted, targets, masks, config=config, context_BKD=context, sketch_seed=7)
    assert set(found.parts) == names and plain.parts == {}
    share = {"variance": 1.0, "covariance": config.covariance_weight, "normality": 1.0}
    penalty = sum(share[name] * found.parts[name] for name in names)
    assert found.loss == pytest.approx(float(plain.loss + config.regularizer_weight * penalty), rel=1e-6)
    assert_allclose(found.per_kind, plain.per_kind)
    half = ObjectiveConfig(**{**vars(config), "regularizer_weight": 0.5})
    less = objective(predicted, targets, masks, config=half, context_BKD=context, sketch_seed=7)
    assert less.loss == pytest.approx(float(plain.loss + 0.5 * penalty), rel=1e-6)
    with pytest.raises(ValueError, match="context tokens"):
        objective(predicted, targets, masks, config=config)


def test_one_scan_alone_has_nothing_to_compare() -> None:
    one = Masks(torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([[[1.0, 0], [0, 1], [0, 0]]]))
    config = ObjectiveConfig(regularizer="sigreg")
    context = normal(1, 2, 5).requires_grad_()
    found = objective(normal(1, 2, 5), normal(1, 2, 5, seed=1), one, config=config, context_BKD=context)
    assert found.loss.isfinite() and found.parts == {}
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert context.grad is not None and not context.grad.any()


def test_smooth_l1_by_kind_is_the_mean_of_kinds() -> None:
    difference = torch.tensor([0.5, 2.0])[None, :, None].repeat(3, 1, 4)
    masks = Masks(
        torch.zeros(3, 1, dtype=torch.int64),
        torch.tensor([[1, 2]] * 3),
        torch.tensor([[[1.0, 0], [0, 1], [0, 0]]] * 2 + [[[0.25, 0.75], [0, 0], [0, 0]]]),
    )
    found = objective(difference, torch.zeros(3, 2, 4), masks, config=ObjectiveConfig(loss="smooth_l1"))
    small, large = 0.125, 1.5  # d²/2 below 1, |d| - 1/2 above
    assert_allclose(found.loss, 2 / 3 * (small + large) / 2 + 1 / 3 * (0.25 * small + 0.75 * large))
    assert_allclose(found.per_kind[:2], [(2 * small + 0.25 * small + 0.75 * large) / 3, large])


def test_a_few_updates_with_a_regularizer_spread_collapsed_tokens() -> None:
    """Weights that hardly look at the scan: the cloud of scans at a place widens only with a term for it."""
    rng = np.random.default_rng(0)
    masks = collate_masks([sample_mask(6, 4, config=MaskConfig(), generator=rng) for _ in range(5)])
    x, spread = normal(5, 6, 12, seed=4), {}
    for objective_config in (
        ObjectiveConfig(),
        ObjectiveConfig(regularizer="vicreg"),
        ObjectiveConfig(regularizer="sigreg"),
    ):
        generator = torch.Generator().manual_seed(0)
        jepa = JEPA(SMALL, normal(6, 4), generator=generator)
        trained = torch.optim.Adam([p for p in jepa.parameters() if p.requires_grad], lr=3e-3)
        for update in range(30):
            context = jepa.context_encoder(x, masks.context_index)
            predicted = jepa.predictor(context, masks.context_index, masks.target_index)
            targets = jepa.targets(x, masks.target_index)
            found = objective(
                predicted, targets, masks, config=objective_config, context_BKD=context, sketch_seed=update
            )
            trained.zero_grad()
            found.loss.backward()  # type: ignore[no-untyped-call]
            trained.step()
        spread[objective_config.regularizer] = float(
            without_position(context.detach(), masks.context_index).std()
        )
    assert (
        spread["none"] < 0.3
        and spread["vicreg"] > 2 * spread["none"]
        and spread["sigreg"] > 2 * spread["none"]
    )


def one_update(config: ObjectiveConfig, *, sketch_seed: int) -> tuple[JEPA, dict[str, float]]:
    jepa = JEPA(SMALL, normal(6, 4), generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    masks = collate_masks([sample_mask(6, 4, config=MaskConfig(), generator=rng) for _ in range(4)])
    result = train_step(
        jepa,
        [Batch(normal(4, 6, 12), masks, [0, 1, 2, 3], torch.full((4,), 2.0))],
        make_optimizer(jepa, OptimizerConfig()),
        objective_config=config,
        lr=1e-2,
        weight_decay=0.0,
        ema=0.9,
        sketch_seed=sketch_seed,
    )
    return jepa, result.parts


def test_an_update_has_the_term_tells_it_and_draws_by_its_seed() -> None:
    sigreg = ObjectiveConfig(regularizer="sigreg", n_projections=4)
    plain, none = one_update(ObjectiveConfig(), sketch_seed=0)
    one, parts = one_update(sigreg, sketch_seed=1)
    same, _ = one_update(sigreg, sketch_seed=1)
    other, _ = one_update(sigreg, sketch_seed=2)
    weights = [j.context_encoder.patch_embed.proj.weight for j in (plain, one, same, other)]
    assert none == {} and set(parts) == {"normality"} and parts["normality"] > 0
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[1], weights[3]) and not torch.equal(weights[1], weights[0])


def test_targets_are_normed_over_features_unless_the_recipe_says_no() -> None:
    jepa = JEPA(SMALL, normal(6, 4), generator=torch.Generator().manual_seed(0))
    index = torch.tensor([[3, 5, 20], [0, 7, -1]])
    with torch.no_grad():
        jepa.target_encoder.norm.weight.mul_(3.0)
        jepa.target_encoder.norm.bias.add_(1.0)
    normed, x = jepa.targets(normal(2, 6, 12), index), normal(2, 6, 12)
    assert_allclose(normed[0].std(dim=1, correction=0), 1.0, rtol=1e-4)
    jepa.normed_targets = False
    expected = jepa.target_encoder(x).detach()
    found = jepa.targets(x, index)
    torch.testing.assert_close(found[0], expected[0, index[0]], atol=1e-5, rtol=1e-5)
    assert not found[1, 2].any() and found[0].std() > 2


def test_a_recipe_in_which_a_key_of_the_objective_is_idle_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.batch_size must be at least 2"):
        Recipe(objective=ObjectiveConfig(regularizer="sigreg"), train=TrainConfig(batch_size=1))
    with pytest.raises(InputError, match="target_norm has no effect"):
        Recipe(objective=ObjectiveConfig(target_norm="none"), model=ModelConfig(predicts="signal"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"regularizer_weight": 0.5}, "regularizer_weight has no effect"),
        ({"regularizer": "sigreg", "covariance_weight": 0.5}, "covariance_weight has no effect"),
        ({"regularizer": "vicreg", "n_projections": 5}, "n_projections has no effect"),
        ({"regularizer": "vicreg", "regularizer_weight": -1.0}, "must not be negative"),
        ({"regularizer": "sigreg", "n_projections": 0}, "at least 1"),
    ],
)
def test_keys_that_cannot_be_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ObjectiveConfig(**values)  # type: ignore[arg-type]
