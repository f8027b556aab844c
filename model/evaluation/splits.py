"""Splits: who trains, who validates and who is tested, the same for every method.

    k-fold      split s tests on fold s, validates on the next one; with repeats, new folds each time
    holdout     each split draws five new folds: one is tested, one validates, three train (6 : 2 : 2)
    leave-out   split s tests on one value of a column (a site); the others are dealt into four folds

In each split every participant has a fold: one is the test part, one is `val`, the rest is `train`. Folds are
grouped (a group is in one fold), stratified (by class; by quantile bins of a continuous target) and seeded.
They depend on the ids, the targets, the groups and the seed alone, so every method, and every command, sees
the same ones. A method that fits once chooses its settings on `val`; a cheap one takes each fold other than
the test fold for validation in turn (nested cross-validation) and then fits on all of them.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_json, write_text
from bjepa.preproc.participants import bare_id

Scheme = Literal["k-fold", "holdout", "leave-out"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
MIN_SPLITS = 3  # one fold each to train, to validate and to test
HOLDOUT_FOLDS = 5  # one tested, one validates: 6 : 2 : 2
DEVELOPMENT_FOLDS = 4  # of those who are not left out
MAX_BINS = 10
COLUMNS = ("split", "participant_id", "fold", "role")
ROLES = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Participants' numbers in one split, and the fold of everyone."""

    number: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    fold: NDArray[np.int64]  # (n_participants,)

    @property
    def development(self) -> NDArray[np.int64]:
        """All that is not test, in order."""
        return np.sort(np.concatenate([self.train, self.val]))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Folds and roles in every split; iterating gives the splits."""

    participant_id: list[str]
    fold: NDArray[np.int64]  # (n_splits, n_participants), 0, 1, … in each split
    test_fold: NDArray[np.int64]  # (n_splits,) the fold that is tested
    val_fold: NDArray[np.int64]  # (n_splits,) the fold that validates
    description: str  # for the report: "5 folds"

    @property
    def n_splits(self) -> int:
        """How many."""
        return len(self.fold)

    def __iter__(self) -> Iterator[Split]:
        for s, fold in enumerate(self.fold):
            test, val = fold == self.test_fold[s], fold == self.val_fold[s]
            yield Split(
                number=s,
                train=np.flatnonzero(~test & ~val),
                val=np.flatnonzero(val),
                test=np.flatnonzero(test),
                fold=fold,
            )

    @property
    def sha256(self) -> str:
        """Hash of who is in which fold and which folds are tested: equal hashes are equal splits."""
        return sha256_of_json(
            [
                [int(test), int(val), sorted(zip(self.participant_id, fold.tolist(), strict=True))]
                for test, val, fold in zip(self.test_fold, self.val_fold, self.fold, strict=True)
            ]
        )


def make_splits(
    cohort: Cohort,
    *,
    n_splits: int = 5,
    seed: int = 0,
    scheme: Scheme = "k-fold",
    n_repeats: int = 1,
    leave_out: Sequence[str] | None = None,
) -> Splits:
    """Draw the splits.

    Parameters
    ----------
    n_splits
        k-fold: folds. holdout: splits, with seeds `seed`, `seed + 1`, … leave-out: not used.
    n_repeats
        k-fold alone: how often, with seeds `seed`, `seed + 1`, …
    leave_out : (n_participants,)
        leave-out alone: the value of each participant; each value is one split, in sorted order.

    Raises
    ------
    InputError
        Fewer than MIN_SPLITS folds, more folds than groups, a class that cannot be in every fold, a test part
        that cannot be scored, a group with several values of `leave_out`.
    """
    if scheme == "leave-out":
        if leave_out is None:
            raise ValueError("leave_out is needed with scheme='leave-out'.")
        return _leave_out(cohort, leave_out, seed)
    if scheme == "holdout":
        if n_splits < 2:
            raise InputError(
                f"--n-splits must be 2 or more with --scheme holdout, got {n_splits}.",
                hint="An interval needs several splits.",
            )
        everyone = np.arange(len(cohort.target))
        rows = [_deal(cohort, everyone, HOLDOUT_FOLDS, seed + s) for s in range(n_splits)]
        test, val = np.zeros(n_splits, dtype=np.int64), np.ones(n_splits, dtype=np.int64)
        description = f"{n_splits} random splits, 60 / 20 / 20 %"
    else:
        everyone = np.arange(len(cohort.target))
        rows = [
            row
            for repeat in range(n_repeats)
            for row in [_deal(cohort, everyone, n_splits, seed + repeat)] * n_splits
        ]
        test = np.tile(np.arange(n_splits), n_repeats)
        val = (test + 1) % n_splits
        description = f"{n_splits} folds" + (f", {n_repeats} times" if n_repeats > 1 else "")
    splits = Splits(
        participant_id=cohort.participant_id,
        fold=np.stack(rows),
        test_fold=test,
        val_fold=val,
        description=description,
    )
    _refuse_useless_folds(cohort, splits)
    return splits


def _leave_out(cohort: Cohort, values: Sequence[str], seed: int) -> Splits:
    """One split a value; those who stay are dealt into DEVELOPMENT_FOLDS folds, 1, 2, …; fold 0 is tested."""
    names = sorted(set(values))
    if len(names) < 2:
        raise InputError(
            f"--leave-out needs two values or more; all participants that are left have {names[0]!r}.",
            hint="Use folds (--scheme k-fold), or name another column.",
        )
    for group in set(cohort.group):
        own = sorted({v for v, g in zip(values, cohort.group, strict=True) if g == group})
        if len(own) > 1:
            raise InputError(
                f"The group {group!r} has several values of --leave-out: {', '.join(own)}.",
                hint="Whoever belongs together must be left out together: choose another --group.",
            )
    rows = []
    for name in names:
        left_out = np.array([value == name for value in values])
        row = np.zeros(len(values), dtype=np.int64)
        stay = np.flatnonzero(~left_out)
        row[stay] = 1 + _deal(cohort, stay, DEVELOPMENT_FOLDS, seed)
        rows.append(row)
    splits = Splits(
        participant_id=cohort.participant_id,
        fold=np.stack(rows),
        test_fold=np.zeros(len(names), dtype=np.int64),
        val_fold=np.ones(len(names), dtype=np.int64),
        description=f"one of {len(names)} left out at a time ({', '.join(names)})",
    )
    _refuse_useless_folds(cohort, splits, names)
    return splits


def _deal(cohort: Cohort, rows: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each of the participants `rows`, (n,): scikit-learn's StratifiedGroupKFold, shuffled."""
    from sklearn.model_selection import StratifiedGroupKFold

    target, group = cohort.target[rows], [cohort.group[row] for row in rows]
    n_groups = len(set(group))
    if not MIN_SPLITS <= n_folds <= n_groups:
        raise InputError(
            f"--n-splits must be from {MIN_SPLITS} (train, validation and test need a fold each) to "
            f"{n_groups} (the number of groups), got {n_folds}.",
            hint="" if n_groups >= MIN_SPLITS else "There are too few participants to evaluate anything.",
        )
    strata = target if cohort.task == "classification" else _quantile_bins(target, n_folds)
    if cohort.task == "classification":
        _refuse_rare_classes(cohort, target, group, n_folds)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(strata), dtype=np.int64)
    with warnings.catch_warnings():  # a bin with fewer members than folds: stratified as well as can be
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, test) in enumerate(folds.split(np.zeros(len(strata)), strata, group)):
            fold[test] = number
    return fold


