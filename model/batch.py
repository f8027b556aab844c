"""What passes through the network at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from bjepa.model.masking import Masks


class Batch(NamedTuple):
    """Some windows of scans and what is hidden of them."""

    x: Tensor  # (B, R, L) float32
    masks: Masks
    series: list[int]  # their numbers in the data
    t_r: Tensor  # (B,) float32, seconds between the frames of x

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        x, t_r = (t.to(device, non_blocking=True) for t in (self.x, self.t_r))
        return Batch(x, self.masks.to(device), self.series, t_r)
