"""preproc/atlas: published volumes in contract order whatever is given, or refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bjepa.preproc import InputError, load_atlas
from bjepa.preproc.atlas import TABLE_COLUMNS, save_atlas
from bjepa.preproc.atlas import files as atlas_files
from bjepa.preproc.atlas.order import CENTRE_TOLERANCE_MM
from bjepa.preproc.atlas.published import downloads, schaefer_table, tian_table
from bjepa.preproc.atlas.spaces import check_grid_in_space

SCHAEFER = "schaefer/Schaefer2018_400Parcels_{}Networks_order_FSLMNI152_2mm.nii.gz"
TIAN = "tian/Tian_Subcortex_S3_3T.nii.gz"
NAME, SPACE = "tian-s3+schaefer-400", "MNI152NLin6Asym"


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "data" / "atlas"


def _folder_with(tmp_path: Path, published: Path, *names: str) -> Path:
    for name in names:
        shutil.copyfile(published / name, tmp_path / Path(name).name)
    return tmp_path


def _by_hand(published: Path) -> np.ndarray:
    cortex = nib.load(published / SCHAEFER.format(17)).get_fdata()
    subcortex = nib.load(published / TIAN).get_fdata()
    return np.where(subcortex > 0, subcortex, np.where(cortex > 0, cortex + 50, 0)).astype(np.int16)


def test_default_atlas_is_tian_then_schaefer_17_and_tian_wins(published: Path) -> None:
    atlas = load_atlas(NAME, space=SPACE, atlas_dir=published)
    assert atlas.n_rois == 450 and list(atlas.table.columns) == list(TABLE_COLUMNS)
    np.testing.assert_array_equal(atlas.labels, _by_hand(published))
    names = [line.split("\t")[1] for line in (published / "schaefer").glob("*17*.txt").__next__().open()]
    assert atlas.table["name"].tolist()[50:] == names
    assert (
        atlas.table["name"].tolist()[:50]
        == (published / "tian/Tian_Subcortex_S3_3T_label.txt").read_text().split()
    )
    assert (atlas.table["index"] == np.arange(1, 451)).all()
    left = atlas.table["hemisphere"] == "L"
    assert (
        left.sum() == 225
        and (atlas.table.loc[left, "x"] < 0).all()
        and (atlas.table.loc[~left, "x"] > 0).all()
    )
    assert (
        atlas.table.loc[50:, "network7"].nunique() == 7 and atlas.table.loc[50:, "network17"].nunique() == 17
    )


@pytest.mark.parametrize(
    "names",
    [
        (SCHAEFER.format(7), TIAN),
        ("combined/Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz",),
    ],
)
def test_seven_network_volumes_come_out_in_contract_order(
    published: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    atlas = load_atlas(NAME, space=SPACE, atlas_dir=_folder_with(tmp_path, published, *names))
    np.testing.assert_array_equal(atlas.labels, _by_hand(published))


def test_the_content_is_believed_not_the_name(published: Path, tmp_path: Path) -> None:
    folder = _folder_with(tmp_path, published, TIAN)
    shutil.copyfile(published / SCHAEFER.format(7), folder / Path(SCHAEFER.format(17)).name)
    atlas = load_atlas(NAME, space=SPACE, atlas_dir=folder)
    np.testing.assert_array_equal(atlas.labels, _by_hand(published))


def test_seven_network_order_on_request(published: Path) -> None:
    atlas = load_atlas("schaefer-400-7networks", space=SPACE, atlas_dir=published)
    expected = nib.load(published / SCHAEFER.format(7)).get_fdata()
    np.testing.assert_array_equal(atlas.labels, expected)
    assert atlas.order == "7networks" and atlas.table["name"][0] == "7Networks_LH_Vis_1"


def test_storage_order_of_the_parts_does_not_matter(published: Path, tmp_path: Path) -> None:
    folder = _folder_with(tmp_path, published, SCHAEFER.format(17))
    nib.save(nib.as_closest_canonical(nib.load(published / TIAN)), folder / "Tian_Subcortex_S3_3T.nii.gz")
    atlas = load_atlas(NAME, space=SPACE, atlas_dir=folder)
    mapped = nib.as_closest_canonical(atlas.labels_img)
    expected = nib.as_closest_canonical(
        nib.Nifti1Image(_by_hand(published), nib.load(published / TIAN).affine)
    )
    np.testing.assert_array_equal(mapped.get_fdata(), expected.get_fdata())


def test_folder_from_the_environment(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BJEPA_ATLAS_DIR", str(published))
    assert load_atlas("tian-s3", space=SPACE).n_rois == 50


def test_each_space_has_its_own_volume(published: Path) -> None:
    atlas = load_atlas(NAME, space="MNI152NLin2009cAsym", atlas_dir=published)
    assert atlas.labels.shape == (97, 115, 97) and len(np.unique(atlas.labels)) == 451


def test_parts_on_different_grids_are_not_mixed(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", refuse)
    folder = _folder_with(tmp_path, published, SCHAEFER.format(17).replace("2mm", "1mm"), TIAN)
    with pytest.raises(InputError, match="could not be downloaded"):
        load_atlas(NAME, space=SPACE, atlas_dir=folder)
    assert "there is no tian-s3 on its grid" in caplog.text and "no schaefer-400 on its grid" in caplog.text


def test_a_mirrored_volume_is_refused(published: Path, tmp_path: Path) -> None:
    image = nib.load(published / SCHAEFER.format(17))
    nib.save(
        nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine),
        tmp_path / Path(SCHAEFER.format(17)).name,
    )
    with pytest.raises(InputError, match="left and right are exchanged"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)


def test_shuffled_labels_are_refused(published: Path, tmp_path: Path) -> None:
    image = nib.load(published / SCHAEFER.format(17))
    shuffle = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(400)]).astype(np.int16)
    labels = shuffle[np.asarray(image.dataobj).astype(int)]
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / Path(SCHAEFER.format(17)).name)
    with pytest.raises(InputError, match="not hold schaefer-400 in a known order"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)


def test_an_empty_label_is_refused(published: Path, tmp_path: Path) -> None:
    image = nib.load(published / TIAN)
    labels = np.asarray(image.dataobj).copy()
    labels[labels == 17] = 0
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "Tian_Subcortex_S3_3T.nii.gz")
    with pytest.raises(InputError, match=r"labels \[17\] have no voxel"):
        load_atlas("tian-s3", space=SPACE, atlas_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "space", "says"),
    [
        ("schaefer-400", "MNI305", "space must be one of"),
        ("schaefer-400", None, "space must be one of"),
        ("schaefer-123", SPACE, "atlas part must be one of"),
        ("tian-s3+tian-s3", SPACE, "same parcels twice"),
    ],
)
def test_refuses(name: str, space: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_atlas(name, space=space)


def _own(tmp_path: Path, table: str, labels: np.ndarray) -> tuple[Path, Path]:
    volume, tsv = tmp_path / "tpl-Mine_dseg.nii.gz", tmp_path / "own.tsv"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.diag([2.0, 3, 4, 1])), volume)
    tsv.write_text(table)
    return volume, tsv


def test_own_label_volume_with_gaps_and_names(tmp_path: Path) -> None:
    labels = np.zeros((5, 4, 3))
    labels[1, 0, 0], labels[2], labels[4, 1] = 7, 300, 12
    volume, tsv = _own(tmp_path, "index\tname\themisphere\n300\tb\tL\n7\ta\tR\n12\tc\tL\n", labels)
    atlas = load_atlas(volume, space=None, labels_tsv=tsv)
    assert atlas.space == "Mine" and atlas.table["name"].tolist() == ["b", "a", "c"]
    assert (
        [int((atlas.labels == k).sum()) for k in (1, 2, 3)] == [12, 1, 3] == atlas.table["n_voxels"].tolist()
    )
    assert atlas.table["x"].tolist() == [4, 2, 8] and set(atlas.table["network7"]) == {"n/a"}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("index\tname\n7\ta\n", r"labels \[300\] .* not in the table"),
        ("index\tname\n7\ta\n300\tb\n9\tc\n", r"labels \[9\] .* have no voxel"),
        ("label\tname\n7\ta\n", "lacks columns"),
        ("index\tname\n7\ta\n7\tb\n", "each once"),
        ("index\tname\n7\ta\n300\ta\n", "more than once"),
    ],
)
def test_own_label_volume_refused(tmp_path: Path, table: str, says: str) -> None:
    labels = np.zeros((5, 4, 3))
    labels[1, 0, 0], labels[2] = 7, 300
    volume, tsv = _own(tmp_path, table, labels)
    with pytest.raises(InputError, match=says):
        load_atlas(volume, space=None, labels_tsv=tsv)


def test_own_label_volume_needs_table_whole_numbers_and_space(tmp_path: Path) -> None:
    volume, tsv = _own(tmp_path, "index\tname\n1\ta\n", np.ones((2, 3, 4)))
    with pytest.raises(InputError, match="needs a table"):
        load_atlas(volume, space=None)
    nib.save(nib.Nifti1Image(np.full((2, 3, 4), 1.5, np.float32), np.eye(4)), volume)
    with pytest.raises(InputError, match="whole label numbers"):
        load_atlas(volume, space="x", labels_tsv=tsv)
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "plain.nii")
    with pytest.raises(InputError, match="space of this label volume is unknown"):
        load_atlas(tmp_path / "plain.nii", space=None, labels_tsv=tsv)


def test_saved_atlas_is_the_atlas(tmp_path: Path, published: Path) -> None:
    import hashlib

    atlas = load_atlas("tian-s3", space=SPACE, atlas_dir=published)
    save_atlas(atlas, tmp_path)
    volume = np.ascontiguousarray(np.asarray(nib.load(tmp_path / "atlas.nii.gz").dataobj))
    facts = json.loads((tmp_path / "atlas.json").read_text())
    assert (
        volume.dtype == np.int16
        and hashlib.sha256(volume.tobytes()).hexdigest() == facts["sha256"] == atlas.sha256
    )
    assert pd.read_csv(tmp_path / "atlas.tsv", sep="\t")["name"].tolist() == atlas.table["name"].tolist()
    assert "Tian" in facts["citations"][0]


def test_downloads_are_verified_and_failure_is_told(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    import pooch

    contents = {  # what the addresses hold: the same bytes as the files at hand
        "Tian_Subcortex_S3_3T.nii": gzip.decompress((published / TIAN).read_bytes()),
        "Tian_Subcortex_S3_3T_2009cAsym.nii.gz": (published / f"{TIAN[:-7]}_2009cAsym.nii.gz").read_bytes(),
        "b1d4c6a": (published / SCHAEFER.format(17)).read_bytes(),
        "d7998c8": (published / "schaefer/schaefer400x17_MNI152NLin2009cAsym_2mm.nii.gz").read_bytes(),
    }

    def deliver(url: str, known_hash: str, path: Path, fname: str) -> str:
        folder = tmp_path / Path(path).name
        folder.mkdir(exist_ok=True)
        content = next(c for key, c in contents.items() if url.endswith(f"/{key}") or f"/{key}" in url[:-40])
        (folder / fname).write_bytes(content)
        if pooch.file_hash(folder / fname) != known_hash.removeprefix("sha256:"):
            raise ValueError("hash differs")
        return str(folder / fname)

    monkeypatch.delenv("BJEPA_ATLAS_DIR", raising=False)
    monkeypatch.setattr(pooch, "retrieve", deliver)
    for space in ("MNI152NLin6Asym", "MNI152NLin2009cAsym"):
        found = load_atlas(NAME, space=space, atlas_dir=published)
        assert load_atlas(NAME, space=space).sha256 == found.sha256
    contents["b1d4c6a"] = contents["d7998c8"]
    with pytest.raises(InputError, match=r"could not be downloaded .*hash differs"):
        load_atlas("schaefer-400", space=SPACE)


# --- every size and scale -----------------------------------------------------------------------------------

AFFINE_2MM = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE_2MM = (91, 109, 91)


def _drawn(
    places: np.ndarray, affine: np.ndarray = AFFINE_2MM, shape: tuple[int, int, int] = SHAPE_2MM
) -> nib.Nifti1Image:
    """A label volume with a cross of seven voxels at each place, the later labels on top."""
    labels = np.zeros(shape, dtype=np.int16)
    steps = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    voxels = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), places)).astype(int)
    for step in steps[::-1]:
        labels[tuple((voxels + step).T)] = np.arange(1, len(places) + 1)
    return nib.Nifti1Image(labels, affine)


def _places(table: pd.DataFrame) -> np.ndarray:
    return np.asarray(table[["x", "y", "z"]])


@pytest.mark.parametrize("n_parcels", [100, 300, 700, 1000])
def test_any_schaefer_size_in_any_order(
    tmp_path: Path, n_parcels: int, caplog: pytest.LogCaptureFixture
) -> None:
    by_order = {order: schaefer_table(order, n_parcels) for order in ("17networks", "7networks")}
    name = f"Schaefer2018_{n_parcels}Parcels_17Networks_order_FSLMNI152_2mm.nii.gz"  # a lie for the second
    found = {}
    for order, table in by_order.items():
        nib.save(_drawn(_places(table)), tmp_path / name)
        found[order] = load_atlas(f"schaefer-{n_parcels}", space=SPACE, atlas_dir=tmp_path)
    assert "is in 7networks order; renumbered to 17networks order" in caplog.text
    for atlas in found.values():
        assert atlas.table["name"].tolist() == by_order["17networks"]["name"].tolist()
        assert np.abs(_places(atlas.table) - _places(by_order["17networks"])).max() < 2.5
    seven = load_atlas(f"schaefer-{n_parcels}-7networks", space=SPACE, atlas_dir=tmp_path)
    assert seven.order == "7networks" and seven.table["name"][0].startswith("7Networks_LH_Vis")
    assert np.abs(_places(seven.table) - _places(by_order["7networks"])).max() < 2.5


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_any_tian_scale_in_a_composite(tmp_path: Path, scale: int) -> None:
    tian, schaefer = tian_table(scale), schaefer_table("17networks", 200)
    nib.save(_drawn(_places(tian)), tmp_path / f"Tian_Subcortex_S{scale}_3T.nii.gz")
    nib.save(
        _drawn(_places(schaefer)),
        tmp_path / "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-200Parcels17.nii.gz",
    )
    for other in {1, 2, 3, 4} - {scale}:  # must not be taken
        (tmp_path / f"Tian_Subcortex_S{other}_3T.nii.gz").write_bytes(b"x")
    atlas = load_atlas(f"schaefer-200+tian-s{scale}", space=SPACE, atlas_dir=tmp_path)
    assert atlas.n_rois == 200 + len(tian) and atlas.table["name"].tolist()[200:] == tian["name"].tolist()


def test_a_combined_file_of_other_sizes_is_split_where_its_scale_ends(tmp_path: Path) -> None:
    places = np.vstack([_places(tian_table(2)), _places(schaefer_table("7networks", 300))])
    name = "Schaefer2018_300Parcels_7Networks_order_Tian_Subcortex_S2_MNI152NLin6Asym_2mm.nii.gz"
    nib.save(_drawn(places), tmp_path / name)
    atlas = load_atlas("tian-s2+schaefer-300", space=SPACE, atlas_dir=tmp_path)
    expected = np.vstack([_places(tian_table(2)), _places(schaefer_table("17networks", 300))])
    assert np.abs(_places(atlas.table) - expected).max() < 2.5 and atlas.n_rois == 332


def test_a_size_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "100" is in "1000", and Kong2022 volumes number the same parcels in a third way."""
    for name in (
        "Schaefer2018_1000Parcels_17Networks_order_FSLMNI152_2mm.nii.gz",
        "Schaefer2018_100Parcels_Kong2022_17Networks_order_FSLMNI152_2mm.nii.gz",
        "Schaefer2018_100Parcels_17Networks_order_Tian_Subcortex_S1_MNI152NLin6Asym_2mm.nii.gz",
    ):
        assert not atlas_files.is_named(Path(name), "schaefer-100")
    for name in ("schaefer100x17MNI.nii.gz", "atlas-Schaefer2018_desc-100Parcels7Networks_dseg.nii.gz"):
        assert atlas_files.is_named(Path(name), "schaefer-100")


