"""gradients/align.py: a turn is undone, BrainSpace's Procrustes, laws, refusals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.stats import ortho_group

from bjepa.gradients.alignment import Method, align_gradients, principal_cosines
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


@pytest.fixture
def reference() -> Array:
    reference = np.random.default_rng(0).normal(size=(17, 4)) * [3, 2, 1.9, 1]
    reference.flags.writeable = False
    return reference


def test_undoes_a_rotation_with_reflection(reference: Array) -> None:
    turn = ortho_group(4, seed=2).rvs() @ np.diag([-1, 1, 1, 1])
    assert_allclose(align_gradients(reference @ turn, reference), reference, atol=1e-12)


def test_equals_brainspace(reference: Array) -> None:
    from brainspace.gradient.alignment import procrustes

    other = reference[::-1] + np.random.default_rng(1).normal(size=reference.shape)
    assert_allclose(align_gradients(other, reference), procrustes(other.copy(), reference.copy()), atol=1e-12)


def test_law_distances_between_regions_stay(reference: Array) -> None:
    other = np.random.default_rng(3).normal(size=(17, 6))
    aligned = align_gradients(other, reference)
    assert_allclose(aligned @ aligned.T, other @ other.T, atol=1e-12)
    assert_allclose(aligned[:, 4:], other[:, 4:])  # the reference has four


def test_only_the_leading_components_take_part(reference: Array) -> None:
    other = np.random.default_rng(4).normal(size=(17, 4))
    aligned = align_gradients(other, reference, n_components=2)
    assert_allclose(aligned[:, 2:], other[:, 2:])
    assert_allclose(aligned[:, :2], align_gradients(other[:, :2], reference[:, :2]))


def test_sign_turns_columns_to_correlate(reference: Array) -> None:
    flipped = reference * [1, -1, -1, 1] + 50
    assert_allclose(align_gradients(flipped, reference, method="sign"), flipped * [1, -1, -1, 1])


def test_principal_cosines_of_known_planes() -> None:
    basis = np.eye(5)
    tilted = np.stack([basis[0], np.cos(0.3) * basis[1] + np.sin(0.3) * basis[3]], axis=1)
    mixed = tilted @ [[2.0, 1.0], [-1.0, 5.0]]  # another basis of the same plane
    assert_allclose(principal_cosines(basis[:, :3], mixed), [1, np.cos(0.3)], atol=1e-12)


def test_refuses(reference: Array) -> None:
    with pytest.raises(InputError, match="16 regions, the reference 17"):
        align_gradients(reference[1:], reference)
    with pytest.raises(InputError, match="reference must be"):
        align_gradients(reference, np.where(reference == reference.max(), np.nan, reference))
    with pytest.raises(InputError, match="1 to 4"):
        align_gradients(reference, reference, n_components=5)
    wrong: Method = "procrutes"  # type: ignore[assignment]
    with pytest.raises(InputError, match="one of"):
        align_gradients(reference, reference, method=wrong)
