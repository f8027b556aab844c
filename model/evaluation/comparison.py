"""All that a comparison says, computed once: for the page, the tables, the log and the sentence.

Built from the results of one protocol (`evaluate.py`); what needs more than they hold (learning curves, who
was pretrained on) is given.

    differences    each model against each baseline and control (a family for each model, see `paired.py`),
                   and models against each other (one more); without a model, each method against linear
                   connectivity (one). Main metric
    calibrations   of every result but the adjusted ones (`calibration.py`)
    checks         predictions against confounds beyond the target (`confound_checks.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bjepa.model.evaluation.calibration import Calibration, calibrate, calibration_rows
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.confound_checks import ConfoundCheck, check_confounds, check_rows
from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.learning_curve import CurvePoint, curve_rows
from bjepa.model.evaluation.metrics import CHANCE, MAIN_METRIC
from bjepa.model.evaluation.out_of_fold import OutOfFold, out_of_fold
from bjepa.model.evaluation.paired import PairedDifference, difference_rows, paired_differences
from bjepa.model.evaluation.protocol import MethodResult
from bjepa.model.evaluation.roles import ADJUSTED, CONFOUNDS, LINEAR_FC, PROBE, Role, role_of
from bjepa.model.evaluation.splits import Splits


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of one protocol, and what follows from them."""

    results: list[MethodResult]
    cohort: Cohort
    splits: Splits
    models: list[str]  # results that are of the models in question
    summaries: Mapping[str, str]  # a line on each method
    confounds: list[str]  # columns that were regressed out in adjusted results
    grouped_by: str  # column whose values stay on one side of a split
    n_permutations: int
    pairs: Mapping[str, OutOfFold]  # true and predicted values of each result
    differences: list[PairedDifference]
    adjusted: list[PairedDifference]  # each adjusted result against the same method unadjusted
    calibrations: Mapping[str, Calibration]
    checks: list[ConfoundCheck]
    curves: Mapping[str, Sequence[CurvePoint]]
    pretrained_on: Mapping[str, int | None]  # tested participants a model was pretrained on; None: not known
    not_adjusted: Sequence[str]

    @property
    def metric(self) -> str:
        """The metric that sentences and figures are about."""
        return MAIN_METRIC[self.cohort.task]

    @property
    def chance(self) -> float:
        """Its value without any knowledge."""
        return CHANCE[self.metric]

    @property
    def names(self) -> list[str]:
        """Names of the results, in their order."""
        return [result.name for result in self.results]

    def result(self, name: str) -> MethodResult:
        """The result of this name."""
        return self.results[self.names.index(name)]

    def estimate(self, name: str) -> Estimate:
        """Its main metric."""
        return self.result(name).estimates[self.metric]

    def having(self, *roles: Role) -> list[str]:
        """Names of the results in these roles."""
        return [name for name in self.names if role_of(name, self.models) in roles]

    def finds(self, name: str) -> bool:
        """Whether the interval of the main metric lies above chance."""
        return self.estimate(name).low > self.chance

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the highest main metric; chosen by the test parts, so it is flattered."""
        names = [n for n in self.having("baseline") if self.estimate(n).mean == self.estimate(n).mean]
        return max(names, key=lambda name: self.estimate(name).mean, default=None)

    def n_corrected_for(self, difference: PairedDifference) -> int:
        """Size of the family that a difference is in."""
        between = difference.method in self.models and difference.against in self.models
        if not self.models:
            return len(self.differences)
        return sum(
            (d.against in self.models) == between and (between or d.method == difference.method)
            for d in self.differences
        )

    def difference(self, method: str, against: str) -> PairedDifference | None:
        """One of the pairs, if it was compared."""
        found = [d for d in self.differences if (d.method, d.against) == (method, against)]
        return found[0] if found else None


def compare(
    results: Sequence[MethodResult],
    cohort: Cohort,
    splits: Splits,
    *,
    models: Sequence[str] = (PROBE,),
    summaries: Mapping[str, str] | None = None,
    confounds: Sequence[str] | None = None,
    grouped_by: str = "participant_id",
    n_permutations: int = 0,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    pretrained_on: Mapping[str, int | None] | None = None,
    not_adjusted: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compute all of a comparison. `models`: names of results of the models in question (others are ignored).

    `confounds`: columns of the cohort that were regressed out, all unless told (a site that is left out at a
    time is a column too). `seed` is of the resampling behind the intervals of calibration.
    """
    present = [result.name for result in results if result.name in models]
    names = [result.name for result in results]
    pairs = {result.name: out_of_fold(result, cohort, splits) for result in results}
    plain = [name for name in names if role_of(name, present) != "adjusted"]
    metric = MAIN_METRIC[cohort.task]
    twice = [(name, name.removesuffix(ADJUSTED)) for name in names if role_of(name, present) == "adjusted"]
    return Comparison(
        results=list(results),
        cohort=cohort,
        splits=splits,
        models=present,
        summaries={name: "" for name in names} | dict(summaries or {}),
        confounds=list(cohort.columns if confounds is None else confounds),
        grouped_by=grouped_by,
        n_permutations=n_permutations,
        pairs=pairs,
        differences=[
            d
            for family in families_of(plain, present)
            for d in paired_differences(results, family, metric, splits)
        ],
        adjusted=paired_differences(results, [p for p in twice if p[1] in names], metric, splits),
        calibrations={name: calibrate(pairs[name], cohort, seed=seed) for name in plain},
        checks=check_confounds(
            [(name, pairs[name]) for name in plain if name != CONFOUNDS], cohort, list(cohort.columns)
        ),
        curves=curves or {},
        pretrained_on={name: n for name, n in (pretrained_on or {}).items() if name in present},
        not_adjusted=list(not_adjusted),
    )


def families_of(names: Sequence[str], models: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Pairs (method, against) by family: see the top of the file."""
    others = [name for name in names if name not in models]
    if models:
        between = [(a, b) for number, a in enumerate(models) for b in models[number + 1 :]]
        return [[(model, other) for other in others] for model in models] + [between]
    reference = next((name for name in LINEAR_FC if name in names), None)
    return [[(name, reference) for name in others if name != reference]] if reference else []


def comparison_tables(comparison: Comparison) -> dict[str, list[tuple[Any, ...]]]:
    """Rows, header first, by name of the table; those that would be empty are left out."""
    tables = {
        "differences": difference_rows([*comparison.differences, *comparison.adjusted]),
        "calibration": calibration_rows(comparison.calibrations),
        "learning_curve": curve_rows(comparison.curves),
        "confound_checks": check_rows(comparison.checks),
    }
    return {name: rows for name, rows in tables.items() if len(rows) > 1}
