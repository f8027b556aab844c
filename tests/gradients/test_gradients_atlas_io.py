"""gradients/atlas_io.py, atlas_reading.py, painting.py: round trips, also of regions without gradients."""

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array, random_array

from bjepa.gradients.atlas_io import load_fc_mean, load_gradients, write_gradients
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.regions import Regions, named_regions, read_regions
from bjepa.preproc.errors import InputError

nib: Any = nibabel
R, C = 7, 3
NAMES = [f"Vis_{n}" for n in range(R)]
MISSING = (1, 5)

Array = NDArray[np.float64]


def embedding(*, missing: tuple[int, ...] = ()) -> Embedding:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(R, C)) * [3, 1, 1e-7]
    values[list(missing)] = np.nan
    return Embedding(
        gradients=values,
        eigenvalues=np.array([0.5, 0.3, 0.1]),
        multipliers=np.array([1.0, 3 / 7, 1 / 9]),
        residuals=np.array([1e-15, 2e-15, 3e-15]),
        next_eigenvalue=0.05,
        kept=~np.isin(np.arange(R), missing),
    )


def write(folder: Path, result: Embedding, regions: Regions | None = None, **changes: Any) -> None:
    fc = np.random.default_rng(4).normal(size=(R, R))
    given: dict[str, Any] = {"affinity": np.eye(R), "fc_mean": fc + fc.T, "parameters": {"kernel": "cosine"}}
    write_gradients(folder, result, regions or named_regions(NAMES), **(given | changes))


def label_volume() -> Any:
    labels = np.zeros((2, 3, 4), dtype=np.int16)
    labels.flat[3:17] = np.repeat(np.arange(1, R + 1), 2)
    return nib.Nifti1Image(labels, np.diag([-3.0, 2.5, 4.0, 1.0]))


def write_dlabel(path: Path, keys: list[int]) -> Any:
    """Four vertices on the left, two on the right, three voxels in the brain stem."""
    models = nib.cifti2.BrainModelAxis.from_surface([0, 2, 3, 7], 9, "CortexLeft")
    models += nib.cifti2.BrainModelAxis.from_surface([1, 5], 8, "CortexRight")
    stem = np.zeros((3, 2, 4), dtype=bool)
    stem[1, 1, 1:] = True
    models += nib.cifti2.BrainModelAxis.from_mask(stem, name="BrainStem", affine=np.diag([2.0, 2, 3, 1]))
    table = {0: ("???", (0.0, 0.0, 0.0, 0.0))}
    table |= {n: (name, (0.5, 0.5, 0.5, 1.0)) for n, name in enumerate(NAMES, start=1)}
    header = (nib.cifti2.LabelAxis(["x"], [table]), models)
    image = nib.Cifti2Image(np.array([keys], dtype=np.int16), header=header)
    image.nifti_header.set_intent("ConnDenseLabel")
    nib.save(image, path)
    return models


def test_every_number_and_parameter_reads_back(tmp_path: Path) -> None:
    result, variance = embedding(), np.array([0.31, 0.42, 0.5])
    parameters = {"approach": "dm", "n_neighbors": 300, "alpha": 0.5, "keep_largest": False, "seed": None}
    write(tmp_path, result, variance=variance, parameters=parameters)
    for name in ("gradients.csv", "gradients.tsv", "gradients.h5"):
        table = load_gradients(tmp_path / name)
        assert_array_equal(table.values, result.gradients)  # to the last digit
        assert table.names == NAMES
    with h5py.File(tmp_path / "gradients.h5") as file:
        assert_array_equal(file["variance_explained"][()], variance)
        assert_array_equal(file["kept"][()], np.ones(R, dtype=bool))
        stored = dict(file.attrs)
    del parameters["seed"]  # no option of that run
    assert {key: stored[key] for key in parameters} == parameters
    assert "seed" not in stored
    eigenvalues = pd.read_csv(tmp_path / "eigenvalues.tsv", sep="\t")
    assert list(eigenvalues.columns[-2:]) == ["residual", "variance_explained"]
    assert_allclose(eigenvalues["relative_gap_to_next"], [0.4, 2 / 3, 0.5])


def test_a_region_without_gradients_keeps_its_row(tmp_path: Path) -> None:
    result = embedding(missing=MISSING)
    write(tmp_path, result)
    assert (tmp_path / "gradients.csv").read_text().splitlines()[1] == "nan,nan,nan"
    assert (tmp_path / "gradients.tsv").read_text().splitlines()[2] == "2\tVis_1\tn/a\tn/a\tn/a"
    with h5py.File(tmp_path / "gradients.h5") as file:
        assert_array_equal(np.flatnonzero(~file["kept"][()]), MISSING)
    for name in ("gradients.csv", "gradients.tsv", "gradients.h5"):
        read = load_gradients(tmp_path / name, allow_missing=True)
        assert_array_equal(read.values, result.gradients)
        assert read.names == NAMES
        says = r"2 of 7 regions have no gradients, rows 2 \(Vis_1\), 6 \(Vis_5\).*--keep-largest.*--sparsity"
        with pytest.raises(InputError, match=says):
            load_gradients(tmp_path / name)
    (tmp_path / "gradients.h5").unlink()
    with pytest.raises(InputError, match=r"rows 2, 6 \(counted"):
        load_gradients(tmp_path / "gradients.csv")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ((2, 1, np.nan), "1 non-finite"),
        ((2, slice(None), np.inf), "3 non-finite"),
        ((slice(None),) * 2 + (np.nan,), "21"),
    ],
)
def test_other_missing_values_are_refused(tmp_path: Path, broken: tuple[Any, Any, float], says: str) -> None:
    values = embedding().gradients.copy()
    values[broken[0], broken[1]] = broken[2]
    np.savetxt(tmp_path / "x.csv", values, delimiter=",")
    with pytest.raises(InputError, match=says):
        load_gradients(tmp_path / "x.csv", allow_missing=True)


