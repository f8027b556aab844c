"""A model folder goes out and comes back whole; a new scan is scaled as the training data were; the card."""

import dataclasses
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bjepa.cli.evaluate import main as evaluate
from bjepa.cli.train import main as train
from bjepa.model import JEPA, Embedder, ModelConfig, load_model
from bjepa.model.about import About, scaling_table
from bjepa.model.hub import save_model
from bjepa.model.model_card import Training, model_card, read_training
from bjepa.preproc.errors import InputError
from bjepa.preproc.scaling import PER_SCAN, Scaling, scan_part
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

R, FRAMES = 5, (31, 24, 40)
RECIPE = """\
[model]
n_frames = 12
patch_size = 3
embed_dim = 8
depth = 1
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
[train]
epochs = 1
batch_size = 3
seed = 1
"""
CONFIG = ModelConfig(
    n_rois=R,
    n_frames=12,
    patch_size=3,
    n_gradients=3,
    embed_dim=8,
    depth=1,
    num_heads=2,
    predictor_embed_dim=8,
    predictor_depth=1,
    predictor_num_heads=2,
)
MODEL_FILES = {"config.json", "model.safetensors", "gradients.csv", "atlas.tsv", "scaling.tsv", "README.md"}


def raw_scans() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(2)
    level, spread = rng.uniform(500, 900, R), rng.uniform(1, 9, R)
    return [(rng.normal(size=(n, R)) * spread + level).astype(np.float32) for n in FRAMES]


def write_data(folder: Path, method: Any) -> None:
    """Shards as the stage `group` makes them: scaled by median and IQR with lopsided numbers."""
    raws = raw_scans()
    raws[1][:, 3] = np.nan
    names = [f"name{i}" for i in range(R)]
    parts = [scan_part(method, raw, names, "scan") for raw in raws]
    rng = np.random.default_rng(5)
    shift = 0.1 if method in PER_SCAN else 600.0
    scaling = Scaling(method, shift + rng.normal(size=R), rng.uniform(1.5, 3.5, R))
    scans = []
    for number, (raw, part) in enumerate(zip(raws, parts, strict=True)):
        valid: NDArray[np.bool_] = np.logical_not(np.isnan(raw).all(axis=0))
        stored = np.where(valid, scaling.apply(raw, part), np.float32(0))
        scans.append(
            ShardScan(
                entities={
                    "scan_id": f"sub-secret{number}_task-rest",
                    "participant_id": f"sub-secret{number % 2}",
                    "session": str(number),
                    "task": "rest",
                    "run": "",
                },
                t_r=0.72,
                t_r_out=2.16,
                valid=valid,
                phases=[stored],
                part=part,
            )
        )
    write_shard(
        folder / "shards/shard-00000.h5",
        scans,
        atlas="tiny|atlas",
        atlas_sha256="e" * 64,
        rois={column: [f"{column}{i}" for i in range(R)] for column in ROI_COLUMNS},
        median=scaling.median,
        iqr=scaling.iqr,
        scaling=method,
        target_t_r=2.0,
    )


def make_run(folder: Path) -> Path:
    write_data(folder / "data", "robust")
    np.savetxt(folder / "gradients.csv", np.random.default_rng(0).normal(size=(R, 3)), delimiter=",")
    (folder / "recipe.toml").write_text(RECIPE)
    words = ["--data", folder / "data", "--gradients", folder / "gradients.csv", "--output", folder / "run"]
    assert train([str(word) for word in (folder / "recipe.toml", *words, "--device", "cpu")]) == 0
    return folder / "run"


