"""Frames that XCP-D has censored: which they are, and back into series that were cut.

In its `linc` mode XCP-D cuts high-motion frames out of series and images, so the frames that are left are not
evenly spaced and must not be filtered or strided as if they were. `*_outliers.tsv` says which were cut.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.number_tables import read_table


def read_outliers(path: Path) -> NDArray[np.bool_]:
    """(n_frames,) True where a frame was censored, from XCP-D's `*_outliers.tsv` (one column of 0 and 1)."""
    table = read_table(path)
    columns = table.columns or []
    column = columns.index("framewise_displacement") if "framewise_displacement" in columns else 0
    marks = table.values[:, column]
    if not np.isin(marks, (0, 1)).all():
        raise InputError(f"{path} must hold 0 (kept) and 1 (censored) only.")
    censored: NDArray[np.bool_] = marks == 1
    return censored


def read_motion(path: Path) -> NDArray[np.float64]:
    """(n_frames,) framewise displacement in mm of all frames, from XCP-D's `*_motion.tsv`."""
    table = read_table(path)
    columns = table.columns or []
    if "framewise_displacement" not in columns:
        raise InputError(f"{path} has no column framewise_displacement; it has {columns[:12]}.")
    displacement: NDArray[np.float64] = table.values[:, columns.index("framewise_displacement")]
    return displacement


def put_back(series: NDArray[np.float64], censored: NDArray[np.bool_], *, where: Path) -> NDArray[np.float64]:
    """Series (n_kept, n_rois) with the censored frames, interpolated linearly: (n_frames, n_rois).

    Series that already have all frames (XCP-D's `abcd` and `hbcd` modes interpolate) stay as they are.
    """
    kept = np.flatnonzero(~censored)
    if len(series) == len(censored):
        return series
    if len(series) != len(kept):
        raise InputError(
            f"{where} has {len(series)} frames; its table of outliers has {len(censored)}, of which "
            f"{len(kept)} are kept.",
            hint="Both must come from the same run of XCP-D.",
        )
    frames = np.arange(len(censored))
    return np.stack([np.interp(frames, kept, column) for column in series.T], axis=1)
