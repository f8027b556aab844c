"""report.html of preprocessing: what was done, what failed, which scans stand out, and how every scan looks.

One file that works offline. Numbers of all scans are a block of JSON and pictures blocks of base64 inside the
page; the script of the page (`templates/preprocess.js`) makes elements only of what is on the screen, so that
5,000 scans open as fast as 50. Everything that comes from file names is escaped: jinja2 does so in the HTML,
the blocks of JSON hold no `<`, and the script sets text, never HTML.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.group_stage import GroupOptions, GroupResult
from bjepa.preproc.html import write_page
from bjepa.preproc.report import figures as report_figures
from bjepa.preproc.report.cohort import ALL_METRICS, LEAST_SCANS, CohortSummary, Outlier, find_outliers
from bjepa.preproc.report.picture_store import PICTURES_A_BLOCK, PictureStore
from bjepa.preproc.report.raw_section import raw_section
from bjepa.preproc.report.reasons import Reason, reason_of
from bjepa.preproc.scan_files import Failure

PICTURE_BUDGET = 40 << 20  # bytes of base64 in the page: some 1,200 scans; a page of 60 MB opens in 2 s
# columns of scans.tsv that the table of scans shows: title, digits; metrics follow
_SHOWN = {
    "t_r": ("TR (s)", 3),
    "t_r_out": ("TR out (s)", 3),
    "stride": ("Stride", 0),
    "n_frames_in": ("Frames in", 0),
    "n_frames": ("Frames out", 0),
    "n_phases": ("Series", 0),
}
_OTHER_T_R = 0.01  # a stored t_r that differs by this share from the target is told


def write_report(
    output: Path,
    atlas: Atlas,
    result: GroupResult,
    options: GroupOptions,
    summary: CohortSummary | None = None,
    qc_table: pd.DataFrame | None = None,
    *,
    told_of_scans: Sequence[Reason] = (),
    told_of_raw: Mapping[str, str] | None = None,
    picture_budget: int = PICTURE_BUDGET,
) -> None:
    """Write OUTPUT/report.html.

    Parameters
    ----------
    result : of the group stage; `scans` in the order of `table`
    summary : every scan has been added to it; None: no connectivity, motion and offsets in the report
    qc_table : `scan_id` and numbers of ALL_METRICS, one row per scan (`CohortWatch.qc_table`), in any order;
        None: only what scans.tsv has
    told_of_scans : what was warned of while the scans were done (`CohortWatch.warnings`)
    told_of_raw : how raw runs were registered (`CohortWatch.raw`)
    picture_budget : bytes of pictures inside the page; scans that stand out first, then in order, then the
        pictures of registrations. The others are links to the files beside the page.
    """
    numbers = _numbers(result.table, qc_table)
    outliers = find_outliers(numbers)
    flagged = {outlier.scan_id for outlier in outliers}
    store = PictureStore(output, picture_budget)
    pictures = _pictures(store, result, flagged)
    raw = raw_section(told_of_raw or {}, numbers["scan_id"].tolist(), output, store)
    failures = list(scan_files.read_failures(output))
    ratio = None if summary is None else summary.between_to_within()
    ratio_median = None if ratio is None or np.isnan(ratio).all() else float(np.nanmedian(ratio))
    subcortex = (atlas.table["structure"] == "subcortex").to_numpy()
    found = None if summary is None else summary.qc_fc()
    write_page(
        output / "report.html",
        "preprocess.html",
        package="bjepa.preproc",
        atlas=atlas,
        options=options,
        n_scans=len(numbers),
        n_flagged=len(flagged),
        n_participants=result.table["participant_id"].nunique(),
        n_series=int(result.table["n_phases"].sum()),
        hours=float((result.table["n_frames_in"] * result.table["t_r"]).sum() / 3600),
        n_incomplete=int((result.table["n_missing_rois"] > 0).sum()),
        regions_missing=_regions_missing(summary, atlas),
        n_failures=len(failures),
        failure_groups=_failure_groups(failures),
        warnings=[
            *_warnings(result.table, numbers, options, ratio_median),
            *(f"{r.n} of {len(numbers)} scans, e.g. {r.example}" for r in told_of_scans),
        ],
        histograms=_histograms(numbers, outliers),
        short=dict(zip(numbers["scan_id"], short_names(numbers["scan_id"].tolist()), strict=True)),
        told_unit=report_figures.told_unit,
        unknown=[m.title for m in ALL_METRICS if not numbers[m.name].notna().any()],
        outliers=outliers,
        least_scans=LEAST_SCANS,
        small_groups=_small_groups(numbers),
        qc_fc=found,
        qc_fc_density=None if found is None else report_figures.qc_fc_density(found),
        n_with_fd=int(numbers["fd_mean"].notna().sum()),
        matrix=None if summary is None else report_figures.matrix_figure(summary.mean_fc(), atlas),
        atlas_uri=report_figures.atlas_figure(atlas),
        atlas_planes=report_figures.atlas_planes(atlas),
        networks=report_figures.network_colours(atlas),
        ratio=ratio_median,
        ratio_plot=None
        if ratio is None
        else report_figures.region_scatter(ratio, subcortex, logarithmic=True, line=1.0),
        scaling=result.scaling,
        median_plot=report_figures.region_scatter(result.scaling.median, subcortex),
        iqr_plot=report_figures.region_scatter(result.scaling.iqr, subcortex, logarithmic=True),
        n_embedded=sum(isinstance(p, int) for p in pictures),
        n_linked=sum(isinstance(p, str) for p in pictures),
        raw=None if raw is None else raw["text"],
        data=_json(
            _data(result.table, numbers, outliers, pictures, failures)
            | {"raw": None if raw is None else raw["data"]}
        ),
        blocks=[_json(block) for block in store.blocks],
        block_size=PICTURES_A_BLOCK,
    )


def _numbers(scans: pd.DataFrame, qc_table: pd.DataFrame | None) -> pd.DataFrame:
    """One row a scan in the order of scans.tsv: scan_id, t_r and every metric, NaN where unknown."""
    numbers = scans[["scan_id", "t_r"]].reset_index(drop=True).astype({"scan_id": str})
    given = scans if qc_table is None else qc_table
    by_scan = given.set_index(given["scan_id"].astype(str))
    rows = by_scan.reindex(numbers["scan_id"])
    for metric in ALL_METRICS:
        values = rows[metric.name] if metric.name in rows else pd.Series(np.nan, index=rows.index)
        numbers[metric.name] = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    return numbers


# --- what is told in words ----------------------------------------------------------------------------------


def _warnings(
    scans: pd.DataFrame, numbers: pd.DataFrame, options: GroupOptions, ratio: float | None
) -> list[str]:
    told = []
    if ratio is not None and ratio > 1:
        told.append(
            f"Between-scan variance of the regional means is {ratio:.1f} times the variance within scans "
            "(median over regions): static offsets (scanner gain, head size, site) dominate what a model "
            "sees. --scaling robust-dynamic removes them."
        )
    other = scans[(scans["t_r_out"] / options.target_t_r - 1).abs() > _OTHER_T_R]
    if len(other):
        groups = other.groupby([other["t_r"].round(4), other["t_r_out"].round(4)]).size()
        listed = ", ".join(f"{n} at {t_r:g} s as {out:g} s" for (t_r, out), n in list(groups.items())[:6])
        told.append(
            f"{len(other)} of {len(scans)} scans are stored at another TR than the target of "
            f"{options.target_t_r:g} s: {listed}{' …' if len(groups) > 6 else ''}."
        )
    if n := int((scans["n_missing_rois"] > 0).sum()):
        told.append(f"{n} of {len(scans)} scans have missing regions; they are stored as 0 and marked.")
    if n := int(numbers["fd_mean"].isna().sum()):
        told.append(
            f"{n} of {len(scans)} scans have no framewise displacement (no fMRIPrep confounds): nothing here "
            "says how much these heads moved, except spikes and what the pictures show."
        )
    return told


def _regions_missing(summary: CohortSummary | None, atlas: Atlas) -> list[tuple[str, int]]:
    """The 20 regions that most scans lack, with the number of scans."""
    if summary is None:
        return []
    lacking = summary.n_scans - np.diag(summary.n_per_edge())
    worst = np.argsort(-lacking, kind="stable")[:20]
    return [(str(atlas.table["name"].iloc[i]), int(lacking[i])) for i in worst if lacking[i] > 0]


def _failure_groups(failures: list[Failure]) -> list[dict[str, Any]]:
    """Failures of one reason: the message without what differs from scan to scan (paths, numbers)."""
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for failure in failures:
        message = failure.message.replace(failure.source, "").lstrip(": ")
        reason = reason_of(message)
        told = {"message": message, "stage": failure.stage, "error": failure.error, "hint": failure.hint}
        groups.setdefault((failure.stage, failure.error, reason), told | {"n": 0})["n"] += 1
    return sorted(groups.values(), key=lambda group: -group["n"])


def _small_groups(numbers: pd.DataFrame) -> list[tuple[float, int]]:
    """t_r and number of scans of groups too small to be judged."""
    sizes = numbers.groupby(numbers["t_r"].round(2)).size()
    return [(float(t_r), int(n)) for t_r, n in sizes.items() if n < LEAST_SCANS]


def _histograms(numbers: pd.DataFrame, outliers: list[Outlier]) -> list[report_figures.Histogram]:
    drawn = (
        report_figures.histogram(m, numbers[m.name].to_numpy(), [o for o in outliers if o.metric == m.name])
        for m in ALL_METRICS
    )
    return [histogram for histogram in drawn if histogram is not None]


def short_names(scan_ids: list[str]) -> list[str]:
    """Names without what all scans share: of sub-01_task-rest_run-1, among resting scans, sub-01_run-1."""
    parts = [scan_id.split("_") for scan_id in scan_ids]
    if len(parts) < 2:
        return scan_ids
    shared = set(parts[0]).intersection(*parts[1:])
    return ["_".join(p for p in own if p not in shared) or "_".join(own) for own in parts]


# --- what the page's script works on ------------------------------------------------------------------------


def _data(
    scans: pd.DataFrame,
    numbers: pd.DataFrame,
    outliers: list[Outlier],
    pictures: list[int | str | None],
    failures: list[Failure],
) -> dict[str, Any]:
    fields = [
        {"name": name, "title": title, "unit": "", "digits": digits, "bad": "", "what": ""}
        for name, (title, digits) in _SHOWN.items()
    ]
    shown = [_column(scans[name]) for name in _SHOWN]
    for metric in ALL_METRICS:
        if numbers[metric.name].notna().any():
            keys = ("name", "title", "unit", "digits", "bad", "what")
            fields.append({key: getattr(metric, key) for key in keys})
            shown.append(_column(numbers[metric.name]))
    row_of = {scan_id: row for row, scan_id in enumerate(numbers["scan_id"])}
    return {
        "fields": fields,
        "scan_id": numbers["scan_id"].tolist(),
        "short": short_names(numbers["scan_id"].tolist()),
        "source": scans["source"].astype(str).tolist(),
        "columns": shown,
        "pictures": pictures,
        "outliers": [
            [row_of[o.scan_id], o.metric, *(_rounded(v) for v in (o.value, o.median, o.limit))]
            for o in outliers
        ],
        "failures": [[f.source, f.stage, f.error, f.message, f.hint] for f in failures],
    }


def _column(values: Iterable[Any]) -> list[float | None]:
    return [_rounded(float(value)) if pd.notna(value) else None for value in values]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _json(content: Any) -> Any:
    """JSON for a script block: no `<`, so that nothing in it can end the block."""
    from markupsafe import Markup

    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _pictures(store: PictureStore, result: GroupResult, flagged: set[str]) -> list[int | str | None]:
    """Where the picture of each scan is (`PictureStore.put`); those that stand out are put in first."""
    paths = [scan_files.picture_path(scan.path.with_suffix("")) for scan in result.scans]
    ids = result.table["scan_id"].astype(str).tolist()
    told: list[int | str | None] = [None] * len(ids)
    for row in sorted(range(len(ids)), key=lambda row: ids[row] not in flagged):
        told[row] = store.put(paths[row])
    return told
