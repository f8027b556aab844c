"""report.html and figures/*.png of a gradient run: what was computed, how sure it is, how it looks."""

from pathlib import Path
from typing import Any

import numpy as np

from bjepa.gradients.embedding import SMALL_GAP
from bjepa.gradients.figures import pictures as figures
from bjepa.gradients.pipeline import GradientRun
from bjepa.preproc.files import write_aside
from bjepa.preproc.html import figure_uri, write_page

N_EXTREMES = 4  # regions named at each end of a gradient
DPI = 130


def write_report(folder: Path, run: GradientRun) -> None:
    """Write `figures/*.png` and `report.html`, each whole."""
    networks = run.group.regions.networks()
    drawn = {
        "connectivity": figures.matrices(run.group.fc, run.affinity, networks),
        "plane": figures.plane(run.result.gradients, networks) if run.options.n_components > 1 else None,
        "brain": figures.brain(run.result.gradients, run.group.regions),
        "eigenvalues": figures.scree(run.result),
        "cross_check": figures.cross_check_figure(run.check) if run.check is not None else None,
    }
    pictures: dict[str, str | None] = dict.fromkeys(drawn)
    for name, figure in drawn.items():
        png = folder / "figures" / f"{name}.png"
        if figure is None:
            png.unlink(missing_ok=True)  # of an earlier run
            continue
        with write_aside(png) as aside:
            figure.savefig(aside, dpi=DPI, bbox_inches="tight")
        pictures[name] = figure_uri(figure)

    write_page(
        folder / "report.html",
        "report.html",
        package="bjepa.gradients",
        run=run,
        pictures=pictures,
        tiles=_tiles(run),
        networks_known=networks is not None,
        pairs=run.result.near_degenerate_pairs(),
        small_gap=SMALL_GAP,
        cut_gap=float(run.result.relative_gaps()[-1]),
        extremes=_extremes(run),
        components=_components(run),
    )


def _tiles(run: GradientRun) -> list[tuple[str, str]]:
    n_rois, n_components = run.result.gradients.shape
    tiles = [(str(n_rois), "regions"), (str(n_components), "components")]
    if run.group.n_scans:
        tiles.append((str(run.group.n_scans), "scans" if run.group.n_scans > 1 else "scan"))
    if run.group.n_participants:
        tiles.append((str(run.group.n_participants), "participants"))
    tiles.append((f"{run.result.residuals.max():.0e}", "largest relative residual"))
    if run.check is not None:
        tiles.append(
            (f"{run.check['subspace_cosine_min']:.5f}", "smallest cosine with BrainSpace's subspace")
        )
    return tiles


def _extremes(run: GradientRun) -> list[dict[str, Any]]:
    """The regions at both ends of gradients 1 to 3."""
    names = run.group.regions.names
    rows = []
    for number in range(min(3, run.result.gradients.shape[1])):
        order = np.argsort(run.result.gradients[:, number], kind="stable")
        rows.append(
            {
                "number": number + 1,
                "low": [names[i] for i in order[:N_EXTREMES]],
                "high": [names[i] for i in order[::-1][:N_EXTREMES]],
            }
        )
    return rows


def _components(run: GradientRun) -> list[dict[str, str]]:
    result = run.result
    return [
        {
            "number": str(number + 1),
            "eigenvalue": f"{result.eigenvalues[number]:.5f}",
            "multiplier": f"{result.multipliers[number]:.5g}",
            "gap": "" if np.isnan(gap) else f"{100 * gap:.1f} %",
            "residual": f"{result.residuals[number]:.0e}",
        }
        for number, gap in enumerate(result.relative_gaps())
    ]
