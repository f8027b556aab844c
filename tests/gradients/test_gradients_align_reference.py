"""gradients/alignment: reference files are read in our order or refused; agreement and its null; warnings."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from bjepa.gradients.alignment import Reference, align, correlations, load_reference
from bjepa.gradients.alignment.parcels import other_network_orders, schaefer_positions
from bjepa.gradients.regions import Regions, named_regions, unnamed_regions
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
NAMES = [f"area {letter}" for letter in "bdacfegkhji"]  # 11, not sorted
SHA256 = "ab" * 32


@pytest.fixture
def values() -> Array:
    return np.random.default_rng(0).normal(size=(11, 3))


def write_h5(
    path: Path, values: Array, names: list[str], *, sha256: str = "", fc: Array | None = None
) -> Path:
    with h5py.File(path, "w") as file:
        file["gradients"] = values
        file.create_dataset("rois/name", data=names, dtype=h5py.string_dtype("utf-8"))
        file.attrs["atlas_sha256"] = sha256
        if fc is not None:
            file["fc_mean"] = fc
    return path


def ours(*, sha256: str | None = None) -> Regions:
    regions = named_regions(NAMES)
    return Regions(table=regions.table, atlas="areas", atlas_sha256=sha256)


def permutations_of(n_rois: int, *, n: int, seed: int = 0) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(n_rois) for _ in range(n)]


def test_names_in_another_order_are_put_into_ours(
    tmp_path: Path, values: Array, caplog: pytest.LogCaptureFixture
) -> None:
    fc = np.arange(121, dtype=np.float64).reshape(11, 11)
    order = np.random.default_rng(1).permutation(11)
    shuffled = [NAMES[i].upper() for i in order]
    path = write_h5(tmp_path / "g.h5", values[order], shuffled, fc=fc[np.ix_(order, order)])
    found = load_reference(path, ours())
    assert_array_equal(found.values, values)
    assert found.fc is not None
    assert_array_equal(found.fc, fc)
    assert "another order" in caplog.text
    lines = ["name\tgradient_1"] + [f"{NAMES[i]}\t{float(values[i, 0])!r}" for i in order]
    (tmp_path / "g.tsv").write_text("\n".join(lines))
    assert_array_equal(load_reference(tmp_path / "g.tsv", ours()).values[:, 0], values[:, 0])
    assert found.name == "g.h5"


def test_a_csv_is_what_the_h5_beside_it_says(tmp_path: Path, values: Array) -> None:
    order = np.roll(np.arange(11), 4)
    fc = np.eye(11) * np.arange(11)
    write_h5(tmp_path / "gradients.h5", values[order], [NAMES[i] for i in order], fc=fc[np.ix_(order, order)])
    np.savetxt(tmp_path / "gradients.csv", values[order], delimiter=",", fmt="%.17g")
    found = load_reference(tmp_path / "gradients.csv", ours())
    assert found.fc is not None
    assert_array_equal(found.values, values)
    assert_array_equal(found.fc, fc)
    np.savetxt(
        tmp_path / "gradients.csv", 2 * values, delimiter=",", fmt="%.17g"
    )  # not these numbers any more
    found = load_reference(tmp_path / "gradients.csv", ours())
    assert found.fc is None and found.atlas_sha256 is None
    assert_array_equal(found.values, 2 * values)


def test_regions_without_gradients_are_rows_that_do_not_decide(tmp_path: Path, values: Array) -> None:
    values[[2, 6]] = np.nan  # as --keep-largest leaves them
    write_h5(tmp_path / "gradients.h5", values, NAMES, fc=np.eye(11))
    np.savetxt(tmp_path / "gradients.csv", values, delimiter=",", fmt="%.17g")
    for name in ("gradients.h5", "gradients.csv"):
        found = load_reference(tmp_path / name, ours())
        assert_array_equal(np.flatnonzero(~found.rows), [2, 6])
        assert found.fc is not None
    ours_too = np.where(np.isfinite(values), values, 1.0) @ ortho_group(3, seed=1).rvs()
    aligned = align(ours_too, found)
    assert_allclose(aligned.gradients[found.rows], values[found.rows], atol=1e-12)
    assert np.isfinite(aligned.gradients).all()


def test_unnamed_rows_and_renamed_regions_of_the_same_atlas_are_taken_in_order(
    tmp_path: Path, values: Array
) -> None:
    unnamed = write_h5(tmp_path / "u.h5", values, unnamed_regions(11).names)
    assert_array_equal(load_reference(unnamed, ours()).values, values)
    other = [f"parcel {n}" for n in range(11)]
    renamed = write_h5(tmp_path / "r.h5", values, other, sha256=SHA256)
    assert_array_equal(load_reference(renamed, ours(sha256=SHA256)).values, values)


def test_other_regions_are_refused(tmp_path: Path, values: Array) -> None:
    path = write_h5(tmp_path / "g.h5", values, NAMES, sha256="cd" * 32)
    with pytest.raises(InputError, match=r"another atlas \(hash cdcdcdcdcdcd\)"):
        load_reference(path, ours(sha256=SHA256))
    path = write_h5(tmp_path / "g.h5", values[:-1], NAMES[:-1])
    with pytest.raises(InputError, match="10 regions, INPUT has 11"):
        load_reference(path, ours())
    path = write_h5(tmp_path / "g.h5", values, [*NAMES[:-1], "somewhere"])
    with pytest.raises(InputError, match="10 of 11 are found; row 11 is 'somewhere'"):
        load_reference(path, ours())
    path = write_h5(tmp_path / "g.h5", values, NAMES[::-1], sha256=SHA256)
    with pytest.raises(InputError, match="although both have the same atlas"):
        load_reference(path, ours(sha256=SHA256))


def test_agreement_is_told_before_and_after(values: Array) -> None:
    rng = np.random.default_rng(2)
    fixed = rng.normal(size=(40, 5)) * [3, 2.9, 2, 1, 0.5]
    moving = fixed @ ortho_group(5, seed=4).rvs() + 0.1 * rng.normal(size=(40, 5))
    fixed[[3, 17]] = np.nan
    moving[8] = np.nan
    found = align(moving, Reference(name="planted", values=fixed))
    rows = np.setdiff1d(np.arange(40), [3, 8, 17])
    assert_array_equal(np.flatnonzero(found.rows), rows)
    turn = orthogonal_procrustes(moving[rows], fixed[rows])[0]
    assert found.rotation is not None
    assert_allclose(found.rotation, turn, atol=1e-12)
    assert_allclose(found.gradients, moving @ turn, atol=1e-12)
    for k in range(5):
        assert found.r[k] == pytest.approx(np.corrcoef((moving @ turn)[rows, k], fixed[rows, k])[0, 1])
        assert found.r_before[k] == pytest.approx(abs(np.corrcoef(moving[rows, k], fixed[rows, k])[0, 1]))
    assert found.r[:4].min() > 0.97 > found.r_before.max() and found.r[:4].min() > found.r_null.max()
    assert found.n_components == 5 and found.method == "procrustes" and found.reference == "planted"
    assert_array_equal(found.reference_values, fixed)


def test_the_null_is_what_permuted_rows_reach() -> None:
    rng = np.random.default_rng(3)
    moving, fixed = rng.normal(size=(60, 9)), rng.normal(size=(60, 4))
    found = align(moving, Reference(name="unrelated", values=fixed), n_permutations=300, seed=7)
    r = np.empty((300, 4))
    for row, order in zip(r, permutations_of(60, n=300, seed=7), strict=True):
        other = fixed[order]
        turned = moving[:, :4] @ orthogonal_procrustes(moving[:, :4], other)[0]
        row[:] = [abs(np.corrcoef(turned[:, k], other[:, k])[0, 1]) for k in range(4)]
    assert_allclose(found.r_null, np.percentile(r, 95, axis=0), atol=1e-12)
    assert 0.25 < found.r_null.min() < found.r_null.max() < 0.55


def test_unrelated_rows_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    values = np.linalg.qr(np.random.default_rng(4).normal(size=(60, 8)))[0]
    align(values[:, :3], Reference(name="theirs.csv", values=values[:, 4:7]))  # orthogonal: r about 0
    assert "theirs.csv: after alignment" in caplog.text and "another order" in caplog.text
    caplog.clear()
    align(values[:, :3], Reference(name="theirs.csv", values=values[:, :3]))
    assert caplog.text == ""


def test_few_components_and_signs_only() -> None:
    rng = np.random.default_rng(5)
    moving = np.linalg.qr(rng.normal(size=(50, 6)))[0]
    two = Reference(name="two", values=moving[:, [4, 1]] + 0.001 * rng.normal(size=(50, 2)), n_components=6)
    found = align(moving, two)
    assert found.n_components == 6 and found.r.shape == (2,) and found.r.min() > 0.99
    assert align(moving, two, n_components=2).r.min() < 0.1  # of ours, 1 and 2 only
    signs = align(-moving, Reference(name="self", values=moving), method="sign")
    assert_array_equal(signs.gradients, moving)
    assert_allclose(signs.r, signs.r_before)
    fixed = rng.normal(size=(50, 5))
    found = align(moving, Reference(name="five", values=fixed), n_components=3, method="sign")
    assert found.r.shape == found.r_null.shape == (3,) and found.reference_values.shape == (50, 3)
    r = [correlations(moving[:, :3], fixed[order, :3]).diagonal() for order in permutations_of(50, n=200)]
    assert_allclose(found.r_null, np.percentile(np.abs(r), 95, axis=0), atol=1e-12)
    with pytest.raises(InputError, match="2 regions in common"):
        align(np.where(np.arange(50)[:, None] < 2, moving, np.nan), two)


@pytest.mark.parametrize("order", ["7networks", "17networks"])
def test_the_other_network_order_of_unnamed_parcels_is_warned_of(
    tmp_path: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = schaefer_table(order, 100)
    values = np.array(
        table[["x", "y", "z"]], dtype=np.float64
    )  # stand-ins for gradients: smooth and alike in both orders
    other = schaefer_table("17networks" if order == "7networks" else "7networks", 100)
    np.savetxt(tmp_path / "other.csv", other[["x", "y", "z"]].to_numpy(), delimiter=",")
    np.savetxt(tmp_path / "same.csv", values, delimiter=",")
    regions = Regions(table=table)
    align(values, load_reference(tmp_path / "same.csv", regions))
    assert caplog.text == ""
    found = align(values, load_reference(tmp_path / "other.csv", regions))
    assert (found.r > found.r_null)[:2].all()  # the null does not tell
    assert "7 networks for 17" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        align(values, load_reference(tmp_path / "other.csv", unnamed_regions(100)))
    assert "7 networks for 17" in caplog.text


def test_parcels_are_found_by_name_and_only_whole_atlases() -> None:
    table = schaefer_table("17networks", 200)
    found = schaefer_positions(Regions(table=table), "7networks")
    assert found is not None and found[0] == 200
    assert_array_equal(found[1] + 1, table["label_7networks"])
    assert schaefer_positions(Regions(table=table.iloc[1:]), "7networks") is None
    assert other_network_orders(Regions(table=table.sample(frac=1, random_state=0))) == []
    orders = other_network_orders(unnamed_regions(250))
    assert len(orders) == 2 and all((order[:50] == np.arange(50)).all() for order in orders)
    assert_array_equal(orders[0][50:] - 50, found[1])
    assert_array_equal(orders[1][orders[0]], np.arange(250))
    assert other_network_orders(unnamed_regions(111)) == []
