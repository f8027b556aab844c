"""Series scaled as a model's training data were, whatever the scaling of the shards they are read from.

the model does not say its scaling     the series as the shards hold them, and a warning
the shards are scaled the same way     the series as the shards hold them
else                                   back to the units of the scan, then the model's scaling; a warning
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bjepa.model.about import About
from bjepa.model.evaluation.recordings import Recordings, region_scaling, scaled
from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import PER_SCAN
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

log = logging.getLogger(__name__)
ReadSeries = Callable[[int], NDArray[np.float32]]  # number in the reader -> (T, R), 0 in missing regions


def as_the_model(model: JEPA, reader: ShardReader, *, tell: bool = True) -> ReadSeries:
    """How to read a series for `model`; says in the log what is done, if `tell`. Nothing is read yet.

    Raises
    ------
    InputError
        The shards' scaling differs and cannot be undone: of each scan, and not kept.
    """
    about, level = model.about, logging.WARNING if tell else logging.DEBUG
    if about is None or not knows_scaling(model):
        log.log(
            level,
            "The model does not say how its training data were scaled: the series are taken as the shards "
            "hold them (%s).",
            reader.scaling,
        )
        return reader.__getitem__
    scaling = about.scaling
    same = np.array_equal(scaling.median, reader.median) and np.array_equal(scaling.iqr, reader.iqr)
    if same and scaling.method == reader.scaling:
        return reader.__getitem__
    if reader.scaling in PER_SCAN and not reader.per_scan:
        raise InputError(
            f"The shards are scaled by {reader.scaling} and do not keep each scan's part; the model's "
            f"training data were scaled by {scaling.method}, which needs the scans' own units.",
            hint="Run bjepa-preprocess again on the time-series files, with --overwrite.",
        )
    log.log(
        level,
        "The shards are not scaled as the model's training data were (%s; %s%s): each series is brought back "
        "to its own units and scaled as those.",
        reader.scaling,
        scaling.method,
        " with other medians and IQRs" if scaling.method == reader.scaling else "",
    )
    return _Rescaled(Recordings(reader, ()), about)


def scaled_reader(recordings: Recordings) -> ReadSeries:
    """How to read a series scaled by median and IQR of each region over these participants."""
    scaling = region_scaling(recordings)

    def read(number: int) -> NDArray[np.float32]:
        return scaled(recordings.read(number), scaling)

    return read


def knows_scaling(model: JEPA) -> bool:
    """Whether the model's folder tells how its training data were scaled."""
    return model.about is not None and model.about.scaling_table is not None


class _Rescaled:
    def __init__(self, recordings: Recordings, about: About) -> None:
        self.recordings, self.about = recordings, about

    def __call__(self, number: int) -> NDArray[np.float32]:
        return self.about.scale(self.recordings.read(number))
