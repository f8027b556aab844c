"""The simulated cohort: the atlas is where the published one is, the series obey the laws they claim."""

import json
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker
from numpy.testing import assert_allclose
from scipy.linalg import expm

from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.demo import atlas as demo_atlas
from bjepa.preproc.demo import cohort as demo_cohort
from bjepa.preproc.demo import simulate
from bjepa.preproc.demo.atlas import DemoAtlas, build_demo_atlas, demo_table, write_demo_atlas
from bjepa.preproc.demo.cohort import write_cohort
from bjepa.preproc.demo.simulate import (
    Participant,
    Population,
    draw_participant,
    haemodynamic_response,
    make_population,
    participant_root,
    simulate_series,
)
from bjepa.preproc.errors import InputError

UPPER = np.triu_indices(450, 1)


@pytest.fixture(scope="module")
def atlas() -> DemoAtlas:
    return build_demo_atlas()


@pytest.fixture(scope="module")
def population() -> Population:
    return make_population(seed=3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, atlas: DemoAtlas) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_atlas(atlas, folder / "atlas")
    write_cohort(folder / "cohort", folder / "truth.h5", atlas, n_participants=3, seed=5)
    return folder


def bold_of(folder: Path, name: str) -> Path:
    return folder / f"cohort/{name}/func/{name}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"


def test_regions_lie_where_the_published_ones_do(atlas: DemoAtlas) -> None:
    voxels = [np.argwhere(atlas.labels == index) for index in range(1, 451)]
    assert min(map(len, voxels)) > 0
    centroids = np.array([at.mean(0) for at in voxels]) @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    distance = np.linalg.norm(centroids - atlas.table[["x", "y", "z"]], axis=1)
    assert np.median(distance) <= 3.5
    assert distance.max() < 12  # no region is elsewhere
    left = atlas.table["hemisphere"] == "L"
    assert (centroids[left, 0] < 0).all()
    assert (centroids[~left, 0] > 0).all()


def test_table_is_in_contract_order() -> None:
    table = demo_table()
    assert table["index"].tolist() == list(range(1, 451))
    row = table.set_index("index").loc[[1, 26, 51, 450], list(demo_atlas.COLUMNS[1:])]
    assert row.to_numpy().tolist() == [
        ["HIP-head-m-rh", "subcortex", "R", "Subcortex", "Subcortex"],
        ["HIP-head-m-lh", "subcortex", "L", "Subcortex", "Subcortex"],
        ["17Networks_LH_VisCent_ExStr_1", "cortex", "L", "Vis", "VisCent"],
        [table["name"].iloc[-1], "cortex", "R", "SalVentAttn", "TempPar"],
    ]
    assert (table["network7"].nunique(), table["network17"].nunique()) == (8, 18)


