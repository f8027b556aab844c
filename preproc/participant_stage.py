"""The participant stage: one scan -> regional means -> cleaned -> one file and one picture.

Parallel, resumable, safe to run many at once: every file appears whole, a scan that is done is kept, and two
processes that take the same scan write the same bytes.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas, save_atlas
from bjepa.preproc.atlas.spaces import check_grid_in_space
from bjepa.preproc.censoring import read_motion, read_outliers
from bjepa.preproc.clean import (
    Cleaned,
    CleaningOptions,
    Confounds,
    clean_timeseries,
    confounds_beside,
    load_confounds,
    normalise_mean,
)
from bjepa.preproc.engines import run_everywhere
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan
from bjepa.preproc.files import sha256_of_file, sha256_of_json
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.read_scan import read_header, read_regions
from bjepa.preproc.repetition_time import decide_t_r
from bjepa.preproc.report import draw_scan_picture, scan_qc
from bjepa.preproc.scan_files import Failure, picture_path, scan_stem
from bjepa.preproc.series_tables import SeriesLayout
from bjepa.preproc.shards import SCAN_COLUMNS
from bjepa.preproc.software import software_versions

if TYPE_CHECKING:
    from bjepa.preproc.raw.participant import RawSetup

log = logging.getLogger(__name__)

# A region whose SD is below this share of the median region's is outside the field of view, whatever the file
# says: interpolation leaves traces there (1e-6 in a published set). Real regions differ by a factor of 10.
NO_SIGNAL = 1e-4


@dataclass(frozen=True, kw_only=True)
class ParticipantOptions:
    """What decides the numbers of one scan's file; part of its key. `t_r` (s) overrules the files.

    smoothing_fwhm : mm, None = not smoothed; normalise_mean : the median of the regional means becomes 10,000
    layout : how tables of series are to be read
    """

    space: str
    t_r: float | None = None
    smoothing_fwhm: float | None = None
    normalise_mean: bool = False
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)
    layout: SeriesLayout = field(default_factory=SeriesLayout)
    min_coverage: float = 0.5
    max_missing: float = 0.05


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every scan of a call shares."""

    atlas: Atlas
    output: Path
    options: ParticipantOptions
    overwrite: bool
    hash_sources: bool
    raw: "RawSetup | None" = None  # of scans of kind "raw"


def run_participants(
    scans: Sequence[ScanSource],
    atlas: Atlas,
    output: Path,
    options: ParticipantOptions,
    *,
    n_jobs: int,
    overwrite: bool,
    progress: Callable[[str, Failure | None], None],
    dask: str | None = None,
    hash_sources: bool = True,
    raw: "RawSetup | None" = None,
    begin: Callable[[str, int], None] = lambda _what, _number: None,
) -> list[Failure]:
    """Do every scan that is not done yet; `progress` is called as each ends, with what went wrong if so.

    A scan that cannot be done is noted and the others go on. `raw`: what raw runs need; their participants'
    anatomies are done first, `begin` is told what comes next and how many. Returns the failures.
    """
    save_atlas(atlas, output / "atlas")
    scan_files.forget_vanished_failures(output)
    scan_files.sweep_output(output)
    job = _Job(
        atlas=atlas, output=output, options=options, overwrite=overwrite, hash_sources=hash_sources, raw=raw
    )
    if raw is not None:
        scans = _with_anatomies(scans, job, n_jobs=n_jobs, dask=dask, progress=progress, begin=begin)
    begin("scans", len(scans))
    failures = []
    for scan_id, failure in run_everywhere(_try_scan, scans, shared=(job,), n_jobs=n_jobs, dask=dask):
        progress(scan_id, failure)
        if failure is not None:
            failures.append(failure)
    scan_files.write_failures_table(output)
    return sorted(failures, key=lambda f: f.source)


