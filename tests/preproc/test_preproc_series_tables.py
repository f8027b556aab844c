"""preproc/series_tables.py, number_tables.py, censoring.py: foreign tables come into atlas order."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2 import Cifti2Header, Cifti2Image, ParcelsAxis, SeriesAxis
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.io import savemat

from bjepa.preproc import InputError
from bjepa.preproc.atlas import Atlas, load_atlas
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.inputs import ScanFilter, ScanSource, find_scans
from bjepa.preproc.number_tables import read_table
from bjepa.preproc.series_tables import SeriesLayout, read_series

Array = NDArray[np.float64]
PLAIN = SeriesLayout()
N, T = 100, 37  # regions, frames


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas("schaefer-100", space=None, kind="table")


@pytest.fixture
def series() -> Array:
    """(T, N) in the order of the atlas; every value says its region and frame."""
    return np.round(1000 + 10 * np.arange(N) + np.random.default_rng(0).normal(size=(T, N)), 6)


def _source(*tables: Path, **more: Any) -> ScanSource:
    return ScanSource(
        path=tables[0], kind="series", scan_id="sub-1", participant_id="sub-1", tables=tables, **more
    )


def _names(atlas: Atlas) -> list[str]:
    return [str(name) for name in atlas.table["name"]]


def _in_7networks(series: Array) -> Array:
    """(T, N) from 17-network to 7-network order, by the published label numbers."""
    label_17 = schaefer_table("7networks", N)["label_17networks"].to_numpy()
    return series[:, label_17 - 1]


# --- the formats say the same -------------------------------------------------------------------------------


def _write_text(path: Path, series: Array, names: list[str]) -> Path:
    table = pd.DataFrame(series, columns=names)
    table.to_csv(path, sep="\t" if ".tsv" in path.name else ",", index=False, na_rep="n/a")
    return path


def _write_ptseries(path: Path, series: Array, names: list[str]) -> Path:
    parcels = ParcelsAxis(
        names, [[("CIFTI_STRUCTURE_THALAMUS_LEFT", [0, 0, 0])]] * len(names), [{}] * len(names),
        np.eye(4), (9, 8, 7), {},
    )  # fmt: skip
    parcels.voxels[:] = [np.array([[n % 9, n // 9 % 8, n // 72]]) for n in range(len(names))]
    parcels.vertices[:] = [{} for _ in names]
    header = Cifti2Header.from_axes((SeriesAxis(0, 0.72, len(series)), parcels))
    nib.save(Cifti2Image(series.astype(np.float32), header), path)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".tsv.gz", ".csv.gz"])
def test_named_columns_in_any_order_and_network_order(
    tmp_path: Path, atlas: Atlas, series: Array, suffix: str
) -> None:
    shuffled = np.random.default_rng(1).permutation(N)
    names = schaefer_table("7networks", N)["name"][shuffled].tolist()
    path = _write_text(tmp_path / f"x{suffix}", _in_7networks(series)[:, shuffled], names)
    scan = read_series(_source(path), atlas, PLAIN)
    assert_array_equal(scan.timeseries, series.astype(np.float32))
    assert scan.timeseries.dtype == np.float32 and (scan.coverage == 1).all() and scan.t_r is None


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", "-73.mat", ".h5"])
def test_arrays_by_declared_order(tmp_path: Path, atlas: Atlas, series: Array, suffix: str) -> None:
    """ROI x time in 7-network order behind 19 rows of something else, the axes told by number alone."""
    block = np.vstack([_in_7networks(series).T, np.full((19, T), 5.0)])
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, block)
    elif suffix == ".npz":
        np.savez(path, timeseries=block, other=block * 2)
    elif suffix == ".mat":
        savemat(path, {"timeseries": block, "TR": 2.0, "who": "somebody"})
    else:
        with h5py.File(path, "w") as file:
            file["deep/data" if suffix == ".h5" else "timeseries"] = block.T if "73" in suffix else block
    layout = SeriesLayout(atlas="schaefer-100-7networks", columns=(1, N))
    scan = read_series(_source(path), atlas, layout)
    assert_array_equal(scan.timeseries, series.astype(np.float32))
    assert_array_equal(
        read_series(_source(path), atlas, replace(layout, axis="roi-by-time")).timeseries, scan.timeseries
    )


def test_parcellated_cifti_brings_names_and_t_r(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    names = [str(n) for n in schaefer_table("7networks", N)["name"]]
    path = _write_ptseries(tmp_path / "x.ptseries.nii", _in_7networks(series), names)
    scan = read_series(_source(path), atlas, PLAIN)
    assert_array_equal(scan.timeseries, series.astype(np.float32))
    assert scan.t_r == pytest.approx(0.72)


def test_variable_is_chosen(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    np.savez(tmp_path / "x.npz", a=series, b=-series)
    with pytest.raises(InputError, match="holds 2 tables to choose from"):
        read_series(_source(tmp_path / "x.npz"), atlas, PLAIN)
    scan = read_series(_source(tmp_path / "x.npz"), atlas, SeriesLayout(variable="b"))
    assert_array_equal(scan.timeseries, -series.astype(np.float32))
    with pytest.raises(InputError, match=r"no array 'c'; it holds \['a', 'b'\]"):
        read_series(_source(tmp_path / "x.npz"), atlas, SeriesLayout(variable="c"))


def test_what_is_no_series_is_not_chosen_from(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    """A scalar TR and a vector beside the one table, in both versions of MATLAB's files; a pickle in .npz."""
    savemat(tmp_path / "old.mat", {"ts": series, "TR": 2.0, "onsets": np.arange(9.0)})
    with h5py.File(tmp_path / "new.mat", "w") as file:
        file.update({"ts": series.T, "TR": [[2.0]], "onsets": np.arange(9.0)[None]})
        file["subject"] = np.array([[ord(c)] * 2 for c in "who"], dtype=np.uint16)
        file["subject"].attrs["MATLAB_class"] = np.bytes_("char")
    pickled = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", timeseries=series, other=series * 2, info=pickled)
    np.savez(tmp_path / "b.npz", ts=series, info=pickled)
    for path in sorted(tmp_path.iterdir()):
        scan = read_series(_source(path), atlas, PLAIN)
        assert_array_equal(scan.timeseries, series.astype(np.float32), err_msg=path.name)
    with pytest.raises(InputError, match=r"not a readable \.npz file .*allow_pickle=False"):
        read_series(_source(tmp_path / "b.npz"), atlas, SeriesLayout(variable="info"))


