"""Export `official-csv`: the files that the original Brain-JEPA code pretrains on (UK Biobank layout).

    time_series/<id>/fMRI.Tian_Subcortex_S3_3T.csv.gz   50 rows in label order: 1-25 right, 26-50 left
    time_series/<id>/fMRI.Schaefer17n400p.csv.gz        400 rows in 17-network order
    train_ids.pkl                                       {"train_ids": [id, ...]}, pickled
    scans.tsv  left_out.tsv                             what an id is; which scans are not here, and why

A table has a header (`label_name,timepoint_0,...`), a row a region, the region's name first. <id> is the
scan_id: a participant may have several scans. That code stacks subcortex above cortex and takes 160 frames,
every third of 480, whatever their repetition time. It has 490 frames written into it: a shorter series
repeats its last frame, the end of a longer one is never seen. It knows no missing region: such scans are left
out.
"""

import gzip
import logging
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.exports.regions import schaefer_columns, tian_columns
from bjepa.preproc.files import write_aside, write_tsv
from bjepa.preproc.inputs.ukb import T_R
from bjepa.preproc.scan_records import ScanRecord

log = logging.getLogger(__name__)

N_FRAMES = 490  # of UK Biobank, written into the original code
_SLOWEST = 1.0  # s; every third frame of a slower scan is more than 3 s apart
CORTEX, SUBCORTEX = "fMRI.Schaefer17n400p.csv.gz", "fMRI.Tian_Subcortex_S3_3T.csv.gz"


def columns_of(atlas_table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns of cortex (400,) and subcortex (50,). Raises InputError where the atlas is another one."""
    cortex, subcortex = schaefer_columns(atlas_table, "17networks"), tian_columns(atlas_table)
    if cortex is None or subcortex is None or len(atlas_table) != len(cortex) + len(subcortex):
        raise InputError(
            "--export official-csv needs the 450 regions of Tian scale III and Schaefer-400 and no others; "
            f"this atlas has {len(atlas_table)}, from {atlas_table['name'].iloc[0]} to "
            f"{atlas_table['name'].iloc[-1]}.",
            hint="Use --atlas tian-s3+schaefer-400, or leave this export out.",
        )
    return cortex, subcortex


def write_tables(
    folder: Path,
    output: Path,
    atlas_table: pd.DataFrame,
    scans: Sequence[ScanRecord],
    *,
    n_jobs: int,
    progress: Callable[[str], None],
) -> None:
    """Write the tables of all scans without missing regions into an empty folder."""
    cortex, subcortex = columns_of(atlas_table)
    whole = [scan for scan in scans if scan.valid.all()]
    left_out = [scan for scan in scans if not scan.valid.all()]
    if not whole:
        raise InputError(
            f"--export official-csv: all {len(scans)} scans have missing regions; this layout cannot hold "
            "such scans.",
            hint="See scans.tsv, column n_missing_rois; or leave this export out.",
        )
    _warn(whole, left_out)
    for scan in left_out:
        progress(scan.scan_id)
    names = atlas_table["name"].to_numpy()
    tasks = (delayed(_write_scan)(folder, names, cortex, subcortex, scan) for scan in whole)
    for scan_id in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
        progress(scan_id)
    _write_lists(folder, whole, left_out, not_training=_not_training(output))


def _write_scan(
    folder: Path,
    names: NDArray[np.object_],
    cortex: NDArray[np.int64],
    subcortex: NDArray[np.int64],
    scan: ScanRecord,
) -> str:
    series = scan.series()  # (n_frames, n_rois)
    for name, columns in ((CORTEX, cortex), (SUBCORTEX, subcortex)):
        table = pd.DataFrame(
            series[:, columns].T,
            index=pd.Index(names[columns], name="label_name"),
            columns=[f"timepoint_{frame}" for frame in range(len(series))],
        )
        with write_aside(folder / "time_series" / scan.scan_id / name) as aside:
            aside.write_bytes(gzip.compress(table.to_csv().encode(), compresslevel=4, mtime=0))
    return scan.scan_id


def _warn(whole: list[ScanRecord], left_out: list[ScanRecord]) -> None:
    """What the original code would do with these scans without a word."""
    if left_out:
        log.warning(
            "--export official-csv: %d scans have missing regions and are left out, e.g. %s (left_out.tsv).",
            len(left_out),
            left_out[0].scan_id,
        )
    if other := [scan for scan in whole if scan.n_frames != N_FRAMES]:
        log.warning(
            "--export official-csv: %d of %d scans do not have the %d frames that the original code expects, "
            "e.g. %s has %d. They are written as they are; that code repeats the last frame of shorter ones "
            "and never sees the end of longer ones.",
            len(other),
            len(whole),
            N_FRAMES,
            other[0].scan_id,
            other[0].n_frames,
        )
    if slow := [scan for scan in whole if scan.t_r > _SLOWEST]:
        log.warning(
            "--export official-csv: %d of %d scans are slower than %g s, e.g. %s with %g s. The original "
            "code takes every third frame whatever the repetition time (%g s in UK Biobank): here %.3g s "
            "apart.",
            len(slow),
            len(whole),
            _SLOWEST,
            slow[0].scan_id,
            slow[0].t_r,
            T_R,
            3 * slow[0].t_r,
        )


def _not_training(output: Path) -> set[str]:
    """Scans whose participants were kept out of the scaling (--scaling-participants): not for training."""
    kept_out: set[str] = set()
    for path in sorted((output / "shards").glob("shard-*.h5")):
        with h5py.File(path, "r") as shard:
            if "fits_scaling" in shard["scans"]:
                out = ~shard["scans/fits_scaling"][:].astype(bool)
                kept_out.update(shard["scans/scan_id"].asstr()[:][out].tolist())
    return kept_out


def _write_lists(
    folder: Path, whole: list[ScanRecord], left_out: list[ScanRecord], *, not_training: set[str]
) -> None:
    ids = [scan.scan_id for scan in whole]
    training = [scan_id for scan_id in ids if scan_id not in not_training]
    with write_aside(folder / "train_ids.pkl") as aside:
        aside.write_bytes(pickle.dumps({"train_ids": training}, protocol=4))
    facts = ["participant_id", "session", "task", "run", "t_r", "n_frames"]
    table = pd.DataFrame(
        [[scan.scan_id, *(getattr(scan, fact) for fact in facts)] for scan in whole], columns=["id", *facts]
    )
    table["training"] = [scan_id not in not_training for scan_id in ids]
    write_tsv(folder / "scans.tsv", table.replace("", np.nan))
    reasons = [[scan.scan_id, f"{np.count_nonzero(~scan.valid)} regions are missing"] for scan in left_out]
    write_tsv(folder / "left_out.tsv", pd.DataFrame(reasons, columns=["scan_id", "reason"]))
