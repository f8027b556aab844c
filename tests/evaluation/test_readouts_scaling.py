"""What a model reads of shards: scaled as its training data were; pooled in six ways, NaN where unknown."""

import logging
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.model import JEPA, ModelConfig
from bjepa.model.about import About
from bjepa.model.evaluation.embedder import Embedder
from bjepa.model.evaluation.embedding_file import embed_scans
from bjepa.model.readouts.model_scaling import as_the_model
from bjepa.model.readouts.pooling import BY_NETWORK, Pooling, network_numbers, pool
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

N_ROIS, N_FRAMES = 6, 12
NETWORKS = ["b", "a", "b", "c", "a", "a"]


def table(median: NDArray[Any], iqr: NDArray[Any]) -> str:
    rows = [f"{i + 1}\tr{i}\t{m:.17g}\t{q:.17g}" for i, (m, q) in enumerate(zip(median, iqr, strict=True))]
    return "\n".join(["index\tname\tmedian\tiqr", *rows]) + "\n"


def make_jepa(method: str | None = None, median: Any = None, iqr: Any = None) -> JEPA:
    config = ModelConfig(
        n_rois=N_ROIS,
        n_frames=N_FRAMES,
        patch_size=4,
        n_gradients=3,
        embed_dim=8,
        depth=2,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
    )
    gradients = np.random.default_rng(1).normal(size=(N_ROIS, 3))
    jepa = JEPA(config, gradients, generator=torch.Generator().manual_seed(0)).eval()
    if method is not None:
        jepa.about = About(origin={"scaling": method}, scaling_table=table(median, iqr))
    return jepa


@pytest.fixture
def scans() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(n, N_ROIS)).astype(np.float32) for n in (12, 31, 23)]


def test_the_same_scaling_is_left_alone(
    scans: Any, write_cohort: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reader = ShardReader(write_cohort([[s] for s in scans]))
    read = as_the_model(make_jepa("robust", reader.median, reader.iqr), reader)
    for number, scan in enumerate(scans):
        assert_array_equal(read(number), scan)
    assert not caplog.records


def test_another_scaling_is_replaced_by_the_models(
    scans: Any, write_cohort: Any, caplog: pytest.LogCaptureFixture
) -> None:
    valid = np.ones((3, N_ROIS), bool)
    valid[1, 4] = False
    scans[1][:, 4] = 0
    reader = ShardReader(write_cohort([[s] for s in scans], valid=valid))
    median, iqr = np.arange(6) * 3.0 + 90, np.arange(6) + 0.5
    jepa = make_jepa("robust", median, iqr)
    with caplog.at_level(logging.WARNING):
        read = as_the_model(jepa, reader)
    assert "not scaled as the model's" in caplog.text and "with other medians" in caplog.text
    for number, scan in enumerate(scans):
        original = scan * (np.arange(6) + 2.0) + np.arange(6) * 10 + 100  # the fixture's median and IQR
        expected = np.where(valid[number], (original - median) / iqr, 0)
        assert_allclose(read(number), expected, rtol=1e-4, atol=1e-5)
    found = embed_scans(jepa, reader).embedding
    by_hand = Embedder(jepa).fit_transform([read(0)])[0]
    assert_allclose(found[0], by_hand, atol=1e-6)
    assert np.abs(found[0] - embed_scans(make_jepa(), reader).embedding[0]).max() > 1e-3


def test_of_each_scan_for_a_model_of_each_scan(scans: Any, write_cohort: Any) -> None:
    reader = ShardReader(write_cohort([[s] for s in scans]))
    read = as_the_model(make_jepa("zscore-scan", np.zeros(6), np.ones(6)), reader)
    assert_allclose(read(1).mean(axis=0), 0, atol=1e-5)
    assert_allclose(read(1).std(axis=0), 1, atol=1e-5)


def test_a_model_that_does_not_say_its_scaling_warns(
    scans: Any, write_cohort: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reader = ShardReader(write_cohort([[s] for s in scans]))
    with caplog.at_level(logging.WARNING):
        read = as_the_model(make_jepa(), reader)
    assert "does not say how its training data were scaled" in caplog.text
    assert_array_equal(read(2), scans[2])


def test_what_cannot_be_undone_is_refused(scans: Any, write_cohort: Any) -> None:
    reader = ShardReader(write_cohort([[s] for s in scans], scaling="zscore-scan"))  # without offsets
    with pytest.raises(InputError, match=r"scaled by zscore-scan and do not keep.*scaled by robust"):
        as_the_model(make_jepa("robust", np.zeros(6), np.ones(6)), reader)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_embedder_pools_windows_and_averages_them(scans: Any, pooling: Pooling) -> None:
    jepa = make_jepa()
    networks = NETWORKS if pooling in BY_NETWORK else None
    embedder = Embedder(jepa, pooling=pooling, networks=networks, batch_size=2)
    found = embedder.fit_transform(scans)
    assert found.shape == (3, embedder.n_features_out_) and found.dtype == np.float32
    group = torch.from_numpy(network_numbers(NETWORKS))
    for scan, row in zip(scans, found, strict=True):
        windows = [scan[s : s + N_FRAMES].T.copy() for s in range(0, len(scan) - N_FRAMES + 1, N_FRAMES)]
        with torch.no_grad():
            tokens = jepa.target_encoder(torch.from_numpy(np.stack(windows)))
            tokens = tokens.view(len(windows), N_ROIS, 3, -1)
            expected = pool(tokens, pooling, network_R=group).mean(dim=0)
        assert_allclose(row, expected, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3
    assert len(embedder.get_feature_names_out()) == found.shape[1]


def test_what_a_missing_region_leaves_unknown_is_nan(scans: Any, write_cohort: Any) -> None:
    valid = np.ones((3, N_ROIS), bool)
    valid[1, 3] = False
    scans[1][:, 3] = 0
    reader = ShardReader(write_cohort([[s] for s in scans], valid=valid))
    pairs = embed_scans(make_jepa(), reader, pooling="region_pairs")
    first, second = np.triu_indices(N_ROIS, 1)
    assert_array_equal(np.isnan(pairs.embedding[1]), (first == 3) | (second == 3))
    assert np.isfinite(pairs.embedding[[0, 2]]).all() and pairs.pooling == "region_pairs"


def test_networks_come_from_the_models_atlas_or_are_asked_for(scans: Any) -> None:
    jepa = make_jepa()
    with pytest.raises(InputError, match="the network of each region, which the model does not name"):
        Embedder(jepa, pooling="network").fit_transform(scans)
    rows = [f"{i + 1}\tr{i}\t{name}" for i, name in enumerate(NETWORKS)]
    jepa.about = About(atlas_table="\n".join(["index\tname\tnetwork17", *rows]) + "\n")
    found = Embedder(jepa, pooling="network").fit_transform(scans)
    assert_array_equal(found, Embedder(jepa, pooling="network", networks=NETWORKS).fit_transform(scans))
    assert found.shape == (3, 3 * 8)
    with pytest.raises(InputError, match="names 2 regions, the model has 6"):
        Embedder(jepa, pooling="network", networks=["a", "b"]).fit_transform(scans)


def test_the_file_says_the_pooling(scans: Any, write_cohort: Any, tmp_path: Path) -> None:
    import h5py

    from bjepa.model.evaluation.embedding_file import write_embeddings

    folder = write_cohort([[s] for s in scans])
    write_embeddings(tmp_path / "e.h5", embed_scans(make_jepa(), ShardReader(folder), pooling="network_log"))
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["pooling"] == "network_log" and file["embedding"].shape == (3, 21)
