"""Bringing scans of different t_r to one: every s-th frame, all phases kept.

`stride` (as the Brain-JEPA paper): s = max(1, round(target / t_r)); a scan of 490 frames at 0.735 s becomes
three series at 2.205 s, one for each phase, so that no frame is lost. There is no filter: what is faster than
half the new rate folds back into it. Filter with `--low-pass` (at the original t_r) where that matters.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resampling = Literal["stride", "none"]
Phases = Literal["all", "first"]


def stride_of(t_r: float, target_t_r: float, how: Resampling) -> int:
    """Every how many frames one is kept; `t_r` and `target_t_r` in s."""
    return max(1, round(target_t_r / t_r)) if how == "stride" else 1


def split_phases(timeseries: NDArray[np.float32], stride: int, phases: Phases) -> list[NDArray[np.float32]]:
    """The series (n_frames, n_rois) as `stride` series of every `stride`-th frame, or only the first of them.

    Their lengths differ by at most one frame; together, `all` phases hold every frame once.
    """
    starts = range(stride) if phases == "all" else range(1)
    return [timeseries[start::stride] for start in starts if start < len(timeseries)]
