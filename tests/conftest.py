"""What tests share: the folder of real data, and how its absence is told."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_LOG_LEVEL = logging.getLogger().level


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout (override: BJEPA_SHARED); it is not part of the project."""
    folder = Path(os.environ.get("BJEPA_SHARED", ROOT.parent / "shared")).resolve()
    if not (folder / "data").is_dir():
        reason = f"no real data at {folder}; set BJEPA_SHARED to run this test"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason} (in CI they must be there)")
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def _skip_without_gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands set up the root logger; no test must inherit their level, nor from a fixture of a module."""
    logging.getLogger().setLevel(_LOG_LEVEL)
    yield
    logging.getLogger().setLevel(_LOG_LEVEL)
    logging.captureWarnings(False)
