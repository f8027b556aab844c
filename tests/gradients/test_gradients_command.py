"""bjepa-gradients as a user runs it: files, cross-check, alignment, exit statuses, nothing half-done."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from bjepa.cli.gradients import main
from bjepa.gradients import compute_affinity, diffusion_map, functional_connectivity, load_gradients
from bjepa.gradients.regions import regions_of_shards
from bjepa.preproc.atlas import load_atlas
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

nib: Any = nibabel
N_ROIS, SHA256 = 24, "ab" * 32
AFFINE = np.array([[0, -3, 0, 41], [2.5, 0, 0, -60], [0, 0, 4, 12], [0, 0, 0, 1]])  # 3 voxel sizes
NETWORKS = ["Vis", "SomMot", "Default", "Subcortex"]
HCP = "data/group_fc/brainspace_main_group_schaefer_400_7Networks_mean_connectivity.csv"


def label_volume() -> NDArray[np.int16]:
    labels = np.zeros((5, 7, 6), dtype=np.int16)
    labels[1:4, 1:5, 1:5] = np.repeat(np.arange(1, N_ROIS + 1), 2).reshape(3, 4, 4)
    return labels


def study(folder: Path, *, volume: bool = True, seed: int = 0) -> Path:
    """An output folder of bjepa-preprocess with three participants, 24 regions on a ring."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(N_ROIS) / N_ROIS
    mixing = np.stack([np.cos(k * angle + k) / k for k in range(1, 7)])  # (6, 24)
    rois: dict[str, Sequence[str]] = {c: [f"{c}-{n}" for n in range(N_ROIS)] for c in ROI_COLUMNS}
    rois["network7"] = [NETWORKS[n // 6] for n in range(N_ROIS)]
    scans = []
    for number, person in enumerate(("sub-a", "b", "c")):
        phases = [rng.normal(size=(60, 6)) @ mixing + 0.4 * rng.normal(size=(60, N_ROIS)) for _ in range(2)]
        scans.append(
            ShardScan(
                entities=dict(scan_id=f"s{number}", participant_id=person, session="", task="rest", run=""),
                t_r=1.0,
                t_r_out=2.0,
                valid=np.arange(N_ROIS) != (7 if number == 1 else -1),
                phases=[phase.astype(np.float32) for phase in phases],
            )
        )
    write_shard(
        folder / "shards/shard-00000.h5",
        scans,
        atlas="ring",
        atlas_sha256=SHA256,
        rois=rois,
        median=np.zeros(N_ROIS),
        iqr=np.ones(N_ROIS),
        scaling="none",
        target_t_r=2.0,
    )
    table = pd.DataFrame({"index": range(1, N_ROIS + 1), **rois})
    table[["x", "y", "z"]] = np.stack([40 * np.cos(angle), 50 * np.sin(angle), 10 * angle], axis=1)
    table["n_voxels"] = 2
    (folder / "atlas").mkdir()
    table.to_csv(folder / "atlas/atlas.tsv", sep="\t", index=False)
    description = {"name": "ring", "order": "-", "space": "-", "sha256": SHA256}
    (folder / "atlas/atlas.json").write_text(json.dumps(description))
    if volume:
        nib.save(nib.Nifti1Image(label_volume(), AFFINE), folder / "atlas/atlas.nii.gz")
    return folder


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds saved where the report is not what is tested."""
    monkeypatch.setattr("bjepa.gradients.report.write_report", lambda folder, run: None)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = study(tmp_path / "study"), tmp_path / "out"
    assert main([str(source), str(out), "--n-components", "4", "--sparsity", "0.5", "--cross-check"]) == 0
    tables = [f"gradients.{suffix}" for suffix in ("csv", "h5", "nii.gz", "tsv")]
    files = ["cross_check.json", "eigenvalues.tsv", "figures", *tables, "report.html"]
    assert sorted(p.name for p in out.iterdir()) == files
    names = "brain connectivity cross_check eigenvalues networks plane".split()
    pictures = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert sorted(p.name for p in (out / "figures").iterdir()) == pictures

    fc = functional_connectivity(ShardReader(source))
    expected = diffusion_map(compute_affinity(fc, sparsity=0.5), n_components=4)
    values = np.loadtxt(out / "gradients.csv", delimiter=",")
    assert_array_equal(values, expected.gradients)  # to the last digit
    for name in ("gradients.csv", "gradients.tsv", "gradients.h5"):
        table = load_gradients(out / name)
        assert_array_equal(table.values, expected.gradients)
        assert table.atlas_sha256 == SHA256

    with h5py.File(out / "gradients.h5") as file:
        assert_array_equal(file["eigenvalues"][()], expected.eigenvalues)
        assert_array_equal(file["fc_mean"][()], fc)
        assert file["affinity"].shape == (N_ROIS, N_ROIS)
        stored = dict(file.attrs)
    wanted: dict[str, Any] = {
        "n_scans": 3,
        "n_participants": 3,
        "sparsity": 0.5,
        "alpha": 0.5,
        "diffusion_time": 0,
    }
    wanted |= {
        "kernel": "normalized_angle",
        "scale_by_eigenvalues": True,
        "alignment": "none",
        "atlas": "ring",
    }
    assert {key: stored[key] for key in wanted} == wanted

    table = pd.read_csv(out / "gradients.tsv", sep="\t")
    assert list(table.columns[:6]) == ["index", *ROI_COLUMNS]
    assert list(table.columns[-4:]) == [f"gradient_{n}" for n in (1, 2, 3, 4)]
    image = nib.load(out / "gradients.nii.gz")
    labels = label_volume()
    assert image.shape == (*labels.shape, 4)
    assert_allclose(image.affine, AFFINE)
    assert_allclose(
        np.asarray(image.dataobj)[labels > 0], expected.gradients[labels[labels > 0] - 1], rtol=1e-6
    )
    assert (np.asarray(image.dataobj)[labels == 0] == 0).all()
    assert len(text(out / "eigenvalues.tsv").splitlines()) == 5

    check = json.loads(text(out / "cross_check.json"))
    assert sorted(check) == sorted(
        "affinity_max_abs_diff abs_r abs_r_min_over_seeds eigenvalue_rel_diff residual residual_brainspace "
        "subspace_cosine_min versions agrees".split()
    )
    assert [len(check[k]) for k in ("abs_r", "abs_r_min_over_seeds", "eigenvalue_rel_diff")] == [4, 4, 4]
    assert max(check["residual"]) < 1e-10 < max(check["residual_brainspace"])
    assert check["affinity_max_abs_diff"] < 1e-6
    page = text(out / "report.html")
    assert "Cross-check with BrainSpace" in page and "3</b><span>scans" in page
    assert "gradients of 24 regions" in capsys.readouterr().out


@pytest.mark.usefixtures("without_report")
def test_the_command_agrees_with_brainspace_on_real_connectivity(shared: Path, tmp_path: Path) -> None:
    assert main([str(shared / HCP), str(tmp_path / "out"), "--cross-check", "--n-components", "30"]) == 0
    check = json.loads(text(tmp_path / "out/cross_check.json"))
    assert check["agrees"] is True
    assert check["subspace_cosine_min"] >= 0.999
    assert max(check["eigenvalue_rel_diff"]) < 0.005  # measured 0.0009
    assert max(check["residual_brainspace"]) > 0.1  # its solver is not exact
    assert min(check["abs_r_min_over_seeds"]) < min(check["abs_r"]) <= 1
    assert not (tmp_path / "out/gradients.nii.gz").exists()


@pytest.mark.usefixtures("without_report")
def test_alignment_and_participants(tmp_path: Path) -> None:
    source = study(tmp_path / "study")
    (tmp_path / "people.txt").write_text("a\nc\n")
    common = [str(source), "--n-components", "3", "--sparsity", "0.4"]
    assert main([*common, str(tmp_path / "all")]) == 0
    some = [*common, "--participants", str(tmp_path / "people.txt")]
    assert main([*some, str(tmp_path / "some")]) == 0
    assert main([*some, str(tmp_path / "turned"), "--align-to", str(tmp_path / "all/gradients.tsv")]) == 0
    every, free, turned = (
        load_gradients(tmp_path / n / "gradients.h5").values for n in ("all", "some", "turned")
    )
    assert np.linalg.norm(turned - every) < np.linalg.norm(free - every)
    assert_allclose(turned @ turned.T, free @ free.T, atol=1e-12)
    with h5py.File(tmp_path / "turned/gradients.h5") as file:
        assert (file.attrs["n_scans"], file.attrs["alignment"], file.attrs["align_to"]) == (
            2,
            "procrustes",
            "gradients.tsv",
        )


def test_without_a_volume_regions_are_drawn_at_their_coordinates(tmp_path: Path) -> None:
    source = study(tmp_path / "study", volume=False)
    out = tmp_path / "out"
    shape = "--kernel cosine --alpha 1 --diffusion-time 2 --scale-by-eigenvalues false --sparsity 0.2"
    assert main([str(source), str(out), "--n-components", "2", *shape.split()]) == 0
    assert (out / "figures/brain.png").is_file()
    assert not (out / "gradients.nii.gz").exists()
    expected = diffusion_map(
        compute_affinity(functional_connectivity(ShardReader(source)), kernel="cosine", sparsity=0.2),
        n_components=2,
        alpha=1,
        diffusion_time=2,
        scale_by_eigenvalues=False,
    )
    assert_array_equal(load_gradients(out / "gradients.csv").values, expected.gradients)


@pytest.mark.usefixtures("without_report")
def test_shards_without_an_atlas_folder_keep_their_names(tmp_path: Path) -> None:
    source = study(tmp_path / "study")
    for file in (source / "atlas").iterdir():
        file.unlink()
    out, nothing = tmp_path / "out", tmp_path / "nothing"
    nothing.mkdir()
    shard = str(source / "shards/shard-00000.h5")
    assert (
        main([shard, str(out), "--n-components", "2", "--sparsity", "0.2", "--atlas-dir", str(nothing)]) == 0
    )
    table = pd.read_csv(out / "gradients.tsv", sep="\t")
    assert list(table["network7"].unique()) == NETWORKS


def test_the_volume_is_found_among_published_files(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/atlas"
    atlas = load_atlas("tian-s3", space="MNI152NLin2009cAsym", atlas_dir=folder)
    phase = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    write_shard(
        tmp_path / "study/shards/shard-00000.h5",
        [
            ShardScan(
                entities=dict(scan_id="s", participant_id="1", session="", task="", run=""),
                t_r=2.0,
                t_r_out=2.0,
                valid=np.ones(50, dtype=bool),
                phases=[phase],
            )
        ],
        atlas="tian-s3",
        atlas_sha256=atlas.sha256,
        rois={c: [str(cell) for cell in atlas.table[c]] for c in ROI_COLUMNS},
        median=np.zeros(50),
        iqr=np.ones(50),
        scaling="none",
        target_t_r=2.0,
    )
    reader = ShardReader(tmp_path / "study")
    found = regions_of_shards(reader, tmp_path / "study", folder)
    assert_array_equal(np.asarray(found.labels_img.dataobj), atlas.labels)
    assert found.names[0] == "HIP-head-m-rh"
    assert regions_of_shards(reader, tmp_path / "study").labels_img is None


def test_a_second_run_leaves_no_file_of_the_first(tmp_path: Path) -> None:
    source, out = study(tmp_path / "study"), tmp_path / "out"
    common = ["--n-components", "2", "--sparsity", "0.2"]
    assert main([str(source), str(out), *common, "--cross-check"]) == 0
    np.save(tmp_path / "fc.npy", functional_connectivity(ShardReader(source)))
    assert main([str(tmp_path / "fc.npy"), str(out), "--n-components", "1", "--sparsity", "0.2"]) == 0
    assert not any(
        (out / name).exists() for name in ("cross_check.json", "gradients.nii.gz", "figures/plane.png")
    )
    assert load_gradients(out / "gradients.csv").values.shape == (N_ROIS, 1)
    assert load_gradients(out / "gradients.csv").atlas_sha256 is None


@pytest.mark.usefixtures("without_report")
def test_refused_input_exits_2_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = study(tmp_path / "study"), tmp_path / "out"
    (tmp_path / "file").write_text("x")
    small = tmp_path / "small.csv"
    np.savetxt(small, np.ones((5, 2)), delimiter=",")
    assert main([str(study(tmp_path / "other")), str(tmp_path / "theirs"), "--n-components", "2"]) == 0
    theirs = tmp_path / "theirs/gradients.h5"
    with h5py.File(theirs, "a") as file:
        file.attrs["atlas_sha256"] = "cd" * 32
    capsys.readouterr()
    refused = [
        ([], "at most 23 for 24 regions"),
        (["--n-components", "0"], "at least 1"),
        (["--n-components", "-3"], "at least 1"),
        (["--n-components", "23", "--cross-check"], "BrainSpace computes at most 22"),
        (["--n-components", "2", "--sparsity", "90"], "It is a share"),
        (["--n-components", "2", "--alignment", "procrustes"], "needs --align-to"),
        (["--alignment", "none", "--align-to", str(small)], "contradicts"),
        (["--n-components", "2", "--align-to", str(small)], "has 5 regions, INPUT has 24"),
        (["--n-components", "2", "--align-to", str(theirs)], "another atlas"),
        (["--participants", str(tmp_path / "none.tsv")], "not a readable list"),
        (["--n-components", "2", "--kernel", "cosine", "--sparsity", "0.96"], "leaves nothing"),
    ]
    for options, says in refused:
        assert main([str(source), str(out), *options]) == 2, options
        message = capsys.readouterr().err
        assert says in message, options
        assert "Traceback" not in message
        assert not out.exists()
    assert main([str(source), str(tmp_path / "file"), "--n-components", "2"]) == 2
    assert main([str(tmp_path / "absent"), str(out)]) == 2
    before = sorted(source.iterdir())
    series = larger_study(tmp_path / "larger", n_participants=1) / "series"
    for given, place in ((source, source), (series, series), (series, source)):
        capsys.readouterr()
        assert main([str(given), str(place), "--n-components", "2", "--sparsity", "0.5"]) == 2
        assert "Give a folder of its own" in capsys.readouterr().err
    assert sorted(source.iterdir()) == before and len(list(series.iterdir())) == 2

    (source / "shards").rename(tmp_path / "elsewhere")
    assert main([str(source), str(out), "--n-components", "2"]) == 2
    assert "stage 'group'" in capsys.readouterr().err
    (tmp_path / "elsewhere").rename(source / "shards")

    description = json.loads(text(source / "atlas/atlas.json")) | {"sha256": "00"}
    (source / "atlas/atlas.json").write_text(json.dumps(description))
    assert main([str(source), str(out), "--n-components", "2"]) == 2
    assert "describes another atlas" in capsys.readouterr().err
    (source / "atlas/atlas.json").write_text("{")
    assert main([str(source), str(out), "--n-components", "2"]) == 2
    assert not out.exists()


@pytest.mark.parametrize(
    "option",
    ["--n-splits=1", "--null=spin2", "--scale-by-eigenvalues=maybe", "--kernel=angle", "--n-neighbors=1"],
)
def test_usage_errors(tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), str(tmp_path / "out"), option])
    assert stopped.value.code == 2


def test_help_is_quick_and_has_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BJEPA_ATLAS_DIR", "/somewhere")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "bjepa-gradients derivatives/bjepa" in capsys.readouterr().out


def larger_study(folder: Path, *, n_participants: int = 9) -> Path:
    """Participants with two sessions each, of alternating diagnosis."""
    rng = np.random.default_rng(3)
    angle = 2 * np.pi * np.arange(N_ROIS) / N_ROIS
    mixing = np.stack([np.cos(k * angle + k) / k for k in range(1, 7)])  # (6, 24)
    (folder / "series").mkdir(parents=True)
    rows = ["participant_id\tdiagnosis"]
    for person in range(n_participants):
        rows.append(f"sub-{person:02d}\t{('control', 'patient')[person % 2]}")
        for session in (1, 2):
            series = rng.normal(size=(80, 6)) @ mixing + 0.4 * rng.normal(size=(80, N_ROIS))
            np.save(folder / f"series/sub-{person:02d}_ses-{session}_timeseries.npy", series)
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_every_question_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = larger_study(tmp_path / "study"), tmp_path / "out"
    common = ["--n-components", "3", "--sparsity", "0.5"]
    assert main([str(source / "series"), str(tmp_path / "before"), *common]) == 0
    asked = ["--align-to", str(tmp_path / "before/gradients.csv"), "--split-half", "--n-splits", "5"]
    asked += ["--group-by", "diagnosis", "--participants", str(source / "participants.tsv")]
    asked += ["--per-participant", "--compare", str(tmp_path / "before/gradients.h5"), "--weights", "frames"]
    assert main([str(source / "series"), str(out), *common, *asked, "--connectivity", "ledoit-wolf"]) == 0
    told = capsys.readouterr().out
    assert "Aligned to gradients.csv" in told and "Between halves of the participants: r = 1.00 [" in told

    made = {path.name for path in out.iterdir()}
    assert made >= set("stability.tsv stability_regions.tsv comparison.tsv groups.tsv individuals.h5".split())
    assert {path.name for path in (out / "groups").iterdir()} == {"diagnosis-control", "diagnosis-patient"}
    stability = pd.read_csv(out / "stability.tsv", sep="\t")
    assert (stability["r_low"] > stability["r_null"]).all() and (stability["n_splits"] == 5).all()
    groups = pd.read_csv(out / "groups.tsv", sep="\t").set_index("group")
    assert groups.loc["control", "n_scans"] == 10 and groups.loc["patient", "n_participants"] == 4
    assert len(pd.read_csv(out / "individuals.tsv", sep="\t")) == 9
    page = text(out / "report.html")
    for said in ("Stability", "diagnosis", "Single participants", "Ledoit", "number of frames"):
        assert said in page
    with h5py.File(out / "gradients.h5") as file:
        stored = dict(file.attrs)
    assert stored["connectivity"] == "ledoit-wolf" and stored["align_to"] == "gradients.csv"

    # a plain run afterwards leaves none of it
    assert main([str(source / "series"), str(out), *common]) == 0
    left = {path.name for path in out.iterdir()}
    assert left == {path.name for path in (tmp_path / "before").iterdir()}


def test_options_that_would_do_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = study(tmp_path / "study"), tmp_path / "out"
    np.save(tmp_path / "fc.npy", functional_connectivity(ShardReader(source)))
    matrix, shards = str(tmp_path / "fc.npy"), str(source)
    near = ["--n-neighbors", "5"]
    refused = [
        (shards, ["--n-splits", "20"], "does nothing without --split-half"),
        (shards, ["--null", "spin"], "does nothing without --maps"),
        (shards, ["--n-permutations", "99"], "does nothing without --maps"),
        (shards, ["--approach", "pca", "--alpha", "0.5"], "no such option"),
        (shards, ["--approach", "le", "--diffusion-time", "0"], "no such option"),
        (shards, ["--alignment", "joint"], "needs --align-to"),
        (shards, ["--align-to", "hcp"], "Schaefer"),
        (shards, ["--group-by", "diagnosis"], "diagnosis"),
        (shards, ["--n-jobs", "0"], "--n-jobs"),
        (shards, ["--hemisphere", "L"], "holds shards"),
        (matrix, ["--hemisphere", "L"], "hemisphere L cannot be chosen"),
        (matrix, ["--split-half"], "needs scans"),
        (matrix, ["--per-participant"], "needs scans"),
        (matrix, ["--group-by", "session"], "needs scans"),
        (matrix, ["--connectivity", "partial"], "needs scans"),
        (matrix, ["--weights", "frames"], "needs scans"),
        (shards, [*near, "--cross-check"], "--n-neighbors"),
        (shards, [*near, "--split-half"], "--n-neighbors"),
        (shards, [*near, "--per-participant"], "--n-neighbors"),
        (shards, [*near, "--group-by", "session"], "--n-neighbors"),
        (shards, [*near, "--connectivity", "tangent"], "--n-neighbors"),
    ]
    for given, options, says in refused:
        assert main([given, str(out), "--n-components", "2", "--sparsity", "0.5", *options]) == 2, options
        message = capsys.readouterr().err
        assert says in message and "Traceback" not in message, (options, message)
        assert not out.exists()


def test_the_command_offers_what_the_package_has() -> None:
    from bjepa.cli import _gradients_options as offered
    from bjepa.gradients.connectivity.measure import KINDS, WEIGHTS
    from bjepa.gradients.embedding import APPROACHES
    from bjepa.gradients.quality.maps import NULLS
    from bjepa.gradients.surface_series import HEMISPHERES

    assert (offered.CONNECTIVITY, offered.WEIGHTS) == (KINDS, WEIGHTS)
    assert (offered.APPROACHES, offered.NULLS) == (APPROACHES, NULLS)
    assert offered.HEMISPHERES == HEMISPHERES


def test_vertices_keep_their_nearest_neighbours_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    angle = 2 * np.pi * np.arange(300) / 300
    mixing = np.stack([np.cos(k * angle + k) / k for k in range(1, 7)])  # (6, 300)
    np.save(tmp_path / "series.npy", rng.normal(size=(90, 6)) @ mixing + 0.3 * rng.normal(size=(90, 300)))
    out = tmp_path / "out"
    assert main([str(tmp_path / "series.npy"), str(out), "--n-components", "4", "--n-neighbors", "30"]) == 0
    with h5py.File(out / "gradients.h5") as file:
        assert "fc_mean" not in file
        assert file.attrs["n_neighbors"] == 30
        assert 300 * 31 <= len(file["affinity/data"]) < 2 * 300 * 31
        assert file["residuals"][()].max() < 1e-10
    plane = load_gradients(out / "gradients.csv").values[:, :2]
    found = np.linalg.lstsq(np.column_stack([plane, np.ones(300)]), mixing[0], rcond=None)[1]
    assert 1 - found / ((mixing[0] - mixing[0].mean()) ** 2).sum() > 0.9  # the ring's first wave
    np.save(tmp_path / "many.npy", np.zeros((5, 12_001), dtype=np.float32))
    assert main([str(tmp_path / "many.npy"), str(tmp_path / "new"), "--n-components", "4"]) == 2
    assert not (tmp_path / "new").exists()
    assert not (out / "figures/connectivity.png").exists() and "the 30 largest" in text(out / "report.html")


def test_maps_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = study(tmp_path / "study"), tmp_path / "out"
    common = [str(source), "--n-components", "3", "--sparsity", "0.5"]
    assert main([*common, str(out)]) == 0
    own = load_gradients(out / "gradients.csv").values
    table = pd.DataFrame({"name": [f"name-{n}" for n in range(N_ROIS)], "copy": own[:, 1]})
    table["noise"] = np.random.default_rng(0).normal(size=N_ROIS)
    table[::-1].to_csv(tmp_path / "maps.csv", index=False)  # rows are found by name
    asked = ["--maps", str(tmp_path / "maps.csv"), "--null", "variogram", "--n-permutations", "49"]
    assert main([*common, str(out), *asked]) == 0
    found = pd.read_csv(out / "maps.tsv", sep="\t").set_index(["map", "component"])
    assert_allclose(found.loc[("copy", 2), "r"], 1)
    assert found.loc[("copy", 2), "p"] == 0.02 < found.loc[("noise", 1), "p"]
    assert (out / "figures/maps.svg").is_file() and "variogram" in text(out / "report.html")

    maps = tmp_path / "out/maps.tsv"  # an input that the run would replace
    assert main([*common, str(out), "--maps", str(maps)]) == 2 and maps.is_file()
    assert main([*common, str(out), "--align-to", str(out / "gradients.h5")]) == 2
    (tmp_path / "header.csv").write_text("name,a\n")
    assert main([*common, str(tmp_path / "new"), "--maps", str(tmp_path / "header.csv")]) == 2
    (tmp_path / "short.csv").write_text("a\n" + "1\n" * 5)
    capsys.readouterr()
    assert main([*common, str(tmp_path / "new"), "--maps", str(tmp_path / "short.csv")]) == 2
    assert "short.csv" in capsys.readouterr().err and not (tmp_path / "new").exists()
