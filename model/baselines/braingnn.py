"""BrainGNN: a graph network whose filters depend on the region, and that picks the regions it needs.

Order of operations:
  1. graph: the strongest tenth of a scan's positive edges; regions' features are their connection profiles
  2. convolution, with a kernel W_i for region i:  h_i = relu(W_i x_i + sum over neighbours j of e_ij W_j x_j)
     W_i = W_0 + sum over K communities u of relu(m[u, i]) W_u;  e_ij sums to 1 over the neighbours of i
  3. pooling: s_i = <h_i, w> / |w|, normed over the scan's regions to mean 0 and variance 1; the ceil(ratio R)
     regions of the largest s stay, their h_i times sigmoid(s_i), with the edges between them
  4. 2 and 3 once more, with other weights
  5. mean and maximum over the regions that stayed, of both layers, through an MLP
Added to the loss, in training:
  unit   (|w| - 1)^2 of both layers
  TPK    0.1 x the cross-entropy of sigmoid(s), of both layers, from 1 where a region stayed and 0 where not
  GLC    0.1 x (s_m - s_n)^2 of the first layer, mean over regions and pairs of scans of the same class:
         they should pick the same regions; classification alone

Source: Li et al. 2021, "BrainGNN: interpretable brain graph neural network for fMRI analysis", Med Image Anal
74:102233, doi:10.1016/j.media.2021.102233, section 2; 32 features, 8 communities, ratio 0.5 and the MLP's
sizes (32, 512) as in the authors' code.
Differs from it: edges are correlations, not partial ones, for given connectomes hold nothing else; GLC is a
mean, where the paper sums over regions, so that its weight does not depend on the atlas; pairs are those of a
batch; two-hop edges, which the code adds after pooling, are not.
Dense matrices in plain torch: 450 regions are few.
Size: 168,705 for 450 regions and one output, 153,505 for 400.

B scans, N regions (R before pooling), K communities.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.baselines.connectivity import participant_edges
from bjepa.model.baselines.fc_network import edge_matrices, fit_fc_network
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.readouts.fit_settings import FitSettings

EDGE_SHARE = 0.1  # of all edges of a scan, at most, are in its graph
N_COMMUNITIES, HIDDEN_DIM, RATIO = 8, 32, 0.5
TPK_WEIGHT = GLC_WEIGHT = 0.1
SETTINGS = FitSettings(epochs=100, batch_size=16, lr=1e-3, weight_decay=0.05, patience=20)


class RegionConv(nn.Module):
    """Ra-GConv: graph convolution with a kernel for each region, mixed from K + 1."""

    def __init__(self, n_rois: int, in_dim: int, out_dim: int, *, n_communities: int = N_COMMUNITIES) -> None:
        super().__init__()
        self.membership = nn.Parameter(torch.rand(n_communities, n_rois))
        self.kernels = nn.Parameter(
            torch.randn(n_communities, in_dim, out_dim) / (n_communities * in_dim) ** 0.5
        )
        self.shared = nn.Parameter(torch.randn(in_dim, out_dim) / in_dim**0.5)

    def forward(self, x_BNF: Tensor, graph_BNN: Tensor, roi_BN: Tensor) -> Tensor:
        """Features (B, N, in_dim), edges (B, N, N) >= 0, each node's region -> (B, N, out_dim) >= 0."""
        community_BNK = F.relu(self.membership.T[roi_BN])
        by_kernel = torch.einsum("bnf,kfo->bnko", x_BNF, self.kernels)
        own = x_BNF @ self.shared + torch.einsum("bnko,bnk->bno", by_kernel, community_BNK)
        normed = graph_BNN / graph_BNN.sum(dim=2, keepdim=True).clamp(min=1e-12)
        return F.relu(own + normed @ own)


@dataclass(frozen=True)
class Pooled:
    """What is left of B graphs, and the scores by which it was chosen."""

    x: Tensor  # (B, n_kept, dim)
    graph: Tensor  # (B, n_kept, n_kept)
    roi: Tensor  # (B, n_kept) regions that stayed, the largest score first
    score: Tensor  # (B, N) of all, mean 0 and variance 1 over N


class RegionPool(nn.Module):
    """R-pool: the ceil(ratio N) regions of the largest score."""

    def __init__(self, dim: int, *, ratio: float = RATIO) -> None:
        super().__init__()
        self.ratio = ratio
        self.direction = nn.Parameter(F.normalize(torch.randn(dim), dim=0))

    def forward(self, x_BND: Tensor, graph_BNN: Tensor, roi_BN: Tensor) -> Pooled:
        raw = x_BND @ self.direction / self.direction.norm()
        centred = raw - raw.mean(dim=1, keepdim=True)
        score = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-10).sqrt()
        kept = score.topk(ceil(self.ratio * x_BND.shape[1]), dim=1).indices  # (B, n_kept)
        weight = score.gather(1, kept).sigmoid()
        x = x_BND.gather(1, kept[:, :, None].expand(-1, -1, x_BND.shape[2])) * weight[:, :, None]
        rows = graph_BNN.gather(1, kept[:, :, None].expand(-1, -1, graph_BNN.shape[2]))
        graph = rows.gather(2, kept[:, None, :].expand(-1, kept.shape[1], -1))
        return Pooled(x, graph, roi_BN.gather(1, kept), score)


