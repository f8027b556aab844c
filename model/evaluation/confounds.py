"""Confounds (age, sex, site, motion): what a method must not predict from, regressed out inside each fold.

A linear model of the confounds is fitted on the development part and applied to both parts:

    regression       the *target* is replaced by what the confounds leave of it, for every method alike
    classification   the *inputs* are (features, connectomes): a class cannot be replaced by a residual.
                     Methods that read series have no such inputs and are not adjusted

Source: Snoek et al. 2019, "How to control for confounds in decoding analyses of neuroimaging data",
NeuroImage 184:741, doi:10.1016/j.neuroimage.2018.09.074: fitted on all participants it biases the scores.
What is left can still be predicted through effects of the confounds that are not linear.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort, finite_number
from bjepa.preproc.errors import InputError


def design_matrix(cohort: Cohort, names: Sequence[str]) -> NDArray[np.float64]:
    """(n, C): a column for each numeric confound; for text one for each value but the first.

    Raises InputError for a confound that is the same in everyone, or the target itself.
    """
    if cohort.target_name in names:
        raise InputError(
            f"--confounds names the target {cohort.target_name!r}: nothing would be left to predict.",
            hint="Leave it out.",
        )
    columns = []
    for name in names:
        values = cohort.columns[name]
        numbers = [finite_number(value) for value in values]
        if len(set(values)) == 1:
            raise InputError(
                f"The confound {name!r} is {values[0]!r} in all {len(values)} participants that are left.",
                hint="Leave it out of --confounds.",
            )
        if all(number is not None for number in numbers):
            columns.append(np.array(numbers, dtype=np.float64))
        else:
            columns += [np.array([v == level for v in values], float) for level in sorted(set(values))[1:]]
    return np.stack(columns, axis=1)


def regress_out(
    design: NDArray[np.float64],
    values: NDArray[np.floating[Any]],
    test_design: NDArray[np.float64],
    test_values: NDArray[np.floating[Any]],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a linear model of the confounds leaves of the values; fitted on the first pair alone.

    Shapes: design (n, C) and (m, C), values (n, …) and (m, …). The mean of `values` is kept. NaN stays NaN
    and is filled with the mean for the fit.
    """
    from sklearn.linear_model import LinearRegression

    flat = values.reshape(len(values), -1).astype(np.float64)  # (n, D)
    known = np.isfinite(flat)
    mean = np.where(known, flat, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    # scaled, so that years and one-hot columns weigh alike in the least squares
    centre, scale = design.mean(axis=0), design.std(axis=0)
    scale[scale == 0] = 1
    model = LinearRegression().fit((design - centre) / scale, np.where(known, flat, mean))

    def left(of: NDArray[np.floating[Any]], at: NDArray[np.float64]) -> NDArray[Any]:
        explained = model.predict((at - centre) / scale).reshape(len(of), -1) - mean
        rest: NDArray[Any] = (of.reshape(len(of), -1) - explained).reshape(of.shape).astype(of.dtype)
        return rest

    return left(values, design), left(test_values, test_design)
