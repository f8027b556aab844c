"""preproc/clean.py, confounds.py: what is regressed, filtered, censored; nilearn and scipy are the judges."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError
from bjepa.preproc.clean import CleaningOptions, Confounds, clean_timeseries, load_confounds

T, R, T_R = 140, 5, 0.8  # frames, regions, s
NO_CONFOUNDS = Confounds(None, 0, None)


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


def test_nothing_asked_nothing_changed(series: np.ndarray) -> None:
    assert_array_equal(clean_timeseries(series, NO_CONFOUNDS, CleaningOptions(), t_r=T_R), series)


def test_law_confounds_are_gone_and_means_stay(series: np.ndarray) -> None:
    nuisance = np.random.default_rng(1).normal(size=(T, 3)) * [1, 50, 1e-3] + 7
    spoilt = (series + nuisance @ np.random.default_rng(2).normal(size=(3, R)) * 20).astype(np.float32)
    confounds = Confounds(pd.DataFrame(nuisance), 0, None)
    first = clean_timeseries(series, confounds, CleaningOptions(confounds="simple"), t_r=T_R)
    second = clean_timeseries(spoilt, confounds, CleaningOptions(confounds="simple"), t_r=T_R)
    assert_allclose(first.mean(axis=0), series.mean(axis=0), rtol=1e-5)
    assert_allclose(second - second.mean(axis=0), first - first.mean(axis=0), atol=2e-3)
    # independent: residuals of an ordinary regression on trend, mean and confounds
    design = np.column_stack([np.ones(T), np.arange(T), nuisance])
    residual = series - design @ np.linalg.lstsq(design, series.astype(float), rcond=None)[0]
    assert_allclose(first - first.mean(axis=0), residual, atol=1e-3)


def test_filters_remove_what_they_say() -> None:
    time = np.arange(400) * T_R
    slow, middle, fast = (np.sin(2 * np.pi * f * time) for f in (0.004, 0.05, 0.4))
    signal = np.column_stack([slow, middle, fast, slow + middle + fast + 9]).astype(np.float32)
    options = CleaningOptions(high_pass=0.01, low_pass=0.1)
    cleaned = clean_timeseries(signal, NO_CONFOUNDS, options, t_r=T_R)
    inside = slice(60, -60)
    assert cleaned[inside, 0].std() < 0.1 and cleaned[inside, 2].std() < 0.1  # of 0.7
    assert np.corrcoef(cleaned[inside, 3], middle[inside])[0, 1] > 0.99
    assert cleaned[:, 3].mean() == pytest.approx(signal[:, 3].mean(), rel=1e-5)


def test_missing_regions_stay_missing_and_frames_drop(series: np.ndarray) -> None:
    holed = series.copy()
    holed[:, 2] = np.nan
    confounds = Confounds(None, 4, None)
    cleaned = clean_timeseries(holed, confounds, CleaningOptions(low_pass=0.1, drop_initial="auto"), t_r=T_R)
    assert cleaned.shape == (T - 4, R) and np.isnan(cleaned[:, 2]).all() and np.isfinite(cleaned[:, 3]).all()
    assert len(clean_timeseries(series, confounds, CleaningOptions(drop_initial=7), t_r=T_R)) == T - 7


@pytest.mark.parametrize(
    ("options", "confounds", "says"),
    [
        (CleaningOptions(low_pass=0.9), NO_CONFOUNDS, r"--low-pass must be in \(0, 0.625\)"),
        (CleaningOptions(drop_initial=139), NO_CONFOUNDS, "leaves 1 of 140"),
        (CleaningOptions(confounds="24p"), Confounds(pd.DataFrame(np.ones((9, 1))), 0, None), "have 9 rows"),
        (
            CleaningOptions(confounds="36p", drop_initial=2),
            Confounds(pd.DataFrame(np.random.default_rng(0).normal(size=(T, 136))), 0, None),
            "136 confounds, mean and trend explain all of 138 frames",
        ),
    ],
)
def test_cleaning_refused(
    series: np.ndarray, options: CleaningOptions, confounds: Confounds, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        clean_timeseries(series, confounds, options, t_r=T_R)


@pytest.mark.parametrize("strategy", ["none", "simple", "compcor", "24p", "36p"])
def test_real_fmriprep_confounds(shared: Path, tmp_path: Path, strategy: str) -> None:
    stem = "sub-01_task-rest_desc-confounds_timeseries"
    for ending in ("tsv", "json"):
        shutil.copyfile(
            shared / f"data/confounds/nilearn/test-v21_desc-confounds_timeseries.{ending}",
            tmp_path / f"{stem}.{ending}",
        )
    img = tmp_path / "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    img.touch()
    confounds = load_confounds(img, None, strategy)
    table = pd.read_csv(tmp_path / f"{stem}.tsv", sep="\t")
    assert confounds.fd_mean == pytest.approx(table["framewise_displacement"].mean())
    if strategy == "none":
        assert confounds.values is None
        return
    assert confounds.values is not None and len(confounds.values) == len(table) == 30
    columns = set(confounds.values.columns)
    motion = {c for c in table.columns if c.startswith(("trans_", "rot_"))}
    assert len(motion) == 24 and motion <= columns
    assert ("global_signal" in columns) == (strategy == "36p")
    assert any(c.startswith("a_comp_cor") for c in columns) == (strategy == "compcor")


def test_confounds_missing_or_own(tmp_path: Path) -> None:
    img = tmp_path / "sub-01_task-rest_desc-preproc_bold.nii.gz"
    img.touch()
    with pytest.raises(InputError, match="confounds 'simple'"):
        load_confounds(img, None, "simple")
    own = tmp_path / "own.tsv"
    own.write_text("framewise_displacement\ta\nn/a\t1\n0.5\t2\n")
    loaded = load_confounds(img, own, "simple")
    assert loaded.values is not None and loaded.values["framewise_displacement"].tolist() == [0, 0.5]
    assert loaded.fd_mean == 0.5
    own.write_text("a\nx\n")
    with pytest.raises(InputError, match="cannot be read as a table of numbers"):
        load_confounds(img, own, "simple")


def test_collinear_confounds_count_once(series: np.ndarray) -> None:
    few = np.random.default_rng(0).normal(size=(T, 4))
    many = np.column_stack([few, few @ np.random.default_rng(1).normal(size=(4, 200)), np.ones(T)])
    cleaned = [
        clean_timeseries(
            series, Confounds(pd.DataFrame(c), 0, None), CleaningOptions(confounds="36p"), t_r=T_R
        )
        for c in (few, many)
    ]
    assert_allclose(cleaned[1], cleaned[0], rtol=1e-4)
