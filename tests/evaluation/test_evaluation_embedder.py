"""Embedder and the embedding file: against a plain loop, scikit-learn's conventions, refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.base import clone

from bjepa.model import JEPA, ModelConfig
from bjepa.model.evaluation.embedder import Embedder
from bjepa.model.evaluation.embedding_file import embed_scans, model_sha256, write_embeddings
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

N_ROIS, N_FRAMES, EMBED_DIM = 6, 12, 8


def make_jepa(seed: int = 0, n_rois: int = N_ROIS) -> JEPA:
    config = ModelConfig(
        n_rois=n_rois,
        n_frames=N_FRAMES,
        patch_size=4,
        n_gradients=3,
        embed_dim=EMBED_DIM,
        depth=2,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
    )
    torch.manual_seed(seed)
    return JEPA(config, np.random.default_rng(1).normal(size=(n_rois, 3)))


@pytest.fixture(scope="module")
def jepa() -> JEPA:
    return make_jepa()


@pytest.fixture
def scans() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(2)
    made = [rng.normal(size=(n, N_ROIS)).astype(np.float32) for n in (12, 31, 23, 48)]  # 1, 2, 1, 4 windows
    for one in made:
        one.flags.writeable = False
    return made


def by_hand(jepa: JEPA, scan: NDArray[np.float32]) -> NDArray[np.float32]:
    windows = [scan[s : s + N_FRAMES] for s in range(0, len(scan), N_FRAMES) if s + N_FRAMES <= len(scan)]
    with torch.no_grad():
        pooled = [
            jepa.eval().target_encoder(torch.tensor(w.T[None])).mean(dim=(0, 1)).numpy() for w in windows
        ]
    mean: NDArray[np.float32] = np.mean(pooled, axis=0)
    return mean


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_equals_a_plain_loop_in_any_batches(
    jepa: JEPA, scans: list[NDArray[np.float32]], batch_size: int
) -> None:
    found = Embedder(jepa, batch_size=batch_size).fit_transform(scans)
    assert found.shape == (4, EMBED_DIM) and found.dtype == np.float32
    assert_allclose(found, [by_hand(jepa, s) for s in scans], atol=1e-6)
    assert np.ptp(found, axis=0).min() > 1e-4  # the scans differ, or this test proves nothing


def test_law_left_over_frames_do_not_matter_and_all_windows_do(
    jepa: JEPA, scans: list[NDArray[np.float32]]
) -> None:
    embedder = Embedder(jepa).fit(scans)
    whole = embedder.transform([scans[1]])
    assert_array_equal(embedder.transform([scans[1][:24]]), whole)  # 31 = 2 * 12 + 7
    assert not np.allclose(embedder.transform([scans[1][:12]]), whole, atol=1e-5)


def test_follows_scikit_learn(jepa: JEPA, scans: list[NDArray[np.float32]]) -> None:
    embedder = Embedder(jepa, batch_size=3, device="cpu")
    assert embedder.get_params(deep=False) == {
        "model": jepa,
        "pooling": "mean",
        "networks": None,
        "batch_size": 3,
        "device": "cpu",
    }
    assert vars(embedder) == embedder.get_params(deep=False)  # the constructor stores and does nothing else
    copy = clone(embedder)
    assert copy.model is not jepa
    assert_array_equal(copy.fit_transform(scans), embedder.fit_transform(scans))
    assert list(embedder.get_feature_names_out())[:2] == ["embedder0", "embedder1"]
    assert embedder.transform([]).shape == (0, EMBED_DIM)
    with pytest.raises(ValueError, match="not fitted"):
        Embedder(jepa).transform(scans)
    with pytest.raises(ValueError, match="batch_size"):
        Embedder(jepa, batch_size=0).fit(scans)


def test_leaves_the_mode_of_the_model(jepa: JEPA, scans: list[NDArray[np.float32]]) -> None:
    jepa.target_encoder.train()
    during: list[bool] = []
    hook = jepa.target_encoder.register_forward_pre_hook(lambda module, _: during.append(module.training))
    Embedder(jepa).fit_transform(scans)
    hook.remove()
    assert during == [False]  # a model with dropout would embed by chance
    assert jepa.target_encoder.training
    with pytest.raises(InputError):
        Embedder(jepa).fit_transform([scans[0][:5]])
    assert jepa.target_encoder.training
    jepa.eval()


@pytest.mark.parametrize(
    "bad, says",
    [
        (np.zeros((11, N_ROIS), np.float32), "Series 1 has 11 frames.* windows of 12"),
        (np.zeros((12, 7), np.float32), r"Series 1 has shape \(12, 7\); \(frames, 6 regions\)"),
        (np.full((12, N_ROIS), np.nan, np.float32), "Series 1 has 72 non-finite"),
        (np.zeros(12, np.float32), "Series 1 has shape"),
    ],
)
def test_refuses(jepa: JEPA, scans: list[NDArray[np.float32]], bad: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Embedder(jepa).fit_transform([scans[0], bad])


def test_embedding_file_has_a_row_per_scan(
    jepa: JEPA, scans: list[NDArray[np.float32]], write_cohort: Any, tmp_path: Path
) -> None:
    folder = write_cohort([[scans[0], scans[2]], [scans[1]], [scans[3]]], participants=["b", "b", "a"])
    embeddings = embed_scans(jepa, ShardReader(folder), batch_size=2)
    write_embeddings(tmp_path / "e.h5", embeddings)
    with h5py.File(tmp_path / "e.h5") as file:
        assert file["embedding"].dtype == np.float32 and file["embedding"].shape == (3, EMBED_DIM)
        phases = np.mean([by_hand(jepa, scans[0]), by_hand(jepa, scans[2])], axis=0)
        assert_allclose(file["embedding"][0], phases, atol=1e-6)
        assert_allclose(file["embedding"][2], by_hand(jepa, scans[3]), atol=1e-6)
        assert file["participant_id"].asstr()[:].tolist() == ["b", "b", "a"]
        assert file["scan_id"].asstr()[0] == "sub-b_run-0"
        assert file.attrs["atlas_sha256"] == "a" * 64
        assert file.attrs["model_sha256"] == model_sha256(jepa)


def test_law_a_missing_region_has_no_influence(
    jepa: JEPA, scans: list[NDArray[np.float32]], write_cohort: Any
) -> None:
    valid = np.ones((2, N_ROIS), bool)
    valid[1, 4] = False
    spoilt = scans[3].copy()
    spoilt[:, 4] = 0
    found = embed_scans(jepa, ShardReader(write_cohort([[scans[1]], [spoilt]], valid=valid))).embedding
    assert_allclose(found[0], by_hand(jepa, scans[1]), atol=1e-6)
    kept = torch.tensor([[t for t in range(3 * N_ROIS) if t // 3 != 4]])
    noisy = spoilt.copy()
    noisy[:, 4] = 50
    windows = [torch.tensor(noisy[s : s + N_FRAMES].T[None]) for s in range(0, 48, N_FRAMES)]
    with torch.no_grad():
        alone = [jepa.target_encoder(w, kept).mean(dim=(0, 1)).numpy() for w in windows]
    assert_allclose(found[1], np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(found[1] - by_hand(jepa, spoilt)).max() > 1e-4


def test_a_model_that_counts_seconds_needs_them(
    jepa: JEPA, scans: list[NDArray[np.float32]], write_cohort: Any
) -> None:
    config = dataclasses.replace(jepa.config, time_position="seconds")
    counting = JEPA(config, jepa.gradients)
    counting.load_state_dict(jepa.state_dict())
    embedder = Embedder(counting).fit(scans)
    with pytest.raises(InputError, match="t_r was not given"):
        embedder.transform(scans)
    assert_allclose(embedder.transform(scans, t_r=[2.0] * 4), Embedder(jepa).fit_transform(scans), atol=1e-6)
    reader = ShardReader(write_cohort([[scans[1]], [scans[3]]]))  # at 1.6 s
    expected = embedder.transform([scans[1], scans[3]], t_r=[1.6, 1.6])
    assert_allclose(embed_scans(counting, reader).embedding, expected, atol=1e-6)
    assert np.abs(expected[0] - by_hand(jepa, scans[1])).max() > 1e-4


def test_refuses_a_model_of_another_atlas(scans: list[NDArray[np.float32]], write_cohort: Any) -> None:
    reader = ShardReader(write_cohort([[scans[0]], [scans[1]]]))
    stranger = make_jepa()
    stranger.atlas_sha256 = "b" * 64
    with pytest.raises(InputError, match=r"atlas bbbbbbbbbbbb.*six \(aaaaaaaaaaaa"):
        embed_scans(stranger, reader)
    with pytest.raises(InputError, match=r"reads 7 regions.* hold 6"):
        embed_scans(make_jepa(n_rois=7), reader)


def test_names_the_short_scans(jepa: JEPA, scans: list[NDArray[np.float32]], write_cohort: Any) -> None:
    reader = ShardReader(write_cohort([[scans[0]], [scans[1][:9]]]))
    with pytest.raises(InputError, match=r"1 of 2 series.*window of 12 frames: sub-01_run-1 \(9 frames\)"):
        embed_scans(jepa, reader)


def test_law_the_hash_is_of_the_weights() -> None:
    assert model_sha256(make_jepa(0)) == model_sha256(make_jepa(0))
    changed = make_jepa(0)
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-6
    assert model_sha256(changed) != model_sha256(make_jepa(0))
