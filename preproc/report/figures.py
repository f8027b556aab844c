"""Figures of the report as plain geometry: SVG that follows the page's colours, and rasters of matrices.

Coordinates are in the units of each figure's viewBox, rounded to 0.1: the templates only place them.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.report.atlas_view import (
    fc_picture,
    has_volume,
    label_plane,
    network_palette,
    plane_positions,
    region_groups,
    region_order,
)
from bjepa.preproc.report.cohort import Outlier, QcFc
from bjepa.preproc.report.qc import Metric

N_BINS = 32
_NAMED_DOTS = 40  # outliers that get a dot in their histogram; the worst first

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ticks:
    """Where an axis is labelled: position and text."""

    places: list[tuple[float, str]]


@dataclass(frozen=True)
class Histogram:
    """One number over all scans, in a box of 260 x 84 over an axis."""

    metric: Metric
    n_known: int
    median: str
    bars: list[tuple[float, float, float]]  # x, y, height; all of one width
    bar_width: float
    low: str
    high: str
    median_x: float
    dots: list[tuple[float, str, str]]  # x, scan, what is told about it
    named: list[str]  # the worst three
    n_outliers: int


def histogram(metric: Metric, values: Array, outliers: Sequence[Outlier]) -> Histogram | None:
    """None where nothing is known, or all scans share one value."""
    known = values[np.isfinite(values)]
    if len(known) == 0 or known.min() == known.max():
        return None
    width, height = 260.0, 84.0
    low, high = float(known.min()), float(known.max())
    counts, _ = np.histogram(known, bins=N_BINS, range=(low, high))
    # square root: one scan far out must be seen beside a thousand
    heights = np.sqrt(counts / counts.max()) * height
    step = width / N_BINS

    def place(value: float) -> float:
        return round((value - low) / (high - low) * width, 1)

    worst = sorted(outliers, key=lambda outlier: -abs(outlier.value - outlier.median))
    return Histogram(
        metric=metric,
        n_known=len(known),
        median=number(float(np.median(known)), metric.digits),
        bars=[
            (round(i * step, 1), round(height - h, 1), round(float(h), 1)) for i, h in enumerate(heights) if h
        ],
        bar_width=round(step - 0.8, 1),
        low=number(low, metric.digits),
        high=number(high, metric.digits),
        median_x=place(float(np.median(known))),
        dots=[
            (place(o.value), o.scan_id, f"{o.scan_id}: {number(o.value, metric.digits)}{told_unit(metric)}")
            for o in worst[:_NAMED_DOTS]
        ],
        named=[o.scan_id for o in worst[:3]],
        n_outliers=len(worst),
    )


def told_unit(metric: Metric) -> str:
    """To be put behind a value; shares and correlations have none."""
    return f" {metric.unit}" if metric.unit not in ("", "share", "r") else ""


def number(value: float, digits: int) -> str:
    """With a true minus sign; one digit more where all of them would be zeros."""
    if value and abs(value) < 0.5 * 10**-digits:
        digits += 1
    return f"{value:.{digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Scatter:
    """Values of all regions in column order: one path of dots a colour, in a box of `width` x `height`."""

    dots: dict[str, str]  # CSS class -> path data; a dot is a line of no length with round ends
    y_ticks: Ticks
    lines: list[float] = field(default_factory=list)  # y of reference lines
    width: int = 900
    height: int = 130


def region_scatter(
    values: Array, is_subcortex: NDArray[np.bool_], *, logarithmic: bool = False, line: float | None = None
) -> Scatter | None:
    """`line` is a value to mark. None where nothing is finite, or all regions share one value."""
    shown = np.where(np.isfinite(values) & ((values > 0) | (not logarithmic)), values, np.nan)
    if not np.isfinite(shown).any() or np.nanmin(shown) == np.nanmax(shown):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.log10(shown) if logarithmic else shown
    extra = [] if line is None else [np.log10(line) if logarithmic else line]
    low, high = float(np.nanmin([*scaled, *extra])), float(np.nanmax([*scaled, *extra]))
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    width, height = 900, 130
    x = (np.arange(len(values)) + 0.5) / len(values) * width
    y = height - (scaled - low) / (high - low) * height
    dots = {
        name: "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x[of], y[of], strict=True))
        for name, of in (
            ("cortex", ~is_subcortex & np.isfinite(y)),
            ("subcortex", is_subcortex & np.isfinite(y)),
        )
    }
    places = []
    for value in _round_values(low, high, logarithmic=logarithmic):
        position = np.log10(value) if logarithmic else value
        told = f"{float(f'{value:.4g}'):g}"  # 11700, not 1.17e+04
        places.append((round(height - (position - low) / (high - low) * height, 1), told))
    lines = [round(height - (e - low) / (high - low) * height, 1) for e in extra]
    return Scatter(dots, Ticks(places), lines, width, height)


def _round_values(low: float, high: float, *, logarithmic: bool) -> list[float]:
    """Round numbers between two ends (of the logarithm, if so), for an axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    first, last = (10**low, 10**high) if logarithmic else (low, high)
    wide = logarithmic and last / first > 10
    locator = LogLocator(subs=(1.0, 3.0)) if wide else MaxNLocator(4, steps=[1, 2, 5, 10])
    return [float(value) for value in locator.tick_values(first, last) if first <= value <= last]


