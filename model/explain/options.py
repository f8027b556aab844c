"""The options of `explain`, checked once."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bjepa.model.explain.attribution import METHODS
from bjepa.preproc.errors import InputError

Sanity = Literal["cascade", "complete", "none"]
Baseline = Literal["median", "participants"]


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
    task: str = "auto"
    group: str = "participant_id"
    n_splits: int = 5
    target_class: str | None = None  # of more than two classes: whose output; None: the last
    attribution: tuple[str, ...] = ("integrated-gradients",)
    baseline: Baseline = "median"
    n_steps: int = 16  # points on the path of integrated gradients
    # of the sanity check
    sanity: Sanity = "cascade"
    sanity_participants: int = 10
    sanity_draws: int = 3

    def __post_init__(self) -> None:
        for name, allowed in (("sanity", get_args(Sanity)), ("baseline", get_args(Baseline))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"--{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}."
                )
        if unknown := [name for name in self.attribution if name not in METHODS]:
            raise InputError(
                f"--attribution: {unknown[0]!r} is no method; there are {', '.join(METHODS)}.",
                hint="Give one or both, with a comma between.",
            )
        if not self.attribution or len(set(self.attribution)) < len(self.attribution):
            raise InputError(f"--attribution must name each method once, got {','.join(self.attribution)!r}.")
        for name in ("limit", "batch_size", "n_steps", "sanity_participants", "sanity_draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {value}.")

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
