"""The section of report.html on raw fMRI: how each run was registered, and the pictures to judge it by.

A run's facts have a part `raw`: template, template_error_mm, template_choice, low_quality, metrics (numbers
by name), findings (measure, level "warn" or "fail", sentence), figures (file of each picture, relative to
OUTPUT).
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bjepa.preproc.raw.verdict import Thresholds
from bjepa.preproc.report.picture_store import PictureStore


@dataclass(frozen=True)
class _Measure:
    name: str
    title: str
    digits: int
    what: str


_JUDGED = tuple(limit.name for limit in fields(Thresholds))  # they have a column; others are told with a run
_KNOWN = {
    measure.name: measure
    for measure in (
        _Measure("template_ncc", "T1w and template, r", 2, "correlation after the nonlinear registration"),
        _Measure("affine_scale_ratio", "Stretch", 2, "largest over smallest stretch of the affine part"),
        _Measure("brain_volume_l", "Brain (l)", 2, "volume of the brain mask of the T1w image, litres"),
        _Measure("template_coverage", "Template seen", 2, "share of the template's brain in the image"),
        _Measure("mi_ratio", "BOLD and T1w, MI", 2, "mutual information where registered over 10 mm away"),
        _Measure("template_ncc_affine", "T1w and template before the nonlinear part, r", 2, ""),
        _Measure("jacobian_min", "local change of volume, 1st percentile", 2, ""),
        _Measure("jacobian_max", "local change of volume, 99th percentile", 2, ""),
        _Measure("mi", "mutual information of BOLD and T1w (nats)", 3, ""),
        _Measure("shift_mm", "BOLD moved to the T1w by (mm)", 1, ""),
        _Measure("angle_deg", "BOLD turned to the T1w by (degrees)", 1, ""),
    )
}
# name of a picture in the facts, its title, and what to look for, in the order they are shown
_PICTURES = (
    (
        "coregistration",
        "BOLD on T1w",
        "The lines must follow the borders that the mean BOLD image shows, above all the ventricles and the "
        "outline of the brain. Towards the front and beside the ears BOLD is distorted and may not fit.",
    ),
    (
        "template",
        "T1w on template",
        "Lines and image must agree in ventricles, outline and large sulci; in the checkerboard borders "
        "must go on from field to field.",
    ),
    (
        "mask",
        "Brain mask",
        "The outline must hold the whole brain, without eyes and scalp. It decides which voxels count in the "
        "global signal and in DVARS, not which regions are read.",
    ),
    (
        "atlas",
        "Atlas",
        "The regions must lie on grey matter, with ventricles and white matter free between them.",
    ),
    (
        "motion",
        "Motion",
        "Jumps in all lines are movements of the head; grey: volumes whose signal was not steady yet.",
    ),
)


def raw_section(
    told: Mapping[str, str], scan_ids: list[str], output: Path, pictures: PictureStore
) -> dict[str, Any] | None:
    """What the page says of raw runs: `text` for its template, `data` for its script; None without any.

    Parameters
    ----------
    told : scan_id -> the part `raw` of its facts, as JSON (`CohortWatch.raw`)
    scan_ids : of all scans of the page, in its order
    pictures : those of runs with findings are put in first
    """
    known = {scan_id: json.loads(told[scan_id]) for scan_id in scan_ids if scan_id in told}
    if not known:
        return None
    named = {name for raw in known.values() for name in raw.get("metrics", {})}
    columns = [_measure(name) for name in _JUDGED if name in named]
    in_order = dict.fromkeys([*_KNOWN, *sorted(named)])
    others = [_measure(name) for name in in_order if name in named.difference(_JUDGED)]
    placed = {}
    for scan_id in sorted(known, key=lambda scan_id: _badness(known[scan_id])):
        figures = known[scan_id].get("figures", {})
        found = [(name, pictures.put(output / figures[name])) for name, _, _ in _PICTURES if name in figures]
        placed[scan_id] = [[name, place] for name, place in found if place is not None]
    row_of = {scan_id: row for row, scan_id in enumerate(scan_ids)}
    places = [place for found in placed.values() for _, place in found]
    return {
        "text": {
            "n": len(known),
            "templates": _templates(list(known.values())),
            "n_low_quality": sum(bool(raw.get("low_quality")) for raw in known.values()),
            "n_doubtful": sum(bool(raw.get("findings")) for raw in known.values()),
            "n_linked": sum(isinstance(place, str) for place in set(places)),
        },
        "data": {
            "columns": [asdict(measure) for measure in columns],
            "others": [asdict(measure) for measure in others],
            "pictures": {name: [title, what] for name, title, what in _PICTURES},
            "scans": [
                {
                    "row": row_of[scan_id],
                    "low": bool(raw.get("low_quality")),
                    "template": _told_template(raw),
                    "values": _values(raw, columns),
                    "other_values": _values(raw, others),
                    "findings": [[f["measure"], f["level"], f["sentence"]] for f in raw.get("findings", [])],
                    "pictures": placed[scan_id],
                }
                for scan_id, raw in known.items()
            ],
        },
    }


def _measure(name: str) -> _Measure:
    return _KNOWN.get(name, _Measure(name, name, 3, ""))


def _values(raw: Mapping[str, Any], measures: list[_Measure]) -> list[float | None]:
    """Six digits; None for what is not there or could not be measured."""
    found = (raw.get("metrics", {}).get(measure.name) for measure in measures)
    known = (math.nan if value is None else float(value) for value in found)
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in known]


def _badness(raw: Mapping[str, Any]) -> tuple[bool, bool]:
    """Sorts runs that failed a limit first, then those with a warning."""
    levels = [finding["level"] for finding in raw.get("findings", [])]
    return "fail" not in levels, not levels


def _templates(runs: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Why each template was taken (which says its name), and for how many runs."""
    return Counter(str(raw.get("template_choice") or _told_template(raw)) for raw in runs).most_common()


def _told_template(raw: Mapping[str, Any]) -> str:
    name, error = str(raw.get("template", "")), raw.get("template_error_mm")
    if error is None:
        return f"{name} (distance from the atlas' template not known)"
    return f"{name} (about {error:g} mm from the atlas' template)" if error else f"{name} (the atlas' own)"
