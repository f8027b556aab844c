"""What a scan is before it is read: its files and what their names and sidecars say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bjepa.preproc.errors import InputError

Kind = Literal["volume", "dtseries", "series", "raw"]
XcpdChoice = Literal["auto", "tables", "nifti"]

# entity -> labels it may have; None among them: the entity may be absent; an empty tuple: any, but present
BidsFilter = Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """One scan to be preprocessed. Text is "" and values are None where nothing is known."""

    path: Path
    kind: Kind = "volume"
    scan_id: str  # unique in the call; begins the names of the scan's output files
    participant_id: str  # with "sub-"
    session: str = ""
    task: str = ""
    run: str = ""
    space: str | None = None
    t_r: float | None = None  # s, from the sidecar or manifest
    mask: Path | None = None
    confounds: Path | None = None
    tables: tuple[Path, ...] = ()  # kind "series": all tables that together hold the scan; path is the first
    coverage: tuple[Path, ...] = ()  # of those tables, from XCP-D
    outliers: Path | None = None  # XCP-D: which frames of the scan were censored
    motion: Path | None = None  # XCP-D: framewise displacement of all frames
    denoised: bool = False  # cleaned already
    t1w: Path | None = None  # kind "raw": the T1w image that the run is registered to, None = there is none
    guides: tuple[Path, ...] = ()  # kind "raw": runs of the T1w, the first usable one helps to find its brain
    t1_mask: Path | None = None  # kind "raw": brain mask of the T1w image, given by the user
    slice_times: tuple[float, ...] | None = None  # kind "raw": s after the start of the volume, a slice each
    slice_axis: int = 2  # kind "raw": the axis of the array along which slices lie
    notes: tuple[str, ...] = ()  # what the user must be told of this scan, sentences
    error: InputError | None = None  # why this scan cannot be done; the others can


@dataclass(frozen=True)
class Dataset:
    """The scans of one call, and what made them ("fMRIPrep" and the like, "" where unknown)."""

    scans: list[ScanSource]
    made_by: str = ""


@dataclass(frozen=True, kw_only=True)
class RawWanted:
    """What is asked for of raw BIDS folders.

    t1w_filter : of T1w images, the section "t1w" of the filter file
    t1_mask : pattern of the brain masks of T1w images, see raw_bids.check_mask_pattern
    allow_no_t1w, slice_timing : whether a run without T1w, or without slice times, is all right
    """

    t1w_filter: BidsFilter = field(default_factory=dict)
    t1_mask: str | None = None
    allow_no_t1w: bool = False
    slice_timing: bool = False


@dataclass(frozen=True)
class ScanFilter:
    """BIDS-App style choice of scans; an empty tuple keeps all. Labels with or without their `sub-`.

    A participant label may also be a file of participants (a list, or a table with participant_id).
    """

    participant_label: Sequence[str] = field(default=())
    session_label: Sequence[str] = field(default=())
    task_id: Sequence[str] = field(default=())
    run_id: Sequence[str] = field(default=())
    space: str | None = None  # of images whose name says their space
    bids_filter: BidsFilter = field(default_factory=dict)  # see bids.read_bids_filter
    atlas: str | None = None  # the output atlas: which tables of XCP-D and UK Biobank are taken
    xcpd: XcpdChoice = (
        "auto"  # of XCP-D: parcellated tables or denoised images; auto: tables if they are there
    )
    raw: RawWanted = field(default_factory=RawWanted)