def _quantile_bins(target: NDArray[np.float64], n_splits: int) -> NDArray[np.int64]:
    """Bin of each value, (n,): about equally filled, at least n_splits values each; equal values together."""
    n_bins = int(np.clip(len(target) // n_splits, 1, MAX_BINS))
    edges = np.quantile(target, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, target, side="right").astype(np.int64)


def _refuse_rare_classes(
    cohort: Cohort, target: NDArray[np.int64], group: Sequence[str], n_folds: int
) -> None:
    for number, name in enumerate(cohort.classes):
        members = {g for g, t in zip(group, target, strict=True) if t == number}
        if len(members) < n_folds:
            raise InputError(
                f"Class {name!r} of {cohort.target_name!r} has {len(members)} participants or groups; "
                f"{n_folds} folds need {n_folds} or more of each class.",
                hint=f"Use --n-splits {len(members)}, or leave the class out."
                if len(members) >= MIN_SPLITS
                else "Leave the class out (write n/a), join it with another, or use --task regression.",
            )


def _refuse_useless_folds(cohort: Cohort, splits: Splits, names: Sequence[str] | None = None) -> None:
    """Every test part must be able to score: all classes, or two different values."""
    needed = len(cohort.classes) if cohort.task == "classification" else 2
    for split in splits:
        inside = set(cohort.target[split.test].tolist())
        if len(inside) < needed:
            which = (
                f"Fold {split.number} of {splits.n_splits}" if names is None else repr(names[split.number])
            )
            raise InputError(
                f"{which} holds {len(inside)} different values of {cohort.target_name!r}; {needed} are "
                "needed to score it.",
                hint="Use fewer --n-splits; large groups make balanced folds impossible."
                if names is None
                else "Leave those participants out, or join the value with another.",
            )


def write_splits(path: Path, splits: Splits, cohort: Cohort) -> None:
    """Write splits.tsv: one row per split and participant, with columns COLUMNS."""
    rows = ["\t".join(COLUMNS)]
    for split in splits:
        role = np.full(len(split.fold), "train", dtype=object)
        role[split.val], role[split.test] = "val", "test"
        rows += [
            f"{split.number}\t{participant}\t{fold}\t{part}"
            for participant, fold, part in zip(cohort.written_id, split.fold, role, strict=True)
        ]
    write_text(path, "\n".join(rows) + "\n")


def read_splits(path: Path, cohort: Cohort) -> Splits:
    """Read splits.tsv again and apply it to a cohort; who is in the file only is dropped.

    Raises InputError where a participant is missing in a split, where a fold has two roles, where there is no
    fold for a role, or where a group is in two folds.
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
    rows, test, val = [], [], []
    for number, (split, part) in enumerate(table.groupby("split", sort=True)):
        role_folds = {role: set(part["fold"][part["role"] == role]) for role in ROLES}
        if (
            split != number
            or part["participant_id"].duplicated().any()
            or not set(part["role"]) <= set(ROLES)
            or len(role_folds["test"]) != 1
            or len(role_folds["val"]) != 1
            or not role_folds["train"]
            or sum(map(len, role_folds.values())) != part["fold"].nunique()
        ):
            raise InputError(
                f"{path}: folds and roles of split {split} do not fit together (a participant has one fold; "
                "one fold is test, one is val, the others are train).",
                hint="Give the splits.tsv of an earlier evaluation, unchanged.",
            )
        fold_of = dict(zip(part["participant_id"], part["fold"], strict=True))
        if absent := [p for p in cohort.participant_id if p not in fold_of]:
            raise InputError(
                f"{path} has no fold for {len(absent)} participants: {', '.join(absent[:5])}.",
                hint="Give the splits of the same cohort, or let new ones be drawn.",
            )
        rows.append(np.array([fold_of[p] for p in cohort.participant_id], dtype=np.int64))
        test.append(min(role_folds["test"]))
        val.append(min(role_folds["val"]))
    if len(rows) < 2:
        raise InputError(f"{path} holds {len(rows)} splits; two or more are needed.")
    splits = Splits(
        participant_id=cohort.participant_id,
        fold=np.stack(rows),
        test_fold=np.array(test),
        val_fold=np.array(val),
        description=f"{len(rows)} splits of {path.name}",
    )
    _refuse_split_groups(path, cohort, splits)
    _refuse_useless_folds(cohort, splits)
    return splits


def _refuse_split_groups(path: Path, cohort: Cohort, splits: Splits) -> None:
    group = np.array(cohort.group)
    for name in sorted(set(cohort.group)):
        if (np.ptp(splits.fold[:, group == name], axis=1) > 0).any():
            raise InputError(
                f"{path} has the group {name!r} in more than one fold.",
                hint="Draw splits with this --group.",
            )