def test_advice_names_the_option(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    np.savez(tmp_path / "x.npz", a=series, b=-series)
    with pytest.raises(InputError) as caught:
        read_series(_source(tmp_path / "x.npz"), atlas, PLAIN)
    assert caught.value.hint == "Call it timeseries, or say which with --series-variable NAME."


# --- tables of one scan, missing regions, XCP-D, UK Biobank -------------------------------------------------


def test_xcpd_tables_join_by_name(tmp_path: Path) -> None:
    """4S156 (with regions that nobody asked for) and Tian; one n/a region; coverage; frames cut out."""
    both = load_atlas("tian-s3+schaefer-100", space=None, kind="table")
    names = _names(both)
    full = np.random.default_rng(0).normal(1000, 5, (T, 150))
    censored = np.zeros(T, dtype=bool)
    censored[[3, 20, 21]] = True
    cut = full[~censored].copy()
    cut[:, 60] = np.nan
    cortex = [name.removeprefix("17Networks_") for name in names[50:]]
    others = [f"Cerebellar_Region{n}" for n in range(56)]
    path = tmp_path / "sub-1_space-S_seg-4S156Parcels_stat-mean_timeseries.tsv"
    _write_text(path, np.hstack([cut[:, :49:-1], cut[:, :56]]), cortex[::-1] + others)
    tian = _write_text(tmp_path / "sub-1_space-S_seg-Tian_stat-mean_timeseries.tsv", cut[:, :50], names[:50])
    coverage = []
    for table, labels in ((path, cortex[::-1] + others), (tian, names[:50])):
        coverage.append(table.with_name(table.name.replace("stat-mean_timeseries", "stat-coverage_bold")))
        rows = [f"{label}\t{0.25 + n / 1000}" for n, label in enumerate(labels)]
        coverage[-1].write_text("Node\tcoverage\n" + "\n".join(rows) + "\n")
    outliers = tmp_path / "sub-1_outliers.tsv"
    outliers.write_text("framewise_displacement\n" + "\n".join(map(str, censored.astype(int))) + "\n")

    source = _source(path, tian, coverage=tuple(coverage), outliers=outliers)
    scan = read_series(source, both, PLAIN)
    assert scan.timeseries.shape == (T, 150)
    there = np.arange(150) != 60
    assert_allclose(scan.timeseries[~censored][:, there], full[~censored][:, there], rtol=1e-6)
    between = full[2] + (full[4] - full[2]) / 2
    assert_allclose(scan.timeseries[3, there], between[there], rtol=1e-6)
    assert np.isnan(scan.timeseries[:, 60]).all() and scan.coverage[60] == 0
    assert scan.coverage[50] == pytest.approx(0.25 + 99 / 1000) and scan.coverage[7] == pytest.approx(0.257)

    outliers.write_text("framewise_displacement\n" + "0\n" * (T + 1))
    with pytest.raises(InputError, match="of which 38 are kept"):
        read_series(source, both, PLAIN)
    outliers.write_text("framewise_displacement\n" + "1\n" * 5 + "0\n" * (len(cut) - 5))  # nothing was cut
    assert len(read_series(source, both, PLAIN).timeseries) == len(cut)


def test_uk_biobank_rows_with_labels(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    names = [str(n) for n in schaefer_table("7networks", N)["name"]]
    table = pd.DataFrame(_in_7networks(series).T, columns=[f"timepoint_{n}" for n in range(T)])
    table.insert(0, "label_name", names)
    path = tmp_path / "1000011/i2/fMRI.Schaefer7n100p.csv.gz"
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)
    found = find_scans(tmp_path, ScanFilter(atlas="schaefer-100")).scans
    assert_array_equal(read_series(found[0], atlas, PLAIN).timeseries, series.astype(np.float32))
    with pytest.raises(InputError, match="so it is roi-by-time, not time-by-roi"):
        read_series(found[0], atlas, SeriesLayout(axis="time-by-roi"))


def test_missing_regions(
    tmp_path: Path, atlas: Atlas, series: Array, caplog: pytest.LogCaptureFixture
) -> None:
    series[:, 4], series[:, 8], series[5, 9] = np.nan, 0, np.inf
    np.save(tmp_path / "x.npy", series)
    scan = read_series(_source(tmp_path / "x.npy"), atlas, PLAIN)
    assert np.flatnonzero(np.isnan(scan.timeseries).any(axis=0)).tolist() == [4, 8, 9]
    assert np.flatnonzero(scan.coverage == 0).tolist() == [4, 8, 9]
    assert "1 regions lack a number in some frames" in caplog.text
    series[7] = np.nan
    np.save(tmp_path / "x.npy", series)
    with pytest.raises(InputError, match=r"frames \[8\] hold no number"):
        read_series(_source(tmp_path / "x.npy"), atlas, PLAIN)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "says"),
    [
        ((T, 99), PLAIN, "no axis has the 100 regions"),
        ((T, 119), PLAIN, "no axis has the 100 regions"),
        ((100, 100), PLAIN, "both axes have the 100 regions"),
        ((119, 234), SeriesLayout(columns=(1, 100)), "both axes have region 100"),
        ((T, 90), SeriesLayout(columns=(1, 100)), "no axis has region 100"),
        (
            (T, 119),
            SeriesLayout(axis="time-by-roi"),
            "119 regions without names, --atlas schaefer-100 has 100",
        ),
        ((T, 119), SeriesLayout(axis="time-by-roi", columns=(20, 120)), "regions 20-120 cannot be taken"),
        ((T, 119), SeriesLayout(columns=(20, 110)), "91 regions without names"),
        ((T, 50), SeriesLayout(atlas="tian-s3"), "lacks 100 of the 100 regions"),
        ((T, 200), SeriesLayout(atlas="schaefer-200"), "schaefer-200, not of schaefer-100"),
    ],
)
def test_refuses_shapes(
    tmp_path: Path, atlas: Atlas, shape: tuple[int, int], layout: SeriesLayout, says: str
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=shape))
    with pytest.raises(InputError, match=says):
        read_series(_source(tmp_path / "x.npy"), atlas, layout)


