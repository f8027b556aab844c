"""From connectivity to a gradient atlas: exact, aligned, and how good it is.

The way of the numbers, and where to look for each step:

    inputs.py            what INPUT is: scans.py (shards, tables, surface series) or one matrix; regions.py
    connectivity/        of a scan, of a group, of each participant; streaming, on all cores
    affinity.py          how alike two regions' profiles are
    neighbours/          the same for vertices, of each the nearest only, in bounded memory
    embedding/           components: diffusion map, Laplacian eigenmaps, principal components; certified
    recipe.py            the one way from a matrix to components, for groups, halves and participants alike
    alignment/           turned towards a file, the published HCP gradients, or embedded together
    groups.py, individuals.py (participant_gradients.py, present.py, participants_table.py)
    quality/             cross-check, split halves, variance, comparison, maps with null models
    atlas_io.py, atlas_reading.py, painting.py   the files
    report.py (report_*.py, templates/), figures/   what one looks at
    pipeline.py          the order of all this; estimator.py: the same for scikit-learn
    bar.py, blas.py      what several of these share

The estimator is loaded when first used, so that importing this package does not import scikit-learn.
"""

from typing import TYPE_CHECKING, Any

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.alignment import align_gradients
from bjepa.gradients.atlas_io import GradientTable, load_gradients
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.embedding import diffusion_map, laplacian_eigenmaps, principal_components

if TYPE_CHECKING:
    from bjepa.gradients.estimator import DiffusionMap

__all__ = [
    "DiffusionMap",
    "GradientTable",
    "align_gradients",
    "compute_affinity",
    "diffusion_map",
    "functional_connectivity",
    "laplacian_eigenmaps",
    "load_gradients",
    "principal_components",
]


def __getattr__(name: str) -> Any:
    if name != "DiffusionMap":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bjepa.gradients.estimator import DiffusionMap

    return DiffusionMap
