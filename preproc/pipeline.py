"""The order of preprocessing, and nothing else: who calls whom for one scan, and for all of them.

participant stage   scan -> regional means -> cleaned -> one file   (parallel, resumable, safe to run many)
group stage         files -> phases -> scaling -> shards, tables                   (streams; never NIfTI)
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

import bjepa
from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas, save_atlas
from bjepa.preproc.clean import CleaningOptions, clean_timeseries, confounds_beside, load_confounds
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan, extract_timeseries
from bjepa.preproc.files import sha256_of_file, sha256_of_json, write_json, write_text
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.resample import Phases, Resampling, split_phases, stride_of
from bjepa.preproc.scaling import Scaling, ScalingMethod, fit_scaling
from bjepa.preproc.scan_files import Failure, FinishedScan, scan_stem
from bjepa.preproc.shards import ROI_COLUMNS, SCAN_COLUMNS, ShardScan, write_shard
from bjepa.preproc.stream import open_bold

log = logging.getLogger(__name__)

PLAUSIBLE_T_R = (0.2, 10.0)  # s
PLACE_HOLDER_T_R = 1.0  # s: what many tools write into the header when they do not know
SHARD_BYTES = 256 << 20
SCAN_TABLE_COLUMNS = (
    "scan_id participant_id session task run source space t_r stride t_r_out n_frames_in n_frames n_phases "
    "shard fd_mean tsnr_median coverage_min n_missing_rois"
).split()


@dataclass(frozen=True, kw_only=True)
class ParticipantOptions:
    """What decides the numbers of one scan's file; part of its key. `t_r` (s) overrules the files."""

    space: str
    t_r: float | None = None
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)
    min_coverage: float = 0.5
    max_missing: float = 0.05


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """What decides the shards. `target_t_r` in s; `scaling_participants`: None = all."""

    target_t_r: float = 2.0
    resample: Resampling = "stride"
    phases: Phases = "all"
    scaling: ScalingMethod = "robust"
    scaling_participants: frozenset[str] | None = None


# --- participant stage --------------------------------------------------------------------------------------


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
    _write_failures_table(output)
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
    scan_files.write_scan(stem, cleaned, facts)


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


# --- group stage --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupResult:
    """What the group stage made, for the report: scans.tsv, the scaling, and the scans themselves."""

    table: pd.DataFrame
    scaling: Scaling
    scans: list[FinishedScan]


@dataclass(frozen=True, eq=False)
class _Member:
    """A finished scan and what the group stage does with it."""

    scan: FinishedScan
    stride: int
    valid: NDArray[np.bool_]  # (n_rois,)

    def n_frames(self, phases: Phases) -> int:
        """Frames that are stored."""
        n_frames = int(self.scan.facts["n_frames"])
        return n_frames if phases == "all" else _n_frames_out(n_frames, self.stride)


def run_group(
    atlas: Atlas, output: Path, options: GroupOptions, *, progress: Callable[[str], None]
) -> GroupResult:
    """Scaling, shards and tables from all finished scans of this atlas in OUTPUT."""
    scans, foreign = scan_files.finished_scans(output, atlas.sha256)
    if foreign:
        log.warning(
            "%d finished scans of other atlases in %s are left out, e.g. %s.",
            len(foreign),
            output,
            foreign[0].path,
        )
    if not scans:
        raise InputError(f"{output} holds no finished scan.", hint="Run the stage 'participant' first.")
    _refuse_mixed_options(scans)
    members = [_member(scan, atlas, options) for scan in scans]
    scaling = _fit(members, atlas, options)
    shard_names = _write_shards(members, atlas, scaling, output, options, progress)
    rows = [_scan_row(m, options, shard) for m, shard in zip(members, shard_names, strict=True)]
    table = pd.DataFrame(rows, columns=SCAN_TABLE_COLUMNS)
    _write_tables(output, table, scaling, atlas)
    return GroupResult(table, scaling, scans)


def _refuse_mixed_options(scans: list[FinishedScan]) -> None:
    """Scans of one shard were cleaned alike; only t_r may have been given for some and not for others."""
    decisive = [
        {k: v for k, v in scan.facts["options"].items() if k not in ("t_r", "space")} for scan in scans
    ]
    for scan, options in zip(scans, decisive, strict=True):
        if options != decisive[0]:
            raise InputError(
                f"{scans[0].facts['scan_id']} was done with {decisive[0]}, "
                f"{scan.facts['scan_id']} with {options}.",
                hint="Run the stage 'participant' for all scans with the same options.",
            )


def _member(scan: FinishedScan, atlas: Atlas, options: GroupOptions) -> _Member:
    valid = np.ones(atlas.n_rois, dtype=bool)
    valid[scan.facts["missing"]] = False
    return _Member(scan, stride_of(scan.facts["t_r"], options.target_t_r, options.resample), valid)


