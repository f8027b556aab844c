"""The JEPA: tokens, masks, training, and the evaluation of what was learnt.

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
