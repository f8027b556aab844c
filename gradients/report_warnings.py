"""Warnings of a run: what to know before its gradients are used. R regions, C components.

Text only; the page escapes it.
"""

from collections.abc import Sequence

import numpy as np

from bjepa.gradients.embedding import SMALL_GAP
from bjepa.gradients.figures.style import MANY_REGIONS
from bjepa.gradients.pipeline import GradientRun
from bjepa.gradients.report_findings import FEW, FIRST, places, stability_rows

EXACT = 1e-8  # a larger relative residual is told


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
        f"{len(lost):,} of {len(names):,} {places(run)} have no gradients (n/a in the files), because they "
        f"have no signal or no link with the others at this sparsity{told}."
    )


def _of_comparison(run: GradientRun) -> str:
    return "" if run.comparison is None else _doubt(run.comparison.file, run.comparison.doubt)


def _of_alignment(run: GradientRun) -> str:
    return "" if run.alignment is None else _doubt(run.alignment.reference, run.alignment.doubt)


def _doubt(what: str, doubt: str) -> str:
    return f"{what}: {doubt}." if doubt else ""


def _of_stability(run: GradientRun) -> str:
    if run.stability is None:
        return ""
    rows = stability_rows(run, "all")
    weak = rows.loc[~(rows["r_low"] > rows["r_null"]), "component"].tolist()
    texts = []
    if weak:
        texts.append(
            "Between halves of the participants these components agree no better than shuffled regions may: "
            f"{ranges(weak)} (lower end of the interval within the null). Do not read them one by one."
        )
    if len(deep := stability_rows(run, "subcortex")):
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