# --- what is wrong with a file ------------------------------------------------------------------------------


def _saved(tmp_path: Path, published: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The 2 mm 17-network volume with its labels changed, in a folder of its own."""
    image = nib.load(published / SCHAEFER.format(17))
    labels = change(np.asarray(image.dataobj).astype(np.int16))
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / Path(SCHAEFER.format(17)).name)
    return tmp_path


def _swap(labels: np.ndarray, one: int, other: int) -> np.ndarray:
    numbers = np.arange(labels.max() + 1)
    numbers[[one, other]] = other, one
    return np.asarray(numbers.astype(np.int16)[labels])


def test_two_neighbours_exchanged_are_seen(published: Path, tmp_path: Path) -> None:
    """5 mm apart: each lies within the tolerance of the other's place."""
    table = schaefer_table()
    apart = np.linalg.norm(_places(table)[:, None] - _places(table), axis=-1) + 99 * np.eye(400)
    one, other = (int(i) + 1 for i in np.unravel_index(apart.argmin(), apart.shape))
    assert apart.min() < CENTRE_TOLERANCE_MM
    folder = _saved(tmp_path, published, lambda labels: _swap(labels, one, other))
    pair = sorted((one, other))
    with pytest.raises(InputError, match=rf"labels \[{pair[0]}, {pair[1]}\] are exchanged"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=folder)


def test_extra_labels_are_refused_with_their_numbers(published: Path, tmp_path: Path) -> None:
    def with_extra(labels: np.ndarray) -> np.ndarray:
        labels[3:5, 3, 3] = 401, 1200
        return labels

    with pytest.raises(InputError, match=r"labels \[401, 1200\] are beyond the 400"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=_saved(tmp_path, published, with_extra))


@pytest.mark.parametrize("networks", [17, 7])
def test_empty_labels_are_named_in_either_order(published: Path, tmp_path: Path, networks: int) -> None:
    """nilearn drops them without a word, and every later column is another region."""
    image = nib.load(published / SCHAEFER.format(networks))
    labels = np.asarray(image.dataobj).copy()
    labels[np.isin(labels, [3, 399])] = 0
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / Path(SCHAEFER.format(17)).name)
    first = schaefer_table(f"{networks}networks").set_index("index").loc[[3, 399]]
    names = schaefer_table("17networks").set_index("index")["name"].loc[first["label_17networks"]].tolist()
    with pytest.raises(InputError, match=r"labels \[3, 399\] have no voxel") as caught:
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)
    assert all(name in str(caught.value) for name in names)


