"""Export `brain-semantoks-h5`: the data file of Brain-Semantoks (Gijsen et al., arXiv 2512.11582).

After its README, example.ipynb and data/dataset.py (SamGijsen/Brain-Semantoks, 5208f40). For S series of at
most T frames:

    /timeseries/schaefer400  float32 (S, 400, T)   7-network order, z-scored per region and series
    /timeseries/tian3        float32 (S, 50, T)    label order; absent where the atlas has no subcortex
    /long_subject_id         bytes (S,)            participant_id; its loader draws among a participant's rows
    /ts_len                  int64 (S,)            frames of each series; NaN from there to T
    /scan_id /phase /t_r /valid                    ours, not read there: which series this is; (S, R) bool

A series is a series of the shards: each phase of a strided scan is one. A missing region is 0, the mean of
all z-scores: NaN would spread through that model. There is no /timeseries/buckner7, as we have no cerebellum:
set `buckner_atlas: null` in its configuration.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.exports.regions import schaefer_columns, tian_columns
from bjepa.preproc.files import write_aside
from bjepa.preproc.scan_files import MAKER
from bjepa.preproc.shards import ShardReader

log = logging.getLogger(__name__)

T_R = 2.0  # s, of the series that its model was trained on
_T_R_TOLERANCE = 0.02  # of it; strides of 0.735 s give 2.205 s, 10 % off, decimation meets it


def columns_of(atlas_table: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """For each data set its columns, in its order. Raises InputError where Schaefer-400 is lacking."""
    cortex, subcortex = schaefer_columns(atlas_table, "7networks"), tian_columns(atlas_table)
    n_others = len(atlas_table) - 400 - (0 if subcortex is None else len(subcortex))
    if cortex is None or n_others:
        raise InputError(
            "--export brain-semantoks-h5 needs the regions of Schaefer-400, with or without Tian scale III, "
            f"and no others; this atlas has {len(atlas_table)}, from {atlas_table['name'].iloc[0]} to "
            f"{atlas_table['name'].iloc[-1]}.",
            hint="Use --atlas tian-s3+schaefer-400, or leave this export out.",
        )
    return {"schaefer400": cortex} | ({} if subcortex is None else {"tian3": subcortex})


def write_file(
    path: Path, output: Path, atlas_table: pd.DataFrame, *, progress: Callable[[str], None]
) -> None:
    """Write all series of the shards in `output`, one at a time, whole or not at all."""
    columns = columns_of(atlas_table)
    reader = ShardReader(output)
    _warn(reader)
    scan_of = reader.series_scan
    order = np.concatenate(list(columns.values()))  # regions as the data sets have them, one after the other
    with write_aside(path) as aside, h5py.File(aside, "w") as file:
        sets = {name: _series_set(file, name, reader, len(cols)) for name, cols in columns.items()}
        for number in range(len(reader)):
            scores = _z_scores(reader[number], reader.valid[scan_of[number]])  # (n_frames, n_rois)
            for name, cols in columns.items():
                padded = np.full(sets[name].shape[1:], np.nan, dtype=np.float32)
                padded[:, : len(scores)] = scores[:, cols].T
                sets[name][number] = padded
            if reader.series_phase[number] == 0:
                progress(reader.scans["scan_id"][scan_of[number]])
        of_series = {key: np.array(reader.scans[key])[scan_of] for key in ("participant_id", "scan_id")}
        file["long_subject_id"] = np.char.encode(of_series["participant_id"], "utf-8")
        file["scan_id"] = np.char.encode(of_series["scan_id"], "utf-8")
        file["ts_len"] = reader.series_length
        file["phase"] = reader.series_phase
        file["t_r"] = np.array(reader.scans["t_r_out"])[scan_of]
        file["valid"] = reader.valid[scan_of][:, order]
        file.attrs.update(
            made_by=f"{MAKER}, export brain-semantoks-h5",
            atlas=reader.atlas,
            atlas_sha256=reader.atlas_sha256,
            raw_signal_length=int(reader.series_length.max()),  # to be told in its configuration
            schaefer_order="7networks",
        )


def _series_set(file: Any, name: str, reader: ShardReader, n_rois: int) -> Any:
    """A data set whose chunk is a row: one read gives one series, and padding costs nothing on disk."""
    shape = (len(reader), n_rois, int(reader.series_length.max()))
    return file.create_dataset(
        f"timeseries/{name}",
        shape,
        np.float32,
        chunks=(1, *shape[1:]),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
    )


def _z_scores(series: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n_frames, n_rois) z-scores over time, 0 in missing and constant regions.

    Scaling shifts and stretches each region of a scan as a whole, so z-scores are those of the raw series.
    """
    x = series.astype(np.float64)
    deviation = x.std(axis=0)
    usable = valid & (deviation > 0)
    scores: NDArray[np.float64] = np.zeros_like(x)
    np.divide(x - x.mean(axis=0), deviation, out=scores, where=usable)
    return scores.astype(np.float32)


def _warn(reader: ShardReader) -> None:
    """What that model was not trained on."""
    t_r = np.array(reader.scans["t_r_out"])
    if len(other := np.flatnonzero(np.abs(t_r - T_R) > _T_R_TOLERANCE * T_R)):
        log.warning(
            "--export brain-semantoks-h5: %d of %d scans have a TR other than %g s, e.g. %s with %g s; "
            "Brain-Semantoks was trained at %g s (--target-t-r, --resample decimate).",
            len(other),
            len(t_r),
            T_R,
            reader.scans["scan_id"][other[0]],
            t_r[other[0]],
            T_R,
        )
    if len(missing := np.flatnonzero(~reader.valid.all(axis=1))):
        log.warning(
            "--export brain-semantoks-h5: %d of %d scans have missing regions, e.g. %s; they are 0 there "
            "(/valid says which).",
            len(missing),
            len(t_r),
            reader.scans["scan_id"][missing[0]],
        )
