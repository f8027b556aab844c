"""One set of gradients turned towards another, so that components can be compared."""

from bjepa.gradients.alignment.alignment import Alignment, align
from bjepa.gradients.alignment.hcp import hcp_reference
from bjepa.gradients.alignment.joint import align_jointly, joint_embedding
from bjepa.gradients.alignment.procrustes import (
    METHODS,
    Method,
    align_gradients,
    correlations,
    principal_cosines,
    turn_towards,
)
from bjepa.gradients.alignment.reference import Reference, load_reference
from bjepa.gradients.alignment.template import Template, procrustes_template

__all__ = [
    "METHODS",
    "Alignment",
    "Method",
    "Reference",
    "Template",
    "align",
    "align_gradients",
    "align_jointly",
    "correlations",
    "hcp_reference",
    "joint_embedding",
    "load_reference",
    "principal_cosines",
    "procrustes_template",
    "turn_towards",
]
