"""gradients/quality/compare.py: planted differences, the real published table, files of other regions."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.stats import ortho_group

from bjepa.gradients.alignment import load_reference
from bjepa.gradients.alignment.hcp import hcp_connectivity
from bjepa.gradients.quality.compare import Comparison, compare_gradients
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions, unnamed_regions
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.demo.atlas import demo_table
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]


def compare(ours: Array, file: Path, regions: Regions) -> Comparison:
    return compare_gradients(ours, load_reference(file, regions))


def save(path: Path, values: Array) -> Path:
    np.savetxt(path, values, delimiter=",", fmt="%.17g")
    return path


def test_a_swap_and_a_turn_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=(41, 7)) * [4, 3, 2.9, 2, 1.5, 1, 0.5] + 0.3
    theirs = np.hstack([-ours[:, [1, 0]], ours[:, 2:5] @ ortho_group(3, seed=1).rvs()])  # 5 of them
    theirs += 0.05 * rng.normal(size=theirs.shape)
    found = compare(ours, save(tmp_path / "theirs.csv", theirs), unnamed_regions(41))
    table = found.table
    assert list(table.columns) == ["component", "r", "best_match", "r_best", "r_aligned", "r_null"]
    assert (found.file, found.n_components, found.n_regions) == ("theirs.csv", 5, 41)
    assert table["component"].tolist() == [1, 2, 3, 4, 5] and table["best_match"].tolist()[:2] == [2, 1]
    assert (table["r_best"][:2] > 0.99).all() and (table["r"][:2] < 0.5).all()
    turned = ours[:, :5] @ orthogonal_procrustes(ours[:, :5], theirs)[0]
    r = np.abs(np.corrcoef(ours[:, :5].T, theirs.T)[:5, 5:])
    assert_allclose(table["r_best"], r.max(axis=1))
    assert_array_equal(table["best_match"], r.argmax(axis=1) + 1)
    for k in range(5):
        assert table["r"][k] == pytest.approx(abs(np.corrcoef(ours[:, k], theirs[:, k])[0, 1]))
        assert table["r_aligned"][k] == pytest.approx(np.corrcoef(turned[:, k], theirs[:, k])[0, 1])
    assert (table["r_aligned"] > 0.99).all() and (table["r_null"] < 0.7).all()
    assert found.subspaces["n_components"].tolist() == [1, 2, 3, 5]
    assert_allclose(found.subspaces["cosine_min"][[1, 3]], 1, atol=0.01)
    for row, k in enumerate((1, 2, 3, 5)):
        first, second = ours[:, :k] - ours[:, :k].mean(axis=0), theirs[:, :k] - theirs[:, :k].mean(axis=0)
        cosines = np.cos(subspace_angles(first, second))
        assert found.subspaces["cosine_min"][row] == pytest.approx(cosines.min())
        assert found.subspaces["cosine_mean"][row] == pytest.approx(cosines.mean())


def test_rows_without_gradients_are_left_out_and_inputs_stay(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(30, 4))
    path = save(tmp_path / "g.csv", values)
    holed = values.copy()
    holed[[2, 9]] = np.nan
    holed.flags.writeable = False
    found = compare(holed, path, unnamed_regions(30))
    assert found.n_regions == 28
    assert_allclose(found.table["r_aligned"], 1)
    assert_array_equal(found.table["best_match"], [1, 2, 3, 4])


def test_another_atlas_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(30, 4))
    with pytest.raises(InputError, match="30 regions, INPUT has 29"):
        compare(values[1:], save(tmp_path / "g.csv", values), unnamed_regions(29))


def test_the_published_table_has_the_17_network_order(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cortex of HCP against the table of another cohort: its rows correspond in one order only."""
    published = np.loadtxt(shared / "reference/gradient_mapping_450.csv", delimiter=",")
    own = embed_connectivity(hcp_connectivity(400), GradientOptions())[1].gradients
    label = schaefer_table("17networks", 400)["label_7networks"].to_numpy() - 1
    values = np.full((450, 30), np.nan)
    values[50:] = own[label]
    regions = Regions(table=demo_table())
    caplog.clear()
    right = compare(values, shared / "reference/gradient_mapping_450.csv", regions)
    assert "order" not in caplog.text
    assert (right.table["r_aligned"][:8] > 0.92).all() and (right.table["r_null"] < 0.25).all()
    assert (right.subspaces["cosine_min"][1:3] > 0.92).all()
    as_7 = np.vstack([published[:50], published[50:][np.argsort(label)]])
    wrong = compare(values, save(tmp_path / "order_of_7.csv", as_7), regions)
    assert (wrong.table["r_aligned"][:3] < 0.75).all()
    assert "order_of_7.csv: r of the first components" in caplog.text
    assert "other published order" in wrong.doubt and not right.doubt
