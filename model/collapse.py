"""Is a run collapsing? What the monitors of an epoch say, in plain words.

    complete           all tokens are alike: no spread (target_std), nothing else to be seen
    position           tokens tell their place and hardly the scan (target_scan_share)
    rank               tokens use a few directions only (effective_rank, of targets or of context tokens)
    features           most features of the targets do not vary (target_dead_share)
    predictions        the predictor answers with nearly one and the same token (prediction_std)
    context_unused     predictions are no better than the mean of other scans (prediction_r2_over_position)

`verdicts` speaks of the last epoch; `CollapseWatch` of each epoch while the run goes on, once a reason.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_SCAN_SHARE = 0.2  # below it, place explains more than four times what the scan does
LEAST_STD = 0.05  # of targets, whose features have variance 1 within a token; of predictions, of the targets'
LEAST_RANK_SHARE = 0.02  # of the features, and never fewer than LEAST_RANK directions
LEAST_RANK = 2.0
MOST_DEAD = 0.5
LASTING = ("context_unused", "predictions")  # told only if it lasts: at the beginning it is always so
LEAST_PATIENCE, PATIENCE_SHARE = 3, 0.1  # epochs in a row; share of the run's epochs

Row = Mapping[str, Any]


def least_rank(n_features: int) -> float:
    """Directions below which the rank is a worry."""
    return max(LEAST_RANK, LEAST_RANK_SHARE * n_features)


def signs(row: Row, *, n_features: int = 0) -> dict[str, str]:
    """Reason -> a sentence, for what the monitors of one epoch say is wrong; empty where nothing is.

    `n_features` is the width of the tokens, 0 where it is not known.
    """
    std = _number(row, "target_std")
    if std is not None and std < LEAST_STD:
        return {
            "complete": f"Complete collapse: the targets of all scans and places are nearly one and the same "
            f"token (target_std {std:.3g}; less than {LEAST_STD} is low), so any loss can be reached without "
            "looking. A lower optimizer.lr, a higher objective.ema_start or an objective.regularizer are "
            "what helps."
        }
    found = {}
    share = _number(row, "target_scan_share")
    if share is not None and share < LEAST_SCAN_SHARE:
        found["position"] = (
            f"Collapse by position: only {100 * share:.1f} % of the variance of the targets lies between "
            f"scans (target_scan_share; less than {100 * LEAST_SCAN_SHARE:.0f} % is low). The rest follows "
            "from region and time alone, so the loss can fall without anything being learnt about a scan. "
            "A larger model.patch_init_std makes tokens say more about the signal."
        )
    least = least_rank(n_features)
    for name, whose in (("effective_rank", "targets"), ("context_effective_rank", "context tokens")):
        rank = _number(row, name)
        if rank is not None and rank < least and "rank" not in found:
            of_features = f" of {n_features}" if n_features else ""
            found["rank"] = (
                f"Dimensional collapse: the {whose} use {rank:.1f}{of_features} directions ({name}; "
                f"fewer than {least:.3g} are few). objective.regularizer keeps directions apart."
            )
    dead = _number(row, "target_dead_share")
    if dead is not None and dead > MOST_DEAD:
        found["features"] = (
            f"Dead features: {100 * dead:.0f} % of the features of the targets hardly vary "
            "(target_dead_share: less than 1 % of the largest spread)."
        )
    predicted_std = _number(row, "prediction_std")
    if std is not None and predicted_std is not None and predicted_std < LEAST_STD * std:
        found["predictions"] = (
            "Constant predictions: the predictor answers with nearly the same token everywhere "
            f"(prediction_std {predicted_std:.3g}, target_std {std:.3g})."
        )
    r2 = _number(row, "prediction_r2_over_position")
    if r2 is not None and r2 <= 0:
        found["context_unused"] = (
            "Context unused: the predictions are no better than the other scans' mean target at the same "
            f"place (prediction_r2_over_position = {r2:.3f}): so far the context is not made use of."
        )
    return found


def verdicts(epochs: Sequence[Row], *, n_features: int = 0) -> list[str]:
    """Sentences for what the last epoch's monitors say is wrong."""
    if not epochs:
        return []
    last = epochs[-1]
    if _number(last, "target_scan_share") is None and _number(last, "target_std") is None:
        return ["Collapse could not be checked: the monitors compare at least two participants."]
    return list(signs(last, n_features=n_features).values())


class CollapseWatch:
    """Tells of each reason once in a run, in the epoch in which it is first seen (LASTING: has lasted).

    Parameters
    ----------
    epochs
        Rows of the epochs before, of earlier sessions too, with the `warnings` told in them.
    n_epochs
        Of the run.
    n_features
        Width of the tokens.
    """

    def __init__(self, epochs: Sequence[Row], *, n_epochs: int, n_features: int) -> None:
        self.n_features = n_features
        self.patience = max(LEAST_PATIENCE, round(PATIENCE_SHARE * n_epochs))
        self.told: set[str] = {reason for row in epochs for reason in row.get("warnings", {})}
        self.lasting: dict[str, int] = {}  # reason -> epochs in a row
        for row in epochs:
            self._count(row)

    def __call__(self, row: Row) -> dict[str, str]:
        """Reason -> sentence, of what is to be told after this epoch."""
        new = {
            reason: sentence
            for reason, sentence in self._count(row).items()
            if reason not in self.told and (reason not in LASTING or self.lasting[reason] >= self.patience)
        }
        self.told |= set(new)
        return new

    def _count(self, row: Row) -> dict[str, str]:
        found = signs(row, n_features=self.n_features)
        self.lasting = {reason: self.lasting.get(reason, 0) + 1 for reason in found}
        return found


def _number(row: Row, name: str) -> float | None:
    """None where it is missing, null or NaN."""
    value = row.get(name)
    return None if value is None or math.isnan(value) else float(value)
