"""preproc/atlas.py: published volumes in contract order whatever is given, or refused."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bjepa.preproc import InputError, load_atlas
from bjepa.preproc.atlas import TABLE_COLUMNS, save_atlas

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
    import json

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
