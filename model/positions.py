"""Where a token is: the time of its patch, and the place of its region.

    position of token (roi, t) = [time half, region half], W / 2 features each
    time half      frozen, sin(u w_j) for all j, then cos(u w_j); w_j = 10000^(-j/q), j = 0..q-1, q = W / 4
                   model.time_position  "patch"    u = t, the patch's number: the paper
                                        "seconds"  u = t * t_r / 2 s: scans of any repetition time share one
                                                   clock; the same as "patch" at 2 s
    region half    model.region_position
                   "gradient"    one linear layer on the region's gradients, then the whole table (regions and
                                 features) scaled to [-1, 1] with one minimum and one maximum: the paper
                   "sinusoidal"  frozen, as the time half with the region's number: the paper's ablation
                   "learned"     a free parameter a region

R regions, T patches, N = R * T tokens region by region (t runs fastest), C gradients, W width, n tokens.
Differs from the released code: T is derived, not 10; under autocast the table stays float32 (there the
gradient half is scaled in bfloat16).
"""

import numpy as np
import torch
from torch import Tensor, nn

from bjepa.model.config import RegionPosition, TimePosition
from bjepa.model.tokens import TokenList, gather_positions

REFERENCE_T_R = 2.0  # s: there "seconds" and "patch" agree


class Positions(nn.Module):
    """Position embedding of width `width` for every token.

    Parameters
    ----------
    gradients : (R, C) float32
        The gradient atlas. Not part of the state: it is saved beside the weights.
    n_patches : int
        T.
    width : int
        W, a multiple of 4.
    region_position, time_position
        As above.
    """

    gradients: Tensor

    def __init__(
        self,
        gradients: Tensor,
        *,
        n_patches: int,
        width: int,
        region_position: RegionPosition = "gradient",
        time_position: TimePosition = "patch",
    ) -> None:
        super().__init__()
        n_rois, n_gradients = gradients.shape
        half = width // 2
        self.n_patches, self.time_position = n_patches, time_position
        table = sinusoids(torch.arange(n_patches), half).repeat(n_rois, 1)  # (N, W/2), t runs fastest
        # A frozen parameter, one row a token: the released checkpoints hold it so and count it so.
        self.time = nn.Parameter(table, requires_grad=False)
        if region_position == "gradient":
            self.gradient = nn.Linear(n_gradients, half)
        elif region_position == "sinusoidal":
            self.region = nn.Parameter(sinusoids(torch.arange(n_rois), half), requires_grad=False)
        else:
            self.region = nn.Parameter(torch.zeros(n_rois, half))  # drawn by init_weights
        self.region_position = region_position
        self.register_buffer("gradients", gradients, persistent=False)

    def forward(self) -> Tensor:
        """The table of all tokens with their patch's number as time: (N, W) float32."""
        with torch.autocast(self.time.device.type, enabled=False):
            half_RH = self._region_half()
            return torch.cat([self.time, half_RH.repeat_interleave(self.n_patches, dim=0)], dim=1)

    def of(self, tokens: TokenList, t_r: Tensor | None = None) -> Tensor:
        """Positions of listed tokens, (n, W) float32.

        Parameters
        ----------
        tokens
        t_r : (B,) float32, seconds between frames
            Needed for "seconds", without effect for "patch".
        """
        if self.time_position == "patch":
            return gather_positions(self(), tokens.token_n)
        if t_r is None:
            raise ValueError(
                "model.time_position = 'seconds' needs t_r, the seconds between frames; got None."
            )
        with torch.autocast(self.time.device.type, enabled=False):
            roi, patch = tokens.token_n // self.n_patches, tokens.token_n % self.n_patches
            time_nH = sinusoids(patch * (t_r.double() / REFERENCE_T_R)[tokens.scan_n], self.time.shape[1])
            return torch.cat([time_nH, gather_positions(self._region_half(), roi)], dim=1)

    def _region_half(self) -> Tensor:
        """(R, W/2)."""
        if self.region_position == "gradient":
            return scale_to_unit_range(self.gradient(self.gradients))
        return self.region


def sinusoids(u: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of `u` (n,) at width / 2 frequencies: (n, width) float32, computed in float64."""
    q = width // 2
    frequency = torch.from_numpy(10000.0 ** (-np.arange(q, dtype=np.float64) / q)).to(u.device)
    angle = u.double()[:, None] * frequency  # (n, q)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def scale_to_unit_range(values: Tensor) -> Tensor:
    """Map all of `values` linearly so that its least entry is -1 and its largest 1.

    Gradients flow through the minimum and the maximum too; taken as constants, the gradient of the linear
    layer would be wrong by as much as the gradient itself.
    """
    low, high = values.amin(), values.amax()
    return 2 * (values - low) / (high - low) - 1
