"""bjepa-evaluate as a user types it: files, same bytes, same splits, real connectomes, exit statuses."""

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bjepa.cli.evaluate import main
from bjepa.model import JEPA, ModelConfig
from bjepa.model.hub import save_model

TABLES = ("scores.tsv", "summary.tsv", "predictions.tsv", "splits.tsv")
N_FRAMES, N_PARTICIPANTS = 72, 45


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def summary(folder: Path) -> dict[tuple[str, str], float]:
    return {(r["method"], r["metric"]): float(r["mean"]) for r in rows(folder / "summary.tsv")}


@pytest.fixture
def cohort(write_cohort: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Age is in the coupling of regions 0 and 1, `level` in the mean of region 2; some have two phases."""
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, N_PARTICIPANTS)
    level = rng.normal(size=N_PARTICIPANTS)
    phases = []
    for i in range(N_PARTICIPANTS):
        n_frames, coupling = 150 + i % 3, (age[i] - 20) / 65
        x = rng.normal(size=(2, n_frames, 6))
        x[..., 1] = coupling * x[..., 0] + np.sqrt(1 - coupling**2) * x[..., 1]
        x[..., 2] += 2 * level[i]
        phases.append(list(x.astype(np.float32))[: 1 + i % 2])
    lines = ["participant_id\tage\tlevel\tsex"]
    lines += [f"sub-{i:02d}\t{age[i]}\t{level[i]}\t{'FM'[i % 2]}" for i in range(N_PARTICIPANTS)]
    (tmp_path / "participants.tsv").write_text("\n".join(lines) + "\n")
    return write_cohort(phases), tmp_path / "participants.tsv"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = ModelConfig(
        n_rois=6,
        n_frames=N_FRAMES,
        patch_size=24,
        n_gradients=3,
        embed_dim=8,
        depth=1,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
    )
    torch.manual_seed(0)
    save_model(JEPA(config, np.random.default_rng(1).normal(size=(6, 3))), tmp_path / "run" / "model")
    return tmp_path / "run"


def evaluate(*words: object) -> int:
    return main([str(word) for word in words])


def test_baselines_find_connectivity_and_the_control_finds_levels(
    cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    data, participants = cohort
    assert evaluate("baselines", data, participants, "--target", "age", "--output", tmp_path / "age") == 0
    assert evaluate("baselines", data, participants, "--target", "level", "--output", tmp_path / "level") == 0
    by_age, by_level = summary(tmp_path / "age"), summary(tmp_path / "level")
    assert by_age["fc-ridge", "r2"] > 0.6 and by_age["static-mean", "r2"] < 0.1
    assert by_level["static-mean", "r2"] > 0.8 and by_level["fc-ridge", "r2"] < 0.1


def test_probe_writes_the_files_of_the_contract(
    cohort: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, participants = cohort
    out = tmp_path / "probe"
    words = ("--target", "level", "--methods", "fc-ridge,static-mean", "--n-splits", "4", "--seed", "3")
    assert evaluate("probe", model, data, participants, *words, "--output", out) == 0
    assert {p.name for p in out.iterdir()} >= {*TABLES, "report.html", "run.json", "embedding.h5"}
    assert capsys.readouterr().out.strip() == str(out / "report.html")

    scores, means = rows(out / "scores.tsv"), rows(out / "summary.tsv")
    assert list(scores[0]) == ["method", "split", "metric", "value"] and len(scores) == 3 * 4 * 5
    assert " ".join(means[0]) == (
        "method metric mean ci_low ci_high n_train n_val n_test n_splits p_permutation"
    )
    assert [r["method"] for r in means[::5]] == ["probe", "fc-ridge", "static-mean"]
    assert [r["metric"] for r in means[:5]] == ["r", "spearman", "r2", "mae", "mse"]
    assert means[0]["n_splits"] == "4" and float(means[2]["ci_low"]) <= float(means[2]["mean"])
    of_probe = [float(r["value"]) for r in scores if r["method"] == "probe" and r["metric"] == "r2"]
    assert np.mean(of_probe) == pytest.approx(float(means[2]["mean"]), abs=1e-5)
    assert float(means[2]["mean"]) > 0.3  # an untrained encoder still carries levels

    predictions = [r for r in rows(out / "predictions.tsv") if r["method"] == "probe"]
    tested = sorted(r["participant_id"] for r in predictions)
    assert tested == [f"sub-{i:02d}" for i in range(N_PARTICIPANTS)]
    one = [r for r in predictions if r["split"] == "2"]
    by_hand = r2_score([float(r["target"]) for r in one], [float(r["prediction"]) for r in one])
    assert by_hand == pytest.approx(of_probe[2], abs=1e-4)

    run = json.loads((out / "run.json").read_text())
    assert (
        run["seed"] == 3 and run["task"] == "regression" and run["command"][:2] == ["bjepa-evaluate", "probe"]
    )
    with h5py.File(out / "embedding.h5") as file:
        assert run["model"]["model_sha256"] == file.attrs["model_sha256"]
        assert file["embedding"].shape == (N_PARTICIPANTS, 8)
    page = (out / "report.html").read_text()
    assert "The embedding" in page and "45 participants are few" in page and page.count("<svg") >= 3


def test_same_bytes_and_same_splits_for_all(cohort: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    data, participants = cohort
    words = ("--target", "sex", "--seed", "1", "--n-splits", "3", "--output")
    for name in ("a", "b"):
        assert evaluate("probe", model, data, participants, *words, tmp_path / name) == 0
        assert evaluate("baselines", data, participants, *words, tmp_path / f"{name}-fc") == 0
    for table in TABLES:
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes()
        assert (tmp_path / "a-fc" / table).read_bytes() == (tmp_path / "b-fc" / table).read_bytes()
    assert (tmp_path / "a" / "splits.tsv").read_bytes() == (tmp_path / "a-fc" / "splits.tsv").read_bytes()
    first, second = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("a", "b-fc"))
    assert first["splits_sha256"] == second["splits_sha256"]
    assert list(second["methods"]) == ["static-mean", "fc-ridge", "fc-logistic"]

    again = (*words[:2], "--splits", tmp_path / "a" / "splits.tsv", "--output", tmp_path / "c")
    assert evaluate("baselines", data, participants, *again) == 0
    for table in TABLES:
        assert (tmp_path / "c" / table).read_bytes() == (tmp_path / "a-fc" / table).read_bytes()


def test_law_order_of_scans_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ids = np.array([f"{i // 2:02d}" for i in range(60)])  # two scans each
    features = rng.normal(size=(60, 11)) + (np.arange(60) // 2)[:, None] / 10
    lines = ["participant_id\tage", *(f"{i:02d}\t{i + rng.random()}" for i in range(30))]
    (tmp_path / "p.tsv").write_text("\n".join(lines) + "\n")
    order = rng.permutation(60)
    for name, take in (("a", np.arange(60)), ("b", order)):
        np.savez(tmp_path / f"{name}.npz", features=features[take], participant_id=ids[take])
        words = (tmp_path / f"{name}.npz", tmp_path / "p.tsv", "--target", "age", "--output", tmp_path / name)
        assert evaluate("baselines", *words) == 0
    for table in TABLES:
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes()
    assert len(rows(tmp_path / "a" / "predictions.tsv")) == 30


@pytest.mark.parametrize("target, metric, least", [("Child_Adult", "auc", 0.93), ("Age", "r", 0.60)])
def test_real_connectomes(shared: Path, tmp_path: Path, target: str, metric: str, least: float) -> None:
    """Adults and children, 104 of them: as published, and as plain scikit-learn on the same splits."""
    source = shared / "data" / "connectomes" / "ds000228_basc064"
    npz, participants = source / "ds000228_basc064_connectivity.npz", source / "participants.tsv"
    assert evaluate("baselines", npz, participants, "--target", target, "--output", tmp_path) == 0
    found = summary(tmp_path)["fc-logistic" if metric == "auc" else "fc-ridge", metric]
    assert found >= least

    with np.load(npz) as arrays:
        features = dict(zip(arrays["participant_id"].tolist(), arrays["features"].astype(float), strict=True))
    value = {r["participant_id"]: r[target] for r in rows(participants)}
    by_hand = []
    for split in range(5):
        role = {
            r["participant_id"]: r["role"] for r in rows(tmp_path / "splits.tsv") if r["split"] == str(split)
        }
        fit, test = ([p for p in role if (role[p] == "test") == is_test] for is_test in (False, True))
        x, x_test = np.array([features[p] for p in fit]), np.array([features[p] for p in test])
        if metric == "auc":
            last = LogisticRegression(C=1e-3)
            child = [[value[p] == "child" for p in part] for part in (fit, test)]
            fitted = make_pipeline(StandardScaler(), last).fit(x, child[0])
            by_hand.append(roc_auc_score(child[1], fitted.predict_proba(x_test)[:, 1]))
        else:
            fitted = make_pipeline(StandardScaler(), RidgeCV(np.logspace(1, 5, 9)))
            fitted.fit(x, [float(value[p]) for p in fit])
            by_hand.append(np.corrcoef(fitted.predict(x_test), [float(value[p]) for p in test])[0, 1])
    assert found == pytest.approx(np.mean(by_hand), abs=0.03)


def test_embed(cohort: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    data, _ = cohort
    assert evaluate("embed", model, data, "--output", tmp_path / "e.h5", "--device", "cpu") == 0
    with h5py.File(tmp_path / "e.h5") as file:
        assert file["embedding"].shape == (N_PARTICIPANTS, 8)


@pytest.mark.parametrize(
    "words, says",
    [
        (("--methods", "fc-rigde"), "Did you mean 'fc-ridge'?"),
        (("--methods", "fc-logistic"), "'fc-logistic' is for classification, the task is regression. Use fc"),
        (("--methods", "fc-ridge,fc-ridge"), "names a method twice"),
        (("--methods", "fc-ridge,"), "must be names between commas"),
        (("--n-splits", "1"), "--n-splits must be from 3"),
        (("--splits", "x.tsv", "--n-splits", "5"), "--splits was given with --n-splits, which"),
        (("--leave-out", "sex", "--scheme", "k-fold"), "--leave-out was given with --scheme"),
        (("--scheme", "holdout", "--n-repeats", "2"), "--scheme holdout was given with --n-repeats"),
        (("--leave-out", "site"), "has no column 'site'"),
        (("--confounds", "sex,age"), "--confounds names the target 'age'"),
        (("--confounds", "motion"), "has no column 'motion'"),
        (("--splits", "x.tsv"), "x.tsv is not a table of splits"),
    ],
)  # fmt: skip
def test_refused_with_status_2(
    cohort: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    data, participants = cohort
    required = ("--target", "age", "--output", tmp_path / "eval")
    assert evaluate("baselines", data, participants, *required, *words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_more_refusals(
    cohort: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, participants = cohort
    assert evaluate("embed", model, data, "--output", tmp_path / "e.txt") == 2
    assert "must name an .h5 file" in capsys.readouterr().err
    np.savez(tmp_path / "fc.npz", fc=np.ones((1, 3, 3)), participant_id=np.array(["00"]))
    words = ("--target", "age", "--output", tmp_path / "out")
    assert evaluate("probe", model, tmp_path / "fc.npz", participants, *words) == 2
    assert "probe needs series" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert evaluate("probe", model, data, participants, *words, "--device", "cuda") == 2
        assert "--device cuda" in capsys.readouterr().err
    for wrong in (["guess", "a"], [], ["embed", "m", "d", "--output", "e.h5", "--batch-size", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(wrong)
        assert stopped.value.code == 2


def test_help_has_examples_and_the_log_level_goes_anywhere(
    cohort: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["probe"], ["finetune"], ["embed"], ["baselines"], ["compare"], ["explain"]):
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--help"])
        assert stopped.value.code == 0 and "examples:\n  bjepa-evaluate" in capsys.readouterr().out
    data, participants = cohort
    required = (data, participants, "--target", "age", "--methods", "static-mean", "--output", tmp_path / "o")
    assert evaluate("--log-level", "error", "baselines", *required) == 0
    assert capsys.readouterr().err == ""
    assert evaluate("baselines", *required, "--log-level", "error") == 0
    assert capsys.readouterr().err == ""


def test_splits_by_seeds_and_by_site_and_repeats(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    data, participants = cohort
    words = (data, participants, "--target", "age", "--methods", "fc-ridge", "--output")
    assert evaluate("baselines", *words, tmp_path / "h", "--scheme", "holdout", "--n-splits", "4") == 0
    assert evaluate("baselines", *words, tmp_path / "r", "--n-splits", "3", "--n-repeats", "2") == 0
    assert evaluate("baselines", *words, tmp_path / "s", "--leave-out", "sex") == 0
    sizes = {name: rows(tmp_path / name / "summary.tsv")[0] for name in "hrs"}
    assert [sizes[name]["n_splits"] for name in "hrs"] == ["4", "6", "2"]
    assert (sizes["h"]["n_train"], sizes["h"]["n_val"], sizes["h"]["n_test"]) == ("27", "9", "9")
    tested = [r["participant_id"] for r in rows(tmp_path / "r" / "predictions.tsv")]
    assert sorted(tested) == sorted(2 * [f"sub-{i:02d}" for i in range(N_PARTICIPANTS)])
    women = {f"sub-{i:02d}" for i in range(0, N_PARTICIPANTS, 2)}
    left_out = rows(tmp_path / "s" / "splits.tsv")
    assert {r["participant_id"] for r in left_out if r["split"] == "0" and r["role"] == "test"} == women
    run = json.loads((tmp_path / "s" / "run.json").read_text())
    assert run["scheme"] == "leave-out sex" and run["n_splits"] == 2

    again = ("--splits", tmp_path / "h" / "splits.tsv", "--seed", "0")
    assert evaluate("baselines", *words, tmp_path / "h2", *again) == 0
    for table in TABLES:
        assert (tmp_path / "h" / table).read_bytes() == (tmp_path / "h2" / table).read_bytes()


def test_confounds_are_shown_with_and_without(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    """Age is in connectivity, `level` in the levels: without level, levels find nothing; age stays."""
    data, participants = cohort
    words = (data, participants, "--methods", "fc-ridge,static-mean", "--n-permutations", "19", "--output")
    assert evaluate("baselines", *words, tmp_path / "age", "--target", "age", "--confounds", "level,sex") == 0
    by_age = summary(tmp_path / "age")
    assert by_age["fc-ridge-adjusted", "r2"] > 0.5 and by_age["confounds", "r2"] < 0.2
    p = {(r["method"], r["metric"]): r["p_permutation"] for r in rows(tmp_path / "age" / "summary.tsv")}
    assert p["fc-ridge", "r2"] == "0.05" and float(p["static-mean", "r2"]) > 0.05
    assert p["fc-ridge", "mae"] == "n/a"
    run = json.loads((tmp_path / "age" / "run.json").read_text())
    assert run["confounds"] == ["level", "sex"] and run["not_adjusted"] == []

    lines = [line.split("\t") for line in participants.read_text().splitlines()]
    high = [[*lines[0], "high"], *([*line, str(int(float(line[2]) > 0))] for line in lines[1:])]
    participants.write_text("\n".join("\t".join(line) for line in high) + "\n")
    assert evaluate("baselines", *words, tmp_path / "high", "--target", "high", "--confounds", "level") == 0
    by_level = summary(tmp_path / "high")
    assert by_level["static-mean", "auc"] > 0.9 and by_level["confounds", "auc"] > 0.95
    assert by_level["static-mean-adjusted", "auc"] < 0.75


def test_motion_of_the_scans_may_be_a_confound(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    data, participants = cohort
    lines = ["scan_id\tparticipant_id\tfd_mean"]
    lines += [f"s{i}\t{i:02d}\t{0.1 + i / 100}" for i in range(N_PARTICIPANTS)]
    (data / "scans.tsv").write_text("\n".join(lines) + "\n")
    words = (data, participants, "--target", "age", "--methods", "fc-ridge", "--output", tmp_path / "out")
    assert evaluate("baselines", *words, "--confounds", "fd_mean") == 0
    assert ("confounds", "r2") in summary(tmp_path / "out")


def test_finetune_and_compare(cohort: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    data, participants = cohort
    words = ("--target", "level", "--n-splits", "3", "--max-epochs", "2", "--device", "cpu", "--output")
    fine = tmp_path / "finetuned"
    assert evaluate("finetune", model, data, participants, *words, fine, "--methods", "scratch") == 0
    assert {r["method"] for r in rows(fine / "summary.tsv")} == {"finetune", "scratch"}
    run = json.loads((fine / "run.json").read_text())
    assert run["methods"]["finetune"]["layer_decay"] == 0.75 and run["model"]["n_frames"] == N_FRAMES

    readouts = ("--readouts", "probe,probe-network_pairs,released-probe,attentive-probe,lora")
    out = tmp_path / "all"
    assert evaluate("compare", data, participants, "--model", model, *readouts, *words, out) == 0
    methods = list(dict.fromkeys(r["method"] for r in rows(out / "summary.tsv")))
    untrained = ["random-encoder", "random-encoder-network_pairs", "scratch"]  # one for each readout
    assert methods == [*readouts[1].split(","), "static-mean", "fc-ridge", *untrained]
    assert (out / "splits.tsv").read_bytes() == (fine / "splits.tsv").read_bytes()
    assert json.loads((out / "run.json").read_text())["splits_sha256"] == run["splits_sha256"]
    assert (out / "differences.tsv").is_file() and "Level was predicted" in (out / "summary.txt").read_text()

    two = ("--model", model, "--model", model / "model", "--methods", "fc-ridge")
    assert evaluate("compare", data, participants, *two, *words, tmp_path / "two") == 0
    names = list(dict.fromkeys(r["method"] for r in rows(tmp_path / "two" / "summary.tsv")))
    assert len(names) == 3 and all(name.startswith("probe:") for name in names[:2])


def test_what_would_be_ignored_is_refused(
    cohort: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, participants = cohort
    words = (data, participants, "--target", "age", "--output", tmp_path / "eval")
    assert evaluate("probe", model, *words, "--head", "attentive", "--pooling", "region") == 2
    assert "--pooling region was given with --head attentive" in capsys.readouterr().err
    assert evaluate("compare", *words, "--model", model, "--readouts", "prob") == 2
    assert "'prob' is no readout" in capsys.readouterr().err
    assert evaluate("probe", model, *words, "--gradients", participants) == 2
    assert "--gradients was given, but" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()