def _with_anatomies(
    scans: Sequence[ScanSource],
    job: _Job,
    *,
    n_jobs: int,
    dask: str | None,
    progress: Callable[[str, Failure | None], None],
    begin: Callable[[str, int], None],
) -> list[ScanSource]:
    """The scans, their participants' anatomies done; those whose anatomy failed carry the reason."""
    from bjepa.preproc.raw.participant import one_run_each
    from bjepa.preproc.raw.run import forget_stages

    if job.overwrite and job.raw is not None:
        for scan in scans:
            forget_stages(scan, job.atlas, job.raw, job.output)
    first = one_run_each([scan for scan in scans if not _is_done(scan, job)])
    begin("anatomies", len(first))
    errors: dict[Path, InputError] = {}
    for source, error in run_everywhere(_try_anatomy, first, shared=(job,), n_jobs=n_jobs, dask=dask):
        progress(source.participant_id, None)
        if error is not None and source.t1w is not None:  # without a T1w the run itself will tell
            errors[source.t1w] = error
    return [
        replace(scan, error=scan.error or errors.get(scan.t1w)) if scan.t1w in errors else scan
        for scan in scans
    ]


def _try_anatomy(source: ScanSource, job: _Job) -> tuple[ScanSource, InputError | None]:
    from threadpoolctl import threadpool_limits

    from bjepa.preproc.raw.participant import participant_anatomy

    assert job.raw is not None
    try:
        with threadpool_limits(1):
            participant_anatomy(source, job.output, job.raw)
    except InputError as error:
        return source, error
    except Exception as error:  # a fault of a library must not stop the other participants
        log.debug("%s", source.path, exc_info=True)
        told = f"{source.t1w or source.path}: {type(error).__name__}: {error}"
        return source, InputError(told, hint="Please report this.")
    return source, None


def _is_done(source: ScanSource, job: _Job) -> bool:
    """Whether a scan need not be done; one that cannot even be asked is not done."""
    if job.overwrite:
        return False
    try:
        t_r = decide_t_r(source, read_header(source).t_r, job.options.t_r)
        stem = scan_stem(job.output, source, job.atlas.name)
        return scan_files.is_finished(stem, _key(source, job, t_r))
    except InputError:
        return False


def _try_scan(source: ScanSource, job: _Job) -> tuple[str, Failure | None]:
    from threadpoolctl import threadpool_limits

    try:
        with threadpool_limits(1):  # sums of several threads differ in their last bits from run to run
            _process_scan(source, job)
    except InputError as error:
        failure = _failure(source, "InputError", error.message, error.hint)
    except Exception as error:  # a fault of ours or of a library must not stop the other scans
        log.debug("%s", source.path, exc_info=True)
        failure = _failure(source, type(error).__name__, str(error), "Please report this.")
    else:
        scan_files.forget_failure(job.output, source)
        return source.scan_id, None
    scan_files.write_failure(job.output, source, failure)
    return source.scan_id, failure


def _failure(source: ScanSource, error: str, message: str, hint: str) -> Failure:
    """Told with the scan's file."""
    message = message if str(source.path) in message else f"{source.path}: {message}"
    return Failure(str(source.path), "participant", error, message, hint)


