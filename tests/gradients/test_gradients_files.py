"""gradients/tables.py, inputs.py, atlas_io.py: what is read as what, what is refused, round trips."""

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.gradients.atlas_io import load_gradients
from bjepa.gradients.inputs import group_connectivity, open_input
from bjepa.gradients.tables import read_table
from bjepa.preproc.errors import InputError
from bjepa.preproc.number_tables import looks_transposed

Array = NDArray[np.float64]


@pytest.fixture
def fc() -> Array:
    scan = np.random.default_rng(0).normal(size=(40, 5))
    return np.asarray(np.corrcoef(scan.T))


def read_connectivity(path: Path, participants: Path | None = None) -> Any:
    return group_connectivity(open_input(path, participants=participants))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def save_h5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_a_matrix_in_every_format(tmp_path: Path, fc: Array) -> None:
    np.save(tmp_path / "a.npy", fc)
    np.savez(tmp_path / "b.npz", fc=fc, other=np.zeros((2, 3)))
    np.savetxt(tmp_path / "c.csv", fc, delimiter=",")
    save_h5(tmp_path / "d.h5", fc_mean=fc, affinity=np.ones((5, 5)))
    save_h5(tmp_path / "e.h5", **{"group/only": fc, "n": 3})
    names = ["a", "b b", "c", "d", "e"]
    lines = ["\t".join(["Node", *names])]
    lines += ["\t".join([n, *map(repr, row.tolist())]) for n, row in zip(names, fc, strict=True)]
    write(tmp_path / "f.tsv", "\n".join(lines) + "\n")
    lines = [",".join(["", *map(str, range(5))])]  # as pandas writes it: header and index are numbers
    lines += [",".join([str(n), *map(repr, row.tolist())]) for n, row in enumerate(fc)]
    write(tmp_path / "g.csv", "\n".join(lines) + "\n")
    for file in sorted(tmp_path.iterdir()):
        read = read_connectivity(file)
        assert_allclose(read.fc, fc, atol=1e-15, err_msg=file.name)
        assert read.n_scans == 0
    assert read_connectivity(tmp_path / "f.tsv").regions.names == names
    assert read_connectivity(tmp_path / "a.npy").regions.names[4] == "region-5"


def test_series_with_header_index_and_missing_cells(tmp_path: Path) -> None:
    file = write(tmp_path / "x.tsv", "time\ta\tb\tc\n0.0\t1\tn/a\t2.5\n0.8\t3\t\t1e-3\n")
    table = read_table(file)
    assert table.columns == ["time", "a", "b", "c"]
    assert_allclose(table.values, [[0, 1, np.nan, 2.5], [0.8, 3, np.nan, 1e-3]])


@pytest.mark.parametrize("start", [0, 1])
def test_a_header_of_numbers_is_no_frame(tmp_path: Path, start: int) -> None:
    header = ",".join(str(start + n) for n in range(4))
    table = read_table(write(tmp_path / "x.csv", f"{header}\n5,6,7,8.5\n"))
    assert table.columns is None
    assert_allclose(table.values, [[5, 6, 7, 8.5]])
    assert read_table(write(tmp_path / "y.csv", f"{header}.5\n5,6,7,8\n")).values.shape == (2, 4)