def _fit(members: list[_Member], atlas: Atlas, options: GroupOptions) -> Scaling:
    """The scaling, from the frames of the participants that fit it."""
    fitting = members
    if options.scaling_participants is not None:
        present = {m.scan.facts["participant_id"] for m in members}
        fitting = [m for m in members if m.scan.facts["participant_id"] in options.scaling_participants]
        if not fitting:
            raise InputError(
                f"--scaling-participants names {len(options.scaling_participants)} participants; "
                "none of them has a finished scan.",
                hint=f"Participants here: {sorted(present)[:5]} …",
            )
        if absent := sorted(options.scaling_participants - present):
            log.warning("--scaling-participants: %d have no finished scan, e.g. %s.", len(absent), absent[0])

    def read(number: int, columns: slice) -> NDArray[np.float32]:
        series = fitting[number].scan.series(columns)
        return series if options.phases == "all" else series[:: fitting[number].stride]

    sizes = [(m.valid, m.n_frames(options.phases)) for m in fitting]
    return fit_scaling(sizes, read, atlas.table["name"].tolist(), options.scaling)


def _write_shards(
    members: list[_Member],
    atlas: Atlas,
    scaling: Scaling,
    output: Path,
    options: GroupOptions,
    progress: Callable[[str], None],
) -> list[str]:
    """Write all shards beside the old ones, then exchange the folders. Returns each scan's shard."""
    fresh = output / "work" / "shards-new"
    shutil.rmtree(fresh, ignore_errors=True)
    rois = {column: atlas.table[column].tolist() for column in ROI_COLUMNS}
    sizes = [4 * int(m.scan.facts["n_frames"]) * atlas.n_rois for m in members]
    names = []
    for number, group in enumerate(_split(sizes, SHARD_BYTES)):
        name = f"shard-{number:05d}.h5"
        scans = []
        for i in group:
            scans.append(_shard_scan(members[i], scaling, options))
            names.append(name)
            progress(scans[-1].entities["scan_id"])
        write_shard(
            fresh / name,
            scans,
            atlas=atlas.name,
            atlas_sha256=atlas.sha256,
            rois=rois,
            median=scaling.median,
            iqr=scaling.iqr,
            scaling=scaling.method,
            target_t_r=options.target_t_r,
        )
    old = output / "work" / "shards-old"
    shutil.rmtree(old, ignore_errors=True)
    if (output / "shards").exists():
        (output / "shards").rename(old)
    fresh.rename(output / "shards")
    shutil.rmtree(old, ignore_errors=True)
    return names


def _shard_scan(member: _Member, scaling: Scaling, options: GroupOptions) -> ShardScan:
    facts = member.scan.facts
    scaled = scaling.apply(member.scan.series())  # (n_frames, n_rois)
    return ShardScan(
        entities={column: facts[column] for column in SCAN_COLUMNS},
        t_r=facts["t_r"],
        t_r_out=facts["t_r"] * member.stride,
        valid=member.valid,
        phases=split_phases(scaled, member.stride, options.phases),
    )


def _split(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive numbers in groups of at most `limit` bytes, at least one in each."""
    groups: list[list[int]] = []
    filled = limit
    for i, size in enumerate(sizes):
        if filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += size
    return groups


def _scan_row(member: _Member, options: GroupOptions, shard: str) -> dict[str, Any]:
    fact, stride = member.scan.facts, member.stride
    return {column: fact[column] for column in (*SCAN_COLUMNS, "source", "space", "t_r", "n_frames_in")} | {
        "stride": stride,
        "t_r_out": fact["t_r"] * stride,
        "n_frames": _n_frames_out(fact["n_frames"], stride),
        "n_phases": min(stride, fact["n_frames"]) if options.phases == "all" else 1,
        "shard": shard,
        "fd_mean": fact["fd_mean"],
        "tsnr_median": fact["tsnr_median"],
        "coverage_min": min(fact["coverage"]),
        "n_missing_rois": len(fact["missing"]),
    }


def _n_frames_out(n_frames: int, stride: int) -> int:
    """Frames of the first phase, the longest: every stride-th, rounded up."""
    return -(-n_frames // stride)


def _write_tables(output: Path, scans: pd.DataFrame, scaling: Scaling, atlas: Atlas) -> None:
    blank = scans.replace("", np.nan)
    write_text(output / "scans.tsv", blank.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))
    table = pd.DataFrame(
        {
            "index": atlas.table["index"],
            "name": atlas.table["name"],
            "median": scaling.median,
            "iqr": scaling.iqr,
        }
    )
    write_text(output / "scaling.tsv", table.to_csv(sep="\t", index=False))
    _write_failures_table(output)


def _write_failures_table(output: Path) -> None:
    rows = [asdict(failure) for failure in scan_files.read_failures(output)]
    table = pd.DataFrame(rows, columns=["source", "stage", "error", "message", "hint"])
    write_text(output / "failures.tsv", table.to_csv(sep="\t", index=False))


def write_description(output: Path, source: Path, made_by: str) -> None:
    """`dataset_description.json` of a BIDS derivative."""
    write_json(
        output / "dataset_description.json",
        {
            "Name": "bjepa regional time series",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bjepa-preprocess", "Version": bjepa.__version__}],
            "SourceDatasets": [
                {"URL": source.resolve().as_uri()} | ({"Description": made_by} if made_by else {})
            ],
        },
    )