def test_a_number_of_regions_that_the_data_contradict_is_refused(tmp_path: Path, atlas: Atlas) -> None:
    """100 frames of 90 regions of another atlas are not 100 regions of 90 frames."""
    slow = np.random.default_rng(0).normal(size=(N, 90)).cumsum(axis=0)
    np.save(tmp_path / "x.npy", slow + 1000)
    with pytest.raises(InputError, match="as if the axes were exchanged"):
        read_series(_source(tmp_path / "x.npy"), atlas, PLAIN)
    np.save(tmp_path / "y.npy", np.random.default_rng(1).normal(size=(90, N)).cumsum(axis=0))
    assert read_series(_source(tmp_path / "y.npy"), atlas, PLAIN).timeseries.shape == (90, N)


@pytest.mark.parametrize("condition", ["condition1", "condition3"])
def test_real_series_of_another_atlas_are_refused(
    shared: Path, tmp_path: Path, atlas: Atlas, condition: str
) -> None:
    """AAL-90, 100 frames: the number of frames is that of Schaefer-100's regions."""
    path = shared / "data/timeseries/psilocybin_aal90/sub-04_timeseries.npz"
    with pytest.raises(InputError, match="as if the axes were exchanged"):
        read_series(_source(path), atlas, SeriesLayout(variable=condition))


