"""The whole command over an fMRIPrep tree, against nilearn's own way: resample_img, label means, clean.

3 participants x 2 spaces x 2 runs, made here; the confounds are a real fMRIPrep 21 table (30 frames) and its
JSON, stretched in time to the length of a run.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.signal import clean
from scipy.interpolate import CubicSpline
from scipy.signal import butter, detrend, sosfiltfilt

from bjepa.cli.preprocess import main
from bjepa.preproc import ShardReader, load_atlas
from bjepa.preproc.atlas import Atlas

SPACES = {  # origin of a 7 mm grid that covers the brain, in mm
    "MNI152NLin6Asym": (-92.0, -130.0, -74.0),
    "MNI152NLin2009cAsym": (-98.0, -134.0, -80.0),
}
SHAPE, N_FRAMES, T_R = (28, 33, 27), 90, 1.1
DATA = "data/confounds/nilearn/test-v21_desc-confounds_timeseries"


def _stretch(table: pd.DataFrame) -> pd.DataFrame:
    """The real columns over N_FRAMES frames: interpolated, with motion small enough to leave most frames."""
    rng = np.random.default_rng(3)
    there, wanted = np.linspace(0, 1, len(table)), np.linspace(0, 1, N_FRAMES)
    columns = {}
    for name in table.columns:
        if name.startswith("motion_outlier"):
            continue
        if name.startswith("non_steady_state"):
            columns[name] = np.eye(N_FRAMES)[int(name[-2:])]
            continue
        values = table[name].to_numpy(dtype=float)
        first = int(np.isnan(values[0]))
        values = np.interp(wanted, there[first:], values[first:])
        values += rng.normal(0, 0.2 * values.std() + 1e-9, N_FRAMES)
        values[0] = np.nan if first else values[0]
        columns[name] = values
    stretched = pd.DataFrame(columns)
    stretched["framewise_displacement"] *= 0.15
    stretched["std_dvars"] *= 0.5
    return stretched


@pytest.fixture(scope="module")
def fmriprep(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("derivatives") / "fmriprep"
    root.mkdir()
    mini = shared / "data/bids/ds000228_mini/derivatives/fmriprep/dataset_description.json"
    shutil.copy(mini, root / mini.name)
    confounds = _stretch(pd.read_csv(shared / f"{DATA}.tsv", sep="\t"))
    rng = np.random.default_rng(4)
    for participant in ("01", "02", "03"):
        func = root / f"sub-{participant}/func"
        func.mkdir(parents=True)
        for run in ("1", "2"):
            stem = f"sub-{participant}_task-rest_run-{run}"
            table = confounds + rng.normal(0, 1e-6, confounds.shape)
            for name in [c for c in table if c.startswith("non_steady_state")]:
                table[name] = confounds[name]
            path = func / f"{stem}_desc-confounds_timeseries.tsv"
            table.to_csv(path, sep="\t", index=False, na_rep="n/a")
            shutil.copy(shared / f"{DATA}.json", path.with_suffix(".json"))
            for space, origin in SPACES.items():
                _write_run(func / f"{stem}_space-{space}_desc-preproc_bold.nii.gz", origin, table, rng)
    return root


def _write_run(path: Path, origin: tuple[float, ...], table: pd.DataFrame, rng: np.random.Generator) -> None:
    """Noise, drift and motion in every voxel, so that each strategy has something to remove."""
    affine = np.diag([7.0, 7.0, 7.0, 1.0])
    affine[:3, 3] = origin
    nuisance = np.nan_to_num(table[["trans_x", "rot_z", "csf", "cosine00"]].to_numpy())
    nuisance = (nuisance - nuisance.mean(0)) / nuisance.std(0)  # (N_FRAMES, 4)
    signal = rng.normal(0, 20, (*SHAPE, N_FRAMES)) + rng.normal(0, 15, (*SHAPE, 4)) @ nuisance.T
    data = (signal + rng.uniform(800, 1200, (*SHAPE, 1))).astype(np.float32)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    nib.save(image, path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": T_R}))
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine)
    nib.save(mask, path.with_name(path.name.replace("desc-preproc_bold", "desc-brain_mask")))


@pytest.fixture(scope="module")
def by_nilearn(
    fmriprep: Path, shared: Path, means_by_nilearn: Callable[[Path, Atlas], np.ndarray]
) -> dict[str, np.ndarray]:
    """Of the second run of sub-02, in either space."""
    means = {}
    for space in SPACES:
        atlas = load_atlas(space=space, atlas_dir=shared / "data/atlas")
        means[space] = means_by_nilearn(_bold(fmriprep, space), atlas)
    return means


def _bold(root: Path, space: str) -> Path:
    return root / f"sub-02/func/sub-02_task-rest_run-2_space-{space}_desc-preproc_bold.nii.gz"


def _preprocess(fmriprep: Path, out: Path, shared: Path, space: str, *argv: Any) -> None:
    atlases = ["--atlas-dir", str(shared / "data/atlas"), "--space", space]
    options = [*atlases, *map(str, argv), "--log-level", "error", "--n-jobs", "1"]
    assert main([str(fmriprep), str(out), *options]) == 0


def _scan(out: Path, space: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    (path,) = out.glob(f"sub-02/func/sub-02_*run-2_space-{space}_*_timeseries.h5")
    with h5py.File(path) as file:
        return file["timeseries"][:], file["censored"][:], json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("space", sorted(SPACES))
def test_uncleaned_series_equal_nilearn_in_both_spaces(
    fmriprep: Path, by_nilearn: dict[str, np.ndarray], shared: Path, tmp_path: Path, space: str
) -> None:
    _preprocess(fmriprep, tmp_path / "out", shared, space, "--confounds", "none")
    series, _, facts = _scan(tmp_path / "out", space)
    assert np.abs(series / by_nilearn[space] - 1).max() <= 1e-6
    assert facts["space"] == space and facts["t_r"] == T_R
    scans = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")
    assert len(scans) == 6 and set(scans["space"]) == {space} and set(scans["run"]) == {1, 2}
    assert len(ShardReader(tmp_path / "out")) == 12  # 1.1 s: stride 2


@pytest.mark.parametrize("strategy", ["simple", "compcor"])
def test_cleaned_series_equal_nilearn(
    fmriprep: Path, by_nilearn: dict[str, np.ndarray], shared: Path, tmp_path: Path, strategy: str
) -> None:
    space = "MNI152NLin6Asym"
    argv = ("--confounds", strategy, "--low-pass", "0.3", "--participant-label", "02", "--run-id", "2")
    _preprocess(fmriprep, tmp_path / "out", shared, space, *argv)
    series, censored, facts = _scan(tmp_path / "out", space)
    raw = by_nilearn[space]
    confounds, kept = load_confounds_strategy(str(_bold(fmriprep, space)), denoise_strategy=strategy)
    assert kept.tolist() == list(range(3, N_FRAMES))  # the non-steady-state frames are censored
    expected = clean(
        raw, confounds=confounds, sample_mask=kept, detrend=True, standardize=None, low_pass=0.3, t_r=T_R
    )
    expected = expected - expected.mean(0) + raw[kept].mean(0)
    assert np.abs(series[kept] - expected).max() / np.abs(expected).max() <= 1e-6
    assert facts["confounds"] == list(confounds.columns) and np.flatnonzero(censored).tolist() == [0, 1, 2]
    assert series.std(axis=0).mean() < 0.8 * raw.std(axis=0).mean()  # something was removed


def test_scrubbed_series_equal_an_independent_computation(
    fmriprep: Path, by_nilearn: dict[str, np.ndarray], shared: Path, tmp_path: Path
) -> None:
    """nilearn's own clean mirrors the sample mask of the frames to interpolate: it is no judge here."""
    space = "MNI152NLin6Asym"
    argv = ("--confounds", "scrubbing", "--low-pass", "0.3", "--participant-label", "02", "--run-id", "2")
    _preprocess(fmriprep, tmp_path / "out", shared, space, *argv)
    series, censored, facts = _scan(tmp_path / "out", space)
    raw = by_nilearn[space]
    confounds, kept = load_confounds_strategy(str(_bold(fmriprep, space)), denoise_strategy="scrubbing")
    keep = np.zeros(N_FRAMES, bool)
    keep[kept] = True
    assert 10 < (~keep).sum() < 60 and (censored == ~keep).all() and facts["n_censored"] == (~keep).sum()
    expected = _cleaned_by_hand(raw, confounds.to_numpy(dtype=float), keep)
    assert np.abs(series[keep] - expected).max() / np.abs(expected).max() <= 1e-6
    assert np.isfinite(series).all()


