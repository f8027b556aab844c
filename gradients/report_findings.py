"""What a run found, in numbers and sentences for the first screen of the report. R regions, C components.

Text only; the page escapes it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.figures.style import by_network
from bjepa.gradients.pipeline import GradientRun

FIRST = 3  # components that the sentences are about
FEW = 10  # components among which a single one is named
SEPARATES = 0.1  # share of a gradient's variance between cortex and subcortex; less is not told as one


def tiles(run: GradientRun) -> list[tuple[str, str]]:
    """Number and what it is."""
    n_rois, n_components = run.result.gradients.shape
    shown = [(f"{n_rois:,}", places(run))]
    shown.append((str(n_components), "components"))
    if run.group.n_scans:
        shown.append((str(run.group.n_scans), "scans" if run.group.n_scans > 1 else "scan"))
    if run.group.n_participants:
        shown.append(
            (str(run.group.n_participants), "participants" if run.group.n_participants > 1 else "participant")
        )
    if run.variance is not None:
        first = min(FIRST, n_components)
        told = f"variance of connectivity in components 1 to {first}"
        shown.append((f"{100 * run.variance[first - 1]:.0f} %", told))
    if run.stability is not None:
        r = stability_rows(run, "all")["r"]
        shown.append((f"{r.iloc[0]:.2f}", "r of gradient 1 between halves"))
    if run.check is not None:
        told = f"smallest cosine with BrainSpace's {n_components} components"
        shown.append((f"{run.check['subspace_cosine_min']:.5f}", told))
    return shown


def findings(run: GradientRun) -> list[str]:
    """What was found, a sentence each."""
    found = [_ends(run), _explained(run), _halves(run), _reference(run), _compared(run), _of_maps(run)]
    found += [cortex_and_subcortex(run), moved_of_structures(run), _agreement(run)]
    return [text for text in found if text]


def _ends(run: GradientRun) -> str:
    networks = run.group.regions.networks()
    if networks is None or len(set(networks)) < 2:
        return ""
    order, edges, labels = by_network(networks, len(networks))
    told = []
    for component in range(min(FIRST, run.result.gradients.shape[1])):
        values = run.result.gradients[:, component]
        medians = [_median(values[order[edges[n] : edges[n + 1]]]) for n in range(len(labels))]
        low, high = labels[int(np.nanargmin(medians))], labels[int(np.nanargmax(medians))]
        told.append(f"{component + 1} runs from {low} to {high}")
    return f"By the medians of networks, gradient {', '.join(told)}."


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _explained(run: GradientRun) -> str:
    if run.variance is None:
        return ""
    n, first = len(run.variance), min(FIRST, len(run.variance))
    return (
        f"Components 1 to {first} explain {100 * run.variance[first - 1]:.0f} % of the variance of "
        "connectivity" + (f", all {n} {100 * run.variance[-1]:.0f} %." if n > first else ".")
    )


def _halves(run: GradientRun) -> str:
    if run.stability is None:
        return ""
    rows = stability_rows(run, "all").head(FIRST)
    told = ", ".join(
        f"{row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}]" for row in rows.itertuples(index=False)
    )
    return (
        f"Between random halves of {run.stability.n_participants} participants ({run.stability.n_splits} "
        f"splits) gradients 1 to {len(rows)} correlate {told} after alignment."
    )


def _reference(run: GradientRun) -> str:
    if run.alignment is None:
        return ""
    first = run.alignment.r[:FIRST]
    return (
        f"After alignment to {run.alignment.reference} gradients 1 to {len(first)} correlate with it "
        f"{', '.join(f'{value:.2f}' for value in first)}."
    )


def _compared(run: GradientRun) -> str:
    if run.comparison is None:
        return ""
    first = run.comparison.table.head(FIRST)
    return (
        f"With {run.comparison.file} gradients 1 to {len(first)} correlate "
        f"{', '.join(f'{abs(value):.2f}' for value in first['r'])} as they are, "
        f"{', '.join(f'{abs(value):.2f}' for value in first['r_aligned'])} after alignment."
    )


def _of_maps(run: GradientRun) -> str:
    if run.maps is None:
        return ""
    table = run.maps.table
    n_significant = int((table["p_fdr"] < 0.05).sum())
    best = table.loc[table["r"].abs().idxmax()]
    return (
        f"{n_significant} of {len(table)} correlations with maps are beyond what spatial smoothness explains "
        f"(p < 0.05 after FDR correction); the largest is {best['map']} with gradient {best['component']}, "
        f"r = {best['r']:.2f}."
    )


def _agreement(run: GradientRun) -> str:
    if run.check is None or not run.check["agrees"]:
        return ""
    return (
        f"BrainSpace {run.check['versions']['brainspace']} finds the same {run.result.gradients.shape[1]}"
        "-dimensional space, and our eigenpairs are exact."
    )


def cortex_and_subcortex(run: GradientRun) -> str:
    """Which gradient tells subcortical from cortical regions, in a sentence; "" where there are not both."""
    k, share = separating_component(run)
    if k is None:
        return ""
    n_first = min(FEW, run.result.gradients.shape[1])
    if share < SEPARATES:
        return (
            f"No one of gradients 1 to {n_first} separates the subcortex from the cortex (at most "
            f"{100 * share:.0f} % of the variance of one lies between the two)."
        )
    deep, cortex = _structures(run)
    values = run.result.gradients[:, k]
    of_cortex = values[cortex & np.isfinite(values)]
    place = float((of_cortex < _median(values[deep])).mean())
    return (
        f"Of gradients 1 to {n_first}, gradient {k + 1} separates the subcortex from the cortex most: "
        f"{100 * share:.0f} % of its variance lies between the two, and the median subcortical region is "
        f"beyond {100 * max(place, 1 - place):.0f} % of cortical ones."
    )


def moved_of_structures(run: GradientRun) -> str:
    """Whether the places of subcortical regions are as stable as those of cortical ones, in a sentence."""
    from bjepa.gradients.quality.structures import cortex_against_subcortex

    found = None if run.stability is None else cortex_against_subcortex(run.stability)
    if found is None:
        return ""
    return (
        f"Between halves, subcortical regions ({found['n_subcortex']}) move {found['ratio']:.1f} times "
        f"[{found['ratio_low']:.1f}, {found['ratio_high']:.1f}] as far as cortical ones "
        f"({found['n_cortex']}; p = {found['p']:.2g} by permuting the two labels)."
    )


def separating_component(run: GradientRun) -> tuple[int | None, float]:
    """The component (from 0) whose variance lies most between cortex and subcortex, and that share.

    None where there are not both.
    """
    deep, cortex = _structures(run)
    if not (deep.any() and cortex.any()):
        return None, 0.0
    n_first = min(FEW, run.result.gradients.shape[1])
    share = [_share_between(run.result.gradients[:, k], deep, cortex) for k in range(n_first)]
    return int(np.argmax(share)), max(share)


def _structures(run: GradientRun) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(R,) regions of the subcortex, and of the cortex."""
    structure = np.array(run.group.regions.column("structure") or [""] * len(run.result.gradients))
    return structure == "subcortex", structure == "cortex"


def _share_between(values: NDArray[np.float64], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Share of the variance over regions that lies between two sets of them (eta squared)."""
    known = np.isfinite(values) & (first | second)
    if not (known & first).any() or not (known & second).any() or not np.ptp(values[known]):
        return 0.0
    return float(np.corrcoef(values[known], first[known])[0, 1] ** 2)


def places(run: GradientRun) -> str:
    return "regions" if run.n_neighbors is None else "vertices"


def stability_rows(run: GradientRun, structure: str) -> Any:  # pandas.DataFrame
    assert run.stability is not None
    table = run.stability.table
    return table[table["structure"] == structure]
