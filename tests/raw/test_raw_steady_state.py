"""Volumes before the signal is steady are counted as fMRIPrep counts them, and no others."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from bjepa.preproc.raw.steady_state import n_non_steady

F = NDArray[np.float64]


def level(n_frames: int, seed: int, noise: float = 0.003) -> F:
    rng = np.random.default_rng(seed)
    drift = 0.01 * np.cos(np.linspace(0, 3, n_frames))
    return np.asarray(800 * (1 + drift + noise * rng.normal(size=n_frames)))


def as_nipype_counts(signal: F) -> int:
    """Independent: modified z scores of the first 50, the run of outliers at the start."""
    first = signal[:50]
    away = np.abs(first - np.median(first))
    score = 0.6745 * away / np.median(away)
    return next((k for k, outlier in enumerate(score > 3.5) if not outlier), len(first))


@pytest.mark.parametrize("n_bright", [0, 1, 2, 5])
def test_bright_volumes_at_the_start_are_counted(n_bright: int) -> None:
    for seed in range(5):
        signal = level(137, seed)
        signal[:n_bright] *= 1 + 0.6 ** np.arange(1, n_bright + 1)
        assert n_non_steady(signal) == n_bright == as_nipype_counts(signal)
        assert n_non_steady(signal[:50]) == n_bright
        darker = np.concatenate([signal[:50], signal[50:] * 0.9])
        assert n_non_steady(darker) == n_bright  # later frames are not looked at


def test_what_is_not_bright_or_not_at_the_start_does_not_count() -> None:
    signal = level(60, 1)
    signal[0] *= 0.5  # darker: not a settling signal
    assert n_non_steady(signal) == 0
    signal = level(60, 1)
    signal[3:5] *= 1.5  # a spike later
    assert n_non_steady(signal) == 0
    signal[0] *= 1.5
    assert n_non_steady(signal) == 1


def test_runs_without_noise_or_of_two_volumes() -> None:
    assert n_non_steady(np.full(20, 431.7)) == 0
    assert n_non_steady(np.array([700.0, 600, 500, *[400.0] * 17])) == 3
    assert n_non_steady(np.array([500.0, 400.0])) == 0
    assert n_non_steady(np.zeros(7)) == 0


def test_the_unit_does_not_matter() -> None:
    signal = level(80, 3)
    signal[:3] *= [1.9, 1.4, 1.1]
    assert n_non_steady(signal) == n_non_steady(signal * 1e-7) == 3


def test_real_runs(shared: Path) -> None:
    # four runs whose first volumes are 1 to 2 % too bright, and one whose first volumes had been cut
    folder = shared / "data/bold4d"
    runs = {"sub-007": 1, "sub-018": 1, "sub-107": 1, "sub-112": 2}
    files = {folder / f"gift_lowres_mni/{name}_lowres.nii.gz": n for name, n in runs.items()}
    files[folder / "native_no_affine/filtered_func_data.nii.gz"] = 0
    for path, expected in files.items():
        data = np.asarray(nib.load(path).dataobj)
        signal = data.reshape(-1, data.shape[3]).mean(axis=0, dtype=np.float64)
        assert n_non_steady(signal) == as_nipype_counts(signal) == expected, path
