"""What a result is in a comparison, told from its name: the model in question, or what it has to beat."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

PROBE = "probe"  # the linear probe of the model's mean tokens
CONTROL, UNTRAINED, CONFOUNDS = "static-mean", "random-encoder", "confounds"
ADJUSTED = "-adjusted"  # the end of the name of a result after confounds were regressed out
LINEAR_FC = ("fc-ridge", "fc-logistic")  # what a model has to beat first

Role = Literal["model", "baseline", "control", "untrained", "confounds", "adjusted"]


def role_of(name: str, models: Collection[str]) -> Role:
    """The role of a result. `models`: names of the results that are of the models in question."""
    if name.endswith(ADJUSTED):
        return "adjusted"
    if name in models:
        return "model"
    fixed: dict[str, Role] = {CONTROL: "control", UNTRAINED: "untrained", CONFOUNDS: "confounds"}
    return fixed.get(name, "baseline")
