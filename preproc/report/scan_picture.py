"""The picture of one scan, in which a person sees at a glance what numbers miss; about 25 kB of WebP.

From left to right:
  slices   the mean image in three planes under the borders of the atlas' networks; below, the same planes
           with every region coloured by its coverage (red: missing)
  carpet   all regions over time, each in its own SD, sorted by network, missing ones red; above it FD and
           DVARS (without them: how much all regions jump from frame to frame); censored frames ticked orange
  matrix   correlation of the regions in the same order, blue -1, white 0, red +1

Atlas and mean image are each looked up at the same positions in mm, through their own affine: an image that
is mirrored, shifted or in another space does not lie under the borders. Drawn with numpy and Pillow on a dark
ground that is legible in light and dark pages; the same input gives the same bytes.
"""

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.files import write_aside
from bjepa.preproc.report.atlas_view import (
    fc_channels,
    has_volume,
    label_plane,
    network_palette,
    plane_positions,
    region_groups,
    region_order,
    voxels_at,
)
from bjepa.preproc.report.qc import FD_LIMIT, regional_dvars

if TYPE_CHECKING:
    from bjepa.preproc.extract import MeanImage

WIDTH, HEIGHT = 960, 296
_CELL = 2  # px: the finest detail of carpet and matrix
_QUALITY = 45  # of WebP: 25 kB; at 62 it is 31 kB and looks the same
_GROUND, _INK, _FAINT = (22, 26, 32), (226, 231, 238), (140, 150, 163)
_FD, _DVARS, _MISSING = (240, 160, 60), (110, 180, 240), (214, 60, 52)
_GAP, _TOP = 10, 18  # px: between panels; for their titles
_TILE_WIDTH, _TILE_HEIGHT = 104, 122  # one plane
_MATRIX = 232
_STRIP = 44  # height of FD and DVARS
_FD_TOP, _DVARS_TOP = 1.0, 3.0  # mm; standardised: fixed, so that scans can be compared by eye

Picture = NDArray[np.uint8]  # (height, width, 3)


def draw_scan_picture(
    path: Path,
    *,
    raw: NDArray[np.float32],
    cleaned: NDArray[np.float32],
    atlas: Atlas,
    coverage: NDArray[np.float64],
    missing: NDArray[np.bool_],
    mean_image: "MeanImage | None",
    fd: NDArray[np.float64] | None,
    dvars: NDArray[np.float64] | None,
    t_r: float,
    censored: NDArray[np.bool_] | None = None,
) -> None:
    """Draw one scan into the WebP file `path`, whole or not at all.

    Parameters
    ----------
    raw : (T, R) regional means before cleaning; cleaned : (T', R), T' <= T: initial frames may be dropped
    coverage, missing : (R,)
    mean_image : None for tables: the upper slices are left out; all are where the atlas is no volume
    fd, dvars : (T,) mm; standardised. t_r : s. censored : (T',) frames that were filled in
    """
    order = region_order(atlas)
    canvas = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    canvas[:] = _GROUND
    texts: list[_Text] = []
    left = _GAP
    if has_volume(atlas):
        left = _draw_slices(canvas, texts, atlas, coverage, missing, mean_image)
    right = WIDTH - _MATRIX - _GAP
    _draw_time(
        canvas, texts, left, right - _GAP, atlas, order, raw, cleaned, missing, fd, dvars, t_r, censored
    )
    canvas[_TOP : _TOP + _MATRIX, right : right + _MATRIX] = _matrix(cleaned, missing, order, censored)
    texts.append((right, 3, "correlation", _INK))
    texts.append((right, _TOP + _MATRIX + 5, "blue -1, white 0, red +1; order of the carpet", _FAINT))
    _save(path, canvas, texts)


# --- slices -------------------------------------------------------------------------------------------------

_Text = tuple[int, int, str, tuple[int, int, int]]  # x, y, text, colour


def _draw_slices(
    canvas: Picture,
    texts: list[_Text],
    atlas: Atlas,
    coverage: NDArray[np.float64],
    missing: NDArray[np.bool_],
    mean_image: "MeanImage | None",
) -> int:
    """Returns the x where the next panel begins."""
    shades = _coverage_colours(coverage, missing)
    second = _TOP + _TILE_HEIGHT + 20
    bright = _brightness(mean_image)
    for number, (points, title) in enumerate(plane_positions(atlas, _TILE_WIDTH, _TILE_HEIGHT)):
        left = _GAP + number * (_TILE_WIDTH + 2)
        labels = label_plane(atlas, points)
        lower = shades[labels]
        canvas[second : second + _TILE_HEIGHT, left : left + _TILE_WIDTH] = lower
        if mean_image is not None:
            upper = _grey_plane(mean_image, points, bright)
            _paint_borders(upper, labels, network_palette(atlas)[labels])
            canvas[_TOP : _TOP + _TILE_HEIGHT, left : left + _TILE_WIDTH] = upper
        texts.append((left + 3, second + _TILE_HEIGHT + 2, title, _FAINT))
        if number > 0:  # sagittal has no sides
            for top in (_TOP, second) if mean_image is not None else (second,):
                texts.append((left + 3, top + 1, "L", _FAINT))
                texts.append((left + _TILE_WIDTH - 9, top + 1, "R", _FAINT))
    if mean_image is not None:
        texts.append((_GAP, 3, "mean image, networks", _INK))
    else:
        texts.append((_GAP, 3, "no mean image", _FAINT))
    named = f"coverage, lowest {coverage.min():.2f}" + (f", {missing.sum()} missing" if missing.any() else "")
    texts.append((_GAP, second - 16, named, _MISSING if missing.any() else _INK))
    return _GAP + 3 * (_TILE_WIDTH + 2) + _GAP


