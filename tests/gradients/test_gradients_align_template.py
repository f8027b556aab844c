"""gradients/alignment/template.py: a planted template, the fixed point, BrainSpace's iteration, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from bjepa.gradients.alignment import procrustes_template
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


def turned_sets(noise: float, n_sets: int = 5) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(0)
    template = rng.normal(size=(23, 4)) * [3, 2, 1.9, 1]
    turns = ortho_group(4, seed=1).rvs(n_sets)
    return template, [template @ turn + noise * rng.normal(size=(23, 4)) for turn in turns]


def test_the_planted_template_is_found() -> None:
    template, sets = turned_sets(noise=0)
    found = procrustes_template(sets, reference=template + 0.1)
    turn = orthogonal_procrustes(found.values, template)[0]  # a template is free up to a common turn
    assert_allclose(found.values @ turn, template, atol=1e-10)
    for aligned in found.aligned:
        assert_allclose(aligned, found.values, atol=1e-10)
    assert_allclose(procrustes_template(sets).values, sets[0], atol=1e-10)  # starts from the first


def test_law_fixed_point() -> None:
    _, sets = turned_sets(noise=1.5)
    found = procrustes_template(sets)
    assert found.converged and found.n_iterations > 2 and found.change < 1e-10
    assert_allclose(found.values, np.mean(found.aligned, axis=0), atol=1e-12)
    again = [table @ orthogonal_procrustes(table, found.values)[0] for table in sets]
    assert_allclose(np.mean(again, axis=0), found.values, atol=1e-4)
    for table, rotation, aligned in zip(sets, found.rotations, found.aligned, strict=True):
        assert_allclose(table @ rotation, aligned)
        assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-12)
    spread = sum(((aligned - found.values) ** 2).sum() for aligned in found.aligned)
    first = sum(
        ((table @ orthogonal_procrustes(table, sets[0])[0] - found.values) ** 2).sum() for table in sets
    )
    assert spread < first


@pytest.mark.parametrize("with_reference", [False, True])
def test_equals_brainspace_step_by_step(with_reference: bool) -> None:
    from brainspace.gradient.alignment import procrustes_alignment

    template, sets = turned_sets(noise=1.5)
    reference = template if with_reference else None
    for n_iter in (1, 3):
        theirs, mean = procrustes_alignment(
            [table.copy() for table in sets], reference, n_iter=n_iter, tol=0, return_reference=True
        )
        ours = procrustes_template(sets, reference=reference, max_iter=n_iter, tol=0)
        assert_allclose(ours.values, mean, atol=1e-12)
        assert_allclose(ours.aligned, theirs, atol=1e-12)


def test_regions_may_be_missing_in_some() -> None:
    template, sets = turned_sets(noise=0)
    sets[1][3] = np.nan
    for table in sets:
        table[7] = np.nan
    found = procrustes_template(sets, reference=template)
    assert np.isnan(found.values[7]).all() and np.isnan(found.aligned[1][3]).all()
    assert_allclose(np.delete(found.values, 7, axis=0), np.delete(template, 7, axis=0), atol=1e-10)
    assert_array_equal(np.isnan(found.aligned[0]).any(axis=1), np.arange(23) == 7)


def test_tells_that_it_still_moves_and_refuses(caplog: pytest.LogCaptureFixture) -> None:
    _, sets = turned_sets(noise=1.5)
    found = procrustes_template(sets, max_iter=1)
    assert not found.converged and "still moves after 1 steps" in caplog.text
    with pytest.raises(InputError, match="one shape"):
        procrustes_template([sets[0], sets[1][:, :3]])
    with pytest.raises(InputError, match="max_iter of at least 1"):
        procrustes_template(sets, max_iter=0)
    with pytest.raises(InputError, match="one shape"):
        procrustes_template([])
