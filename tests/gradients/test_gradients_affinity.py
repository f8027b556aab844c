"""gradients/affinity.py: an independent computation, BrainSpace, laws, the refusals."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bjepa.cli import _gradients_options as command
from bjepa.gradients.affinity import (
    KERNELS,
    Kernel,
    compute_affinity,
    keep_largest,
    ranks_above_zero,
    without_ties,
)
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
REFUSED = [
    ("cosine", 90, "not 90"),
    ("cosine", 0.99, "leaves nothing"),
    ("angle", 0.9, "one of"),
    ("cosine", -0.1, r"in \[0, 1\)"),
]


@pytest.fixture
def fc() -> Array:
    fc = np.random.default_rng(0).normal(size=(7, 11))  # regions x targets, no symmetry, both signs
    fc.flags.writeable = False  # writing into the input raises
    return fc


def test_agrees_with_scipy(fc: Array) -> None:
    kept = np.where(fc >= np.sort(fc, axis=1)[:, [-7]], fc, 0.0)  # 70 % of 11 = 7.7: 7, not 8
    cosine = np.minimum(1 - cdist(kept, kept, "cosine"), 1.0)
    angle = compute_affinity(fc, sparsity=0.3)
    assert_allclose(angle, 1 - np.arccos(cosine) / np.pi, atol=1e-7)
    assert (np.diag(angle) == 1).all()
    assert_allclose(compute_affinity(fc, kernel="cosine", sparsity=0.3), np.maximum(cosine, 0), atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.75, 0.9])
def test_equals_brainspace(fc: Array, kernel: Kernel, sparsity: float) -> None:
    from brainspace.gradient.kernels import compute_affinity as brainspace_affinity

    wide = np.hstack([fc, -2 * fc[::-1], fc[:, ::3]])  # (7, 26): int(26 * 0.1) = 2 are kept at 0.9
    wide[:, 25] = wide[:, 3] + 0.001  # the copies among the columns would be ties
    wide = without_ties(wide, sparsity=sparsity)
    theirs = brainspace_affinity(wide.copy(), kernel=kernel, sparsity=sparsity)
    assert_allclose(compute_affinity(wide, kernel=kernel, sparsity=sparsity), theirs, atol=3e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.75, 0.9, 0.95])
@pytest.mark.parametrize(
    "name",
    [
        "brainspace_main_group_schaefer_400_7Networks_mean_connectivity",
        "enigma_funcMatrix_with_sctx_schaefer_400",
    ],
)
def test_equals_brainspace_on_real_connectivity(
    shared: Path, name: str, kernel: Kernel, sparsity: float
) -> None:
    from brainspace.gradient.kernels import compute_affinity as brainspace_affinity

    fc = np.loadtxt(shared / f"data/group_fc/{name}.csv", delimiter=",")
    # 3 of 400 rows are cut between equal values (printed with few digits) at 0.5 and 0.75
    theirs = brainspace_affinity(without_ties(fc, sparsity=sparsity), kernel=kernel, sparsity=sparsity)
    assert np.abs(compute_affinity(fc, kernel=kernel, sparsity=sparsity) - theirs).max() < 3e-8


def test_ties_are_cut_after_the_first_columns(caplog: pytest.LogCaptureFixture) -> None:
    rows = np.array([[1, 3, 2, 2, 2, 0], [2, 0, 2, 5, 2, 2], [0, 0, 4, 0, 0, 0], [-3, -1, -1, -1, -1, -2.0]])
    kept, tied = keep_largest(rows, 3)
    expected = [[0, 3, 2, 2, 0, 0], [2, 0, 2, 5, 0, 0], [0, 0, 4, 0, 0, 0], [0, -1, -1, -1, 0, 0]]
    assert_allclose(kept, expected)
    assert tied.tolist() == [True, True, False, True]  # zeros that are kept change nothing
    compute_affinity(rows, kernel="cosine", sparsity=0.5)
    assert "in 3 of 4 rows the 3 largest values end among equal ones" in caplog.text
    caplog.clear()
    compute_affinity(rows[[2, 2]], kernel="cosine", sparsity=0.5)
    compute_affinity(without_ties(rows, sparsity=0.5), kernel="cosine", sparsity=0.5)
    assert not caplog.text


def test_without_ties_keeps_the_same_in_any_order_of_columns() -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(-4, 5, (9, 23)).astype(float)
    rows.flags.writeable = False
    untied = without_ties(rows, sparsity=0.7)
    assert_allclose(untied, rows, atol=1e-15)
    order = rng.permutation(23)
    kept, tied = keep_largest(np.ascontiguousarray(untied[:, order]), 6)
    assert not tied.any()
    assert_allclose(kept, keep_largest(rows, 6)[0][:, order], rtol=0)
    for row, kept_row in zip(
        rows, keep_largest(rows[:, order], 6)[0], strict=True
    ):  # same values, if not columns
        assert_allclose(np.sort(kept_row[kept_row != 0]), [v for v in np.sort(row)[-6:] if v != 0])


def test_ranks_of_sparse_rows_are_scipys() -> None:
    from scipy.stats import rankdata

    rows = np.array([[0, -2, 5, 0, 5, 1, 0], [3, 0, 0, -1, -1, 0, 0.5]])
    columns = np.array([[1, 2, 3, 4, 5], [0, 1, 3, 4, 6]])  # a zero among the kept
    ranks = ranks_above_zero(np.take_along_axis(rows, columns, axis=1), 7)
    expected = rankdata(rows, axis=1)
    expected -= expected[[0, 1], [0, 1]][:, None]  # of a zero
    assert_allclose(ranks, np.take_along_axis(expected, columns, axis=1))


def test_keeps_as_many_as_a_truncated_share() -> None:
    fc = np.random.default_rng(1).uniform(1, 2, (450, 450))
    cosine = compute_affinity(fc, kernel="cosine", sparsity=0.9)
    rows = np.sort(fc, axis=1)[:, -44:]  # 44, not 45
    n_kept = np.where(fc >= rows[:, :1], fc, 0.0)
    expected = n_kept @ n_kept.T / np.outer(np.linalg.norm(n_kept, axis=1), np.linalg.norm(n_kept, axis=1))
    assert_allclose(cosine, expected, atol=1e-12)


def test_law_a_rescaled_copy_is_the_same_region(fc: Array) -> None:
    doubled = compute_affinity(np.vstack([fc, 3 * fc]), sparsity=0.5)
    assert_allclose(doubled, np.tile(compute_affinity(fc, sparsity=0.5), (2, 2)), atol=1e-7)


def test_law_regions_in_another_order(fc: Array) -> None:
    order = np.array([3, 0, 6, 1, 5, 2, 4])  # not its own inverse
    assert_allclose(compute_affinity(fc[order]), compute_affinity(fc)[np.ix_(order, order)], atol=1e-12)


@pytest.mark.parametrize(("kernel", "sparsity", "says"), REFUSED)
def test_refuses(fc: Array, kernel: Kernel, sparsity: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        compute_affinity(fc, kernel=kernel, sparsity=sparsity)


def test_refuses_rows_without_anything(fc: Array) -> None:
    empty = np.vstack([fc, np.zeros(11)])
    with pytest.raises(InputError, match=r"1 rows are zero .* \[8\]"):
        compute_affinity(empty)
    with pytest.raises(InputError, match="1 rows are constant"):
        compute_affinity(empty + 1, kernel="pearson", sparsity=0)
    with pytest.raises(InputError, match="1 non-finite"):
        compute_affinity(np.where(fc == fc.max(), np.nan, fc))


def test_the_command_offers_the_same_kernels() -> None:
    assert command.KERNELS == KERNELS
