"""Brain Network Transformer: regions are tokens, their connection profiles are what they say.

Order of operations, d = R (a token is a row of the matrix):
  1. two layers of self-attention with four heads: x = norm(x + attention(x)), x = norm(x + mlp(x))
  2. clustering readout: p[i, k] = softmax over k of <x_i, e_k>, cluster k = sum over i of p[i, k] x_i,
     with K orthonormal centres e_k: Xavier-uniform numbers made orthonormal (Gram-Schmidt), not trained
  3. each cluster from R to 8 numbers, all clusters joined, dense 256, 32, output (leaky ReLU)

Source: Kan et al. 2022, "Brain Network Transformer", NeurIPS, arXiv:2210.06681. Two layers, four heads,
K = 100, frozen centres and the sizes of the MLPs (1024 in a layer; 8, 256, 32) as in the authors' code.
Differs from that code: there all tokens of a scan, as one vector of R * R numbers, go through another MLP
(R * R -> 32 -> 32 -> R * R) before they meet the centres; here tokens meet the centres as they are. A head
has R / 4 numbers, rounded up, where R is no multiple of 4. K is at most R / 2, as with the 200 regions of the
paper's first data set. No mixup.
Size: 3,697,481 for 450 regions and one output, 3,144,169 for 400; 1,359,802 for 200 and two, where the other
MLP would add 2.60 million (and 13.2 million for 450).

Law: the order of the tokens does not matter (the order of the numbers within them does).
B scans, R regions, K clusters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bjepa.model.baselines.connectivity import participant_edges
from bjepa.model.baselines.fc_network import fit_fc_network
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.readouts.fit_settings import FitSettings

N_CLUSTERS, DEPTH, NUM_HEADS, MLP_DIM = 100, 2, 4, 1024
SETTINGS = FitSettings(epochs=100, batch_size=16, lr=1e-4, weight_decay=1e-4, patience=20)


class AttentionLayer(nn.Module):
    """Self-attention and an MLP over tokens (B, R, d), each added to its input, then normed."""

    def __init__(
        self, dim: int, *, num_heads: int = NUM_HEADS, mlp_dim: int = MLP_DIM, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, head_dim = num_heads, -(-dim // num_heads)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.join = nn.Linear(num_heads * head_dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(mlp_dim, dim)
        )
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BRD: Tensor) -> Tensor:
        """(B, R, d) -> (B, R, d)."""
        n_batch, n_tokens, _ = x_BRD.shape
        qkv = self.qkv(x_BRD).view(n_batch, n_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout_p = self.dropout.p if self.training else 0.0
        heads = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], dropout_p=dropout_p)
        joined = self.join(heads.transpose(1, 2).reshape(n_batch, n_tokens, -1))
        x = self.norm_1(x_BRD + self.dropout(joined))
        out: Tensor = self.norm_2(x + self.dropout(self.mlp(x)))
        return out


class ClusteringReadout(nn.Module):
    """Tokens (B, R, d) -> clusters (B, K, d): soft assignment to fixed orthonormal centres."""

    centres: Tensor  # (K, d), rows orthonormal

    def __init__(self, n_clusters: int, dim: int) -> None:
        super().__init__()
        if n_clusters > dim:
            raise ValueError(f"{n_clusters} centres cannot be orthonormal in {dim} dimensions.")
        self.register_buffer(
            "centres", orthonormal_rows(nn.init.xavier_uniform_(torch.empty(n_clusters, dim)))
        )

    def assignment(self, x_BRD: Tensor) -> Tensor:
        """Shares (B, R, K) of each token that go to each cluster; they sum to 1 over K."""
        return (x_BRD @ self.centres.T).softmax(dim=-1)

    def forward(self, x_BRD: Tensor) -> Tensor:
        """(B, R, d) -> (B, K, d)."""
        return self.assignment(x_BRD).transpose(1, 2) @ x_BRD


class BrainNetworkTransformer(nn.Module):
    """Matrices (B, R, R) -> (B, n_outputs)."""

    def __init__(self, n_rois: int, n_outputs: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        n_clusters = max(1, min(N_CLUSTERS, n_rois // 2))
        self.layers = nn.ModuleList(AttentionLayer(n_rois, dropout=dropout) for _ in range(DEPTH))
        self.readout = ClusteringReadout(n_clusters, n_rois)
        self.reduce = nn.Sequential(nn.Linear(n_rois, 8), nn.LeakyReLU())
        self.head = nn.Sequential(
            nn.Linear(8 * n_clusters, 256),
            nn.LeakyReLU(),
            nn.Linear(256, 32),
            nn.LeakyReLU(),
            nn.Linear(32, n_outputs),
        )

    def forward(self, fc_BRR: Tensor) -> Tensor:
        """Tokens, each a row of (B, R, R), -> (B, n_outputs)."""
        x = fc_BRR
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.reduce(self.readout(x)).flatten(1))
        return out


def orthonormal_rows(rows_KD: Tensor) -> Tensor:
    """Gram-Schmidt: orthonormal rows (K, d), K <= d, the first n of which span what the first n given do."""
    done: list[Tensor] = []
    for row in rows_KD.double():
        for _ in range(2):  # the second pass takes off what rounding has left
            for other in done:
                row = row - (row @ other) * other
        done.append(row / row.norm())
    return torch.stack(done).to(rows_KD.dtype)


def fit_bnt(fold: Fold) -> Prediction:
    """Fit to a fold; `fold.inputs` are edges (n, R (R - 1) / 2)."""
    return fit_fc_network(fold, BrainNetworkTransformer, SETTINGS)


BNT = Method(
    summary="Brain Network Transformer (Kan 2022) on functional connectivity",
    inputs=participant_edges,
    fit_predict=fit_bnt,
    trains_network=True,
)