def test_a_volume_of_half_the_labels_is_refused(published: Path, tmp_path: Path) -> None:
    folder = _saved(tmp_path, published, lambda labels: np.where(labels > 200, 0, labels))
    with pytest.raises(InputError, match="have no voxel"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=folder)


def test_a_flipped_sform_is_seen_with_and_without_the_old_qform(published: Path, tmp_path: Path) -> None:
    image = nib.load(published / SCHAEFER.format(17))
    wrong = np.diag([-1.0, 1, 1, 1]) @ image.affine  # left for right in the affine, data as they were
    path = tmp_path / Path(SCHAEFER.format(17)).name
    flipped = nib.Nifti1Image(np.asarray(image.dataobj), wrong)
    flipped.set_sform(wrong, code=4)
    flipped.set_qform(wrong, code=4)
    nib.save(flipped, path)
    with pytest.raises(InputError, match="left and right are exchanged"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)
    flipped.set_qform(image.affine, code=4)
    nib.save(flipped, path)
    with pytest.raises(InputError, match=r"qform and its sform .* \(left and right exchanged\)"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)


def test_a_shifted_affine_is_told_as_such(published: Path, tmp_path: Path) -> None:
    image = nib.load(published / SCHAEFER.format(17))
    labels = np.roll(np.asarray(image.dataobj), 5, axis=2)  # 10 mm up, under the same header
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / Path(SCHAEFER.format(17)).name)
    with pytest.raises(InputError, match=r"all labels are shifted by \[.*0.0, .*0.0, 10.0\] mm"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)


