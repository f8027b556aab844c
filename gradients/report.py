"""report.html and figures/*.{png,svg} of a gradient run: what was computed, how sure it is, how it looks.

Order of operations:
  1. draw   every picture for which the run has the numbers           figures/
  2. save   PNG and SVG of each; pictures that this run has not are removed figures/save.py
  3. tell   warnings, findings, method, citations, files              report_{warnings,findings,methods}.py
  4. write  one page, pictures inside it, nothing fetched             templates/report.html
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.embedding import SMALL_GAP
from bjepa.gradients.figures.alignment import alignment_figure, comparison_figure
from bjepa.gradients.figures.cross_check import cross_check_figure
from bjepa.gradients.figures.groups import MAX_GROUPS, group_planes_figure, groups_figure, individuals_figure
from bjepa.gradients.figures.maps import MAX_MAPS, maps_figure, maps_overview_figure
from bjepa.gradients.figures.matrices import matrices_figure
from bjepa.gradients.figures.regions import networks_figure, plane_figure
from bjepa.gradients.figures.save import save_picture
from bjepa.gradients.figures.scree import scree_figure
from bjepa.gradients.figures.stability import displacement_figure, stability_figure
from bjepa.gradients.figures.style import MANY_REGIONS, N_SHOWN
from bjepa.gradients.figures.surface_view import surface_figure
from bjepa.gradients.figures.surfaces import SurfaceLabels, surface_labels
from bjepa.gradients.figures.volume import volume_figure
from bjepa.gradients.pipeline import GradientRun
from bjepa.gradients.quality.structures import CAVEAT
from bjepa.gradients.report_findings import (
    SEPARATES,
    cortex_and_subcortex,
    findings,
    moved_of_structures,
    separating_component,
    tiles,
)
from bjepa.gradients.report_methods import citations, files, methods
from bjepa.gradients.report_warnings import warnings
from bjepa.preproc.html import write_page

N_EXTREMES = 4  # regions named at each end of a gradient
N_ROWS = 10  # of a table of participants or regions: the extreme ones; the files have all
MAX_MAP_ROWS = 60  # rows of the table of maps
PICTURES = (
    *("plane", "surface", "brain", "networks", "eigenvalues", "connectivity", "stability", "displacement"),
    *("alignment", "groups", "group_planes", "individuals", "maps", "maps_overview", "comparison"),
    "cross_check",
)


def write_report(folder: Path, run: GradientRun) -> None:
    """Write `figures/*` and `report.html`, each whole."""
    surface = surface_labels(run.group.regions) if run.surface else None
    pictures = {
        name: save_picture(folder / "figures", name, figure) for name, figure in draw(run, surface).items()
    }
    write_page(
        folder / "report.html",
        "report.html",
        package="bjepa.gradients",
        run=run,
        pictures=pictures,
        surface=surface,
        tiles=tiles(run),
        warnings=warnings(run),
        findings=findings(run),
        cortex_sentence=cortex_and_subcortex(run),
        moved_sentence=moved_of_structures(run),
        moved_caveat=CAVEAT,
        networks_known=run.group.regions.networks() is not None,
        small_gap=SMALL_GAP,
        extremes=_extremes(run),
        components=_components(run),
        stability=_stability(run),
        moved=_moved(run),
        farthest=_farthest(run),
        maps=_maps(run),
        max_groups=MAX_GROUPS,
        max_maps=MAX_MAPS,
        methods=methods(run),
        citations=citations(run),
        files=files(run, [name for name, uri in pictures.items() if uri is not None]),
    )


def draw(run: GradientRun, surface: SurfaceLabels | None) -> dict[str, Figure | None]:
    """Every picture by its file name; None where the run has not what it shows."""
    gradients, regions = run.result.gradients, run.group.regions
    networks = regions.networks()
    drawn: dict[str, Figure | None] = dict.fromkeys(PICTURES)
    drawn["plane"] = plane_figure(gradients, networks)
    if surface is not None:
        drawn["surface"] = surface_figure(gradients, surface)
    drawn["brain"] = volume_figure(gradients, regions)
    also, share = separating_component(run)
    drawn["networks"] = networks_figure(gradients, networks, also=also if share >= SEPARATES else None)
    drawn["eigenvalues"] = scree_figure(run.result, run.variance)
    if run.group.fc is not None and len(run.group.fc) <= MANY_REGIONS and run.n_neighbors is None:
        drawn["connectivity"] = matrices_figure(run.group.fc, run.affinity, networks)
    if run.stability is not None:
        drawn["stability"] = stability_figure(run.stability)
        drawn["displacement"] = displacement_figure(run.stability)
    if run.alignment is not None:
        drawn["alignment"] = alignment_figure(run.alignment, networks)
    if run.groups is not None:
        drawn["groups"] = groups_figure(run.groups)
        drawn["group_planes"] = group_planes_figure(run.groups, networks)
    if run.individuals is not None:
        drawn["individuals"] = individuals_figure(run.individuals)
    if run.maps is not None:
        drawn["maps"] = maps_figure(run.maps, gradients, networks)
        drawn["maps_overview"] = maps_overview_figure(run.maps)
    if run.comparison is not None:
        drawn["comparison"] = comparison_figure(run.comparison)
    if run.check is not None:
        drawn["cross_check"] = cross_check_figure(run.check)
    return drawn


def _extremes(run: GradientRun) -> list[dict[str, Any]]:
    """The regions at both ends of gradients 1 to 3; none for vertices, whose names say nothing."""
    names = run.group.regions.names
    if len(names) > MANY_REGIONS:
        return []
    rows = []
    for number in range(min(N_SHOWN, run.result.gradients.shape[1])):
        values = run.result.gradients[:, number]
        known = np.flatnonzero(np.isfinite(values))
        order = known[np.argsort(values[known], kind="stable")]
        rows.append(
            {
                "number": number + 1,
                "low": [names[i] for i in order[:N_EXTREMES]],
                "high": [names[i] for i in order[::-1][:N_EXTREMES]],
            }
        )
    return rows


def _components(run: GradientRun) -> list[dict[str, Any]]:
    result = run.result
    return [
        {
            "number": str(number + 1),
            "eigenvalue": f"{result.eigenvalues[number]:.5f}",
            "multiplier": f"{result.multipliers[number]:.5g}",
            "gap": "" if np.isnan(gap) else f"{100 * gap:.1f} %",
            "is_close": bool(gap < SMALL_GAP),
            "residual": f"{result.residuals[number]:.0e}",
            "variance": "" if run.variance is None else f"{100 * run.variance[number]:.1f} %",
        }
        for number, gap in enumerate(result.relative_gaps())
    ]


def _stability(run: GradientRun) -> list[dict[str, Any]]:
    """A row a component: r of all regions, and of each structure where known."""
    if run.stability is None:
        return []
    rows: dict[int, dict[str, Any]] = {}
    for row in run.stability.table.itertuples(index=False):
        cells = rows.setdefault(row.component, {"component": row.component})
        told = f"{row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}]"
        cells[row.structure] = {"r": told, "null": f"{row.r_null:.2f}", "is_weak": not row.r_low > row.r_null}
        if row.structure == "all":
            cells["unaligned"] = (
                f"{row.r_unaligned:.2f} [{row.r_unaligned_low:.2f}, {row.r_unaligned_high:.2f}]"
            )
    return list(rows.values())


def _moved(run: GradientRun) -> list[dict[str, str]]:
    """The regions that move most between halves."""
    if run.stability is None:
        return []
    table = run.stability.regions.sort_values("displacement", ascending=False).head(N_ROWS)
    return [
        {
            "name": str(row.name),
            "displacement": f"{row.displacement:.3g}",
            "interval": f"{row.displacement_low:.3g} to {row.displacement_high:.3g}",
        }
        for row in table.itertuples(index=False)
    ]


def _farthest(run: GradientRun) -> list[dict[str, str]]:
    """The participants that are least like the group."""
    if run.individuals is None:
        return []
    table = run.individuals.table.sort_values("r_mean").head(N_ROWS)
    return [
        {
            "participant": str(row.participant_id),
            "scans": str(row.n_scans),
            "frames": str(row.n_frames),
            "regions": str(row.n_regions),
            "r_mean": f"{row.r_mean:.2f}",
            "template": f"{100 * row.variance_template:.0f} %",
            "own": f"{100 * row.variance_fc:.0f} %",
        }
        for row in table.itertuples(index=False)
    ]


def _maps(run: GradientRun) -> list[dict[str, Any]]:
    """Correlations with maps, the strongest first."""
    if run.maps is None:
        return []
    table = run.maps.table
    table = table.loc[table["r"].abs().sort_values(ascending=False).index].head(MAX_MAP_ROWS)
    return [
        {
            "map": str(row.map),
            "component": row.component,
            "r": f"{row.r:.3f}",
            "spearman": f"{row.spearman:.3f}",
            "n_regions": row.n_regions,
            "p": f"{row.p:.4f}",
            "null": str(row.null),
            "p_fdr": f"{row.p_fdr:.4f}",
            "is_significant": bool(row.p_fdr < 0.05),
        }
        for row in table.itertuples(index=False)
    ]
