"""Export `xcpd-tsv`: tables as XCP-D 0.7 to 0.14 writes them (see its docs/outputs.rst).

    dataset_description.json
    sub-*/[ses-*/]func/
      <scan>_space-S_seg-A_stat-mean_timeseries.tsv    a column a region under its name, a row a frame, "n/a"
      <scan>_space-S_seg-A_stat-mean_timeseries.json   RepetitionTime (s) and where the series come from
      <scan>_space-S_seg-A_stat-coverage_bold.tsv      Node, coverage (0 to 1)
      <scan>_outliers.tsv                              framewise_displacement: 1 = censored, else 0

As in XCP-D's modes abcd and hbcd all frames are in the table, the censored ones filled in.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

import bjepa
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_json, write_tsv
from bjepa.preproc.inputs.bids import clean_label
from bjepa.preproc.scan_files import MAKER, func_folder
from bjepa.preproc.scan_records import ScanRecord

_AFTER_SEG = ("res", "den")  # entities that BIDS puts between seg- and stat-
_OF_THE_IMAGE = ("space", "cohort", "seg", "atlas", "res", "den", "stat")  # not in the names of a run's files


def write_tables(
    folder: Path,
    atlas_table: pd.DataFrame,
    scans: Sequence[ScanRecord],
    *,
    n_jobs: int,
    progress: Callable[[str], None],
) -> None:
    """Write the tables of all scans into an empty folder."""
    _refuse_twins(scans)
    _write_description(folder)
    names = atlas_table["name"].tolist()
    tasks = (delayed(_write_scan)(folder, names, scan) for scan in scans)
    for scan_id in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
        progress(scan_id)


def _write_scan(folder: Path, names: list[str], scan: ScanRecord) -> str:
    facts = scan.facts
    series, censored = scan.read()  # (n_frames, n_rois), (n_frames,)
    func = func_folder(folder, scan.participant_id, scan.session)
    stem = table_stem(scan.scan_id, scan.space, facts["atlas"])
    table = func / f"{stem}_stat-mean_timeseries.tsv"
    # float32 is written with the digits that give the same float32 when read
    write_tsv(table, pd.DataFrame(series, columns=names))
    write_json(table.with_suffix(".json"), _sidecar(facts))
    coverage = pd.DataFrame({"Node": names, "coverage": facts["coverage"]})
    write_tsv(func / f"{stem}_stat-coverage_bold.tsv", coverage)
    outliers = pd.DataFrame({"framewise_displacement": censored.astype(np.int8)})
    write_tsv(func / f"{run_stem(scan.scan_id)}_outliers.tsv", outliers)
    return scan.scan_id


def table_stem(scan_id: str, space: str, atlas: str) -> str:
    """Name of a scan's tables up to `_stat-`, in BIDS order: `sub-1_task-rest_space-S_seg-A_res-2`."""
    words = [w for w in scan_id.split("_") if not w.startswith(("space-", "seg-", "atlas-", "stat-"))]
    after = [w for w in words if w.split("-")[0] in _AFTER_SEG]
    before = [w for w in words if w not in after]
    own_space = [w for w in scan_id.split("_") if w.startswith("space-")]
    return "_".join(
        [*before, *(own_space or [f"space-{clean_label(space)}"]), f"seg-{clean_label(atlas)}", *after]
    )


def run_stem(scan_id: str) -> str:
    """Name of the run, without what tells of the image that was made of it."""
    return "_".join(word for word in scan_id.split("_") if word.split("-")[0] not in _OF_THE_IMAGE)


def _refuse_twins(scans: Sequence[ScanRecord]) -> None:
    """XCP-D has one censoring file a run; two scans of one run cannot share it."""
    first: dict[str, str] = {}
    for scan in scans:
        other = first.setdefault(run_stem(scan.scan_id), scan.scan_id)
        if other != scan.scan_id:
            raise InputError(
                f"--export xcpd-tsv: {other} and {scan.scan_id} are the same run for XCP-D.",
                hint="Preprocess one of them only (--bids-filter-file), or leave this export out.",
            )


def _sidecar(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "RepetitionTime": facts["t_r"],
        "SamplingFrequency": "TR",  # as XCP-D has it: a row a TR
        "TaskName": facts["task"] or "n/a",
        "Sources": [facts["source"]],
        "NuisanceParameters": facts["confounds"],
        "Atlas": facts["atlas"],
        "AtlasSHA256": facts["atlas_sha256"],
        "Options": facts["options"],
    }


def _write_description(folder: Path) -> None:
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "bjepa regional time series in the layout of XCP-D",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": MAKER,
                    "Version": bjepa.__version__,
                    "Description": "export xcpd-tsv: not made by XCP-D, laid out as by XCP-D 0.7 to 0.14",
                }
            ],
        },
    )
