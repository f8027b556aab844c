"""A method in two steps: what the targets do not change, then the fit, of one target or of hundreds.

    prepare   the features' part: scaling, rotation, kernels. Targets are not looked at
    solve     settings chosen inside the development part, fit to all of it, predictions

A `TwoSteps` is called with a Fold as any `fit_predict`. A permutation test prepares once and solves for all
permuted targets at once; the plain call solves for one, by the same code.

Settings are a candidate (a choice of features; most methods have one) and a strength (penalty, C). Each
inner fold is held out in turn; of all settings, from the simplest on, the first is taken whose loss is within
half a standard error (over folds) of the lowest: the strongest penalty that is as good as the best. A full
standard error (Breiman et al. 1984, "Classification and Regression Trees", section 3.4) is too careful here:
on 104 connectomes, 8 seeds, mean R² of age is 0.452 with none, 0.451 with half and 0.420 with one; mean AUC
of adult or child 0.942, 0.945, 0.946.

P targets, n development rows, m test rows, S strengths, C classes, O outputs of a solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.link import apply_link, fit_link
from bjepa.model.baselines.prepared import Candidate, Part
from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.fold import Fold, Prediction

Array = NDArray[np.float64]
TOLERANCE = 0.5  # standard errors


@dataclass(frozen=True, kw_only=True)
class Solver:
    """How targets are fitted to prepared rows, for one task."""

    fit: Callable[[Part, NDArray[Any], Array, int], Array]  # (part, (P, n), (S,), C) -> (S, P, m, O)
    loss: Callable[[Array, NDArray[Any]], Array]  # ((S, P, m, O), (P, m)) -> (S, P)
    strengths: Array  # (S,) from the simplest model to the most flexible
    strength: str  # their name in the settings
    linked: bool = False  # outputs are decision values; probabilities are made of them by `link.py`


@dataclass(frozen=True, kw_only=True)
class TwoSteps:
    """A `fit_predict` of a Method. Of the tasks that `solver` has no entry for, it is not a method."""

    prepare: Callable[[Fold], list[Candidate]]
    solver: Mapping[Task, Solver]

    def __call__(self, fold: Fold) -> Prediction:
        """Prepare and solve for the fold's own target."""
        values, settings = self.solve(self.prepare(fold), fold, fold.target[None])
        return Prediction(values[0], settings[0])

    def solve(
        self, candidates: list[Candidate], fold: Fold, target: NDArray[Any]
    ) -> tuple[Array, list[dict[str, Any]]]:
        """Predictions (P, m) or (P, m, C) for P targets (P, n) of the development part, and what was chosen.

        Of the fold, task and classes are used.
        """
        solver, n_classes = self.solver[fold.task], len(fold.classes)
        values = np.empty((*target.shape[:1], len(candidates[0].final.test), n_classes or 1))
        losses, held_out = _of_inner_folds(solver, candidates, target, n_classes)
        chosen = strongest_of_the_good(losses)  # (P,)
        settings: list[dict[str, Any]] = [{}] * len(target)
        for number in np.unique(chosen):
            which, s = divmod(int(number), len(solver.strengths))
            own = np.flatnonzero(chosen == number)
            candidate, strength = candidates[which], solver.strengths[s]
            out = solver.fit(candidate.final, target[own], np.array([strength]), n_classes)[0]
            if solver.linked:
                out = apply_link(out, *fit_link(held_out[which][s, own], target[own], n_classes))
            values[own] = out
            about = {solver.strength: float(strength), "n_features": candidate.n_features}
            for p in own:
                settings[p] = about | candidate.settings
        return (values[:, :, 0] if fold.task == "regression" else values), settings


def _of_inner_folds(
    solver: Solver, candidates: list[Candidate], target: NDArray[Any], n_classes: int
) -> tuple[Array, list[Array]]:
    """Losses (n_folds, n_candidates * S, P), and of linked solvers the held-out values, (S, P, n, O) each."""
    n_strengths = len(solver.strengths)
    losses = np.empty((len(candidates[0].inner), len(candidates) * n_strengths, len(target)))
    held_out: list[Array] = []
    for c, candidate in enumerate(candidates):
        values = np.empty(0)
        for f, part in enumerate(candidate.inner):
            out = solver.fit(part, target[:, part.rows], solver.strengths, n_classes)
            losses[f, c * n_strengths : (c + 1) * n_strengths] = solver.loss(out, target[:, part.held_out])
            if solver.linked:
                if not values.size:
                    values = np.empty((*out.shape[:2], target.shape[1], out.shape[3]))
                values[:, :, part.held_out] = out
        held_out.append(values)
    return losses, held_out


def strongest_of_the_good(losses: Array) -> NDArray[np.int64]:
    """Numbers of the chosen settings, (P,), from losses (n_folds, n_settings, P), the simplest first.

    Folds count alike, they hardly differ in size.
    """
    mean = losses.mean(axis=0)
    error = losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
    best = mean.argmin(axis=0)
    every = np.arange(losses.shape[2])
    good = mean <= mean[best, every] + TOLERANCE * error[best, every]
    chosen: NDArray[np.int64] = good.argmax(axis=0)
    return chosen