def _process_scan(source: ScanSource, job: _Job) -> None:
    """One scan, from its file to its regional series in OUTPUT; kept if it is there already."""
    atlas, options = job.atlas, job.options
    t_r = decide_t_r(source, read_header(source).t_r, options.t_r)
    key = _key(source, job, t_r)
    stem = scan_stem(job.output, source, atlas.name)
    if not job.overwrite and scan_files.is_finished(stem, key):
        return
    scan_files.sweep_scan(stem)
    source, scan, of_raw = _read(source, job, t_r)
    missing = _missing_regions(scan, options.min_coverage)
    _refuse_too_many(missing, source, options)
    confounds = confounds_of(source, len(scan.timeseries), options)
    raw, factor = scan.timeseries, 1.0  # (n_frames, n_rois)
    if options.normalise_mean:
        raw, factor = normalise_mean(raw, sample_mask=confounds.sample_mask, valid=~missing)
    cleaned = clean_timeseries(raw, confounds, options.cleaning, t_r=t_r)
    cleaned.timeseries[:, missing] = np.nan
    qc = scan_qc(
        raw,
        cleaned.timeseries,
        fd=confounds.fd,
        dvars=confounds.dvars,
        coverage=scan.coverage,
        missing=missing,
        t_r=t_r,
        censored=None if confounds.sample_mask is None else cleaned.censored,
    )
    draw_scan_picture(
        picture_path(stem),
        raw=raw,
        cleaned=cleaned.timeseries,
        atlas=atlas,
        coverage=scan.coverage,
        missing=missing,
        mean_image=scan.mean_image,
        fd=confounds.fd,
        dvars=confounds.dvars,
        t_r=t_r,
        censored=cleaned.censored,
    )
    facts = _facts(source, job, scan, cleaned, confounds)
    facts |= {} if of_raw is None else {"raw": of_raw}
    facts |= {"t_r": t_r, "missing": np.flatnonzero(missing).tolist(), "normalising_factor": factor}
    facts |= {"fd_mean": qc["fd_mean"], "tsnr_median": qc["tsnr_median"], "qc": qc, "key": key}
    scan_files.write_scan(stem, cleaned.timeseries, cleaned.censored, facts)


def _read(
    source: ScanSource, job: _Job, t_r: float
) -> tuple[ScanSource, RegionalScan, dict[str, Any] | None]:
    """The regional series of a scan; of a raw run also its confounds and notes, and how it was registered."""
    smoothing_fwhm = job.options.smoothing_fwhm
    if source.kind != "raw":
        cache = job.output / "work" / "operators"
        scan = read_regions(
            source, job.atlas, job.options.layout, smoothing_fwhm=smoothing_fwhm, operator_cache=cache
        )
        return source, scan, None
    from bjepa.preproc.raw.run import prepare_run

    assert job.raw is not None
    run = prepare_run(source, job.atlas, job.raw, job.output, t_r=t_r, smoothing_fwhm=smoothing_fwhm)
    return replace(source, confounds=run.confounds, notes=tuple(run.notes)), run.scan, run.facts


def confounds_of(source: ScanSource, n_frames: int | None, options: ParticipantOptions) -> Confounds:
    """What is known of the scan's nuisance: fMRIPrep's table or one of its own, or what XCP-D left.

    `n_frames` of the scan; None where it has not been read and has no header (a table).
    """
    strategy = options.cleaning.confounds
    if not source.denoised:
        known = load_confounds(source.path, source.confounds, strategy)
        if known.fd is not None and n_frames not in (
            None,
            len(known.fd),
        ):  # with a strategy, cleaning refuses them
            log.warning(
                "%s: its confounds have %d rows, it has %d frames.", source.path, len(known.fd), n_frames
            )
            return replace(known, fd=None, dvars=None) if strategy == "none" else known
        return known
    if strategy != "none":
        raise InputError(
            f"{source.path} has been denoised already; --confounds {strategy} would clean it twice.",
            hint="Leave --confounds out.",
        )
    known = Confounds()
    if source.outliers is not None and len(censored := read_outliers(source.outliers)) == n_frames:
        known = replace(known, sample_mask=~censored)
    if source.motion is not None and len(fd := read_motion(source.motion)) == n_frames:
        known = replace(known, fd=fd)
    return known


def input_files(source: ScanSource) -> list[tuple[str, Path]]:
    """All files that a scan is made of, each with what it is; raises InputError where one is not there."""
    confounds = source.confounds or confounds_beside(source.path)
    beside = None if confounds is None else confounds.with_suffix(".json")  # nilearn reads CompCor's from it
    parts: list[tuple[str, Path | None]] = [
        ("image", source.path),
        ("mask", source.mask),
        ("confounds", confounds),
        ("confounds", beside if beside is not None and beside.is_file() else None),
        *(("table", table) for table in source.tables),
        *(("coverage", table) for table in source.coverage),
        ("outliers", source.outliers),
        ("motion", source.motion),
        ("T1w image", source.t1w),
        ("T1w mask", source.t1_mask),
    ]
    files = [(what, path) for what, path in parts if path is not None]
    for what, path in files:
        if not path.is_file():
            raise InputError(f"{source.path}: its {what} {path} does not exist.", hint="Mend the manifest.")
    return files


