"""preproc/atlas/dlabel.py, cifti.py: CIFTI atlases in contract order, series by vertex and voxel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, LabelAxis, ParcelsAxis, ScalarAxis, SeriesAxis

from bjepa.preproc import Atlas, InputError, cifti, load_atlas
from bjepa.preproc.atlas import save_atlas
from bjepa.preproc.atlas.published import schaefer_names, schaefer_table, tian_table
from bjepa.preproc.cifti import extract_dtseries, read_ptseries

NAME = "tian-s3+schaefer-400"
FILE = "combined/Schaefer2018_400Parcels_17Networks_order_Tian_Subcortex_S3.dlabel.nii"
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (91, 109, 91)


def _save(path: Path, values: np.ndarray, *axes: Any, intent: str = "ConnUnknown") -> Path:
    image = nib.Cifti2Image(values, header=axes)
    image.nifti_header.set_intent(intent)
    nib.save(image, path)
    return path


# --- a small brain: 9 left vertices of 12, 6 right of 10, 7 voxels ------------------------------------------

LEFT = BrainModelAxis.from_surface([0, 1, 2, 4, 5, 7, 8, 10, 11], 12, name="cortex_left")
RIGHT = BrainModelAxis.from_surface([1, 2, 3, 6, 8, 9], 10, name="cortex_right")
VOXELS = np.array(
    [[40, 50, 30], [40, 51, 30], [40, 52, 30], [41, 50, 30], [41, 51, 31], [9, 9, 9], [50, 9, 9]]
)
DEEP = BrainModelAxis(name="thalamus_left", voxel=VOXELS, affine=AFFINE, volume_shape=SHAPE)
BRAIN = LEFT + RIGHT + DEEP
# left vertices, right vertices, voxels
KEYS = np.concatenate([[5, 5, 0, 7, 7, 7, 5, 0, 5], [2, 2, 9, 9, 0, 9], [3, 3, 3, 0, 3, 4, 4]])
NAMES = {0: ("???", (0, 0, 0, 0))} | {k: (f"region-{k}", (1, 1, 1, 1)) for k in (2, 3, 4, 5, 7, 9)}
ORDER = [2, 3, 4, 5, 7, 9]  # by key
N_FRAMES = 13


@pytest.fixture
def small(tmp_path: Path) -> Atlas:
    labels = KEYS[None].astype(np.float32)
    path = _save(tmp_path / "small.dlabel.nii", labels, LabelAxis(["parcels"], [NAMES]), BRAIN)
    return load_atlas(path, kind="cifti")


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).normal(100, 10, (N_FRAMES, len(BRAIN))).astype(np.float32)


def _series(unit: str = "SECOND", step: float = 0.72, n_frames: int = N_FRAMES) -> SeriesAxis:
    return SeriesAxis(0, step, n_frames, unit)


def _scan(tmp_path: Path, values: np.ndarray, brain: BrainModelAxis = BRAIN, **series: Any) -> Path:
    axis = _series(n_frames=len(values), **series)
    return _save(tmp_path / "scan.dtseries.nii", values, axis, brain, intent="ConnDenseSeries")


def _expected(values: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    keep = np.ones(len(KEYS), bool) if keep is None else keep
    of_region = [(k == KEYS) & keep for k in ORDER]
    with np.errstate(invalid="ignore"):
        means = [values[:, own].astype(np.float64).sum(axis=1) / own.sum() for own in of_region]
    return np.stack(means, axis=1)


def test_means_of_a_small_brain(tmp_path: Path, small: Atlas, values: np.ndarray) -> None:
    assert small.kind == "cifti" and small.space == "fsLR" and small.n_rois == 6
    assert small.table["name"].tolist() == [f"region-{k}" for k in ORDER]
    assert small.table["n_voxels"].tolist() == [2, 4, 2, 4, 3, 3]
    scan = extract_dtseries(_scan(tmp_path, values), small)
    assert scan.timeseries.dtype == np.float32 and scan.timeseries.shape == (N_FRAMES, 6)
    np.testing.assert_allclose(scan.timeseries, _expected(values), rtol=1e-6)
    assert scan.t_r == pytest.approx(0.72) and (scan.coverage == 1).all()
    assert scan.n_invalid_voxels == 0 and scan.mean_image is None


def test_order_of_grayordinates_and_of_structures_does_not_matter(
    tmp_path: Path, small: Atlas, values: np.ndarray
) -> None:
    parts = [np.arange(15, 22), np.arange(0, 9)[::-1], np.array([12, 9, 14, 10, 13, 11])]
    rows = np.concatenate(parts)
    brain = BRAIN[parts[0]] + BRAIN[parts[1]] + BRAIN[parts[2]]
    moved = extract_dtseries(_scan(tmp_path, values[:, rows], brain), small)
    np.testing.assert_allclose(moved.timeseries, _expected(values), rtol=1e-6)
    assert (moved.coverage == 1).all()


def test_voxels_are_matched_by_place_on_a_flipped_grid(
    tmp_path: Path, small: Atlas, values: np.ndarray
) -> None:
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    voxels = VOXELS * [-1, 1, 1] + [90, 0, 0]
    deep = BrainModelAxis(name="thalamus_left", voxel=voxels, affine=flipped, volume_shape=SHAPE)
    scan = extract_dtseries(_scan(tmp_path, values, LEFT + RIGHT + deep), small)
    np.testing.assert_allclose(scan.timeseries, _expected(values), rtol=1e-6)


def test_what_the_scan_lacks_lowers_the_coverage_and_keeps_the_columns(
    tmp_path: Path, small: Atlas, values: np.ndarray
) -> None:
    """Surfaces only, without three left vertices, and with a medial wall that the atlas does not have."""
    keep = np.zeros(len(BRAIN), bool)
    keep[[0, 1, 3, 5, 7, 8, *range(9, 15)]] = True
    wall = BrainModelAxis.from_surface([0, 4, 5, 7], 10, name="cortex_right")
    brain = BRAIN[np.flatnonzero(keep[:9])] + wall + BRAIN[np.arange(9, 15)]
    filler = np.full((N_FRAMES, 4), 1e6, np.float32)
    data = np.hstack([values[:, :9][:, keep[:9]], filler, values[:, 9:15]])
    scan = extract_dtseries(_scan(tmp_path, data, brain), small)
    np.testing.assert_allclose(scan.coverage, [1, 0, 0, 3 / 4, 2 / 3, 1])
    np.testing.assert_allclose(scan.timeseries, _expected(values, keep), rtol=1e-6)
    assert np.isnan(scan.timeseries[:, 1:3]).all() and np.isfinite(scan.timeseries[:, [0, 3, 4, 5]]).all()


def test_validity_is_that_of_volumes(tmp_path: Path, small: Atlas, values: np.ndarray) -> None:
    """Never finite once, or always zero: out, and the rest keeps its level. Zero for a while: in."""
    values[4, 0], values[2, 9], values[:, 1], values[:, [10]] = np.nan, np.inf, 0, 0
    values[:5, 3] = 0
    keep = np.ones(len(BRAIN), bool)
    keep[[0, 1, 9, 10]] = False
    scan = extract_dtseries(_scan(tmp_path, values), small)
    np.testing.assert_allclose(scan.timeseries, _expected(values, keep), rtol=1e-6)
    np.testing.assert_allclose(scan.coverage, [0, 1, 1, 2 / 4, 1, 1])
    assert scan.n_invalid_voxels == 2 and np.isnan(scan.timeseries[:, 0]).all()


def test_blocks_do_not_show(
    tmp_path: Path, small: Atlas, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract_dtseries(_scan(tmp_path, values), small)
    monkeypatch.setattr(cifti, "_BLOCK_BYTES", 8 * N_FRAMES * 4)  # blocks of four grayordinates
    blocks = [block.shape for _, block in cifti._blocks(tmp_path, nib.load(tmp_path / "scan.dtseries.nii"))]
    assert blocks == [(N_FRAMES, 4)] * 5 + [(N_FRAMES, 2)]
    np.testing.assert_allclose(
        extract_dtseries(tmp_path / "scan.dtseries.nii", small).timeseries, whole.timeseries, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("unit", "step"), [("HERTZ", 0.72), ("SECOND", 0.0), ("METER", 1.0), ("RADIAN", 2.0), ("SECOND", -1.0)]
)
def test_a_step_that_is_no_repetition_time_is_none(
    tmp_path: Path, small: Atlas, values: np.ndarray, unit: str, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert extract_dtseries(_scan(tmp_path, values, unit=unit, step=step), small).t_r is None
    assert "which is no repetition time" in caplog.text


def _as_dscalar(folder: Path, values: np.ndarray) -> Path:
    return _save(folder / "x.dscalar.nii", values, ScalarAxis([f"map {i}" for i in range(N_FRAMES)]), BRAIN)


def _as_dlabel(folder: Path, values: np.ndarray) -> Path:
    return _save(folder / "x.dlabel.nii", KEYS[None].astype(np.float32), LabelAxis(["x"], [NAMES]), BRAIN)


def _as_dconn(folder: Path, values: np.ndarray) -> Path:
    return _save(folder / "x.dconn.nii", np.ones((len(BRAIN), len(BRAIN)), np.float32), BRAIN, BRAIN)


def _as_volume(folder: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 6), np.float32), np.eye(4)), folder / "x.nii")
    return folder / "x.nii"


def _as_one_frame(folder: Path, values: np.ndarray) -> Path:
    return _scan(folder, values[:1])


def _as_ptseries(folder: Path, values: np.ndarray) -> Path:
    return _ptseries(folder, values[:, :2], ["a", "b"])


def _on_another_surface(folder: Path, values: np.ndarray) -> Path:
    left = BrainModelAxis.from_surface([0, 1, 2], 13, name="cortex_left")
    return _scan(folder, values[:, :3], left)


def _on_other_voxels(folder: Path, values: np.ndarray) -> Path:
    deep = BrainModelAxis(
        name="thalamus_left", voxel=VOXELS, affine=AFFINE * [[1.5], [1.5], [1.5], [1]], volume_shape=SHAPE
    )
    return _scan(folder, values[:, :7], deep)


def _elsewhere(folder: Path, values: np.ndarray) -> Path:
    return _scan(folder, values[:, :3], BrainModelAxis.from_surface([0, 1, 2], 12, name="cerebellum"))


def _cut_short(folder: Path, values: np.ndarray) -> Path:
    path = _scan(folder, values)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _no_file(folder: Path, values: np.ndarray) -> Path:
    (folder / "x.dtseries.nii").write_bytes(b"nothing")
    return folder / "x.dtseries.nii"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_as_dscalar, "not a series over time: its axes are scalars, brain models, 13 long"),
        (_as_dlabel, "not a series over time: its axes are labels, brain models, 1 long"),
        (_as_dconn, "not a series over time: its axes are brain models, brain models"),
        (_as_volume, "not CIFTI-2"),
        (_as_one_frame, "series, brain models, 1 long"),
        (_as_ptseries, "its axes are series, parcels.*ptseries.nii is read as a table"),
        (_on_another_surface, "13 vertices, in the atlas 12"),
        (_on_other_voxels, r"not on the grid of the atlas \(\[3.0, 3.0, 3.0\] mm"),
        (_elsewhere, "shares no grayordinate"),
        (_cut_short, "is damaged"),
        (_no_file, "cannot be read as CIFTI"),
    ],
)
def test_what_is_no_series_on_the_atlas_is_refused(
    tmp_path: Path,
    small: Atlas,
    values: np.ndarray,
    make: Callable[[Path, np.ndarray], Path],
    says: str,
) -> None:
    with pytest.raises(InputError, match=says):
        extract_dtseries(make(tmp_path, values), small)


def test_a_cifti_scan_needs_a_cifti_atlas(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(InputError, match="kind='cifti'"):
        extract_dtseries(_scan(tmp_path, values), load_atlas(NAME, kind="table"))


def _ptseries(folder: Path, values: np.ndarray, names: list[str], unit: str = "SECOND") -> Path:
    parcels = ParcelsAxis(
        names,
        [np.empty((0, 3), int)] * len(names),
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([i])} for i in range(len(names))],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 32492},
    )
    return _save(folder / "x.ptseries.nii", values, _series(unit, 1.5), parcels, intent="ConnParcelSries")


def test_ptseries_is_a_table_with_names(tmp_path: Path, values: np.ndarray) -> None:
    names = ["17Networks_LH_VisCent_ExStr_1", "b", "c"]
    got, columns, t_r = read_ptseries(_ptseries(tmp_path, values[:, :3], names))
    np.testing.assert_array_equal(got, values[:, :3])
    assert columns == names and t_r == pytest.approx(1.5) and got.dtype == np.float32
    assert read_ptseries(_ptseries(tmp_path, values[:, :3], names, "HERTZ"))[2] is None
    with pytest.raises(InputError, match="not a parcellated series: its axes are series, brain models"):
        read_ptseries(_scan(tmp_path, values))
    with pytest.raises(InputError, match="not a series over time: its axes are scalars, parcels"):
        parcels = nib.load(tmp_path / "x.ptseries.nii").header.get_axis(1)
        read_ptseries(_save(tmp_path / "x.pscalar.nii", values[:2, :3], ScalarAxis(["a", "b"]), parcels))


# --- own dlabel files ---------------------------------------------------------------------------------------


def test_own_dlabel_with_a_table_takes_its_order(tmp_path: Path, small: Atlas) -> None:
    tsv = tmp_path / "own.tsv"
    tsv.write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in (9, 2, 3, 4, 7, 5)))
    atlas = load_atlas(tmp_path / "small.dlabel.nii", labels_tsv=tsv)
    assert atlas.kind == "cifti" and atlas.table["name"].tolist() == ["r9", "r2", "r3", "r4", "r7", "r5"]
    assert atlas.table["n_voxels"].tolist() == [3, 2, 4, 2, 3, 4]
    assert atlas.table.loc[2, ["x", "y", "z"]].tolist() == [9.5, -24.0, -11.5]  # voxels: mean of four
    assert np.isnan(atlas.table["x"][0])  # a surface has no place in mm


def test_own_dlabel_refused(tmp_path: Path, small: Atlas) -> None:
    path = tmp_path / "small.dlabel.nii"
    (tmp_path / "few.tsv").write_text("index\tname\n2\ta\n")
    with pytest.raises(InputError, match=r"labels \[3, 4, 5, 7, 9\] .* are not in the table"):
        load_atlas(path, labels_tsv=tmp_path / "few.tsv")
    empty = NAMES | {8: ("nowhere", (1, 1, 1, 1))}
    _save(path, KEYS[None].astype(np.float32), LabelAxis(["x"], [empty]), BRAIN)
    with pytest.raises(InputError, match=r"labels \[8\] of its label table have no grayordinate"):
        load_atlas(path)
    with pytest.raises(InputError, match="the regions of this atlas are unknown"):
        load_atlas(path, kind="table")
    with pytest.raises(InputError, match="is not a dense label file: its axes are scalars, brain models"):
        load_atlas(_save(path, KEYS[None].astype(np.float32), ScalarAxis(["x"]), BRAIN))


# --- the published file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "data" / "atlas"


@pytest.fixture(scope="module")
def atlas(published: Path) -> Atlas:
    return load_atlas(NAME, kind="cifti", atlas_dir=published)


def _written(tmp_path: Path, published: Path, change: Callable[[np.ndarray, dict[int, Any]], Any]) -> Path:
    """The published file, its labels and label table changed, in a folder of its own."""
    image = nib.load(published / FILE)
    axis, brain = (image.header.get_axis(i) for i in (0, 1))
    keys, names = np.asarray(image.dataobj)[0].astype(int), dict(axis.label[0])
    changed = change(keys, names)
    keys, names = changed if changed is not None else (keys, names)
    _save(tmp_path / Path(FILE).name, keys[None].astype(np.float32), LabelAxis(["x"], [names]), brain)
    return tmp_path


def test_published_file_in_contract_order(published: Path, atlas: Atlas) -> None:
    image = nib.load(published / FILE)
    np.testing.assert_array_equal(atlas.labels, np.asarray(image.dataobj)[0])  # it is in our order already
    assert atlas.labels.shape == (91282,) and atlas.n_rois == 450 and atlas.order == "17networks"
    names = image.header.get_axis(0).label[0]
    assert atlas.table["name"].tolist() == [names[k][0] for k in range(1, 451)]
    assert atlas.sources[0]["known"].startswith("tian-s3+schaefer-400 as published")


def test_seven_network_file_is_arranged_by_its_names(tmp_path: Path, published: Path, atlas: Atlas) -> None:
    """What the 7-network file is: the same parcels under that order's numbers and names (older ones too)."""
    table = schaefer_table()

    def to_seven(keys: np.ndarray, names: dict[int, Any]) -> Any:
        number = np.concatenate([np.arange(51), 50 + table["label_7networks"]])
        older = schaefer_names("17networks", 400)["7networks older than 0.14.3"]
        for label, name in zip(table["label_7networks"], older, strict=True):
            names[50 + int(label)] = (name, (1, 1, 1, 1))
        return number[keys], names

    folder = _written(tmp_path, published, to_seven)
    for name, order in ((NAME, "17networks"), ("tian-s3+schaefer-400-7networks", "7networks")):
        found = load_atlas(name, kind="cifti", atlas_dir=folder)
        assert found.order == order
        if order == "17networks":
            assert found.sha256 == atlas.sha256
        else:
            number = np.concatenate([np.arange(51), 50 + table["label_7networks"]])
            np.testing.assert_array_equal(found.labels, number[atlas.labels])


