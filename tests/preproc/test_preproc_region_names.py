"""preproc/atlas/region_names.py: columns of foreign tables found by name, and not where a name misleads."""

import numpy as np
import pandas as pd
import pytest

from bjepa.preproc.atlas.published import (
    ORDERS,
    SCHAEFER_SIZES,
    TIAN_SCALES,
    schaefer_names,
    schaefer_table,
    tian_table,
)
from bjepa.preproc.atlas.region_names import region_numbers

RNG = np.random.default_rng(0)


def _atlas(n_parcels: int = 400, scale: int = 3) -> pd.DataFrame:
    return pd.concat([tian_table(scale), schaefer_table("17networks", n_parcels)], ignore_index=True)


def _4s(n_parcels: int) -> list[str]:
    """Labels as in XCP-D's 4S atlases: 7-network names without prefix in that order, then 56 others."""
    cortex = [name.removeprefix("7Networks_") for name in schaefer_names("7networks", n_parcels)["7networks"]]
    return [*cortex, "LH-Pu", "LH-GPe", "LH-SNc_PBP_VTA", "LH-Pulvinar", "Cerebellar_Region9"]


@pytest.mark.parametrize("n_parcels", SCHAEFER_SIZES)
@pytest.mark.parametrize("naming", [*ORDERS, *(f"{order} older than 0.14.3" for order in ORDERS)])
def test_every_known_naming_of_every_size_finds_every_parcel(n_parcels: int, naming: str) -> None:
    names = schaefer_names("17networks", n_parcels).get(naming)
    if names is None:
        assert n_parcels in (700, 900) and "older" in naming
        return
    shuffle = RNG.permutation(n_parcels)
    found = region_numbers([names[i] for i in shuffle], schaefer_table("17networks", n_parcels))
    np.testing.assert_array_equal(shuffle[found.numbers], np.arange(n_parcels))
    assert found.naming == f"schaefer-{n_parcels} {naming}" and not (found.absent or found.ambiguous)


def test_facts_of_the_published_4s_table() -> None:
    """Rows of atlas-4S156Parcels_dseg.tsv, read there: index, label, index and label of 17 networks."""
    found = region_numbers(_4s(100), schaefer_table("17networks", 100)).numbers
    for index, label, index_17, label_17 in (
        (1, "LH_Vis_1", 49, "17Networks_LH_DefaultC_PHC_1"),
        (2, "LH_Vis_2", 1, "17Networks_LH_VisCent_ExStr_1"),
        (99, "RH_Default_pCunPCC_1", 96, "17Networks_RH_DefaultC_Rsp_1"),
        (100, "RH_Default_pCunPCC_2", 91, "17Networks_RH_DefaultA_pCunPCC_1"),
    ):
        assert _4s(100)[index - 1] == label and found[index_17 - 1] == index - 1
        assert schaefer_table("17networks", 100)["name"][index_17 - 1] == label_17


def test_xcp_d_table_has_the_cortex_and_not_tian() -> None:
    found = region_numbers(_4s(400), _atlas())
    assert found.naming == "schaefer-400 7networks" and found.problem == ""
    assert found.absent == tian_table()["name"].tolist() and (found.numbers[50:] >= 0).all()
    label_7 = schaefer_table("17networks")["label_7networks"].to_numpy()
    np.testing.assert_array_equal(found.numbers[50:], label_7 - 1)


@pytest.mark.parametrize("n_parcels", [100, 300, 500, 1000])
def test_parcels_of_another_size_are_not_taken_for_ours(n_parcels: int) -> None:
    """All 100 names of Schaefer-100 are names of Schaefer-400, of other parcels."""
    assert set(schaefer_names("7networks", 100)["7networks"]) < set(
        schaefer_names("7networks", 400)["7networks"]
    )
    found = region_numbers(_4s(n_parcels), _atlas())
    assert (found.numbers < 0).all()
    assert found.problem == f"the names are those of schaefer-{n_parcels}, not of schaefer-400"


def test_names_of_two_releases_at_once_are_refused_with_examples() -> None:
    namings = schaefer_names("17networks", 400)
    mixed = [*namings["17networks"][:200], *namings["17networks older than 0.14.3"][200:]]
    found = region_numbers(mixed, _atlas())
    assert (found.numbers < 0).all() and "of no one known release" in found.problem
    both = [*namings["17networks"][:200], *namings["7networks"][:200]]
    assert "of no one known release" in region_numbers(both, _atlas()).problem


