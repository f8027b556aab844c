"""Attribution: against integration and loops by hand, completeness; heads against the readout of `probe`."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bjepa.model.baselines.linear import linear_readout
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.embedding_file import embed_scans
from bjepa.model.evaluation.splits import make_splits
from bjepa.model.explain.attribution import attribute
from bjepa.model.explain.heads import combination, fit_linear_map, linear_heads
from bjepa.model.explain.maps import AttributionSettings, attribution_over, input_map
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.output_network import LinearOutput, TunedOutput, subject_of
from bjepa.model.explain.prediction import attribution_settings
from bjepa.model.explain.windows import Window, participants_of
from bjepa.model.readouts.finetuning import EncoderWithHead
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

Array = NDArray[np.float64]


def make_window(planted: Any, *, missing: tuple[int, ...] = ()) -> Window:
    x = np.random.default_rng(1).normal(size=(planted.n_rois, planted.n_frames)).astype(np.float32)
    valid = np.ones(planted.n_rois, bool)
    valid[list(missing)] = False
    return Window(x_RL=x, valid_R=valid, t_r=2.0, share=1.0)


def make_output(planted: Any, **settings: Any) -> LinearOutput:
    weight = np.random.default_rng(2).normal(size=16)
    return LinearOutput(planted.plain().target_encoder, weight, 0.7, **settings).eval()


def by_hand(output: LinearOutput, x: NDArray[np.float32], window: Window) -> float:
    with torch.no_grad():
        return float(output(torch.from_numpy(x)[None], torch.from_numpy(window.valid_R)[None], torch.ones(1)))


def zeros(window: Window) -> NDArray[np.float32]:
    return np.zeros_like(window.x_RL)


@pytest.mark.parametrize("missing", [(), (3, 11)])
def test_integrated_gradients_equal_the_integral(planted: Any, missing: tuple[int, ...]) -> None:
    output, window = make_output(planted), make_window(planted, missing=missing)
    baseline = np.full_like(window.x_RL, 0.2)
    settings: dict[str, Any] = {"method": "integrated-gradients", "baselines": [baseline], "batch_size": 5}
    found = attribute(output, window, n_steps=24, **settings)

    x0, x1 = torch.from_numpy(baseline), torch.from_numpy(window.x_RL)
    middles = (torch.arange(100) + 0.5) / 100
    x = (x0 + middles[:, None, None] * (x1 - x0)).requires_grad_()
    present = torch.from_numpy(window.valid_R).expand(100, -1)
    total = torch.autograd.grad(output(x, present, torch.ones(100)).sum(), x)[0].mean(dim=0)
    values = ((x1 - x0) * total).double().numpy()
    kept = window.valid_R
    assert np.isnan(found.signed[~kept]).all() and np.isnan(found.magnitude[~kept]).all()
    assert_allclose(found.signed[kept], values.sum(axis=1)[kept], atol=2e-4)
    assert_allclose(found.magnitude[kept], np.abs(values).sum(axis=1)[kept], atol=5e-4)
    change = by_hand(output, window.x_RL, window) - by_hand(output, baseline, window)
    assert_allclose(found.change, change, atol=1e-6)
    assert_allclose(np.nansum(found.signed) - change, found.gap, atol=1e-6)
    assert abs(found.gap) < 1e-3 * abs(change)


def test_occlusion_equals_a_loop(planted: Any) -> None:
    output, window = make_output(planted), make_window(planted, missing=(5,))
    found = attribute(output, window, method="occlusion", baselines=[zeros(window)], n_steps=2, batch_size=7)
    whole, expected = by_hand(output, window.x_RL, window), np.empty(planted.n_rois)
    for region in range(planted.n_rois):
        without = window.x_RL.copy()
        without[region] = 0
        expected[region] = whole - by_hand(output, without, window)
    expected[5] = np.nan
    assert_allclose(found.signed, expected, atol=2e-6)
    assert_allclose(found.magnitude, np.abs(expected), atol=2e-6)
    assert np.nanmax(found.magnitude) > 0.01


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_law_batches_do_not_matter_and_baselines_average(planted: Any, method: str) -> None:
    output, window = make_output(planted), make_window(planted)
    one, other = zeros(window), np.full_like(window.x_RL, 0.5)
    settings: dict[str, Any] = {"method": method, "n_steps": 6}
    first, second, both = (
        attribute(output, window, baselines=b, batch_size=size, **settings)
        for b, size in (([one], 1), ([other], 100), ([one, other], 4))
    )
    assert_allclose(both.signed, (first.signed + second.signed) / 2, atol=2e-6)
    assert_allclose(both.magnitude, (first.magnitude + second.magnitude) / 2, atol=2e-6)


def test_participants_add_up_to_their_prediction(planted: Any, tmp_path: Any) -> None:
    data, _ = planted.write(tmp_path / "out", n=4, missing={2: 7})
    jepa, reader = planted.plain(), ShardReader(data)
    people = participants_of(jepa, reader, None)
    output = LinearOutput(jepa.target_encoder, np.random.default_rng(3).normal(size=16), 0.0).eval()
    subject = subject_of(jepa.target_encoder, [output], np.zeros(4, dtype=np.int64))
    baseline = np.zeros((planted.n_rois, planted.n_frames), np.float32)
    settings = AttributionSettings(
        methods=("integrated-gradients",), baselines=[("", baseline)], n_baselines=1, n_steps=24, batch_size=8
    )
    maps, completeness = attribution_over(subject, people, settings)
    embedding = embed_scans(jepa, reader).embedding.astype(np.float64)
    predicted = embedding @ output.weight_F.double().numpy()
    for i in (0, 1, 3):
        at_zero = by_hand(output, baseline, next(people[i]))
        assert_allclose(np.nansum(maps["integrated_gradients_signed"][i]), predicted[i] - at_zero, rtol=2e-3)
    assert np.isnan(maps["integrated_gradients"][2, 7])
    assert_allclose(np.nanmean(maps["integrated_gradients"], axis=1), 1)
    assert completeness.gap < 1e-3 * completeness.change
    size = input_map(people)
    assert_allclose(np.nanmean(size, axis=1), 1)
    assert np.isnan(size[2, 7])


def cohort_of(target: NDArray[Any], classes: tuple[str, ...] = ()) -> Cohort:
    ids = [f"{i:02d}" for i in range(len(target))]
    task: Task = "classification" if classes else "regression"
    return Cohort(
        participant_id=ids, written_id=ids, target=target, group=ids, task=task, classes=list(classes),
        target_name="y",
    )  # fmt: skip


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c")])
def test_a_head_is_the_model_of_probe(planted: Any, classes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(41, 16)) * np.logspace(-1, 1, 16) + 3).astype(np.float32)
    signal = 8 * x[:, 0] - x[:, 9] + 0.1 * rng.normal(size=41)
    x[5, 0] = np.nan  # takes the training mean
    target = np.digitize(signal, np.quantile(signal, np.arange(1, len(classes)) / len(classes)))
    cohort = cohort_of(target if classes else signal, classes)
    splits = make_splits(cohort, n_splits=4)
    heads = linear_heads(planted.plain().target_encoder, x, cohort, splits, class_number=len(classes) - 1)
    assert sorted(set(heads.output_of.tolist())) == [0, 1, 2, 3]
    assert heads.metric == ("auc" if classes else "r2") and heads.estimate.mean > 0.6
    for split in splits:
        inside = split.development
        judge = linear_readout(
            x[inside], cohort.target[inside], split.fold[inside], x[split.test], task=cohort.task
        )
        assert judge.penalty == heads.settings["penalty_per_feature"][split.number]
        assert (heads.output_of[split.test] == split.number).all()
        output = heads.outputs[split.number]
        assert isinstance(output, LinearOutput)
        filled = np.where(np.isfinite(x[split.test]), x[split.test], output.fill_F.numpy())
        found = filled @ output.weight_F.numpy() + float(output.bias)
        if not classes:
            assert_allclose(found, judge.prediction, rtol=1e-3, atol=1e-3)
        elif len(classes) == 2:
            assert_allclose(1 / (1 + np.exp(-found)), judge.prediction[:, 1], atol=2e-3)
        else:
            logits = np.log(judge.prediction)
            assert_allclose(found, logits[:, 2] - logits.mean(axis=1), atol=2e-2)


def test_the_class_asked_for_is_explained() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(50, 3)).astype(np.float32), np.arange(50) % 2
    x[:, 1] += y
    first, second = (fit_linear_map(x, y, 0.1, task="classification", class_number=c)[:2] for c in (0, 1))
    assert_allclose(first[0], -second[0])
    assert second[0][1] > 0 and first[1] == -second[1]
    judge = LogisticRegression(C=1 / 0.3).fit((x - x.mean(0)) / x.std(0), y)
    assert_allclose(second[0] * x.std(0), judge.coef_[0], rtol=1e-2)
    assert_allclose(combination(1, 0), [1])
    assert_allclose(combination(2, 0), [1, -1])
    assert_allclose(combination(2, 1), [-1, 1])
    assert_allclose(combination(3, 1), [-1 / 3, 2 / 3, -1 / 3])


def test_a_fine_tuned_output_is_in_units_of_the_target(planted: Any) -> None:
    network = EncoderWithHead(planted.plain().target_encoder, pooling="mean", n_outputs=1).eval()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    window = make_window(planted)
    arguments = window.tensors(torch.device("cpu"))
    output = TunedOutput(network, combination(1, 0), scale=12.0, shift=50.0).eval()
    assert output.encoder is network.encoder
    with torch.no_grad():
        assert_allclose(float(output(*arguments)), 12 * float(network(*arguments)) + 50, rtol=1e-6)
    found = attribute(
        output, window, method="integrated-gradients", baselines=[zeros(window)], n_steps=24, batch_size=8
    )
    assert abs(found.gap) < 1e-2 * abs(found.change)


@pytest.mark.parametrize("pooling", ["network_pairs", "region"])
def test_other_poolings_add_up_too(planted: Any, tmp_path: Any, pooling: Any) -> None:
    data, _ = planted.write(tmp_path / "out", n=6)
    jepa, reader = planted.plain(), ShardReader(data)
    network_R = np.unique(reader.rois["network7"], return_inverse=True)[1]
    width = {"network_pairs": 10, "region": 40 * 16}[pooling]
    output = LinearOutput(
        jepa.target_encoder,
        np.random.default_rng(5).normal(size=width),
        0.0,
        pooling=pooling,
        network_R=network_R,
    ).eval()
    people = participants_of(jepa, reader, None)
    subject = subject_of(jepa.target_encoder, [output], np.zeros(6, dtype=np.int64))
    settings = attribution_settings(people, ExplainOptions(pooling=pooling, n_steps=48))
    assert settings.n_baselines == {"network_pairs": 4, "region": 1}[pooling]
    _, completeness = attribution_over(subject.of(np.arange(1)), people.of([0]), settings)
    assert completeness.gap < 0.05 * completeness.change


def test_what_is_unknown_of_a_window_takes_the_training_mean(planted: Any) -> None:
    weight, fill = np.ones(40 * 16), np.full(40 * 16, 2.0)
    settings: dict[str, Any] = {"pooling": "region", "fill_F": fill}
    window = make_window(planted, missing=(7,))
    encoder = planted.plain().target_encoder
    whole = LinearOutput(encoder, weight, 0.0, **settings).eval()
    weight[7 * 16 : 8 * 16] = 0
    others = LinearOutput(encoder, weight, 0.0, **settings).eval()
    difference = by_hand(whole, window.x_RL, window) - by_hand(others, window.x_RL, window)
    assert_allclose(difference, 16 * 2.0, rtol=1e-4)


def test_the_own_window_is_left_out_of_the_baselines(planted: Any, tmp_path: Any) -> None:
    data, _ = planted.write(tmp_path / "out", n=3)
    people = participants_of(planted.plain(), ShardReader(data), None)
    subject = subject_of(planted.plain().target_encoder, [make_output(planted)], np.zeros(3, dtype=np.int64))
    own, other = next(people[0]).x_RL, next(people[2]).x_RL

    def signed(baselines: list[tuple[str, NDArray[np.float32]]]) -> Array:
        settings = AttributionSettings(
            methods=("occlusion",), baselines=baselines, n_baselines=1, n_steps=2, batch_size=64
        )
        found = attribution_over(subject.of(np.arange(1)), people.of([0]), settings)[0]
        return found["occlusion_signed"]

    assert_allclose(signed([("00", own), ("02", other)]), signed([("02", other)]))


def test_nobody_is_their_own_baseline(planted: Any, tmp_path: Any) -> None:
    data, _ = planted.write(tmp_path / "out", n=3)
    people = participants_of(planted.plain(), ShardReader(data), None)
    settings = attribution_settings(people, ExplainOptions(baseline="participants"))
    assert settings.n_baselines == 2 and len({owner for owner, _ in settings.baselines}) == 3
    again = attribution_settings(people, ExplainOptions(baseline="participants"))
    assert [o for o, _ in again.baselines] == [o for o, _ in settings.baselines]
    with pytest.raises(InputError, match="needs two participants"):
        attribution_settings(people.of([1]), ExplainOptions(baseline="participants"))
