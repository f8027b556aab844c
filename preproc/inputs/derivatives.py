"""Scans of a BIDS derivative: preprocessed images of fMRIPrep, tables or denoised images of XCP-D.

    fMRIPrep   *_space-S[_res-R]_desc-preproc_bold.nii.gz, its desc-brain_mask; with --space fsLR
               *_space-fsLR_den-91k_bold.dtseries.nii; another desc (smoothAROMAnonaggr) by filter file
    XCP-D      *_space-S_seg-A_stat-mean_timeseries.tsv (in other versions atlas-A) and their
               stat-coverage_bold.tsv, of the atlases A that together hold the regions
               wanted; else *_desc-denoised_bold.nii.gz. Folders of others with such tables and no
               images, our own export among them, are read alike
Each session and run is a scan of its own: nothing is joined, and a file that another tool has joined from
runs is left out where its runs are there.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bjepa.preproc.atlas.spaces import SURFACE_SPACE
from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import (
    NATIVE_SPACES,
    BidsName,
    Tree,
    clean_label,
    parse_name,
    passes,
    read_json,
    stem_of,
)
from bjepa.preproc.inputs.known_tables import XCPD, tables_of_parts
from bjepa.preproc.inputs.names import PARCELLATION, scan_of_file, scan_of_name, with_t_r
from bjepa.preproc.inputs.source import Dataset, ScanFilter, ScanSource

log = logging.getLogger(__name__)

_DENOISED = ("denoised", "residual")  # residual: XCP-D before 0.3


def scans_of_derivative(folder: Path, keep: ScanFilter, exclude: Path | None) -> Dataset:
    """The scans of a derivative folder, which has a `dataset_description.json`."""
    description = read_json(folder / "dataset_description.json")
    tools = description.get("GeneratedBy", [description.get("PipelineDescription")])  # the latter until 2020
    first = tools[0] if isinstance(tools, list) and tools and isinstance(tools[0], dict) else {}
    made_by = str(first.get("Name", ""))
    tree = Tree(folder, exclude)
    by_xcpd = re.sub(r"[^a-z]", "", made_by.lower()) == "xcpd"
    images, tables = tree.files("_bold.nii", "_bold.nii.gz"), tree.files("_stat-mean_timeseries.tsv")
    if by_xcpd or (any(tables) and not any(images)):
        scans = _of_xcpd(tree, keep)
    else:
        scans = _of_fmriprep(tree, keep)
    return Dataset(scans, made_by)


def _of_fmriprep(tree: Tree, keep: ScanFilter) -> list[ScanSource]:
    images = [
        path
        for path in tree.files("_bold.nii", "_bold.nii.gz")
        if ("desc" in keep.bids_filter or "_desc-preproc_" in path.name) and _is_wanted(path, keep)
    ]
    surfaces = [path for path in tree.files("_bold.dtseries.nii") if _is_wanted(path, keep)]
    if not (images or surfaces):
        raise InputError(
            f"INPUT {tree.root} holds no *_desc-preproc_bold.nii.gz{_after_filter(keep)}.",
            hint="Give the derivative folder itself (the one with the sub-* folders).",
        )
    images = _in_template_space(images, keep, or_else=bool(surfaces), root=tree.root)
    if surfaces and images and keep.space != SURFACE_SPACE:
        log.info("%d surface files (dtseries) left out; --space %s takes them.", len(surfaces), SURFACE_SPACE)
        surfaces = []
    elif surfaces:
        images = [] if keep.space == SURFACE_SPACE else images
    scans = [scan_of_file(tree, path) for path in without_joined([*images, *surfaces])]
    return [scan if scan.kind == "dtseries" else replace(scan, mask=_mask(tree, scan.path)) for scan in scans]


def _mask(tree: Tree, path: Path) -> Path | None:
    name = re.sub(r"_desc-[A-Za-z0-9]+_bold(\.nii(\.gz)?)$", r"_desc-brain_mask\1", path.name)
    mask = path.with_name(name)
    return mask if tree.has(mask) else None


def _in_template_space(images: list[Path], keep: ScanFilter, *, or_else: bool, root: Path) -> list[Path]:
    """Without images in the participant's own space (no `space-`, or space-T1w)."""
    kept = [
        p
        for p in images
        if (space := parse_name(p).entities.get("space")) not in NATIVE_SPACES
        or (space is not None and space == keep.space)
    ]
    if images and not kept and not or_else:
        raise InputError(
            f"INPUT {root}: its {len(images)} preprocessed runs are in the participants' own space only, "
            f"e.g. {images[0].name}.",
            hint="Run fMRIPrep with --output-spaces MNI152NLin6Asym:res-2.",
        )
    if left := len(images) - len(kept):
        log.info("%d runs in the participants' own space left out.", left)
    return kept


