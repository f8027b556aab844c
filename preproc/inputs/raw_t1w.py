"""The T1w image of a raw run, its brain mask, and the run that helps to find its brain.

A run takes the T1w image of its session, else of the first session that has one. Of several in a session the
plainest name is taken (fewest entities besides the run, then the lowest run), and told; the section "t1w" of
the filter file chooses otherwise. `--t1-mask` is a pattern relative to INPUT, with the fields of MASK_FIELDS
in braces and * ? [] ** as shells have them; it must find one file for each T1w image.
"""

import glob
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.bids import parse_name, passes, stem_of
from bjepa.preproc.inputs.source import ScanFilter, ScanSource

MASK_FIELDS = ("participant_id", "session", "t1w")  # "sub-01"; "a" of ses-a; the image's name before _T1w


def with_t1w(scan: ScanSource, images: list[Path], keep: ScanFilter, root: Path) -> ScanSource:
    """The run with its T1w image and that image's mask, `images` those of its participant; or why not."""
    wanted = _wanted(images, keep)
    if not wanted:
        if keep.raw.allow_no_t1w:
            return scan
        filtered = f" that the filter file keeps (of {len(images)})" if images else ""
        error = InputError(
            f"{scan.path}: {scan.participant_id} has no T1w image{filtered}.",
            hint="Give it, or --allow-no-t1w: regions are then off by 4 to 5 mm, and the scan is marked "
            "low quality.",
        )
        return replace(scan, error=scan.error or error)
    t1w, said = choose_t1w(wanted, scan.session)
    scan = told(replace(scan, t1w=t1w), *said)
    if keep.raw.t1_mask is None:
        return scan
    try:
        return replace(scan, t1_mask=_mask_of(t1w, keep.raw.t1_mask, root))
    except InputError as error:
        return replace(scan, error=scan.error or error)


def _wanted(images: list[Path], keep: ScanFilter) -> list[Path]:
    return [path for path in images if passes(parse_name(path).entities, keep.raw.t1w_filter)]


def choose_t1w(images: list[Path], session: str) -> tuple[Path, list[str]]:
    """One of a participant's T1w images for a run of `session`, and what is to be told of the choice."""
    sessions = {parse_name(path).entities.get("ses", "") for path in images}
    said = []
    taken = session if session in sessions else min(sessions)
    if taken != session:
        said.append(f"no T1w image in its session: that of session {taken or '(none)'} is used.")
    of_session = [path for path in images if parse_name(path).entities.get("ses", "") == taken]
    chosen = min(of_session, key=_plainness)
    if len(of_session) > 1:
        said.append(
            f"{len(of_session)} T1w images in the session: {chosen.name} is used "
            '(the section "t1w" of --bids-filter-file chooses).'
        )
    return chosen, said


def _plainness(path: Path) -> tuple[int, int, str]:
    """Fewest entities besides participant, session and run; then the lowest run."""
    entities = parse_name(path).entities
    run = entities.get("run", "0")
    extra = entities.keys() - {"sub", "ses", "run"}
    return len(extra), int(run) if run.isdigit() else 0, path.name


def check_mask_pattern(pattern: str) -> None:
    """Raises InputError where --t1-mask has other fields than MASK_FIELDS, or one for all."""
    fields = re.findall(r"\{([^{}]*)\}", pattern)
    if unknown := sorted(set(fields) - set(MASK_FIELDS)):
        raise InputError(
            f"--t1-mask {pattern}: {{{unknown[0]}}} is no field; known are "
            f"{', '.join(f'{{{name}}}' for name in MASK_FIELDS)}.",
            hint="For example derivatives/masks/{participant_id}/{t1w}_desc-brain_mask.nii.gz.",
        )
    if not {"participant_id", "t1w"} & set(fields):
        raise InputError(
            f"--t1-mask {pattern} names neither {{participant_id}} nor {{t1w}}: one mask for all.",
            hint="For example derivatives/masks/{participant_id}/{t1w}_desc-brain_mask.nii.gz.",
        )


def _mask_of(t1w: Path, pattern: str, root: Path) -> Path:
    """The one file that the pattern, relative to INPUT, finds for a T1w image."""
    entities = parse_name(t1w).entities
    if "{session}" in pattern and "ses" not in entities:
        raise InputError(f"--t1-mask {pattern}: {t1w} has no session for {{session}}.")
    fields = {
        "participant_id": f"sub-{entities['sub']}",
        "session": entities.get("ses", ""),
        "t1w": stem_of(t1w).removesuffix("_T1w"),
    }
    filled = re.sub(r"\{(\w+)\}", lambda found: glob.escape(fields[found[1]]), pattern)
    whole = filled if Path(filled).is_absolute() else f"{glob.escape(str(root))}/{filled}"
    found = sorted(path for path in map(Path, glob.glob(whole, recursive=True)) if path.is_file())
    if len(found) != 1:
        what = "no file" if not found else f"{len(found)} files ({found[0].name}, {found[1].name} ...)"
        raise InputError(
            f"--t1-mask {pattern} finds {what} for {t1w}.",
            hint=f"It must find one file; it was looked for as {filled} (relative to INPUT).",
        )
    return found[0]


def with_guides(
    scans: list[ScanSource], images: list[Path], t1ws: Mapping[str, list[Path]], keep: ScanFilter
) -> list[ScanSource]:
    """Each with all runs that go with its T1w image, whichever runs are asked for; the first usable guides.

    Runs of the T1w's own session come before others: they were measured with it.
    """
    guides: dict[Path, list[tuple[bool, Path]]] = defaultdict(list)
    for path in sorted(images, key=lambda p: p.name):
        if not path.exists():  # a link to what was not fetched
            continue
        entities = parse_name(path).entities
        if not (wanted := _wanted(t1ws.get(f"sub-{entities['sub']}", []), keep)):
            continue
        session = entities.get("ses", "")
        t1w, _ = choose_t1w(wanted, session)
        guides[t1w].append((session != parse_name(t1w).entities.get("ses", ""), path))
    in_order = {
        t1w: tuple(path for _, path in sorted(of, key=lambda one: one[0])) for t1w, of in guides.items()
    }
    return [replace(scan, guides=in_order.get(scan.t1w, ())) if scan.t1w else scan for scan in scans]


def told(scan: ScanSource, *sentences: str) -> ScanSource:
    """The scan with more that the user must be told."""
    return replace(scan, notes=(*scan.notes, *sentences))
