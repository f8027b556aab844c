"""Tangent space of covariances: how a scan's covariance differs from a reference, as a symmetric matrix.

    map of a scan     log(G^-1/2 C G^-1/2)      C its Ledoit-Wolf covariance of standardised series
    back              G^1/2 exp(mean) G^1/2     the covariance whose map is the mean of maps; G the reference
Maps are taken with the matrix logarithm, by eigenvectors. Zero means "as the reference".
Source: Varoquaux et al. 2010, MICCAI, doi:10.1007/978-3-642-15705-9_25; as nilearn's
ConnectivityMeasure(kind="tangent") (tested), which does not standardise by itself.

T frames, R regions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.covariance import ledoit_wolf
from bjepa.gradients.connectivity.series import unit_series
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


def complete_covariances(phases: Sequence[NDArray[np.floating]], *, where: str) -> list[Array] | None:
    """The Ledoit-Wolf covariance (R, R) of each phase of a scan; None if a region is missing in one."""
    covariances = []
    for phase in phases:
        unit, missing = unit_series(phase, where=where)
        if missing.any():
            return None
        covariances.append(ledoit_wolf(unit))
    return covariances


class TangentSpace:
    """The space at `reference` (R, R), symmetric and positive definite."""

    def __init__(self, reference: Array) -> None:
        values, vectors = np.linalg.eigh(reference)
        self._root = (vectors * np.sqrt(values)) @ vectors.T
        self._whitening = (vectors / np.sqrt(values)) @ vectors.T

    def log(self, covariance: Array, *, where: str) -> Array:
        """The map (R, R) of a covariance.

        Raises
        ------
        InputError
            The covariance is singular: two regions hold the same series.
        """
        whitened = self._whitening @ covariance @ self._whitening
        values, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
        if values[0] <= 0:
            raise InputError(
                f"{where} has a singular covariance (smallest eigenvalue {values[0]:.1e}), so that it has no "
                "logarithm.",
                hint="Look for regions that hold the same series, or use another kind of connectivity.",
            )
        return _symmetric((vectors * np.log(values)) @ vectors.T)

    def exp(self, tangent: Array) -> Array:
        """The covariance (R, R) of a map."""
        return _symmetric(self._root @ of_eigenvalues(np.exp, tangent) @ self._root)


def of_eigenvalues(function: Callable[[Array], Array], symmetric: Array) -> Array:
    """A symmetric matrix (R, R) with a function of its eigenvalues in their place."""
    values, vectors = np.linalg.eigh(symmetric)
    return _symmetric((vectors * function(values)) @ vectors.T)


def _symmetric(matrix: Array) -> Array:
    half: Array = (matrix + matrix.T) / 2
    return half
