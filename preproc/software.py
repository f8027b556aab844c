"""The versions of what decides a scan's numbers."""

import functools
import platform
from importlib.metadata import version

import bjepa

_DECISIVE = ("h5py", "isal", "nibabel", "nilearn", "numpy", "pandas", "scipy")


@functools.cache
def software_versions() -> dict[str, str]:
    """bjepa, Python and the libraries that a scan passes through, by name."""
    return {
        "bjepa": bjepa.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _DECISIVE},
    }
