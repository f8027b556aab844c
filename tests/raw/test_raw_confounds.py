"""preproc/raw/confounds.py: nipype's numbers, fMRIPrep's names, nilearn's strategies, planted events."""

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds_strategy
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.preproc.clean import load_confounds
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_json, write_tsv
from bjepa.preproc.raw.compcor import cosine_drifts
from bjepa.preproc.raw.confounds import FD_LIMIT, MOTION, STD_DVARS_LIMIT, RunSignals, dvars
from bjepa.preproc.raw.motion import Motion
from bjepa.preproc.raw.tissue import TissueMasks
from bjepa.preproc.strategies import STRATEGIES

SHAPE, T, T_R, N_FIRST = (9, 7, 11), 120, 2.2, 3
SIGNALS = ("global_signal", "csf", "white_matter")
SUFFIXES = ("", "_derivative1", "_power2", "_derivative1_power2")


def _motion(n_frames: int, seed: int = 4) -> Motion:
    params = np.random.default_rng(seed).normal(size=(n_frames, 6)) * [0.02, 0.02, 0.02, 2e-4, 2e-4, 2e-4]
    return Motion(params, np.tile(np.eye(4), (n_frames, 1, 1)), np.zeros(3))


class Run:
    """A run of SHAPE, brighter in its first frames, with a pulse in the fluid and a jump in frame 70."""

    def __init__(self) -> None:
        rng = np.random.default_rng(12)
        self.brain = rng.random(SHAPE) < 0.75
        kind = rng.random(SHAPE)
        self.masks = TissueMasks(
            wm=self.brain & (kind < 0.3), csf=self.brain & (kind > 0.9), brain=self.brain
        )
        self.pulse = np.sin(2 * np.pi * 0.11 * np.arange(T) * T_R)
        self.drift = cosine_drifts(T, T_R)[:, 0]
        data = rng.uniform(400, 1200, (*SHAPE, 1)) + rng.normal(size=(*SHAPE, T)) * 8
        data += 60 * self.drift
        data[self.masks.csf] += 25 * self.pulse
        data[..., 70] += rng.normal(size=SHAPE) * 40
        data[..., :N_FIRST] *= 1 + 0.3 * 2.0 ** -np.arange(N_FIRST)
        self.data = data
        self.motion = _motion(T)
        self.motion.params[40, 1] += 0.7  # mm: two frames above the limit
        # more voxels than the brain's, as a region may lie beyond it
        self.voxels = np.flatnonzero(self.brain.ravel(order="F") | (rng.random(self.brain.size) < 0.5))

    def signals(self, data: NDArray[np.float64] | None = None, **options: Any) -> RunSignals:
        """Gathered from all frames; what is handed over may not be changed."""
        data = self.data if data is None else data
        gathered = RunSignals(self.masks, self.voxels, T, T_R, **options)
        for frame in range(T):
            values = data[..., frame].ravel(order="F")[self.voxels]
            values.flags.writeable = False
            gathered.add(frame, values)
        return gathered


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


@pytest.fixture(scope="module")
def made(run: Run) -> tuple[pd.DataFrame, dict[str, Any]]:
    return run.signals().table(run.motion, N_FIRST)