def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", refuse)


def test_a_volume_of_another_space_is_passed_over_and_told(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _no_network(monkeypatch)
    other = published / "schaefer/schaefer400x17_MNI152NLin2009cAsym_2mm.nii.gz"
    shutil.copyfile(other, tmp_path / "schaefer400x17.nii.gz")  # the name does not say it
    with pytest.raises(InputError, match="could not be downloaded"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)
    assert "schaefer400x17.nii.gz is not on a grid of MNI152NLin6Asym: its first voxel" in caplog.text
    assert load_atlas("schaefer-400", space="MNI152NLin2009cAsym", atlas_dir=tmp_path).n_rois == 400


def test_a_volume_of_another_space_under_a_forged_affine_is_seen_by_its_extent(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _no_network(monkeypatch)
    image = nib.load(published / "schaefer/schaefer400x17_MNI152NLin2009cAsym_2mm.nii.gz")
    forged = image.affine.copy()
    forged[:3, 3] = -90, -126, -72
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), forged), tmp_path / "schaefer400x17.nii.gz")
    with pytest.raises(InputError, match="could not be downloaded"):
        load_atlas("schaefer-400", space=SPACE, atlas_dir=tmp_path)
    assert "it extends over [194.0, 230.0, 194.0] mm" in caplog.text


