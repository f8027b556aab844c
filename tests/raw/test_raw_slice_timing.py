"""Slices are brought to one time: sines, constants, multiband, any axis, the ends of the run."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.slice_timing import SliceTiming, shift_volumes

F = NDArray[np.float64]
SHAPE, T_R, N_FRAMES = (3, 4, 12), 2.0, 90
INTERLEAVED = np.argsort(np.argsort([*range(0, 12, 2), *range(1, 12, 2)])) * T_R / 12
MULTIBAND = np.tile([0.0, 1.0, 0.5, 1.5], 3)  # three slices at once


def sines(timing: SliceTiming, frequency: float, *, at_reference: bool) -> F:
    """(T, x, y, z): a sine whose phase differs between voxels, as the slices see it or at one time."""
    along = [1, 1, 1]
    along[timing.axis] = -1
    times = np.full(len(timing.times), timing.reference) if at_reference else np.asarray(timing.times)
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, SHAPE)
    start = (np.arange(N_FRAMES) * timing.t_r)[:, None, None, None]
    return np.asarray(500 + np.sin(2 * np.pi * frequency * (start + times.reshape(along)) + phase))


def shifted(volumes: F, timing: SliceTiming) -> F:
    return np.stack(list(shift_volumes(iter(volumes), timing)))


@pytest.mark.parametrize("frequency", [0.01, 0.05, 0.1, 0.125])
@pytest.mark.parametrize(
    "timing",
    [
        SliceTiming(times=INTERLEAVED, axis=2, t_r=T_R),
        SliceTiming(times=MULTIBAND, axis=2, t_r=T_R),
        SliceTiming(times=INTERLEAVED[::-1], axis=2, t_r=T_R),
        SliceTiming(times=np.linspace(0, 1.9, 4), axis=1, t_r=T_R),
        SliceTiming(times=np.array([1.2, 0.0, 0.6]), axis=0, t_r=T_R),
        SliceTiming(times=INTERLEAVED, axis=2, t_r=T_R, reference_time=0.0),
    ],
    ids=["interleaved", "multiband", "reversed", "axis1", "axis0", "first"],
)
def test_sines_arrive_at_the_reference_time(timing: SliceTiming, frequency: float) -> None:
    seen, wanted = (sines(timing, frequency, at_reference=at) for at in (False, True))
    error = np.abs(shifted(seen, timing) - wanted)
    assert error[5:-5].max() < 0.001  # of the amplitude
    assert error.max() <= 1.3 * np.abs(seen - wanted).max()  # at the ends about what was there before
    assert np.abs(seen - wanted)[5:-5].max() > 0.025  # and it was needed


def test_the_middle_is_midway_between_first_and_last_slice() -> None:
    assert SliceTiming(times=INTERLEAVED, axis=2, t_r=T_R).reference == pytest.approx(11 / 12)
    assert SliceTiming(times=INTERLEAVED, axis=2, t_r=T_R, reference_time=0.3).reference == 0.3


def test_constants_and_slices_at_the_reference_time_stay() -> None:
    timing = SliceTiming(times=np.array([0.0, 1.0, 2.0]), axis=0, t_r=T_R)
    constant = np.tile(np.random.default_rng(1).uniform(0, 9e4, SHAPE), (20, 1, 1, 1))
    assert_allclose(shifted(constant, timing), constant, rtol=1e-14)
    noise = np.random.default_rng(2).normal(size=(20, *SHAPE))
    out = shifted(noise, timing)
    assert_allclose(out[:, 1], noise[:, 1], rtol=0, atol=1e-15)  # taken at the middle
    assert np.abs(out[:, 0] - noise[:, 0]).max() > 0.5


def test_time_reversed_is_the_same_reversed() -> None:
    noise = np.random.default_rng(3).normal(size=(31, *SHAPE))
    times = np.linspace(0, 1.8, 12)
    forward = shifted(noise, SliceTiming(times=times, axis=2, t_r=T_R))
    backward = shifted(noise[::-1], SliceTiming(times=times[::-1], axis=2, t_r=T_R))
    assert_allclose(backward, forward[::-1], atol=1e-12)
    swapped = shifted(noise[..., ::-1], SliceTiming(times=times[::-1], axis=2, t_r=T_R))
    assert_allclose(swapped, forward[..., ::-1], atol=1e-12)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 8, 9, 10])
def test_short_runs_keep_their_length(n_frames: int) -> None:
    timing = SliceTiming(times=MULTIBAND, axis=2, t_r=T_R)
    out = shifted(np.full((n_frames, *SHAPE), 7.0), timing)
    assert_allclose(out, np.full((n_frames, *SHAPE), 7.0))


def test_unsteady_frames_are_left_alone_and_leave_the_others_alone() -> None:
    timing = SliceTiming(times=MULTIBAND, axis=2, t_r=T_R, skip=3)
    noise = np.random.default_rng(4).normal(size=(25, *SHAPE))
    noise[:3] += 1000
    out = shifted(noise, timing)
    assert (out[:3] == noise[:3]).all()
    alone = shifted(noise[3:], SliceTiming(times=MULTIBAND, axis=2, t_r=T_R))
    assert_allclose(out[3:], alone, atol=1e-12)


def test_frames_are_made_while_they_are_read() -> None:
    read = 0

    def volumes() -> Iterator[F]:
        nonlocal read
        for _ in range(40):
            read += 1
            yield np.zeros(SHAPE)

    for made, _ in enumerate(shift_volumes(volumes(), SliceTiming(times=MULTIBAND, axis=2, t_r=T_R))):
        assert read <= made + 5  # the frame itself and the four after it


def test_wrong_times_are_refused() -> None:
    with pytest.raises(InputError, match=r"taken 950 s .* seconds"):
        SliceTiming(times=np.array([0, 475.0, 950]), axis=2, t_r=T_R)  # milliseconds
    with pytest.raises(InputError, match="from 0 on"):
        SliceTiming(times=np.array([-0.1, 0.5]), axis=2, t_r=T_R)
    with pytest.raises(InputError, match="11 slice times, the volume has 12 slices along axis 2"):
        shifted(np.zeros((2, *SHAPE)), SliceTiming(times=MULTIBAND[:11], axis=2, t_r=T_R))