def test_a_folder_of_series(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    scans = {f"sub-{n}": rng.normal(size=(30 + n, 4)) for n in (1, 2, 10)}
    for name, scan in scans.items():
        (tmp_path / name).mkdir()
        np.savetxt(
            tmp_path / name / f"{name}_timeseries.tsv", scan, delimiter="\t", header="a\tb\tc\td", comments=""
        )
        write(tmp_path / name / f"{name}_desc-confounds_timeseries.tsv", "fd\n0.1\n")
    read = read_connectivity(tmp_path)
    expected = [np.arctanh(np.corrcoef(s.T) - np.eye(4)) for s in scans.values()]
    assert_allclose(read.fc, np.mean(expected, axis=0), atol=1e-10)
    assert (read.n_scans, read.n_participants, read.regions.names) == (3, 3, ["a", "b", "c", "d"])

    (tmp_path / "out").mkdir()
    save_h5(tmp_path / "out/gradients.h5", gradients=np.ones((4, 1)))
    write(tmp_path / "out/timeseries.csv", "1,2\n")  # beside results: not an input
    chosen = write(tmp_path / "participants.tsv", "age\tparticipant_id\n3\tsub-10\n4\t1\n5\tsub-77\n")
    read = read_connectivity(tmp_path, participants=chosen)
    assert_allclose(read.fc, (expected[0] + expected[2]) / 2, atol=1e-10)
    assert "77" in caplog.text


def test_one_file_of_series(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).normal(size=(7, 7))  # square: the name of the array decides
    np.savez(tmp_path / "x.npz", timeseries=scan)
    assert_allclose(
        read_connectivity(tmp_path / "x.npz").fc, np.arctanh(np.corrcoef(scan.T) - np.eye(7)), atol=1e-12
    )


def test_warns_of_columns_that_look_like_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = np.random.default_rng(0).normal(size=(60, 9)).cumsum(axis=0)  # smooth over frames
    slow[:, 4] = 3  # constant: no opinion
    slow[:, 5] = np.nan
    assert not looks_transposed(slow)
    assert looks_transposed(slow.T[[0, 1, 2, 3, 6, 7, 8]])
    assert not looks_transposed(np.random.default_rng(1).normal(size=(9, 60)))
    assert not looks_transposed(np.ones((4, 3)))
    np.save(tmp_path / "x.npy", slow[:, :4].T)
    read_connectivity(tmp_path / "x.npy")
    assert "transpose the tables" in caplog.text


def test_rounding_of_a_matrix_does_not_matter(tmp_path: Path, fc: Array) -> None:
    rounded = broken(fc, _13=fc[1, 3] + 4e-7)
    np.save(tmp_path / "x.npy", rounded)
    read = read_connectivity(tmp_path / "x.npy").fc
    assert (read == read.T).all()
    assert_allclose(read[1, 3], fc[1, 3] + 2e-7, rtol=0, atol=1e-12)


def broken(fc: Array, **changes: float) -> Array:
    fc = fc.copy()
    for place, value in changes.items():
        fc[int(place[1]), int(place[2])] = value
    return fc


def test_refuses_what_is_no_connectivity(tmp_path: Path, fc: Array) -> None:
    flat = fc.copy()
    flat[2] = flat[:, 2] = 0
    refused = [
        (broken(fc, _13=np.nan, _31=np.nan), "2 values are not finite, first in row 2, column 4"),
        (np.where(np.eye(5) == 1, np.inf, fc), "all on the diagonal.*Set the diagonal to 0"),
        (broken(fc, _13=0.9), "not symmetric: 0.9 in row 2, column 4"),
        (fc[:, :-1], "not square: 5 x 4"),
        (fc[1:], "not square: 4 x 5"),
        (np.delete(np.kron(fc, fc), 13, axis=0), "not square: 24 x 25"),
        (flat, r"regions \[3\]"),
        (np.arange(5.0), "2-D"),
        (fc.astype(complex), "complex128"),
    ]
    for matrix, says in refused:
        np.save(tmp_path / "x.npy", matrix)
        with pytest.raises(InputError, match=says):
            read_connectivity(tmp_path / "x.npy")


def test_refuses_files(tmp_path: Path, fc: Array) -> None:
    np.savez(tmp_path / "two.npz", a=fc, b=fc)
    np.savez(tmp_path / "named.npz", fc=fc[:, :2])
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    write(tmp_path / "truncated.h5", "no hdf5")
    write(tmp_path / "truncated.npz", "PK")
    write(tmp_path / "empty.csv", "")
    write(tmp_path / "header.csv", "a,b\n")
    write(tmp_path / "ragged.csv", "1,2\n3\n")
    write(tmp_path / "words.csv", "1,2\n3,four\n")
    write(tmp_path / "index.csv", ",\n0,\n")
    (tmp_path / "latin.csv").write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "scan.nii", "x")
    (tmp_path / "folder").mkdir()
    refused = {
        "absent.csv": "does not exist",
        "two.npz": "2 tables to choose from",
        "named.npz": "not square: 5 x 2",
        "pickle.npy": "not a readable .npy",
        "truncated.h5": "not a readable .h5",
        "truncated.npz": "not a readable .npz",
        "empty.csv": "is empty",
        "header.csv": "a header and no rows",
        "ragged.csv": "line 2 has another number of cells",
        "words.csv": "not a number.*four",
        "index.csv": "at least 3",
        "latin.csv": "not a readable text table",
        "scan.nii": "run bjepa-preprocess first",
        "folder": "neither shards nor tables",
    }
    for name, says in refused.items():
        with pytest.raises(InputError, match=says):
            read_connectivity(tmp_path / name)


