"""Networks, intervals, randomised weights, similarity of maps, sentences: by hand, laws, refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr

from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.wording import as_tsv
from bjepa.model.explain.findings import interval
from bjepa.model.explain.measures import attention_measure, attribution_measures, rollout_measure
from bjepa.model.explain.networks import bootstrap_mean, network_rows, schemes_of
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.output_network import LinearOutput, Subject, subject_of
from bjepa.model.explain.randomise import cascade, stages
from bjepa.model.explain.sanity import map_pearson, map_similarity, verdict
from bjepa.model.explain.sanity_run import _changes
from bjepa.preproc.errors import InputError


def test_networks_are_means_of_the_regions_that_are_there(planted: Any) -> None:
    schemes = schemes_of(planted.rois())
    assert [s.name for s in schemes] == ["network7", "network17", "structure"]
    values = np.random.default_rng(0).normal(size=(7, planted.n_rois))
    values[2, 19:24] = np.nan  # nobody of Cont
    values[3, 0] = np.nan
    rows = network_rows(schemes[0], "m", values, expected=1.0, seed=3)
    by_name = {row.network: row for row in rows}
    assert list(by_name) == ["Subcortex", "Vis", "Cont", "Default", "SomMot"]
    cont = values[:, planted.regions].mean(axis=1)
    assert by_name["Cont"].n_participants == 6 and by_name["Vis"].n_participants == 7
    assert_allclose(by_name["Cont"].estimate.mean, np.nanmean(cont))
    assert_allclose(by_name["Subcortex"].estimate.mean, np.mean([np.nanmean(v[:6]) for v in values]))
    last = network_rows(schemes[2], "m", values, expected=1.0, seed=3)[-1]
    assert last.network == "cortex - subcortex" and last.expected == 0
    gap = np.mean([np.nanmean(v[6:]) - np.nanmean(v[:6]) for v in values])
    assert_allclose(last.estimate.mean, gap)


def test_an_atlas_without_networks_has_no_schemes(planted: Any) -> None:
    blank = [""] * planted.n_rois
    names = [f"region-{r}" for r in range(planted.n_rois)]
    assert schemes_of({"network7": blank, "network17": ["n/a"] * planted.n_rois, "structure": names}) == []
    assert schemes_of({}) == []


def test_intervals_over_participants_are_as_wide_as_they_should() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_mean(values, seed=0)
    half = 1.96 * values.std() / 20
    assert_allclose([found.mean - found.low, found.high - found.mean], half, rtol=0.08)
    assert found == bootstrap_mean(values, seed=0) != bootstrap_mean(values, seed=1)
    assert math.isnan(bootstrap_mean(values[:1], seed=0).low)
    assert math.isnan(bootstrap_mean(values[:0], seed=0).mean)


def weights(subject: Subject) -> dict[str, torch.Tensor]:
    found = dict(subject.encoders[0].state_dict())
    for output in subject.outputs:
        assert isinstance(output, LinearOutput)
        found["head"] = output.weight_F
    return {name: value.clone() for name, value in found.items()}


def test_weights_are_drawn_anew_from_the_top_down(planted: Any) -> None:
    jepa = planted.plain(depth=3)
    output = LinearOutput(jepa.target_encoder, np.arange(16, dtype=np.float64), 1.0)
    subject = subject_of(jepa.target_encoder, [output], np.zeros(2, dtype=np.int64))
    before = weights(subject)
    assert stages(subject) == ["head", "block 3", "block 2", "block 1", "complete"]
    expected: set[str] = set()
    changed: set[str] = set()
    for stage, other in cascade(subject, seed=0, draw=0):
        expected |= {
            "head": {"head"},
            "complete": {"patch_embed.proj.weight", "positions.gradient.weight"},
        }.get(stage, {f"blocks.{int(stage[-1]) - 1}.attn.qkv.weight" if stage[-1].isdigit() else ""})
        after = weights(other)
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        big = {
            n for n in changed if n == "head" or n.endswith(("qkv.weight", "proj.weight", "gradient.weight"))
        }
        big -= {n for n in big if ".attn.proj" in n}
        assert big == expected, stage
        assert other.outputs[0].encoder is other.encoders[0] is not subject.encoders[0]
    assert "positions.time" not in changed and "positions.gradients" not in changed
    after = weights(subject)
    assert all(torch.equal(before[name], after[name]) for name in before)  # the given one stays


def test_drawn_weights_are_those_of_a_fresh_model_and_of_the_seed(planted: Any) -> None:
    jepa = planted.plain(depth=2, init_std=0.05, patch_init_std=0.4)
    subject = subject_of(jepa.target_encoder, [], np.zeros(2, dtype=np.int64))

    def drawn(seed: int, draw: int) -> dict[str, torch.Tensor]:
        ((stage, other),) = cascade(subject, seed=seed, draw=draw, only=["complete"])
        assert stage == "complete"
        return weights(other)

    one, same, next_draw, other_seed = drawn(0, 0), drawn(0, 0), drawn(0, 1), drawn(1, 0)
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], next_draw[name]) and not torch.equal(one[name], other_seed[name])
    assert_allclose(one[name].std(), 0.05, rtol=0.1)
    assert_allclose(one["patch_embed.proj.weight"].std(), 0.4, rtol=0.2)
    assert (one["blocks.0.norm1.weight"] == 1).all() and (one["blocks.0.mlp.fc1.bias"] == 0).all()


def test_a_head_keeps_its_length(planted: Any) -> None:
    jepa = planted.plain()
    output = LinearOutput(jepa.target_encoder, np.arange(16, dtype=np.float64), 1.0)
    subject = subject_of(jepa.target_encoder, [output], np.zeros(2, dtype=np.int64))
    ((_, other),) = cascade(subject, seed=0, draw=0, only=["head"])
    drawn = weights(other)["head"]
    assert_allclose(torch.linalg.vector_norm(drawn), np.linalg.norm(np.arange(16)), rtol=1e-5)
    assert abs(float(np.corrcoef(drawn, np.arange(16))[0, 1])) < 0.9


def test_similarity_is_spearman_of_the_mean_maps() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=(9, 31)), rng.normal(size=(2, 9, 31))
    after[0] += before
    before[:, 4] = after[:, :, 4] = np.nan  # a region that nobody has
    before[3, 7] = np.nan
    found = map_similarity(before, after, seed=0)
    keep = np.arange(31) != 4
    first = np.nanmean(before[:, keep], axis=0)
    by_hand = [spearmanr(first, np.nanmean(one[:, keep], axis=0)).statistic for one in after]
    assert_allclose(found.mean, np.mean(by_hand))
    assert found.low < found.mean < found.high
    linear = [np.corrcoef(first, np.nanmean(one[:, keep], axis=0))[0, 1] for one in after]
    assert_allclose(map_pearson(before, after), np.mean(linear))
    assert found == map_similarity(before, after, seed=0)
    itself = map_similarity(before, before[None], seed=0)
    assert_allclose([itself.mean, itself.low, itself.high], 1)
    assert math.isnan(map_similarity(before, np.ones((1, 9, 31)), seed=0).mean)  # no ranks


def test_verdicts_are_by_the_whole_interval() -> None:
    cases = {
        "survives": [(0.8, 0.6, 0.9), (-0.8, -0.9, -0.6)],
        "destroyed": [(0.0, -0.2, 0.2), (0.1, 0.05, 0.25)],
        "kept in part": [(0.5, 0.2, 0.7), (-0.4, -0.6, -0.2)],
        "unclear": [(0.0, -0.5, 0.4)],
        "n/a": [(0.4, math.nan, math.nan)],
    }
    for word, estimates in cases.items():
        for estimate in estimates:
            assert verdict(Estimate(*estimate)) == word, estimate


def test_attention_is_not_checked_by_what_lies_above_it() -> None:
    second, rollout = attention_measure(2, 3), rollout_measure()
    magnitude, signed = attribution_measures("occlusion", unit="years")
    assert [_changes(f"block {b}", second) for b in (3, 2, 1)] == [False, True, True]
    assert not _changes("head", second) and _changes("complete", second)
    assert _changes("block 3", rollout) and not _changes("shuffled target", rollout)
    assert _changes("shuffled target", signed) and _changes("head", magnitude)
    assert (second.name, magnitude.name, signed.name) == (
        "attention_layer_2",
        "occlusion",
        "occlusion_signed",
    )
    assert signed.is_signed and signed.expected == 0 and magnitude.expected == 1 and not magnitude.is_signed


def test_numbers_have_as_many_digits_as_their_interval_needs() -> None:
    assert interval(Estimate(1.00731, 1.0061, 1.0082)) == "1.0073 [1.0061, 1.0082]"
    assert interval(Estimate(0.3, -0.1, 0.8), signed=True) == "+0.30 [−0.10, 0.80]"
    assert interval(Estimate(1.5, math.nan, math.nan)) == "1.50"
    assert as_tsv([("a", 1.23456789, math.nan, 3)]) == "a\t1.23457\tn/a\t3\n"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"attribution": ("gradcam",)}, "'gradcam' is no method"),
        ({"attribution": ("occlusion", "occlusion")}, "each method once"),
        ({"sanity": "some"}, "--sanity must be one of cascade"),
        ({"n_steps": 1}, "--n-steps must be 2 or more, got 1"),
        ({"limit": 0}, "--limit must be 1 or more"),
        ({"max_epochs": 3}, "--max-epochs is for --head finetune"),
    ],
)
def test_refuses_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ExplainOptions(**options)


def test_layers_and_participants_are_chosen() -> None:
    assert ExplainOptions().layers(4) == [4] and ExplainOptions(layer="all").layers(3) == [1, 2, 3]
    assert ExplainOptions(layer="2").layers(3) == [2]
    for layer in ("0", "4", "first", "-1"):
        with pytest.raises(InputError, match=r"--layer must be last, all, or a number from 1 to 3"):
            ExplainOptions(layer=layer).layers(3)
    drawn = ExplainOptions(seed=1).draw(30, 7)
    assert len(set(drawn.tolist())) == 7 and (np.diff(drawn) > 0).all()
    assert_array_equal(drawn, ExplainOptions(seed=1).draw(30, 7))
    assert_array_equal(ExplainOptions().draw(5, 9), np.arange(5))
    assert ExplainOptions(pooling="region_pairs").resolved_baseline == "participants"
    assert ExplainOptions(pooling="region").resolved_baseline == "median"