def test_refuses_names_and_matrices(tmp_path: Path, atlas: Atlas, series: Array) -> None:
    np.save(tmp_path / "fc.npy", np.corrcoef(series.T))
    with pytest.raises(InputError, match="symmetric 100 x 100 matrix"):
        read_series(_source(tmp_path / "fc.npy"), atlas, SeriesLayout(axis="time-by-roi"))
    short = _write_text(tmp_path / "x.tsv", series[:, 1:], _names(atlas)[1:])
    with pytest.raises(
        InputError, match=r"lacks 1 of the 100 regions of schaefer-100, e.g. \['17Networks_LH_Vis"
    ):
        read_series(_source(short), atlas, PLAIN)
    doubled = [*_names(atlas)[:-1], _names(atlas)[0]]
    with pytest.raises(InputError, match="could be several columns"):
        read_series(_source(_write_text(tmp_path / "y.tsv", series, doubled)), atlas, PLAIN)
    foreign = _write_text(tmp_path / "z.tsv", series, [f"Area {chr(97 + n % 26)}{n}x" for n in range(N)])
    with pytest.raises(InputError, match="names that --atlas schaefer-100 does not know"):
        read_series(_source(foreign), atlas, PLAIN)
    declared = SeriesLayout(atlas="schaefer-100")
    assert_array_equal(read_series(_source(foreign), atlas, declared).timeseries, series.astype(np.float32))
    numbered = _write_text(tmp_path / "n.tsv", series, [f"roi_{n}" for n in range(N)])
    assert_array_equal(read_series(_source(numbered), atlas, PLAIN).timeseries, series.astype(np.float32))


def test_refuses_tables_that_do_not_belong_together(tmp_path: Path, series: Array) -> None:
    both = load_atlas("tian-s3+schaefer-100", space=None, kind="table")
    names = _names(both)
    cortex = _write_text(tmp_path / "a.tsv", series, names[50:])
    with pytest.raises(InputError, match="tables of one scan must have the same"):
        read_series(
            _source(cortex, _write_text(tmp_path / "b.tsv", series[1:, :50], names[:50])), both, PLAIN
        )
    np.save(tmp_path / "c.npy", np.ones((T, 150)))
    with pytest.raises(InputError, match=r"c.npy does not name its regions"):
        read_series(_source(cortex, tmp_path / "c.npy"), both, PLAIN)


