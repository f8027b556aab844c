"""What the tests of preprocessing share: nilearn as the judge of regional means."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_img

from bjepa.preproc.atlas import Atlas


def _means_by_nilearn(img: Path, atlas: Atlas) -> np.ndarray:
    moved = resample_img(
        nib.load(img),
        target_affine=atlas.labels_img.affine,
        target_shape=atlas.labels.shape,
        interpolation="linear",
        force_resample=True,
        copy_header=True,
    ).get_fdata()
    return np.stack([moved[atlas.labels == k].mean(axis=0) for k in range(1, atlas.n_rois + 1)], axis=1)


@pytest.fixture(scope="session")
def means_by_nilearn() -> Callable[[Path, Atlas], np.ndarray]:
    """(n_frames, n_rois) label means of linearly resampled volumes, by nilearn and numpy alone."""
    return _means_by_nilearn


@pytest.fixture
def shown_in_chromium(tmp_path: Path) -> Callable[[Path], str]:
    """The page as the browser has it once its scripts ran; a complaint in its console is a failure."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    quiet = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run --enable-logging=stderr"
    ).split()

    def show(page: Path) -> str:
        done = subprocess.run(
            ["chromium", "--headless", *quiet, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return show