class BrainGNN(nn.Module):
    """Profiles (B, R, R) and graphs (B, R, R) -> (B, n_outputs)."""

    def __init__(self, n_rois: int, n_outputs: int, *, ratio: float = RATIO, dropout: float = 0.5) -> None:
        super().__init__()
        dims = [n_rois, HIDDEN_DIM, HIDDEN_DIM]
        self.convs = nn.ModuleList(RegionConv(n_rois, a, b) for a, b in pairwise(dims))
        self.pools = nn.ModuleList(RegionPool(dim, ratio=ratio) for dim in dims[1:])
        self.head = nn.Sequential(
            nn.Linear(2 * sum(dims[1:]), 32),
            nn.ReLU(),
            nn.BatchNorm1d(32),
            nn.Dropout(dropout),
            nn.Linear(32, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512),
            nn.Dropout(dropout),
            nn.Linear(512, n_outputs),
        )
        self.ratio = ratio
        self.extra_loss: Tensor | None = None  # of the last batch in training

    def forward(self, fc_BRR: Tensor, graph_BRR: Tensor, class_B: Tensor | None = None) -> Tensor:
        """`class_B`: numbers of the scans' classes, for GLC; used in training alone."""
        x, graph = fc_BRR, graph_BRR
        roi = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        read, scores = [], []
        for conv, pool in zip(self.convs, self.pools, strict=True):
            pooled = pool(conv(x, graph, roi), graph, roi)
            x, graph, roi = pooled.x, pooled.graph, pooled.roi
            read += [x.mean(dim=1), x.amax(dim=1)]
            scores.append(pooled.score)
        if self.training:
            self.extra_loss = self._extra_loss(scores, class_B)
        out: Tensor = self.head(torch.cat(read, dim=1))
        return out

    def _extra_loss(self, scores: list[Tensor], class_B: Tensor | None) -> Tensor:
        directions = [pool.direction for pool in self.pools if isinstance(pool, RegionPool)]
        unit = torch.stack([(direction.norm() - 1) ** 2 for direction in directions]).sum()
        tpk = torch.stack([top_k_loss(s, ceil(self.ratio * s.shape[1])) for s in scores]).sum()
        loss: Tensor = unit + TPK_WEIGHT * tpk
        return loss if class_B is None else loss + GLC_WEIGHT * consistency_loss(scores[0], class_B)


def top_k_loss(score_BN: Tensor, n_kept: int) -> Tensor:
    """TPK: cross-entropy of sigmoid(score) with 1 for the `n_kept` largest of a scan, else 0; mean."""
    ordered = score_BN.sort(dim=1, descending=True).values
    return (
        -(F.logsigmoid(ordered[:, :n_kept]).sum() + F.logsigmoid(-ordered[:, n_kept:]).sum())
        / ordered.numel()
    )


def consistency_loss(score_BN: Tensor, class_B: Tensor) -> Tensor:
    """GLC: squared difference of scores, mean over regions and pairs of a class, summed over the classes.

    Pairs are ordered and a scan's pair with itself counts: of a class, twice the variance over its scans.
    """
    total = score_BN.new_zeros(())
    for number in torch.unique(class_B):
        own = score_BN[class_B == number]
        total = total + 2 * own.var(dim=0, correction=0).mean()
    return total


def graph_and_class(edges_BE: NDArray[np.float32], target_B: NDArray[Any] | None) -> tuple[Tensor, ...]:
    """Graphs (B, R, R) of edges, and the classes where they are told (whole numbers, in training)."""
    inputs = (torch.from_numpy(edge_matrices(strongest_edges(edges_BE))),)
    if target_B is None or target_B.dtype.kind != "i":
        return inputs
    return (*inputs, torch.from_numpy(target_B))


def strongest_edges(edges_BE: NDArray[np.float32], share: float = EDGE_SHARE) -> NDArray[np.float32]:
    """The largest `share` of a scan's edges as far as they are above 0, the others 0; NaN is never kept."""
    edges = np.nan_to_num(edges_BE, nan=0.0)
    n_kept = max(1, round(share * edges.shape[1]))
    threshold = np.partition(edges, -n_kept, axis=1)[:, [-n_kept]]
    return np.where((edges >= threshold) & (edges > 0), edges, 0).astype(np.float32)


def extra_loss(network: nn.Module) -> Tensor:
    """The losses on pooling of the batch just seen."""
    assert isinstance(network, BrainGNN) and network.extra_loss is not None
    return network.extra_loss


def fit_braingnn(fold: Fold) -> Prediction:
    """Fit to a fold; `fold.inputs` are edges (n, R (R - 1) / 2)."""
    return fit_fc_network(fold, BrainGNN, SETTINGS, more_inputs=graph_and_class, loss_extra=extra_loss)


BRAINGNN = Method(
    summary="BrainGNN (Li 2021) on functional connectivity",
    inputs=participant_edges,
    fit_predict=fit_braingnn,
    trains_network=True,
)