def test_1_mm_is_taken_where_there_is_no_2_mm(published: Path, tmp_path: Path) -> None:
    folder = _folder_with(tmp_path, published, SCHAEFER.format(17).replace("2mm", "1mm"))
    fine = load_atlas("schaefer-400", space=SPACE, atlas_dir=folder)
    coarse = load_atlas("schaefer-400", space=SPACE, atlas_dir=published)
    assert fine.labels.shape == (182, 218, 182) and coarse.labels.shape == (91, 109, 91)
    assert fine.table["name"].equals(coarse.table["name"]) and fine.sha256 != coarse.sha256
    assert (fine.table["n_voxels"] / coarse.table["n_voxels"]).between(6, 10).mean() > 0.98
    assert np.abs(_places(fine.table) - _places(coarse.table)).max() < 1.5
    assert load_atlas("schaefer-400", space=SPACE, atlas_dir=published).labels.shape == (91, 109, 91)


def test_files_with_a_known_hash_are_said_to_be_published(published: Path) -> None:
    atlas = load_atlas(NAME, space=SPACE, atlas_dir=published)
    known = [source["known"] for source in atlas.sources]
    assert known[0] == "by content"  # a re-compressed copy
    assert known[1].startswith("schaefer-400 as published at https://")


def test_what_cannot_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_network(monkeypatch)
    with pytest.raises(InputError, match="no download of it is known") as caught:
        load_atlas("tian-s1+schaefer-900", space="MNI152NLin2009cAsym", atlas_dir=tmp_path)
    assert "desc-900Parcels17Networks_dseg.nii.gz into the folder of --atlas-dir" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "space", "addresses"),
    [
        ("schaefer-1000", SPACE, ["Schaefer2018_1000Parcels_17Networks_order_FSLMNI152_2mm.nii.gz"]),
        ("schaefer-100-7networks", "MNI152NLin2009cAsym", ["schaefer100x17MNI.nii.gz"]),
        (
            "tian-s4+schaefer-300",  # there is no Schaefer-300 by itself in this space
            "MNI152NLin2009cAsym",
            ["Schaefer2018_300Parcels_7Networks_order_Tian_Subcortex_S4_3T_MNI152NLin2009cAsym_2mm.nii.gz"],
        ),
    ],
)
def test_what_is_downloaded_for_a_name(
    name: str, space: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(url: str, known_hash: str, **kwargs: object) -> str:
        asked.append(url.rsplit("/", 1)[1])
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", known_hash) and re.search(r"/[0-9a-f]{40}/", url)
        raise OSError("enough")

    monkeypatch.delenv("BJEPA_ATLAS_DIR", raising=False)
    monkeypatch.setattr("pooch.retrieve", note)
    with pytest.raises(InputError, match="could not be downloaded"):
        load_atlas(name, space=space)
    assert asked == addresses


def test_the_list_of_downloads_holds_each_content_once() -> None:
    table = downloads()
    assert table["sha256"].is_unique and table["address"].is_unique and len(table) > 90
    assert not table.duplicated(["atlas", "space", "resolution"]).any()


@pytest.mark.parametrize("name", ["tian-s1+tian-s3", "schaefer-100+schaefer-400"])
def test_two_parcellations_of_one_structure_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="same structure"):
        load_atlas(name, space=SPACE)


