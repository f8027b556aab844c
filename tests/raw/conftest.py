"""What tests of raw fMRI share."""

import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import pytest

from bjepa.preproc.demo.atlas import build_demo_atlas, write_demo_atlas
from bjepa.preproc.demo.raw_cohort import COARSE, RawTruth, write_raw_cohort


@pytest.fixture(scope="session")
def ants() -> None:
    """A test that registers images: skipped without antspyx; in CI, if it has wheels, a failure."""
    if importlib.util.find_spec("ants") is None:
        if os.environ.get("CI") == "true" and sys.version_info < (3, 14):
            pytest.fail("antspyx is not installed (in CI it must be)")
        pytest.skip("antspyx is not installed (pip install 'bjepa[raw]')")


@pytest.fixture(scope="session", autouse=True)
def _only_the_template_that_nilearn_brings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On every machine the same: no FSL, an empty cache of TemplateFlow, and nobody who answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FSLDIR", raising=False)
        patch.setenv("TEMPLATEFLOW_HOME", str(tmp_path_factory.mktemp("templateflow")))
        patch.setattr("bjepa.preproc.raw.templateflow.ADDRESS", "http://127.0.0.1:9")
        yield


@dataclass(frozen=True)
class SmallCohort:
    """Two simulated participants on coarse grids, the first with two runs, and the command's arguments."""

    raw: Path
    atlas: Path
    truths: list[RawTruth]

    def command(self, output: Path, *more: str) -> list[str]:
        """Arguments of bjepa-preprocess that take a few seconds a registration."""
        return [
            *(str(self.raw), str(output), *more),
            *("--atlas", str(self.atlas / "demo_dseg.nii.gz")),
            *("--atlas-labels", str(self.atlas / "demo_dseg.tsv"), "--space", "MNI152NLin2009cAsym"),
            *("--sloppy", "--n-jobs", "1", "--log-level", "warning", "--drop-initial", "auto"),
            *(() if "--confounds" in more else ("--confounds", "none")),
        ]


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory, ants: None) -> SmallCohort:
    """Written once; the participants' shards need bjepa[raw]."""
    folder = tmp_path_factory.mktemp("raw-cohort")
    atlas = build_demo_atlas(4.0)
    write_demo_atlas(atlas, folder / "atlas")
    labels = nib.Nifti1Image(atlas.labels, atlas.affine)
    write = functools.partial(write_raw_cohort, folder / "raw", atlas_labels=labels, protocol=COARSE)
    truths = write(n_participants=1, n_frames=40, runs=2) + write(n_participants=1, first=2, n_frames=30)
    return SmallCohort(folder / "raw", folder / "atlas", truths)