def test_a_sparse_affinity_is_stored_as_its_rows(tmp_path: Path) -> None:
    affinity = csr_array(random_array((R, R), density=0.3, rng=np.random.default_rng(0)))
    write(tmp_path, embedding(), affinity=affinity, fc_mean=None)
    with h5py.File(tmp_path / "gradients.h5") as file:
        group = file["affinity"]
        parts = tuple(group[name][()] for name in ("data", "indices", "indptr"))
        read = csr_array(parts, shape=tuple(group.attrs["shape"]))
        assert group.attrs["format"] == "csr"
        assert "fc_mean" not in file and "variance_explained" not in file
    assert_array_equal(read.toarray(), affinity.toarray())
    assert "variance" not in (tmp_path / "eigenvalues.tsv").read_text()


def test_the_mean_connectivity_reads_back(tmp_path: Path) -> None:
    fc = np.random.default_rng(4).normal(size=(R, R))
    write(tmp_path, embedding())
    assert_array_equal(load_fc_mean(tmp_path / "gradients.h5"), fc + fc.T)
    with pytest.raises(InputError, match=r"gradients\.csv holds no connectivity"):
        load_fc_mean(tmp_path / "gradients.csv")
    write(tmp_path, embedding(), fc_mean=None)
    with pytest.raises(InputError, match=r"no dataset /fc_mean.*--n-neighbors"):
        load_fc_mean(tmp_path / "gradients.h5")
    write(tmp_path, embedding(), fc_mean=np.ones((R, C)))
    with pytest.raises(InputError, match="must be square"):
        load_fc_mean(tmp_path / "gradients.h5")


def test_a_volume_is_0_outside_and_where_there_is_no_value(tmp_path: Path) -> None:
    result, image = embedding(missing=MISSING), label_volume()
    write(tmp_path, result, Regions(table=named_regions(NAMES).table, labels_img=image))
    painted = nib.load(tmp_path / "gradients.nii.gz")
    assert_allclose(painted.affine, image.affine)
    values, labels = np.asarray(painted.dataobj), np.asarray(image.dataobj)
    expected = np.nan_to_num(result.gradients)
    for number in range(R):
        assert_allclose(values[labels == number + 1], np.tile(expected[number], (2, 1)), rtol=1e-6)
    assert (values[labels == 0] == 0).all()
    write(tmp_path, result)  # another atlas, without a volume
    assert not (tmp_path / "gradients.nii.gz").exists()


def test_grayordinates_take_the_values_of_their_region(tmp_path: Path) -> None:
    keys = [3, 0, 1, 7, 2, 0, 4, 6, 5]
    models = write_dlabel(tmp_path / "atlas.dlabel.nii", keys)
    result = embedding(missing=MISSING)
    write(tmp_path, result, Regions(table=named_regions(NAMES).table, dlabel=tmp_path / "atlas.dlabel.nii"))
    image = nib.load(tmp_path / "gradients.dscalar.nii")
    maps, axis = (image.header.get_axis(i) for i in (0, 1))
    assert list(maps.name) == ["gradient_1", "gradient_2", "gradient_3"]
    assert axis == models
    assert image.nifti_header.get_intent()[0] == "ConnDenseScalar"
    expected = [[0.0] * C if key in (0, 2, 6) else result.gradients[key - 1] for key in keys]
    assert_allclose(np.asarray(image.dataobj).T, expected, rtol=1e-6)
    write(tmp_path, result)
    assert not (tmp_path / "gradients.dscalar.nii").exists()


def test_the_labels_of_a_folder_atlas_are_found(tmp_path: Path) -> None:
    named_regions(NAMES).table.to_csv(tmp_path / "atlas.tsv", sep="\t", index=False)
    (tmp_path / "atlas.json").write_text('{"name": "seven", "sha256": "ab"}')
    assert read_regions(tmp_path, n_rois=R, atlas_sha256="ab").dlabel is None
    write_dlabel(tmp_path / "atlas.dlabel.nii", [3, 0, 1, 7, 2, 0, 4, 6, 5])
    found = read_regions(tmp_path, n_rois=R, atlas_sha256="ab")
    assert found.dlabel == tmp_path / "atlas.dlabel.nii"
    assert found.labels_img is None
