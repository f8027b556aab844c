"""gradients/individuals.py: an independent computation, any number of workers, who has none, what stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from bjepa.gradients.connectivity.measure import Measure
from bjepa.gradients.individuals import (
    FAILURE_COLUMNS,
    Individuals,
    individual_gradients,
    remove_individuals,
    write_individuals,
)
from bjepa.gradients.participant_gradients import IndividualGradients, embed_participants
from bjepa.gradients.quality.variance import variance_explained
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions, named_regions
from bjepa.gradients.scans import ArrayScans, Scans, TableScans

R, C = 13, 4
OPTIONS = GradientOptions(n_components=C, sparsity=0.3)
REGIONS = Regions(table=named_regions([f"n{n}" for n in range(R)]).table, atlas="line", atlas_sha256="ab")
PEOPLE = ["b", "a", "", "b", "c"]  # b was scanned twice; one scan is of nobody known
IDS = ["sub-b", "sub-a", "scan-3", "sub-c"]

Array = NDArray[np.float64]


def study() -> ArrayScans:
    rng = np.random.default_rng(6)
    place = np.linspace(0, 3, R)
    mixing = np.stack([np.sin(k * place + k) / k for k in range(1, 6)])  # (5, R)
    lengths = [50 + 9 * number for number in range(len(PEOPLE))]
    scans = ArrayScans([rng.normal(size=(t, 5)) @ mixing + 0.3 * rng.normal(size=(t, R)) for t in lengths])
    scans.entities["participant_id"] = list(PEOPLE)
    return scans


def fisher(series: NDArray[np.floating]) -> Array:
    return np.asarray(np.arctanh(np.corrcoef(series.T) - np.eye(series.shape[1])))


def template() -> Array:
    return embed_connectivity(np.mean([fisher(a) for a in study().arrays], axis=0), OPTIONS)[1].gradients


def run(
    folder: Path, scans: Scans | None = None, towards: Array | None = None, **changes: Any
) -> Individuals:
    return individual_gradients(
        scans or study(),
        Measure(),
        template() if towards is None else towards,
        OPTIONS,
        folder=folder,
        regions=REGIONS,
        **changes,
    )


def test_each_participant_as_computed_by_hand(tmp_path: Path) -> None:
    found = run(tmp_path, parameters={"source": "study", "n_neighbors": None})
    columns = "participant_id n_scans n_frames n_regions r_1 r_2 r_3 r_mean variance_template variance_fc"
    assert list(found.table.columns) == columns.split()
    assert found.table["participant_id"].tolist() == IDS
    assert found.table["n_scans"].tolist() == [2, 1, 1, 1]
    assert found.table["n_frames"].tolist() == [50 + 77, 59, 68, 86]
    assert found.n_components == C and found.failures.empty
    assert not (tmp_path / "failures.tsv").exists()
    with h5py.File(tmp_path / "individuals.h5") as file:
        assert file["gradients"].dtype == np.float32 and file["gradients"].shape == (4, R, C)
        assert file["participant_id"].asstr()[()].tolist() == IDS
        assert file["rois/name"].asstr()[3] == "n3"
        wanted = {"atlas_sha256": "ab", "sparsity": 0.3, "connectivity": "pearson", "source": "study"}
        assert {key: file.attrs[key] for key in wanted} == wanted
        stored, eigenvalues = file["gradients"][()], file["eigenvalues"][()]
    series = study().arrays
    reference = template()
    for number, own in enumerate(([0, 3], [1], [2], [4])):
        fc = np.mean([fisher(series[n]) for n in own], axis=0)
        embedding = embed_connectivity(fc, OPTIONS)[1]
        aligned = embedding.gradients @ orthogonal_procrustes(embedding.gradients, reference)[0]
        assert_allclose(stored[number], aligned, atol=1e-6)
        assert_allclose(eigenvalues[number], embedding.eigenvalues, rtol=1e-9)
        r = [np.corrcoef(aligned[:, k], reference[:, k])[0, 1] for k in range(C)]
        factor = np.linalg.lstsq(aligned.reshape(-1, 1), reference.ravel(), rcond=None)[0]
        left = ((factor * aligned - reference) ** 2).sum() / (reference**2).sum()
        expected = [*r[:3], np.mean(r), 1 - left, variance_explained(fc, embedding.gradients)[-1]]
        assert_allclose(found.table.iloc[number, 4:].to_numpy(dtype=float), expected, atol=1e-7)
    written = pd.read_csv(tmp_path / "individuals.tsv", sep="\t")
    assert_allclose(written["variance_template"], found.table["variance_template"], rtol=1e-5)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bjepa.gradients.participant_gradients.BATCH", 2)  # of four participants
    for n_jobs in (1, 2, 3):
        run(tmp_path / str(n_jobs), n_jobs=n_jobs)
    for name in ("individuals.h5", "individuals.tsv"):
        first = (tmp_path / "1" / name).read_bytes()
        assert first == (tmp_path / "2" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_tables_are_read_in_processes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bjepa.gradients.participant_gradients.BATCH", 3)
    files = [tmp_path / f"sub-{person or 'z'}_run-{n}.npy" for n, person in enumerate(PEOPLE)]
    for file, series in zip(files, study().arrays, strict=True):
        np.save(file, series)
    for n_jobs in (1, 2):
        run(tmp_path / str(n_jobs), TableScans(files), n_jobs=n_jobs)
    one, two = ((tmp_path / n / "individuals.h5").read_bytes() for n in "12")
    assert one == two
    monkeypatch.setattr("bjepa.gradients.participant_gradients.MANY", 3)  # so are scans of many participants
    run(tmp_path / "arrays1")
    run(tmp_path / "arrays2", n_jobs=2)
    assert (tmp_path / "arrays1/individuals.h5").read_bytes() == (
        tmp_path / "arrays2/individuals.h5"
    ).read_bytes()


def test_scans_may_be_weighted_by_their_frames(tmp_path: Path) -> None:
    series = study().arrays
    found = next(embed_participants(study(), Measure(), template(), OPTIONS, weights="frames"))
    assert isinstance(found, IndividualGradients)
    fc = (50 * fisher(series[0]) + 77 * fisher(series[3])) / 127
    own = embed_connectivity(fc, OPTIONS)[1].gradients
    assert_allclose(found.gradients, own @ orthogonal_procrustes(own, template())[0], atol=1e-7)
    run(tmp_path, weights="frames")
    with h5py.File(tmp_path / "individuals.h5") as file:
        assert file.attrs["weights"] == "frames"
        assert_allclose(file["gradients"][0], found.gradients, atol=1e-6)


def test_missing_regions_are_nan_and_the_others_as_without_them(tmp_path: Path) -> None:
    scans, reference = study(), template()
    scans.arrays[1][:, [2, 7]] = np.nan  # of a
    scans.arrays[0][:, 5] = np.nan  # of b, who has it in the other scan
    reference[11] = np.nan  # the group has no gradients there, b and a have
    found = run(tmp_path, scans, reference)
    assert found.table["n_regions"].tolist() == [R, R - 2, R, R]
    with h5py.File(tmp_path / "individuals.h5") as file:
        stored = file["gradients"][()]
    missing = np.isnan(stored).any(axis=(0, 2))
    assert np.flatnonzero(missing).tolist() == [2, 7]
    present = np.isfinite(stored[1, :, 0])
    own = embed_connectivity(fisher(scans.arrays[1][:, present]), OPTIONS)[1].gradients
    rows = np.flatnonzero(present) != 11
    turn = orthogonal_procrustes(own[rows], reference[present][rows])[0]
    assert_allclose(stored[1][present], own @ turn, atol=1e-6)
    r = np.corrcoef((own @ turn)[rows, 2], reference[present][rows][:, 2])[0, 1]
    assert_allclose(found.table["r_3"][1], r, atol=1e-7)


def test_who_cannot_be_embedded_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = study()
    scans.arrays[1][:, 3:] = np.nan
    scans.arrays[4] = scans.arrays[4][:2]
    found = run(tmp_path, scans)
    assert found.table["participant_id"].tolist() == ["sub-b", "scan-3"]
    failures = pd.read_csv(tmp_path / "failures.tsv", sep="\t", keep_default_na=False)
    assert list(failures.columns) == ["source", "stage", "error", "message", "hint"]
    assert failures["source"].tolist() == found.failures["source"].tolist() == ["sub-a", "sub-c"]
    assert failures["stage"].unique().tolist() == ["individuals"]
    assert "at least 3 frames" in failures["message"][1]
    assert "sub-a has no gradients" in caplog.text
    whole = run(tmp_path / "whole")  # the others are as if nobody had failed
    kept = whole.table[whole.table["participant_id"].isin(["sub-b", "scan-3"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, found.table)
    run(tmp_path)
    assert not (tmp_path / "failures.tsv").exists()


def test_nobody_can_be_embedded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = study()
    for series in scans.arrays:
        series[:, 2:] = np.nan
    found = run(tmp_path, scans)
    assert found.table.empty and len(found.failures) == 4
    assert "none of 4 participants has gradients" in caplog.text
    with h5py.File(tmp_path / "individuals.h5") as file:
        assert file["gradients"].shape == (0, R, C) and file["eigenvalues"].shape == (0, C)


@pytest.mark.parametrize("rows", [[], [["f.nii", "extract", "X", "no", ""]]])
def test_failures_of_another_stage_stay(tmp_path: Path, rows: list[list[str]]) -> None:
    other = pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))
    other.to_csv(tmp_path / "failures.tsv", sep="\t", index=False)
    before = (tmp_path / "failures.tsv").read_bytes()
    scans = study()
    scans.arrays[1][:, 3:] = np.nan
    for _ in range(2):
        run(tmp_path, scans)
        failures = pd.read_csv(tmp_path / "failures.tsv", sep="\t")
        assert failures["source"].tolist() == [*(row[0] for row in rows), "sub-a"]
    other.to_csv(tmp_path / "failures.tsv", sep="\t", index=False)  # by bjepa-preprocess, run again
    remove_individuals(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["failures.tsv"]
    assert (tmp_path / "failures.tsv").read_bytes() == before


def test_participants_are_written_as_they_come_and_whole_or_not_at_all(tmp_path: Path) -> None:
    run(tmp_path)
    sizes = []

    def interrupted() -> Iterator[IndividualGradients]:
        for found in embed_participants(study(), Measure(), template(), OPTIONS):
            assert isinstance(found, IndividualGradients)
            sizes.append(len(list(tmp_path.glob(".individuals*"))))
            yield found
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_individuals(tmp_path, interrupted(), REGIONS, (R, C), parameters={})
    assert sizes == [1, 1, 1, 1]  # the file was open when the first one came
    assert not list(tmp_path.iterdir())


def test_progress_counts_scans(tmp_path: Path) -> None:
    counted: list[int] = []
    run(tmp_path, progress=counted.append)
    assert counted == [2, 1, 1, 1]


def test_scans_of_nobody_known_are_a_participant_each(tmp_path: Path) -> None:
    scans = study()
    scans.entities["participant_id"] = ["", "", "a", "", ""]
    table = run(tmp_path, scans).table
    assert table["participant_id"].tolist() == ["scan-1", "scan-2", "sub-a", "scan-4", "scan-5"]
    assert table["n_scans"].tolist() == [1, 1, 1, 1, 1]