def make_model(folder: Path, method: str = "robust", **changes: Any) -> JEPA:
    """Untrained, saved to `folder/model`, of data in `folder/data`."""
    write_data(folder / "data", method)
    reader = ShardReader(folder / "data")
    jepa = JEPA(dataclasses.replace(CONFIG, **changes), np.random.default_rng(0).normal(size=(R, 3)))
    origin = {"scaling": method, "t_r_out": [2.16]}
    jepa.about = About(origin=origin, scaling_table=scaling_table(reader))
    jepa.save_pretrained(folder / "model")
    return jepa


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("share"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's package may only look into a cache of the test's."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_what_bjepa_train_leaves_says_how_its_data_were_scaled(run: Path) -> None:
    assert {path.name for path in (run / "model").iterdir()} == MODEL_FILES
    reader = ShardReader(run.parent / "data")
    about = load_model(run).about
    assert about is not None and about.scaling.method == "robust"
    np.testing.assert_array_equal(about.scaling.median, reader.median)
    np.testing.assert_array_equal(about.scaling.iqr, reader.iqr)
    assert (run / "model/scaling.tsv").read_text().splitlines()[0] == "index\tname\tmedian\tiqr"
    assert about.origin["n_scans"] == 3 and about.origin["n_participants"] == 2


@pytest.mark.parametrize("method", ["robust", "robust-dynamic", "zscore-scan", "none"])
def test_a_raw_scan_becomes_what_the_shards_hold(tmp_path: Path, method: str) -> None:
    make_model(tmp_path, method)
    about, reader = load_model(tmp_path / "model").about, ShardReader(tmp_path / "data")
    assert about is not None
    raws = raw_scans()
    raws[1][:, 3] = np.nan
    for number, raw in enumerate(raws):
        np.testing.assert_array_equal(about.scale(raw), reader[number])
    assert not about.scale(raws[1])[:, 3].any()


def test_scaling_refuses_what_is_no_scan_of_these_regions(run: Path) -> None:
    about = load_model(run).about
    assert about is not None
    with pytest.raises(InputError, match=r"\(31, 4\); \(frames, 5 regions\) is needed"):
        about.scale(raw_scans()[0][:, :4])
    spoiled = raw_scans()[0]
    spoiled[4, 2] = np.nan
    with pytest.raises(InputError, match="non-finite values in regions that are there"):
        about.scale(spoiled)


def test_there_and_back_nothing_is_lost(run: Path, tmp_path: Path) -> None:
    jepa = JEPA.from_pretrained(run)
    jepa.save_pretrained(tmp_path / "copy")
    files = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    again = JEPA.from_pretrained(tmp_path / "copy")
    assert again.about == jepa.about and again.atlas_sha256 == "e" * 64 and not again.training


def test_targets_that_are_not_normed_stay_so(tmp_path: Path) -> None:
    jepa = make_model(tmp_path)
    assert load_model(tmp_path / "model").normed_targets
    jepa.normed_targets = False
    jepa.save_pretrained(tmp_path / "model")
    x = torch.randn(2, R, 12, generator=torch.Generator().manual_seed(0))
    again = load_model(tmp_path / "model")
    tokens = again.target_encoder(x)[:, [1, 5, 6]]
    found = again.targets(x, torch.tensor([[1, 5, 6]] * 2))
    torch.testing.assert_close(found, tokens.detach(), atol=1e-6, rtol=0)


def test_tables_of_an_earlier_model_go(run: Path, tmp_path: Path) -> None:
    jepa = load_model(run)
    jepa.save_pretrained(tmp_path)
    save_model(jepa, tmp_path)
    assert not (tmp_path / "scaling.tsv").exists() and not (tmp_path / "atlas.tsv").exists()
    about = load_model(tmp_path).about
    assert about is not None
    with pytest.raises(InputError, match="does not say how its training data were scaled"):
        about.scale(raw_scans()[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines[:-1], "has 4 regions, the model 5"),
        (lambda lines: ["a\tb", *lines[1:]], "columns index name median iqr"),
        (lambda lines: [*lines[:-1], "5\tx\t1.0\t0.0"], "IQRs above 0"),
        (lambda lines: [*lines[:-1], "5\tx\tnan\t1.0"], "finite medians"),
        (lambda lines: [*lines[:-1], "5\tx\tmany\t1.0"], "a cell that is no number"),
        (lambda lines: [*lines[:-1], "5\tx"], "columns index name median iqr"),
    ],
)
def test_a_damaged_scaling_is_refused(
    run: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], says: str
) -> None:
    load_model(run).save_pretrained(tmp_path)
    table = tmp_path / "scaling.tsv"
    table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=says):
        load_model(tmp_path)


