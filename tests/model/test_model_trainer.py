"""bjepa-train on small shards: what it writes, exact resume after a kill, what it refuses."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from bjepa.cli.train import main
from bjepa.model import ShardDataset, load_model
from bjepa.model.checkpoint import load_checkpoint
from bjepa.model.collapse import verdicts
from bjepa.model.config import load_recipe
from bjepa.model.dataset import ClipKey, MaskingCollate
from bjepa.model.device import choose_device, choose_precision
from bjepa.model.loading import read_portions
from bjepa.model.runlog import read_metrics
from bjepa.model.sampling import plan_epoch
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

R, FRAMES = 7, (19, 19, 25, 31, 40, 9)  # the last scan is too short
RECIPE = """\
[model]
n_frames = 12
patch_size = 3
embed_dim = 16
depth = 1
num_heads = 2
predictor_embed_dim = 8
predictor_depth = 1
predictor_num_heads = 2
[train]
epochs = 3
batch_size = 2
seed = 4
[optimizer]
warmup_epochs = 1
"""


def write_data(folder: Path, *, atlas_sha256: str = "f" * 64, spoil: bool = False) -> None:
    rng = np.random.default_rng(3)
    scans = []
    for number, n_frames in enumerate(FRAMES):
        series = rng.normal(size=(n_frames, R)).cumsum(axis=0).astype(np.float32) / 5
        valid = np.ones(R, dtype=bool)
        valid[2] = number != 1
        entities = {"scan_id": f"sub-{number:02d}_task-rest", "participant_id": f"sub-{number:02d}"}
        phases: list[Any] = [series[:-4], series[4:]] if number == 4 else [series]
        scans.append(
            ShardScan(
                entities=entities | {"session": "", "task": "rest", "run": ""},
                t_r=2.0,
                t_r_out=2.0,
                valid=valid,
                phases=phases,
            )
        )
    for number in range(2):
        write_shard(
            folder / f"shards/shard-{number:05d}.h5",
            scans[number::2],
            atlas="tiny",
            atlas_sha256=atlas_sha256,
            rois={c: [f"{c}{i}" for i in range(R)] for c in ROI_COLUMNS},
            median=np.zeros(R),
            iqr=np.ones(R),
            scaling="robust",
            target_t_r=2.0,
        )
    if spoil:  # the writer refuses this; a foreign file may hold it
        with h5py.File(folder / "shards/shard-00000.h5", "r+") as shard:
            shard["timeseries"][: FRAMES[0]] = np.nan  # sub-00


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on tensors this small
    yield
    torch.set_num_threads(n_threads)
    logging.captureWarnings(False)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path / "data")
    np.savetxt(tmp_path / "gradients.csv", np.random.default_rng(0).normal(size=(R, 3)), delimiter=",")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on the same data, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder / "data")
    np.savetxt(folder / "gradients.csv", np.random.default_rng(0).normal(size=(R, 3)), delimiter=",")
    (folder / "recipe.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train("--set", "train.epochs=1") == 0
    return folder / "run"


def train(*more: str, run: str = "run", recipe: str = "recipe.toml") -> int:
    return main(
        [recipe, "--data", "data", "--gradients", "gradients.csv", "--output", run, "--device", "cpu", *more]
    )


def weights(run: str) -> bytes:
    return Path(run, "model/model.safetensors").read_bytes()


def test_a_run_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--set", "train.accumulation=2") == 0
    run = work / "run"
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    events = {f for f in files if f.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert files - events == {
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "log.txt",
        "report.html",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "checkpoints/epoch-0003.pt",
        "model/config.json",
        "model/model.safetensors",
        "model/gradients.csv",
        "model/atlas.tsv",
        "model/scaling.tsv",
        "model/README.md",
    }
    rows = read_metrics(run)
    steps, epochs = [r for r in rows if "step" in r], [r for r in rows if "step" not in r]
    # 6 series (two phases of one scan) in batches of 2: 3 batches, so 2 updates an epoch, the second with one
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 6] and [r["epoch"] for r in epochs] == [1, 2, 3]
    assert set(steps[0]) == {
        *("step", "epoch", "loss", "loss_cross_roi", "loss_cross_time", "loss_double_cross"),
        *("lr", "weight_decay", "ema", "grad_norm", "samples_per_s"),
    }
    assert {"loss", "target_std", "prediction_std", "effective_rank", "target_scan_share"} <= set(epochs[0])
    assert "prediction_r2_over_position" in epochs[0] and epochs[0]["samples"] == 6
    assert steps[0]["ema"] == 0.996 and steps[-1]["ema"] == 1.0
    told = json.loads((run / "run.json").read_text())
    assert told["finished"] and told["seed"] == 4 and told["too_short"] == ["sub-05_task-rest"]
    assert told["versions"]["torch"] == torch.__version__ and len(told["files_sha256"]) == 3
    page = (run / "report.html").read_text()
    assert "1 scans are not used" in page and "3 of 3" in page
    error = capsys.readouterr().err
    assert (
        "shorter than 12 frames" in error and "miss regions" in error and "does not say which atlas" in error
    )
    assert "\r" not in error  # no progress bar without a terminal
    jepa = load_model(run)
    assert jepa.config.n_rois == R and jepa.config.n_gradients == 3 and jepa.atlas_sha256 == "f" * 64
    assert (run / "model/atlas.tsv").read_text().splitlines()[7].split("\t")[:2] == ["7", "name6"]
    assert load_checkpoint(run / "checkpoints/epoch-0003.pt").update == 6


def test_resume_at_every_epoch_is_exact(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["--set", "train.accumulation=2", "--set", "mask.num_blocks=2"]
    assert train(*more, run="whole") == 0
    import bjepa.model.trainer as trainer

    end_epoch = trainer._end_epoch
    for stop_after in (1, 2):

        def stop(run: Any, session: Any, row: Any, stop_after: int = stop_after) -> None:
            if run.progress.epoch > stop_after:
                raise KeyboardInterrupt
            end_epoch(run, session, row)

        monkeypatch.setattr(trainer, "_end_epoch", stop)
        assert train(*more, run=f"stopped{stop_after}") == 1
        monkeypatch.setattr(trainer, "_end_epoch", end_epoch)
        # workers read, and it makes no difference
        assert train(*more, "--resume", "--set", "data.num_workers=1", run=f"stopped{stop_after}") == 0
        assert weights(f"stopped{stop_after}") == weights("whole")


def test_resume_starts_an_empty_run_and_leaves_a_finished_one(
    work: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, work / "run")
    before = weights("run")
    assert train("--resume", "--set", "train.epochs=1") == 0
    assert "done already" in capsys.readouterr().err and weights("run") == before
    (work / "run/checkpoints/last.pt").unlink()  # killed before the first checkpoint: from the beginning
    assert train("--resume", "--set", "train.epochs=1") == 0
    assert weights("run") == before
    (work / "new").mkdir()
    assert train("--resume", "--set", "train.epochs=1", run="new") == 0
    assert weights("new") == before


def _other_data(work: Path) -> None:
    (work / "data/shards/shard-00001.h5").unlink()


def _malicious(work: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("executed"),))

    torch.save({"format": Malicious()}, work / "run/checkpoints/last.pt")


def _other_optimizer(work: Path) -> None:
    content = torch.load(work / "run/checkpoints/last.pt", weights_only=True)
    content["optimizer"]["param_groups"].pop()
    torch.save(content, work / "run/checkpoints/last.pt")


@pytest.mark.parametrize(
    "damage, more, says",
    [
        (lambda w: None, [], "is not empty"),
        (
            lambda w: None,
            ["--resume", "--set", "train.seed=5", "--set", "optimizer.lr=1"],
            "train.seed was 4, is 5",
        ),
        (lambda w: None, ["--resume", "--set", "train.epochs=2"], "train.epochs was 1, is 2"),
        (_other_data, ["--resume"], "other data, gradients or participants"),
        (_malicious, ["--resume"], "nothing in it was run"),
        (_other_optimizer, ["--resume"], "state of the optimizer does not fit"),
        (lambda w: (w / "run/checkpoints/last.pt").write_bytes(b"PK"), ["--resume"], "read safely"),
        (
            lambda w: torch.save({"a": 1}, w / "run/checkpoints/last.pt"),
            ["--resume"],
            "not a checkpoint of this",
        ),
        (lambda w: (w / "run/config.toml").unlink(), ["--resume"], "not a run"),
    ],
)
def test_resume_refuses(
    work: Path,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    more: list[str],
    says: str,
) -> None:
    shutil.copytree(finished, work / "run")
    damage(work)
    settings = more if any("epochs" in m for m in more) else ["--set", "train.epochs=1", *more]
    assert train(*settings) == 2
    assert says in capsys.readouterr().err
    assert not (work / "executed").exists()


@pytest.mark.parametrize(
    "more, says",
    [
        (["--set", "model.n_frames=60"], "No series has 60 frames; the longest of 7 has 36"),
        (["--set", "train.epoch=1"], "Did you mean 'epochs'"),
        (["--participants", "nobody.txt"], "None of the 1 participants"),
        (["--device", "cuda"], "--device cuda is not available"),
        (["--set", "model.attention=flash_attn"], "model.attention = 'flash_attn' needs"),
        (["--gradients", "short.csv"], "has 6 rows, the shards in data have 7 regions"),
        (["--gradients", "none.csv"], "none.csv"),
        (["--data", "none"], "none"),
        (["--output", "recipe.toml"], "is a file"),
    ],
)
def test_refuses_inputs(work: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str) -> None:
    if torch.cuda.is_available() and "cuda" in more:
        pytest.skip("there is a CUDA device")
    (work / "nobody.txt").write_text("sub-99\n")
    np.savetxt(work / "short.csv", np.ones((6, 3)), delimiter=",")
    assert train(*more) == 2
    assert says in capsys.readouterr().err
    assert not (work / "run").exists()


def test_refuses_gradients_of_another_atlas(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File("g.h5", "w") as table:
        table.attrs.update(format="bjepa-gradients", format_version=1, atlas_sha256="0" * 64)
        table["gradients"] = np.loadtxt("gradients.csv", delimiter=",")
        table["eigenvalues"] = np.ones(3)
    assert train("--gradients", "g.h5") == 2
    assert "as many regions, but not the same" in capsys.readouterr().err


def test_refuses_processes_that_cannot_meet_and_missing_arguments(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["demo", "--data", "data"]) == 2
    assert "--gradients, --output must be given" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train() == 2
    assert "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set" in capsys.readouterr().err


def test_a_broken_scan_stops_the_run_and_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(work / "data", spoil=True)
    assert train() == 1
    error = capsys.readouterr().err
    assert "the loss is nan in sub-00_task-rest." in error and "Traceback" not in error


def test_updates_that_are_not_finite_can_be_skipped(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(work / "data", spoil=True)
    skip = ["--set", "train.nonfinite=skip"]
    # the five series that are whole are learnt from as if the others in their updates were not there
    assert train(*skip, "--set", "train.batch_size=1") == 0
    error = capsys.readouterr().err
    assert error.count("the loss is nan in sub-00_task-rest. Skipped: the weights stay as they were.") == 3
    rows = read_metrics(Path("run"))
    steps, epochs = [r for r in rows if "step" in r], [r for r in rows if "step" not in r]
    skipped = [r for r in steps if "skipped" in r]
    assert len(steps) == 18 and [r["epoch"] for r in skipped] == [1, 2, 3]
    assert all(r["skipped"] == ["sub-00_task-rest"] and r["loss"] is None for r in skipped)
    assert [(r["samples"], r["skipped"]) for r in epochs] == [(5, 1)] * 3
    for row in epochs:
        losses = [r["loss"] for r in steps if r["epoch"] == row["epoch"] and r["loss"] is not None]
        assert row["loss"] == pytest.approx(np.mean(losses))
    # all of them in one update: ten in a row and no more
    more = ["--set", "train.batch_size=6", "--set", "train.epochs=12"]
    assert train(*skip, *more, run="all") == 1
    assert "This is the 10th update in a row" in capsys.readouterr().err
    assert len([r for r in read_metrics(Path("all")) if "step" in r]) == 9
    initial = Path("all/checkpoints/last.pt")
    assert load_checkpoint(initial).progress["skipped_in_a_row"] == 9  # a resume goes on counting
    assert train(*skip, *more, "--resume", run="all") == 1


def test_the_learning_rate_that_was_used_is_told(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling = [
        "--set",
        "optimizer.lr_scaling=linear",
        "--set",
        "optimizer.lr_batch=8",
        "--set",
        "train.epochs=2",
    ]
    assert train(*scaling) == 0
    assert "2 series an update, learning rate 0.00025 (times 0.25: linear)" in capsys.readouterr().err
    told = json.loads(Path("run/run.json").read_text())
    assert (told["lr"], told["lr_factor"], told["series_per_update"]) == (0.00025, 0.25, 2)
    plain = read_metrics(Path("run"))
    assert plain[2]["lr"] == pytest.approx(0.00025, rel=0.1)  # the end of the warm-up


def test_print_config(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe.toml", "--print-config", "--set", "train.epochs=8"]) == 0
    Path("printed.toml").write_text(capsys.readouterr().out)
    assert load_recipe("printed.toml") == load_recipe("recipe.toml", settings=["train.epochs=8"])


def test_participants_alone_are_learnt_from(work: Path) -> None:
    (work / "some.tsv").write_text("participant_id\tage\nsub-02\t4\n04\t5\n")
    assert train("--participants", "some.tsv", "--set", "train.epochs=1") == 0
    assert json.loads(Path("run/run.json").read_text())["n_series"] == 3


def test_clips_follow_from_seed_epoch_and_series_alone(work: Path) -> None:
    reader = ShardReader("data")
    dataset = ShardDataset(reader, n_frames=12, seed=1)
    assert len(dataset) == 6 and dataset.too_short == ["sub-05_task-rest"]
    some = ShardDataset("data", n_frames=12, seed=1, participants=["04", "sub-02"])
    assert {some.scan_id(int(s)) for s in some.series} == {"sub-02_task-rest", "sub-04_task-rest"}
    starts = set()
    for epoch in range(40):
        item = int(np.flatnonzero(dataset.series == some.series[0])[0])
        one, other = dataset[ClipKey(epoch, item)], some[ClipKey(epoch, 0, batch=5)]
        assert torch.equal(one.x, other.x) and one.x.shape == (R, 12)
        whole = reader[one.series]
        starts |= {s for s in range(len(whole) - 11) if np.array_equal(whole[s : s + 12].T, one.x)}
    length = int(reader.series_length[some.series[0]])
    assert min(starts) == 0 and max(starts) == length - 12  # both ends are reached
    assert torch.equal(dataset[0].x, dataset[ClipKey(0, 0)].x)
    with pytest.raises(IndexError):
        dataset[6]


def test_masks_do_not_depend_on_the_batch_and_released_ones_run(work: Path) -> None:
    recipe = load_recipe("recipe.toml", n_rois=R, n_gradients=3)
    dataset = ShardDataset("data", n_frames=12, seed=4)
    clips = [dataset[ClipKey(2, i)] for i in (0, 3, 5)]
    collate = MaskingCollate(recipe)
    together, alone = collate(clips), collate(clips[1:2])
    n = alone.masks.context_index.shape[1]
    assert torch.equal(together.masks.context_index[1, :n], alone.masks.context_index[0])
    settings = ["mask.sampler=released", "model.n_frames=10", "model.patch_size=1", "train.batch_size=4"]
    released = load_recipe("recipe.toml", settings=settings, n_rois=R, n_gradients=3)
    short = ShardDataset("data", n_frames=10)
    plan = plan_epoch(len(short), epoch=1, seed=0, batch_size=4, accumulation=1)
    first, second = ([p.batches[0].masks for p in read_portions(short, released, plan)] for _ in "ab")
    assert all(torch.equal(a.target_index, b.target_index) for a, b in zip(first, second, strict=True))
    assert train(*(w for s in [*settings, "train.epochs=1"] for w in ("--set", s))) == 0


def test_verdicts_in_words() -> None:
    healthy = {"target_scan_share": 0.5, "prediction_r2_over_position": 0.1}
    assert verdicts([]) == [] and verdicts([healthy]) == []
    (collapse, unused) = verdicts([{"target_scan_share": 0.02, "prediction_r2_over_position": -0.1}])
    assert "Collapse by position: only 2.0 %" in collapse and "not made use of" in unused
    assert "could not be checked" in verdicts([{"target_scan_share": None}])[0]


def test_device_and_precision() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(InputError, match="usable: auto"):
        choose_device("tpu")


def test_torn_metrics_are_refused_in_the_middle_only(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert read_metrics(tmp_path) == [{"epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"epo\n{"epoch": 1}\n')
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_metrics(tmp_path)


def test_resume_with_another_number_of_threads_is_told(
    work: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, work / "run")
    assert train("--resume", "--set", "train.epochs=1") == 0
    assert "CPU threads" not in capsys.readouterr().err
    facts = json.loads((work / "run/run.json").read_text())
    (work / "run/run.json").write_text(json.dumps(facts | {"n_threads": facts["n_threads"] + 5}))
    assert train("--resume", "--set", "train.epochs=1") == 0
    assert f"began with {facts['n_threads'] + 5} CPU threads" in capsys.readouterr().err
