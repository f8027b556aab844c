"""gradients/surface_series.py, tables.py: series of vertices as nibabel wrote them, and what is refused."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, ScalarAxis, SeriesAxis
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from bjepa.gradients.affinity import compute_affinity
from bjepa.gradients.connectivity import functional_connectivity
from bjepa.gradients.neighbours import sparse_affinity
from bjepa.gradients.scans import TableScans, is_series
from bjepa.gradients.surface_series import choose_hemisphere, read_surface_series
from bjepa.gradients.tables import SUFFIXES, read_table, table_suffix
from bjepa.preproc.errors import InputError

T, V = 5, 11
SERIES = np.random.default_rng(0).standard_normal((T, V)).astype(np.float32)


def gifti(path: Path, series: NDArray[Any] = SERIES, structure: str = "") -> Path:
    meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": structure} if structure else {})
    arrays = [nib.gifti.GiftiDataArray(frame, intent="NIFTI_INTENT_TIME_SERIES") for frame in series]
    nib.save(nib.GiftiImage(darrays=arrays, meta=meta), path)
    return path


def cifti(path: Path, *, n_frames: int = T, time: bool = True) -> tuple[Path, NDArray[np.float32]]:
    """Right surface first, voxels between: the order that files have is not told by the format."""
    right = BrainModelAxis.from_surface([0, 2, 5, 6], 9, "CORTEX_RIGHT")
    voxels = BrainModelAxis.from_mask(np.ones((2, 1, 3)), affine=np.eye(4), name="THALAMUS_LEFT")
    left = BrainModelAxis.from_surface([1, 3, 8], 9, "CORTEX_LEFT")
    axis = right + voxels + left
    values = np.random.default_rng(1).standard_normal((n_frames, len(axis))).astype(np.float32)
    names = [f"map {number}" for number in range(n_frames)]
    first = SeriesAxis(0, 0.72, n_frames) if time else ScalarAxis(names)
    nib.save(nib.Cifti2Image(values, (first, axis)), path)
    return path, values


def test_a_gifti_series_is_all_vertices_of_its_hemisphere(tmp_path: Path) -> None:
    table = read_table(gifti(tmp_path / "sub-1_hemi-R_bold.func.gii"))
    assert_array_equal(table.values, SERIES)
    assert table.values.dtype == np.float32
    assert (
        table.columns is not None and table.columns[:2] == ["R-00000", "R-00001"] and len(table.columns) == V
    )
    square = read_table(gifti(tmp_path / "lh.func.gii", SERIES[:, :T]))
    assert is_series(square, tmp_path)  # as many vertices as frames, and still no connectivity
    told = gifti(tmp_path / "x.func.gii", structure="CortexLeft")
    assert read_surface_series(told, hemisphere="L")[1][0] == "L-00000"
    assert read_surface_series(gifti(tmp_path / "y.func.gii"))[1][0] == "vertex-00000"


def test_a_dense_series_is_its_cortex(tmp_path: Path) -> None:
    path, values = cifti(tmp_path / "x.dtseries.nii")
    table = read_table(path)
    assert_array_equal(table.values, values[:, [0, 1, 2, 3, 10, 11, 12]])
    assert table.columns == ["R-00000", "R-00002", "R-00005", "R-00006", "L-00001", "L-00003", "L-00008"]
    left = read_table(path, hemisphere="L")
    assert_array_equal(left.values, values[:, 10:])
    assert left.columns == ["L-00001", "L-00003", "L-00008"]


def test_a_published_file_is_read_as_nibabel_does(shared: Path) -> None:
    path = shared / "data/cifti/Conte69.MyelinAndCorrThickness.32k_fs_LR.dtseries.nii"
    image = nib.load(path)
    axis = image.header.get_axis(1)
    values, names = read_surface_series(path, hemisphere="R")
    of_right = axis.name == "CIFTI_STRUCTURE_CORTEX_RIGHT"
    assert_array_equal(values, image.get_fdata()[:, of_right].astype(np.float32))
    assert names == [f"R-{vertex:05d}" for vertex in axis.vertex[of_right]]


def test_scans_of_surface_files_feed_the_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal((30, 40)).astype(np.float32) for _ in range(3)]
    files = [gifti(tmp_path / f"sub-{n}_hemi-L_bold.func.gii", x) for n, x in enumerate(arrays)]
    scans = TableScans(files, read_table(files[0]).columns, hemisphere="L")
    found = sparse_affinity(scans.subset([0, 2]), n_neighbors=40, sparsity=0.5)
    fc = functional_connectivity([arrays[0], arrays[2]])
    assert np.abs(found.toarray() - compute_affinity(fc, sparsity=0.5)).max() < 1e-6
    scans.files[1] = gifti(tmp_path / "sub-9_hemi-L_bold.func.gii", arrays[1][:, 1:])
    with pytest.raises(InputError, match="holds 39 vertices, not the 40 of the first file"):
        scans.phases(1)


def test_one_hemisphere_of_a_folder(tmp_path: Path) -> None:
    names = [
        "a_hemi-L_bold.func.gii",
        "a_hemi-R_bold.func.gii",
        "x.dtseries.nii",
        "s.R.func.gii",
        "lh.func.gii",
    ]
    files = [tmp_path / name for name in names]
    assert [file.name for file in choose_hemisphere(files, "R")] == [names[1], names[2], names[3]]
    assert [file.name for file in choose_hemisphere(files, "L")] == [names[0], names[2], names[4]]
    assert choose_hemisphere(files[1:4], None) == files[1:4]
    with pytest.raises(InputError, match=r"a_hemi-L.* holds the left, .*a_hemi-R.* the right hemisphere"):
        choose_hemisphere(files, None)
    with pytest.raises(InputError, match="none of 1 files is of hemisphere L"):
        choose_hemisphere(files[1:2], "L")
    with pytest.raises(InputError, match="hemisphere must be one of"):
        choose_hemisphere(files, "left")  # type: ignore[arg-type]


def test_float32_tables_stay_so_if_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SERIES)
    assert read_table(tmp_path / "x.npy").values.dtype == np.float64
    kept = read_table(tmp_path / "x.npy", keep_float32=True).values
    assert kept.dtype == np.float32
    assert_array_equal(kept, SERIES)
    np.save(tmp_path / "y.npy", SERIES.astype(np.float16))
    assert read_table(tmp_path / "y.npy", keep_float32=True).values.dtype == np.float64
    assert TableScans([tmp_path / "x.npy"]).phases(0)[0].dtype == np.float32


def test_suffixes() -> None:
    assert {".npy", ".func.gii", ".dtseries.nii"} < set(SUFFIXES)
    found = [
        table_suffix(Path(name)) for name in ("a.func.gii", "A.DTSERIES.NII", "b.csv.gz", "c.nii", "d.gii")
    ]
    assert found == [".func.gii", ".dtseries.nii", ".csv.gz", None, None]


def test_refuses_what_is_no_surface_series(tmp_path: Path) -> None:
    def refused(path: Path, says: str, **options: Any) -> None:
        with pytest.raises(InputError, match=says):
            read_table(path, **options)

    refused(tmp_path / "no.func.gii", "does not exist")
    (tmp_path / "torn.func.gii").write_text("<GIFTI")
    refused(tmp_path / "torn.func.gii", "cannot be read as GIFTI")
    refused(gifti(tmp_path / "map.func.gii", SERIES[:1]), "holds 1 arrays of shape .*, not a series")
    wrong = gifti(tmp_path / "a_hemi-L_x.func.gii", structure="CortexRight")
    refused(wrong, "its name says hemisphere L, its metadata R")
    right = gifti(tmp_path / "rh.func.gii")
    refused(right, "holds hemisphere R, not L", hemisphere="L")
    refused(gifti(tmp_path / "z.func.gii"), "unknown .*, not L", hemisphere="L")
    refused(cifti(tmp_path / "s.dtseries.nii", time=False)[0], "not a dense series over time: .*scalars")
    refused(cifti(tmp_path / "one.dtseries.nii", n_frames=1)[0], "not a dense series")
    np.save(tmp_path / "x.npy", SERIES)
    refused(tmp_path / "x.npy", "hemisphere L cannot be chosen", hemisphere="L")
    voxels = BrainModelAxis.from_mask(np.ones((2, 1, 3)), affine=np.eye(4), name="THALAMUS_LEFT")
    nib.save(nib.Cifti2Image(SERIES[:, :6], (SeriesAxis(0, 1, T), voxels)), tmp_path / "v.dtseries.nii")
    refused(tmp_path / "v.dtseries.nii", "holds no CIFTI_STRUCTURE_CORTEX_LEFT or .*, but .*THALAMUS_LEFT")


def test_a_dense_series_that_is_cut_short(tmp_path: Path) -> None:
    path = cifti(tmp_path / "x.dtseries.nii")[0]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"x\.dtseries\.nii is damaged"):
        read_table(path)
