"""preproc/confounds.py, strategies.py: columns and frames taken (nilearn is the judge), what is refused."""

import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces import fmriprep
from nilearn.signal import clean as nilearn_clean
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc import InputError
from bjepa.preproc.clean import CleaningOptions, clean_timeseries
from bjepa.preproc.confounds import confounds_beside, load_confounds
from bjepa.preproc.strategies import COMPONENTS, STRATEGIES, arguments_of, parse_strategy

REAL = {  # of fMRIPrep 21, and of 1.4 to 20.1
    "timeseries": "data/confounds/nilearn/test-v21_desc-confounds_timeseries",
    "regressors": "data/confounds/nilearn/test_desc-confounds_regressors",
}
FULL = ("", "_derivative1", "_power2", "_derivative1_power2")
MOTION = [f"{kind}_{axis}{s}" for kind in ("trans", "rot") for axis in "xyz" for s in FULL]
ENTITIES = "sub-01_task-rest_run-2"


def _image(
    folder: Path, name: str = f"{ENTITIES}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
) -> Path:
    (folder / name).touch()
    return folder / name


def _real(shared: Path, folder: Path, kind: str, n_copies: int = 1) -> tuple[Path, pd.DataFrame]:
    """A BOLD file's name with real confounds beside it, in which each row is there `n_copies` times.

    Copies are made to differ by as much noise as the columns vary, or the columns would depend on each other.
    """
    table = pd.read_csv(shared / f"{REAL[kind]}.tsv", sep="\t").loc[lambda t: t.index.repeat(n_copies)]
    path = folder / f"{ENTITIES}_desc-confounds_{kind}.tsv"
    if n_copies > 1:
        noise = np.random.default_rng(0).normal(size=table.shape) * table.std().to_numpy()
        table = table.bfill() + noise * ~table.columns.str.contains("outlier")
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    shutil.copyfile(shared / f"{REAL[kind]}.json", path.with_suffix(".json"))
    return _image(folder), table.reset_index(drop=True)


