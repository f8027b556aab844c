"""Pretraining inside the fold, the encoder from scratch, the random encoder: sizes, laws, learning."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import nn

from bjepa.gradients import compute_affinity, diffusion_map
from bjepa.model import JEPA, Embedder, ModelConfig
from bjepa.model.about import SCALING_COLUMNS, About
from bjepa.model.baselines import brainlm, brainmass
from bjepa.model.baselines.jepa_scratch import fit_scratch, scratch
from bjepa.model.baselines.linear import fit_linear
from bjepa.model.baselines.methods import METHODS
from bjepa.model.baselines.pretraining import (
    MAX_FRAMES,
    PretrainSettings,
    Windows,
    fold_gradients,
    pretrain,
    window_frames,
)
from bjepa.model.baselines.random_encoder import fit_random_encoder, fresh_jepa, random_encoder
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.recordings import Recordings, recordings_of, region_scaling, scaled
from bjepa.model.evaluation.scan_data import load_scan_data, mean_by_owner
from bjepa.model.masking import sample_mask
from bjepa.model.readouts.model_scaling import scaled_reader
from bjepa.preproc.demo.series_cohort import write_series_cohort
from bjepa.preproc.errors import InputError

Cohort = Callable[..., Path]
SHORT = PretrainSettings(epochs=3, batch_size=4, lr=1e-3)


def read(folder: Path) -> Recordings:
    data = load_scan_data(folder)
    return recordings_of(data, sorted(set(data.participant_id)))


def fold_of(
    recordings: Recordings, target: NDArray[Any], *, test: NDArray[np.bool_], seed: int = 0, **more: Any
) -> Fold:
    """Development: all but `test`; its inner folds alternate, the first of three is the validation part."""
    dev = np.flatnonzero(~test)
    inner = np.arange(len(dev)) % 3
    classes = ["no", "yes"] if target.dtype.kind == "i" else []
    return Fold(
        task="classification" if classes else "regression",
        classes=classes,
        inputs=recordings[dev],
        target=target[dev],
        inner_fold=inner,
        is_val=inner == 0,
        test_inputs=recordings[np.flatnonzero(test)],
        seed=seed,
        **more,
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on tensors this small
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def few(write_cohort: Cohort) -> Recordings:
    """9 participants, 6 regions that share a wave; the second has no region 4, the third two series."""
    rng = np.random.default_rng(5)

    def series(n_frames: int) -> NDArray[np.float32]:
        wave = np.sin(np.arange(n_frames) / 3 + rng.uniform(0, 6))[:, None] * [1, 1, -1, 1, -1, 1]
        return (wave + 0.3 * rng.normal(size=(n_frames, 6))).astype(np.float32)

    phases = [[series(70 + 9 * i)] for i in range(9)]
    phases[2] = [series(130), series(64)]
    valid = np.ones((9, 6), bool)
    valid[1, 4] = False
    phases[1][0][:, 4] = 0
    return read(write_cohort(phases, valid=valid))


def weights(module: nn.Module) -> NDArray[np.float32]:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()


# Sizes


@pytest.mark.parametrize("size, published, count", [
    ("13M", 13e6, 13_120_020), ("111M", 111e6, 110_968_084), ("650M", 650e6, 655_974_164)
])  # fmt: skip
def test_brainlm_sizes(size: str, published: float, count: int) -> None:
    config = brainlm.SIZES[size]
    with torch.device("meta"):
        jepa = JEPA(config, torch.zeros(config.n_rois, 1))
        peer = nn.TransformerEncoderLayer(
            config.embed_dim, config.num_heads, int(config.embed_dim * config.mlp_ratio)
        )
    parts = (jepa.context_encoder, jepa.predictor)
    assert sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad) == count
    assert abs(count / published - 1) < 0.01
    blocks = sum(p.numel() for p in jepa.context_encoder.blocks.parameters())
    assert blocks == config.depth * sum(p.numel() for p in peer.parameters())
    assert (config.n_rois, config.n_frames, config.patch_size) == (424, 200, 20)


def test_brainmass_sizes() -> None:
    with torch.device("meta"):
        encoder = brainmass.ConnectomeEncoder(brainmass.PUBLISHED)
        peer = nn.TransformerEncoderLayer(100, 10, 2048)
    assert sum(p.numel() for p in encoder.blocks.parameters()) == 16 * sum(
        p.numel() for p in peer.parameters()
    )
    head = 100 * 8 + 8 + 800 * 1600 + 1600 + 2 * 1600 + 1600 * 1024 + 1024
    assert sum(p.numel() for part in (encoder.reduce, encoder.project) for p in part.parameters()) == head
    assert isinstance(encoder.embed, nn.Identity)  # profiles are the tokens


# The loop


class Recorder(nn.Module):
    """Its loss is (w - 3)², and it remembers which series it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.zeros(1, 1)), []  # type: ignore[var-annotated]

    def loss(self, places: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        self.seen.append((places.tolist(), float(rng.random())))
        return (self.w - 3).square().sum()


def test_every_epoch_has_every_series_once_and_no_small_batch() -> None:
    one, two, other = Recorder(), Recorder(), Recorder()
    losses = [
        pretrain(n, 11, n.loss, settings=SHORT, seed=seed) for n, seed in ((one, 7), (two, 7), (other, 8))
    ]
    assert [len(places) for places, _ in one.seen] == [6, 5] * 3  # 11 in batches of 4: the rest joins
    for epoch in range(3):
        assert sorted(one.seen[2 * epoch][0] + one.seen[2 * epoch + 1][0]) == list(range(11))
    assert one.seen == two.seen != other.seen and losses[0] == losses[1]
    assert one.seen[0][0] != one.seen[2][0]  # another order
    assert losses[0][0] == pytest.approx(9, abs=0.02) and losses[0][2] < losses[0][0]


def test_max_epochs_and_after_update() -> None:
    network, calls = Recorder(), []
    losses = pretrain(
        network, 11, network.loss, settings=SHORT, seed=0, max_epochs=2, after_update=lambda: calls.append(1)
    )
    assert len(losses) == 2 and len(calls) == 4


def test_a_broken_loss_changes_nothing() -> None:
    network = Recorder()
    with pytest.raises(FloatingPointError, match="update 0: the loss is nan"):
        pretrain(network, 5, lambda p, g: network.loss(p, g) * np.nan, settings=SHORT, seed=0)
    assert network.w.item() == 0


# What goes in


def test_windows_lie_in_their_series_scaled_and_missing_regions_are_zero(few: Recordings) -> None:
    scaling, windows = region_scaling(few), Windows(few, scaled_reader(few), 40)
    x, valid, t_r = windows.random(np.array([1, 3, 0]), np.random.default_rng(1))
    assert x.shape == (3, 6, 40) and x.dtype == torch.float32 and t_r.tolist() == pytest.approx([1.6] * 3)
    assert_array_equal(valid[0], [1, 1, 1, 1, 0, 1])
    assert (x[0, 4] == 0).all() and not (x[1, 4] == 0).any()
    for window, place in zip(x.numpy(), (1, 3, 0), strict=True):
        whole = scaled(few.read(int(few.numbers[place])), scaling)
        starts = [s for s in range(len(whole) - 39) if np.allclose(whole[s : s + 40].T, window)]
        assert len(starts) == 1
    starts_of = {
        float(windows.random(np.array([0]), np.random.default_rng(i))[0][0, 0, 0]) for i in range(40)
    }
    assert len(starts_of) > 10  # of 31 places


def test_window_frames(few: Recordings, write_cohort: Cohort) -> None:
    test = np.zeros(9, bool)
    test[2] = True  # the shortest series, 64 frames, is one of the test part
    fold = fold_of(few, np.arange(9.0), test=test)
    assert window_frames(fold, 16) == 64 and window_frames(fold, 20) == 60
    with pytest.raises(InputError, match="64 frames; 2 patches of 40 frames"):
        window_frames(fold, 40)
    long = read(write_cohort([[np.zeros((999, 6), np.float32)]] * 3, name="long"))
    assert window_frames(fold_of(long, np.arange(3.0), test=np.arange(3) == 1), 32) == MAX_FRAMES


def test_gradients_are_those_of_who_learns(few: Recordings) -> None:
    learn = few[np.array([0, 3, 5, 8])]  # one series each, no region missing
    z = [np.arctanh(np.corrcoef(x.T.astype(np.float64)) - np.eye(6)) for x in learn]
    affinity = compute_affinity(np.mean(z, axis=0), sparsity=0.0)
    assert_allclose(fold_gradients(learn), diffusion_map(affinity, n_components=4).gradients, atol=1e-6)


def test_means_by_owner_leave_out_what_is_not_known() -> None:
    features = np.array([[1, np.nan, 4], [3, 5, 6], [7, np.nan, 8]], dtype=np.float32)
    found = mean_by_owner(features, np.array([1, 1, 0]), 2)
    assert_array_equal(found, np.array([[7, np.nan, 8], [2, 5, 5]], dtype=np.float32))


# BrainLM


def test_brainlm_learns_what_regions_share(few: Recordings) -> None:
    """A hidden patch of a wave that all regions share: its mean leaves 1, neighbours tell the rest."""
    windows, places = Windows(few, scaled_reader(few), 60), np.arange(10)
    jepa = brainlm.make_autoencoder(brainlm.architecture(6, 60), seed=0)
    settings = PretrainSettings(epochs=120, batch_size=5, lr=4e-3)
    losses = brainlm.pretrain_autoencoder(jepa, windows, seed=0, device="cpu", settings=settings)
    with torch.no_grad():
        new = np.mean([
            float(brainlm.masked_error(jepa, windows, places, np.random.default_rng(i), device="cpu"))
            for i in range(5)
        ])  # fmt: skip
    x, valid, _ = windows.random(places, np.random.default_rng(0))
    trivial = x.numpy()[valid].var()
    assert losses[0] > 0.9 * trivial
    assert new < 0.6 * trivial


def test_the_error_is_that_of_the_hidden_frames_of_all_scans(few: Recordings) -> None:
    """Scan by scan, without padding; the second lacks a region, so its lists are shorter."""
    windows, places = Windows(few, scaled_reader(few), 60), np.arange(3)
    jepa = brainlm.make_autoencoder(brainlm.architecture(6, 60), seed=0)
    rng = np.random.default_rng(2)
    x, valid, _ = windows.random(places, rng)
    squared = []
    for window, present in zip(x, valid, strict=True):
        mask = sample_mask(6, 3, config=brainlm.MASKS, generator=rng, valid_rois=present)
        predicted = jepa.predict(window[None], mask.context_index[None], mask.target_index[None])[0]
        squared.append((predicted - window.reshape(18, 20)[mask.target_index]).square().flatten())
    assert [len(s) for s in squared] == [14 * 20, 11 * 20, 14 * 20]  # three quarters of 18 and of 15
    found = brainlm.masked_error(jepa, windows, places, np.random.default_rng(2), device="cpu")
    assert_allclose(found.item(), torch.cat(squared).mean().item(), rtol=1e-5)


def test_law_missing_regions_have_no_part_in_the_error(few: Recordings, monkeypatch: Any) -> None:
    windows = Windows(few, scaled_reader(few), 60)
    jepa = brainlm.make_autoencoder(brainlm.architecture(6, 60), seed=0)

    def error(value: float) -> float:
        def poisoned(self: Windows, places: Any, rng: Any) -> Any:
            x, valid, t_r = random(self, places, rng)
            x[~torch.from_numpy(valid)] = value
            return x, valid, t_r

        with monkeypatch.context() as patch:
            patch.setattr(Windows, "random", poisoned)
            rng = np.random.default_rng(2)
            loss = brainlm.masked_error(jepa, windows, np.arange(3), rng, device="cpu")
            return loss.item()

    random = Windows.random
    assert error(0.0) == error(1e3)


# BrainMass


def test_pearson_is_numpys(few: Recordings) -> None:
    whole, lacking = few.read(int(few.numbers[0])), few.read(int(few.numbers[1]))
    assert_allclose(brainmass.pearson(whole), np.corrcoef(whole.T), atol=1e-6)
    found = brainmass.pearson(lacking)
    assert (found[4] == 0).all() and (found[:, 4] == 0).all() and found[3, 3] == pytest.approx(1)
    view, other = (brainmass.pseudo_fc(whole, np.random.default_rng(seed)) for seed in (1, 2))
    kept = np.sort(np.random.default_rng(1).permutation(70)[:56])  # 80 % of the frames, in any order
    assert_allclose(view, np.corrcoef(whole[kept].T), atol=1e-6)
    assert not np.allclose(view, other, atol=1e-3)


@pytest.fixture
def small_brainmass() -> brainmass.BrainMass:
    config = brainmass.BrainMassConfig(n_rois=7, width=8, mlp_width=12, projector_width=10, n_features=6)
    return brainmass.BrainMass(config, generator=torch.Generator().manual_seed(3))


def connectomes(n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack([brainmass.pearson(rng.normal(size=(20, 7)).astype(np.float32)) for _ in range(n)])
    )


def test_law_hidden_profiles_are_not_seen(small_brainmass: brainmass.BrainMass) -> None:
    fc, hidden = connectomes(2, 0), torch.zeros(2, 7, dtype=torch.bool)
    hidden[0, [1, 4]] = hidden[1, [0, 6]] = True
    spoilt = torch.where(hidden[..., None], 99.0, fc)
    encoder = small_brainmass.encoder
    assert torch.equal(encoder.tokens(fc, hidden), encoder.tokens(spoilt, hidden))
    assert not torch.allclose(encoder.tokens(fc), encoder.tokens(fc, hidden))


def test_masked_losses_written_out(small_brainmass: brainmass.BrainMass) -> None:
    fc, hidden = connectomes(3, 1), torch.zeros(3, 7, dtype=torch.bool)
    where = [[1, 4], [0, 6], [2, 3]]
    for scan, regions in enumerate(where):
        hidden[scan, regions] = True
    squared, crossed = [], []
    tokens = small_brainmass.encoder.tokens(fc, hidden)
    for scan, regions in enumerate(where):
        true = fc[scan, regions]
        squared.append((small_brainmass.profile_head(tokens[scan, regions]) - true).square())
        guess = small_brainmass.identity_head(tokens[scan, regions])
        probability = (true @ guess.T).softmax(dim=1)
        crossed.append(-probability.diag().log())
    reconstruction, identity = small_brainmass.masked_losses(fc, hidden)
    assert_allclose(reconstruction.item(), torch.cat(squared).mean().item(), rtol=1e-5)
    assert_allclose(identity.item(), torch.cat(crossed).mean().item(), rtol=1e-5)


def test_alignment_and_the_target_network(small_brainmass: brainmass.BrainMass) -> None:
    network, (one, other) = small_brainmass, (connectomes(4, 2), connectomes(4, 3))
    expected = 2 - 2 * nn.functional.cosine_similarity(
        network.predictor(network.encoder(one)), network.target_encoder(other), dim=1
    )
    assert_allclose(network.alignment(one, other).item(), expected.mean().item(), rtol=1e-5)
    network.alignment(one, other).backward()  # type: ignore[no-untyped-call]
    assert not any(p.requires_grad or p.grad is not None for p in network.target_encoder.parameters())
    before = weights(network.target_encoder)
    with torch.no_grad():
        for p in network.encoder.parameters():
            p.add_(1.0)
    network.follow()
    assert_allclose(weights(network.target_encoder) - before, 1 - brainmass.EMA, atol=1e-5)


# The encoder without pretraining


def model_of_six(seed: int = 4) -> JEPA:
    config = ModelConfig(
        n_rois=6, n_frames=32, patch_size=8, n_gradients=3, embed_dim=16, depth=3, num_heads=2,
        predictor_embed_dim=8, predictor_depth=1, predictor_num_heads=2, patch_init_std=0.5,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return JEPA(config, np.random.default_rng(1).normal(size=(6, 3)), generator=generator)


def test_the_random_encoder_has_the_model_s_architecture_and_fresh_weights(few: Recordings) -> None:
    model, test = model_of_six(), np.arange(9) > 6
    fold = fold_of(few, np.arange(9.0), test=test, seed=11)
    fresh, again, small = (fresh_jepa(fold, fold.inputs, like=like) for like in (model, model, None))
    assert fresh.config == model.config and torch.equal(fresh.gradients, model.gradients)
    assert_array_equal(weights(fresh), weights(again))
    assert not np.allclose(weights(fresh), weights(model))
    assert not np.allclose(weights(fresh), weights(fresh_jepa(replace(fold, seed=12), few, like=model)))
    assert small.config.embed_dim == 64 and small.config.n_frames == 64 and small.config.depth == 2
    found = fit_random_encoder(fold, like=model)
    assert found.settings["n_frames"] == 32 and found.values.shape == (2,)


@pytest.mark.parametrize("method", [None, "robust", "robust-dynamic"])
def test_the_random_encoder_is_read_out_as_probe_does(few: Recordings, method: str | None) -> None:
    """The model's scaling is the one for both: of another data set, per scan, or, not known, the shards'."""
    like = model_of_six()
    if method is not None:
        rows = [f"{r + 1}\tname{r}\t{90 + r}\t{3 + r}" for r in range(6)]
        table = "\n".join(["\t".join(SCALING_COLUMNS), *rows, ""])
        like.about = About(origin={"scaling": method}, scaling_table=table)
    fold = fold_of(few, np.arange(9.0) % 4, test=np.arange(9) > 6, seed=2)
    jepa = fresh_jepa(fold, fold.inputs, like=like)

    def embedded(part: Recordings) -> NDArray[np.float32]:
        valid = part.reader.valid[part.reader.series_scan[part.numbers]]
        if like.about is None:
            series = [part.reader[int(number)] for number in part.numbers]
        else:
            series = [like.about.scale(part.read(int(number))) for number in part.numbers]
        rows = Embedder(jepa).fit([]).transform(series, valid=valid)
        return np.stack([rows[part.participant == p].mean(axis=0) for p in range(len(part))])

    expected = fit_linear(replace(fold, inputs=embedded(fold.inputs), test_inputs=embedded(fold.test_inputs)))
    assert_allclose(fit_random_encoder(fold, like=like).values, expected.values, rtol=1e-4)
    told = fit_scratch(replace(fold, max_epochs=1), like=like).settings["scaling"]
    assert told == ("training participants of the fold" if method is None else "model")


def test_shards_that_do_not_suit_the_model_are_refused(write_cohort: Cohort) -> None:
    data = load_scan_data(write_cohort([[np.zeros((20, 6), np.float32)]] * 3))
    for make in (random_encoder, scratch):
        with pytest.raises(InputError, match="shorter than the model's window of 32 frames"):
            make(model_of_six()).inputs(data, ["00", "01"])


def test_scratch_trains_all_of_the_encoder(few: Recordings) -> None:
    model = model_of_six()
    fold = fold_of(few, np.arange(9.0), test=np.arange(9) > 6, max_epochs=2)
    found = fit_scratch(fold, like=model)
    trained = sum(p.numel() for p in model.context_encoder.parameters() if p.requires_grad)
    assert found.settings["n_trained_weights"] == trained + 2 * 16 + 16 + 1  # norm and head
    assert found.settings["layer_decay"] == 1 and found.settings["n_frames"] == 32
    assert found.settings["scaling"] == "training participants of the fold"


# Learning, on the simulated cohort


def simulated(folder: Path, n: int, every: int) -> tuple[Recordings, NDArray[np.float64], NDArray[np.int64]]:
    """Series of n participants in the order of participants.tsv, age, and 1 for M."""
    write_series_cohort(folder, n_participants=n, every=every)
    rows = [line.split("\t") for line in (folder / "participants.tsv").read_text().splitlines()[1:]]
    ids = [row[0].removeprefix("sub-") for row in rows]
    age, male = np.array([float(row[1]) for row in rows]), np.array([int(row[2] == "M") for row in rows])
    return recordings_of(load_scan_data(folder), ids), age, male


def out_of_fold(
    fit: Callable[[Fold], Any], recordings: Recordings, target: NDArray[Any], *, n_folds: int, of: int
) -> float:
    """r or AUC over the test parts of the first `n_folds` of `of` folds."""
    from sklearn.metrics import roc_auc_score

    part = np.random.default_rng(3).permutation(len(target)) % of
    found, true = [], []
    for number in range(n_folds):
        values = fit(fold_of(recordings, target, test=part == number)).values
        found.append(values if values.ndim == 1 else values[:, 1])
        true.append(target[part == number])
    predicted, expected = np.concatenate(found), np.concatenate(true)
    if target.dtype.kind == "i":
        return float(roc_auc_score(expected, predicted))
    return float(np.corrcoef(predicted, expected)[0, 1])


def test_brainmass_finds_age_and_nothing_in_a_shuffled_target(tmp_path: Path) -> None:
    recordings, age, _ = simulated(tmp_path, 80, 15)
    settings = PretrainSettings(epochs=6, batch_size=16, lr=1e-3)

    def fit(fold: Fold) -> Any:
        return brainmass.fit_brainmass(fold, settings=settings)

    assert out_of_fold(fit, recordings, age, n_folds=2, of=2) > 0.45
    shuffled = np.random.default_rng(0).permutation(age)
    assert abs(out_of_fold(fit, recordings, shuffled, n_folds=2, of=2)) < 0.3


SECOND_ORDER = ("brainmass", "brainlm-network_pairs", "random-encoder-network_pairs")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SECOND_ORDER, "brainlm", "random-encoder", "scratch"])
def test_who_finds_age_and_sex(tmp_path: Path, name: str) -> None:
    recordings, age, male = simulated(tmp_path, 120, 10)
    fit = METHODS[name].fit_predict
    if name in SECOND_ORDER:
        assert out_of_fold(fit, recordings, age, n_folds=4, of=4) > 0.45
        assert out_of_fold(fit, recordings, male, n_folds=4, of=4) > 0.65
    else:  # what a mean of tokens holds knows nothing of connectivity
        assert out_of_fold(fit, recordings, age, n_folds=4, of=4) < 0.35
    shuffled = np.random.default_rng(1).permutation(age)
    assert abs(out_of_fold(fit, recordings, shuffled, n_folds=2, of=4)) < 0.35  # 60 participants
