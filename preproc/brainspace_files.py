"""The data files that ship inside the package brainspace: surfaces, vertex labels, HCP connectivity and maps.

Found without importing it, which would bring vtk (2 s). Vos de Wael et al. 2020,
doi:10.1038/s42003-020-0794-7.
"""

import importlib.util
from pathlib import Path

from bjepa.preproc.errors import InputError


def brainspace_datasets() -> Path:
    """The folder of its data files; InputError where it is not installed."""
    spec = importlib.util.find_spec("brainspace")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "The package brainspace is not installed; the surfaces and the HCP connectivity are in it.",
            hint="Install it: pip install brainspace",
        )
    return Path(spec.submodule_search_locations[0]) / "datasets"
