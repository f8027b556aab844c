"""quality/: halves, agreement, stability, structures. numpy and scipy written out, laws, refusals."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.gradients.alignment import principal_cosines
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.connectivity.measure import Measure, ParticipantMap, mean_connectivity
from bjepa.gradients.quality.halves import HalfMeans, draw_halves, splits_at_once
from bjepa.gradients.quality.stability import Stability, split_half
from bjepa.gradients.quality.structures import cortex_against_subcortex
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions
from bjepa.gradients.scans import ArrayScans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
N_ROIS, N_CORTEX = 26, 17
PEOPLE = ["c", "a", "a", "e", "b", "d", "d", "d", "g"]  # 6 participants, 9 scans
OPTIONS = GradientOptions(n_components=5, sparsity=0.5)
TABLE = pd.DataFrame(
    {
        "index": [str(n + 1) for n in range(N_ROIS)],
        "name": [f"r{n}" for n in range(N_ROIS)],
        "structure": ["subcortex"] * (N_ROIS - N_CORTEX) + ["cortex"] * N_CORTEX,
    }
)
REGIONS = Regions(table=TABLE)


def cohort(people: list[str], *, noise: float | Array = 3.0, n_frames: int = 60, seed: int = 0) -> ArrayScans:
    """Scans of one and the same low-rank organisation; `noise` may differ from region to region."""
    rng = np.random.default_rng(seed)
    organisation = rng.normal(size=(4, N_ROIS)) * np.array([[3], [2], [1.5], [1]])
    series = [
        rng.normal(size=(n_frames + 3 * n, 4)) @ organisation
        + noise * rng.normal(size=(n_frames + 3 * n, N_ROIS))
        for n in range(len(people))
    ]
    scans = ArrayScans(series)
    scans.entities["participant_id"] = people
    return scans


def full_gradients(scans: ArrayScans, options: GradientOptions = OPTIONS) -> Array:
    return embed_connectivity(mean_connectivity(scans, Measure()), options)[1].gradients


# --- halves -------------------------------------------------------------------------------------------------


def test_halves_are_different_and_of_the_right_size() -> None:
    for n_people, size in ((7, 3), (12, 6)):
        halves = draw_halves(n_people, 30, seed=1)
        assert halves.shape == (30, n_people)
        assert_array_equal(np.minimum(halves.sum(axis=1), n_people - halves.sum(axis=1)), size)
        sides = {frozenset((half.tobytes(), (~half).tobytes())) for half in halves}
        assert len(sides) == 30
        assert_array_equal(halves, draw_halves(n_people, 30, seed=1))
        assert (halves != draw_halves(n_people, 30, seed=2)).any()
    assert len(draw_halves(4, 100, seed=0)) == 3
    assert len({h.tobytes() for h in np.vstack([draw_halves(4, 9, seed=0), ~draw_halves(4, 9, seed=0)])}) == 6
    assert len(draw_halves(5, 100, seed=0)) == 10


@pytest.mark.parametrize("missing", [False, True])
def test_means_of_halves_are_numpys(missing: bool) -> None:
    rng, n_people, n_rois = np.random.default_rng(3), 70, 5
    maps, weights = rng.normal(size=(n_people, n_rois, n_rois)), np.ones((n_people, n_rois, n_rois))
    maps += maps.transpose(0, 2, 1)
    weights *= rng.integers(1, 4, size=(n_people, 1, 1))
    if missing:
        for person in range(3, n_people):  # regions 2 and 5 are together in one scan of the first three only
            weights[person, 1, 4] = weights[person, 4, 1] = 0
        weights[:3, 1, 4] = weights[:3, 4, 1] = 1
    halves = draw_halves(n_people, 40, seed=0)
    halves[7, :3], halves[8, :3] = False, True
    means = HalfMeans(halves, n_rois)
    for person in range(n_people):
        means.add(ParticipantMap(str(person), [], maps[person] * weights[person], weights[person]))
    for split, half in enumerate(halves):
        for found, members in zip(means.means(split), (half, ~half), strict=True):
            total, weight = (maps[members] * weights[members]).sum(axis=0), weights[members].sum(axis=0)
            expected = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
            assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert missing == bool(np.isnan(means.means(7)[0]).any() and np.isnan(means.means(8)[1]).any())


def test_splits_within_memory() -> None:
    assert splits_at_once(100, 450, max_memory_gb=1) == 100
    assert splits_at_once(100, 450, max_memory_gb=0.1) == int(0.8e8 // (16 * 450 * 451 // 2))
    assert splits_at_once(100, 4000, max_memory_gb=0.01) == 1


# --- split_half ---------------------------------------------------------------------------------------------


def test_a_split_written_out() -> None:
    from scipy.linalg import orthogonal_procrustes
    from scipy.stats import pearsonr

    scans = cohort(PEOPLE)
    full = full_gradients(scans)
    found = split_half(scans, Measure(), full, OPTIONS, regions=REGIONS, n_splits=4, seed=5, n_position=2)
    half = draw_halves(6, 4, seed=5)[2]
    ids = list(dict.fromkeys(PEOPLE))
    sides = []
    for members in (half, ~half):
        own = {name for name, inside in zip(ids, members, strict=True) if inside}
        fc = functional_connectivity([s for s, name in zip(scans.arrays, PEOPLE, strict=True) if name in own])
        sides.append(embed_connectivity(fc, OPTIONS)[1].gradients)
    turned = [side @ orthogonal_procrustes(side, full)[0] for side in sides]
    expected = [pearsonr(turned[0][:, k], turned[1][:, k])[0] for k in range(5)]
    assert_allclose(found.r_splits[2], expected, atol=1e-9)
    centred = full[:, :2] - full[:, :2].mean(axis=0)
    moved = np.sqrt(((turned[0] - turned[1])[:, :2] ** 2).sum(axis=1) / (centred**2).sum(axis=1).mean())
    assert_allclose(found.displacement_splits[2], moved, atol=1e-9)
    assert found.n_participants == 6

    table = found.table.set_index(["structure", "component"])
    assert_allclose(table.loc[("all", 3), "r"], np.median(found.r_splits[:, 2]))
    assert_allclose(table.loc[("all", 3), "r_high"], np.percentile(found.r_splits[:, 2], 97.5))
    assert table.loc[("cortex", 1), "n_regions"] == N_CORTEX
    assert_allclose(found.regions["displacement"], np.median(found.displacement_splits, axis=0))
    assert list(found.subspaces["n_components"]) == [1, 2, 3, 5]


def test_sign_alone_and_subspaces_of_a_single_split() -> None:
    scans = cohort(PEOPLE)
    full = full_gradients(scans)
    one = split_half(scans, Measure(), full, OPTIONS, regions=REGIONS, n_splits=1, seed=2)
    half = draw_halves(6, 1, seed=2)[0]
    ids = np.array(list(dict.fromkeys(PEOPLE)))
    sides = []
    for members in (half, ~half):
        rows = np.flatnonzero(np.isin(PEOPLE, ids[members]))
        sides.append(full_gradients(ArrayScans([scans.arrays[row] for row in rows])))
    a, b = sides
    r = np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(5)])
    cortex = np.array(TABLE["structure"]) == "cortex"
    r_cortex = np.array([np.corrcoef(a[cortex, k], b[cortex, k])[0, 1] for k in range(5)])
    table = one.table.set_index("structure")
    assert_allclose(table.loc["all", "r_unaligned"], np.abs(r), atol=1e-9)
    assert_allclose(table.loc["cortex", "r_unaligned"], np.sign(r) * r_cortex, atol=1e-9)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    assert_allclose(one.subspaces["cosine_min"][2], principal_cosines(a[:, :3], b[:, :3]).min(), atol=1e-9)


def test_numbers_depend_neither_on_threads_nor_on_passes() -> None:
    scans = cohort(PEOPLE)
    full = full_gradients(scans)
    arguments = {"regions": REGIONS, "n_splits": 9, "seed": 0}
    one = split_half(scans, Measure(), full, OPTIONS, **arguments)  # type: ignore[arg-type]
    two = split_half(scans, Measure(), full, OPTIONS, n_jobs=2, **arguments)  # type: ignore[arg-type]
    little = split_half(scans, Measure(), full, OPTIONS, max_memory_gb=3e-5, **arguments)  # type: ignore[arg-type]
    assert_array_equal(one.r_splits, two.r_splits)
    assert_array_equal(one.displacement_splits, two.displacement_splits)
    assert one.table.equals(two.table)
    assert_allclose(little.r_splits, one.r_splits, atol=1e-9)
    assert_allclose(little.table["r_null"], one.table["r_null"], atol=1e-9)


def test_law_the_same_data_in_both_halves_agree_fully() -> None:
    scans = cohort(["a"])
    copies = ArrayScans(scans.arrays * 4)
    copies.entities["participant_id"] = ["a", "b", "c", "d"]
    found = split_half(copies, Measure(), full_gradients(scans), OPTIONS, regions=REGIONS)
    assert found.n_splits == 3
    assert_allclose(found.table["r"], 1, atol=1e-9)
    assert_allclose(found.regions["displacement"], 0, atol=1e-9)
    assert_allclose(found.subspaces["cosine_low"], 1, atol=1e-9)


def test_organisation_passes_its_null_and_noise_does_not() -> None:
    people = [f"p{n}" for n in range(12)]
    rows = {}
    for noise in (1.0, 100.0):
        scans = cohort(people, noise=noise, n_frames=40)
        found = split_half(scans, Measure(), full_gradients(scans), OPTIONS, regions=REGIONS, n_splits=20)
        rows[noise] = found.table[found.table["structure"] == "all"]
    assert (rows[1.0]["r"][:3] > 0.9).all()
    assert (rows[1.0]["r"] > rows[1.0]["r_null"])[:3].all()
    assert (rows[100.0]["r"] < rows[100.0]["r_null"] + 0.1).all()
    assert (rows[100.0]["r_null"] > 0.2).all()


def test_regions_that_are_noisy_are_displaced() -> None:
    noise = np.where(np.array(TABLE["structure"]) == "subcortex", 6.0, 1.0)
    scans = cohort([f"p{n}" for n in range(10)], noise=noise)
    found = split_half(scans, Measure(), full_gradients(scans), OPTIONS, regions=REGIONS, n_splits=15)
    asked = cortex_against_subcortex(found, n_permutations=499)
    assert asked is not None
    assert asked["ratio"] > 1.5
    assert asked["ratio_low"] <= asked["ratio"] <= asked["ratio_high"] * 1.2
    assert asked["p"] < 0.02
    assert (asked["n_cortex"], asked["n_subcortex"]) == (N_CORTEX, N_ROIS - N_CORTEX)


def test_regions_without_gradients_have_no_place() -> None:
    scans = cohort(PEOPLE)
    full = full_gradients(scans)
    full[4] = np.nan
    found = split_half(scans, Measure(), full, OPTIONS, regions=REGIONS, n_splits=3)
    assert_array_equal(np.isnan(found.regions["displacement"]), np.arange(N_ROIS) == 4)
    assert list(found.table["n_regions"].unique()) == [N_ROIS - 1, N_CORTEX, N_ROIS - N_CORTEX - 1]


# --- cortex and subcortex -----------------------------------------------------------------------------------


def test_the_ratio_is_tested_as_scipy_does() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(0)
    moved = rng.gamma(2, size=N_ROIS) * np.where(np.array(TABLE["structure"]) == "subcortex", 1.5, 1.0)
    stability = Stability(
        n_splits=1,
        n_failed=0,
        n_participants=4,
        seed=0,
        table=pd.DataFrame(),
        subspaces=pd.DataFrame(),
        regions=TABLE.assign(displacement=moved),
        r_splits=np.zeros((1, 5)),
        displacement_splits=moved[None],
    )
    groups = moved[N_ROIS - N_CORTEX :], moved[: N_ROIS - N_CORTEX]

    def distance(first: Array, second: Array) -> float:
        return float(np.abs(np.log(np.median(second) / np.median(first))))

    expected = permutation_test(groups, distance, n_resamples=4999, alternative="greater", rng=1)
    asked = cortex_against_subcortex(stability)
    assert asked is not None
    assert_allclose(asked["ratio"], np.median(groups[1]) / np.median(groups[0]))
    assert_allclose(asked["p"], expected.pvalue, atol=0.02)
    only_cortex = stability.regions.assign(structure="cortex")
    assert cortex_against_subcortex(replace(stability, regions=only_cortex)) is None


# --- refusals -----------------------------------------------------------------------------------------------


def test_refuses_what_cannot_be_split() -> None:
    full = np.random.default_rng(0).normal(size=(N_ROIS, 5))
    with pytest.raises(InputError, match=r"1 of 9 scans do not say whose they are, as scan 4\."):
        split_half(cohort([*PEOPLE[:3], "", *PEOPLE[4:]]), Measure(), full, OPTIONS, regions=REGIONS)
    with pytest.raises(InputError, match=r"4 participants or more, got 3 \(a, b, c\)"):
        split_half(cohort(["a", "b", "b", "c"]), Measure(), full, OPTIONS, regions=REGIONS)


def test_splits_without_an_edge_are_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    people = [f"p{n}" for n in range(8)]

    def lacking(n_lacking: int) -> ArrayScans:
        scans = cohort(people)
        for series in scans.arrays[:n_lacking]:
            series[:, 3] = np.nan
        return scans

    scans = lacking(5)
    with caplog.at_level(logging.WARNING):
        found = split_half(scans, Measure(), full_gradients(scans), OPTIONS, regions=REGIONS, n_splits=35)
    # 5 of the 35 splits put all three that have the region into one half
    assert (found.n_splits, found.n_failed) == (30, 5)
    assert "5 of 35 splits are left out" in caplog.text
    assert "no scan has region 4 (r3)" in caplog.text
    scans = lacking(7)
    with pytest.raises(InputError, match="in 35 of 35 splits a half has no gradients"):
        split_half(scans, Measure(), full_gradients(scans), OPTIONS, regions=REGIONS, n_splits=35)
