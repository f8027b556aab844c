"""What a result is in a comparison, told from its name: the model in question, or what it has to beat."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

PROBE = "probe"  # the linear probe of the model's mean tokens
CONTROL, UNTRAINED, CONFOUNDS = "static-mean", "random-encoder", "confounds"
SCRATCH = "scratch"  # the encoder with random weights, trained to the target
ADJUSTED = "-adjusted"  # the end of the name of a result after confounds were regressed out
LINEAR_FC = ("fc-ridge", "fc-logistic")  # what a model has to beat first

Role = Literal["model", "baseline", "control", "untrained", "confounds", "adjusted"]


def role_of(name: str, models: Collection[str]) -> Role:
    """The role of a result. `models`: names of the results that are of the models in question."""
    if name.endswith(ADJUSTED):
        return "adjusted"
    if name in models:
        return "model"
    if name.startswith(UNTRAINED):
        return "untrained"
    fixed: dict[str, Role] = {CONTROL: "control", CONFOUNDS: "confounds"}
    return fixed.get(name, "baseline")


def untrained_as(model: str) -> str:
    """The same network without pretraining, read out as the result `model` is.

    probe: random-encoder; probe-network: random-encoder-network; finetune and lora: scratch.
    """
    readout = model.split(":")[0]  # of several models: READOUT:MODEL
    if readout in ("finetune", "lora"):
        return SCRATCH
    return UNTRAINED + readout.removeprefix(PROBE) if readout.startswith(PROBE) else UNTRAINED
