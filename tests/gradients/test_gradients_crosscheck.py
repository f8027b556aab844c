"""quality/crosscheck.py: agreement on real matrices, disagreement where something is wrong, refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bjepa.gradients.affinity import Kernel, compute_affinity
from bjepa.gradients.embedding import APPROACHES, Approach, Embedding, embed
from bjepa.gradients.quality.crosscheck import SEEDS, check_possible, cross_check
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
MATRICES = [
    "brainspace_main_group_schaefer_400_7Networks_mean_connectivity.csv",
    "enigma_funcMatrix_with_sctx_schaefer_400.csv",
]
LISTS = {"abs_r", "abs_r_min_over_seeds", "eigenvalue_rel_diff", "residual", "residual_brainspace"}
NUMBERS = {"affinity_max_abs_diff", "subspace_cosine_min"}
ANGLE: Kernel = "normalized_angle"


@pytest.mark.parametrize("approach", APPROACHES)
@pytest.mark.parametrize("name", MATRICES)
def test_agrees_on_real_matrices(shared: Path, name: str, approach: Approach) -> None:
    fc = np.loadtxt(shared / "data/group_fc" / name, delimiter=",")
    fc.flags.writeable = False
    affinity = compute_affinity(fc)
    affinity.flags.writeable = False
    found = cross_check(fc, affinity, embed(affinity, approach=approach), kernel=ANGLE, sparsity=0.9)
    assert found["agrees"] is True
    assert set(found) == LISTS | NUMBERS | {"versions", "agrees"}
    assert all(len(found[key]) == 30 for key in LISTS)
    assert found["subspace_cosine_min"] >= 0.999
    assert found["affinity_max_abs_diff"] <= 1e-6
    assert max(found["residual"]) <= 1e-10
    assert set(found["versions"]) == {"bjepa", "brainspace", "numpy", "scipy"}
    assert list(SEEDS) == [0, 1, 2, 3, 4]
    if approach == "dm":  # its solver is not exact
        assert max(found["residual_brainspace"]) > 0.1
    else:
        assert max(found["residual_brainspace"]) < 1e-10
        assert min(found["abs_r_min_over_seeds"]) > 1 - 1e-9
        assert max(found["eigenvalue_rel_diff"]) < 1e-7


def connectivity(n_rois: int = 47) -> Array:
    """Of a path through regions that resemble their neighbours."""
    rng = np.random.default_rng(0)
    distance = np.abs(np.subtract.outer(np.arange(n_rois), np.arange(n_rois)))
    series = rng.normal(size=(120, n_rois)) @ np.exp(-((distance / 4) ** 2))
    fc: Array = np.asarray(np.corrcoef((series + 0.8 * rng.normal(size=series.shape)).T))
    np.fill_diagonal(fc, 0)
    return fc


def check(fc: Array, ours: Embedding | None = None, **other: Any) -> dict[str, Any]:
    affinity = other.pop("affinity", None)
    affinity = compute_affinity(fc, sparsity=0.6) if affinity is None else affinity
    ours = embed(affinity, n_components=5) if ours is None else ours
    return cross_check(fc, affinity, ours, **{"kernel": ANGLE, "sparsity": 0.6} | other)


def test_diffusion_time_and_scaling_do_not_matter() -> None:
    fc = connectivity()
    affinity = compute_affinity(fc, sparsity=0.6)
    plain, later = check(fc), check(fc, embed(affinity, n_components=5, diffusion_time=4, alpha=0.5))
    assert_allclose(later["abs_r"], plain["abs_r"], rtol=1e-9)
    assert_allclose(later["subspace_cosine_min"], plain["subspace_cosine_min"], rtol=1e-9)
    assert_allclose(later["residual_brainspace"], plain["residual_brainspace"], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_is_that_of_the_map(alpha: float) -> None:
    fc = connectivity()
    ours = embed(compute_affinity(fc, sparsity=0.6), n_components=5, alpha=alpha)
    same, other = check(fc, ours, alpha=alpha), check(fc, ours, alpha=1 - alpha)
    assert 2 * max(same["eigenvalue_rel_diff"]) < max(other["eigenvalue_rel_diff"])


@pytest.mark.parametrize("approach", APPROACHES)
def test_what_is_wrong_does_not_agree(approach: Approach) -> None:
    fc = connectivity()
    affinity = compute_affinity(fc, sparsity=0.6)
    ours = embed(affinity, approach=approach, n_components=5)
    assert check(fc, ours)["agrees"] is True
    turned = ours.gradients.copy()
    turned[:, 4] = np.random.default_rng(2).normal(size=47)
    assert check(fc, replace(ours, gradients=turned))["agrees"] is False
    assert check(fc, replace(ours, residuals=ours.residuals + 1e-9 * np.eye(5)[2]))["agrees"] is False
    assert check(fc, ours, affinity=affinity + 2e-6)["agrees"] is False


@pytest.mark.parametrize("approach", APPROACHES)
def test_of_the_largest_piece_alone(approach: Approach) -> None:
    fc = np.zeros((56, 56))
    fc[:47, :47] = connectivity()
    fc[47:, 47:] = 0.5 * connectivity(9) + 0.3
    affinity = compute_affinity(fc, kernel="cosine", sparsity=0.9)
    assert not affinity[:47, 47:].any()
    ours = embed(affinity, approach=approach, n_components=3, keep_largest=True)
    assert not ours.kept.all()
    found = cross_check(fc, affinity, ours, kernel="cosine", sparsity=0.9)
    assert found["agrees"] is True or approach == "dm"  # its solver is far off where row sums differ much
    assert found["subspace_cosine_min"] > 0.97
    assert min(found["abs_r"]) > 0.97


def test_equal_values_at_the_cut_are_no_disagreement() -> None:
    fc = np.round(connectivity(), 1)
    assert check(fc)["affinity_max_abs_diff"] < 1e-6


@pytest.mark.parametrize(("fc", "affinity"), [(None, np.eye(5)), (np.eye(5), csr_array(np.eye(5)))])
def test_refuses_what_brainspace_cannot_take(fc: Any, affinity: Any) -> None:
    ours = embed(compute_affinity(connectivity()), n_components=2)
    with pytest.raises(InputError, match="only the nearest neighbours"):
        cross_check(fc, affinity, ours, kernel=ANGLE, sparsity=0.9)


def test_refuses_more_components_than_brainspace_computes() -> None:
    check_possible(31, 29)
    with pytest.raises(InputError, match="at most 29 components of 31 regions, got n_components = 30"):
        check_possible(31, 30)