def test_means_differences_and_squares(run: Run, made: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    table, told = made
    for name, mask in (("global_signal", run.brain), ("csf", run.masks.csf), ("white_matter", run.masks.wm)):
        assert_allclose(table[name], run.data[mask].mean(axis=0), rtol=1e-6)
        assert told[name] == {"Method": "Mean", "Voxels": int(mask.sum())}
    assert_allclose(table["csf_wm"], run.data[run.masks.csf | run.masks.wm].mean(axis=0), rtol=1e-6)
    for name, values in zip(MOTION, run.motion.params.T, strict=True):
        assert (table[name] == values).all()
    for name in (*SIGNALS, *MOTION):
        step = table[name].diff()
        assert_allclose(table[f"{name}_derivative1"], step)
        assert_allclose(table[f"{name}_power2"], table[name] ** 2)
        assert_allclose(table[f"{name}_derivative1_power2"], step**2)
    empty = table.columns[table.isna().any()]
    assert table.iloc[0].isna().sum() == len(empty) and not table.iloc[1:].isna().any(axis=None)
    expected = {name + suffix for name in (*SIGNALS, *MOTION) for suffix in SUFFIXES if "deriv" in suffix}
    assert set(empty) == expected | {"dvars", "std_dvars", "framewise_displacement"}


def test_names_and_their_order_are_fmripreps(made: tuple[pd.DataFrame, dict[str, Any]], shared: Path) -> None:
    path = shared / "data/confounds/nilearn/test-v21_desc-confounds_timeseries"
    theirs = pd.read_csv(path.with_suffix(".tsv"), sep="\t").columns

    def groups(names: Any) -> list[str]:
        """Names without numbers and suffixes, in the order in which they first come."""
        bare = [re.sub(r"(_derivative1)?(_power2)?$|\d+$", "", name) for name in names]
        return list(dict.fromkeys(re.sub(r"(_derivative1)?(_power2)?$", "", name) for name in bare))

    ours = groups(made[0].columns)
    absent = {"tcompcor", "rmsd", "t_comp_cor_"}
    assert ours == [name for name in groups(theirs) if name not in absent]
    numbered = [name for name in made[0].columns if re.search(r"\d\d$", name)]
    assert {name for name in made[0].columns if name not in numbered} <= set(theirs)

    their_json = json.loads(path.with_suffix(".json").read_text())
    for name in ("a_comp_cor_00", "c_comp_cor_00", "w_comp_cor_00"):
        assert sorted(made[1][name]) == sorted(their_json[name])
        for key in ("Mask", "Method", "Retained"):
            assert made[1][name][key] == their_json[name][key]


def test_numbers_are_those_of_nipype() -> None:
    """nipype 1.11.0: compute_dvars(remove_zerovariance=True, variance_tol=1e-7) and compute_noise_components(
    components_criterion=0.5, filter_type="cosine", period_cut=128, repetition_time=3) without frame 0."""
    rng = np.random.default_rng(20)
    shape, n_frames = (4, 5, 3), 40
    data = rng.uniform(300, 900, (*shape, 1)) + rng.normal(size=(*shape, n_frames)).cumsum(-1) * 3
    data += rng.normal(size=(*shape, n_frames)) * 9
    brain = rng.random(shape) < 0.8
    wm = brain & (rng.random(shape) < 0.4)
    csf = brain & ~wm & (rng.random(shape) < 0.5)
    voxels = np.flatnonzero(brain.ravel(order="F"))
    gathered = RunSignals(TissueMasks(wm, csf, brain), voxels, n_frames, 3.0)
    for frame in range(n_frames):
        gathered.add(frame, data[..., frame].ravel(order="F")[voxels])
    table, told = gathered.table(_motion(n_frames), 1)
    standardised = [1.00408871435164, 1.1605674748201305, 0.9874646304700999, 0.913102982612915]
    assert_allclose(table["std_dvars"][1:5], standardised, rtol=1e-5)
    plain = [23.745908737182617, 27.446508407592773, 23.35276222229004, 21.594167709350586]
    assert_allclose(table["dvars"][1:5], plain, rtol=1e-5)
    for prefix, singular, cumulated, first in (
        ("c", [11.68055696, 9.80691104, 7.58094134], 0.57215303, [0.41847309, 0.3431306, 0.35337388]),
        ("w", [13.16035486, 8.70109431, 8.67970894, 8.41482076], 0.50647505, [0.16767345, 0.25033761]),
        ("a", [16.85073337, 12.14083887, 9.90294255, 9.03741675, 8.95475665], 0.53712356, [0.25238547]),
    ):
        names = [name for name in table if name.startswith(f"{prefix}_comp_cor")]
        assert_allclose([told[name]["SingularValue"] for name in names], singular, rtol=1e-6)
        assert_allclose(told[names[-1]]["CumulativeVarianceExplained"], cumulated, rtol=1e-6)
        assert_allclose(table[names[0]].abs()[1 : 1 + len(first)], first, rtol=1e-5)


def test_dvars_by_hand(run: Run) -> None:
    series = run.data[run.brain].T.astype(np.float32)  # (T, V)
    standardised, plain = dvars(series)
    scaled = series.astype(np.float64) / np.median(series) * 1000
    assert_allclose(plain[1:], np.sqrt((np.diff(scaled, axis=0) ** 2).mean(axis=1)), rtol=1e-5)
    expected = []
    for voxel in scaled.T:
        ranked = np.sort(voxel)
        sd = (ranked[int(0.75 * (T - 1))] - ranked[int(0.25 * (T - 1))]) / 1.349
        centred = voxel - voxel.mean()
        expected.append(sd * np.sqrt(2 * (1 - (centred[1:] @ centred[:-1]) / (centred @ centred))))
    assert_allclose(standardised[1:], plain[1:] / np.mean(expected), rtol=1e-5)


def test_law_std_dvars_is_one_for_stationary_noise_of_any_colour_and_scale() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(400, 300))
    for r in (0.0, 0.5):
        coloured = np.empty_like(noise)
        coloured[0] = noise[0]
        for t in range(1, len(noise)):
            coloured[t] = r * coloured[t - 1] + np.sqrt(1 - r**2) * noise[t]
        series = (500 + 7 * coloured).astype(np.float32)
        standardised, plain = dvars(series)
        assert_allclose(standardised[1:].mean(), 1, atol=0.02)
        again, same = dvars(series * np.float32(8))  # a power of two: no rounding
        assert (again[1:] == standardised[1:]).all() and (same[1:] == plain[1:]).all()


