"""What a run tells of itself while it trains: collapse in words, tokens and speed, the live line, W&B."""

import io
import logging
import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bjepa.model.batch import Batch
from bjepa.model.collapse import CollapseWatch, least_rank, signs, verdicts
from bjepa.model.config import TrainConfig
from bjepa.model.console import LiveLine, hours
from bjepa.model.epoch_tally import EpochTally, peak_memory_gb
from bjepa.model.masking import Masks
from bjepa.model.runlog import RunLog, read_metrics
from bjepa.preproc.errors import InputError

NAN = math.nan
HEALTHY = {
    "target_std": 0.9,
    "prediction_std": 0.7,
    "effective_rank": 20.0,
    "context_effective_rank": 25.0,
    "target_dead_share": 0.0,
    "target_scan_share": 0.7,
    "prediction_r2_over_position": 0.2,
}


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        (
            {"target_std": 0.01, "target_scan_share": 0.01},
            "complete",
            "Complete collapse: .*target_std 0.01",
        ),
        ({"target_scan_share": 0.1}, "position", "Collapse by position: only 10.0 %"),
        ({"effective_rank": 6.0}, "rank", "the targets use 6.0 of 384 .*fewer than 7.68"),
        ({"context_effective_rank": 1.5}, "rank", "the context tokens use 1.5 of 384"),
        ({"target_dead_share": 0.6}, "features", "Dead features: 60 %"),
        ({"prediction_std": 0.02}, "predictions", "nearly the same token everywhere"),
        ({"prediction_r2_over_position": 0.0}, "context_unused", "Context unused: .*not made use of"),
    ],
)
def test_each_sign_alone_is_told_in_words(changed: dict[str, float], reason: str, words: str) -> None:
    found = signs(HEALTHY | changed, n_features=384)
    assert list(found) == [reason]
    assert re.search(words, found[reason])
    assert verdicts([HEALTHY, HEALTHY | changed], n_features=384) == [found[reason]]


def test_nothing_is_told_of_what_is_healthy_or_not_known() -> None:
    assert signs(HEALTHY, n_features=384) == {} == signs(dict.fromkeys(HEALTHY, NAN))
    assert signs(dict.fromkeys(HEALTHY)) == {} == signs({})
    assert least_rank(16) == 2 and least_rank(768) == pytest.approx(15.36)
    (unknown,) = verdicts([dict.fromkeys(HEALTHY)])
    assert "could not be checked" in unknown


def test_a_reason_is_told_once_and_an_unused_context_only_if_it_lasts() -> None:
    place, unused = {"target_scan_share": 0.1}, {"prediction_r2_over_position": -1.0}
    watch = CollapseWatch([], n_epochs=30, n_features=64)
    rows = [unused, unused, {}, unused, unused | place, unused | place, {}, place]
    told = [list(watch(HEALTHY | row)) for row in rows]
    assert told == [[], [], [], [], ["position"], ["context_unused"], [], []]
    # another session: what is in metrics.jsonl was told, and two epochs in a row count
    earlier: list[Any] = [
        HEALTHY | place | {"warnings": {"position": "…"}},
        HEALTHY | unused,
        HEALTHY | unused,
    ]
    watch = CollapseWatch(earlier, n_epochs=9, n_features=64)
    assert list(watch(HEALTHY | place | unused)) == ["context_unused"]
    watch = CollapseWatch([HEALTHY | unused] * 10, n_epochs=120, n_features=64)
    assert [list(watch(HEALTHY | unused)) for _ in "abc"] == [[], ["context_unused"], []]


def test_warnings_go_to_metrics_and_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0, epoch=0) as runlog:
        runlog.write({"epoch": 1, "loss": 0.5, "warnings": {"rank": "Few directions."}}, step=7)
    assert read_metrics(tmp_path)[0]["warnings"] == {"rank": "Few directions."}
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert board.Tags()["tensors"] == ["warnings/rank/text_summary"]
    (event,) = board.Tensors("warnings/rank/text_summary")
    assert event.step == 7 and b"Few directions." in event.tensor_proto.string_val[0]


def batch_of(context: list[int], target: list[int], kinds: list[int], *, missing: int = 0) -> Batch:
    """Scans with so many context and target tokens; kinds[i] of the targets of each are of kind i."""
    b, width, m = len(context), max(context) + 1, max(target) + 2
    index = torch.full((b, width), -1)
    wanted, weight = torch.full((b, m), -1), torch.zeros(b, 3, m)
    for row in range(b):
        index[row, : context[row]] = torch.arange(context[row])
        wanted[row, : target[row]] = torch.arange(target[row])
        place = 0
        for kind, n in enumerate(kinds):
            weight[row, kind, place : place + n] = 1 / max(n, 1)
            place += n
    visible = torch.arange(20 - missing).repeat(b, 1) if missing else None
    return Batch(torch.zeros(b, 4, 10), Masks(index, wanted, weight, visible), list(range(b)), torch.ones(b))


