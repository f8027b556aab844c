"""The participant stage: one scan -> regional means -> cleaned -> one file. Parallel, resumable.

Safe to run many at once: every file appears whole, and a scan that is done is kept.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

import bjepa
from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas, save_atlas
from bjepa.preproc.clean import CleaningOptions, clean_timeseries, confounds_beside, load_confounds
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan, extract_timeseries
from bjepa.preproc.files import sha256_of_file, sha256_of_json
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.scan_files import Failure, scan_stem
from bjepa.preproc.shards import SCAN_COLUMNS
from bjepa.preproc.stream import open_bold

log = logging.getLogger(__name__)

PLAUSIBLE_T_R = (0.2, 10.0)  # s
PLACE_HOLDER_T_R = 1.0  # s: what many tools write into the header when they do not know


@dataclass(frozen=True, kw_only=True)
class ParticipantOptions:
    """What decides the numbers of one scan's file; part of its key. `t_r` (s) overrules the files."""

    space: str
    t_r: float | None = None
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)
    min_coverage: float = 0.5
    max_missing: float = 0.05


def run_participants(
    scans: Sequence[ScanSource],
    atlas: Atlas,
    output: Path,
    options: ParticipantOptions,
    *,
    n_jobs: int,
    overwrite: bool,
    progress: Callable[[str], None],
) -> list[Failure]:
    """Do every scan that is not done yet; `progress` is called with the name of each as it ends.

    A scan that cannot be done is noted and the others go on. Returns the failures.
    """
    save_atlas(atlas, output / "atlas")
    scan_files.forget_vanished_failures(output)
    tasks = (delayed(_one_participant)(scan, atlas, output, options, overwrite) for scan in scans)
    failures = []
    for scan_id, failure in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        progress(scan_id)
        if failure is not None:
            failures.append(failure)
    scan_files.write_failures_table(output)
    return sorted(failures, key=lambda f: f.source)


def _one_participant(
    source: ScanSource, atlas: Atlas, output: Path, options: ParticipantOptions, overwrite: bool
) -> tuple[str, Failure | None]:
    try:
        process_scan(source, atlas, output, options, overwrite=overwrite)
    except InputError as error:
        named = str(source.path) in error.message
        message = error.message if named else f"{source.path}: {error.message}"
        failure = Failure(str(source.path), "participant", "InputError", message, error.hint)
    except Exception as error:  # a fault of ours or of a library must not stop the other scans
        log.debug("%s", source.path, exc_info=True)
        failure = Failure(
            str(source.path),
            "participant",
            type(error).__name__,
            f"{source.path}: {error}",
            "Please report this.",
        )
    else:
        scan_files.forget_failure(output, source)
        return source.scan_id, None
    scan_files.write_failure(output, source, failure)
    return source.scan_id, failure