def _key(source: ScanSource, job: _Job, t_r: float) -> str:
    """Names input and options: the same key means the same numbers."""
    found = [(what, path, path.stat()) for what, path in input_files(source)]
    stats = [(what, str(path), stat.st_size, stat.st_mtime_ns) for what, path, stat in found]
    atlas = [job.atlas.sha256, job.atlas.place]
    said = [stats, atlas, asdict(job.options), t_r, job.hash_sources, software_versions()["bjepa"]]
    if job.raw is not None:
        thresholds = asdict(job.raw.thresholds)
        said += [job.raw.template.sha256, asdict(job.raw.options), thresholds, source.slice_times]
    return sha256_of_json(said)[:32]


def _missing_regions(scan: RegionalScan, min_coverage: float) -> NDArray[np.bool_]:
    """(n_rois,) True where too little is covered, or the series is not finite or has no signal."""
    with np.errstate(invalid="ignore"):
        deviation = scan.timeseries.std(axis=0, dtype=np.float64)  # (n_rois,)
    uncovered = scan.coverage < min_coverage
    finite = np.isfinite(scan.timeseries).all(axis=0)
    typical = float(np.median(deviation[finite])) if finite.any() else 0.0
    silent = finite & (deviation <= NO_SIGNAL * typical)
    missing: NDArray[np.bool_] = uncovered | ~finite | silent
    return missing


def _refuse_too_many(missing: NDArray[np.bool_], source: ScanSource, options: ParticipantOptions) -> None:
    if missing.mean() > options.max_missing:
        raise InputError(
            f"{source.path}: {missing.sum()} of {len(missing)} regions are missing (coverage below "
            f"{options.min_coverage:g}, or no signal), --max-missing allows {options.max_missing:.0%}.",
            hint="Check that the scan is in the space of the atlas and covers the brain.",
        )


def _facts(
    source: ScanSource, job: _Job, scan: RegionalScan, cleaned: Cleaned, confounds: Confounds
) -> dict[str, Any]:
    """Where a scan came from and what was done to it; what its numbers were goes beside."""
    warnings = [*source.notes, *cleaned.warnings]
    if scan.mean_image is not None:
        grid = check_grid_in_space(scan.mean_image.affine, scan.mean_image.data.shape, job.options.space)
        warnings += [grid] if grid else []
    for warning in warnings:
        log.warning("%s: %s", source.scan_id, warning)
    return {column: getattr(source, column) for column in SCAN_COLUMNS} | {
        "source": str(source.path),
        "source_sha256": sha256_of_file(source.path) if job.hash_sources else "",
        "tables": [
            {"path": str(path), "sha256": sha256_of_file(path) if job.hash_sources else ""}
            for path in source.tables[1:]  # the first is the source
        ],
        "mask": None if source.mask is None else str(source.mask),
        "space": job.options.space,
        "n_frames_in": len(scan.timeseries),
        "n_frames": len(cleaned.timeseries),
        "n_dropped": cleaned.n_dropped,
        "n_censored": int(cleaned.censored.sum()),
        "coverage": scan.coverage.round(4).tolist(),
        "n_invalid_voxels": scan.n_invalid_voxels,
        "confounds": [] if confounds.values is None else list(confounds.values.columns),
        "degrees_of_freedom": cleaned.n_degrees,
        "warnings": warnings,
        "options": asdict(job.options),
        "atlas": job.atlas.name,
        "atlas_sha256": job.atlas.sha256,
        "atlas_place": job.atlas.place,
        "software": software_versions(),
        "bjepa_version": software_versions()["bjepa"],
    }
