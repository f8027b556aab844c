"""Exports: finished scans in the layouts that other programs read. docs/exports.md describes each of them.

    xcpd-tsv            exports/xcpd/               any atlas; series at the scan's own t_r and units
    official-csv        exports/official-csv/       the 450 regions; likewise; for the original code
    brain-semantoks-h5  exports/brain-semantoks.h5  Schaefer-400 with or without Tian III; the stored series

Scans are written one at a time. A folder is made beside the old one and then exchanged, a file renamed into
its place: what is under `exports/` is whole.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from bjepa.preproc.errors import InputError
from bjepa.preproc.exports import official, semantoks, xcpd
from bjepa.preproc.scan_records import ScanRecord

ExportKind = Literal["xcpd-tsv", "official-csv", "brain-semantoks-h5"]
EXPORT_KINDS: tuple[str, ...] = get_args(ExportKind)


def check_exports(atlas_table: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Refuse unknown exports, and those that this atlas does not fit, before any scan is read.

    Raises
    ------
    InputError
        An export that is not one of EXPORT_KINDS; an atlas without the regions that an export needs.
    """
    if unknown := sorted(set(kinds) - set(EXPORT_KINDS)):
        raise InputError(f"--export must be among {list(EXPORT_KINDS)}, got {unknown}.")
    if "official-csv" in kinds:
        official.columns_of(atlas_table)
    if "brain-semantoks-h5" in kinds:
        semantoks.columns_of(atlas_table)


def write_exports(
    output: Path,
    atlas_table: pd.DataFrame,
    kinds: Sequence[str],
    scans: Sequence[ScanRecord],
    *,
    n_jobs: int = 1,
    progress: Callable[[str], None] = lambda scan_id: None,
) -> list[Path]:
    """Write the exports of an output folder whose group stage is done.

    Parameters
    ----------
    output : output folder of bjepa-preprocess; its shards are read for brain-semantoks-h5
    atlas_table : one row a region in column order, column `name` as in atlas.tsv
    kinds : of EXPORT_KINDS; written in their order there, each once
    scans : the scans of the group stage (`GroupResult.scans`)
    n_jobs : processes for the tables (the HDF5 file is written by one)
    progress : called with a scan_id for each scan of each export

    Returns
    -------
    The folders and files written, `output/exports/...`.

    Raises
    ------
    InputError
        As `check_exports`; scans that an export cannot tell apart; no scan that an export can hold.
    """
    check_exports(atlas_table, kinds)
    written = []
    if "xcpd-tsv" in kinds:
        with _exchanged(output, "xcpd") as fresh:
            xcpd.write_tables(fresh, atlas_table, scans, n_jobs=n_jobs, progress=progress)
        written.append(output / "exports" / "xcpd")
    if "official-csv" in kinds:
        with _exchanged(output, "official-csv") as fresh:
            official.write_tables(fresh, output, atlas_table, scans, n_jobs=n_jobs, progress=progress)
        written.append(output / "exports" / "official-csv")
    if "brain-semantoks-h5" in kinds:
        path = output / "exports" / "brain-semantoks.h5"
        semantoks.write_file(path, output, atlas_table, progress=progress)
        written.append(path)
    return written


@contextmanager
def _exchanged(output: Path, name: str) -> Iterator[Path]:
    """Give an empty folder; when the block ends without error it takes the place of `exports/name`."""
    place, fresh, old = (output / part / name for part in ("exports", "work/exports-new", "work/exports-old"))
    if old.exists() and not place.exists():  # a process was killed between the two renames below
        old.rename(place)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    for folder in (fresh, place.parent, old.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield fresh
        if place.exists():
            place.rename(old)
        fresh.rename(place)
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)