def process_scan(
    source: ScanSource, atlas: Atlas, output: Path, options: ParticipantOptions, *, overwrite: bool = False
) -> None:
    """One scan, from its file to its regional series in OUTPUT; kept if it is there already."""
    bold = open_bold(source.path)
    t_r = decide_t_r(source, bold.header_t_r, options.t_r)
    key = _key(source, atlas, options, t_r)
    stem = scan_stem(output, source, atlas.name)
    if not overwrite and scan_files.is_finished(stem, key):
        return
    scan = extract_timeseries(source.path, atlas, source.mask, operator_cache=output / "work" / "operators")
    missing = _missing_regions(scan, options.min_coverage)
    if missing.mean() > options.max_missing:
        raise InputError(
            f"{source.path}: {missing.sum()} of {atlas.n_rois} regions are missing (coverage below "
            f"{options.min_coverage:g}), --max-missing allows {options.max_missing:.0%}.",
            hint="Check that the scan is in the space of the atlas and covers the brain.",
        )
    confounds = load_confounds(source.path, source.confounds, options.cleaning.confounds)
    cleaned = clean_timeseries(scan.timeseries, confounds, options.cleaning, t_r=t_r)  # (n_frames, n_rois)
    cleaned[:, missing] = np.nan
    facts = {column: getattr(source, column) for column in SCAN_COLUMNS} | {
        "source": str(source.path),
        "source_sha256": sha256_of_file(source.path),
        "mask": None if source.mask is None else str(source.mask),
        "space": options.space,
        "t_r": t_r,
        "n_frames_in": len(scan.timeseries),
        "n_frames": len(cleaned),
        "fd_mean": confounds.fd_mean,
        "tsnr_median": _tsnr(scan.timeseries),
        "coverage": scan.coverage.round(4).tolist(),
        "missing": np.flatnonzero(missing).tolist(),
        "n_invalid_voxels": scan.n_invalid_voxels,
        "confounds": [] if confounds.values is None else list(confounds.values.columns),
        "options": asdict(options),
        "atlas": atlas.name,
        "atlas_sha256": atlas.sha256,
        "bjepa_version": bjepa.__version__,
        "key": key,
    }
    scan_files.write_scan(stem, cleaned, np.zeros(len(cleaned), dtype=bool), facts)


def decide_t_r(source: ScanSource, header_t_r: float | None, given: float | None) -> float:
    """Repetition time in s: as given, else of the sidecar or manifest, else of a believable header."""
    if given is not None:
        if source.t_r is not None and abs(source.t_r - given) > 1e-3:
            log.warning("%s: its sidecar says t_r %g s, --t-r %g s is used.", source.path, source.t_r, given)
        return given
    low, high = PLAUSIBLE_T_R
    if source.t_r is not None:
        if not low <= source.t_r <= high:
            raise InputError(
                f"{source.path}: its sidecar says t_r {source.t_r:g} s; {low} to {high} s are plausible.",
                hint="Mend RepetitionTime (seconds), or give --t-r.",
            )
        return source.t_r
    if header_t_r is None or not low <= header_t_r <= high:
        found = "none or 0" if header_t_r is None else f"{header_t_r:g} s"
        raise InputError(
            f"{source.path}: no usable repetition time (header: {found}; no sidecar).",
            hint="Give --t-r SECONDS.",
        )
    if header_t_r == PLACE_HOLDER_T_R:
        raise InputError(
            f"{source.path}: the header's t_r of exactly 1 s is what tools write when they do not know it.",
            hint="Give --t-r SECONDS (also if it is 1).",
        )
    return header_t_r


def _key(source: ScanSource, atlas: Atlas, options: ParticipantOptions, t_r: float) -> str:
    """Names input and options: the same key means the same numbers."""
    confounds = source.confounds or confounds_beside(source.path)
    stats = []
    for what, path in (("image", source.path), ("mask", source.mask), ("confounds", confounds)):
        if path is None:
            continue
        if not path.is_file():
            raise InputError(f"{source.path}: its {what} {path} does not exist.", hint="Mend the manifest.")
        stats.append((what, str(path), path.stat().st_size, path.stat().st_mtime_ns))
    return sha256_of_json([stats, atlas.sha256, asdict(options), t_r, bjepa.__version__])[:32]


def _missing_regions(scan: RegionalScan, min_coverage: float) -> NDArray[np.bool_]:
    """(n_rois,) True where too little is covered, or the series is not finite or constant."""
    with np.errstate(invalid="ignore"):
        flat = np.ptp(scan.timeseries, axis=0) == 0
    uncovered = scan.coverage < min_coverage
    missing: NDArray[np.bool_] = uncovered | ~np.isfinite(scan.timeseries).all(axis=0) | flat
    return missing


def _tsnr(timeseries: NDArray[np.float32]) -> float | None:
    """Median over regions of mean / standard deviation of the uncleaned regional series."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = timeseries.mean(axis=0) / timeseries.std(axis=0)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else None