def test_atlas_file_is_int16_in_mni_space(cohort: Path, atlas: DemoAtlas) -> None:
    image: Any = nib.load(cohort / "atlas/demo_dseg.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.header.get_sform(coded=True)[1] == 4
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert np.array_equal(np.asarray(image.dataobj), atlas.labels)
    table = pd.read_csv(cohort / "atlas/demo_dseg.tsv", sep="\t")
    assert tuple(table.columns) == demo_atlas.COLUMNS
    assert len(table) == 450


def test_refuses_voxels_that_lose_regions() -> None:
    with pytest.raises(InputError, match=r"at 11 mm regions \[.*Choose 3 to 6 mm"):
        build_demo_atlas(11)


def test_says_that_brainspace_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install brainspace"):
        brainspace_datasets()


def test_population_holds_the_published_matrix_in_17_network_order(population: Population) -> None:
    hcp = np.loadtxt(
        brainspace_datasets() / "matrices/main_group/schaefer_400_mean_connectivity_matrix.csv",
        delimiter=",",
    )
    label_7 = demo_table()["label_7networks"].to_numpy()
    for row, column in ((50, 449), (173, 61), (300, 299)):
        assert population.fc[row, column] == hcp[label_7[row] - 1, label_7[column] - 1]
    assert_allclose(np.diag(population.fc), 1)
    assert np.linalg.eigvalsh(population.fc).min() > 0.05
    assert_allclose(population.root @ population.root, population.fc, atol=1e-12)


def test_participant_covariance_is_the_formula(population: Population) -> None:
    """The low-rank shortcut against scipy's expm of the whole 450 × 450 matrix."""
    quiet = Participant(number=8, age=71.0, sex="M", t_r=2.0, n_frames=160, gain=1, level=1)
    root = participant_root(population, quiet)
    n_networks = len(population.networks)
    noise = np.random.default_rng((3, 8, 1)).normal(size=(n_networks, n_networks))
    effect = (
        0.25 * (71.0 - 50) / 17 * population.age_effect
        - 0.3 * population.sex_effect
        + 0.3 * (noise + noise.T) / np.sqrt(8 * n_networks)
    )
    half = expm(population.indicators @ effect @ population.indicators.T / 2)
    covariance = half @ population.fc @ half
    scale = np.sqrt(np.diag(covariance))
    assert_allclose(root @ root.T, covariance / np.outer(scale, scale), atol=1e-10)


def test_age_moves_connectivity_and_not_variance(population: Population) -> None:
    def fc_at(age: float) -> Any:
        root = participant_root(
            population, Participant(number=2, age=age, sex="F", t_r=2.0, n_frames=160, gain=1, level=1)
        )
        return root @ root.T

    young, old = fc_at(25), fc_at(75)
    assert_allclose(np.diag(young), np.diag(old))
    network = demo_table()["network17"].to_numpy()
    default, control = np.flatnonzero(network == "DefaultA"), np.flatnonzero(network == "ContA")

    def segregation(fc: Any) -> float:
        return float(fc[np.ix_(default, default)].mean() - fc[np.ix_(default, control)].mean())

    assert segregation(young) - segregation(old) > 0.05


def test_series_recover_the_planted_connectivity(population: Population) -> None:
    many = [
        Participant(number=number, age=50.0, sex="FM"[number % 2], t_r=2.0, n_frames=800, gain=1, level=1)
        for number in range(1, 9)
    ]
    series = [simulate_series(population, one) for one in many]
    assert series[0].shape == (800, 450)
    assert_allclose(np.var(series, axis=(0, 1)).mean(), 1, rtol=0.02)
    assert abs(np.mean(series)) < 0.02
    fc = np.mean([np.corrcoef(one.T) for one in series], axis=0)
    assert np.corrcoef(fc[UPPER], population.fc[UPPER])[0, 1] > 0.97
    # each participant is nearer to its own truth than to the population
    own = participant_root(population, many[0])
    difference = (own @ own.T - population.fc)[UPPER]
    assert np.corrcoef((np.corrcoef(series[0].T) - population.fc)[UPPER], difference)[0, 1] > 0.4


def test_response_peaks_at_five_seconds_and_slow_signals_result(population: Population) -> None:
    assert 0.1 * np.argmax(haemodynamic_response(0.1)) == pytest.approx(5.0, abs=0.15)
    assert haemodynamic_response(0.1).min() < 0
    fast = simulate_series(population, draw_participant(population, 1))
    slow = simulate_series(population, draw_participant(population, 2))
    assert (fast.shape, slow.shape) == ((480, 450), (160, 450))
    after = [np.mean(one[lag:] * one[:-lag]) / one.var() for one, lag in ((fast, 3), (slow, 1))]
    # 2.2 and 2.0 s later: the two protocols see the same process
    expected = [
        np.correlate(h, h, "full")[len(h) - 1 + lag] / (h @ h)
        for h, lag in ((haemodynamic_response(0.735), 3), (haemodynamic_response(2.0), 1))
    ]
    assert_allclose(after, expected, atol=0.06)


def test_participants_do_not_depend_on_the_size_of_the_cohort(cohort: Path, population: Population) -> None:
    table = pd.read_csv(cohort / "cohort/participants.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-001", "sub-002", "sub-003"]
    third = draw_participant(make_population(seed=5), 3)
    assert (table["age"][2], table["sex"][2]) == (third.age, third.sex)
    ages = np.array([draw_participant(population, number).age for number in range(1, 401)])
    assert ages.min() >= 20
    assert ages.max() <= 80
    assert_allclose([ages.mean(), ages.std()], [50, 17], rtol=0.1)


def test_scan_file_holds_the_regional_series(cohort: Path, atlas: DemoAtlas) -> None:
    """Read back by nibabel and averaged by nilearn: the planted series × gain, at the planted level."""
    population = make_population(seed=5)
    second = draw_participant(population, 2)
    image: Any = nib.load(bold_of(cohort, "sub-002"))
    assert image.shape == (*atlas.labels.shape, 160)
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_zooms()[3] == 2.0
    assert image.header.get_sform(coded=True)[1] == 4
    assert image.dataobj.slope > 1
    assert image.dataobj.inter == 0
    assert (np.asarray(image.dataobj[..., 0])[atlas.labels == 0] == 0).all()

    masker = NiftiLabelsMasker(
        str(cohort / "atlas/demo_dseg.nii.gz"), resampling_target=None, standardize=None
    )
    means = masker.fit_transform(image)  # (160, 450)
    expected_level = 10_000 * second.level * demo_cohort.regional_base()
    assert_allclose(means.mean(0), expected_level, rtol=0.02)
    fluctuation = means / expected_level - 1
    planted = simulate_series(population, second)
    n_voxels = np.bincount(atlas.labels.ravel(), minlength=451)[1:]
    large = n_voxels >= 15
    r = [np.corrcoef(fluctuation[:, roi], planted[:, roi])[0, 1] for roi in np.flatnonzero(large)]
    assert min(r) > 0.9
    gain = np.sum(fluctuation[:, large] * planted[:, large]) / np.sum(planted[:, large] ** 2) / 0.02
    assert gain == pytest.approx(second.gain, rel=0.03)


def test_folder_is_a_derivative_with_sidecars(cohort: Path) -> None:
    description = json.loads((cohort / "cohort/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "bjepa-demo"
    columns = json.loads((cohort / "cohort/participants.json").read_text())
    assert set(columns) == {"age", "sex"}
    for name, t_r in (("sub-001", 0.735), ("sub-002", 2.0), ("sub-003", 0.735)):
        sidecar = json.loads(bold_of(cohort, name).with_suffix("").with_suffix(".json").read_text())
        assert (sidecar["RepetitionTime"], sidecar["TaskName"]) == (t_r, "rest")
    with h5py.File(cohort / "truth.h5") as truth:
        assert truth["fc"].shape == (450, 450)
        assert truth["age_effect"].shape == (18, 18)
        assert truth.attrs["seed"] == 5


def test_same_seed_same_bytes_other_seed_other_scan(tmp_path: Path, cohort: Path, atlas: DemoAtlas) -> None:
    seen: list[int] = []

    def progress(numbers: Any) -> Any:
        seen.extend(numbers)
        return numbers

    for seed in (5, 6):
        folder = tmp_path / str(seed)
        write_cohort(
            folder / "cohort", folder / "truth.h5", atlas, n_participants=2, seed=seed, progress=progress
        )
    assert seen == [1, 2, 1, 2]
    first = bold_of(cohort, "sub-002").read_bytes()
    assert bold_of(tmp_path / "5", "sub-002").read_bytes() == first
    assert bold_of(tmp_path / "6", "sub-002").read_bytes() != first


def test_effects_name_networks_that_exist(population: Population) -> None:
    assert set(simulate.ASSOCIATION + simulate.SENSORIMOTOR) < set(population.networks)
    for effect in (population.age_effect, population.sex_effect):
        assert_allclose(effect, effect.T)
        assert np.linalg.norm(effect, 2) == pytest.approx(1)
    assert_allclose(population.indicators.T @ population.indicators, np.eye(18), atol=1e-12)