def test_one_part_of_the_published_file(published: Path, atlas: Atlas) -> None:
    cortex = load_atlas("schaefer-400", kind="cifti", atlas_dir=published)
    np.testing.assert_array_equal(cortex.labels, np.maximum(atlas.labels - 50, 0))
    deep = load_atlas("tian-s3", kind="cifti", atlas_dir=published)
    np.testing.assert_array_equal(deep.labels, np.where(atlas.labels <= 50, atlas.labels, 0))


def _shuffle_cortex(keys: np.ndarray, names: dict[int, Any]) -> Any:
    numbers = np.arange(451)
    numbers[51:251] = 51 + np.random.default_rng(0).permutation(200)  # within the left hemisphere
    return numbers[keys], names


def _shuffle_subcortex(keys: np.ndarray, names: dict[int, Any]) -> Any:
    numbers = np.arange(451)
    numbers[[4, 9]] = 9, 4
    return numbers[keys], names


def _exchange_sides(keys: np.ndarray, names: dict[int, Any]) -> Any:
    numbers = np.arange(451)  # one pair, which numbers of vertices cannot show
    numbers[[51, 251]] = 251, 51
    return numbers[keys], names


def _empty_two(keys: np.ndarray, names: dict[int, Any]) -> Any:
    return np.where(np.isin(keys, [60, 17]), 0, keys), names


