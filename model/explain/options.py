"""The options of `explain`, checked once."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.model.explain.attribution import METHODS
from bjepa.model.readouts.pooling import SECOND_ORDER, Pooling
from bjepa.preproc.errors import InputError

Head = Literal["linear", "finetune"]
Sanity = Literal["cascade", "complete", "none"]
Baseline = Literal["auto", "median", "participants"]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How a model is explained; the defaults of the command.

    Raises InputError where a value is not allowed.
    """

    layer: str = "last"  # last, all, or a number from 1
    limit: int | None = None  # participants, drawn by the seed
    seed: int = 0
    batch_size: int = 8  # windows at a time, where gradients are computed
    # of the prediction
    head: Head = "linear"
    pooling: Pooling = "mean"
    max_epochs: int | None = None  # of fine-tuning
    task: str = "auto"
    group: str = "participant_id"
    n_splits: int = 5
    target_class: str | None = None  # whose output is explained; None: the last
    attribution: tuple[str, ...] = ("integrated-gradients",)
    baseline: Baseline = "auto"
    n_steps: int = 8  # points on the path of integrated gradients
    # of the sanity check
    sanity: Sanity = "cascade"
    sanity_participants: int = 10
    sanity_draws: int = 3

    def __post_init__(self) -> None:
        for name, kind in (("head", Head), ("sanity", Sanity), ("baseline", Baseline), ("pooling", Pooling)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise InputError(f"--{name} must be one of {', '.join(get_args(kind))}, got {value!r}.")
        if unknown := [name for name in self.attribution if name not in METHODS]:
            raise InputError(
                f"--attribution: {unknown[0]!r} is no method; there are {', '.join(METHODS)}.",
                hint="Give one or both, with a comma between.",
            )
        if not self.attribution or len(set(self.attribution)) < len(self.attribution):
            raise InputError(f"--attribution must name each method once, got {','.join(self.attribution)!r}.")
        if self.max_epochs is not None and self.head != "finetune":
            raise InputError(
                "--max-epochs is for --head finetune; a linear head has no epochs.", hint="Leave it out."
            )
        least = {"limit": 1, "batch_size": 1, "n_steps": 2, "sanity_participants": 2, "sanity_draws": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"--{name.replace('_', '-')} must be {low} or more, got {value}.")

    @property
    def resolved_baseline(self) -> Baseline:
        """`auto`: the median; other participants where only what fluctuates together counts.

        Correlations do not change along a path from zero but at its very beginning, where no point lies.
        """
        if self.baseline != "auto":
            return self.baseline
        return "participants" if self.pooling in SECOND_ORDER else "median"

    def layers(self, depth: int) -> list[int]:
        """Numbers from 1 of the layers whose attention is shown."""
        if self.layer == "last":
            return [depth]
        if self.layer == "all":
            return list(range(1, depth + 1))
        if self.layer.isdecimal() and 1 <= int(self.layer) <= depth:
            return [int(self.layer)]
        raise InputError(
            f"--layer must be last, all, or a number from 1 to {depth} (the layers of this model), got "
            f"{self.layer!r}."
        )

    def draw(self, n: int, at_most: int | None) -> NDArray[np.int64]:
        """Numbers of the participants taken, in order: all of n, or so many of them."""
        if at_most is None or at_most >= n:
            return np.arange(n)
        return np.sort(np.random.default_rng(self.seed).choice(n, size=at_most, replace=False))
