"""The control: each region's mean over time, which holds no dynamics and no connectivity.

What it predicts, a model can predict from levels alone (scanner gain, site, bias field, age by T2*), so it is
computed from the *unscaled* series.
"""

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.scan_data import ScanData
from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import PER_SCAN


def static_means(data: ScanData) -> NDArray[np.float32]:
    """Temporal means (n_scans, R) float32 in the units of the scans; NaN where a region is missing.

    Frames of all phases of a scan count alike. Raises InputError where the means are not there any more.
    """
    reader = data.reader
    if reader is None:
        raise InputError(
            f"static-mean needs series; {data.source} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess, or leave static-mean out of --methods.",
        )
    if reader.scaling in PER_SCAN and not reader.per_scan:
        raise InputError(
            f"static-mean needs the scans' means; in {data.source} they were removed and not kept "
            f"({reader.scaling}).",
            hint="Run bjepa-preprocess with --scaling robust, or leave static-mean out of --methods.",
        )
    n_scans = len(data.participant_id)
    sums, n_frames = np.zeros((n_scans, reader.n_rois)), np.zeros(n_scans)
    for number, scan in enumerate(reader.series_scan):
        sums[scan] += reader.unscale(reader[number], number).sum(axis=0, dtype=np.float64)
        n_frames[scan] += reader.series_length[number]
    means = sums / n_frames[:, None]
    means[~reader.valid] = np.nan
    return means.astype(np.float32)
