"""report.html of an explanation: what it says, pictures, the sanity check, and what no map can say."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bjepa.model.explain.explanation import Explanation
from bjepa.model.explain.findings import findings, interval
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.networks import bootstrap_mean
from bjepa.preproc.html import write_page

N_TOP = 10  # regions listed


class Picture(NamedTuple):
    """One picture of the page, also in files NAME.png and NAME.svg."""

    section: str
    uri: str
    caption: str
    name: str


def write_report(
    path: Path, found: Explanation, pictures: Sequence[Picture], *, facts: dict[str, str]
) -> None:
    """Write the page; `facts`: what was explained, for the last table."""
    ratios = [m for m in found.measures if not m.is_signed]
    labels = {measure.name: measure.label for measure in found.measures}
    write_page(
        path,
        "explain.html",
        package="bjepa.model.explain",
        target="" if found.prediction is None else found.prediction.cohort.target_name,
        unit="" if found.prediction is None else found.prediction.unit,
        head=_head(found),
        n=len(found.participants),
        findings=findings(found),
        pictures=pictures,
        has_attribution=any(m.is_attribution for m in found.measures),
        top=[(m.label, m.unit, _top(found, m)) for m in (ratios[-3:] if len(ratios) > 3 else ratios)],
        sanity=[
            (
                labels[row.measure],
                row.check,
                interval(row.similarity),
                f"{row.pearson:.2f}".replace("-", "−").replace("nan", "n/a"),
                row.verdict,
            )
            for row in found.sanity
        ],
        facts=facts,
    )


def _head(found: Explanation) -> str:
    if found.prediction is None:
        return ""
    options = found.prediction.options
    kind = "a linear head on the frozen encoder" if options.head == "linear" else "the fine-tuned model"
    return kind if options.pooling == "mean" else f"{kind} (pooling {options.pooling})"


def _top(found: Explanation, measure: Measure) -> list[tuple[str, str, str]]:
    """Name, network and value of the regions with the highest mean over participants."""
    rois = found.participants.reader.rois
    group = found.group_map(measure)
    highest = np.argsort(-np.where(np.isfinite(group), group, -np.inf), kind="stable")[:N_TOP]
    rows = []
    for region in highest:
        if not np.isfinite(group[region]):
            continue
        values = found.maps[measure.name][:, region]
        estimate = bootstrap_mean(values[np.isfinite(values)], seed=0)
        network = rois.get("network17", [""] * len(group))[region]
        rows.append((rois["name"][region], network, interval(estimate)))
    return rows