def _grey_plane(image: "MeanImage", points: NDArray[np.float64], bright: tuple[float, float]) -> Picture:
    """Trilinear values of the image at positions (..., 3) in mm as grey RGB; black outside."""
    from scipy.ndimage import map_coordinates

    voxels = np.moveaxis(voxels_at(points, image.affine), -1, 0)
    values = map_coordinates(image.data, voxels, order=1, mode="constant", cval=bright[0])
    grey = np.clip((values - bright[0]) / (bright[1] - bright[0]), 0, 1) * 235
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def _brightness(image: "MeanImage | None") -> tuple[float, float]:
    """Values that become black and white, from every 7th voxel: the 98th percentile of what is there."""
    if image is None:
        return 0.0, 1.0
    sample = image.data.ravel(order="K")[::7]
    sample = sample[np.isfinite(sample)]
    low = float(sample.min()) if len(sample) else 0.0
    low = min(low, 0.0) if low > -1e-6 or not len(sample) else low
    there = sample[sample > low]
    high = float(np.percentile(there, 98)) if len(there) else low + 1.0
    return low, high if high > low else low + 1.0


def _paint_borders(picture: Picture, labels: NDArray[np.int16], colours: NDArray[np.uint8]) -> None:
    """Where the network changes, its colour, half transparent: the image below stays visible."""
    edge = np.zeros(labels.shape, dtype=bool)
    across = (colours[:, 1:] != colours[:, :-1]).any(axis=-1)
    down = (colours[1:] != colours[:-1]).any(axis=-1)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    edge &= labels > 0
    picture[edge] = (0.3 * picture[edge] + 0.7 * colours[edge]).astype(np.uint8)


