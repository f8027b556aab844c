"""What the first screen of the report says: what was computed, what to beware of, what was found.

R regions, C components. Text only; the page escapes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.embedding import SMALL_GAP
from bjepa.gradients.figures.style import MANY_REGIONS, by_network
from bjepa.gradients.pipeline import GradientRun

FIRST = 3  # components that the sentences are about
FEW = 10  # pairs among the first FEW components are named one by one
SEPARATES = 0.1  # share of a gradient's variance between cortex and subcortex; less is not told as one
EXACT = 1e-8  # a larger relative residual is told


def tiles(run: GradientRun) -> list[tuple[str, str]]:
    """Number and what it is."""
    n_rois, n_components = run.result.gradients.shape
    shown = [(f"{n_rois:,}", _places(run))]
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
        r = _stability_rows(run, "all")["r"]
        shown.append((f"{r.iloc[0]:.2f}", "r of gradient 1 between halves"))
    if run.check is not None:
        told = f"smallest cosine with BrainSpace's {n_components} components"
        shown.append((f"{run.check['subspace_cosine_min']:.5f}", told))
    return shown


def warnings(run: GradientRun) -> list[str]:
    """What to know before the gradients are used; the gravest first."""
    found = [
        _of_check(run),
        _of_kept(run),
        _of_comparison(run),
        _of_alignment(run),
        _of_stability(run),
        _of_pairs(run),
        _of_cut(run),
        _of_residuals(run),
        _of_failures(run),
    ]
    return [text for text in found if text]


def _of_check(run: GradientRun) -> str:
    if run.check is None or run.check["agrees"]:
        return ""
    return "The cross-check with BrainSpace does not agree: see the section below for why."


def _of_kept(run: GradientRun) -> str:
    lost = np.flatnonzero(~run.result.kept)
    if not len(lost):
        return ""
    names = run.group.regions.names
    told = "" if len(names) > MANY_REGIONS else f": {listed([names[row] for row in lost])}"
    return (
        f"{len(lost):,} of {len(names):,} {_places(run)} have no gradients (n/a in the files), because they "
        f"have no signal or no link with the others at this sparsity{told}."
    )


def _places(run: GradientRun) -> str:
    return "regions" if run.n_neighbors is None else "vertices"


def _of_comparison(run: GradientRun) -> str:
    if run.comparison is None:
        return ""
    table = run.comparison.table
    return _no_better_than_shuffled(run.comparison.file, table["r_aligned"], table["r_null"])


def _of_alignment(run: GradientRun) -> str:
    if run.alignment is None:
        return ""
    return _no_better_than_shuffled(run.alignment.reference, run.alignment.r, run.alignment.r_null)


def _no_better_than_shuffled(what: str, r: ArrayLike, null: ArrayLike) -> str:
    first = np.abs(np.asarray(r, dtype=np.float64))[:FIRST]
    if (first > np.asarray(null, dtype=np.float64)[:FIRST]).any():
        return ""
    return (
        f"Gradients 1 to {len(first)} agree with {what} no better than with the same regions shuffled (r "
        f"{', '.join(f'{value:.2f}' for value in first)} after alignment). Most likely its rows are other "
        "regions, or the same in another order."
    )


def _of_stability(run: GradientRun) -> str:
    if run.stability is None:
        return ""
    rows = _stability_rows(run, "all")
    weak = rows.loc[~(rows["r_low"] > rows["r_null"]), "component"].tolist()
    texts = []
    if weak:
        texts.append(
            "Between halves of the participants these components agree no better than shuffled regions may: "
            f"{ranges(weak)} (lower end of the interval within the null). Do not read them one by one."
        )
    if len(deep := _stability_rows(run, "subcortex")):
        low = deep.loc[~(deep["r_low"] > deep["r_null"]) & (deep["component"] <= FIRST), "component"].tolist()
        if low:
            texts.append(f"Within the subcortex this holds even for {ranges(low)}.")
    return " ".join(texts)


def _of_pairs(run: GradientRun) -> str:
    pairs = run.result.near_degenerate_pairs()
    if not pairs:
        return ""
    early = [pair for pair in pairs if pair[0] < FEW]
    told, later = "; ".join(_runs_of(early)), len(pairs) - len(early)
    if later:
        told += f", and {later} more pairs" if early else f"{later} pair{'s' if later > 1 else ''}"
        told += f" beyond component {FEW}"
    return (
        f"Components that nearly coincide (eigenvalues closer than {100 * SMALL_GAP:.0f} %): {told}. Of such "
        "a pair the plane is determined, the two axes in it hardly: another sample turns them. Compare them "
        "after alignment, or as a subspace."
    )


def _runs_of(pairs: Sequence[tuple[int, int]]) -> list[str]:
    """[(1, 2), (4, 5), (5, 6)] -> ["1 and 2", "4 to 6"]."""
    runs: list[list[int]] = []
    for first, second in pairs:
        if runs and runs[-1][-1] == first:
            runs[-1].append(second)
        else:
            runs.append([first, second])
    return [f"{run[0]} {'and' if len(run) == 2 else 'to'} {run[-1]}" for run in runs]


def _of_cut(run: GradientRun) -> str:
    gap = float(run.result.relative_gaps()[-1])
    if not gap < SMALL_GAP:  # nan: nothing was left out
        return ""
    last = run.result.gradients.shape[1]
    return (
        f"Component {last}, the last one kept, is only {100 * abs(gap):.1f} % from the first one left out: "
        "it is determined only together with it."
    )


def _of_residuals(run: GradientRun) -> str:
    worst = float(run.result.residuals.max())
    return f"The solver left a relative residual of {worst:.0e}; 0 is exact." if worst > EXACT else ""


def _of_failures(run: GradientRun) -> str:
    if run.individuals is None or not len(run.individuals.failures):
        return ""
    people = [str(source) for source in run.individuals.failures["source"]]
    return f"{len(people)} participants have no gradients of their own (failures.tsv): {listed(people)}."


def findings(run: GradientRun) -> list[str]:
    """What was found, a sentence each."""
    found = [_ends(run), _explained(run), _halves(run), _reference(run), _compared(run), _of_maps(run)]
    found += [cortex_and_subcortex(run), _agreement(run)]
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
    rows = _stability_rows(run, "all").head(FIRST)
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


def _stability_rows(run: GradientRun, structure: str) -> Any:  # pandas.DataFrame
    assert run.stability is not None
    table = run.stability.table
    return table[table["structure"] == structure]


def listed(names: Sequence[str], n_shown: int = 8) -> str:
    """The first names, and how many more."""
    more = len(names) - n_shown
    return ", ".join(names[:n_shown]) + (f" and {more} more" if more > 0 else "")


def ranges(numbers: Sequence[int]) -> str:
    """[1, 4, 5, 6, 9] -> "1, 4 to 6, 9"."""
    told = []
    start = previous = None
    for number in [*numbers, None]:
        if previous is not None and number != previous + 1:
            told.append(f"{start}" if start == previous else f"{start} to {previous}")
            start = None
        start = number if start is None else start
        previous = number
    return ", ".join(told)
