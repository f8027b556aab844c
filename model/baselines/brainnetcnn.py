"""BrainNetCNN: a convolutional network whose filters are crosses, a row and a column of the matrix.

    E2E  (C, R, R) -> (O, R, R)  out[o, i, j] = sum of  row[o, c, k] x[c, i, k] + col[o, c, k] x[c, k, j]
    E2N  (C, R, R) -> (O, R)     out[o, i]    = sum of  row[o, c, k] x[c, i, k]
    N2G  (C, R)    -> (O,)       out[o]       = sum of  w[o, c, i] x[c, i]
over the filters c and the regions k or i; each plus a bias, and followed by a leaky ReLU of slope 0.33. Then
dense layers of 128 and 30 with the same, and the output. Dropout 0.5 after N2G and after both dense layers.

Source: Kawahara et al. 2017, "BrainNetCNN: convolutional neural networks for brain networks; towards
predicting neurodevelopment", NeuroImage 146:1038, doi:10.1016/j.neuroimage.2016.09.046, equations 1 to 3.
Differs from it: filters are 32 and 64 (E2E), 1 (E2N) and 256 (N2G), as in public uses of the network on
functional connectivity of hundreds of regions; the paper has 90 regions. E2N has its row alone, as the paper
allows for symmetric matrices. AdamW in place of SGD.
Size: 2,053,150 for 450 regions and one output, 1,829,150 for 400. Memory in training: 0.24 GB a scan of 450.

B scans, C and O filters in and out, R regions.
"""

import torch
from torch import Tensor, nn

from bjepa.model.baselines.connectivity import participant_edges
from bjepa.model.baselines.fc_network import fit_fc_network
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.readouts.fit_settings import FitSettings

SLOPE = 0.33  # of the leaky ReLU below 0
SETTINGS = FitSettings(epochs=100, batch_size=16, lr=1e-3, weight_decay=0.05, patience=20)


class EdgeToEdge(nn.Module):
    """E2E: each edge from all edges of its two regions."""

    def __init__(self, in_chans: int, out_chans: int, n_rois: int) -> None:
        super().__init__()
        self.row = _uniform(out_chans, in_chans, n_rois, fan_in=2 * in_chans * n_rois)
        self.column = _uniform(out_chans, in_chans, n_rois, fan_in=2 * in_chans * n_rois)
        self.bias = nn.Parameter(torch.zeros(out_chans))

    def forward(self, x_BCRR: Tensor) -> Tensor:
        """(B, C, R, R) -> (B, O, R, R); not symmetric, for a row and a column differ."""
        of_row = torch.einsum("bcik,ock->boi", x_BCRR, self.row)
        of_column = torch.einsum("bckj,ock->boj", x_BCRR, self.column)
        return of_row[:, :, :, None] + of_column[:, :, None, :] + self.bias[:, None, None]


class EdgeToNode(nn.Module):
    """E2N: each region from all its edges."""

    def __init__(self, in_chans: int, out_chans: int, n_rois: int) -> None:
        super().__init__()
        self.row = _uniform(out_chans, in_chans, n_rois, fan_in=in_chans * n_rois)
        self.bias = nn.Parameter(torch.zeros(out_chans))

    def forward(self, x_BCRR: Tensor) -> Tensor:
        """(B, C, R, R) -> (B, O, R)."""
        return torch.einsum("bcik,ock->boi", x_BCRR, self.row) + self.bias[:, None]


class BrainNetCNN(nn.Module):
    """Matrices (B, R, R) -> (B, n_outputs)."""

    def __init__(self, n_rois: int, n_outputs: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.e2e_1 = EdgeToEdge(1, 32, n_rois)
        self.e2e_2 = EdgeToEdge(32, 64, n_rois)
        self.e2n = EdgeToNode(64, 1, n_rois)
        self.n2g = nn.Linear(n_rois, 256)
        self.dense = nn.Sequential(
            nn.LeakyReLU(SLOPE),
            nn.Dropout(dropout),
            nn.Linear(256, 128),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(dropout),
            nn.Linear(128, 30),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(dropout),
            nn.Linear(30, n_outputs),
        )

    def forward(self, fc_BRR: Tensor) -> Tensor:
        """Symmetric matrices (B, R, R) -> (B, n_outputs)."""
        x = fc_BRR[:, None]  # (B, 1, R, R)
        for layer in (self.e2e_1, self.e2e_2, self.e2n):
            x = nn.functional.leaky_relu(layer(x), SLOPE, inplace=True)  # (B, 1, R) after the last
        out: Tensor = self.dense(self.n2g(x[:, 0]))
        return out


def fit_brainnetcnn(fold: Fold) -> Prediction:
    """Fit to a fold; `fold.inputs` are edges (n, R (R - 1) / 2)."""
    return fit_fc_network(fold, BrainNetCNN, SETTINGS)


BRAINNETCNN = Method(
    summary="BrainNetCNN (Kawahara 2017) on functional connectivity",
    inputs=participant_edges,
    fit_predict=fit_brainnetcnn,
    trains_network=True,
)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Weights in ± sqrt(3 / fan_in), variance 1 / fan_in, from torch's generator."""
    bound = (3 / fan_in) ** 0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