def _unnamed(keys: np.ndarray, names: dict[int, Any]) -> Any:
    del names[60]
    return keys, names


def _lacking(keys: np.ndarray, names: dict[int, Any]) -> Any:
    del names[60]
    return np.where(keys == 60, 0, keys), names


def _other_size(keys: np.ndarray, names: dict[int, Any]) -> Any:
    small = schaefer_names("17networks", 100)["17networks"]
    kept = {k: names[k] for k in range(51)} | {51 + i: (name, (1, 1, 1, 1)) for i, name in enumerate(small)}
    return np.where(keys > 150, 0, keys), kept


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_shuffle_cortex, "other numbers of vertices than the published ones"),
        (_shuffle_subcortex, r"labels \[4, 9\] are exchanged|only 96% of its labels"),
        (_exchange_sides, "LH_VisCent_ExStr_1, 17Networks_RH_VisCent_ExStr_1 lie in the other hemisphere"),
        (_empty_two, r"CAU-body-rh, 17Networks_LH_VisCent_ExStr_9 have no grayordinate"),
        (_unnamed, r"labels \[60\] are not in its label table"),
        (_lacking, "it lacks 17Networks_LH_VisCent_ExStr_9"),
        (_other_size, "the names are those of schaefer-100, not of schaefer-400"),
    ],
)
def test_a_file_whose_labels_are_not_what_their_names_say_is_refused(
    tmp_path: Path, published: Path, change: Callable[[np.ndarray, dict[int, Any]], Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        load_atlas(NAME, kind="cifti", atlas_dir=_written(tmp_path, published, change))


def test_vertices_on_the_medial_wall_do_not_matter(tmp_path: Path, published: Path, atlas: Atlas) -> None:
    def fill(keys: np.ndarray, names: dict[int, Any]) -> Any:
        cortex = np.flatnonzero(keys[:59412] == 0)
        keys[cortex] = keys[cortex - 1]
        return keys, names

    found = load_atlas(NAME, kind="cifti", atlas_dir=_written(tmp_path, published, fill))
    assert 0 < (found.labels != atlas.labels).sum() < 900


def test_no_file_and_no_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(url: str, **kwargs: object) -> str:
        asked.append(url.rsplit("/", 1)[1])
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", note)
    monkeypatch.delenv("BJEPA_ATLAS_DIR", raising=False)
    with pytest.raises(InputError, match=r"no CIFTI file of schaefer-900 and tian-s3 was found"):
        load_atlas("tian-s3+schaefer-900", kind="cifti", atlas_dir=tmp_path)
    for name in ("tian-s2+schaefer-200", "schaefer-400", "tian-s4+schaefer-100-7networks"):
        with pytest.raises(InputError, match="could not be downloaded"):
            load_atlas(name, kind="cifti")
    assert asked == [
        "Schaefer2018_200Parcels_17Networks_order_Tian_Subcortex_S2.dlabel.nii",
        "Schaefer2018_400Parcels_17Networks_order_Tian_Subcortex_S1.dlabel.nii",
        "Schaefer2018_100Parcels_7Networks_order_Tian_Subcortex_S4.dlabel.nii",
    ]


def test_saved_cifti_atlas_is_the_atlas(tmp_path: Path, atlas: Atlas) -> None:
    import hashlib

    save_atlas(atlas, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["atlas.dlabel.nii", "atlas.json", "atlas.tsv"]
    labels = np.asarray(nib.load(tmp_path / "atlas.dlabel.nii").dataobj)[0].astype(np.int16)
    facts = json.loads((tmp_path / "atlas.json").read_text())
    assert hashlib.sha256(labels.tobytes()).hexdigest() == facts["sha256"] == atlas.sha256
    assert facts["kind"] == "cifti" and facts["space"] == "fsLR" and len(facts["citations"]) == 2
    again = load_atlas(tmp_path / "atlas.dlabel.nii")
    assert again.table["name"].equals(atlas.table["name"]) and again.sha256 == atlas.sha256


def test_real_dense_file_of_another_grayordinate_list(shared: Path, atlas: Atlas) -> None:
    """60,951 vertices (no subcortex, another medial wall) against nibabel and numpy, vertex by vertex."""
    path = shared / "data/cifti/Conte69.MyelinAndCorrThickness.32k_fs_LR.dtseries.nii"
    scan = extract_dtseries(path, atlas)
    image = nib.load(path)
    dense = np.full((2, 2, 32492), np.nan)  # (map, hemisphere, vertex)
    label = np.zeros((2, 32492), int)
    for target, axis, data in (
        (dense, image.header.get_axis(1), np.asarray(image.dataobj, np.float64)),
        (label, atlas.labels_img.header.get_axis(1), atlas.labels),
    ):
        for name, rows, model in axis.iter_structures():
            if "CORTEX" in name:
                target[..., int("RIGHT" in name), model.vertex] = data[..., rows]
    expected = np.array([[np.nanmean(m[label == k]) for k in range(51, 451)] for m in dense])
    np.testing.assert_allclose(scan.timeseries[:, 50:], expected, rtol=1e-5)
    share = [(np.isfinite(dense[0]) & (label == k)).sum() / (label == k).sum() for k in range(51, 451)]
    np.testing.assert_allclose(scan.coverage[50:], share)
    assert np.isnan(scan.timeseries[:, :50]).all() and (scan.coverage[:50] == 0).all()
    assert tian_table()["name"].tolist() == atlas.table["name"][:50].tolist()
