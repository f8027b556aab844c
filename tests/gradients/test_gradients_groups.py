"""gradients/groups.py, present.py: an independent computation, laws, regions that lack, a second run."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from bjepa.gradients.atlas_io import load_gradients
from bjepa.gradients.connectivity.measure import Measure
from bjepa.gradients.groups import Alignment, Groups, group_gradients, remove_groups, write_groups
from bjepa.gradients.present import complete_regions, embed_present
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions, named_regions
from bjepa.gradients.scans import ArrayScans
from bjepa.preproc.errors import InputError

R, C = 15, 3
OPTIONS = GradientOptions(n_components=C, sparsity=0.4)
PEOPLE = ["a", "b", "c", "d", "e", "a", "c"]
LABELS = ["x", "y", "x", "y", "", "x", "x"]  # a and c were scanned twice; e belongs to none
REGIONS = Regions(table=named_regions([f"n{n}" for n in range(R)]).table, atlas="line", atlas_sha256="ab")

Array = NDArray[np.float64]


def study(*, missing: tuple[int, ...] = (), of: str = "") -> ArrayScans:
    """Scans of regions on a line; those of the participants in `of` miss regions."""
    rng = np.random.default_rng(5)
    place = np.linspace(0, 3, R)
    mixing = np.stack([np.sin(k * place + k) / k for k in range(1, 6)])  # (5, R)
    arrays = []
    for number, person in enumerate(PEOPLE):
        series = rng.normal(size=(60 + 7 * number, 5)) @ mixing + 0.3 * rng.normal(size=(60 + 7 * number, R))
        series[:, list(missing) if person in of else []] = np.nan
        arrays.append(series)
    scans = ArrayScans(arrays)
    scans.entities["participant_id"] = list(PEOPLE)
    return scans


def template() -> Array:
    fc = np.mean([np.arctanh(np.corrcoef(a.T) - np.eye(R)) for a in study().arrays], axis=0)
    return embed_connectivity(fc, OPTIONS)[1].gradients


def grouped(scans: ArrayScans | None = None, labels: list[str] = LABELS, **options: object) -> Groups:
    alignment: Alignment = options.get("alignment", "procrustes")  # type: ignore[assignment]
    return group_gradients(
        scans or study(), labels, Measure(), template(), OPTIONS, column="kind", alignment=alignment
    )


def test_a_group_is_its_own_scans_aligned_to_all(caplog: pytest.LogCaptureFixture) -> None:
    found = grouped()
    assert [(g.name, g.n_scans, g.n_participants) for g in found.groups] == [("x", 4, 2), ("y", 2, 2)]
    assert (found.column, found.alignment) == ("kind", "procrustes")
    assert not caplog.records
    arrays = study().arrays
    for group, members in zip(found.groups, ([0, 2, 5, 6], [1, 3]), strict=True):
        fc = np.mean([np.arctanh(np.corrcoef(arrays[n].T) - np.eye(R)) for n in members], axis=0)
        assert_allclose(group.fc, fc, atol=1e-12)
        affinity, own = embed_connectivity(fc, OPTIONS)
        assert group.affinity is not None
        assert_allclose(group.affinity, affinity, atol=1e-9)
        aligned = own.gradients @ orthogonal_procrustes(own.gradients, template())[0]
        assert_allclose(group.embedding.gradients, aligned, atol=1e-7)
        r = [np.corrcoef(aligned[:, k], template()[:, k])[0, 1] for k in range(C)]
        assert_allclose(group.r, r, atol=1e-7)
        assert r[0] > 0.9
        assert (np.diff(group.variance) > 0).all() and 0.3 < group.variance[-1] < 1


def test_every_scan_of_a_group_is_read_once() -> None:
    class Counting(ArrayScans):
        def phases(self, number: int) -> list[NDArray[np.floating]]:
            read.append(self.labels[number])
            return super().phases(number)

    read: list[str] = []
    scans = Counting(study().arrays)
    scans.entities["participant_id"] = list(PEOPLE)
    counted: list[int] = []
    group_gradients(scans, LABELS, Measure(), template(), OPTIONS, column="kind", progress=counted.append)
    assert sorted(read) == [f"scan {n}" for n in (1, 2, 3, 4, 6, 7)]
    assert sum(counted) == 6


def test_law_scans_in_another_order_are_the_same_groups() -> None:
    order = [4, 6, 1, 0, 5, 3, 2]  # not its own inverse
    shuffled = grouped(study().subset(order), [LABELS[n] for n in order])
    for one, other in zip(grouped().groups, shuffled.groups, strict=True):
        assert one.name == other.name
        assert_allclose(one.embedding.gradients, other.embedding.gradients, atol=1e-9)


def test_unaligned_groups_are_left_as_they_come() -> None:
    for group in grouped(alignment="none").groups:
        own = embed_connectivity(group.fc, OPTIONS)[1].gradients
        assert_array_equal(group.embedding.gradients, own)
        assert_allclose(abs(group.r[0]), abs(np.corrcoef(own[:, 0], template()[:, 0])[0, 1]))


def test_joint_groups_share_one_turn() -> None:
    from bjepa.gradients.alignment.joint import joint_embedding

    found = grouped(alignment="joint")
    assert found.groups[0].affinity is None  # there is one for all of them
    parts = joint_embedding([group.fc for group in found.groups], OPTIONS)
    before = np.vstack([part.gradients for part in parts])
    after = np.vstack([group.embedding.gradients for group in found.groups])
    assert_allclose(after @ after.T, before @ before.T, atol=1e-9)  # also between the groups
    mean = np.mean([part.gradients for part in parts], axis=0)
    turned = before @ orthogonal_procrustes(mean, template())[0]
    assert_allclose(after, turned, atol=1e-9)


@pytest.mark.parametrize("alignment", ["procrustes", "joint"])
def test_a_region_that_a_whole_group_misses(tmp_path: Path, alignment: Alignment) -> None:
    found = grouped(study(missing=(2, 9), of="bd"), alignment=alignment)
    whole, lacking = found.groups
    assert whole.embedding.kept.all()
    assert_array_equal(np.flatnonzero(~lacking.embedding.kept), [2, 9])
    assert np.isnan(lacking.embedding.gradients[[2, 9]]).all()
    present = lacking.embedding.kept
    assert np.isfinite(lacking.embedding.gradients[present]).all()
    aligned, reference = lacking.embedding.gradients[present], template()[present]
    assert_allclose(lacking.r, [np.corrcoef(aligned[:, k], reference[:, k])[0, 1] for k in range(C)])
    if alignment == "procrustes":
        own = embed_connectivity(lacking.fc[np.ix_(present, present)], OPTIONS)[1].gradients
        assert_allclose(aligned, own @ orthogonal_procrustes(own, reference)[0], atol=1e-9)
    write_groups(tmp_path, found, REGIONS, parameters={})
    read = load_gradients(tmp_path / "groups/kind-y/gradients.csv", allow_missing=True)
    assert_array_equal(read.values, lacking.embedding.gradients)


def test_complete_regions_by_hand() -> None:
    fc = np.zeros((5, 5))
    fc[3], fc[:, 3] = np.nan, np.nan  # never seen
    assert complete_regions(fc).tolist() == [True, True, True, False, True]
    for one, other in ((0, 1), (0, 2), (4, 2)):  # pairs never seen together: 0 and 2 have two each
        fc[one, other] = fc[other, one] = np.nan
    assert complete_regions(fc).tolist() == [True, False, False, False, True]  # 2, then 1
    assert complete_regions(np.full((4, 4), np.nan)).sum() == 0
    with pytest.raises(InputError, match="2 of 5 regions have edges"):
        embed_present(fc, OPTIONS)


def test_warns_of_small_and_of_unequal_groups(caplog: pytest.LogCaptureFixture) -> None:
    grouped(labels=["x", "x", "x", "y", "x", "x", "x"])
    assert "fewer than 2 participants: y (1)" in caplog.text
    assert "groups of 1 to 4 participants: the smaller ones are noisier" in caplog.text


def test_an_error_names_its_group() -> None:
    with pytest.raises(InputError, match=r"group 'y': 2 of 15 regions have edges"):
        grouped(study(missing=tuple(range(2, R)), of="bd"))
    scans = study()
    scans.arrays[3] = scans.arrays[3][:2]
    with pytest.raises(InputError, match=r"group 'y': scan 4 .* at least 3 frames"):
        grouped(scans)


def test_files_of_groups_and_what_a_second_run_removes(tmp_path: Path) -> None:
    first = grouped(labels=["p q", "r", "p q", "r", "", "p q", "s"])
    write_groups(tmp_path, first, REGIONS, parameters={"source": "study", "n_scans": 99})
    assert sorted(p.name for p in (tmp_path / "groups").iterdir()) == ["kind-p-q", "kind-r", "kind-s"]
    own = tmp_path / "groups/kind-p-q"
    names = ["eigenvalues.tsv", "gradients.csv", "gradients.h5", "gradients.tsv"]
    assert sorted(p.name for p in own.iterdir()) == names
    read = load_gradients(own / "gradients.tsv")
    assert_array_equal(read.values, first.groups[0].embedding.gradients)
    assert read.atlas_sha256 == "ab"
    with h5py.File(own / "gradients.h5") as file:
        stored = {key: file.attrs[key] for key in ("group", "group_column", "n_scans", "source", "alignment")}
        assert_array_equal(file["fc_mean"][()], first.groups[0].fc)
        assert_array_equal(file["variance_explained"][()], first.groups[0].variance)
    assert stored == {
        "group": "p q",
        "group_column": "kind",
        "n_scans": 3,
        "source": "study",
        "alignment": "procrustes",
    }
    table = pd.read_csv(tmp_path / "groups.tsv", sep="\t")
    assert list(table.columns) == ["group", "n_scans", "n_participants", "r_1", "r_2", "r_3", "variance_fc"]
    assert table["n_scans"].tolist() == [3, 2, 1]
    assert_allclose(table["r_2"], [group.r[1] for group in first.groups], rtol=1e-5)

    (own / "notes.txt").write_text("mine")
    theirs = tmp_path / "groups/theirs"
    theirs.mkdir()
    for name in names:
        (theirs / name).write_text("x")
    write_groups(tmp_path, grouped(), REGIONS, parameters={})
    there = ["kind-p-q", "kind-x", "kind-y", "theirs"]
    assert sorted(p.name for p in (tmp_path / "groups").iterdir()) == there
    assert [p.name for p in own.iterdir()] == ["notes.txt"]
    assert len(list(theirs.iterdir())) == 4
    remove_groups(tmp_path)
    assert sorted(p.name for p in (tmp_path / "groups").iterdir()) == ["kind-p-q", "theirs"]
    assert not (tmp_path / "groups.tsv").exists()
