"""Slices of images side by side: seven along each axis of the world, at a common scale.

Every image is looked up at the same positions in mm through its own affine, so that images which do not
lie on each other are seen to. Axial and coronal slices have the left of the person on the left.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.files import write_aside

N_SLICES = 7
TILE = 184  # px: the longest side of the field of view
GROUND, INK, FAINT = (22, 26, 32), (226, 231, 238), (140, 150, 163)  # as the pictures of scans
MAX_BYTES = 150_000  # of a picture
_GAP, _TITLE, _LABEL = 4, 22, 15  # px
_QUALITIES = (72, 58, 44, 30)  # of WebP; the first that is small enough
_NAMES = "xyz"
_ACROSS, _UP = (1, 0, 0), (2, 2, 1)  # for each axis that is cut: the axes of the picture

Picture = NDArray[np.uint8]  # (height, width, 3)
F = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """points (h, w, 3) mm of a slice; title "z = 12 mm"; whether left and right are in it."""

    points: F
    title: str
    has_sides: bool


def planes(box: F, axes: tuple[int, ...] = (2, 1, 0)) -> list[list[Plane]]:
    """N_SLICES planes along each axis, through the inner 80 % of `box` (2, 3): lowest and highest mm."""
    size = mm_a_pixel(box)
    rows = []
    for axis in axes:
        across, up = _ACROSS[axis], _UP[axis]
        width, height = (int((box[1, a] - box[0, a]) / size) for a in (across, up))
        margin = 0.1 * (box[1, axis] - box[0, axis])
        row = []
        for place in np.linspace(box[0, axis] + margin, box[1, axis] - margin, N_SLICES):
            points = np.empty((height, width, 3))
            points[..., axis] = place
            points[..., across] = box[0, across] + (np.arange(width) + 0.5) * size
            points[..., up] = (box[1, up] - (np.arange(height) + 0.5) * size)[:, None]
            title = f"{_NAMES[axis]} = {round(place)} mm"
            row.append(Plane(points, title, has_sides=axis != 0))
        rows.append(row)
    return rows


def mm_a_pixel(box: F) -> float:
    """Size of a pixel of the slices through `box`."""
    return float((box[1] - box[0]).max() / TILE)


def box_of(mask: NDArray[np.bool_], affine: F, *, margin: float = 8.0) -> F:
    """(2, 3) the mm that a mask spans, but for its outermost thousandth, and a margin in mm."""
    points = apply_affine(affine, np.argwhere(mask))
    low, high = np.percentile(points, [0.1, 99.9], axis=0)
    return np.stack([low - margin, high + margin])


def bright_voxels(data: NDArray[np.float32], *, share: float = 0.2) -> NDArray[np.bool_]:
    """(x, y, z) where an image is above a share of its 98th percentile: the head."""
    return np.asarray(data > share * np.percentile(data, 98), dtype=bool)


@dataclass(frozen=True, eq=False)
class Image:
    """data (x, y, z), finite; affine (4, 4); moved: applied to points (n, 3) mm before they are looked up."""

    data: NDArray[Any]
    affine: F
    moved: Callable[[F], F] | None = None

    def at(self, points: F, *, order: int = 1) -> F:
        """Values at positions (..., 3) in mm, linear or (order 0) nearest; 0 outside."""
        from scipy.ndimage import map_coordinates

        flat = points.reshape(-1, 3)
        flat = flat if self.moved is None else self.moved(flat)
        voxels = apply_affine(np.linalg.inv(self.affine), flat).T
        values = map_coordinates(self.data, voxels, order=order, mode="constant", cval=0.0, output=np.float64)
        return np.asarray(values.reshape(points.shape[:-1]), dtype=np.float64)


def window(rows: list[list[F]]) -> tuple[float, float]:
    """Values that become black and white, over all slices: from 0 (or the lowest) to the 99th percentile."""
    seen = np.concatenate([plane.ravel() for row in rows for plane in row])
    there = seen[seen != 0]
    low = min(float(seen.min(initial=0.0)), 0.0)
    high = float(np.percentile(there, 99)) if len(there) else low + 1
    return low, high if high > low else low + 1


def grey(plane: F, limits: tuple[float, float]) -> Picture:
    """A slice as grey RGB."""
    scaled = np.clip((plane - limits[0]) / (limits[1] - limits[0]), 0, 1)
    return np.repeat((scaled * 235).astype(np.uint8)[..., None], 3, axis=-1)


def edges(plane: F, mm: float, *, strength: float, smooth: float) -> NDArray[np.bool_]:
    """(h, w) where a slice has an edge: the Laplacian changes sign, the gradient is above `strength`.

    Both of the slice smoothed by `smooth` mm (SD); `mm` is the size of a pixel; strength in values a mm.
    """
    from scipy import ndimage

    sigma = smooth / mm
    curve = ndimage.gaussian_laplace(plane, sigma) > 0
    steep = ndimage.gaussian_gradient_magnitude(plane, sigma) / mm > strength
    crossing = np.zeros(plane.shape, dtype=bool)
    crossing[:, 1:] |= curve[:, 1:] != curve[:, :-1]
    crossing[1:] |= curve[1:] != curve[:-1]
    return np.asarray(crossing & steep, dtype=bool)


def outlines(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(h, w) the outermost pixels of every label in a slice; not of 0."""
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[:, :-1] |= (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] == 0)
    border[1:] |= labels[1:] != labels[:-1]
    border[:-1] |= (labels[1:] != labels[:-1]) & (labels[1:] == 0)
    return border & (labels > 0)


