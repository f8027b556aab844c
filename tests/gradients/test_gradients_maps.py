"""quality/maps, map_nulls, map_tables: scipy and BrainSpace, calibration of the nulls, reading, refusals."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import pearsonr, spearmanr

from bjepa.gradients.quality.map_nulls import sphere_of, spun_rows, variogram_surrogates
from bjepa.gradients.quality.maps import correlate_maps, correlations_present, read_maps
from bjepa.gradients.regions import Regions, unnamed_regions
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.demo.atlas import demo_table
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
SCHAEFER = Regions(table=schaefer_table("7networks", 100))


def centres(regions: Regions) -> Array:
    return np.array(regions.table[["x", "y", "z"]], dtype=np.float64)


def smooth_maps(regions: Regions, n_maps: int, *, seed: int, length: float = 30.0) -> Array:
    """(n, R) random maps, exponentially autocorrelated (mm), the same left and right but for noise."""
    places = centres(regions)
    places[:, 0] = np.abs(places[:, 0])
    covariance = np.exp(-cdist(places, places) / length) + 0.05 * np.eye(len(places))
    return np.random.default_rng(seed).multivariate_normal(np.zeros(len(places)), covariance, size=n_maps)


def as_frame(maps: Array) -> pd.DataFrame:
    return pd.DataFrame({f"m{number}": one for number, one in enumerate(maps)})


# --- correlation --------------------------------------------------------------------------------------------


def test_r_and_spearman_are_scipys_over_regions_that_both_have() -> None:
    maps = smooth_maps(SCHAEFER, 3, seed=0)
    maps[1, [3, 40, 77]] = np.nan
    maps[2] = 1e3 * maps[2] ** 3 + 1e6
    gradients = smooth_maps(SCHAEFER, 2, seed=1).T.copy()
    gradients[[5, 40]] = np.nan
    found = correlate_maps(as_frame(maps), gradients, SCHAEFER, n_permutations=19).table
    assert len(found) == 6
    for row in found.itertuples():
        one, gradient = maps[int(row.map[1:])], gradients[:, row.component - 1]
        there = np.isfinite(one) & np.isfinite(gradient)
        assert_allclose(row.r, pearsonr(one[there], gradient[there])[0], atol=1e-12)
        assert_allclose(row.spearman, spearmanr(one[there], gradient[there])[0], atol=1e-12)
        assert row.n_regions == there.sum()
    assert list(found["n_regions"][::2]) == [98, 96, 98]
    assert_allclose(correlations_present(np.full((1, 100), 2.0), gradients), 0)


def test_fdr_is_benjamini_and_hochbergs() -> None:
    gradients = smooth_maps(SCHAEFER, 2, seed=1).T
    maps = np.vstack([smooth_maps(SCHAEFER, 3, seed=0), gradients[:, 1] + 0.3])
    table = correlate_maps(as_frame(maps), gradients, SCHAEFER, n_permutations=59).table
    p, n = table["p"].to_numpy(), len(table)
    order = np.argsort(p)
    stepped = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    assert_allclose(table["p_fdr"].to_numpy()[order], np.minimum(stepped, 1))


@pytest.mark.parametrize("null", ["spin", "variogram"])
def test_a_map_that_is_a_gradient_has_the_smallest_p(
    null: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    gradients = smooth_maps(SCHAEFER, 3, seed=5).T
    noise = 0.2 * np.random.default_rng(0).normal(size=100)
    maps = as_frame((noise - 3 * gradients[:, 1])[None])
    found = correlate_maps(maps, gradients, SCHAEFER, null=null, n_permutations=99)  # type: ignore[arg-type]
    second = found.table.iloc[1]
    assert second["r"] < -0.95
    assert second["p"] == 0.01
    assert (found.null, found.table["null"].unique().tolist()) == (null, [null])
    again = correlate_maps(maps, gradients, SCHAEFER, null=null, n_permutations=99)  # type: ignore[arg-type]
    assert again.table.equals(found.table)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


# --- calibration --------------------------------------------------------------------------------------------


def test_unrelated_smooth_maps_pass_the_usual_p_but_not_the_spin() -> None:
    gradients = smooth_maps(SCHAEFER, 3, seed=11).T
    maps = smooth_maps(SCHAEFER, 200, seed=12)
    usual = np.array([[pearsonr(one, gradient)[1] for gradient in gradients.T] for one in maps])
    p = correlate_maps(as_frame(maps), gradients, SCHAEFER, null="spin", n_permutations=199).table["p"]
    assert np.mean(usual < 0.05) > 0.25
    assert 0.02 < np.mean(p <= 0.05) < 0.1
    assert 0.4 < np.mean(p <= 0.5) < 0.6


def test_unrelated_smooth_maps_do_not_pass_the_variogram() -> None:
    gradients = smooth_maps(SCHAEFER, 3, seed=11).T
    maps = as_frame(smooth_maps(SCHAEFER, 30, seed=13))
    p = correlate_maps(maps, gradients, SCHAEFER, null="variogram", n_permutations=59).table["p"]
    assert np.mean(p <= 0.05) < 0.1
    assert 0.2 < np.mean(p <= 0.5) < 0.65  # measured 0.30 with 90 pairs; why is not known


# --- null models --------------------------------------------------------------------------------------------


def test_surrogates_are_brainspaces() -> None:
    from brainspace.null_models import SurrogateMaps

    values, places = smooth_maps(SCHAEFER, 1, seed=2)[0], centres(SCHAEFER)
    ours = variogram_surrogates(values, places, n_permutations=7, seed=3)
    mirrored = places * [1, 1, 1]
    mirrored[:, 0] = np.abs(mirrored[:, 0])
    theirs = SurrogateMaps(n_rep=7, random_state=3).fit(cdist(mirrored, mirrored))
    assert_allclose(ours, theirs.randomize(values - values.mean()), atol=1e-10)


def test_places_on_the_sphere_follow_the_names() -> None:
    sphere = sphere_of(SCHAEFER)
    assert sphere is not None
    left, right = sphere.rows
    hemisphere = np.array(SCHAEFER.table["hemisphere"])
    assert set(hemisphere[left]) == {"L"} and set(hemisphere[right]) == {"R"}
    for rows, points in zip(sphere.rows, sphere.centres, strict=True):
        assert_allclose(np.linalg.norm(points, axis=1), 1)
        assert np.corrcoef(points[:, 1], centres(SCHAEFER)[rows, 1])[0, 1] > 0.85  # back to front

    other = Regions(table=schaefer_table("17networks", 100))
    elsewhere = sphere_of(other)
    assert elsewhere is not None
    place = dict(zip(other.table["label_7networks"][elsewhere.rows[1]], elsewhere.centres[1], strict=True))
    for row, point in zip(right, sphere.centres[1], strict=True):
        assert_allclose(place[row + 1], point)  # the same parcel in the other order
    assert sphere_of(unnamed_regions(100)) is None


def test_spins_are_brainspaces_and_stay_in_their_hemisphere() -> None:
    from brainspace.null_models import SpinPermutations

    sphere = sphere_of(SCHAEFER)
    assert sphere is not None
    blocks = list(spun_rows(sphere, n_permutations=130, seed=4))
    assert [len(block) for block in blocks] == [100, 30]
    state = int(np.random.SeedSequence(4).generate_state(2)[1])
    spin = SpinPermutations(n_rep=30, random_state=state).fit(*sphere.centres)
    expected = np.hstack([sphere.rows[0][spin.spin_lh_], sphere.rows[1][spin.spin_rh_]])
    assert_array_equal(blocks[1], expected)
    n_left = len(sphere.rows[0])
    assert np.isin(blocks[0][:, :n_left], sphere.rows[0]).all()
    assert not np.array_equal(blocks[0][:30], blocks[1])


def test_auto_spins_maps_of_the_cortex_alone(caplog: pytest.LogCaptureFixture) -> None:
    regions = Regions(table=demo_table().astype(str))  # 50 of the subcortex, 400 of the cortex
    rng = np.random.default_rng(0)
    gradients, whole = rng.normal(size=(450, 2)), rng.normal(size=450)
    cortex = np.where(np.arange(450) >= 50, whole, np.nan)
    few = np.where(np.arange(450) >= 300, whole, np.nan)
    maps = pd.DataFrame({"whole": whole, "cortex": cortex, "few": few})
    found = correlate_maps(maps, gradients, regions, n_permutations=19)
    assert found.table["null"].tolist() == ["variogram"] * 2 + ["spin"] * 2 + ["variogram"] * 2
    assert found.null == "spin and variogram"
    with caplog.at_level(logging.WARNING):
        spun = correlate_maps(maps[["whole", "cortex"]], gradients, regions, null="spin", n_permutations=19)
    assert "50 regions of map 'whole' are not on the cortex" in caplog.text
    columns = ["r", "spearman", "p", "n_regions"]
    assert_array_equal(spun.table[columns][:2], spun.table[columns][2:])
    assert_array_equal(spun.table["p"][2:], found.table["p"][2:4])


# --- reading ------------------------------------------------------------------------------------------------


def test_reads_rows_in_order_or_by_name_or_by_index(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"thick": rng.normal(size=100), "d2": rng.integers(5, 99, size=100)})
    table.loc[7, "thick"] = np.nan
    order = rng.permutation(100)
    named = table.assign(name=SCHAEFER.names, network7="x", x=1.0).iloc[order]
    other_names = table.assign(name=SCHAEFER.table["name"].str.replace("7Networks_", "")).iloc[order]
    counted = table.assign(index=range(1, 101)).iloc[order]
    files: list[tuple[str, pd.DataFrame]] = [("a", table), ("b", named), ("c", other_names), ("d", counted)]
    for letter, one in files:
        for suffix, delimiter in ((".csv", ","), (".tsv.gz", "\t")):
            path = tmp_path / f"{letter}{suffix}"
            one.to_csv(path, sep=delimiter, index=False, na_rep="n/a", float_format="%.17g")
            read = read_maps(path, SCHAEFER)
            assert list(read.columns) == ["thick", "d2"]
            assert_array_equal(read.to_numpy(), table.to_numpy())
            assert read.attrs["file"] == path.name
    np.savetxt(tmp_path / "bare.csv", table, delimiter=",")
    assert_allclose(read_maps(tmp_path / "bare.csv", SCHAEFER)["map-2"], table["d2"])


def test_names_of_the_other_networks_and_absent_regions(tmp_path: Path) -> None:
    other = schaefer_table("17networks", 100)
    values = other["label_7networks"].astype(float)
    pd.DataFrame({"": other["name"], "label": values * 0 + 3, "v": values}).to_csv(
        tmp_path / "v.csv", index=False
    )
    assert_array_equal(read_maps(tmp_path / "v.csv", SCHAEFER)["v"], np.arange(1, 101))
    some = pd.DataFrame({"v": [5.0, 6.0], "name": [SCHAEFER.names[8], SCHAEFER.names[3]]})
    some.to_csv(tmp_path / "some.tsv", sep="\t", index=False)
    expected = np.full(100, np.nan)
    expected[[8, 3]] = 5, 6
    assert_array_equal(read_maps(tmp_path / "some.tsv", SCHAEFER)["v"], expected)


REFUSED = [
    ("v\n1\n2\n", "2 rows, there are 3 regions"),
    ("name,v\na,1\na,2\n", "has \\['a'\\] more than once"),
    ("name,v\na,1\nq,2\n", "1 names are not of these regions, for instance \\['q'\\]"),
    ("index,v\n1,1\n4,2\n", "index must be 1 to 3, got \\['4'\\]"),
    ("index,v\n1,1\n1,2\n", "more than once"),
    ("name,x,lobe\na,1,front\nb,2,back\nc,3,back\n", "no column of numbers"),
    ("v,w\n1,1\nhigh,2\n3,3\n", "column 'v': row 2 is no number: 'high'"),
    ("v,v\n1,1\n2,2\n3,3\n", "columns of the same name"),
    ("v,w\n1,1\n2,inf\n3,3\n", "'w': row 2 is infinite"),
    ("v,w\n1,1\n2,2,2\n3,3\n", "not a readable table"),
]


@pytest.mark.parametrize("text, says", REFUSED)
def test_refuses_tables(tmp_path: Path, text: str, says: str) -> None:
    regions = Regions(table=pd.DataFrame({"index": [1, 2, 3], "name": ["a", "b", "c"]}))
    (tmp_path / "maps.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_maps(tmp_path / "maps.csv", regions)


def test_refuses_files_and_says_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    regions = Regions(table=pd.DataFrame({"index": [1, 2, 3], "name": ["a", "b", "c"]}))
    with pytest.raises(InputError, match="must be one of"):
        read_maps(tmp_path / "maps.xlsx", regions)
    with pytest.raises(InputError, match="is not there"):
        read_maps(tmp_path / "maps.csv", regions)
    (tmp_path / "maps.csv").write_text("name,lobe,v\na,front,1\nb,,2\nc,back,\n")
    with caplog.at_level(logging.WARNING):
        assert_array_equal(read_maps(tmp_path / "maps.csv", regions)["v"], [1, 2, np.nan])
        assert "'lobe' has no numbers" in caplog.text
        read_maps(tmp_path / "maps.csv", unnamed_regions(3))
    assert "rows are taken in order" in caplog.text


def test_refuses_to_correlate() -> None:
    maps, gradients = as_frame(smooth_maps(SCHAEFER, 1, seed=0)), smooth_maps(SCHAEFER, 3, seed=1).T
    bare = unnamed_regions(100)
    cases = [
        (maps[:99], SCHAEFER, "auto", "maps have 99 rows"),
        (maps * 0 + 2, SCHAEFER, "auto", "'m0' has the same value"),
        (maps.where((maps.index < 9)[:, None]), SCHAEFER, "auto", "values in 9 regions"),
        (maps.where((maps.index < 30)[:, None]), SCHAEFER, "spin", "30 of 100 cortical regions; 50%"),
        (maps, SCHAEFER, "turn", "null must be one of"),
        (maps, bare, "spin", "needs places on the sphere"),
        (maps, bare, "auto", "needs the centres"),
    ]
    for given, regions, null, says in cases:
        with pytest.raises(InputError, match=says):
            correlate_maps(given, gradients, regions, null=null, n_permutations=19)  # type: ignore[arg-type]
    table = SCHAEFER.table.astype(str)
    table.loc[4, "y"] = "n/a"
    with pytest.raises(InputError, match="must be numbers"):
        correlate_maps(maps, gradients, Regions(table=table), null="variogram", n_permutations=19)
