"""Correlation of the gradients with maps of other properties of the regions."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bjepa.gradients.figures.style import (
    DIVERGING,
    MANY_DOTS,
    N_SHOWN,
    colours_of_regions,
    tidy,
)

if TYPE_CHECKING:
    from bjepa.gradients.quality.maps import Maps

MAX_MAPS = 6  # drawn one by one; the table has all
SIGNIFICANT = 0.05


def maps_figure(maps: "Maps", gradients: NDArray[np.float64], networks: list[str] | None) -> Figure:
    """Every map against gradients 1 to 3, a dot a region; r, p, and p corrected (false discovery rate)."""
    names = list(maps.values.columns)[:MAX_MAPS]
    n_shown = min(N_SHOWN, gradients.shape[1])
    figure = Figure(figsize=(3.5 * n_shown, 2.7 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), n_shown, squeeze=False)
    colours = colours_of_regions(networks, len(gradients))
    rows = maps.table.set_index(["map", "component"])
    for name, line in zip(names, panels, strict=True):
        values = maps.values[name].to_numpy(dtype=np.float64)
        for component, axes in enumerate(line):
            axes.scatter(
                gradients[:, component],
                values,
                s=3 if len(values) > MANY_DOTS else 11,
                color=colours,
                alpha=0.8,
                linewidth=0,
                rasterized=len(values) > MANY_DOTS,
            )
            if (name, component + 1) in rows.index:
                found = rows.loc[(name, component + 1)]
                axes.set_title(
                    f"r = {found['r']:.2f}, p = {found['p']:.3g}, FDR {found['p_fdr']:.3g}", fontsize=9
                )
            axes.set_xlabel(f"gradient {component + 1}", fontsize=9)
            axes.locator_params(nbins=4)
            tidy(axes)
        line[0].set_ylabel(str(name), fontsize=9)
    return figure


def maps_overview_figure(maps: "Maps") -> Figure | None:
    """r of all maps with all components; a dot where p after FDR correction is below 0.05. None: one map."""
    r = maps.table.pivot(index="map", columns="component", values="r").loc[list(maps.values.columns)]
    if len(r) < 2:
        return None
    p = maps.table.pivot(index="map", columns="component", values="p_fdr").loc[r.index]
    figure = Figure(figsize=(min(11.0, 3 + 0.5 * r.shape[1]), 0.28 * len(r) + 1.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(r, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    row, column = np.nonzero(p.to_numpy() < SIGNIFICANT)
    axes.plot(column, row, "o", color="#1c2430", markersize=4, label="p (FDR) < 0.05")
    axes.set_yticks(range(len(r)), [str(name) for name in r.index], fontsize=8)
    step = max(1, -(-r.shape[1] // 15))
    axes.set_xticks(range(0, r.shape[1], step), r.columns[::step])
    axes.set_xlabel("component")
    figure.colorbar(image, ax=axes, label="r")
    return figure
