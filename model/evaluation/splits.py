"""Splits: every participant gets one of k folds; split s tests on fold s and validates on the next one.

    test  = fold s,  val = fold s + 1 (mod k),  train = the other k - 2     (k = 5: 60 / 20 / 20 %)

Folds are grouped (a group is in one fold), stratified (by class; by quantile bins of a continuous target)
and seeded. They depend on the ids, the targets, the groups and the seed alone, so every method, and every
command, sees the same ones. A method that fits once chooses its settings on `val`; a cheap one takes each
fold other than the test fold for validation in turn (nested cross-validation) and then fits on all of them.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_json, write_text
from bjepa.preproc.participants import bare_id

MIN_SPLITS = 3  # one fold each to train, to validate and to test
MAX_BINS = 10
COLUMNS = ("split", "participant_id", "fold", "role")


@dataclass(frozen=True)
class Split:
    """Participants' numbers in one split."""

    number: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def development(self) -> NDArray[np.int64]:
        """All that is not test, in order."""
        return np.sort(np.concatenate([self.train, self.val]))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The fold of every participant; iterating gives the splits."""

    participant_id: list[str]
    fold: NDArray[np.int64]  # (n_participants,), 0 .. n_splits - 1
    n_splits: int

    def __iter__(self) -> Iterator[Split]:
        for s in range(self.n_splits):
            test, val = self.fold == s, self.fold == (s + 1) % self.n_splits
            yield Split(s, np.flatnonzero(~test & ~val), np.flatnonzero(val), np.flatnonzero(test))

    @property
    def sha256(self) -> str:
        """Hash of who is in which fold: equal hashes are equal splits."""
        pairs = zip(self.participant_id, self.fold.tolist(), strict=True)
        return sha256_of_json([self.n_splits, sorted(pairs)])


def make_splits(cohort: Cohort, *, n_splits: int = 5, seed: int = 0) -> Splits:
    """Grouped, stratified, seeded folds (scikit-learn's StratifiedGroupKFold, shuffled).

    Raises InputError for fewer than MIN_SPLITS folds, more folds than groups, or a class that cannot be in
    every fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(set(cohort.group))
    if not MIN_SPLITS <= n_splits <= n_groups:
        raise InputError(
            f"--n-splits must be from {MIN_SPLITS} (train, validation and test need a fold each) to "
            f"{n_groups} (the number of groups), got {n_splits}.",
            hint="" if n_groups >= MIN_SPLITS else "There are too few participants to evaluate anything.",
        )
    strata = cohort.target if cohort.task == "classification" else _quantile_bins(cohort.target, n_splits)
    if cohort.task == "classification":
        _refuse_rare_classes(cohort, n_splits)
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    fold = np.empty(len(strata), dtype=np.int64)
    with warnings.catch_warnings():  # a bin with fewer members than folds: stratified as well as can be
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, test) in enumerate(folds.split(np.zeros(len(strata)), strata, cohort.group)):
            fold[test] = number
    splits = Splits(participant_id=cohort.participant_id, fold=fold, n_splits=n_splits)
    _refuse_useless_folds(cohort, splits)
    return splits


def _quantile_bins(target: NDArray[np.float64], n_splits: int) -> NDArray[np.int64]:
    """Bin of each value, (n,): about equally filled, at least n_splits values each; equal values together."""
    n_bins = int(np.clip(len(target) // n_splits, 1, MAX_BINS))
    edges = np.quantile(target, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, target, side="right").astype(np.int64)


def _refuse_rare_classes(cohort: Cohort, n_splits: int) -> None:
    for number, name in enumerate(cohort.classes):
        members = {g for g, t in zip(cohort.group, cohort.target, strict=True) if t == number}
        if len(members) < n_splits:
            raise InputError(
                f"Class {name!r} of {cohort.target_name!r} has {len(members)} participants or groups; "
                f"{n_splits} folds need {n_splits} or more of each class.",
                hint=f"Use --n-splits {len(members)}, or leave the class out."
                if len(members) >= MIN_SPLITS
                else "Leave the class out (write n/a), join it with another, or use --task regression.",
            )


def _refuse_useless_folds(cohort: Cohort, splits: Splits) -> None:
    """Every fold must be able to score: all classes, or two different values."""
    for number in range(splits.n_splits):
        inside = set(cohort.target[splits.fold == number].tolist())
        needed = len(cohort.classes) if cohort.task == "classification" else 2
        if len(inside) < needed:
            raise InputError(
                f"Fold {number} of {splits.n_splits} holds {len(inside)} different values of "
                f"{cohort.target_name!r}; {needed} are needed to score it.",
                hint="Use fewer --n-splits; large groups make balanced folds impossible.",
            )


def write_splits(path: Path, splits: Splits, cohort: Cohort) -> None:
    """Write splits.tsv: one row per split and participant, with columns COLUMNS."""
    rows = ["\t".join(COLUMNS)]
    for split in splits:
        role = np.full(len(splits.fold), "train", dtype=object)
        role[split.val], role[split.test] = "val", "test"
        rows += [
            f"{split.number}\t{participant}\t{fold}\t{part}"
            for participant, fold, part in zip(cohort.written_id, splits.fold, role, strict=True)
        ]
    write_text(path, "\n".join(rows) + "\n")


def read_splits(path: Path, cohort: Cohort) -> Splits:
    """Read splits.tsv again and apply it to a cohort; who is in the file only is dropped.

    Raises InputError where a participant has no fold or two, where a role is not the one its fold gives, or
    where a group is in two folds.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        table["participant_id"] = [bare_id(p) for p in table["participant_id"]]
        table = table.astype({"split": int, "fold": int})[list(COLUMNS)]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a table of splits ({error}); the columns {', '.join(COLUMNS)} are needed.",
            hint="Give the splits.tsv of an earlier evaluation.",
        ) from error
    folds = table.groupby("participant_id")["fold"].agg(["min", "max"])
    if absent := [p for p in cohort.participant_id if p not in folds.index]:
        raise InputError(
            f"{path} has no fold for {len(absent)} participants: {', '.join(absent[:5])}.",
            hint="Give the splits of the same cohort, or let new ones be drawn.",
        )
    n_splits = int(table["fold"].max()) + 1
    after_test = (table["fold"] - table["split"]) % n_splits
    expected = np.where(after_test == 0, "test", np.where(after_test == 1, "val", "train"))
    if (folds["min"] != folds["max"]).any() or (table["role"] != expected).any() or n_splits < MIN_SPLITS:
        raise InputError(
            f"{path}: folds and roles do not fit together (a participant has one fold, 0 to k - 1; in split "
            "s the role is test in fold s, val in the next fold, train in the others; k is 3 or more).",
            hint="Give the splits.tsv of an earlier evaluation, unchanged.",
        )
    fold = folds.loc[cohort.participant_id, "min"].to_numpy(np.int64)
    splits = Splits(participant_id=cohort.participant_id, fold=fold, n_splits=n_splits)
    for group in set(cohort.group):
        if len(set(fold[[g == group for g in cohort.group]])) > 1:
            raise InputError(
                f"{path} has the group {group!r} in more than one fold.",
                hint="Draw splits with this --group.",
            )
    _refuse_useless_folds(cohort, splits)
    return splits
