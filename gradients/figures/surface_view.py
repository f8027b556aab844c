"""Gradients painted on the cortical surface: lateral and medial views, drawn as pixels.

Order of operations, for each hemisphere:
  1. inflate  the mesh, by moving each vertex towards the mean of its neighbours: sulci open
  2. project  along x (orthographic), faces that look away left out, the rest drawn from back to front
  3. colour   a face has one colour: its region's (that of two of its three vertices), never a mean over
              regions; grey where there is no value, darker in a sulcus
  4. light    brightness of a face by the angle to a lamp above the viewer
About 6 s for three gradients on fs_LR 32k, file included; nilearn's 3-D axes take 30 s for the same views.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.figures.style import DIVERGING, N_SHOWN, colour_limit
from bjepa.gradients.figures.surfaces import Hemisphere, SurfaceLabels

N_SMOOTHINGS = {"fs_LR 32k": 30, "fsaverage5": 18}  # until sulci are open and the shape is still a brain
_AMBIENT = 0.55  # brightness in full shade


@dataclass(frozen=True, eq=False)
class _View:
    """One side of one hemisphere, ready to be coloured."""

    title: str
    corners: NDArray[np.float64]  # (F, 3, 2) mm, faces that are seen, from back to front
    faces: NDArray[np.int64]  # (F, 3) vertex numbers
    brightness: NDArray[np.float64]  # (F,) in [_AMBIENT, 1]
    grey: NDArray[np.float64]  # (F,) of the background
    hemisphere: Hemisphere


def surface_figure(
    gradients: NDArray[np.float64],
    surface: SurfaceLabels,
    *,
    titles: Sequence[str] | None = None,
    tick: Callable[[float], str] | None = None,
) -> Figure:
    """Gradients 1 to 3 (R, C), a row each: left lateral, left medial, right medial, right lateral.

    With `titles`, maps of any other kind: all columns, named so; `tick` writes the numbers of the bars.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    views = [view for side in surface.hemispheres for view in _views(side, N_SMOOTHINGS[surface.mesh])]
    names = [f"gradient {number + 1}" for number in range(min(N_SHOWN, gradients.shape[1]))]
    names = names if titles is None else list(titles)
    n_maps = len(names)
    figure = Figure(figsize=(2.6 * len(views) + 0.6, 2.15 * n_maps))
    wide = 0.9 / len(views)
    for number in range(n_maps):
        limit = colour_limit(gradients[surface.shown - 1, number])
        bottom, tall = 0.97 - (number + 1) * 0.97 / n_maps, 0.9 * 0.97 / n_maps
        for place, view in enumerate(views):
            axes = figure.add_axes((0.03 + place * wide, bottom, wide, tall))
            _paint(axes, view, gradients[:, number], limit)
            if number == 0:
                axes.set_title(view.title, fontsize=9, color="#5c6877", pad=2)
        figure.text(0.005, bottom + tall / 2, names[number], rotation=90, va="center")
        bar = figure.add_axes((0.945, bottom + 0.2 * tall, 0.012, 0.6 * tall))
        figure.colorbar(
            ScalarMappable(Normalize(-limit, limit), DIVERGING),
            cax=bar,
            extend="both",
            format=None if tick is None else (lambda value, _, tick=tick: tick(value)),
        )
        bar.tick_params(labelsize=8)
    return figure


def region_of_faces(labels: NDArray[np.int64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """(F,) the region of two or three vertices of a face; where all differ, that of the first."""
    first, second, third = labels[faces].T
    regions: NDArray[np.int64] = np.where(second == third, second, first)
    return regions


def _views(hemisphere: Hemisphere, n_smoothings: int) -> list[_View]:
    vertices, faces = _inflate(hemisphere.vertices, hemisphere.faces, n_smoothings), hemisphere.faces
    normal = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    smooth = np.zeros_like(vertices)  # normal of a vertex: sum over its faces
    for corner in range(3):
        np.add.at(smooth, faces[:, corner], normal)
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True) + 1e-12

    outer = -1 if hemisphere.side == "left" else 1  # x of who looks at the lateral side
    views = []
    for name, towards in (("lateral", outer), ("medial", -outer)):
        seen = faces[normal[:, 0] * towards > 0]
        seen = seen[np.argsort(towards * vertices[seen, 0].mean(axis=1), kind="stable")]
        # seen from the left the front of the brain is to the left
        flat = np.stack([towards * vertices[:, 1], vertices[:, 2]], axis=1)
        lamp = np.array([0.9 * towards, 0.0, 0.44])
        light = np.clip(smooth[seen].mean(axis=1) @ lamp, 0, 1)
        views.append(
            _View(
                title=f"{hemisphere.side}, {name}",
                corners=flat[seen],
                faces=seen,
                brightness=_AMBIENT + (1 - _AMBIENT) * light,
                grey=np.where(hemisphere.depth[seen].mean(axis=1) > 0, 0.66, 0.78),
                hemisphere=hemisphere,
            )
        )
    return views if outer < 0 else views[::-1]


def _inflate(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], n_smoothings: int
) -> NDArray[np.float64]:
    from scipy.sparse import csr_array

    edges = faces[:, [0, 1, 1, 2, 2, 0]].ravel(), faces[:, [1, 0, 2, 1, 0, 2]].ravel()
    linked = csr_array((np.ones(len(edges[0])), edges), shape=(len(vertices), len(vertices)))
    n_links = np.asarray(linked.sum(axis=1)).reshape(-1, 1)
    for _ in range(n_smoothings):
        vertices = 0.5 * vertices + 0.5 * (linked @ vertices) / n_links
    return vertices


def _paint(axes: Any, view: _View, values: NDArray[np.float64], limit: float) -> None:
    import matplotlib
    from matplotlib.collections import PolyCollection

    of_region = np.concatenate([[np.nan], values])
    value = of_region[region_of_faces(view.hemisphere.labels, view.faces)]  # (F,)
    if len(np.unique(view.hemisphere.labels)) > len(view.hemisphere.labels) // 2:  # a value a vertex: smooth
        value = of_region[view.hemisphere.labels][view.faces].mean(axis=1)
    colours = matplotlib.colormaps[DIVERGING](0.5 + value / (2 * limit))[:, :3]
    colours = np.where(np.isnan(value)[:, None], view.grey[:, None], colours) * view.brightness[:, None]
    axes.add_collection(
        PolyCollection(
            list(view.corners),
            facecolors=colours,
            edgecolors="face",
            linewidths=0.25,
            antialiased=False,
            rasterized=True,
        )
    )
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.set_axis_off()
