"""What every approach returns: components of regions, their eigenvalues, and how exact they are."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

SMALL_GAP = 0.05  # neighbours closer than this rotate into each other from sample to sample


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """R regions, C components, in order of decreasing importance.

    Eigenvalues are those of the matrix that the approach solves: dm: of the Markov matrix, descending in
    (-1, 1); le: of the Laplacian, ascending from 0; pca: variances of the components, descending.
    """

    gradients: NDArray[np.float64]  # (R, C); NaN in rows that are not kept
    eigenvalues: NDArray[np.float64]  # (C,)
    multipliers: NDArray[
        np.float64
    ]  # (C,) of eigenvectors; dm: l / (1 - l), or l^t; le: 1; pca: sqrt((R-1) l)
    residuals: NDArray[np.float64]  # (C,) ||M g - lambda g|| / (|lambda| ||g||)
    next_eigenvalue: float  # the first one left out; nan where none is
    approach: str = "dm"
    solver: str = "dense"  # or "iterative": its pairs are checked (residuals, nothing larger left out)
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))  # (R,)
    # Gaps are relative to the distance from here, the middle of the spectrum. le: 1 (the Laplacian is 1 minus
    # the matrix of a random walk, so its gaps are those of a diffusion map); not normalized: the mean degree
    origin: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.kept):
            object.__setattr__(self, "kept", np.ones(len(self.gradients), dtype=np.bool_))

    def relative_gaps(self) -> NDArray[np.float64]:
        """(C,) |l_k - l_{k+1}| / |l_k - origin|: small where a component and the next one mix."""
        following = np.append(self.eigenvalues[1:], self.next_eigenvalue)
        gaps: NDArray[np.float64] = np.abs(self.eigenvalues - following) / np.abs(
            self.eigenvalues - self.origin
        )
        return gaps

    def near_degenerate_pairs(self) -> list[tuple[int, int]]:
        """Pairs of neighbouring components (from 1) whose relative gap is below SMALL_GAP."""
        close = np.flatnonzero(self.relative_gaps()[:-1] < SMALL_GAP)
        return [(int(k) + 1, int(k) + 2) for k in close]

    def in_all_regions(self, kept: NDArray[np.bool_]) -> "Embedding":
        """The same with rows for all regions (R,), NaN for those that are not kept."""
        if kept.all():
            return self
        gradients = np.full((len(kept), self.gradients.shape[1]), np.nan)
        gradients[kept] = self.gradients
        return replace(self, gradients=gradients, kept=kept)


def largest_entry_positive(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn each column so that its entry of largest magnitude is positive (the first of equal ones)."""
    # rounded: a column with +x and -x must not be decided by the last bit
    magnitude = np.round(np.abs(gradients) / np.abs(gradients).max(axis=0), 9)
    largest = magnitude.argmax(axis=0)  # (C,)
    signs = np.sign(gradients[largest, np.arange(gradients.shape[1])])
    turned: NDArray[np.float64] = gradients * signs
    return turned