# --- XCP-D --------------------------------------------------------------------------------------------------


def _of_xcpd(tree: Tree, keep: ScanFilter) -> list[ScanSource]:
    tables = _xcpd_tables(tree, keep) if keep.xcpd != "nifti" else []
    if keep.xcpd == "tables" and not tables:
        raise InputError(
            f"INPUT {tree.root} holds no tables with the regions of {keep.atlas!r}{_after_filter(keep)}; "
            f"it has the atlases {sorted(_atlases(tree))}.",
            hint=_wanted_atlases(keep),
        )
    images = _denoised(tree, keep) if not tables else []
    if not (tables or images):
        raise InputError(
            f"INPUT {tree.root} holds neither tables with the regions of {keep.atlas!r} nor "
            f"*_desc-denoised_bold.nii.gz{_after_filter(keep)}; it has the atlases {sorted(_atlases(tree))}.",
            hint=_wanted_atlases(keep),
        )
    if keep.xcpd == "auto":
        what = "regional tables" if tables else "denoised images"
        log.info("XCP-D: %d scans from its %s.", len(tables or images), what)
    return tables or images


def _wanted_atlases(keep: ScanFilter) -> str:
    parts = tables_of_parts(keep.atlas, XCPD)
    if parts is None:
        return f"No atlas of XCP-D is known to hold the regions of {keep.atlas!r}; take its denoised images."
    return (
        f"Run XCP-D with --atlases {' '.join(options[0] for options in parts)}, or take its denoised images."
    )


def _denoised(tree: Tree, keep: ScanFilter) -> list[ScanSource]:
    endings = ("_bold.nii", "_bold.nii.gz", "_bold.dtseries.nii")
    found = [path for path in tree.files(*endings) if _is_wanted(path, keep)]
    asked = "desc" in keep.bids_filter
    found = [p for p in found if asked or parse_name(p).entities.get("desc") in _DENOISED]
    surfaces = [p for p in found if p.name.endswith(".dtseries.nii")]
    volumes = [p for p in found if not p.name.endswith(".dtseries.nii")]
    chosen = surfaces if keep.space == SURFACE_SPACE or not volumes else volumes
    scans = [replace(scan_of_file(tree, path), denoised=True) for path in without_joined(chosen)]
    return [_with_censoring(tree, scan) for scan in scans]


def _xcpd_tables(tree: Tree, keep: ScanFilter) -> list[ScanSource]:
    parts = tables_of_parts(keep.atlas, XCPD) or []
    whole = clean_label(stem_of(Path(keep.atlas or "")))  # a table of this very atlas
    of_scan: dict[tuple[Path, frozenset[str]], dict[str, Path]] = {}
    for path in tree.files("_timeseries.tsv"):
        name = parse_name(path)
        atlas = name.entities.get("seg", name.entities.get("atlas"))
        if atlas is not None and name.entities.get("stat", "mean") == "mean" and _is_wanted(path, keep):
            of_scan.setdefault((path.parent, frozenset(_words(name))), {})[atlas] = path
    chosen: dict[Path, tuple[Path, ...]] = {}
    lacking: list[Path] = []
    for tables in of_scan.values():
        if whole in tables:
            chosen[tables[whole]] = (tables[whole],)
            continue
        picked = [next((tables[a] for a in options if a in tables), None) for options in parts]
        complete = tuple(path for path in picked if path is not None)
        if complete and len(complete) == len(parts):
            chosen[complete[0]] = complete
        else:
            lacking.append(next(iter(tables.values())))
    if chosen and lacking:
        raise InputError(
            f"INPUT {tree.root}: {len(lacking)} of {len(of_scan)} scans lack the tables of {keep.atlas!r}, "
            f"e.g. {lacking[0].name}.",
            hint=f"Leave them out with the filters, or take the denoised images. {_wanted_atlases(keep)}",
        )
    return [_table_scan(tree, chosen[first]) for first in without_joined(list(chosen))]