def test_refuses_a_matrix_among_series(tmp_path: Path, fc: Array) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(9, 5)))
    np.save(tmp_path / "b.npy", fc)
    with pytest.raises(InputError, match=r"b\.npy is a connectivity matrix among time series"):
        read_connectivity(tmp_path)


def test_participants_choose_scans_not_matrices(tmp_path: Path, fc: Array) -> None:
    people = write(tmp_path / "people.txt", "sub-1\n")
    np.save(tmp_path / "fc.npy", fc)
    with pytest.raises(InputError, match="cannot choose within one matrix"):
        read_connectivity(tmp_path / "fc.npy", participants=people)
    np.save(tmp_path / "sub-2.npy", np.random.default_rng(0).normal(size=(9, 5)))
    with pytest.raises(InputError, match="none of whom"):
        read_connectivity(tmp_path / "sub-2.npy", participants=people)


def test_gradients_of_others(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    np.savetxt(tmp_path / "theirs.csv", values, delimiter=",")
    assert_allclose(load_gradients(tmp_path / "theirs.csv").values, values)
    assert load_gradients(tmp_path / "theirs.csv").atlas_sha256 is None
    save_h5(tmp_path / "theirs.h5", gradients=values)
    assert load_gradients(tmp_path / "theirs.h5").atlas_sha256 is None

    save_h5(tmp_path / "gradients.h5", gradients=2 * values)  # beside the table, but of other numbers
    with h5py.File(tmp_path / "gradients.h5", "a") as file:
        file.attrs["atlas_sha256"] = "ef"
    beside = load_gradients(tmp_path / "theirs.csv")
    assert beside.atlas_sha256 is None
    assert_allclose(beside.values, values)

    save_h5(tmp_path / "none.h5", other=values)
    save_h5(tmp_path / "words.h5", gradients=np.array([b"a"]))
    refused = {
        "absent.csv": "not a file",
        "none.h5": "no dataset /gradients",
        "words.h5": "must be numbers",
        write(tmp_path / "bad.h5", "x").name: "not a readable HDF5",
        write(tmp_path / "head.csv", "a,b\n1,2\n").name: "neither header nor index",
        write(tmp_path / "nan.csv", "1,nan\n1,2\n").name: "1 non-finite",
        write(tmp_path / "no.tsv", "a\tb\n1\t2\n").name: "no column gradient_1",
        write(tmp_path / "text.tsv", "gradient_1\nx\n").name: "not a table",
        write(tmp_path / "x.txt", "1").name: "not '.txt'",
    }
    for name, says in refused.items():
        with pytest.raises(InputError, match=says):
            load_gradients(tmp_path / name)


def test_series_of_regions_in_another_order_are_refused(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).normal(size=(30, 4))
    for name, columns in (("a", "w\tx\ty\tz"), ("b", "w\ty\tx\tz")):
        np.savetxt(tmp_path / f"{name}.tsv", scan, delimiter="\t", header=columns, comments="")
    with pytest.raises(InputError, match="has column 2 'y', where the first file has 'x'"):
        read_connectivity(tmp_path)


def test_a_folder_of_surface_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(20, 6)).astype(np.float32) for _ in range(2)]
    for number, scan in enumerate(scans):
        arrays = [nibabel.gifti.GiftiDataArray(frame, intent="NIFTI_INTENT_TIME_SERIES") for frame in scan]
        nibabel.save(
            nibabel.gifti.GiftiImage(darrays=arrays), tmp_path / f"sub-{number}_hemi-L_bold.func.gii"
        )
    read = read_connectivity(tmp_path)
    expected = [np.arctanh(np.corrcoef(scan.T) - np.eye(6)) for scan in scans]
    assert_allclose(read.fc, np.mean(expected, axis=0), atol=1e-5)
    assert read.regions.names[1] == "L-00001" and read.n_participants == 2