def test_refuses_broken_files_and_pickles(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 5000)
    for name, content in {
        "x.csv.gz": whole[: len(whole) // 2],
        "y.csv.gz": b"a,b\n1,2\n",
        "x.mat": b"MATLAB 5.0 MAT-file" + b"\0" * 40,
        "x.h5": b"no",
        "x.npz": b"PK\x03\x04broken",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a readable"):
            read_table(tmp_path / name)
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable"):
        read_table(tmp_path / "p.npy")
    savemat(tmp_path / "cell.mat", {"timeseries": np.array([["a", 1]], dtype=object)})
    with pytest.raises(InputError, match="0 tables to choose from"):
        read_table(tmp_path / "cell.mat", known_names=["timeseries"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="'v' cannot be chosen"):
        read_table(tmp_path / "t.csv", variable="v")


# --- real data ----------------------------------------------------------------------------------------------


def test_stages_cohort_arrives_in_contract_order(shared: Path) -> None:
    """65 scans, 419 regions x 234 frames, Schaefer-400 in 7-network order; people are recognised again."""
    folder = shared / "data/timeseries/stages_fep_schaefer400"
    atlas = load_atlas("schaefer-400", space=None, kind="table")
    scans = find_scans(folder, ScanFilter(atlas="schaefer-400")).scans
    assert len(scans) == 65 and {scan.kind for scan in scans} == {"series"}
    assert scans[0].scan_id == "sub-001_ses-1_task-rest" and scans[0].session == "1"
    layout = SeriesLayout(atlas="schaefer-400-7networks", axis="roi-by-time", columns=(1, 400))
    read = {scan: read_series(scan, atlas, layout).timeseries for scan in scans}

    table = schaefer_table("17networks")
    for scan in scans[::20]:
        raw = np.load(scan.path)["timeseries"]
        assert_array_equal(read[scan], raw[table["label_7networks"].to_numpy() - 1].T)

    edges = np.triu_indices(400, 1)
    of_session: dict[str, dict[str, Array]] = {"1": {}, "2": {}}
    for scan, series in read.items():
        fc: Array = np.asarray(np.corrcoef(series.T), dtype=np.float64)
        of_session[scan.session][scan.participant_id] = fc[edges]
    people = sorted(of_session["1"].keys() & of_session["2"].keys())
    assert len(people) == 28
    first, second = (np.array([of_session[ses][person] for person in people]) for ses in "12")
    similarity: Array = np.asarray(np.corrcoef(np.concatenate([first, second])), dtype=np.float64)[:28, 28:]
    for direction in (similarity, similarity.T):
        assert (direction.argmax(axis=1) == np.arange(28)).mean() >= 0.85
    # the order is right, not only consistent: regions of one network correlate more than others
    network = table["network17"].to_numpy()
    same = (network[:, None] == network[None, :])[edges]
    mean = np.concatenate([first, second]).mean(axis=0)
    assert mean[same].mean() > mean[~same].mean() + 0.15


def test_aal_tables_are_refused_for_another_atlas(shared: Path) -> None:
    scans = find_scans(shared / "data/timeseries/psilocybin_aal90", ScanFilter()).scans
    atlas = load_atlas("schaefer-100", space=None, kind="table")
    with pytest.raises(InputError, match="condition"):
        read_series(scans[0], atlas, PLAIN)
    with pytest.raises(InputError, match="90 regions without names"):
        read_series(scans[0], atlas, SeriesLayout(variable="condition3", axis="time-by-roi"))


def test_real_numbered_table(shared: Path) -> None:
    """Columns are called 1 to 100; the file beside it says that they are Schaefer-100, 7 networks."""
    path = shared / "data/timeseries/brainfc_rest01_schaefer100/timeseries.tsv"
    source = find_scans(path, ScanFilter()).scans[0]
    atlas = load_atlas("schaefer-100", space=None, kind="table")
    scan = read_series(source, atlas, SeriesLayout(atlas="schaefer-100-7networks"))
    raw = pd.read_csv(path, sep="\t").to_numpy()
    in_7 = schaefer_table("17networks", 100)["label_7networks"].to_numpy() - 1
    assert_array_equal(scan.timeseries, raw[:, in_7].astype(np.float32))
