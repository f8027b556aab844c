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
from bjepa.model.about import About, scaling_table
from bjepa.model.evaluation.embedder import Embedder
from bjepa.model.evaluation.embedding_file import embed_scans, model_sha256, write_embeddings
from bjepa.model.readouts.pooling import Pooling
from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import Scaling, ScalingMethod, scan_part
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

N_ROIS, N_FRAMES, N_PATCHES, EMBED_DIM = 6, 12, 3, 8
NETWORKS = ["b", "a", "b", "c", "a", "a"]  # of the regions; c is region 3 alone


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


def pooled_by_hand(
    jepa: JEPA, scan: NDArray[np.float32], pooling: Pooling, present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(F,), from the tokens of the regions that are there; NaN where nothing is known."""
    kept = np.flatnonzero(present)
    index = torch.tensor([[N_PATCHES * r + t for r in kept for t in range(N_PATCHES)]])
    found = []
    for start in range(0, len(scan) - N_FRAMES + 1, N_FRAMES):
        with torch.no_grad():
            window = torch.tensor(scan[start : start + N_FRAMES].T[None])
            tokens = jepa.eval().target_encoder(window, index).numpy().astype(np.float64)
        x = np.full((N_ROIS, N_PATCHES, EMBED_DIM), np.nan)
        x[kept] = tokens.reshape(len(kept), N_PATCHES, EMBED_DIM)
        if pooling == "mean":
            found.append(tokens.mean(axis=(0, 1)))
        elif pooling == "region":
            found.append(x.mean(axis=1).ravel())
        elif pooling == "network":
            members = [[r for r in kept if NETWORKS[r] == name] for name in "abc"]
            nothing = np.full(EMBED_DIM, np.nan)
            found.append(np.concatenate([x[m].mean(axis=(0, 1)) if m else nothing for m in members]))
        else:
            assert pooling == "region_pairs"
            r = np.corrcoef((x - x.mean(axis=1, keepdims=True)).reshape(N_ROIS, -1))
            found.append(np.arctanh(r[np.triu_indices(N_ROIS, 1)]))
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    "pooling, unknown",  # features that regions 3 (all of network c) and 5 (one of three of a) leave unknown
    [
        ("mean", []),
        ("network", range(16, 24)),
        ("region", [*range(24, 32), *range(40, 48)]),
        ("region_pairs", [2, 4, 6, 8, 9, 11, 12, 13, 14]),
    ],
)
def test_scans_are_pooled_by_the_networks_of_the_shards(
    jepa: JEPA,
    scans: list[NDArray[np.float32]],
    write_cohort: Any,
    pooling: Pooling,
    unknown: list[int],
    batch_size: int,
) -> None:
    """A batch holds windows of scans with and without the regions."""
    valid = np.ones((3, N_ROIS), bool)
    valid[1, [3, 5]] = False
    scans[1] = np.where(valid[1], scans[1], np.float32(0))
    reader = ShardReader(write_cohort([[scans[0], scans[2]], [scans[1]], [scans[3]]], valid=valid))
    reader.rois["network17"] = NETWORKS
    found = embed_scans(jepa, reader, pooling=pooling, batch_size=batch_size)
    assert found.pooling == pooling
    phases = [pooled_by_hand(jepa, scans[i], pooling, valid[0]) for i in (0, 2)]
    assert_allclose(found.embedding[0], np.mean(phases, axis=0), atol=1e-5)
    assert_allclose(found.embedding[1], pooled_by_hand(jepa, scans[1], pooling, valid[1]), atol=1e-5)
    assert_allclose(found.embedding[2], pooled_by_hand(jepa, scans[3], pooling, valid[2]), atol=1e-5)
    assert np.flatnonzero(np.isnan(found.embedding).any(axis=0)).tolist() == list(unknown)
    assert np.nanmin(np.ptp(found.embedding[[0, 2]], axis=0)) > 1e-4


@pytest.mark.parametrize(
    "pooling, n",
    [
        ("mean", 8),
        ("network", 3 * 8),
        ("region", 6 * 8),
        ("region_pairs", 15),
        ("network_pairs", 3),
        ("network_log", 6),
    ],
)
def test_fit_tells_how_many_features_come(
    jepa: JEPA, scans: list[NDArray[np.float32]], pooling: Pooling, n: int
) -> None:
    embedder = Embedder(jepa, pooling=pooling, networks=NETWORKS).fit([])
    assert embedder.n_features_out_ == n
    assert embedder.transform(scans).shape == (4, n) and embedder.transform([]).shape == (0, n)
    assert len(embedder.get_feature_names_out()) == n


def test_the_shards_name_the_networks_not_the_models_atlas(
    scans: list[NDArray[np.float32]], write_cohort: Any
) -> None:
    jepa = make_jepa()
    halves = [f"{i}\tr{i}\t{'left' if i < 3 else 'right'}" for i in range(N_ROIS)]
    jepa.about = About(atlas_table="\n".join(["index\tname\tnetwork17", *halves]) + "\n")
    assert Embedder(jepa, pooling="network").fit([]).n_features_out_ == 2 * EMBED_DIM
    reader = ShardReader(write_cohort([[scans[1]]]))
    reader.rois["network17"] = NETWORKS
    found = embed_scans(jepa, reader, pooling="network").embedding
    assert_allclose(found[0], pooled_by_hand(jepa, scans[1], "network", reader.valid[0]), atol=1e-5)


@pytest.mark.parametrize("pooling", ["network", "network_pairs", "network_log"])
def test_refuses_networks_that_nobody_names(
    scans: list[NDArray[np.float32]], write_cohort: Any, pooling: Pooling
) -> None:
    jepa = make_jepa()
    jepa.about = About(atlas_table="index\tname\n" + "".join(f"{i}\tr{i}\n" for i in range(N_ROIS)))
    with pytest.raises(InputError, match=f"'{pooling}' needs the network.*the model does not name"):
        Embedder(jepa, pooling=pooling).fit(scans)
    reader = ShardReader(write_cohort([[scans[0]]]))
    reader.rois["network17"] = ["Cortex"] * N_ROIS
    with pytest.raises(InputError, match=f"'{pooling}' needs the network.*is the same for all"):
        embed_scans(jepa, reader, pooling=pooling)
    unknown: Any = "median"
    with pytest.raises(InputError, match=r"pooling must be one of mean, network, .*got 'median'"):
        Embedder(jepa, pooling=unknown).fit(scans)


@pytest.mark.parametrize("pooling", ["mean", "region"])
def test_the_file_keeps_pooling_and_what_is_unknown(
    jepa: JEPA, scans: list[NDArray[np.float32]], write_cohort: Any, tmp_path: Path, pooling: Pooling
) -> None:
    valid = np.ones((2, N_ROIS), bool)
    valid[0, 2] = False
    scans[1] = np.where(valid[0], scans[1], np.float32(0))
    embeddings = embed_scans(
        jepa, ShardReader(write_cohort([[scans[1]], [scans[3]]], valid=valid)), pooling=pooling
    )
    write_embeddings(tmp_path / "e.h5", embeddings)
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["pooling"] == pooling
        assert_array_equal(file["embedding"][:], embeddings.embedding)  # NaN is NaN
        assert np.isnan(file["embedding"][:]).sum() == (EMBED_DIM if pooling == "region" else 0)


def write_scaled(
    folder: Path, raw: list[NDArray[np.float32]], valid: NDArray[np.bool_], scaling: Scaling
) -> Path:
    """Shards of scans (T, R) that are given in their own units, NaN in missing regions."""
    scans = []
    for i, one in enumerate(raw):
        part = scan_part(scaling.method, one, [str(r) for r in range(N_ROIS)], str(i))
        names = {"scan_id": f"sub-{i}", "participant_id": str(i), "session": "", "task": "rest", "run": ""}
        stored = np.where(valid[i], scaling.apply(one, part), np.float32(0))
        scans.append(
            ShardScan(entities=names, t_r=0.8, t_r_out=1.6, valid=valid[i], phases=[stored], part=part)
        )
    write_shard(
        folder / "shards" / "shard-00000.h5",
        scans,
        atlas="six",
        atlas_sha256="a" * 64,
        rois={column: [f"{column}{r}" for r in range(N_ROIS)] for column in ROI_COLUMNS},
        median=scaling.median,
        iqr=scaling.iqr,
        scaling=scaling.method,
        target_t_r=2.0,
    )
    return folder


@pytest.mark.parametrize("stored", ["robust", "robust-dynamic", "robust-means", "zscore-scan", "none"])
@pytest.mark.parametrize("trained", ["robust", "zscore-scan"])
def test_law_the_scaling_of_the_shards_does_not_matter(
    scans: list[NDArray[np.float32]], tmp_path: Path, stored: ScalingMethod, trained: ScalingMethod
) -> None:
    """The model was trained on scans scaled by `trained`; here they are `stored` in shards."""
    region = np.arange(N_ROIS)
    raw = [((region + 2) * one + 10 * region + 50).astype(np.float32) for one in (scans[1], scans[3])]
    valid = np.ones((2, N_ROIS), bool)
    valid[1, 4] = False
    raw[1] = np.where(valid[1], raw[1], np.float32(np.nan))
    fits_nothing = {"zscore-scan", "none"}
    median, iqr = (10.0 * region + 45, region + 1.5) if trained == "robust" else (0 * region, 0 * region + 1)
    of_model = Scaling(trained, median.astype(np.float64), iqr.astype(np.float64))
    jepa = make_jepa()
    training = ShardReader(write_scaled(tmp_path / "training", raw, valid, of_model))
    jepa.about = About(origin={"scaling": trained}, scaling_table=scaling_table(training))

    median, iqr = (0 * region, 0 * region + 1) if stored in fits_nothing else (3.0 * region, region + 4.0)
    of_shards = Scaling(stored, median.astype(np.float64), iqr.astype(np.float64))
    reader = ShardReader(write_scaled(tmp_path / "shards", raw, valid, of_shards))

    def by_hand(scan: NDArray[np.float32]) -> NDArray[np.float32]:
        centre, spread = of_model.median, of_model.iqr
        if trained == "zscore-scan":
            centre, spread = scan.mean(axis=0), scan.std(axis=0)
        return np.nan_to_num((scan - centre) / spread).astype(np.float32)

    found = embed_scans(jepa, reader, pooling="region").embedding
    expected = [pooled_by_hand(jepa, by_hand(s), "region", v) for s, v in zip(raw, valid, strict=True)]
    assert_allclose(found, expected, atol=1e-4)
    if stored != trained or trained == "robust":  # or nothing had to be done
        jepa.about = None
        assert np.nanmax(np.abs(embed_scans(jepa, reader, pooling="region").embedding - found)) > 0.05
