"""BrainNetCNN, BNT and BrainGNN: sizes, formulas written out by hand, laws, and that they learn."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.spatial.distance import squareform
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor, nn

from bjepa.model.baselines import bnt, braingnn, fc_network
from bjepa.model.baselines.bnt import BrainNetworkTransformer, ClusteringReadout, orthonormal_rows
from bjepa.model.baselines.braingnn import (
    BrainGNN,
    RegionConv,
    RegionPool,
    consistency_loss,
    strongest_edges,
    top_k_loss,
)
from bjepa.model.baselines.brainnetcnn import BrainNetCNN, EdgeToEdge, EdgeToNode
from bjepa.model.baselines.fc_network import EdgeScaling, edge_matrices, fc_samples, n_parameters, n_rois_of
from bjepa.model.baselines.linear import fit_ridge
from bjepa.model.baselines.methods import METHODS
from bjepa.model.evaluation.fold import Fold
from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.readouts.fit_network import fit_network
from bjepa.preproc.demo.simulate import draw_participant, make_population, simulate_series
from bjepa.preproc.errors import InputError

NAMES = ("brainnetcnn", "bnt", "braingnn")
BUILD: dict[str, Callable[[int, int], nn.Module]] = {
    "brainnetcnn": BrainNetCNN,
    "bnt": BrainNetworkTransformer,
    "braingnn": BrainGNN,
}
N_ROIS = 7
Arrays = NDArray[np.float32]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def matrices(n: int = 3, n_rois: int = N_ROIS, seed: int = 0) -> Tensor:
    """Symmetric matrices with both signs, 1 on the diagonal."""
    edges = np.random.default_rng(seed).normal(size=(n, n_rois * (n_rois - 1) // 2)).astype(np.float32)
    return torch.from_numpy(edge_matrices(edges, diagonal=1.0))


def run(network: nn.Module, fc: Tensor) -> Tensor:
    """The network's outputs; BrainGNN's graph is the positive part of `fc`."""
    inputs = (fc, fc.clamp(min=0)) if isinstance(network, BrainGNN) else (fc,)
    out: Tensor = network(*inputs)
    return out


# Sizes


def size_of_brainnetcnn(r: int, o: int) -> int:
    e2e = (2 * 32 * r + 32) + (2 * 32 * 64 * r + 64)
    return e2e + (64 * r + 1) + (256 * r + 256) + (256 * 128 + 128) + (128 * 30 + 30) + (30 * o + o)


def size_of_bnt(r: int, o: int) -> int:
    h, k = 4 * ceil(r / 4), min(100, r // 2)
    layer = 3 * (r * h + h) + (h * r + r) + (r * 1024 + 1024) + (1024 * r + r) + 4 * r
    return 2 * layer + (8 * r + 8) + (8 * k * 256 + 256) + (256 * 32 + 32) + (32 * o + o)


def size_of_braingnn(r: int, o: int) -> int:
    convs = (8 * r + 9 * r * 32) + (8 * r + 9 * 32 * 32)
    head = (128 * 32 + 32) + 2 * 32 + (32 * 512 + 512) + 2 * 512 + (512 * o + o)
    return convs + 2 * 32 + head


SIZES = {"brainnetcnn": size_of_brainnetcnn, "bnt": size_of_bnt, "braingnn": size_of_braingnn}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_rois, n_outputs", [(30, 1), (450, 2)])
def test_size_by_a_formula(name: str, n_rois: int, n_outputs: int) -> None:
    assert n_parameters(BUILD[name](n_rois, n_outputs)) == SIZES[name](n_rois, n_outputs)


def test_sizes_of_the_documentation() -> None:
    assert [size_of_brainnetcnn(r, 1) for r in (400, 450)] == [1_829_150, 2_053_150]  # 2.05 M at 450
    assert [size_of_bnt(r, 1) for r in (400, 450)] == [3_144_169, 3_697_481]
    assert [size_of_braingnn(r, 1) for r in (400, 450)] == [153_505, 168_705]
    # the authors' code passes the tokens through R * R -> 32 -> 32 -> R * R too; ours does not
    mlp = 2 * 32 * 200**2 + 32 + (32 * 32 + 32) + 200**2
    assert size_of_bnt(200, 2) == 1_359_802 and size_of_bnt(200, 2) + mlp == 3_960_890


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_outputs(name: str, n_outputs: int) -> None:
    assert run(BUILD[name](N_ROIS, n_outputs).eval(), matrices(5)).shape == (5, n_outputs)


# BrainNetCNN


def test_edge_to_edge_written_out() -> None:
    b, c, o, r = 2, 3, 4, 5
    layer, x = EdgeToEdge(c, o, r), torch.randn(b, c, r, r)  # not symmetric: rows are not columns
    nn.init.normal_(layer.bias)
    expected = torch.zeros(b, o, r, r)
    for n, f, i, j in product(range(b), range(o), range(r), range(r)):
        expected[n, f, i, j] = layer.bias[f]
        for m, k in product(range(c), range(r)):
            expected[n, f, i, j] += layer.row[f, m, k] * x[n, m, i, k] + layer.column[f, m, k] * x[n, m, k, j]
    assert_allclose(layer(x).detach(), expected.detach(), atol=1e-5)


def test_edge_to_edge_is_two_convolutions() -> None:
    layer, x = EdgeToEdge(2, 3, N_ROIS), torch.randn(4, 2, N_ROIS, N_ROIS)
    rows = F.conv2d(x, layer.row[:, :, None, :])  # 1 x R: (B, O, R, 1)
    columns = F.conv2d(x, layer.column[:, :, :, None])  # R x 1: (B, O, 1, R)
    assert_allclose(layer(x).detach(), (rows + columns).detach(), atol=1e-5)


def test_edge_to_node_written_out() -> None:
    layer, x = EdgeToNode(3, 2, N_ROIS), torch.randn(4, 3, N_ROIS, N_ROIS)
    nn.init.normal_(layer.bias)
    with torch.no_grad():
        found = layer(x)
        for n, o, i in product(range(4), range(2), range(N_ROIS)):
            expected = (x[n, :, i] * layer.row[o]).sum() + layer.bias[o]
            assert_allclose(found[n, o, i], expected, atol=1e-5)


def test_law_brainnetcnn_knows_regions_by_their_weights_alone() -> None:
    """Regions in another order, weights too: the same. Regions alone: not."""
    network, order, fc = BrainNetCNN(N_ROIS, 2).eval(), torch.tensor([3, 0, 6, 1, 5, 2, 4]), matrices()
    before = network(fc)
    moved = fc[:, order][:, :, order]
    assert not torch.allclose(network(moved), before, atol=1e-4)
    with torch.no_grad():
        for layer in (network.e2e_1, network.e2e_2):
            layer.row.copy_(layer.row[:, :, order])
            layer.column.copy_(layer.column[:, :, order])
        network.e2n.row.copy_(network.e2n.row[:, :, order])
        network.n2g.weight.copy_(network.n2g.weight[:, order])
    assert_allclose(network(moved).detach(), before.detach(), atol=1e-5)


# Brain Network Transformer


def test_attention_layer_is_that_of_torch() -> None:
    dim = 12
    ours = bnt.AttentionLayer(dim, mlp_dim=20, dropout=0.0).eval()
    theirs = nn.TransformerEncoderLayer(dim, 4, 20, dropout=0.0, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.qkv.weight,
            "self_attn.in_proj_bias": ours.qkv.bias,
            "self_attn.out_proj.weight": ours.join.weight,
            "self_attn.out_proj.bias": ours.join.bias,
            "linear1.weight": ours.mlp[0].weight,
            "linear1.bias": ours.mlp[0].bias,
            "linear2.weight": ours.mlp[3].weight,
            "linear2.bias": ours.mlp[3].bias,
            **{f"norm1.{name}": values for name, values in ours.norm_1.named_parameters()},
            **{f"norm2.{name}": values for name, values in ours.norm_2.named_parameters()},
        }
    )
    x = torch.randn(3, 5, dim)
    assert_allclose(ours(x).detach(), theirs(x).detach(), atol=1e-5)


def test_orthonormal_rows_are_those_of_qr() -> None:
    given = torch.randn(4, 9)
    found = orthonormal_rows(given)
    assert_allclose(found @ found.T, np.eye(4), atol=1e-6)
    q, r = np.linalg.qr(given.numpy().T)
    assert_allclose(found, (q * np.sign(np.diag(r))).T, atol=1e-6)


def test_centres_stay_orthonormal_in_training() -> None:
    network = BrainNetworkTransformer(N_ROIS, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = network.readout.centres.clone()
    network(matrices()).square().sum().backward()
    optimizer.step()
    assert_array_equal(network.readout.centres, before)
    assert_allclose(before @ before.T, np.eye(3), atol=1e-6)  # 7 regions: 3 clusters
    assert "readout.centres" in network.state_dict()


def test_clustering_readout_shares_out_each_token() -> None:
    readout, x = ClusteringReadout(3, 5), torch.randn(2, 11, 5)
    shares = readout.assignment(x)
    scores = np.exp(np.einsum("bid,kd->bik", x, readout.centres))
    assert_allclose(shares, scores / scores.sum(axis=2, keepdims=True), atol=1e-6)
    assert_allclose(readout(x).sum(dim=1), x.sum(dim=1), atol=1e-5)  # nothing is lost
    with pytest.raises(ValueError, match="6 centres"):
        ClusteringReadout(6, 5)


def test_law_bnt_the_order_of_tokens_does_not_matter() -> None:
    network, order, fc = BrainNetworkTransformer(N_ROIS, 2).eval(), [3, 0, 6, 1, 5, 2, 4], matrices()
    assert_allclose(network(fc[:, order]).detach(), network(fc).detach(), atol=1e-5)
    assert not torch.allclose(network(fc[:, :, order]), network(fc), atol=1e-4)  # what they say does


# BrainGNN


def test_region_convolution_written_out() -> None:
    b, n, r, d, o, k = 2, 4, 6, 3, 2, 5
    layer = RegionConv(r, d, o, n_communities=k)
    nn.init.normal_(layer.membership)  # both signs, so that the relu counts
    x, graph = torch.randn(b, n, d), torch.rand(b, n, n) * (torch.rand(b, n, n) < 0.5)
    graph[0, 2] = 0  # a region without neighbours
    roi = torch.stack([torch.randperm(r)[:n] for _ in range(b)])
    for s, i in product(range(b), range(n)):

        def message(j: int, s: int = s) -> Tensor:
            weights = layer.membership[:, roi[s, j]].clamp(min=0)
            return x[s, j] @ (layer.shared + sum(weights[u] * layer.kernels[u] for u in range(k)))

        own, total = message(i), float(graph[s, i].sum())
        if total:
            own = own + sum(graph[s, i, j] / total * message(j) for j in range(n))
        assert_allclose(layer(x, graph, roi)[s, i].detach(), own.clamp(min=0).detach(), atol=1e-5)


@pytest.mark.parametrize(
    "ratio, n, kept", [(0.5, 7, 4), (0.5, 8, 4), (0.3, 11, 4), (0.01, 5, 1), (1.0, 5, 5)]
)
def test_pooling_keeps_the_ceiling(ratio: float, n: int, kept: int) -> None:
    pool, x = RegionPool(3, ratio=ratio), torch.randn(2, n, 3)
    graph, roi = torch.randn(2, n, n), torch.arange(100, 100 + n).expand(2, -1)
    pooled = pool(x, graph, roi)
    assert kept == ceil(ratio * n) and pooled.x.shape == (2, kept, 3)
    raw = (x @ pool.direction / pool.direction.norm()).detach().numpy()
    score = (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)
    assert_allclose(pooled.score.detach(), score, atol=1e-4)
    for s in range(2):
        largest = np.argsort(-score[s])[:kept]
        assert_array_equal(pooled.roi[s] - 100, largest)
        assert_allclose(pooled.graph[s], graph[s].numpy()[np.ix_(largest, largest)])
        gate = 1 / (1 + np.exp(-score[s, largest]))
        assert_allclose(pooled.x[s].detach(), x[s].numpy()[largest] * gate[:, None], atol=1e-4)


def test_regions_that_stay_halve_twice() -> None:
    network, seen = BrainGNN(N_ROIS, 1).eval(), []
    for pool in network.pools:
        pool.register_forward_hook(lambda _module, _inputs, pooled: seen.append(pooled.roi))
    run(network, matrices(3))
    assert [roi.shape for roi in seen] == [(3, 4), (3, 2)]  # 7, 4, 2
    assert all(
        set(second) <= set(first) for first, second in zip(seen[0].tolist(), seen[1].tolist(), strict=True)
    )


def test_top_k_loss_is_a_cross_entropy() -> None:
    score = torch.randn(3, 7)
    wanted = torch.zeros(3, 7).scatter(1, score.topk(4, dim=1).indices, 1.0)
    assert_allclose(top_k_loss(score, 4), F.binary_cross_entropy_with_logits(score, wanted), rtol=1e-6)


def test_consistency_loss_over_pairs_and_as_the_papers_trace() -> None:
    score, classes = torch.randn(6, 5), torch.tensor([2, 0, 2, 0, 0, 1])
    pairs = trace = 0.0
    for number in (0, 1, 2):
        own = score[classes == number].double().numpy()
        n = len(own)
        pairs += sum(((own[a] - own[b]) ** 2).mean() for a in range(n) for b in range(n)) / n**2
        laplacian = n * np.eye(n) - np.ones((n, n))  # degrees minus a graph of all pairs
        trace += 2 * np.trace(own.T @ laplacian @ own) / n**2 / own.shape[1]
    assert_allclose(consistency_loss(score, classes), pairs, rtol=1e-5)
    assert_allclose(pairs, trace)


def test_extra_loss_holds_all_three() -> None:
    network, fc = BrainGNN(N_ROIS, 2, dropout=0.0), matrices(4)
    graph, classes = fc.clamp(min=0), torch.tensor([0, 1, 0, 1])
    network(fc, graph)
    without = braingnn.extra_loss(network)
    network(fc, graph, classes)
    told = braingnn.extra_loss(network)
    assert told > without > 0
    roi = torch.arange(N_ROIS).expand(4, -1)
    first = network.pools[0](network.convs[0](fc, graph, roi), graph, roi)
    second = network.pools[1](network.convs[1](first.x, first.graph, first.roi), first.graph, first.roi)
    tpk = top_k_loss(first.score, 4) + top_k_loss(second.score, 2)
    assert_allclose(without.detach(), 0.1 * tpk.detach(), rtol=1e-4)  # directions have length 1 at first
    glc = consistency_loss(first.score, classes)
    assert_allclose((told - without).detach(), 0.1 * glc.detach(), rtol=1e-3)
    with torch.no_grad():
        next(network.pools[1].parameters()).mul_(3)
    network(fc, graph)
    assert_allclose(braingnn.extra_loss(network).detach() - without.detach(), (3 - 1) ** 2, rtol=1e-4)


def test_classes_are_not_read_in_prediction() -> None:
    network, fc = BrainGNN(N_ROIS, 2).eval(), matrices(4)
    graph = fc.clamp(min=0)
    assert_array_equal(network(fc, graph, torch.tensor([0, 1, 0, 1])).detach(), network(fc, graph).detach())
    assert network.extra_loss is None


def test_law_braingnn_knows_regions_by_their_weights_alone() -> None:
    network, order, fc = BrainGNN(N_ROIS, 2).eval(), torch.tensor([3, 0, 6, 1, 5, 2, 4]), matrices()
    before = run(network, fc)
    moved = fc[:, order][:, :, order]
    assert not torch.allclose(run(network, moved), before, atol=1e-4)
    with torch.no_grad():
        first, second = network.convs
        assert isinstance(first, RegionConv) and isinstance(second, RegionConv)
        first.membership.copy_(first.membership[:, order])
        second.membership.copy_(second.membership[:, order])
        first.kernels.copy_(first.kernels[:, order])
        first.shared.copy_(first.shared[order])
    assert_allclose(run(network, moved).detach(), before.detach(), atol=1e-5)


def test_graph_of_the_strongest_edges() -> None:
    edges = np.array([[0.3, -0.9, 0.1, 0.2, 0.5, np.nan], [-1, -2, -3, -4, -5, 0.1]], dtype=np.float32)
    expected = [[0.3, 0, 0, 0, 0.5, 0], [0, 0, 0, 0, 0, 0.1]]
    assert_allclose(strongest_edges(edges, share=0.4), expected)  # 2.4 of 6: 2; never below 0
    one_at_least = strongest_edges(edges[:, :-1], share=0.01)
    assert np.count_nonzero(one_at_least, axis=1).tolist() == [1, 0]


# What all of them read


def test_number_of_regions() -> None:
    for n_rois in (2, 3, 7, 64, 450, 5000):
        assert n_rois_of(n_rois * (n_rois - 1) // 2) == n_rois
    for n_edges in (0, 2, 20, 22, 101_024, 101_026):
        with pytest.raises(InputError, match="whole matrices"):
            n_rois_of(n_edges)


def test_matrices_are_those_of_scipy() -> None:
    edges = np.random.default_rng(1).normal(size=(3, 21)).astype(np.float32)
    found = edge_matrices(edges, diagonal=2.0)
    for matrix, own in zip(found, edges, strict=True):
        assert_array_equal(matrix, squareform(own) + 2 * np.eye(7, dtype=np.float32))


def test_scaling_of_edges() -> None:
    edges = np.array([[3, np.nan, 0], [1, np.nan, 4], [5, np.nan, np.nan]], dtype=np.float32)
    edges.flags.writeable = False
    scaling = EdgeScaling.of(edges)
    assert_allclose(scaling.mean, [3, 0, 2])
    assert scaling.scale == pytest.approx(np.sqrt((9 + 1 + 25 + 0 + 16) / 5))
    assert_allclose(scaling(edges)[2] * scaling.scale, [5, 0, 2], rtol=1e-6)
    assert EdgeScaling.of(np.zeros((2, 3), np.float32)).scale == 1


def test_targets_are_told_in_training_alone() -> None:
    edges = np.random.default_rng(2).normal(size=(4, 21)).astype(np.float32)

    def inputs(target: NDArray[Any], *, training: bool) -> tuple[Tensor, ...]:
        samples = fc_samples(
            edges,
            EdgeScaling.of(edges),
            target=target,
            more_inputs=braingnn.graph_and_class,
            tell_target=training,
        )
        return samples.read(np.array([3, 1]))

    classes = np.array([1, 0, 1, 1])
    told = inputs(classes, training=True)
    assert len(told) == 3 and told[2].tolist() == [1, 0]
    assert len(inputs(classes, training=False)) == 2
    assert len(inputs(classes + 0.5, training=True)) == 2  # a number has no class


# In a fold


def fold_of(edges: Arrays, target: NDArray[Any], n_test: int, **more: Any) -> Fold:
    """The last `n_test` participants are the test part; every fourth of the others validates."""
    inner = np.arange(len(edges) - n_test) % 4
    classes = ["F", "M"] if target.dtype.kind == "i" else []
    return Fold(
        task="classification" if classes else "regression",
        classes=classes,
        inputs=edges[:-n_test],
        target=target[:-n_test],
        inner_fold=inner,
        is_val=inner == 0,
        test_inputs=edges[-n_test:],
        **{"seed": 0, **more},
    )


@pytest.fixture(scope="module")
def small() -> Fold:
    rng = np.random.default_rng(3)
    edges = rng.normal(size=(27, 21)).astype(np.float32)
    edges[rng.random(edges.shape) < 0.1] = np.nan  # regions are missing here and there
    return fold_of(edges, rng.normal(40, 9, size=27), 5, max_epochs=2)


@pytest.mark.parametrize("name", NAMES)
def test_settings_say_what_was_fitted(name: str, small: Fold) -> None:
    prediction = METHODS[name].fit_predict(small)
    assert prediction.values.shape == (5,) and np.isfinite(prediction.values).all()
    assert prediction.settings["n_parameters"] == SIZES[name](N_ROIS, 1)
    assert prediction.settings["best_epoch"] <= prediction.settings["epochs_run"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_law_the_unit_of_the_connectomes_does_not_matter(name: str, small: Fold) -> None:
    one = METHODS[name].fit_predict(small)
    other = METHODS[name].fit_predict(
        replace(small, inputs=1024 * small.inputs, test_inputs=1024 * small.test_inputs)
    )
    assert_allclose(other.values, one.values, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_law_validation_participants_scale_nothing(name: str, small: Fold) -> None:
    """Without a chance to stop (one epoch), validation participants cannot be felt."""
    short = replace(small, max_epochs=1)
    spoilt = np.where(short.is_val[:, None], 50 * short.inputs + 3, short.inputs)
    one, other = (METHODS[name].fit_predict(f) for f in (short, replace(short, inputs=spoilt)))
    assert_array_equal(other.values, one.values)


@pytest.mark.parametrize("name", NAMES)
def test_law_all_randomness_is_the_seed(name: str, small: Fold) -> None:
    before = torch.random.get_rng_state()
    first = METHODS[name].fit_predict(small)
    torch.rand(7)
    second, other = (METHODS[name].fit_predict(replace(small, seed=seed)) for seed in (0, 1))
    assert first.values.tobytes() == second.values.tobytes()
    assert not np.array_equal(first.values, other.values)
    torch.random.set_rng_state(before)


def test_the_loop_is_given_the_seed_too(small: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def record(*args: Any, seed: int, **options: Any) -> Any:
        seen.append(seed)
        return fit_network(*args, seed=seed, **options)

    monkeypatch.setattr(fc_network, "fit_network", record)
    METHODS["braingnn"].fit_predict(replace(small, seed=23))
    assert seen == [23]


@pytest.mark.parametrize("name", NAMES)
def test_connectomes_of_a_file(name: str, tmp_path: Path) -> None:
    fc = matrices(8, 6).numpy()
    ids = np.array(["a", "b", "c", "d", "e", "f", "g", "a"])  # two scans of a
    np.savez(tmp_path / "fc.npz", fc=fc, participant_id=ids)
    inputs = METHODS[name].inputs(load_scan_data(tmp_path / "fc.npz"), list("bcdefga"))
    assert_allclose(edge_matrices(inputs, diagonal=1.0)[6], (fc[0] + fc[7]) / 2, atol=1e-6)
    fold = fold_of(inputs, np.arange(7.0), 2, max_epochs=1)
    assert METHODS[name].fit_predict(fold).values.shape == (2,)
    with pytest.raises(InputError, match="has 14 edges"):
        METHODS[name].fit_predict(
            replace(fold, inputs=fold.inputs[:, :14], test_inputs=fold.test_inputs[:, :14])
        )


# Learning: age and sex of the simulated cohort are in connectivity alone


@pytest.fixture(scope="module")
def cohort() -> tuple[Arrays, NDArray[np.float64], NDArray[np.int64]]:
    """Fisher z of every 15th region, ages, sexes (F 0, M 1) of 200 participants."""
    population = make_population(0)
    who = [draw_participant(population, number) for number in range(1001, 1201)]
    upper = np.triu_indices(30, k=1)
    r = np.array([np.asarray(np.corrcoef(simulate_series(population, p)[:, 7::15].T))[upper] for p in who])
    age, sex = np.array([p.age for p in who]), np.array([int(p.sex == "M") for p in who])
    return np.arctanh(r).astype(np.float32), age, sex


EPOCHS = {"brainnetcnn": 8, "bnt": 15, "braingnn": 40}  # a few seconds each


@pytest.mark.parametrize("name", NAMES)
def test_finds_sex(name: str, cohort: tuple[Arrays, NDArray[np.float64], NDArray[np.int64]]) -> None:
    edges, _, sex = cohort
    prediction = METHODS[name].fit_predict(fold_of(edges, sex, 80, max_epochs=EPOCHS[name]))
    assert roc_auc_score(sex[-80:], prediction.values[:, 1]) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_finds_age_and_nothing_in_a_shuffled_one(
    name: str, cohort: tuple[Arrays, NDArray[np.float64], NDArray[np.int64]]
) -> None:
    edges, age, _ = cohort
    found = METHODS[name].fit_predict(fold_of(edges, age, 80)).values
    assert r2_score(age[-80:], found) > 0.2
    ridge = fit_ridge(fold_of(edges, age, 80)).values
    assert r2_score(age[-80:], ridge) > r2_score(age[-80:], found) - 0.15  # no miracle either
    shuffled = age.copy()
    shuffled[:-80] = np.random.default_rng(4).permutation(age[:-80])
    nothing = METHODS[name].fit_predict(fold_of(edges, shuffled, 80)).values
    assert r2_score(age[-80:], nothing) < 0.1