def _cleaned_by_hand(raw: np.ndarray, confounds: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The documented order by scipy: bridge, detrend, low-pass, regress on kept frames, add the mean."""
    first, last = np.flatnonzero(keep)[[0, -1]]
    frames, inside = np.arange(first, last + 1), keep[first : last + 1]
    sos = butter(5, 0.3, "lowpass", fs=1 / T_R, output="sos")
    filtered = []
    for columns in (raw, confounds):
        bridged = CubicSpline(np.flatnonzero(keep), columns[keep])(frames)
        bridged[inside] = columns[keep]
        kept = sosfiltfilt(sos, detrend(bridged, axis=0), axis=0)[inside]
        filtered.append(kept - kept.mean(axis=0))
    signals, regressors = filtered
    residual = signals - regressors @ np.linalg.lstsq(regressors, signals, rcond=None)[0]
    return np.asarray(residual + raw[keep].mean(axis=0))


def test_law_both_ways_of_naming_participants_give_the_same_bytes(
    fmriprep: Path, shared: Path, tmp_path: Path
) -> None:
    for name, label in (("a", "02"), ("b", "sub-02")):
        _preprocess(
            fmriprep,
            tmp_path / name,
            shared,
            "MNI152NLin6Asym",
            "--participant-label",
            label,
            "--scaling",
            "none",
        )
    one, two = (tmp_path / name / "shards/shard-00000.h5" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