# The hub


def put_into_cache(model: Path, cache: Path, name: str, commit: str = "c" * 40) -> None:
    """As the hub's package keeps what it has fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    (repository / "snapshots" / commit).mkdir()
    for path in model.iterdir():
        (repository / "snapshots" / commit / path.name).write_bytes(path.read_bytes())


def test_a_model_of_the_hub_is_read_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put_into_cache(run / "model", tmp_path / "cache", "brains/small-one")
    x = torch.randn(1, R, 12, generator=torch.Generator().manual_seed(0))
    expected = load_model(run).target_encoder(x)
    for found in (
        JEPA.from_pretrained("brains/small-one"),
        load_model("brains/small-one", revision="c" * 40),
    ):
        assert torch.equal(found.target_encoder(x), expected)
    out = tmp_path / "embedding.h5"
    assert evaluate(["embed", "brains/small-one", str(run.parent / "data"), "--output", str(out)]) == 0
    assert out.is_file()
    load_model(run).save_pretrained(tmp_path / "brains/small-one")
    (tmp_path / "brains/small-one/model.safetensors").unlink()
    with pytest.raises(InputError, match="missing or damaged"):  # a folder comes first
        load_model("brains/small-one")


def test_what_the_hub_does_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="There is no folder nobody/nothing, and from the Hugging Face Hub"):
        load_model("nobody/nothing")
    with pytest.raises(InputError, match="holds no model"):
        load_model(tmp_path / "nobody/nothing")
    with pytest.raises(InputError, match="revision = 'main' is for a name"):
        load_model(tmp_path, revision="main")


def test_without_the_package_the_hint_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert load_model(run).config.n_rois == R
    for call in (lambda: load_model("nobody/nothing"), lambda: load_model(run).push_to_hub("a/b")):
        with pytest.raises(InputError, match=r"pip install 'bjepa\[hub\]'"):
            call()


def test_what_is_pushed_is_the_model_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            seen["token"] = token

        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            seen["repo"] = (name, private, exist_ok)

        def upload_folder(
            self, *, repo_id: str, folder_path: Path, allow_patterns: Sequence[str], commit_message: str
        ) -> Any:
            seen["files"] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            seen["commit"] = (repo_id, commit_message, set(allow_patterns))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    jepa = load_model(run)
    assert jepa.push_to_hub("a/b", commit_message="first", token="t") == "https://hub/commit/1"
    assert seen["repo"] == ("a/b", True, True) and seen["token"] == "t"
    assert seen["commit"] == ("a/b", "first", MODEL_FILES)
    assert seen["files"] == {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    jepa.push_to_hub("a/b", private=False)
    assert seen["repo"][1] is False
    with pytest.raises(InputError, match="is named owner/name, got 'b'"):
        jepa.push_to_hub("b")


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_does_not_answer_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a/b could not be put on the Hugging Face Hub"):
        load_model(run).push_to_hub("a/b", token="hf_none")
    with pytest.raises(InputError, match="from the Hugging Face Hub it was not to be had"):
        load_model("a/b")


# The card


def front_matter(card: str) -> str:
    return card.split("---\n")[1]


def test_the_card_tells_what_the_run_tells(run: Path) -> None:
    card = (run / "model/README.md").read_text()
    matter = front_matter(card)
    assert "library_name: bjepa\n" in matter and "# license:" in matter and "- brain-jepa\n" in matter
    said = json.loads((run / "run.json").read_text())
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    for row in (
        "| scans | 3 |",
        "| participants | 2 |",
        "| atlas | tiny\\|atlas |",
        "| seconds between frames | 2.16 |",
        "| scaling | robust |",
        "| tokens | 20: 5 regions x 4 pieces of 3 frames |",
        "| encoder | width 8, 1 blocks, 2 heads |",
        "| epochs | 1 of 1 |",
        f"| peak learning rate | {said['lr']:g} |",
        f"| target_scan_share | {last['target_scan_share']:.4g} |",
        f"| prediction_r2_over_position | {last['prediction_r2_over_position']:.4g} |",
    ):
        assert row in card, row
    assert "secret" not in card and str(run.parent) not in card  # no participant, no path


def test_the_card_warns_of_a_collapse_and_only_then(run: Path) -> None:
    training = read_training(run)
    row = {"epoch": 1, "target_std": 1.0, "prediction_std": 0.9, "effective_rank": 7.0}
    good = row | {"target_scan_share": 0.6, "prediction_r2_over_position": 0.2}
    for last, sentences in (
        (good, ()),
        (good | {"target_scan_share": 0.01}, ("Collapse by position",)),
        (good | {"prediction_r2_over_position": -0.1}, ("Context unused",)),
        ({"epoch": 1, "target_std": 0.001}, ("Complete collapse",)),
    ):
        card = model_card(
            training.recipe.model,
            origin={},
            training=Training(recipe=training.recipe, run=training.run, epochs=[last]),
        )
        assert card.count("> **Warning.**") == len(sentences)
        assert all(f"> **Warning.** {sentence}" in card for sentence in sentences)


@pytest.mark.parametrize("time_position", ["patch", "seconds"])
def test_the_snippet_of_the_card_works(run: Path, tmp_path: Path, time_position: str) -> None:
    model, data = run / "model", run.parent / "data"
    if time_position == "seconds":
        make_model(tmp_path, time_position=time_position)
        model, data = tmp_path / "model", tmp_path / "data"
    code = (model / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"series": raw_scans()[0]}
    exec(code.replace("MODEL", str(model)), names)
    jepa, reader = load_model(model), ShardReader(data)
    t_r = [2.16] if time_position == "seconds" else None
    expected = Embedder(jepa).fit([reader[0]]).transform([reader[0]], t_r=t_r)
    np.testing.assert_array_equal(names["vector"], expected)


def test_a_model_without_a_run_has_a_card_too(tmp_path: Path) -> None:
    JEPA(CONFIG, np.arange(15.0).reshape(R, 3)).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Not recorded." in card and "Warning" not in card and "about.scale" not in card
    (tmp_path / "README.md").write_text("my words\n")  # what was written by hand is kept
    load_model(tmp_path).save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy/README.md").read_text() == "my words\n"


# Resuming from a checkpoint of tensors and plain values that says other things than ours


def _first_weight(content: dict[str, Any]) -> str:
    return str(next(iter(content["jepa"])))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c: c["jepa"].update({_first_weight(c): 3}), "is of type int, not a tensor"),
        (lambda c: c["jepa"][_first_weight(c)].fill_(torch.nan), "non-finite values"),
        (lambda c: c.update(jepa=[1]), "jepa is a list"),
        (lambda c: c.update(progress=3), "how far the run was"),
        (lambda c: c["progress"].update(epoch="one"), "how far the run was"),
        (lambda c: c["progress"].update(update=-5), "how far the run was"),
        (lambda c: c["optimizer"].update(state=[1]), "state of the optimizer does not fit"),
        (
            lambda c: c["optimizer"]["state"].update({0: {"exp_avg": 3}}),
            "state of the optimizer does not fit",
        ),
        (
            lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
            r"exp_avg of parameter 0 is (2,)",
        ),
        (
            lambda c: c["optimizer"]["state"].update({999: c["optimizer"]["state"][0]}),
            "state of the optimizer does not fit",
        ),
    ],
)
def test_resume_refuses_a_checkpoint_of_strange_content(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], None],
    says: str,
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    damage(content)
    torch.save(content, path)
    source = run.parent
    words = [source / "recipe.toml", "--data", source / "data", "--gradients", source / "gradients.csv"]
    words += ["--output", tmp_path / "run", "--device", "cpu", "--resume"]
    assert train([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert says in told and str(path) in told
