"""preproc/resample.py: what stride and decimation do to frames, marks and frequencies."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bjepa.preproc.resample import split_phases, stride_of

T, R = 140, 5  # frames, regions


@pytest.fixture
def series() -> np.ndarray:
    walk = np.random.default_rng(0).normal(size=(T, R)).cumsum(axis=0)
    series: np.ndarray = (walk + np.array([10, 200, -30, 4000, 55])).astype(np.float32)
    series.flags.writeable = False
    return series


@pytest.mark.parametrize(("t_r", "stride"), [(0.735, 3), (2.0, 1), (0.72, 3), (3.0, 1), (0.5, 4)])
def test_stride(t_r: float, stride: int) -> None:
    assert stride_of(t_r, 2.0, "stride") == stride and stride_of(t_r, 2.0, "none") == 1


def test_law_phases_hold_every_frame_once(series: np.ndarray) -> None:
    phases = split_phases(series, 3, "all")
    assert [len(p) for p in phases] == [47, 47, 46]
    woven = np.empty_like(series)
    for start, phase in enumerate(phases):
        woven[start::3] = phase
    assert_array_equal(woven, series)
    assert_array_equal(split_phases(series, 3, "first")[0], series[::3])