def test_a_mirrored_own_volume_is_refused_by_its_hemispheres(tmp_path: Path) -> None:
    table = schaefer_table("17networks", 100)
    image = _drawn(_places(table))
    path, tsv = tmp_path / "tpl-MNI152NLin6Asym_own.nii.gz", tmp_path / "own.tsv"
    table[["index", "name", "hemisphere"]].to_csv(tsv, sep="\t", index=False)
    nib.save(image, path)
    assert load_atlas(path, labels_tsv=tsv).n_rois == 100
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), path)
    with pytest.raises(InputError, match="left and right are exchanged"):
        load_atlas(path, labels_tsv=tsv)


# --- a table alone ------------------------------------------------------------------------------------------


def test_table_atlas_has_the_columns_of_the_volume_and_no_volume(published: Path, tmp_path: Path) -> None:
    import hashlib

    table, volume = load_atlas(NAME, kind="table"), load_atlas(NAME, space=SPACE, atlas_dir=published)
    assert list(table.table.columns) == list(TABLE_COLUMNS)
    for column in ("index", "name", "structure", "hemisphere", "network7", "network17"):
        assert table.table[column].equals(volume.table[column])
    assert table.labels_img is None and table.space == "n/a" and set(table.table["n_voxels"]) == {"n/a"}
    assert table.sha256 == hashlib.sha256("\n".join(volume.table["name"]).encode()).hexdigest()
    with pytest.raises(InputError, match="by the names of its regions only"):
        _ = table.labels
    save_atlas(table, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["atlas.json", "atlas.tsv"]
    facts = json.loads((tmp_path / "atlas.json").read_text())
    assert facts["sha256"] == table.sha256 and facts["kind"] == "table" and len(facts["citations"]) == 2


def test_own_table_without_a_volume(tmp_path: Path) -> None:
    tsv = tmp_path / "aal.tsv"
    tsv.write_text("index\tname\themisphere\n9\tb\tL\n4\ta\tR\n")
    atlas = load_atlas("aal", kind="table", labels_tsv=tsv)
    assert atlas.table["name"].tolist() == ["b", "a"] and atlas.table["index"].tolist() == [1, 2]
    assert (atlas.name, atlas.order, atlas.kind, atlas.labels_img) == ("aal", "as in aal.tsv", "table", None)
    assert list(atlas.table.columns) == list(TABLE_COLUMNS)
    save_atlas(atlas, tmp_path / "out")
    assert (tmp_path / "out/atlas.tsv").read_text().splitlines()[1].endswith("n/a\tn/a\tn/a\tn/a")


# --- grids of scans -----------------------------------------------------------------------------------------


def _grid(
    shape: tuple[int, ...], first: tuple[float, ...], size: float
) -> tuple[np.ndarray, tuple[int, ...]]:
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = first
    return affine, shape


@pytest.mark.parametrize(
    ("grid", "space", "says"),
    [
        (_grid((91, 109, 91), (-90, -126, -72), 2), SPACE, ""),
        (_grid((61, 73, 61), (-90, -126, -72), 3), SPACE, ""),
        (_grid((97, 115, 97), (-96.5, -132.5, -78.5), 2), "MNI152NLin2009cAsym", ""),
        (_grid((65, 77, 60), (-96, -132, -78), 3), "MNI152NLin2009cAsym", ""),  # fMRIPrep at 3 mm, cut above
        (_grid((97, 115, 97), (-96.5, -132.5, -78.5), 2), SPACE, "its grid is that of MNI152NLin2009cAsym"),
        (_grid((91, 109, 91), (-90, -126, -72), 2), "MNI152NLin2009cAsym", "its grid is that of MNI152NLin6"),
        (_grid((64, 64, 36), (0, 0, 0), 3), SPACE, "ends at x = -2 mm, the brain of .* reaches to -70 mm"),
        (_grid((64, 70, 30), (-96, -130, -60), 3), SPACE, "ends at z = 28 mm, the brain of .* to 82 mm"),
        (_grid((64, 64, 36), (0, 0, 0), 3), "MNI305", ""),  # nothing is known of it
    ],
)
def test_field_of_view_against_the_claimed_space(
    grid: tuple[np.ndarray, tuple[int, ...]], space: str, says: str
) -> None:
    found = check_grid_in_space(*grid, space)
    assert found == "" if says == "" else re.search(says, found)


def test_real_scans_against_the_claimed_space(shared: Path) -> None:
    standard = nib.load(shared / "data/bold4d/gift_lowres_mni/sub-007_lowres.nii.gz")
    native = nib.load(shared / "data/raw/coreg_qa/example_func.nii.gz")
    assert check_grid_in_space(standard.affine, standard.shape, SPACE) == ""
    assert "rotated by" in check_grid_in_space(native.affine, native.shape, SPACE)


def test_storage_order_does_not_matter_to_the_field_of_view() -> None:
    affine, shape = _grid((64, 64, 30), (-96, -130, -60), 3)
    flipped = affine @ np.array([[-1.0, 0, 0, 63], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert check_grid_in_space(flipped, shape, SPACE) == check_grid_in_space(affine, shape, SPACE) != ""