def _table_scan(tree: Tree, tables: tuple[Path, ...]) -> ScanSource:
    scan = scan_of_name(tables[0])
    beside = [p.with_name(re.sub(r"(_stat-mean)?_timeseries", "_stat-coverage_bold", p.name)) for p in tables]
    scan = replace(scan, tables=tables, coverage=tuple(p for p in beside if tree.has(p)), denoised=True)
    words = {*_words(parse_name(tables[0])), "desc-denoised", "desc-residual", "den-91k", "res-2", "bold"}
    scan = with_t_r(scan, lambda: tree.facts(tables[0].parent, words) | tree.sidecar_facts(tables[0]))
    return _with_censoring(tree, scan)


def _with_censoring(tree: Tree, scan: ScanSource) -> ScanSource:
    """With the files of the run (they name no space) that say which frames are censored, and the motion."""
    run = "_".join(
        w for w in _words(parse_name(scan.path)) if not w.startswith(("space-", "res-", "den-", "desc-"))
    )
    outliers, motion = (scan.path.with_name(f"{run}_{what}.tsv") for what in ("outliers", "motion"))
    return replace(
        scan,
        outliers=outliers if tree.has(outliers) else None,
        motion=motion if tree.has(motion) else None,
    )


def _words(name: BidsName) -> list[str]:
    """What names the scan, not its parcellation."""
    return [f"{k}-{v}" for k, v in name.entities.items() if k not in PARCELLATION]


def _atlases(tree: Tree) -> set[str]:
    names = [parse_name(path).entities for path in tree.files("_timeseries.tsv")]
    return {atlas for e in names if (atlas := e.get("seg", e.get("atlas"))) is not None}


# --- both ---------------------------------------------------------------------------------------------------


def _is_wanted(path: Path, keep: ScanFilter) -> bool:
    """By the filter file alone; the other filters can tell later how many scans they had to choose from."""
    return passes(parse_name(path).entities, keep.bids_filter)


def _after_filter(keep: ScanFilter) -> str:
    return " that the filter file keeps" if keep.bids_filter else ""


def without_joined(paths: Iterable[Path]) -> list[Path]:
    """Without files that were joined from several runs whose own files are here too (XCP-D --combine-runs).

    Such a file names no run, and sometimes no direction, or says desc-concatenated.
    """
    paths = list(paths)
    parts: dict[frozenset[tuple[str, str]], Path] = {}
    for path in paths:
        entities = parse_name(path).entities
        if "run" in entities:
            for without in (("run",), ("run", "dir")):
                parts[_key(entities, without)] = path
    kept = []
    for path in paths:
        entities = parse_name(path).entities
        joined = "run" not in entities or entities.get("desc") == "concatenated"
        if joined and (run := parts.get(_key(entities, ("run",)))) is not None and run != path:
            log.warning(
                "%s is joined from runs that are here themselves (%s); left out.", path.name, run.name
            )
        else:
            kept.append(path)
    return kept


def _key(entities: dict[str, str], without: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    kept = {k: v for k, v in entities.items() if k not in without}
    if kept.get("desc") == "concatenated":
        del kept["desc"]
    elif kept.get("desc") in ("preproc", *_DENOISED):
        del kept["desc"]
    return frozenset(kept.items())


def refuse_the_same_run_twice(scans: list[ScanSource]) -> None:
    """One run in several resolutions, echoes or densities would count as several scans."""
    of_run: dict[frozenset[tuple[str, str]], ScanSource] = {}
    for scan in scans:
        entities = parse_name(scan.path).entities
        key = _key(entities, ("res", "den", "echo", "seg", "atlas", "stat", "desc"))
        other = of_run.setdefault(key, scan)
        if other is not scan:
            theirs = parse_name(other.path).entities
            differ = sorted(k for k in {*entities, *theirs} if entities.get(k) != theirs.get(k))
            raise InputError(
                f"the same run is here more than once: {other.path.name} and {scan.path.name}.",
                hint=f"Choose by {' and '.join(differ)} with --bids-filter-file, "
                f'for example {{"bold": {{"{differ[0]}": {_as_json(entities.get(differ[0]))}}}}}.'
                if differ
                else "Give one of the two folders.",
            )


def _as_json(label: str | None) -> str:
    return "null" if label is None else f'"{label}"'
