"""All that an explanation found, for tables, pictures and report."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bjepa.model.explain.maps import Completeness
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.networks import NetworkRow, Scheme
from bjepa.model.explain.prediction import Prediction
from bjepa.model.explain.sanity import SanityRow
from bjepa.model.explain.windows import Participants

Array = NDArray[np.float64]


@dataclass(kw_only=True)
class Explanation:
    """n participants, R regions."""

    participants: Participants
    schemes: list[Scheme]
    measures: list[Measure]
    maps: dict[str, Array] = field(default_factory=dict)  # by measure, (n, R)
    prediction: Prediction | None = None
    completeness: Completeness | None = None
    networks: list[NetworkRow] = field(default_factory=list)
    sanity: list[SanityRow] = field(default_factory=list)

    def group_map(self, measure: Measure) -> Array:
        """(R,) mean over participants; NaN where nobody has the region."""
        values = self.maps[measure.name]
        known = np.isfinite(values)
        count = known.sum(axis=0)
        mean: Array = np.where(
            count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan
        )
        return mean

    def rows(self, scheme: str, measure: Measure) -> list[NetworkRow]:
        """The networks of a scheme, by a measure."""
        return [row for row in self.networks if row.scheme == scheme and row.measure == measure.name]
