"""bjepa as a model of `brainmarks`, which finds it in its namespace once both are installed.

    export BJEPA_MODEL=RUN
    python -m brainmarks.models.test_models bjepa
    python -m brainmarks.main_logistic bjepa patch aabc_sex --overrides device=cpu

docs/brainmarks.md has the options. The work is done in bjepa.model.evaluation.brainmarks_model.
"""

from brainmarks.models.registry import register_model

from bjepa.model.evaluation.brainmarks_model import (
    BrainmarksEncoder,
    BrainmarksTransform,
    ScaledBy,
    open_model,
)


@register_model
def bjepa(
    model: str | None = None, scaled_by: ScaledBy = "benchmark", t_r: float | None = None
) -> tuple[BrainmarksTransform, BrainmarksEncoder]:
    """The target encoder of a trained model."""
    return open_model(model, scaled_by=scaled_by, t_r=t_r)


@register_model
def bjepa_untrained(
    model: str | None = None, scaled_by: ScaledBy = "benchmark", t_r: float | None = None, seed: int = 0
) -> tuple[BrainmarksTransform, BrainmarksEncoder]:
    """The control: an encoder of the same sizes with fresh weights, on the same inputs."""
    return open_model(model, scaled_by=scaled_by, t_r=t_r, untrained_seed=seed)