def paint(picture: Picture, where: NDArray[np.bool_], colour: Any, *, opacity: float = 0.85) -> None:
    """Colour pixels of a picture; `colour` is one RGB, or one for each of the pixels (n, 3)."""
    mixed = (1 - opacity) * picture[where] + opacity * np.asarray(colour, dtype=np.float64)
    picture[where] = mixed.astype(np.uint8)


@dataclass
class Sheet:
    """Rows of slices under titles. Colour of a title: as the lines it speaks of."""

    rows: list[tuple[list[Picture], list[Plane]]] = field(default_factory=list)
    titles: dict[int, list[tuple[str, tuple[int, int, int]]]] = field(default_factory=dict)

    def title(self, *parts: tuple[str, tuple[int, int, int]]) -> None:
        """Words above the next row."""
        self.titles[len(self.rows)] = list(parts)

    def row(self, pictures: list[Picture], cut: list[Plane]) -> None:
        """A row of slices."""
        self.rows.append((pictures, cut))

    def save(self, path: Path) -> None:
        """Write the sheet as WebP, whole or not at all; the same content gives the same bytes."""
        from PIL import Image as PillowImage
        from PIL import ImageDraw, ImageFont

        cell = max(picture.shape[1] for pictures, _ in self.rows for picture in pictures)
        tops, height = [], _GAP
        for number, (pictures, _) in enumerate(self.rows):
            height += _TITLE if number in self.titles else 0
            tops.append(height)
            height += pictures[0].shape[0] + _LABEL + _GAP
        canvas = np.empty((height, N_SLICES * (cell + _GAP) + _GAP, 3), dtype=np.uint8)
        canvas[:] = GROUND
        for top, left, picture, _ in self._tiles(tops, cell):
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        image = PillowImage.fromarray(canvas)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
        for top, left, picture, plane in self._tiles(tops, cell):
            below, right = top + picture.shape[0], left + picture.shape[1]
            draw.text(((left + right) // 2, below + 1), plane.title, fill=FAINT, font=font, anchor="ma")
            if plane.has_sides:
                draw.text((left + 3, top + 1), "L", fill=INK, font=font)
                draw.text((right - 3, top + 1), "R", fill=INK, font=font, anchor="ra")
        for number, parts in self.titles.items():
            x = float(_GAP + 2)
            for text, colour in parts:
                draw.text((x, tops[number] - _TITLE + 3), text, fill=colour, font=font)
                x += draw.textlength(text + "   ", font=font)
        with write_aside(path) as aside:
            aside.write_bytes(encoded(image))

    def _tiles(self, tops: list[int], cell: int) -> Iterator[tuple[int, int, Picture, Plane]]:
        """Top and left of every slice, each in the middle of its cell."""
        for top, (pictures, cut) in zip(tops, self.rows, strict=True):
            for number, (picture, plane) in enumerate(zip(pictures, cut, strict=True)):
                left = _GAP + number * (cell + _GAP) + (cell - picture.shape[1]) // 2
                yield top, left, picture, plane


def encoded(image: Any) -> bytes:
    """Lossy WebP of a Pillow image, without metadata, of MAX_BYTES at most unless it is a picture of noise.

    WebP keeps colour at half the resolution; with sharp conversion lines of a pixel stay coloured.
    """
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, format="WEBP", quality=quality, method=4, use_sharp_yuv=True)
        if stream.tell() <= MAX_BYTES:
            break
    return stream.getvalue()
