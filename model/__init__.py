"""The JEPA: tokens, masks, training, and the evaluation of what was learnt.

The network       jepa <- encoder, predictor <- blocks <- attention; positions (place and time of a token),
                  tokens (packed lists), flops
What is asked     masking <- mask_samplers (the paper's), mask_samplers_plain, mask_samplers_released;
                  objective <- regularizers; ema, schedules
What goes in      inputs, dataset <- augment; batch, sampling (who reads what), loading (read ahead)
A run             trainer: the order of things; train_step: one update; run_folder, run_state, checkpoint,
                  distributed, device, stop_request; config and configs/ (recipes)
What is watched   monitors, collapse (in words), online_probe, epoch_tally; runlog, wandb_log, console,
                  run_record, report <- report_figures <- page_figures
What comes out    hub (the model folder), weights (checked), official and official_export (the released
                  container)
How good it is    evaluation/ (cohort, splits, folds, scores, the page), readouts/ (probes, fine-tuning),
                  baselines/ (what a model must beat), explain/ (what it attends to and uses)

Names are loaded when first used, so that importing this package stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bjepa.model.config import ModelConfig
    from bjepa.model.dataset import ShardDataset
    from bjepa.model.evaluation.embedder import Embedder
    from bjepa.model.hub import load_model
    from bjepa.model.jepa import JEPA
    from bjepa.model.official import load_official_checkpoint
    from bjepa.model.official_export import export_official_checkpoint

_HOME = {
    "JEPA": "bjepa.model.jepa",
    "ModelConfig": "bjepa.model.config",
    "load_model": "bjepa.model.hub",
    "load_official_checkpoint": "bjepa.model.official",
    "export_official_checkpoint": "bjepa.model.official_export",
    "ShardDataset": "bjepa.model.dataset",
    "Embedder": "bjepa.model.evaluation.embedder",
}
__all__ = [
    "JEPA",
    "Embedder",
    "ModelConfig",
    "ShardDataset",
    "export_official_checkpoint",
    "load_model",
    "load_official_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