def _coverage_colours(coverage: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(n_rois + 1, 3): amber up to 0.5, blue-green at full coverage; missing red; background dark."""
    share = np.clip((np.nan_to_num(coverage) - 0.5) / 0.5, 0, 1)[:, None]
    colours = (1 - share) * np.array([236, 178, 62]) + share * np.array([52, 118, 126])
    colours[missing] = _MISSING
    return np.vstack([np.array([[10, 12, 15]]), colours]).astype(np.uint8)


# --- time ---------------------------------------------------------------------------------------------------


def _draw_time(
    canvas: Picture,
    texts: list[_Text],
    left: int,
    right: int,
    atlas: Atlas,
    order: NDArray[np.int64],
    raw: NDArray[np.float32],
    cleaned: NDArray[np.float32],
    missing: NDArray[np.bool_],
    fd: NDArray[np.float64] | None,
    dvars: NDArray[np.float64] | None,
    t_r: float,
    censored: NDArray[np.bool_] | None,
) -> None:
    """FD and DVARS above the carpet, on the same time axis: the frames that were kept."""
    n_dropped = len(raw) - len(cleaned)
    names_width = 60
    left += names_width
    width, top = right - left, _TOP + _STRIP + 8
    height = HEIGHT - top - 18
    _draw_strip(canvas, texts, left, width, raw, missing, fd, dvars, n_dropped)
    if censored is not None and censored.any():
        columns = _frame_of_column(len(cleaned), width)
        canvas[top - 4 : top - 1, left:right][:, censored[columns]] = _FD
    canvas[top : top + height, left:right] = _carpet(cleaned, missing, order, height, width)
    n_rois = len(order)
    for name, first, after in region_groups(atlas, order):
        row = round(first / n_rois * height)
        if first:
            line = canvas[top + row, left:right].astype(np.int16)
            canvas[top + row, left:right] = (line * 0.5).astype(np.uint8)
        if (after - first) / n_rois * height >= 10 and name != "n/a":
            middle = top + round((first + after) / 2 / n_rois * height) - 6
            texts.append((left - names_width + 2, middle, _short(name), _FAINT))
    texts.append((left, top + height + 3, "0", _FAINT))
    minutes = f"{len(cleaned)} frames, {len(cleaned) * t_r / 60:.1f} min"
    texts.append((right - 6 * len(minutes), top + height + 3, minutes, _FAINT))


def _draw_strip(
    canvas: Picture,
    texts: list[_Text],
    left: int,
    width: int,
    raw: NDArray[np.float32],
    missing: NDArray[np.bool_],
    fd: NDArray[np.float64] | None,
    dvars: NDArray[np.float64] | None,
    n_dropped: int,
) -> None:
    canvas[_TOP : _TOP + _STRIP, left : left + width] = (32, 37, 45)
    if fd is None and dvars is None:
        jumps = np.r_[np.nan, regional_dvars(raw[:, ~missing])]
        # a raw scan without confounds: white noise jumps by sqrt(2) SD
        _draw_line(canvas, left, width, jumps[n_dropped:], 2 * 2**0.5, _DVARS)
        texts.append((left, 3, "change from frame to frame (SD)", _DVARS))
        return
    if fd is not None:
        limit = _TOP + _STRIP - 1 - round(FD_LIMIT / _FD_TOP * (_STRIP - 1))
        canvas[limit, left : left + width : 3] = _FAINT
    x = left
    for values, top_value, colour, name in (
        (dvars, _DVARS_TOP, _DVARS, f"DVARS (0-{_DVARS_TOP:g})"),
        (fd, _FD_TOP, _FD, f"FD (0-{_FD_TOP:g} mm)"),
    ):
        if values is not None:
            _draw_line(canvas, left, width, values[n_dropped:], top_value, colour)
            texts.append((x, 3, name, colour))
            x += 92


def _draw_line(
    canvas: Picture,
    left: int,
    width: int,
    values: NDArray[np.float64],
    top_value: float,
    colour: tuple[int, int, int],
) -> None:
    """The largest value of every column's frames, joined by vertical runs; clipped at the top."""
    starts, height = _frame_of_column(len(values), width), _STRIP
    known = np.nan_to_num(values, nan=0.0, posinf=top_value)
    peaks = np.maximum.reduceat(known, starts) if len(values) >= width else known[starts]
    rows = _TOP + height - 1 - np.rint(np.clip(peaks / top_value, 0, 1) * (height - 1)).astype(int)
    before = np.r_[rows[0], rows[:-1]]
    low, high = np.minimum(rows, before), np.maximum(rows, before)
    y = np.arange(_TOP, _TOP + height)[:, None]
    panel = canvas[_TOP : _TOP + height, left : left + width]
    panel[(y >= low) & (y <= high)] = colour


def _frame_of_column(n_frames: int, width: int) -> NDArray[np.int64]:
    """(width,) the first frame that each pixel column shows."""
    return np.arange(width, dtype=np.int64) * n_frames // width


def _carpet(
    cleaned: NDArray[np.float32],
    missing: NDArray[np.bool_],
    order: NDArray[np.int64],
    height: int,
    width: int,
) -> Picture:
    """(height, width, 3) grey from -2 to +2 SD; missing regions red."""
    series = cleaned[:, order]  # (T', R)
    gone = missing[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (series - series.mean(axis=0)) / series.std(axis=0)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0).T  # (R, T')
    grey = np.clip(scaled * 58 + 122, 6, 238).astype(np.uint8)
    picture = np.repeat(_resized(grey, height, width)[..., None], 3, axis=-1)
    # a missing region shows whether it is less than a row of pixels or many
    picture[np.flatnonzero(gone) * height // len(order)] = _MISSING
    picture[gone[np.arange(height) * len(order) // height]] = _MISSING
    return picture


# --- matrix -------------------------------------------------------------------------------------------------


def _matrix(
    cleaned: NDArray[np.float32],
    missing: NDArray[np.bool_],
    order: NDArray[np.int64],
    censored: NDArray[np.bool_] | None,
) -> Picture:
    """(_MATRIX, _MATRIX, 3) correlation of the kept frames, regions in `order`; missing ones grey."""
    series = cleaned if censored is None or not censored.any() else cleaned[~censored]
    values = (series - series.mean(axis=0))[:, order]
    with np.errstate(invalid="ignore", divide="ignore"):
        values /= np.linalg.norm(values, axis=0)
    fc = values.T @ values
    fc[missing[order]] = np.nan
    fc[:, missing[order]] = np.nan
    return np.stack([_resized(channel, _MATRIX, _MATRIX) for channel in fc_channels(fc)], axis=-1)


# --- pixels -------------------------------------------------------------------------------------------------


def _resized(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Mean over cells of _CELL x _CELL pixels, smooth between: noise of single pixels is half the bytes."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(grey))
    small = (min(image.width, width // _CELL), min(image.height, height // _CELL))
    return np.asarray(
        image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    )


@lru_cache(maxsize=1)
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=11)


def _short(name: str) -> str:
    return name if len(name) <= 9 else name[:8] + "."


def _save(path: Path, canvas: Picture, texts: list[_Text]) -> None:
    from PIL import Image, ImageDraw

    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for x, y, text, colour in texts:
        draw.text((x, y), text, fill=colour, font=_font())
    with write_aside(path) as aside:
        aside.write_bytes(encode_webp(image, quality=_QUALITY))


def encode_webp(image: Any, *, quality: int) -> bytes:
    """Lossy WebP of a Pillow image; method 6 takes twice the time for 2 % fewer bytes."""
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=quality, method=4)
    return stream.getvalue()
