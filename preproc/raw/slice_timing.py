"""Each slice of a volume brought to one time: that of the middle of the volume's acquisition.

A slice taken at time s of its volume is read (reference - s) later, by a sinc under Kaiser's window:
    y[t] = sum_j w_j x[t + j],   w_j ~ sinc(j - d) I0(6 sqrt(1 - ((j - d) / 4)^2)),   d = (reference - s) / TR
over the frames j that lie within 4 of d, weights divided by their sum, so that a constant stays itself.
Sines up to a quarter of the sampling rate (0.125 Hz at t_r 2 s) come out within 0.1 % of their amplitude; a
cubic through four frames loses 5 % at 0.1 Hz. Beyond its ends the series goes on as it is there: the first
and the last frame come out about as they were. Frames whose signal is not steady yet are passed on as they
are and enter no other frame; fMRIPrep leaves them out likewise, and shifts to the same time (3dTshift).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

F = NDArray[np.float64]

_REACH = 4  # frames to each side
_BETA = 6.0  # of Kaiser's window: the least error up to a quarter of the sampling rate


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceTiming:
    """When the slices of each volume were taken.

    times : (n_slices,) s after the start of the volume, in the order of the array; equal ones: taken at once
    axis : of the array along which slices lie
    t_r : s
    reference_time : s after the start of the volume, the time that all slices are brought to; None: midway
        between the first slice and the last
    skip : frames at the start that are left as they are
    """

    times: F
    axis: int
    t_r: float
    reference_time: float | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=np.float64)
        if not (times.ndim == 1 and np.isfinite(times).all() and (times >= 0).all()):
            raise InputError(f"Slice times must be a list of seconds from 0 on, got {self.times}.")
        if times.max() > self.t_r * (1 + 1e-6):
            raise InputError(
                f"A slice is taken {times.max():g} s after the start of its volume, but volumes follow each "
                f"other after {self.t_r:g} s.",
                hint="SliceTiming in the sidecar must be in seconds; check RepetitionTime too.",
            )

    @property
    def reference(self) -> float:
        """The time that all slices are brought to, s after the start of the volume."""
        if self.reference_time is not None:
            return self.reference_time
        return float(np.min(self.times) + np.max(self.times)) / 2

    def weights(self) -> F:
        """(9, n_slices) weights of the frames -4, ..., 4 from the one that is made."""
        delay = (self.reference - np.asarray(self.times, dtype=np.float64)) / self.t_r  # frames
        away = np.arange(-_REACH, _REACH + 1)[:, None] - delay
        window = np.i0(_BETA * np.sqrt(np.clip(1 - (away / _REACH) ** 2, 0, None))) * (np.abs(away) < _REACH)
        weights = np.sinc(away) * window
        return np.asarray(weights / weights.sum(axis=0))


def shift_volumes(volumes: Iterator[F], slice_timing: SliceTiming) -> Iterator[F]:
    """The volumes (x, y, z) of a run in order, each with its slices at the reference time; as many of them.

    At most nine volumes are in memory. Raises InputError when their slices are not as many as the times.
    """
    weights, skip = slice_timing.weights(), slice_timing.skip
    kept: dict[int, F] = {}
    number = -1
    for number, volume in enumerate(volumes):
        _check(volume.shape, slice_timing)
        if number < skip:
            yield volume
            continue
        kept[number] = volume
        kept.pop(number - 2 * _REACH - 1, None)
        if number - _REACH >= skip:
            yield _mixed(kept, number - _REACH, weights, slice_timing.axis, (skip, number))
    for centre in range(max(skip, number - _REACH + 1), number + 1):
        yield _mixed(kept, centre, weights, slice_timing.axis, (skip, number))


def _mixed(kept: dict[int, F], centre: int, weights: F, axis: int, ends: tuple[int, int]) -> F:
    first, last = ends
    along = [1, 1, 1]
    along[axis] = -1
    mixed = np.zeros_like(kept[centre])
    for offset, weight in zip(range(-_REACH, _REACH + 1), weights, strict=True):
        if weight.any():
            mixed += kept[min(max(centre + offset, first), last)] * weight.reshape(along)
    return mixed


def _check(shape: tuple[int, ...], slice_timing: SliceTiming) -> None:
    if shape[slice_timing.axis] != len(slice_timing.times):
        raise InputError(
            f"There are {len(slice_timing.times)} slice times, the volume has {shape[slice_timing.axis]} "
            f"slices along axis {slice_timing.axis}.",
            hint="Check SliceTiming and SliceEncodingDirection in the sidecar.",
        )
