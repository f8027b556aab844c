"""What connectivity of one scan is, and how the mean over scans becomes the group's.

    kind          map of a scan                                  group connectivity
    pearson       Fisher z of r                                  mean of maps
    ledoit-wolf   Fisher z of r of the shrunk covariance         mean of maps
    partial       Fisher z of partial correlation                mean of maps
    tangent       log of the shrunk covariance at a reference    Fisher z of r of the covariance whose map is
                                                                 the mean of maps
Every kind is a map per scan that is averaged edge by edge over the scans that have it; so halves, groups and
single participants are means of the same maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.blas import one_blas_thread
from bjepa.gradients.connectivity.scan_maps import (
    as_fisher_z,
    fisher_z,
    ledoit_wolf_z,
    mean_over_phases,
    partial_z,
)
from bjepa.gradients.connectivity.tangent import TangentSpace, complete_covariances
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
Kind = Literal["pearson", "ledoit-wolf", "partial", "tangent"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_Z_OF_SERIES = {"pearson": fisher_z, "ledoit-wolf": ledoit_wolf_z, "partial": partial_z}


@dataclass(frozen=True)
class Measure:
    """One kind of connectivity; `fit_measure` makes it from scans.

    Parameters
    ----------
    reference : (R, R) covariance at which maps of the kind `tangent` are taken; of that kind only
    """

    kind: Kind = "pearson"
    reference: Array | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"connectivity must be one of {', '.join(KINDS)}; got {self.kind!r}.")
        if (self.kind == "tangent") != (self.reference is not None):
            raise ValueError("a reference belongs to the kind tangent, and to no other; see fit_measure")

    def of_scan(self, phases: Sequence[NDArray[np.floating]], *, where: str) -> Array:
        """The map of one scan, mean over its phases: (R, R) float64.

        NaN at edges of missing regions; of the kind `tangent`, NaN everywhere if a region is missing.
        `where` names the scan in messages.

        Raises
        ------
        InputError
            Series that cannot be correlated; a singular covariance (tangent).
        """
        if self.kind != "tangent":
            z_of = _Z_OF_SERIES[self.kind]
            return mean_over_phases([z_of(phase, where=where) for phase in phases])
        covariances = complete_covariances(phases, where=where)
        if covariances is None:
            return np.full(2 * (np.shape(phases[0])[1],), np.nan)
        maps = [self._space.log(covariance, where=where) for covariance in covariances]
        return mean_over_phases(maps)

    def group(self, mean: Array) -> Array:
        """Group connectivity (R, R) from the mean of maps: Fisher z, diagonal 0."""
        if self.kind != "tangent":
            return mean
        with one_blas_thread():
            covariance = self._space.exp(mean)
        scale = 1 / np.sqrt(np.diag(covariance))
        return as_fisher_z(covariance * scale * scale[:, None])

    @cached_property
    def _space(self) -> TangentSpace:
        assert self.reference is not None
        return TangentSpace(self.reference)
