"""Ledoit-Wolf covariance of standardised series, and the partial correlation that follows from it.

Order of operations:
  1. standardise   centre; unit variance (mean square over T, not T - 1)
  2. S = X'X / T   of standardised series this is their correlation
  3. shrink        (1 - a) S + a I, with the a that minimises the expected squared error
  4. partial       P = inverse; -P_ij / sqrt(P_ii P_jj)
Standardising first makes the result independent of the regions' units; shrinking raw series would pull the
quiet regions more than the loud ones. On standardised series this is what scikit-learn's LedoitWolf and
nilearn's ConnectivityMeasure compute (tested); here without a second pass over the frames.
Source: Ledoit & Wolf 2004, J Multivar Anal 88:365, doi:10.1016/S0047-259X(03)00096-4, section 3.

T frames, R regions.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ledoit_wolf(unit: Array) -> Array:
    """Shrunk correlation (R, R) of series (T, R) that are centred and of length 1; ones on the diagonal."""
    r = unit.T @ unit  # (R, R)
    r *= 1 - ledoit_wolf_shrinkage(unit, unit.shape[1])
    np.fill_diagonal(r, 1.0)
    return r


def ledoit_wolf_shrinkage(unit: Array, n_present: int) -> float:
    """The a of the shrunk correlation, in [0, 1], of such series (T, R); columns of missing regions are 0.

    Parameters
    ----------
    n_present : regions that are not missing
    """
    n_frames, n_rois = unit.shape
    gram = unit @ unit.T if n_frames < n_rois else unit.T @ unit  # both have the same norm; the smaller one
    r_squared = float(np.vdot(gram, gram))
    # sum over pairs and frames of (x_i x_j)^2, x = sqrt(T) unit, so that no (R, R) array of it is needed
    energy = np.einsum("tr,tr->t", unit, unit)  # (T,)
    products_squared = n_frames * float(energy @ energy)
    spread = r_squared - n_present  # of S around the identity; d^2 of the paper, times R
    noise = min((products_squared - r_squared) / n_frames, spread)  # of S; b^2 of the paper, times R
    return noise / spread if noise > 0 else 0.0


def partial_correlation(covariance: Array) -> Array:
    """Partial correlation (R, R) of a covariance; ones on the diagonal."""
    precision = np.linalg.inv(covariance)
    scale = 1 / np.sqrt(np.diag(precision))
    partial: Array = -precision * scale * scale[:, None]
    partial = (partial + partial.T) / 2
    np.fill_diagonal(partial, 1.0)
    return partial
