"""What tests of raw fMRI share."""

import importlib.util
import os
import sys

import pytest


@pytest.fixture(scope="session")
def ants() -> None:
    """A test that registers images: skipped without antspyx; in CI, if it has wheels, a failure."""
    if importlib.util.find_spec("ants") is None:
        if os.environ.get("CI") == "true" and sys.version_info < (3, 14):
            pytest.fail("antspyx is not installed (in CI it must be)")
        pytest.skip("antspyx is not installed (pip install 'bjepa[raw]')")
