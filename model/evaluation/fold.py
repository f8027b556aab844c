"""What a method is, and what it may see: a split's development part, and of the test part the inputs alone.

A method is given one `Fold` after the other and returns predictions for the test part. The targets of the
test part are not in a Fold, and the inputs of the test part are a separate object, so nothing can be fitted
on them by oversight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import TASKS, Task

if TYPE_CHECKING:
    from bjepa.model.evaluation.scan_data import ScanData


class Inputs(Protocol):
    """What a method reads of the participants, along the first axis: an array, or `Recordings`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> Self: ...


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One split as a method sees it. n participants of the development part, m of the test part."""

    task: Task
    classes: list[str]  # names; empty in regression
    inputs: Any  # Inputs, n participants
    target: NDArray[Any]  # (n,) float64 values, or int64 numbers of `classes`
    inner_fold: NDArray[np.int64]  # (n,) a cheap method holds out each value in turn to choose its settings
    is_val: NDArray[np.bool_]  # (n,) the split's validation part, for methods that fit once
    test_inputs: Any  # Inputs, m participants
    seed: int  # all of a method's randomness comes from it
    device: str = "cpu"  # for networks
    max_epochs: int | None = None  # networks train no longer than this; None: as their settings say

    @property
    def n_outputs(self) -> int:
        """Numbers that a network puts out for a participant: 1 in regression, else one a class."""
        return len(self.classes) or 1


@dataclass(frozen=True)
class Prediction:
    """Predictions for the test part of a fold, and what was chosen on the development part to get there."""

    values: NDArray[np.float64]  # (m,), or probabilities (m, n_classes)
    settings: dict[str, Any] = field(default_factory=dict)  # plain numbers and text: goes into run.json


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way from scans to predictions. `inputs` never sees a target, `fit_predict` never a test target."""

    summary: str  # a line for the report
    inputs: Callable[[ScanData, Sequence[str]], Any]  # (data, participants) -> Inputs in their order
    fit_predict: Callable[[Fold], Prediction]
    tasks: tuple[str, ...] = TASKS
    needs_series: bool = False  # connectomes alone will not do
    trains_network: bool = False  # minutes, not seconds: not among the defaults, not refitted to permutations
    default: bool = False  # taken when no methods are named
