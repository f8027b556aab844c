"""What every approach returns: components of regions, their eigenvalues, and how exact they are."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SMALL_GAP = 0.05  # neighbours closer than this rotate into each other from sample to sample


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """R regions, C components, in order of decreasing importance."""

    gradients: NDArray[np.float64]  # (R, C); NaN in rows that are not kept
    eigenvalues: NDArray[np.float64]  # (C,) of the matrix that the approach solves (Markov: in (-1, 1))
    multipliers: NDArray[np.float64]  # (C,) length of each component; dm: lambda / (1 - lambda), or lambda^t
    residuals: NDArray[np.float64]  # (C,) ||M g - lambda g|| / (|lambda| ||g||)
    next_eigenvalue: float  # the first one left out; nan where none is
    approach: str = "dm"
    solver: str = "dense"  # or "iterative": its pairs are checked (residuals, nothing larger left out)
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))  # (R,)

    def __post_init__(self) -> None:
        if not len(self.kept):
            object.__setattr__(self, "kept", np.ones(len(self.gradients), dtype=np.bool_))

    def relative_gaps(self) -> NDArray[np.float64]:
        """(C,) share by which the next eigenvalue is smaller: (l_k - l_{k+1}) / |l_k|."""
        following = np.append(self.eigenvalues[1:], self.next_eigenvalue)
        gaps: NDArray[np.float64] = (self.eigenvalues - following) / np.abs(self.eigenvalues)
        return gaps

    def near_degenerate_pairs(self) -> list[tuple[int, int]]:
        """Pairs of neighbouring components (from 1) whose relative gap is below SMALL_GAP."""
        close = np.flatnonzero(self.relative_gaps()[:-1] < SMALL_GAP)
        return [(int(k) + 1, int(k) + 2) for k in close]
