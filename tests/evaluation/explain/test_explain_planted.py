"""bjepa-evaluate explain as a user types it: a planted network is found, a randomised model loses it."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bjepa.cli.evaluate import main
from bjepa.model.hub import save_model

TABLES = ("regions.tsv", "networks.tsv", "sanity.tsv")


def explain(*words: object) -> int:
    return main(["explain", *(str(word) for word in words)])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def ranked(folder: Path, measure: str, scheme: str = "network7") -> list[dict[str, str]]:
    """Networks from the highest mean to the lowest."""
    found = [r for r in rows(folder / "networks.tsv") if (r["scheme"], r["measure"]) == (scheme, measure)]
    return sorted(found, key=lambda r: -float(r["mean"]))


@pytest.fixture(scope="module")
def run(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Model, data, participants.tsv."""
    folder = tmp_path_factory.mktemp("planted")
    save_model(planted.jepa(), folder / "run" / "model")
    data, participants = planted.write(folder / "out", n=60, missing={4: 8})
    return folder / "run", data, participants


@pytest.fixture(scope="module")
def found(run: tuple[Path, Path, Path]) -> Path:
    model, data, participants = run
    out = model.parent / "explain"
    words: tuple[object, ...] = (
        "--participants",
        participants,
        "--target",
        "level",
        "--limit",
        12,
        "--layer",
        "all",
    )
    words += ("--sanity-draws", 6, "--sanity-participants", 5, "--device", "cpu")
    assert explain(model, data, *words, "--output", out) == 0
    return out


def test_the_planted_network_is_first_by_every_measure(found: Path) -> None:
    for measure in ("attention_layer_1", "rollout", "integrated_gradients"):
        first, second = ranked(found, measure)[:2]
        assert first["network"] == "Cont" and first["expected"] == "1", measure
        assert float(first["ci_low"]) > max(1, float(second["ci_high"]))
        assert {r["network"] for r in ranked(found, measure, "network17")[:2]} == {"ContA", "ContB"}
        assert first["n_participants"] == "12"
    assert all(abs(float(r["mean"]) - 1) < 1e-3 for r in ranked(found, "attention_layer_2"))
    regions = rows(found / "regions.tsv")
    top = sorted(regions, key=lambda r: -float(r["integrated_gradients"]))[:5]
    assert {r["network7"] for r in top} == {"Cont"}
    assert list(regions[0])[:5] == ["index", "name", "network7", "network17", "structure"]
    assert [r["index"] for r in regions] == [str(i) for i in range(1, 41)]


def test_the_check_destroys_the_map(found: Path) -> None:
    checks = {(r["measure"], r["check"]): r for r in rows(found / "sanity.tsv")}
    for measure in ("integrated_gradients", "integrated_gradients_signed"):
        row = checks[measure, "complete"]
        assert row["verdict"] != "survives" and float(row["ci_low"]) < 0 < float(row["ci_high"]), row
        assert abs(float(row["spearman"])) < 0.3 and abs(float(row["pearson"])) < 0.3, row
    # the planted encoder reads the planted regions whatever the head: it is the encoder that makes this map
    shuffled = checks["integrated_gradients", "shuffled target"]
    assert float(shuffled["pearson"]) > 0.8 and float(shuffled["spearman"]) < 0.9
    assert float(checks["integrated_gradients", "input alone"]["pearson"]) < 0.5
    assert ("attention_layer_2", "block 1") in checks and ("attention_layer_1", "block 2") not in checks
    assert checks["rollout", "complete"]["n_draws"] == "6"