def test_constant_voxels_do_not_count(run: Run) -> None:
    series = run.data[run.brain].T.astype(np.float32)
    middle = np.full((T, 5), np.median(series), np.float32)  # leaves the median where it is
    for ours, theirs in zip(dvars(np.hstack([series, middle])), dvars(series), strict=True):
        assert_allclose(ours, theirs, rtol=1e-6)
    assert np.isnan(dvars(middle)[0]).all()


def test_planted_events_are_found(run: Run, made: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    table, told = made
    first = [name for name in table if name.startswith("non_steady_state_outlier")]
    assert [table[name].to_numpy().nonzero()[0].tolist() for name in first] == [[0], [1], [2]]
    fd = table["framewise_displacement"]
    assert fd[40] > 0.6 and fd[41] > 0.6 and (fd > FD_LIMIT).sum() == 2
    assert_allclose(fd[1], np.abs(np.diff(run.motion.params[:2], axis=0) * [1, 1, 1, 50, 50, 50]).sum())
    jumped = np.flatnonzero((fd > FD_LIMIT) | (table["std_dvars"] > STD_DVARS_LIMIT))
    assert {40, 41, 70, 71} <= set(jumped) <= {1, 2, 3, 40, 41, 70, 71}
    marked = [name for name in table if name.startswith("motion_outlier")]
    assert [table[name].to_numpy().nonzero()[0].tolist() for name in marked] == [[t] for t in jumped]
    assert all(set(table[name]) == {0.0, 1.0} for name in (*first, *marked))
    # the pulse that was planted in the fluid, cleaned of drifts, is its first component
    steady = slice(N_FIRST, None)
    assert abs(np.corrcoef(table["c_comp_cor_00"][steady], run.pulse[steady])[0, 1]) > 0.98
    names = [name for name in table if re.match(r"[cwa]_comp_cor|cosine", name)]
    assert (table.loc[: N_FIRST - 1, names] == 0).all(axis=None)
    drifts = table.filter(like="cosine").to_numpy()
    assert_allclose(drifts[steady], cosine_drifts(T - N_FIRST, T_R))
    assert drifts.shape[1] == 3 and told["cosine00"]["CutoffPeriod"] == 128


def test_every_strategy_loads(run: Run, made: tuple[pd.DataFrame, dict[str, Any]], tmp_path: Path) -> None:
    table, told = made
    beside = tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    write_tsv(beside, table)
    write_json(beside.with_suffix(".json"), told)
    image = tmp_path / "sub-01_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, T), np.int16), np.eye(4)), image)
    widths = {}
    for name in STRATEGIES.keys() - {"ica_aroma"}:
        known = load_confounds(image, beside, name)
        assert known.values is not None and np.isfinite(known.values.to_numpy()).all()
        assert known.n_non_steady == N_FIRST and known.fd is not None and known.fd[40] > 0.6
        kept = np.ones(T, bool) if known.sample_mask is None else known.sample_mask
        assert not kept[:N_FIRST].any() and kept[10:30].all()
        widths[name] = known.values.shape[1]
    n_cosines, n_components = 3, sum(name.startswith("a_comp_cor") for name in table)
    assert widths["24p"] == 24 + n_cosines and widths["36p"] == 36 + n_cosines
    assert widths["simple"] == 26 + n_cosines and widths["compcor"] == 24 + n_cosines + n_components
    for preset in ("simple", "scrubbing", "compcor"):
        values, kept = load_confounds_strategy(str(image), denoise_strategy=preset)
        # with scrubbing the first steady frame goes too: the signal has dropped into it
        assert len(values) == T and kept.min() == N_FIRST + (preset == "scrubbing")
        assert preset != "scrubbing" or not {40, 41, 70, 71} & set(kept)
    # what was planted is gone from a voxel once the columns are regressed out
    series = (500 * run.drift + 25 * run.pulse + 5 * np.random.default_rng(1).normal(size=T))[N_FIRST:]
    values, _ = load_confounds_strategy(str(image), denoise_strategy="compcor")
    design = np.column_stack([values.to_numpy()[N_FIRST:], np.ones(T - N_FIRST)])
    left = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    assert left.std() < 5.5 < 30 < series.std()


def test_voxels_that_leave_the_image_count_in_no_signal(run: Run) -> None:
    data = run.data.copy()
    gone = np.zeros(SHAPE, bool)
    gone[:, :, :2] = True
    data[gone, 50] = 0
    data[0, :, 5, 60] = np.nan
    table, _ = run.signals(data).table(run.motion, N_FIRST)
    left = ~gone
    left[0, :, 5] = False
    assert_allclose(table["csf"], run.data[run.masks.csf & left].mean(axis=0), rtol=1e-6)
    assert_allclose(table["std_dvars"], dvars(run.data[run.brain & left].T.astype(np.float32))[0], rtol=1e-6)


def test_an_empty_frame_does_not_empty_the_masks(run: Run) -> None:
    data = run.data.copy()
    data[..., 55] = 0
    table, _ = run.signals(data).table(run.motion, N_FIRST)
    assert table["csf"][55] == 0 and table["csf"][54] > 500 and table["std_dvars"][55] > 5


def test_with_little_memory_voxels_are_sampled_and_it_is_told(
    run: Run, made: tuple[pd.DataFrame, dict[str, Any]]
) -> None:
    few = 4 * T * 200  # bytes: the brain has 520 voxels, white matter 160
    table, told = run.signals(max_bytes=few).table(run.motion, N_FIRST)
    n_brain = int(run.brain.sum())
    every = 1 + n_brain // 200
    assert every == 3
    assert told["global_signal"] == {
        "Method": "Mean",
        "Voxels": n_brain,
        "Description": f"Computed from one voxel in {every}: all would not fit in memory.",
    }
    assert "Description" not in told["csf"]
    flat = run.data.reshape(-1, T, order="F")[np.flatnonzero(run.brain.ravel(order="F"))[::every]]
    assert_allclose(table["global_signal"], flat.mean(axis=0), rtol=1e-6)
    assert_allclose(table["csf"], made[0]["csf"])


def test_law_the_same_run_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        table, told = run.signals().table(run.motion, N_FIRST)
        write_tsv(tmp_path / f"{name}.tsv", table)
        write_json(tmp_path / f"{name}.json", told)
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_what_cannot_be_is_refused(run: Run) -> None:
    without_one = np.setdiff1d(run.voxels, np.flatnonzero(run.masks.csf.ravel(order="F"))[:1])
    for voxels in (without_one, run.voxels[:0], run.voxels[::-1]):
        with pytest.raises(ValueError, match="must be among"):
            RunSignals(run.masks, voxels, T, T_R)
    unfinished = RunSignals(run.masks, run.voxels, T, T_R)
    unfinished.add(0, run.data[..., 0].ravel(order="F")[run.voxels])
    with pytest.raises(ValueError, match=f"{T - 1} of {T} frames"):
        unfinished.table(run.motion, 0)
    with pytest.raises(InputError, match="raw BOLD is positive"):
        run.signals(run.data - run.data.mean(axis=-1, keepdims=True)).table(run.motion, 0)
    out = run.data.copy()
    out[run.masks.csf, 99] = 0
    with pytest.raises(InputError, match="No voxel of the run's ventricles stays inside"):
        run.signals(out).table(run.motion, 0)