def test_tally_counts_scans_not_padding_nor_fillers() -> None:
    counts: dict[str, int] = {}
    tally = EpochTally(counts, n_tokens=20)
    tally.add(
        [batch_of([4, 7, 10], [6, 6, 9], [1, 2, 3]), batch_of([3], [6], [2, 2, 2], missing=5)],
        [0.6, 0.2],
        n_series=5,  # another process has one
        seconds=2.0,
    )
    tally.add([batch_of([9], [9], [9, 0, 0])], [0.0], n_series=3, seconds=2.0)  # a filler
    row = tally.row(torch.device("cpu"))
    assert row["context_tokens"] == 24 / 4 and row["target_tokens"] == 27 / 4
    assert [row[f"share_{k}"] for k in ("cross_roi", "cross_time", "double_cross")] == [
        5 / 24,
        8 / 24,
        11 / 24,
    ]
    assert row["samples_per_s"] == 2
    assert row["tokens_per_s"] == 2 * (24 + (24 + 27) + (3 * 20 + 15)) / 4
    assert 0.05 < row["memory_gb"] < 200
    resumed = EpochTally(counts.copy(), n_tokens=20)  # in a resumed epoch
    resumed.add([batch_of([7], [6], [2, 2, 2])], [1.0], n_series=1, seconds=0.5)
    assert resumed.row(torch.device("cpu"))["context_tokens"] == 31 / 5
    empty = EpochTally({}, n_tokens=20).row(torch.device("cpu"))
    assert all(math.isnan(v) for name, v in empty.items() if name != "memory_gb")


def test_memory_of_a_gpu_is_what_its_tensors_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3e9 if device.index == 1 else 0)
    assert peak_memory_gb(torch.device("cuda", 1)) == 3


def test_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    log = logging.getLogger("bjepa.test_live_line")
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler()
    logging.getLogger("bjepa").addHandler(handler)
    try:
        console = Console(file=screen, force_terminal=True, width=160, color_system=None)
        with LiveLine(epochs=4, updates_per_epoch=3, console=console) as line:
            line.begin_epoch(2)
            line.end_epoch({"prediction_r2_over_position": 0.25, "target_scan_share": NAN})
            line.update({"step": 4, "loss": 0.51234, "lr": 8e-4, "samples_per_s": 14.26})
            log.warning("something to know")
        assert handler.stream is screen
    finally:
        logging.getLogger("bjepa").removeHandler(handler)
    shown = screen.getvalue()
    for part in (
        "epoch 2/4",
        "1/3",
        "loss 0.5123",
        "lr 8.0e-04",
        "R² 0.25",
        "share –",
        "14.3 series/s",
        "left",
    ):
        assert part in shown, part
    assert "something to know\n" in shown.replace("\x1b[2K", "")
    assert hours(45 * 60 + 7.4) == "0:45:07" and hours(90_000) == "25:00:00"


def test_live_line_is_silent_elsewhere() -> None:
    for enabled, terminal in ((True, False), (False, True)):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal)
        with LiveLine(epochs=1, updates_per_epoch=2, enabled=enabled, console=console) as line:
            line.begin_epoch(1)
            line.update({"step": 1, "loss": 0.5, "lr": 1e-3})
            line.end_epoch({})
        assert screen.getvalue() == ""


class FakeRun:
    def __init__(self, told: list[Any], **settings: Any) -> None:
        self.told = told
        told.append(settings)

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


def test_wandb_is_told_the_same_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: FakeRun(told, **settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        with RunLog(tmp_path, step=step - 1, epoch=0, wandb={"train": {"seed": 4}}) as runlog:
            runlog.write({"step": step, "epoch": 1, "loss": 0.5, "grad_norm": NAN}, step=step)
    first, row, end, second, *_ = told
    assert first["config"] == {"train": {"seed": 4}} and first["project"] == "bjepa" and end == "finished"
    assert row == (1, {"step/loss": 0.5})  # what is not finite is left out
    assert first["id"] == second["id"] and len(first["id"]) == 12 and first["resume"] == "allow"
    assert len(read_metrics(tmp_path)) == 2


def test_wandb_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bjepa.model.wandb_log import import_wandb

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"train.wandb = true needs the package wandb[\s\S]*pip install"):
        import_wandb()


def test_a_probe_every_so_often_needs_a_probe() -> None:
    with pytest.raises(InputError, match=r"train\.probe_every has no effect without"):
        TrainConfig(probe_every=3)
    assert TrainConfig(probe_every=3, probe_column="age").probe_every == 3