def test_enough_draws_say_destroyed(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, data, participants = run
    words: tuple[object, ...] = (
        "--participants",
        participants,
        "--target",
        "level",
        "--limit",
        6,
        "--n-steps",
        4,
    )
    words += ("--sanity", "complete", "--sanity-draws", 40)
    assert explain(model, data, *words, "--output", tmp_path / "out") == 0
    checks = {(r["measure"], r["check"]): r for r in rows(tmp_path / "out" / "sanity.tsv")}
    assert checks["integrated_gradients", "complete"]["verdict"] == "destroyed"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Integrated gradients, magnitude: weights drawn anew destroy the map" in page


def test_a_random_encoder_does_not_show_it(
    planted: Any, run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, data, participants = run
    save_model(planted.plain(seed=1), tmp_path / "run" / "model")
    words: tuple[object, ...] = (
        "--participants",
        participants,
        "--target",
        "level",
        "--limit",
        12,
        "--sanity",
        "none",
    )
    assert explain(tmp_path / "run", data, *words, "--output", tmp_path / "out") == 0
    mean = {r["network"]: float(r["mean"]) for r in ranked(tmp_path / "out", "integrated_gradients")}
    assert mean["Cont"] < 1.5
    assert "No sanity check was made" in (tmp_path / "out" / "report.html").read_text()
    assert rows(tmp_path / "out" / "sanity.tsv") == []


def test_the_folder_holds_tables_pictures_page_and_record(found: Path, run: tuple[Path, Path, Path]) -> None:
    names = {path.name for path in found.iterdir()}
    assert {*TABLES, "report.html", "run.json"} <= names
    for picture in ("attention_network7", "attention_structure", "layers_network17", "attribution_network7"):
        assert {f"{picture}.png", f"{picture}.svg"} <= names
    assert not any("surface" in name for name in names)  # these regions are on no surface we know
    record = json.loads((found / "run.json").read_text())
    assert record["prediction"]["metric"] == "r2" and record["prediction"]["score"][0] > 0.8
    assert record["prediction"]["target"] == "level" and len(record["explained"]) == 12
    assert record["options"]["layer"] == "all" and record["versions"]["captum"]
    whole = record["prediction"]["completeness"]
    assert whole["gap"] < 0.02 * whole["change"]
    page = (found / "report.html").read_text()
    assert "The head predicts level in participants that it has not seen" in page
    assert "Attention is not explanation" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_the_same_command_writes_the_same_bytes(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, data, participants = run
    words: tuple[object, ...] = (
        "--participants",
        participants,
        "--target",
        "group",
        "--limit",
        5,
        "--sanity-participants",
        3,
    )
    words += ("--sanity-draws", 1, "--seed", 3, "--baseline", "participants", "--n-steps", 4)
    words += ("--attribution", "occlusion,integrated-gradients", "--n-splits", 3, "--sanity", "complete")
    for name in ("one", "two"):
        assert explain(model, data, *words, "--output", tmp_path / name) == 0
    for table in TABLES:
        assert (tmp_path / "one" / table).read_bytes() == (tmp_path / "two" / table).read_bytes()
    for measure in ("integrated_gradients", "occlusion"):
        assert ranked(tmp_path / "one", measure)[0]["network"] == "Cont"
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert record["prediction"]["metric"] == "auc" and record["prediction"]["class"] == "low"
    signed = ranked(tmp_path / "one", "integrated_gradients_signed")
    assert {r["expected"] for r in signed} == {"0"}


def test_attention_alone_needs_no_target(
    planted: Any, run: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _, _ = run
    blank = planted.rois([""] * planted.n_rois, [""] * planted.n_rois) | {"structure": [""] * planted.n_rois}
    data, _ = planted.write(tmp_path / "out", n=5, regions=blank)
    (tmp_path / "who.txt").write_text("sub-01\nsub-03\n")
    words: tuple[object, ...] = (
        "--participants",
        tmp_path / "who.txt",
        "--sanity",
        "complete",
        "--sanity-draws",
        1,
    )
    assert explain(model, data, *words, "--output", tmp_path / "alone") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "alone" / "report.html")
    record = json.loads((tmp_path / "alone" / "run.json").read_text())
    assert record["explained"] == ["01", "03"] and record["prediction"] is None
    regions = rows(tmp_path / "alone" / "regions.tsv")
    assert list(regions[0])[5:] == ["attention_layer_2", "rollout"] and regions[0]["network7"] == "n/a"
    assert rows(tmp_path / "alone" / "networks.tsv") == []
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "The atlas names no networks" in page and "Attribution of the prediction" not in page


@pytest.mark.parametrize(
    "words, says",
    [
        (["--target", "level"], "--target level was given without --participants"),
        (["--participants", "TABLE", "--target", "levle"], "Did you mean 'level'"),
        (
            ["--participants", "TABLE", "--target", "group", "--class", "mid"],
            "no class 'mid'; there are high, low",
        ),
        (["--participants", "TABLE", "--target", "level", "--class", "x"], "it is a regression"),
        (["--layer", "3"], "a number from 1 to 2"),
        (["--participants", "TABLE", "--target", "level", "--max-epochs", "2"], "is for --head finetune"),
    ],
)
def test_refuses(
    run: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    model, data, participants = run
    given = [str(participants) if word == "TABLE" else word for word in words]
    assert explain(model, data, *given, "--output", tmp_path / "no") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_connectomes_are_refused(run: tuple[Path, Path, Path], tmp_path: Path, capsys: Any) -> None:
    fc = np.stack([np.eye(40)] * 3)
    np.savez(tmp_path / "fc.npz", fc=fc, participant_id=np.array(["1", "2", "3"]))
    assert explain(run[0], tmp_path / "fc.npz", "--output", tmp_path / "no") == 2
    assert "explain needs series" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fine_tuned_model_shows_what_it_was_trained_on(planted: Any, tmp_path: Path) -> None:
    save_model(planted.plain(seed=2), tmp_path / "run" / "model")
    data, participants = planted.write(tmp_path / "out", n=120, seed=5)
    words: tuple[object, ...] = (
        "--participants",
        participants,
        "--target",
        "level",
        "--limit",
        30,
        "--head",
        "finetune",
    )
    words += ("--sanity", "complete", "--sanity-draws", 6, "--n-splits", 3)
    assert explain(tmp_path / "run", data, *words, "--output", tmp_path / "tuned") == 0
    record = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert record["prediction"]["head"] == "finetune" and record["prediction"]["score"][0] > 0.5
    first, second = ranked(tmp_path / "tuned", "integrated_gradients")[:2]
    assert first["network"] == "Cont" and float(first["ci_low"]) > float(second["ci_high"])
    checks = {(r["measure"], r["check"]): r for r in rows(tmp_path / "tuned" / "sanity.tsv")}
    assert checks["integrated_gradients", "complete"]["verdict"] != "survives"
    assert not any(check == "shuffled target" for _, check in checks)
