"""A fold made ready for linear methods: all that does not depend on the targets, so it is computed once.

A linear method with an L2 penalty needs of its features only where the rows lie along the principal axes of
the training rows: the solution is a sum of training rows, so 100,000 edges become as many columns as there
are participants, and nothing is lost. Order of operations, fitted on the rows that train and on nobody else:
  1. unknown values (NaN) become the feature's mean (0 where it is unknown in everyone)
  2. each feature gets mean 0 and, with `standardise`, variance 1 (a constant one stays 0)
  3. rotation onto the principal axes: by the rows' inner products where there are more features than rows
This is done for the whole development part and, to choose settings, once without each inner fold.

n development rows, m test rows, D features, k principal axes (below n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.fold import Fold

Array = NDArray[np.float64]
Rows = Callable[[Array, Array], tuple[Array, Array]]  # training and other rows, changed before step 2
CONSTANT = 1e-10  # a feature whose standard deviation is below this share of its size does not vary
EMPTY_AXIS = 1e-10  # share of the largest variance; inner products know an axis to about n * 2e-16


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows that train and rows to predict, on the principal axes of the first."""

    train: Array  # (n, k), columns of mean 0, at right angles
    test: Array  # (m, k)
    squared: Array  # (k,) squared lengths of the columns of `train`
    scale: float  # unit of the penalty: the mean squared length of a training row
    rows: NDArray[np.int64]  # (n,) which rows of the development part train
    held_out: NDArray[np.int64]  # (m,) which ones are predicted; empty where they are test participants


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice of features: without each inner fold in turn, and with all of them."""

    inner: list[Part]
    final: Part
    n_features: int
    settings: dict[str, Any] = field(default_factory=dict)  # what makes this choice


def standardised(fold: Fold) -> list[Candidate]:
    """Features (n, D) of a fold, each with mean 0 and variance 1 over the rows that train."""
    return [candidate(fold, fold.inputs, fold.test_inputs)]


def candidate(
    fold: Fold,
    features: NDArray[np.floating[Any]],
    test_features: NDArray[np.floating[Any]],
    *,
    standardise: bool = True,
    rows: Rows | None = None,
    settings: dict[str, Any] | None = None,
) -> Candidate:
    """Features of the development part (n, D) and of the test part (m, D), in all parts."""
    everyone = np.arange(len(features))
    inner = []
    for number in np.unique(fold.inner_fold):
        out = fold.inner_fold == number
        train, held_out = np.flatnonzero(~out), np.flatnonzero(out)
        inner.append(_part(features[train], features[held_out], train, held_out, standardise, rows))
    nobody = np.empty(0, dtype=np.int64)
    final = _part(features, test_features, everyone, nobody, standardise, rows)
    return Candidate(inner=inner, final=final, n_features=int(features.shape[1]), settings=settings or {})


def _part(
    train: NDArray[np.floating[Any]],
    test: NDArray[np.floating[Any]],
    which: NDArray[np.int64],
    held_out: NDArray[np.int64],
    standardise: bool,
    rows: Rows | None,
) -> Part:
    x, x_test = _impute(train.astype(np.float64), test.astype(np.float64))
    if rows is not None:
        x, x_test = rows(x, x_test)
    mean = x.mean(axis=0)
    x, x_test = x - mean, x_test - mean
    if standardise:
        deviation = np.sqrt(np.einsum("nd,nd->d", x, x) / len(x))
        varies = deviation > CONSTANT * np.maximum(np.abs(mean), deviation)
        inverse = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
        x, x_test = x * inverse, x_test * inverse
        scale = float(x.shape[1])
    else:
        scale = max(float(np.vdot(x, x)) / len(x), float(np.finfo(np.float64).tiny))
    rotated, rotated_test, squared = _onto_principal_axes(x, x_test)
    return Part(train=rotated, test=rotated_test, squared=squared, scale=scale, rows=which, held_out=held_out)


def _impute(x: Array, x_test: Array) -> tuple[Array, Array]:
    known = np.isfinite(x)
    if known.all() and np.isfinite(x_test).all():
        return x, x_test
    mean = np.where(known, x, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, x, mean), np.where(np.isfinite(x_test), x_test, mean)


def _onto_principal_axes(x: Array, x_test: Array) -> tuple[Array, Array, Array]:
    """Rows (n, k) and (m, k) on the principal axes of the first, and the axes' squared lengths (k,)."""
    if x.shape[1] < len(x):
        squared, axes = np.linalg.eigh(x.T @ x)
        kept = squared > EMPTY_AXIS * squared[-1]
        return x @ axes[:, kept], x_test @ axes[:, kept], squared[kept]
    squared, directions = np.linalg.eigh(x @ x.T)
    kept = squared > EMPTY_AXIS * squared[-1]
    squared, directions = squared[kept], directions[:, kept]
    length = np.sqrt(squared)
    return directions * length, (x_test @ x.T) @ (directions / length), squared
