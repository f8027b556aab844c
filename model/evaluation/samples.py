"""What a network is fitted on: samples (windows, series, matrices) of participants, read batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n samples of p participants. A participant's prediction is the mean over its samples."""

    read: Callable[[NDArray[np.int64]], tuple[Tensor, ...]]  # sample numbers (b,) -> the network's arguments
    participant: NDArray[np.int64]  # (n,) whose each sample is: 0 .. p - 1
    n_participants: int
    target: NDArray[Any] | None = None  # (p,); None where it is to be predicted

    def __len__(self) -> int:
        return len(self.participant)

    @classmethod
    def of_arrays(
        cls,
        *arrays: NDArray[Any],
        participant: NDArray[np.int64] | None = None,
        target: NDArray[Any] | None = None,
    ) -> Samples:
        """Samples in memory: arrays (n, …), the arguments of the network; default: one a participant."""
        tensors = [torch.as_tensor(array) for array in arrays]
        owner = np.arange(len(tensors[0])) if participant is None else participant
        n_participants = int(owner.max()) + 1 if target is None else len(target)

        def read(numbers: NDArray[np.int64]) -> tuple[Tensor, ...]:
            rows = torch.as_tensor(numbers)
            return tuple(tensor[rows] for tensor in tensors)

        return cls(read=read, participant=owner, n_participants=n_participants, target=target)
