"""All baselines by name: what each reads, and which tasks it is for. The readout of all is `linear.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.connectivity import fc_edges
from bjepa.model.baselines.static_mean import static_means
from bjepa.model.evaluation.cohort import TASKS, Task
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.preproc.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Method:
    """A baseline: features of each scan, (n_scans, D) float32, computed without any target."""

    summary: str
    features: Callable[[ScanData], NDArray[np.float32]]
    tasks: tuple[str, ...] = TASKS
    needs_series: bool = False


METHODS: dict[str, Method] = {
    "static-mean": Method(
        summary="control: each region's mean over time, unscaled; ridge or logistic regression",
        features=static_means,
        needs_series=True,
    ),
    "fc-ridge": Method(
        summary="functional connectivity (Fisher z, upper triangle), ridge regression",
        features=fc_edges,
        tasks=("regression",),
    ),
    "fc-logistic": Method(
        summary="functional connectivity (Fisher z, upper triangle), logistic regression",
        features=fc_edges,
        tasks=("classification",),
    ),
}


def methods_for(task: Task, data: ScanData) -> list[str]:
    """Names of the methods that suit a task and the data."""
    return [n for n, m in METHODS.items() if task in m.tasks and not (m.needs_series and data.reader is None)]


def check_methods(names: Sequence[str], task: Task) -> None:
    """Refuse an unknown method, one given twice, or one that is for the other task (InputError)."""
    for name in names:
        if name not in METHODS:
            near = get_close_matches(name, METHODS, n=1, cutoff=0.4)
            raise InputError(
                f"--methods: {name!r} is no method; there are {', '.join(METHODS)}.",
                hint=f"Did you mean {near[0]!r}?" if near else "",
            )
        if task not in METHODS[name].tasks:
            instead = [
                n for n, m in METHODS.items() if task in m.tasks and m.features is METHODS[name].features
            ]
            raise InputError(
                f"--methods: {name!r} is for {METHODS[name].tasks[0]}, the task is {task}.",
                hint=f"Use {', '.join(instead)}, or --task {METHODS[name].tasks[0]}.",
            )
    if len(set(names)) < len(names):
        raise InputError(f"--methods names a method twice: {', '.join(names)}.", hint="Name each once.")
