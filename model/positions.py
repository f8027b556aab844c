"""Where a token is: time by sines and cosines, the region by its place in the gradient atlas.

    position of token (roi, t) = [time half, gradient half], W / 2 features each
    time half      frozen, sin(t w_j) for all j, then cos(t w_j); w_j = 10000^(-j/q), j = 0..q-1, q = W / 4
    gradient half  one linear layer on the region's gradients, then the whole table (regions and features)
                   scaled to [-1, 1] with one minimum and one maximum

R regions, T patches, N = R * T tokens region by region (t runs fastest), C gradients, W width.
Differs from the released code: T is derived, not 10; under autocast the table stays float32 (there the
gradient half is scaled in bfloat16).
"""

import numpy as np
import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """Position embedding of width `width` for every token; the same for all scans.

    Parameters
    ----------
    gradients : (R, C) float32
        The gradient atlas. Not part of the state: it is saved beside the weights.
    n_patches : int
        T.
    width : int
        W, a multiple of 4.
    """

    gradients: Tensor

    def __init__(self, gradients: Tensor, *, n_patches: int, width: int) -> None:
        super().__init__()
        n_rois, n_gradients = gradients.shape
        self.n_patches = n_patches
        table = time_table(n_patches, width // 2).repeat(n_rois, 1)  # (N, W/2), t runs fastest
        # A frozen parameter, one row a token: the released checkpoints hold it so and count it so.
        self.time = nn.Parameter(table, requires_grad=False)
        self.gradient = nn.Linear(n_gradients, width // 2)
        self.register_buffer("gradients", gradients, persistent=False)

    def forward(self) -> Tensor:
        """(N, W) float32."""
        with torch.autocast(self.time.device.type, enabled=False):
            half_RH = scale_to_unit_range(self.gradient(self.gradients))  # (R, W/2)
            half_NH = half_RH.repeat_interleave(self.n_patches, dim=0)
            return torch.cat([self.time, half_NH], dim=1)


def time_table(n_patches: int, width: int) -> Tensor:
    """Sines, then cosines, of patch numbers from 0: (n_patches, width) float32, computed in float64."""
    q = width // 2
    frequency = 10000.0 ** (-np.arange(q, dtype=np.float64) / q)
    angle = np.outer(np.arange(n_patches, dtype=np.float64), frequency)  # (T, q)
    return torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32))


def scale_to_unit_range(values: Tensor) -> Tensor:
    """Map all of `values` linearly so that its least entry is -1 and its largest 1.

    Gradients flow through the minimum and the maximum too; taken as constants, the gradient of the linear
    layer would be wrong by as much as the gradient itself.
    """
    low, high = values.amin(), values.amax()
    return 2 * (values - low) / (high - low) - 1