@dataclass(frozen=True)
class Density:
    """QC-FC of all edges against distance: cells with their opacity, and the median along the distance."""

    cells: list[tuple[float, float, float]]  # x, y, opacity
    cell_width: float
    cell_height: float
    median_path: str
    x_ticks: Ticks
    y_ticks: Ticks
    zero_y: float
    width: int = 560
    height: int = 240


def qc_fc_density(found: QcFc) -> Density | None:
    """None where no distance is known."""
    there = np.isfinite(found.distance)
    if there.sum() < 3:
        return None
    r, distance = found.correlation[there], found.distance[there]
    width, height, across, up = 560, 240, 56, 40
    far, reach = float(distance.max()), float(max(0.2, np.quantile(np.abs(r), 0.999)))
    counts, x_edges, _ = np.histogram2d(
        distance, np.clip(r, -reach, reach), bins=(across, up), range=((0, far), (-reach, reach))
    )
    opacity = np.sqrt(counts / counts.max())
    cell_width, cell_height = width / across, height / up
    cells = [
        (round(i * cell_width, 1), round(height - (j + 1) * cell_height, 1), round(float(opacity[i, j]), 2))
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]
    bins = np.digitize(distance, x_edges[1:-1])
    points = []
    for i in range(0, across, 2):
        inside = r[(bins == i) | (bins == i + 1)]
        if len(inside) >= 5:
            y = height / 2 * (1 - float(np.median(inside)) / reach)
            points.append(f"{(i + 1) * cell_width:.1f} {y:.1f}")
    step = 40 if far > 100 else 20 if far > 50 else 10
    x_ticks = [(round(mm / far * width, 1), str(mm)) for mm in range(0, int(far) + 1, step)]
    half = round(reach / 2, 1) or 0.1
    y_ticks = [(round(height / 2 * (1 - v / reach), 1), number(v, 1)) for v in (half, 0.0, -half)]
    path = "M" + "L".join(points) if points else ""
    return Density(cells, cell_width, cell_height, path, Ticks(x_ticks), Ticks(y_ticks), height / 2)


@dataclass(frozen=True)
class MatrixFigure:
    """A matrix of regions, sorted by network, as a raster; runs of networks in shares of its side."""

    uri: str
    groups: list[tuple[str, float, float]]  # name, from, to


def matrix_figure(fc: Array, atlas: Atlas) -> MatrixFigure:
    """`fc` (n_rois, n_rois) in column order."""
    order = region_order(atlas)
    n_rois = len(order)
    groups = [
        (name if name != "n/a" else "", round(first / n_rois, 4), round(after / n_rois, 4))
        for name, first, after in region_groups(atlas, order)
    ]
    picture = fc_picture(fc[np.ix_(order, order)])
    return MatrixFigure(png_uri(picture), groups)


def atlas_figure(atlas: Atlas) -> str | None:
    """Three planes of the label volume, a hue for each network, a shade for each region; None: no volume."""
    if not has_volume(atlas):
        return None
    width, height = 300, 340
    shade = 0.55 + 0.45 * (np.arange(atlas.n_rois + 1) * 0.618034 % 1)[:, None]
    colours = (network_palette(atlas) * shade).astype(np.uint8)
    colours[0] = (10, 12, 15)
    planes = [colours[label_plane(atlas, points)] for points, _ in plane_positions(atlas, width, height)]
    gap = np.full((height, 6, 3), (22, 26, 32), dtype=np.uint8)
    return png_uri(np.concatenate([planes[0], gap, planes[1], gap, planes[2]], axis=1))


def atlas_planes(atlas: Atlas) -> list[str]:
    """Where the planes of `atlas_figure` lie, e.g. "x = -27 mm"."""
    return [title for _, title in plane_positions(atlas, 100, 100)] if has_volume(atlas) else []


def network_colours(atlas: Atlas) -> list[tuple[str, str]]:
    """Names of the networks and their colours in `atlas_figure`, as CSS."""
    colours = network_palette(atlas)[1:]
    names = atlas.table["network7"].astype(str)
    first = pd.Series(range(len(names))).groupby(names.to_numpy()).first()
    return [
        (str(name), "rgb({}, {}, {})".format(*colours[i]))
        for name, i in first.items()
        if name not in ("n/a", "")
    ]


def png_uri(picture: NDArray[np.uint8]) -> str:
    """(height, width, 3) as a PNG data URI, in at most 256 colours."""
    from PIL import Image

    image: Any = Image.fromarray(picture)
    if len(image.getcolors(1 << 24) or ()) <= 256:
        image = image.quantize(256, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
