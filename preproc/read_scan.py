"""One scan of any kind as regional series: a volume, a surface file, or tables that hold them already."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.censoring import put_back, read_outliers
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan, extract_timeseries
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.series_tables import SeriesLayout, read_series
from bjepa.preproc.stream import open_bold


@dataclass(frozen=True)
class Header:
    """What can be known of a scan before it is read; None where it cannot."""

    n_frames: int | None
    t_r: float | None  # s


def read_header(source: ScanSource) -> Header:
    """Frames and repetition time as the file's header has them; a table has none.

    Raises InputError where the scan cannot be done, so that a plan can tell it before the work begins.
    """
    if source.error is not None:
        raise source.error
    if source.kind in ("volume", "raw"):
        bold = open_bold(source.path)
        return Header(bold.n_frames, bold.header_t_r)
    if source.path.name.endswith((".dtseries.nii", ".ptseries.nii")):
        from bjepa.preproc.cifti import read_series_header

        return Header(*read_series_header(source.path))
    return Header(None, None)


def n_frames_whole(source: ScanSource, header: Header) -> int | None:
    """Frames of the scan once those that XCP-D has cut out are put back; None where no header tells."""
    if source.outliers is None:
        return header.n_frames
    outliers = read_outliers(source.outliers)
    if header.n_frames is not None:  # of another number than was kept: refused
        put_back(np.zeros((header.n_frames, 1)), outliers, where=source.path)
    return len(outliers)


def check_smoothing(source: ScanSource, smoothing_fwhm: float | None) -> None:
    """Raises InputError where a scan that is no volume shall be smoothed."""
    if smoothing_fwhm and source.kind not in ("volume", "raw"):
        raise InputError(
            f"{source.path}: --smoothing-fwhm smooths volumes; this is a {source.kind} file.",
            hint="Leave it out, or give the NIfTI run.",
        )


def read_regions(
    source: ScanSource,
    atlas: Atlas,
    layout: SeriesLayout,
    *,
    smoothing_fwhm: float | None,
    operator_cache: Path | None,
) -> RegionalScan:
    """The regional series of a scan, in the columns of `atlas`.

    Frames that XCP-D cut out of an image are put back (interpolated), so that time is regular; the caller
    marks them as censored. Raises InputError where the scan cannot be read.
    """
    check_smoothing(source, smoothing_fwhm)
    if source.kind == "series":
        return read_series(source, atlas, layout)
    if source.kind == "dtseries":
        from bjepa.preproc.cifti import extract_dtseries

        scan = extract_dtseries(source.path, atlas)
    else:
        scan = extract_timeseries(
            source.path, atlas, source.mask, smoothing_fwhm=smoothing_fwhm, operator_cache=operator_cache
        )
    if source.outliers is None:
        return scan
    whole = put_back(scan.timeseries.astype(np.float64), read_outliers(source.outliers), where=source.path)
    return replace(scan, timeseries=whole.astype(np.float32))
