"""Each shard against the format (docs/preprocessing.md), the atlas and scaling.tsv; every number in it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.check.folder import Folder, numbers
from bjepa.preproc.check.options import check_options, options_of
from bjepa.preproc.check.problem import RUN_GROUP, Problem
from bjepa.preproc.scaling import SCALING_METHODS

FORMAT, FORMAT_VERSION = "bjepa-shard", 1
ATTRIBUTES = "format format_version bjepa_version atlas atlas_sha256 n_rois scaling target_t_r".split()
SCAN_TEXT = "scan_id participant_id session task run".split()
ROI_TEXT = "name structure network7 network17".split()
SERIES = {"offset": np.int64, "length": np.int64, "scan": np.int32, "phase": np.int8}
OPTIONAL_TEXT = "source source_sha256 provenance".split()  # of scans


@dataclass(frozen=True)
class ShardScan:
    """A scan as its shard tells it."""

    shard: str  # file name
    facts: dict[str, str]  # SCAN_TEXT
    t_r: float
    t_r_out: float
    valid: NDArray[np.bool_]  # (n_rois,)
    lengths: list[int]  # frames of its series, by phase
    source: str | None  # None in shards of earlier versions, as the next two
    source_sha256: str | None
    provenance: dict[str, Any] | None
    options: dict[str, Any]  # of the shard: of both stages; {} in shards of earlier versions


@dataclass(frozen=True)
class Shards:
    """What was found. readable: all shards are there and could be read, so that `scans` are all scans."""

    problems: list[Problem]
    scans: list[ShardScan]
    readable: bool


def check_shards(output: Path, folder: Folder, *, progress: Callable[[str], None]) -> Shards:
    """Problems of all shards, and the scans of those that can be read."""
    paths = sorted((output / "shards").glob("*.h5"))
    if not paths:
        return Shards([Problem(output / "shards", "holds no shard.", RUN_GROUP)], [], readable=False)
    problems: list[Problem] = []
    scans: list[ShardScan] = []
    readable = True
    if [p.name for p in paths] != [f"shard-{number:05d}.h5" for number in range(len(paths))]:
        named = ", ".join(p.name for p in paths[:5])
        what = f"a shard is absent or foreign: it holds {named}{' …' if len(paths) > 5 else ''}."
        problems.append(Problem(output / "shards", what, RUN_GROUP))
        readable = False
    for path in paths:
        progress(path.name)
        try:
            with h5py.File(path, "r") as shard:
                unreadable = [*_header(path, shard)] or [*_parts(path, shard)]
                problems += unreadable or _content(path, shard, folder)
                scans += [] if unreadable else _scans(path, shard)
                readable &= not unreadable
        except (OSError, KeyError, ValueError, TypeError) as error:
            problems.append(Problem(path, f"is not a readable shard ({error}).", RUN_GROUP))
            readable = False
    return Shards(problems, scans, readable)


def _header(path: Path, shard: Any) -> Iterator[Problem]:
    found = (shard.attrs.get("format"), shard.attrs.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        what = f"has format {found[0]}, version {found[1]}, not {FORMAT}, version {FORMAT_VERSION}."
        yield Problem(path, what, RUN_GROUP)
    elif absent := [name for name in ATTRIBUTES if name not in shard.attrs]:
        yield Problem(path, f"lacks the attributes {absent}.", RUN_GROUP)


def _content(path: Path, shard: Any, folder: Folder) -> Iterator[Problem]:
    if shard["timeseries"].chunks or shard["timeseries"].compression:
        yield Problem(path, "/timeseries is not contiguous and uncompressed.", RUN_GROUP)
    yield from _attributes(path, shard, folder)
    yield from _regions_and_scaling(path, shard, folder)
    yield from check_options(path, shard)
    yield from _provenance(path, shard)
    index = list(_index(path, shard))
    yield from index
    if not index:
        yield from _values(path, shard)


def _parts(path: Path, shard: Any) -> Iterator[Problem]:
    """Every data set is there with its type and shape."""
    n_rois, n_scans = int(shard.attrs["n_rois"]), len(shard.get("scans/scan_id", ()))
    n_series, n_frames = len(shard.get("series/offset", ())), len(shard.get("timeseries", ()))
    needed: list[tuple[str, Any, tuple[int, ...]]] = [
        ("timeseries", np.float32, (n_frames, n_rois)),
        *((f"series/{name}", kind, (n_series,)) for name, kind in SERIES.items()),
        *((f"scans/{name}", str, (n_scans,)) for name in SCAN_TEXT),
        *((f"scans/{name}", np.float64, (n_scans,)) for name in ("t_r", "t_r_out")),
        ("scans/valid", np.bool_, (n_scans, n_rois)),
        *((f"rois/{name}", str, (n_rois,)) for name in ROI_TEXT),
        *((f"scaling/{name}", np.float64, (n_rois,)) for name in ("median", "iqr")),
    ]
    optional: list[tuple[str, Any, tuple[int, ...]]] = [
        ("censored", np.bool_, (n_frames,)),
        *((f"scans/{name}", str, (n_scans,)) for name in OPTIONAL_TEXT),
        *((f"scans/{name}", np.float64, (n_scans, n_rois)) for name in ("offset", "scale")),
        ("scans/fits_scaling", np.bool_, (n_scans,)),
    ]
    for name, kind, shape in [*needed, *(part for part in optional if part[0] in shard)]:
        if name not in shard:
            yield Problem(path, f"lacks /{name}.", RUN_GROUP)
            continue
        text = h5py.check_string_dtype(shard[name].dtype) is not None
        if (text if kind is str else shard[name].dtype == kind) and shard[name].shape == shape:
            continue
        wanted = "text" if kind is str else np.dtype(kind).name
        what = f"/{name} is {shard[name].dtype} {shard[name].shape}, not {wanted} {shape}."
        yield Problem(path, what, RUN_GROUP)
    if ("scans/offset" in shard) != ("scans/scale" in shard):
        yield Problem(path, "lacks one of /scans/offset and /scans/scale.", RUN_GROUP)


def _attributes(path: Path, shard: Any, folder: Folder) -> Iterator[Problem]:
    for name, expected in (("atlas_sha256", folder.atlas_sha256), ("atlas", folder.atlas_name)):
        if expected is not None and shard.attrs[name] != expected:
            yield Problem(path, f"{name} is {shard.attrs[name]}, atlas/atlas.json has {expected}.", RUN_GROUP)
    if folder.atlas is not None and int(shard.attrs["n_rois"]) != len(folder.atlas):
        yield Problem(path, f"n_rois is {shard.attrs['n_rois']}, not {len(folder.atlas)}.", RUN_GROUP)
    if shard.attrs["scaling"] not in SCALING_METHODS:
        yield Problem(
            path, f"scaling is {shard.attrs['scaling']!r}, not one of {SCALING_METHODS}.", RUN_GROUP
        )
    if not shard.attrs["target_t_r"] > 0:
        yield Problem(path, f"target_t_r is {shard.attrs['target_t_r']} s.", RUN_GROUP)
    for name in ("options", "software"):
        try:
            told = json.loads(shard.attrs.get(name, "{}"))
        except ValueError as error:
            yield Problem(path, f"attribute {name} is not JSON ({error}).", RUN_GROUP)
            continue
        if not isinstance(told, dict):
            yield Problem(path, f"attribute {name} is not a JSON object.", RUN_GROUP)


def _provenance(path: Path, shard: Any) -> Iterator[Problem]:
    for row in range(len(shard.get("scans/provenance", ()))):
        if _provenance_of(shard, row) is None:
            scan_id = shard["scans/scan_id"].asstr()[row]
            yield Problem(path, f"/scans/provenance of {scan_id} is not a JSON object.", RUN_GROUP)


def _provenance_of(shard: Any, row: int) -> dict[str, Any] | None:
    """None where it is not there or not readable."""
    if "scans/provenance" not in shard:
        return None
    try:
        told = json.loads(shard["scans/provenance"].asstr()[row])
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _regions_and_scaling(path: Path, shard: Any, folder: Folder) -> Iterator[Problem]:
    n_rois = int(shard.attrs["n_rois"])
    if folder.atlas is not None and len(folder.atlas) == n_rois:
        for name in ROI_TEXT:
            if shard[f"rois/{name}"].asstr()[:].tolist() != folder.atlas[name].tolist():
                yield Problem(path, f"/rois/{name} differs from atlas/atlas.tsv.", RUN_GROUP)
    for name in ("median", "iqr"):
        stored = shard[f"scaling/{name}"][:]
        if not np.isfinite(stored).all() or (name == "iqr" and not (stored > 0).all()):
            yield Problem(path, f"/scaling/{name} holds values that cannot scale.", RUN_GROUP)
        if folder.scaling is not None and len(folder.scaling) == n_rois:
            told = numbers(folder.scaling[name])
            if not np.allclose(stored, told, rtol=1e-9, atol=0):
                worst = int(np.argmax(np.abs(stored - told)))
                yield Problem(
                    path,
                    f"/scaling/{name} is {stored[worst]:g} in column {worst + 1}, "
                    f"scaling.tsv has {told[worst]:g}.",
                    RUN_GROUP,
                )
    if "scans/scale" in shard:
        offset, scale = shard["scans/offset"][:], shard["scans/scale"][:]
        if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()):
            yield Problem(path, "/scans/offset or /scans/scale hold values that cannot scale.", RUN_GROUP)


def _index(path: Path, shard: Any) -> Iterator[Problem]:
    """/series says where each series lies: back to back, in the order of the scans, phases 0, 1, 2 ..."""
    offset, length, scan, phase = (shard[f"series/{name}"][:].astype(np.int64) for name in SERIES)
    ends = np.cumsum(length)
    if not (length > 0).all() or not np.array_equal(offset, ends - length):
        yield Problem(path, "/series/offset and /series/length do not lie back to back.", RUN_GROUP)
    if ends[-1:].sum() != len(shard["timeseries"]):
        yield Problem(
            path, f"/series ends at frame {ends[-1:].sum()} of {len(shard['timeseries'])}.", RUN_GROUP
        )
    n_series_of = np.bincount(scan[scan >= 0], minlength=len(shard["scans/scan_id"]))
    if not np.array_equal(scan, np.repeat(np.arange(len(n_series_of)), n_series_of)) or not n_series_of.all():
        yield Problem(path, "/series/scan does not name each row of /scans in turn.", RUN_GROUP)
    elif not np.array_equal(phase, np.concatenate([np.arange(n) for n in n_series_of])):
        yield Problem(path, "/series/phase does not count 0, 1, 2, ... within each scan.", RUN_GROUP)
    times = np.concatenate([shard["scans/t_r"][:], shard["scans/t_r_out"][:]])
    if not (np.isfinite(times) & (times > 0)).all():
        yield Problem(
            path, "/scans/t_r or /scans/t_r_out hold values that are no repetition times.", RUN_GROUP
        )


def _values(path: Path, shard: Any) -> Iterator[Problem]:
    """Every number is finite, and 0 where the region is missing; a series in memory at a time."""
    valid, names = shard["scans/valid"][:], shard["scans/scan_id"].asstr()[:]
    for offset, length, scan in zip(
        *(shard[f"series/{name}"][:].tolist() for name in ("offset", "length", "scan")), strict=True
    ):
        frames = shard["timeseries"][offset : offset + length]  # (n_frames, n_rois)
        if not np.isfinite(frames).all():
            yield Problem(path, f"{names[scan]} has values that are not finite.", RUN_GROUP)
        if np.any(frames[:, ~valid[scan]]):
            yield Problem(path, f"{names[scan]} has values other than 0 in missing regions.", RUN_GROUP)


def _scans(path: Path, shard: Any) -> list[ShardScan]:
    text = {name: shard[f"scans/{name}"].asstr()[:] for name in SCAN_TEXT}
    t_r, t_r_out, valid = (shard[f"scans/{name}"][:] for name in ("t_r", "t_r_out", "valid"))
    length, scan = shard["series/length"][:], shard["series/scan"][:]
    source = _optional_text(shard, "scans/source", len(t_r))
    sha256 = _optional_text(shard, "scans/source_sha256", len(t_r))
    options = options_of(shard)
    return [
        ShardScan(
            path.name,
            {name: str(text[name][row]) for name in SCAN_TEXT},
            float(t_r[row]),
            float(t_r_out[row]),
            valid[row],
            length[scan == row].tolist(),
            source[row],
            sha256[row],
            _provenance_of(shard, row),
            options,
        )
        for row in range(len(t_r))
    ]


def _optional_text(shard: Any, name: str, n_scans: int) -> list[str | None]:
    return shard[name].asstr()[:].tolist() if name in shard else [None] * n_scans
