"""How many volumes at the start of a run were taken before the signal was steady.

The magnetisation settles within the first seconds of a run, until then volumes are brighter. A volume is not
steady when its mean lies above the median of the first volumes by more than 3.5 robust standard deviations
(the modified z score of Iglewicz and Hoaglin 1993, `0.6745 (x - median) / MAD`), counted from the first
volume up to the first steady one. fMRIPrep judges by the same rule (nipype's NonSteadyStateDetector, the
first 50 volumes); it counts darker volumes too, which a settling signal cannot be.
"""

import numpy as np
from numpy.typing import NDArray

N_FIRST = 50  # volumes that are looked at
_THRESHOLD = 3.5  # robust standard deviations
_FLOOR = 1e-6  # of the median: less is rounding, where the rest of a run is constant


def n_non_steady(global_signal: NDArray[np.float64]) -> int:
    """Volumes at the start of the run that are brighter than the rest.

    global_signal : (n_frames,) mean of each volume, in any unit that is 0 where there is no signal; only the
        first 50 are looked at, all others may be left out
    """
    first = np.asarray(global_signal, dtype=np.float64)[:N_FIRST]
    above = first - np.median(first)
    spread = float(np.median(np.abs(above))) / 0.6745
    bright = above > max(_THRESHOLD * spread, _FLOOR * abs(float(np.median(first))))
    return int(np.argmin(bright)) if not bright.all() else 0
