"""Finished scans as the group stage holds them: a slim record each (1.5 kB), their files read when needed.

A study has tens of thousands of scans and the facts of one are some ten kilobytes of JSON, so facts are read,
used and let go. What all scans must have in common (options) or may differ in (space, software) is gathered
on the way.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.scan_files import read_facts
from bjepa.preproc.shard_writer import SCAN_COLUMNS

_AGAIN = "Run the stage 'participant' again; it does these scans anew."
# what may differ between scans of one study: given by hand where the files of some did not say it
_MAY_DIFFER = ("t_r", "space")


@dataclass(frozen=True, slots=True, eq=False)
class ScanRecord:
    """A finished scan: what the group stage must know of it, and the way to its files."""

    json_path: str
    key: str  # of both its files
    scan_id: str
    participant_id: str
    session: str
    task: str
    run: str
    source: str
    space: str
    t_r: float  # s
    n_frames_in: int  # of the input
    n_frames: int  # left after dropping
    n_rois: int
    fd_mean: float | None  # mm
    tsnr_median: float | None
    coverage_min: float
    packed_valid: bytes  # bits of `valid`
    qc_json: str  # the numbers of quality control

    @property
    def path(self) -> Path:
        """Of the JSON file."""
        return Path(self.json_path)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(n_rois,) bool, False where the region is missing."""
        bits = np.unpackbits(np.frombuffer(self.packed_valid, np.uint8), count=self.n_rois)
        return bits.astype(bool)

    @property
    def qc(self) -> dict[str, Any]:
        """The numbers of quality control."""
        qc: dict[str, Any] = json.loads(self.qc_json)
        return qc

    @property
    def facts(self) -> dict[str, Any]:
        """All facts, read anew."""
        facts = read_facts(self.path)
        if facts.get("key") != self.key:
            raise self._changed()
        return facts

    def series(self) -> NDArray[np.float32]:
        """(n_frames, n_rois) float32 in the units of the scan, NaN in missing regions; read anew."""
        return self.read()[0]

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Series (n_frames, n_rois) and marks of censored frames (n_frames,), read anew."""
        path = self.path.with_suffix(".h5")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("key") != self.key:
                    raise self._changed()
                series: NDArray[np.float32] = file["timeseries"][:].astype(np.float32, copy=False)
                marks = file["censored"][:] if "censored" in file else np.zeros(len(series))
        except (OSError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}).", hint=_AGAIN) from error
        series[:, ~self.valid] = np.nan
        return series, np.asarray(marks, dtype=bool)

    def _changed(self) -> InputError:
        return InputError(
            f"{self.scan_id} changed while the stage 'group' ran.",
            hint="Run the stage 'group' when no stage 'participant' is running on this output.",
        )


class Common:
    """What the scans of a study share: one set of options, and every space and software version met."""

    def __init__(self) -> None:
        self.options: dict[str, Any] | None = None
        self.spaces: set[str] = set()
        self.places: dict[tuple[float, ...], str] = {}  # of the atlas -> a scan
        self._versions: dict[str, set[str]] = {}
        self._first = ""

    def add(self, facts: dict[str, Any]) -> None:
        """Refuses a scan that was cleaned otherwise than the first one."""
        options = {k: v for k, v in facts["options"].items() if k not in _MAY_DIFFER}
        if self.options is None:
            self.options, self._first = options, facts["scan_id"]
        if options != self.options:
            raise InputError(
                f"{self._first} was done with {self.options}, {facts['scan_id']} with {options}.",
                hint="Run the stage 'participant' for all scans with the same options; delete the files of "
                f"scans that INPUT no longer has (sub-*/**/{self._first}_* or {facts['scan_id']}_*).",
            )
        self.places.setdefault(tuple(facts.get("atlas_place", ())), facts["scan_id"])
        self.spaces.add(facts["space"])
        for name, version in facts.get("software", {}).items():
            self._versions.setdefault(name, set()).add(version)

    @property
    def software(self) -> dict[str, str | list[str]]:
        """Versions by name; a list where scans were made with several."""
        return {
            name: min(found) if len(found) == 1 else sorted(found) for name, found in self._versions.items()
        }


@dataclass(frozen=True)
class Foreign:
    """Finished scans of other atlases."""

    n_scans: int
    example: Path | None


def scan_paths(output: Path) -> list[str]:
    """JSON files of all finished scans, in scan_id order."""
    found = output.glob("sub-*/**/func/*_seg-*_timeseries.json")
    return [str(path) for path in sorted(found, key=lambda path: (path.name, str(path)))]


def read_records(
    paths: list[str], atlas_sha256: str, n_rois: int, *, progress: Callable[[str], None]
) -> tuple[list[ScanRecord], Foreign, Common]:
    """The records of the scans of this atlas, once all of them are known to be whole and alike.

    Raises
    ------
    InputError
        Scans whose two files do not belong together or cannot be read (all are named); scans that were
        cleaned with different options; a scan that is there twice.
    """
    records, common, damaged = [], Common(), []
    n_foreign, example = 0, None
    for json_path in paths:
        progress(Path(json_path).name)
        try:
            facts = read_facts(Path(json_path))
            if facts["atlas_sha256"] != atlas_sha256:
                n_foreign, example = n_foreign + 1, example or Path(json_path)
                continue
            record = _record(json_path, facts, n_rois)
            _check_series(record)
        except (OSError, KeyError, ValueError, TypeError) as error:
            damaged.append(f"{json_path} ({error})")
            continue
        common.add(facts)
        records.append(record)
    if damaged:
        raise InputError(
            f"{len(damaged)} scans are damaged or half replaced: {'; '.join(damaged[:5])}"
            f"{' …' if len(damaged) > 5 else ''}.",
            hint=_AGAIN,
        )
    _refuse_twice(records)
    return records, Foreign(n_foreign, example), common


def _record(json_path: str, facts: dict[str, Any], n_rois: int) -> ScanRecord:
    valid = np.ones(n_rois, dtype=bool)
    valid[facts["missing"]] = False
    return ScanRecord(
        json_path=json_path,
        key=facts["key"],
        source=facts["source"],
        space=intern(facts["space"]),
        t_r=float(facts["t_r"]),
        n_frames_in=facts["n_frames_in"],
        n_frames=facts["n_frames"],
        n_rois=n_rois,
        fd_mean=facts["fd_mean"],
        tsnr_median=facts["tsnr_median"],
        coverage_min=min(facts["coverage"]),
        packed_valid=np.packbits(valid).tobytes(),
        qc_json=json.dumps(facts.get("qc", {}), separators=(",", ":")),
        **{column: intern(facts[column]) for column in SCAN_COLUMNS},
    )


def _check_series(record: ScanRecord) -> None:
    """The HDF5 file is readable, belongs to the JSON file, and has the shape that it tells."""
    with h5py.File(record.path.with_suffix(".h5"), "r") as file:
        if file.attrs.get("key") != record.key:
            raise ValueError("its two files come from different runs")
        expected = (record.n_frames, record.n_rois)
        if file["timeseries"].shape != expected:
            raise ValueError(f"/timeseries is {file['timeseries'].shape}, not {expected}")


def _refuse_twice(records: list[ScanRecord]) -> None:
    """The same atlas under two names gives two files of one scan."""
    for one, other in itertools.pairwise(sorted(records, key=lambda record: record.scan_id)):
        if one.scan_id == other.scan_id:
            raise InputError(
                f"{one.scan_id} is there twice: {one.json_path} and {other.json_path}.",
                hint="Delete the files of one of them.",
            )