def test_too_few_names_to_tell_the_release_are_ambiguous_where_releases_differ() -> None:
    names = [f"17Networks_LH_VisCent_ExStr_{i}" for i in (1, 7, 8)]
    found = region_numbers(names, _atlas())
    # the older ExStr_7 is what is now Striate_1, the older ExStr_8 what is now ExStr_7, and so on
    assert found.ambiguous == ["17Networks_LH_VisCent_Striate_1", *names[1:]]
    assert found.numbers.max() == 0 and found.numbers[50] == 0  # the one that both releases agree on


def test_a_prefix_is_believed() -> None:
    wrong = [
        name.replace("7Networks_", "17Networks_") for name in schaefer_names("7networks", 400)["7networks"]
    ]
    found = region_numbers(wrong, _atlas())
    assert (found.numbers < 0).all() and "of no one known release" in found.problem


def test_missing_and_repeated_columns_are_told() -> None:
    names = [*tian_table()["name"], *schaefer_names("17networks", 400)["17networks"]]
    left_out, twice = names.pop(123), names[60]
    found = region_numbers(["time", *names, twice], _atlas())
    assert found.absent == [left_out] and found.ambiguous == [twice]
    assert (found.numbers < 0).sum() == 2 and found.numbers[0] == 1


def test_spelling_of_words_does_not_matter_but_words_do() -> None:
    names = [name.replace("-", "_").upper() for name in tian_table()["name"]]
    np.testing.assert_array_equal(region_numbers(names, tian_table()).numbers, np.arange(50))
    assert len(region_numbers(["HIP-head-m", "HIP-rh"], tian_table()).absent) == 50


def test_tian_scales_share_the_regions_that_share_a_name() -> None:
    found = region_numbers(tian_table(4)["name"], tian_table(3))
    assert found.absent == [f"{name}-{side}" for side in ("rh", "lh") for name in ("HIP-head-m", "THA-VAi")]
    places = tian_table(4)[["x", "y", "z"]].to_numpy()[found.numbers[found.numbers >= 0]]
    own = tian_table(3)[["x", "y", "z"]].to_numpy()[found.numbers >= 0]
    assert np.abs(places - own).max() <= 0.1 + 1e-9  # rounding


def test_any_atlas_by_exact_name() -> None:
    table = pd.DataFrame({"name": ["b", "a", "c"]})
    found = region_numbers(["a", "x", "b"], table)
    assert found.numbers.tolist() == [2, 0, -1] and found.absent == ["c"] and found.naming == ""


@pytest.mark.parametrize("n_parcels", SCHAEFER_SIZES)
def test_schaefer_tables_are_lawful(n_parcels: int) -> None:
    one, other = schaefer_table("17networks", n_parcels), schaefer_table("7networks", n_parcels)
    assert (one["index"] == np.arange(1, n_parcels + 1)).all() and one["name"].is_unique
    assert (other["index"] == np.arange(1, n_parcels + 1)).all() and other["name"].is_unique
    by_7 = other.set_index("label_17networks").loc[one["index"]]  # the same parcels
    np.testing.assert_array_equal(by_7[["x", "y", "z"]], one[["x", "y", "z"]])
    assert (by_7["network17"].to_numpy() == one["network17"]).all()
    for table in (one, other):
        left = table["hemisphere"] == "L"
        assert left[: left.sum()].all()  # left parcels come first in either order
        assert (table.loc[left, "x"] < 0).all() and (table.loc[~left, "x"] > 0).all()
    assert one["network7"].nunique() == 7 and one["network17"].nunique() == 17


@pytest.mark.parametrize(("scale", "n_regions"), list(zip(TIAN_SCALES, (16, 32, 50, 54), strict=True)))
def test_tian_tables_are_lawful(scale: int, n_regions: int) -> None:
    table = tian_table(scale)
    assert len(table) == n_regions and table["name"].is_unique
    assert (table["index"] == np.arange(1, n_regions + 1)).all()
    half = n_regions // 2
    assert (table["x"][:half] > 0).all() and (table["x"][half:] < 0).all()  # right first
    assert [n[:-2] for n in table["name"][:half]] == [n[:-2] for n in table["name"][half:]]
