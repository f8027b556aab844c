"""Fine-tuning: rates of the layers, what is trained, scaling, early stopping; laws of a method."""

import argparse
import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.model import JEPA, ModelConfig
from bjepa.model.about import About, scaling_table
from bjepa.model.evaluation.embedding_file import model_sha256
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.readouts.finetuning import EncoderWithHead, finetune, finetune_method
from bjepa.model.readouts.fit_network import FitSettings, fit_network, lr_factor_at
from bjepa.model.readouts.layer_decay import layer_groups, layer_of
from bjepa.model.readouts.windows import window_samples
from bjepa.preproc.errors import InputError

N_ROIS, N_FRAMES, DEPTH, DECAY = 6, 12, 3, 0.5
QUICK = FitSettings(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1)


def make_jepa(seed: int = 0) -> JEPA:
    config = ModelConfig(
        n_rois=N_ROIS,
        n_frames=N_FRAMES,
        patch_size=4,
        n_gradients=3,
        embed_dim=8,
        depth=DEPTH,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
        init_std=0.1,
    )
    gradients = np.random.default_rng(1).normal(size=(N_ROIS, 3))
    jepa = JEPA(config, gradients, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():  # so that it shows which of the two encoders is taken
        for parameter in jepa.context_encoder.parameters():
            parameter.add_(0.1)
    return jepa.eval()


@pytest.fixture
def cohort(write_cohort: Any) -> Path:
    """Region 0 of participant i has the amplitude exp(t_i); lengths of 1 to 3 windows, with a remainder."""
    rng = np.random.default_rng(3)
    phases = []
    for t in TARGET:
        x = rng.normal(size=(12 * rng.integers(1, 4) + 5, N_ROIS))
        x[:, 0] *= np.exp(0.7 * t)
        phases.append([x.astype(np.float32)])
    path: Path = write_cohort(phases)
    return path


TARGET = np.random.default_rng(2).normal(size=40)


def make_fold(cohort: Path, method: Any, **changes: Any) -> Fold:
    data = load_scan_data(cohort)
    recordings = method.inputs(data, [f"{i:02d}" for i in range(40)])
    fold = np.arange(30) % 5
    made = Fold(
        task="regression",
        classes=[],
        inputs=recordings[np.arange(30)],
        target=TARGET[:30],
        inner_fold=fold,
        is_val=fold == 1,
        test_inputs=recordings[np.arange(30, 40)],
        seed=7,
    )
    return dataclasses.replace(made, **changes)


def test_layers_by_name() -> None:
    network = EncoderWithHead(make_jepa().target_encoder, pooling="mean", n_outputs=1)
    layers = {name: layer_of(name, depth=DEPTH) for name, _ in network.named_parameters()}
    assert layers["encoder.patch_embed.proj.weight"] == layers["encoder.positions.gradient.weight"] == 0
    assert layers["encoder.blocks.0.attn.qkv.weight"] == 1 and layers["encoder.blocks.2.mlp.fc2.bias"] == 3
    assert layers["encoder.norm.weight"] == layers["head.weight"] == layers["norm.bias"] == 4
    assert sorted(set(layers.values())) == [0, 1, 2, 3, 4]


def test_each_layers_effective_rate_in_every_update() -> None:
    """By plain gradient descent: what each parameter moved is its rate times its gradient."""
    jepa = make_jepa()
    encoder = copy.deepcopy(jepa.target_encoder).requires_grad_(True)
    encoder.positions.time.requires_grad_(False)
    network = EncoderWithHead(encoder, pooling="mean", n_outputs=1)
    torch.nn.init.normal_(network.head.weight)
    moved: list[dict[str, float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            before = {n: p.detach().clone() for n, p in network.named_parameters()}
            grads = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
            super().step(closure)
            after = dict(network.named_parameters())
            moved.append(
                {
                    n: float((before[n] - after[n].detach()).norm() / g.norm())
                    for n, g in grads.items()
                    if g.norm() > 1e-3
                }
            )

    rng = np.random.default_rng(0)
    from bjepa.model.evaluation.samples import Samples

    x = rng.normal(size=(16, N_ROIS, N_FRAMES)).astype(np.float32)
    samples = Samples.of_arrays(
        x, np.ones((16, N_ROIS), bool), np.full(16, 2.0, np.float32), target=rng.normal(size=16)
    )
    settings = FitSettings(epochs=5, batch_size=8, lr=0.02, warmup_epochs=2, weight_decay=0, clip_grad=None)
    fit_network(
        network,
        samples,
        samples,
        task="regression",
        settings=settings,
        seed=0,
        parameter_groups=partial(layer_groups, depth=DEPTH, decay=DECAY),
        make_optimizer=Watched,
    )
    assert len(moved) == 10
    seen = set()
    for update, of_it in enumerate(moved):
        rate = 0.02 * lr_factor_at(update, n_updates=10, n_warmup=4)
        for name, ratio in of_it.items():
            layer = layer_of(name, depth=DEPTH)
            assert ratio == pytest.approx(rate * DECAY ** (DEPTH + 1 - layer), rel=0.02), (update, name)
            seen.add(name)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    silent = {n for n in trained - seen}  # a shift of all keys moves no softmax: gradient zero
    assert len(silent) <= 1 and "encoder.positions.time" not in seen
    assert {layer_of(n, depth=DEPTH) for n in seen} == {0, 1, 2, 3, 4}


def test_groups_hold_every_trained_weight_once_and_spare_vectors() -> None:
    network = EncoderWithHead(make_jepa().context_encoder, pooling="mean", n_outputs=3)
    groups = layer_groups(network, depth=DEPTH, decay=0.75)
    listed = [id(p) for g in groups for p in g["params"]]
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(listed) == len(set(listed)) == len(trained)
    for group in groups:
        assert group["lr_scale"] == 0.75 ** (DEPTH + 1 - group["layer"])
        assert all((p.ndim > 1) == ("weight_decay" not in group) for p in group["params"])
    with pytest.raises(InputError, match="layer_decay"):
        layer_groups(network, depth=DEPTH, decay=1.5)


@pytest.mark.parametrize("pooling", ["mean", "network_pairs"])
def test_the_model_stays_and_the_seed_decides(cohort: Path, pooling: Any) -> None:
    jepa = make_jepa()
    before, flags = model_sha256(jepa), [p.requires_grad for p in jepa.parameters()]
    method = finetune_method(jepa, settings=QUICK, pooling=pooling)
    found = method.fit_predict(make_fold(cohort, method))
    assert found.values.shape == (10,) and np.ptp(found.values) > 1e-3
    assert model_sha256(jepa) == before and [p.requires_grad for p in jepa.parameters()] == flags
    again = method.fit_predict(make_fold(cohort, method))
    assert_array_equal(found.values, again.values)
    other = method.fit_predict(make_fold(cohort, method, seed=8))
    assert np.abs(found.values - other.values).max() > 1e-5
    assert found.settings["pooling"] == pooling and len(found.settings["best_epoch"]) == 1


def test_law_test_participants_do_not_see_each_other(cohort: Path) -> None:
    method = finetune_method(make_jepa(), settings=QUICK)
    fold = make_fold(cohort, method)
    values = method.fit_predict(fold).values
    order = np.array([3, 0, 9, 1])
    fewer = method.fit_predict(dataclasses.replace(fold, test_inputs=fold.test_inputs[order])).values
    assert_allclose(fewer, values[order], atol=1e-6)


def test_it_is_the_target_encoder_that_learns(cohort: Path) -> None:
    settings = dataclasses.replace(QUICK, epochs=1, warmup_epochs=0, lr=1e-12)
    jepa = make_jepa()
    method = finetune_method(jepa, settings=settings)
    values = method.fit_predict(make_fold(cohort, method)).values
    changed = make_jepa()
    with torch.no_grad():
        for parameter in (*changed.context_encoder.parameters(), *changed.predictor.parameters()):
            parameter.add_(1.0)
    same = finetune_method(changed, settings=settings)
    assert_array_equal(same.fit_predict(make_fold(cohort, same)).values, values)
    with torch.no_grad():
        changed.target_encoder.blocks[0].mlp.fc1.weight.add_(torch.randn(32, 8))  # type: ignore[union-attr,operator]
    assert np.abs(same.fit_predict(make_fold(cohort, same)).values - values).max() > 1e-9


def test_several_seeds_are_averaged(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bjepa.model.readouts import finetuning
    from bjepa.model.readouts import fit_network as fit_module

    each: list[NDArray[np.float64]] = []

    def recorded(*args: Any, **options: Any) -> NDArray[np.float64]:
        each.append(predict(*args, **options))
        return each[-1]

    predict = fit_module.predict_network
    monkeypatch.setattr(finetuning, "predict_network", recorded)
    method = finetune_method(make_jepa(), settings=QUICK, n_seeds=3)
    found = method.fit_predict(make_fold(cohort, method))
    assert len(each) == 3 and np.abs(each[0] - each[1]).max() > 1e-6
    assert_allclose(found.values, np.mean(each, axis=0))
    assert len(found.settings["best_epoch"]) == 3


def test_it_finds_what_is_in_the_scans(cohort: Path) -> None:
    settings = FitSettings(epochs=60, batch_size=8, lr=1e-2, warmup_epochs=3, patience=20)
    method = finetune_method(make_jepa(), settings=settings, layer_decay=0.9)
    found = method.fit_predict(make_fold(cohort, method))
    assert np.corrcoef(found.values, TARGET[30:])[0, 1] > 0.7
    labels = (TARGET[:30] > 0).astype(np.int64)
    fold = make_fold(cohort, method, task="classification", classes=["low", "high"], target=labels)
    probability = method.fit_predict(fold).values
    assert probability.shape == (10, 2)
    assert_allclose(probability.sum(axis=1), 1)
    assert ((probability[:, 1] > 0.5) == (TARGET[30:] > 0)).mean() >= 0.7


def test_lora_trains_changes_and_head_alone(cohort: Path) -> None:
    rank, wide = 2, 8
    method = finetune_method(make_jepa(), settings=QUICK, lora_rank=rank)
    found = method.fit_predict(make_fold(cohort, method))
    sides = [(wide, 3 * wide), (wide, wide), (wide, 4 * wide), (4 * wide, wide)]
    expected = DEPTH * rank * sum(a + b for a, b in sides) + 2 * wide + wide + 1  # changes, norm, head
    assert found.settings["n_trained_weights"] == expected
    whole = finetune_method(make_jepa(), settings=QUICK).fit_predict(make_fold(cohort, method))
    jepa = make_jepa()
    encoder = sum(p.numel() for p in jepa.target_encoder.parameters()) - jepa.config.n_tokens * wide // 2
    assert whole.settings["n_trained_weights"] == encoder + 3 * wide + 1


def test_scaled_as_the_models_data_were(cohort: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The fixture's shards are (x - (100 + 10 r)) / (2 + r); the model's scaling is another one."""
    data = load_scan_data(cohort)
    assert data.reader is not None
    jepa = make_jepa()
    table = scaling_table(data.reader)
    jepa.about = About(origin={"scaling": "robust"}, scaling_table=table)
    method = finetune_method(jepa, settings=QUICK)
    fold = make_fold(cohort, method)
    found = method.fit_predict(fold)
    assert found.settings["scaling"] == "model" and "not scaled as" not in caplog.text
    plain = make_jepa()
    of_fold = finetune_method(plain, settings=QUICK).fit_predict(fold)
    assert of_fold.settings["scaling"] != "model"
    assert np.abs(found.values - of_fold.values).max() > 1e-6
    jepa.about = About(origin={"scaling": "robust"}, scaling_table=table.replace("\t2\n", "\t3\n"))
    other = make_fold(cohort, method)
    assert caplog.text.count("not scaled as") == 1
    rescaled = method.fit_predict(other)
    assert caplog.text.count("not scaled as") == 1  # told once, not in each fold
    assert np.abs(found.values - rescaled.values).max() > 1e-6


def test_short_scans_and_foreign_atlases_are_refused(cohort: Path) -> None:
    jepa = make_jepa()
    jepa.atlas_sha256 = "b" * 64
    method = finetune_method(jepa, settings=QUICK)
    with pytest.raises(InputError, match="trained with the atlas"):
        make_fold(cohort, method)
    long = make_jepa()
    long.config = dataclasses.replace(long.config, n_frames=24)
    data = load_scan_data(cohort)
    with pytest.raises(InputError, match="shorter than the model's window"):
        finetune_method(long).inputs(data, ["00"])
    with pytest.raises(ValueError, match="n_seeds"):
        finetune(make_fold(cohort, finetune_method(make_jepa())), make_jepa(), n_seeds=0)


def test_windows_are_those_of_the_series_in_order(cohort: Path) -> None:
    method = finetune_method(make_jepa())
    recordings = make_fold(cohort, method).test_inputs
    reader = recordings.reader
    samples = window_samples(recordings, reader.__getitem__, n_frames=N_FRAMES)
    lengths = reader.series_length[recordings.numbers] // N_FRAMES
    assert_array_equal(np.bincount(samples.participant), lengths)
    x, present, t_r = samples.read(np.arange(len(samples)))
    assert x.shape == (len(samples), N_ROIS, N_FRAMES) and present.all()
    assert_allclose(t_r, 1.6)
    at = 0
    for number, n in zip(recordings.numbers, lengths, strict=True):
        for w in range(n):
            assert_array_equal(x[at], reader[number][w * N_FRAMES : (w + 1) * N_FRAMES].T)
            at += 1
    assert at == len(samples) and lengths.max() > 1
    with pytest.raises(InputError, match="of 10 participants have no series of 30 frames"):
        window_samples(recordings, reader.__getitem__, n_frames=30)


def test_a_fit_that_diverges_is_told_in_one_sentence(
    cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bjepa.cli._common import run

    method = finetune_method(make_jepa(), settings=dataclasses.replace(QUICK, lr=1e30))
    args = argparse.Namespace(log_level="info")
    status = run(lambda _: int(method.fit_predict(make_fold(cohort, method)).values[0]), args, prog="x")
    said = capsys.readouterr().err
    assert status == 1 and "A smaller lr, a longer warm-up" in said and "Traceback" not in said