def _made(folder: Path, columns: list[str], n_frames: int = 12, **more: list[Any]) -> Path:
    """A BOLD file's name with a confounds table of random columns beside it."""
    rng = np.random.default_rng(len(columns))
    table = pd.DataFrame(rng.normal(size=(n_frames, len(columns))), columns=columns).assign(**more)
    table.to_csv(folder / f"{ENTITIES}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    return _image(folder)


# --- as nilearn ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:All volumes were marked")
@pytest.mark.parametrize("kind", list(REAL))
@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor", "ica_aroma", "24p", "36p"])
def test_columns_values_and_frames_are_nilearns(
    shared: Path, tmp_path: Path, kind: str, strategy: str
) -> None:
    img, table = _real(shared, tmp_path, kind)
    if strategy == "ica_aroma":
        img = _image(tmp_path, f"{ENTITIES}_space-MNI152NLin6Asym_desc-smoothAROMAnonaggr_bold.nii.gz")
    if strategy in ("24p", "36p"):
        expected, kept = fmriprep.load_confounds(str(img), **STRATEGIES[strategy])
    else:
        expected, kept = fmriprep.load_confounds_strategy(str(img), denoise_strategy=strategy)
    if len(kept) == 0:
        assert (kind, strategy) == ("timeseries", "scrubbing")
        with pytest.raises(InputError, match="all 30 frames are censored"):
            load_confounds(img, None, strategy)
        return
    loaded = load_confounds(img, None, strategy)
    assert loaded.values is not None and loaded.sample_mask is not None
    assert list(loaded.values.columns) == list(expected.columns)
    assert_array_equal(loaded.values, expected)
    assert_array_equal(np.flatnonzero(loaded.sample_mask), kept)  # each has non-steady-state frames
    assert loaded.n_non_steady == {"timeseries": 3, "regressors": 1}[kind]
    assert_array_equal(loaded.fd, table["framewise_displacement"])
    assert_array_equal(loaded.dvars, table["std_dvars"])


def test_columns_of_the_numbered_models(shared: Path, tmp_path: Path) -> None:
    img, table = _real(shared, tmp_path, "timeseries")
    cosines = {c for c in table if c.startswith("cosine")}
    for strategy, others in (
        ("24p", set()),
        ("36p", {name + s for name in ("csf", "white_matter", "global_signal") for s in FULL}),
    ):
        loaded = load_confounds(img, None, strategy)
        assert loaded.values is not None
        assert set(loaded.values.columns) == cosines | others | set(MOTION)
        assert len(loaded.values.columns) - len(cosines) == int(strategy[:2])


def test_none_looks_at_the_table_and_takes_nothing(shared: Path, tmp_path: Path) -> None:
    img, _ = _real(shared, tmp_path, "timeseries")
    loaded = load_confounds(img, None, "none")
    assert loaded.values is None and loaded.sample_mask is None
    assert loaded.n_non_steady == 3 and loaded.fd is not None and len(loaded.fd) == 30
    nothing = load_confounds(_image(tmp_path, "sub-02_task-rest_bold.nii.gz"), None, "none")
    assert (nothing.n_non_steady, nothing.fd, nothing.dvars) == (None, None, None)


def test_a_json_of_arguments(shared: Path, tmp_path: Path) -> None:
    img, _ = _real(shared, tmp_path, "timeseries")
    arguments = {
        "strategy": ["high_pass", "motion", "scrub"],
        "motion": "derivatives",
        "scrub": 0,
        "fd_threshold": 1.1,
        "std_dvars_threshold": 2,
        "demean": False,
    }
    path = tmp_path / "mine.JSON"
    path.write_text(json.dumps(arguments))
    expected, kept = fmriprep.load_confounds(str(img), **arguments)
    for given in (parse_strategy(str(path)), arguments, str(path)):
        loaded = load_confounds(img, None, given)
        assert loaded.values is not None and loaded.sample_mask is not None
        assert_array_equal(loaded.values, expected)
        assert_array_equal(np.flatnonzero(loaded.sample_mask), kept)
    assert 0 < len(kept) < 27
    # only frames, no columns: marked, and otherwise left alone
    only = load_confounds(
        img, None, {k: v for k, v in arguments.items() if k != "motion"} | {"strategy": ["scrub"]}
    )
    series = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    cleaned = clean_timeseries(series, only, CleaningOptions(confounds="simple"), t_r=2.0)
    assert_array_equal(cleaned.timeseries[~cleaned.censored], series[~cleaned.censored])
    assert 0 < cleaned.censored.sum() < 30


def test_presets_and_allowed_values_are_nilearns() -> None:
    presets = fmriprep.load_confounds_strategy.__globals__["preset_strategies"]
    for name, preset in presets.items():
        assert STRATEGIES[name] | {"global_signal": None, "demean": True} == preset
    known = {name: p.default for name, p in signature(fmriprep.load_confounds).parameters.items()}
    assert {"img_files", "strategy", "demean", *(n for c in COMPONENTS.values() for n in c)} == known.keys()
    values = fmriprep.load_confounds.__globals__
    assert {*COMPONENTS, "non_steady_state"} == set(values["ALL_CONFOUNDS"])
    assert list(COMPONENTS["motion"]["motion"]) == values["CONFOUND_MODEL"]
    assert list(COMPONENTS["compcor"]["compcor"]) == values["COMPCOR_TYPES"]
    assert arguments_of({"motion": "basic"})["strategy"] == known["strategy"]


@pytest.mark.parametrize("strategy", ["simple", "compcor"])
@pytest.mark.parametrize("edges", [{}, {"low_pass": 0.1}, {"high_pass": 0.01, "low_pass": 0.15}])
def test_from_table_to_series_as_nilearn(
    shared: Path, tmp_path: Path, strategy: str, edges: dict[str, float]
) -> None:
    img, table = _real(shared, tmp_path, "timeseries", n_copies=6)  # 18 of 180 frames non-steady
    walk = np.random.default_rng(0).normal(size=(len(table), 7)).cumsum(axis=0) + 300
    series = walk.astype(np.float32)
    options = CleaningOptions(confounds=strategy, **edges)  # type: ignore[arg-type]
    ours = clean_timeseries(series, load_confounds(img, None, strategy), options, t_r=2.0)
    confounds, kept = fmriprep.load_confounds_strategy(str(img), denoise_strategy=strategy)
    assert_array_equal(np.flatnonzero(~ours.censored), kept)
    assert len(kept) == 162
    expected = nilearn_clean(
        series.astype(float), confounds=confounds, sample_mask=kept, standardize=None, t_r=2.0, **edges
    )
    expected += series[18:].astype(float).mean(axis=0) - expected.mean(axis=0)
    assert_allclose(ours.timeseries[18:], expected, rtol=1e-6)


def test_scrubbing_from_table_to_series(shared: Path, tmp_path: Path) -> None:
    """The calmer table, 6 times as long, one burst of motion: the frames around it are marked and filled."""
    img, table = _real(shared, tmp_path, "regressors", n_copies=6)
    table[["framewise_displacement", "std_dvars"]] = 0.1
    table.loc[100:104, "framewise_displacement"] = 2.0
    table["non_steady_state_outlier00"] = np.eye(len(table))[0]
    table.to_csv(confounds_beside(img), sep="\t", index=False, na_rep="n/a")
    loaded = load_confounds(img, None, "scrubbing")
    series = np.random.default_rng(1).normal(size=(len(table), 7)).astype(np.float32)
    cleaned = clean_timeseries(series, loaded, CleaningOptions(confounds="scrubbing"), t_r=2.0)
    assert np.flatnonzero(cleaned.censored).tolist() == [0, 100, 101, 102, 103, 104]
    assert loaded.values is not None and len(cleaned.timeseries) == 180
    kept = loaded.sample_mask
    confounds = loaded.values.to_numpy()[kept]
    residual = cleaned.timeseries[kept] - cleaned.timeseries[kept].mean(axis=0)
    correlation = np.corrcoef(residual.T, confounds.T)[:7, 7:]
    assert_allclose(correlation, 0, atol=1e-5)


# --- which table --------------------------------------------------------------------------------------------


def test_the_table_of_the_scan_and_no_other(tmp_path: Path) -> None:
    _made(tmp_path, MOTION)  # of run-2
    with pytest.raises(
        InputError, match=r"no sub-01_task-rest_run-3_desc-confounds_timeseries\.tsv beside it"
    ):
        load_confounds(_image(tmp_path, "sub-01_task-rest_run-3_desc-preproc_bold.nii.gz"), None, "24p")
    # nilearn takes the table of a scan with fewer entities, or refuses because there are two
    less = tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    pd.DataFrame(np.ones((12, len(MOTION))), columns=MOTION).to_csv(less, sep="\t", index=False)
    loaded = load_confounds(_image(tmp_path), None, "24p")
    assert loaded.values is not None and loaded.values.to_numpy().std() > 0.5
    with pytest.raises(ValueError, match="more than one"):
        fmriprep.load_confounds(str(_image(tmp_path)), strategy=["motion"])


@pytest.mark.parametrize(
    "name",
    [
        f"{ENTITIES}_space-MNIPediatricAsym_cohort-3_res-2_desc-preproc_bold.nii.gz",
        f"{ENTITIES}_space-fsLR_den-91k_bold.dtseries.nii",
        f"{ENTITIES}_desc-preproc_bold.nii",
        f"{ENTITIES}_hemi-L_space-fsaverage5_bold.func.gii",
    ],
)
def test_the_table_whatever_the_images_space_and_format(tmp_path: Path, name: str) -> None:
    _made(tmp_path, MOTION)
    loaded = load_confounds(_image(tmp_path, name), None, "24p")
    assert loaded.values is not None and len(loaded.values.columns) == 24


def test_the_json_is_found_where_the_folder_is_called_tsv(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tsv"  # nilearn looks for the JSON of tsv/x.tsv in json/x.json
    folder.mkdir()
    img, _ = _real(shared, folder, "timeseries")
    loaded = load_confounds(img, None, "compcor")
    assert loaded.values is not None and any(c.startswith("a_comp_cor") for c in loaded.values.columns)


def test_a_given_table_of_fmriprep_goes_through_the_strategy(shared: Path, tmp_path: Path) -> None:
    img, _ = _real(shared, tmp_path, "timeseries")
    elsewhere = tmp_path / "elsewhere" / "anyname_desc-confounds_timeseries.tsv"
    elsewhere.parent.mkdir()
    shutil.move(confounds_beside(img) or "", elsewhere)
    loaded = load_confounds(img, elsewhere, "simple")
    assert loaded.values is not None and len(loaded.values.columns) == 24 + 2 + 1
    whole = load_confounds(img, elsewhere, "table")  # unless all of it is asked for
    assert whole.values is not None and whole.values.shape == (30, 84) and whole.sample_mask is None


def test_a_table_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    img = _image(tmp_path, "sub-01_task-rest_desc-preproc_bold.nii.gz")
    own = tmp_path / "own.tsv"
    own.write_text("framewise_displacement\ta\tdvars\nn/a\t1\tn/a\n0.5\t2\t7\n0.7\t4\t8\n")
    for strategy in ("simple", "table"):
        loaded = load_confounds(img, own, strategy)
        assert loaded.values is not None and loaded.sample_mask is None
        assert loaded.values.to_dict("list") == {
            "framewise_displacement": [0.5, 0.5, 0.7],  # the first row as the second, as nilearn does
            "a": [1, 2, 4],
            "dvars": [7, 7, 8],
        }
    assert loaded.fd is not None and np.nanmean(loaded.fd) == pytest.approx(0.6)
    assert loaded.n_non_steady == 0
    assert loaded.dvars is not None and np.isnan(loaded.dvars[0]) and loaded.dvars[2] == 8
    for strategy in ("scrubbing", "36p"):
        with pytest.raises(
            InputError, match=f"'{strategy}' cannot be chosen from .*own.tsv.*--confounds table"
        ):
            load_confounds(img, own, strategy)


def test_a_table_of_ones_own_refused(tmp_path: Path) -> None:
    img, own = _image(tmp_path), tmp_path / "own.tsv"
    for text, says in (
        (
            "a\tb\n1\t2\n3\tn/a\n5\t6\n",
            r"1 values are missing or not finite, in columns \['b'\], first in frame 2",
        ),
        ("a\tb\nn/a\t2\nn/a\t4\n5\t6\n", r"2 values .* \['a'\], first in frame 1"),
        ("a\tb\n1\t2\n3\tinf\n", r"\['b'\]"),
        ("a\nx\n", "cannot be read as a table of numbers"),
    ):
        own.write_text(text)
        with pytest.raises(InputError, match=says):
            load_confounds(img, own, "table")
    with pytest.raises(InputError, match=r"no table is given for it.*manifest"):
        load_confounds(img, None, "table")


# --- what a table lacks -------------------------------------------------------------------------------------


def test_missing_columns_are_named(tmp_path: Path) -> None:
    basic = [name for name in MOTION if "_derivative1" not in name and "_power2" not in name]
    for columns, strategy, says in (
        (basic, "24p", "lacks trans_x_derivative1, trans_x_power2, .*fMRIPrep before 1.4"),
        ([*MOTION, "csf"], "simple", r"the table lacks white_matter\."),
        (
            [*MOTION, "csf", "white_matter"],
            "36p",
            "lacks csf_derivative1, csf_power2, csf_derivative1_power2, ",
        ),
        (MOTION, {"strategy": ["motion", "scrub"]}, "lacks framewise_displacement, std_dvars"),
        (MOTION, {"strategy": ["ica_aroma"], "ica_aroma": "basic"}, r"cannot be loaded: .*ica_aroma"),
        (["CSF", "WhiteMatter", *MOTION], "24p", "camel case"),
    ):
        img = _made(tmp_path, columns)
        with pytest.raises(InputError, match=says):
            load_confounds(img, None, strategy)


def test_holes_in_a_chosen_column_are_named(tmp_path: Path) -> None:
    hole = [1.0, 2.0, 3.0, None, *range(8)]
    img = _made(tmp_path, [c for c in MOTION if c != "rot_y"], rot_y=hole, never_used=[None] * 12)
    with pytest.raises(InputError, match=r"1 values .* \['rot_y'\], first in frame 4"):
        load_confounds(img, None, "24p")


def test_compcor_needs_its_json(shared: Path, tmp_path: Path) -> None:
    img, _ = _real(shared, tmp_path, "timeseries")
    metadata = (confounds_beside(img) or img).with_suffix(".json")
    metadata.write_text('{"a_comp_cor_00": {"Mask": "combined"}, "a_comp_cor_01": ')
    with pytest.raises(
        InputError, match=r"CompCor needs .*timeseries\.json beside the table, it cannot be read"
    ):
        load_confounds(img, None, "compcor")
    metadata.write_text("{}")
    with pytest.raises(InputError, match="describes no CompCor component"):
        load_confounds(img, None, "compcor")
    metadata.unlink()
    with pytest.raises(InputError, match=r"CompCor needs .*No such file.*Keep fMRIPrep's JSON"):
        load_confounds(img, None, "compcor")
    assert load_confounds(img, None, "simple").values is not None  # which needs none


def test_aroma_takes_its_image_and_no_other(shared: Path, tmp_path: Path) -> None:
    img, _ = _real(shared, tmp_path, "timeseries")
    with pytest.raises(InputError, match=r"takes fMRIPrep's image \*_desc-smoothAROMAnonaggr_bold"):
        load_confounds(img, None, "ica_aroma")
    aroma = _image(tmp_path, f"{ENTITIES}_space-MNI152NLin6Asym_desc-smoothAROMAnonaggr_bold.nii.gz")
    with pytest.raises(InputError, match="already cleaned by ICA-AROMA"):
        load_confounds(aroma, None, "simple")


def test_aroma_regressors_as_columns(tmp_path: Path) -> None:
    img = _made(tmp_path, [*MOTION, "aroma_motion_01", "aroma_motion_07", "csf", "white_matter"])
    loaded = load_confounds(img, None, {"strategy": ["wm_csf", "ica_aroma"], "ica_aroma": "basic"})
    assert loaded.values is not None
    assert list(loaded.values.columns) == ["aroma_motion_01", "aroma_motion_07", "csf", "white_matter"]


def test_tedana_reads_its_own_two_tables(tmp_path: Path) -> None:
    img = _image(tmp_path, "sub-01_task-rest_desc-optcom_bold.nii.gz")
    with pytest.raises(InputError, match=r"'tedana' of .* cannot be loaded: .*confound file"):
        load_confounds(img, None, {"strategy": ["tedana"]})
    mixing = pd.DataFrame(
        np.random.default_rng(0).normal(size=(9, 3)), columns=["ICA_00", "ICA_01", "ICA_02"]
    )
    mixing.to_csv(tmp_path / "sub-01_task-rest_desc-ICA_mixing.tsv", sep="\t", index=False)
    metrics = pd.DataFrame(
        {"Component": list(mixing), "classification": ["rejected", "accepted", "rejected"]}
    )
    metrics.to_csv(tmp_path / "sub-01_task-rest_desc-tedana_metrics.tsv", sep="\t", index=False)
    loaded = load_confounds(img, None, {"strategy": ["tedana"]})
    assert loaded.values is not None and list(loaded.values.columns) == ["rejected_ICA_00", "rejected_ICA_02"]
    assert_allclose(loaded.values, (mixing - mixing.mean())[["ICA_00", "ICA_02"]])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("scrubing", "--confounds must be one of none, simple, .* got 'scrubing'. Did you mean 'scrubbing'"),
        ("absent.json", "absent.json cannot be read as JSON"),
        ({"moton": "full"}, "no argument 'moton'.* Did you mean 'motion'"),
        ({"denoise_strategy": "simple"}, "no argument 'denoise_strategy'"),
        ({"motion": "24"}, "'motion' must be one of basic, power2, derivatives, full, got '24'"),
        ({"motion": ["full"]}, "'motion' must be one of"),
        ({"strategy": "motion"}, "'strategy' must be a list of components, got 'motion'"),
        ({"strategy": []}, "'strategy' must be a list"),
        ({"strategy": ["motion", "compcorr", "high_pass"]}, "got 'compcorr'. Did you mean 'compcor'"),
        ({"strategy": [["motion"]]}, r"got \['motion'\]"),
        ({"strategy": ["motion", "motion"]}, "names a component twice"),
        ({"strategy": ["motion", "non_steady_state"]}, "always marked"),
        ({"strategy": ["motion", "compcor"]}, "'compcor' needs 'high_pass'"),
        ({"strategy": ["tedana", "motion"]}, "'tedana' must be alone"),
        (
            {"strategy": ["motion"], "wm_csf": "full"},
            r"'wm_csf' has no effect: 'wm_csf' is not in \['motion'\]",
        ),
        ({"strategy": ["scrub"], "scrub": -1}, "'scrub' must be a whole number of frames from 0, got -1"),
        ({"strategy": ["scrub"], "scrub": True}, "'scrub' must be .* got True"),
        ({"strategy": ["scrub"], "fd_threshold": 0}, "'fd_threshold' must be a number of mm above 0, got 0"),
        ({"strategy": ["scrub"], "std_dvars_threshold": "1"}, "'std_dvars_threshold' must be"),
        (
            {"strategy": ["high_pass", "compcor"], "n_compcor": 0},
            "'n_compcor' must be \"all\" or a whole number",
        ),
        ({"demean": 1}, "'demean' must be true or false, got 1"),
    ],
)
def test_strategies_refused(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_strategy(given)


def test_a_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('["motion"]')
    with pytest.raises(InputError, match=r"list\.json must hold a JSON object .* got list"):
        parse_strategy(str(tmp_path / "list.json"))
