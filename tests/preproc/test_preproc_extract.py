"""preproc/extract.py, operator.py, stream.py: against nilearn, laws, damage."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker
from numpy.testing import assert_allclose

from bjepa.preproc import InputError, extract_timeseries, load_atlas
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.operator import build_operator, cached_operator

SHAPE = (9, 11, 8, 6)  # x y z t, all different
ATLAS_SHAPE = (12, 10, 14)
# two oblique grids, three voxel sizes each, one of them left-handed
AFFINE = np.array([[-3.0, 0.2, 0, 11], [0.1, 0, 3.3, -15], [0, 2.7, 0.1, -12], [0, 0, 0, 1]])
ATLAS_AFFINE = np.array([[2.0, 0, 0, -13], [0, 2.2, 0, -11], [0, 0, 1.8, -11], [0, 0, 0, 1]])
LABELS = [3, 130, 131, 400]  # gaps, beyond int8


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    rng = np.random.default_rng(0)
    labels = np.zeros(ATLAS_SHAPE, np.int16)
    labels[3:10, 2:8, 3:11] = rng.choice([0, *LABELS], size=(7, 6, 8))
    folder = tmp_path_factory.mktemp("atlas")
    nib.save(nib.Nifti1Image(labels, ATLAS_AFFINE), folder / "own.nii.gz")
    (folder / "own.tsv").write_text("index\tname\n" + "".join(f"{k}\tr{k}\n" for k in LABELS))
    return load_atlas(folder / "own.nii.gz", space="here", labels_tsv=folder / "own.tsv")


def _save(path: Path, data: np.ndarray, affine: np.ndarray, **header: Any) -> Path:
    image = nib.Nifti1Image(data, affine)
    zooms = (*image.header.get_zooms()[:3], header.get("t_r", 2.2))
    image.header.set_zooms(zooms[: data.ndim])
    image.header.set_xyzt_units("mm", header.get("unit", "sec"))
    image.set_sform(affine, code=header.get("code", 4))
    image.set_qform(None, code=0)
    if "slope" in header:
        image.header.set_slope_inter(header["slope"], header["inter"])
    nib.save(image, path)
    return path


def _bold(tmp_path: Path, **kwargs: Any) -> Path:
    data = np.random.default_rng(1).uniform(50, 200, SHAPE)
    return _save(tmp_path / "bold.nii.gz", data.astype(np.float32), AFFINE, **kwargs)


def test_equals_nilearn_linear_resampling_and_label_means(
    tmp_path: Path, atlas: Atlas, means_by_nilearn: Callable[[Path, Atlas], np.ndarray]
) -> None:
    scan = extract_timeseries(_bold(tmp_path), atlas)
    assert scan.timeseries.shape == (6, 4) and scan.timeseries.dtype == np.float32
    assert_allclose(scan.coverage, 1)
    assert_allclose(scan.timeseries, means_by_nilearn(tmp_path / "bold.nii.gz", atlas), rtol=1e-6)
    assert scan.t_r == pytest.approx(2.2)


def test_equals_the_masker_on_its_own_grid(tmp_path: Path, atlas: Atlas) -> None:
    data = np.random.default_rng(2).uniform(50, 200, (*ATLAS_SHAPE, 5)).astype(np.float32)
    path = _save(tmp_path / "same.nii", data, ATLAS_AFFINE)
    masker = NiftiLabelsMasker(atlas.labels_img, standardize=None)
    assert_allclose(extract_timeseries(path, atlas).timeseries, masker.fit_transform(path), rtol=1e-6)


@pytest.mark.parametrize("number", ["007", "018", "107", "112"])
def test_real_scans_equal_nilearn(
    shared: Path, number: str, means_by_nilearn: Callable[[Path, Atlas], np.ndarray]
) -> None:
    atlas = load_atlas(space="MNI152NLin6Asym", atlas_dir=shared / "data/atlas")
    path = shared / f"data/bold4d/gift_lowres_mni/sub-{number}_lowres.nii.gz"
    scan = extract_timeseries(path, atlas)
    assert scan.timeseries.shape == (50, 450) and scan.coverage.min() > 0.999
    expected = means_by_nilearn(path, atlas)
    assert np.abs(scan.timeseries / expected - 1).max() <= 1e-6


def test_integers_with_slope_and_big_endian(tmp_path: Path, atlas: Atlas) -> None:
    data = np.random.default_rng(3).integers(-500, 1200, SHAPE).astype(np.int16)
    plain = _save(tmp_path / "plain.nii.gz", data, AFFINE)
    _save(tmp_path / "scaled.nii.gz", data, AFFINE, slope=0.25, inter=-3.0)
    raw = extract_timeseries(plain, atlas).timeseries
    scaled = nib.load(tmp_path / "scaled.nii.gz")
    assert scaled.dataobj.slope == 0.25
    assert_allclose(
        extract_timeseries(tmp_path / "scaled.nii.gz", atlas).timeseries, 0.25 * raw - 3, rtol=1e-6
    )
    big = nib.Nifti1Image(data, AFFINE, nib.load(plain).header.as_byteswapped(">"))
    nib.save(big, tmp_path / "big.nii")
    assert extract_timeseries(tmp_path / "big.nii", atlas).timeseries.tolist() == raw.tolist()


def test_law_any_storage_orientation_gives_the_same_means(tmp_path: Path, atlas: Atlas) -> None:
    image = nib.load(_bold(tmp_path))
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    first = extract_timeseries(tmp_path / "bold.nii.gz", atlas).timeseries
    assert_allclose(extract_timeseries(tmp_path / "turned.nii.gz", atlas).timeseries, first, rtol=1e-6)


def test_law_a_constant_image_has_constant_means_whatever_is_covered(tmp_path: Path, atlas: Atlas) -> None:
    data = np.full(SHAPE, 700, np.int16)
    shifted = AFFINE.copy()
    shifted[0, 3] += 9  # part of the atlas is outside now
    scan = extract_timeseries(_save(tmp_path / "c.nii", data, shifted), atlas)
    assert 0.2 < scan.coverage.min() < 0.95
    assert_allclose(scan.timeseries, 700, rtol=1e-6)


def test_voxels_at_zero_outside_the_mask_or_not_finite_are_left_out(tmp_path: Path, atlas: Atlas) -> None:
    data = np.random.default_rng(4).uniform(50, 200, SHAPE).astype(np.float32)
    mask = np.ones(SHAPE[:3], np.uint8)
    mask[:, :5] = 0
    zeroed, poisoned = data * mask[..., None], data.copy()
    poisoned[:, :5, :, 3] = np.nan  # bad in one frame only: out in all
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")
    masked = extract_timeseries(_save(tmp_path / "a.nii", data, AFFINE), atlas, tmp_path / "mask.nii.gz")
    zero = extract_timeseries(_save(tmp_path / "b.nii", zeroed, AFFINE), atlas)
    nan = extract_timeseries(_save(tmp_path / "c.nii", poisoned, AFFINE), atlas)
    assert masked.coverage.max() < 1 and nan.n_invalid_voxels > 0
    for other in (zero, nan):
        assert_allclose(other.timeseries, masked.timeseries, rtol=1e-6)
        assert_allclose(other.coverage, masked.coverage, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"), [("i2", 0.25, -3.0), ("u1", 0.9, 20.0), ("i2", 0.013, 217.4)]
)
def test_voxels_at_zero_are_left_out_whatever_the_intercept(
    tmp_path: Path, atlas: Atlas, dtype: str, slope: float, inter: float
) -> None:
    """nibabel stores integers with slope and intercept, where 0 is some raw number, rounded."""
    raw = np.random.default_rng(7).integers(30, 200, SHAPE).astype(dtype)
    mask = np.ones(SHAPE[:3], np.uint8)
    mask[:, :5] = 0
    raw[mask == 0] = np.rint(-inter / slope) if dtype == "i2" else 0
    if dtype == "u1":  # 0 cannot be written: the lowest number stands for a dark background, not for nothing
        inter = 0.0
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")
    path = _save(tmp_path / "b.nii", raw, AFFINE, slope=slope, inter=inter)
    masked = extract_timeseries(path, atlas, tmp_path / "mask.nii.gz")
    scan = extract_timeseries(path, atlas)
    assert masked.coverage.max() < 1
    assert_allclose(scan.coverage, masked.coverage, rtol=1e-12)
    assert_allclose(scan.timeseries, masked.timeseries, rtol=1e-6)


def test_masked_real_scan_is_the_same_as_float_and_as_integer(shared: Path, tmp_path: Path) -> None:
    atlas = load_atlas(space="MNI152NLin6Asym", atlas_dir=shared / "data/atlas")
    image = nib.load(shared / "data/bold4d/gift_lowres_mni/sub-007_lowres.nii.gz")
    data = image.get_fdata(dtype=np.float32)[..., :9]
    data[data.mean(axis=-1) < 0.4 * data.mean(axis=-1).max()] = 0  # brain-masked
    series = []
    for dtype in (np.float32, np.int16):  # nibabel chooses slope and intercept for integers
        written = nib.Nifti1Image(data, image.affine)
        written.set_sform(image.affine, code=4)
        written.set_data_dtype(dtype)
        nib.save(written, tmp_path / f"{np.dtype(dtype).name}.nii.gz")
        series.append(extract_timeseries(tmp_path / f"{np.dtype(dtype).name}.nii.gz", atlas))
    assert (series[0].coverage < 1).sum() > 20
    assert_allclose(series[1].coverage, series[0].coverage, atol=1e-12)
    assert_allclose(series[1].timeseries, series[0].timeseries, rtol=2e-3)


def test_a_region_outside_keeps_its_column(tmp_path: Path, atlas: Atlas) -> None:
    far = AFFINE.copy()
    far[:3, 3] += 500
    scan = extract_timeseries(_save(tmp_path / "far.nii", np.ones(SHAPE, np.int16), far), atlas)
    assert scan.coverage.tolist() == [0] * 4 and np.isnan(scan.timeseries).all()


def test_operator_cache_gives_the_same_operator(tmp_path: Path, atlas: Atlas) -> None:
    built = build_operator(atlas, SHAPE[:3], AFFINE)
    for _ in range(2):  # written, then read
        kept = cached_operator(atlas, SHAPE[:3], AFFINE, folder=tmp_path)
        assert (kept.voxels == built.voxels).all() and (kept.weights != built.weights).nnz == 0
    assert len(list(tmp_path.iterdir())) == 1
    cached_operator(atlas, SHAPE[:3], ATLAS_AFFINE, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_refuses_what_is_not_an_oriented_4d_series(tmp_path: Path, atlas: Atlas, shared: Path) -> None:
    cases = {
        "4D series": _save(tmp_path / "three.nii", np.ones(SHAPE[:3], np.int16), AFFINE),
        "no orientation": shared / "data/bold4d/native_no_affine/filtered_func_data.nii.gz",
        "does not exist": tmp_path / "absent.nii",
        "complex": _save(tmp_path / "cplx.nii", np.ones(SHAPE, np.complex64), AFFINE),
    }
    (tmp_path / "text.nii.gz").write_text("not an image " * 50)
    cases["not a readable NIfTI"] = tmp_path / "text.nii.gz"
    for says, path in cases.items():
        with pytest.raises(InputError, match=says):
            extract_timeseries(path, atlas)


def test_refuses_truncated_and_altered_files(tmp_path: Path, atlas: Atlas) -> None:
    whole = gzip.decompress(_bold(tmp_path).read_bytes())
    (tmp_path / "short.nii").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"header says 6 volumes, it ends within volume 6"):
        extract_timeseries(tmp_path / "short.nii", atlas)
    packed = bytearray(gzip.compress(whole, 1))
    (tmp_path / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    packed[-7] ^= 1  # the stored checksum
    (tmp_path / "crc.nii.gz").write_bytes(packed)
    for name in ("cut.nii.gz", "crc.nii.gz"):
        with pytest.raises(InputError, match="damaged"):
            extract_timeseries(tmp_path / name, atlas)


def test_mask_on_another_grid_is_refused(tmp_path: Path, atlas: Atlas) -> None:
    nib.save(nib.Nifti1Image(np.ones(SHAPE[:3], np.uint8), AFFINE + 0.5), tmp_path / "mask.nii")
    with pytest.raises(InputError, match="not on the grid"):
        extract_timeseries(_bold(tmp_path), atlas, tmp_path / "mask.nii")


@pytest.mark.parametrize(
    ("unit", "t_r", "expected"), [("msec", 2200, 2.2), ("unknown", 2.2, None), ("sec", 0, None)]
)
def test_header_t_r(tmp_path: Path, atlas: Atlas, unit: str, t_r: float, expected: float | None) -> None:
    scan = extract_timeseries(_bold(tmp_path, unit=unit, t_r=t_r), atlas)
    assert scan.t_r == (expected if expected is None else pytest.approx(expected))


def test_table_of_the_atlas_follows_the_file(atlas: Atlas) -> None:
    assert isinstance(atlas.table, pd.DataFrame) and atlas.table["name"].tolist() == [f"r{k}" for k in LABELS]


@pytest.fixture
def small_atlas_in_a_large_run(tmp_path: Path) -> tuple[Atlas, Path, np.ndarray]:
    """Regions far from the border, so that a filter that puts zeros outside changes nothing there."""
    shape, affine = (
        (25, 23, 27),
        np.array([[-3.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, -9], [0, 0, 0, 1]]),
    )
    labels = np.zeros(shape, np.int16)
    labels[11:13, 10:13, 12:14], labels[13:15, 10:13, 11:14] = 1, 2
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "deep.nii.gz")
    (tmp_path / "deep.tsv").write_text("index\tname\n1\ta\n2\tb\n")
    data = np.random.default_rng(5).uniform(50, 200, (*shape, 4)).astype(np.float32)
    atlas = load_atlas(tmp_path / "deep.nii.gz", space="here", labels_tsv=tmp_path / "deep.tsv")
    return atlas, _save(tmp_path / "run.nii.gz", data, affine), data


def test_smoothing_equals_nilearn(small_atlas_in_a_large_run: tuple[Atlas, Path, np.ndarray]) -> None:
    from nilearn.image import smooth_img

    atlas, run, _ = small_atlas_in_a_large_run
    smoothed = smooth_img(nib.load(run), 5.0).get_fdata()
    expected = np.stack([smoothed[atlas.labels == k].mean(axis=0) for k in (1, 2)], axis=1)
    scan = extract_timeseries(run, atlas, smoothing_fwhm=5.0)
    assert_allclose(scan.timeseries, expected, rtol=1e-5)
    assert np.abs(scan.timeseries / extract_timeseries(run, atlas).timeseries - 1).max() > 0.01
    assert scan.coverage.tolist() == [1, 1]


def test_law_smoothing_leaves_a_constant_alone_and_reads_nothing_outside_the_mask(
    small_atlas_in_a_large_run: tuple[Atlas, Path, np.ndarray], tmp_path: Path
) -> None:
    atlas, run, data = small_atlas_in_a_large_run
    affine = nib.load(run).affine
    mask = np.zeros(data.shape[:3], np.uint8)
    mask[9:17, 8:12, 10:15] = 1  # two thirds of each region
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    plain = extract_timeseries(run, atlas, tmp_path / "mask.nii.gz", smoothing_fwhm=6.0)
    wild = np.where(mask[..., None] > 0, data, 1e6).astype(np.float32)
    outside = _save(tmp_path / "wild.nii.gz", wild, affine)
    assert_allclose(
        extract_timeseries(outside, atlas, tmp_path / "mask.nii.gz", smoothing_fwhm=6.0).timeseries,
        plain.timeseries,
        rtol=1e-6,
    )
    assert_allclose(plain.coverage, 2 / 3)
    constant = _save(tmp_path / "c.nii.gz", np.full(data.shape, 700, np.int16), affine)
    scan = extract_timeseries(constant, atlas, tmp_path / "mask.nii.gz", smoothing_fwhm=6.0)
    assert_allclose(scan.timeseries, 700, rtol=1e-6)


def test_mean_image_is_of_the_scan_and_in_its_units(tmp_path: Path, atlas: Atlas) -> None:
    data = np.random.default_rng(6).integers(-500, 1200, (*SHAPE[:3], 45)).astype(np.int16)
    path = _save(tmp_path / "scaled.nii.gz", data, AFFINE, slope=0.25, inter=-3.0)
    image = extract_timeseries(path, atlas).mean_image
    assert image is not None and image.data.shape == SHAPE[:3] and image.data.dtype == np.float32
    assert_allclose(image.data, (0.25 * data[..., ::2] - 3).mean(axis=-1), rtol=1e-5, atol=1e-3)
    assert_allclose(image.affine, AFFINE)
