"""report.html of a run: what it says first, what it draws, and that it stays small."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bjepa.model.config import load_recipe, recipe_to_toml
from bjepa.model.masking import KINDS
from bjepa.model.page_figures import PAGE_COLOURS
from bjepa.model.report import write_report
from bjepa.model.report_figures import MAX_POINTS, loss_figure, thinned

HEALTHY = {
    "target_std": 0.9,
    "prediction_std": 0.6,
    "effective_rank": 60.0,
    "context_effective_rank": 70.0,
    "target_scan_share": 0.7,
    "prediction_r2_over_position": 0.3,
    "target_dead_share": 0.0,
    "prediction_dead_share": 0.1,
    "scan_similarity": 0.8,
}


def a_run(folder: Path, n_epochs: int, per_epoch: int, **last: Any) -> str:
    """The page of a made-up run; `last` is of the last epoch."""
    rng = np.random.default_rng(0)
    settings = ["train.probe_column=age", "train.seed=7", "optimizer.betas=[0.9,0.95]"]
    recipe = load_recipe("vit_small", settings=settings, n_rois=450, n_gradients=30)
    (folder / "config.toml").write_text(recipe_to_toml(recipe))
    rows: list[dict[str, Any]] = []
    for epoch in range(1, n_epochs + 1):
        for step in range((epoch - 1) * per_epoch + 1, epoch * per_epoch + 1):
            names = ("loss", *(f"loss_{k}" for k in KINDS), "lr", "weight_decay", "ema", "grad_norm")
            numbers = dict(zip((*names, "samples_per_s"), rng.random(9).tolist(), strict=True))
            rows.append({"step": step, "epoch": epoch} | numbers)
        rows.append(
            {"epoch": epoch, "last_step": epoch * per_epoch, "loss": 0.4, "samples": 9, "seconds": 3.0}
        )
        rows[-1] |= HEALTHY | {"context_tokens": 9.0, "target_tokens": 4.0, "samples_per_s": 3.5}
        rows[-1] |= {f"share_{k}": 1 / 3 for k in KINDS} | {"tokens_per_s": 9e4, "memory_gb": 2.25}
    rows[-1] |= last
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(folder, facts={"epochs": "3 of 3"}, notes=["2 scans are not used: <short>."])
    return (folder / "report.html").read_text()


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_healthy_run(tmp_path: Path) -> None:
    page = a_run(tmp_path, 3, 5)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    said = re.sub(r"\s+", " ", "".join(parser.text))
    assert "No sign of collapse. After epoch 3, 70 % of the variance" in said and "explain 30 %" in said
    assert "2 scans are not used: &lt;short&gt;." in page
    assert '<div class="tile"><b>0.70</b><span>share between scans</span>' in page
    assert "<b>2.2</b><span>GB of memory</span>" in page
    assert page.count("<svg") == 5 and "<h2>Probe" not in page  # none was made yet
    # the page's colours, no others: it can be read on white and on black
    assert not any(colour in page for colour in PAGE_COLOURS) and "var(--curve-3)" in page
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", page)) <= {"#000000"}
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert re.search(r"<code>betas</code></td>\s*<td class=\"wrap\"><b>\[0\.9, 0\.95\]</b></td>", page)
    assert re.search(r"<code>seed</code></td>\s*<td class=\"wrap\"><b>7</b></td><td class=\"muted\">0<", page)
    assert re.search(r"<code>nonfinite</code></td>\s*<td class=\"wrap\">stop</td>", page)


def test_verdicts_come_first_and_what_has_passed_is_told(tmp_path: Path) -> None:
    told = {"rank": "Dimensional collapse: gone.", "position": "Collapse by position: still there."}
    page = a_run(tmp_path, 2, 2, target_scan_share=0.1, warnings=told)
    assert "No sign of collapse" not in page
    assert page.index("Collapse by position: only 10.0 %") < page.index('class="tiles"')
    assert "Told in epoch 2, and no longer so: Dimensional collapse: gone." in page
    assert "still there" not in page


def test_what_lies_below_an_axis_is_drawn_at_its_end(tmp_path: Path) -> None:
    low, lowest = (a_run(tmp_path, 2, 2, prediction_r2_over_position=r2) for r2 in (-1.0, -37.6))
    figure = re.compile(r'aria-label="Monitors.*?</svg>', re.DOTALL)
    assert figure.search(low)[0] == figure.search(lowest)[0]  # type: ignore[index]


def test_the_probe_is_drawn_and_called_what_it_is(tmp_path: Path) -> None:
    probe = {"probe_r2": 0.1, "probe_networks_r2": 0.2, "probe_scans": 44, "probe_chance": 0.0}
    page = a_run(tmp_path, 2, 2, **probe)
    assert "<h2>Probe: age</h2>" in page and page.count("<svg") == 6
    assert "R², participants not in the fit" in page and "networks' means" in page
    assert "Indicative, on the training participants' own scans, not an evaluation: 44 scans" in page


def test_a_run_before_its_first_epoch_or_without_monitors_has_a_page(tmp_path: Path) -> None:
    nothing = dict.fromkeys(HEALTHY) | dict.fromkeys(("context_tokens", "memory_gb", "loss"))
    assert "could not be checked" in a_run(tmp_path, 1, 2, **nothing)
    (tmp_path / "metrics.jsonl").write_text("")
    write_report(tmp_path, facts={}, notes=[])
    assert "No sign" not in (tmp_path / "report.html").read_text()


def test_the_page_of_a_long_run_is_small(tmp_path: Path) -> None:
    page = a_run(tmp_path, 300, 60)
    assert len(page) < 1_200_000
    assert "mean of about 9 updates" in page


def test_thinning_keeps_means_jumps_and_the_ends() -> None:
    n = 3 * MAX_POINTS + 17
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = [
        {"step": i, "loss": v, "grad_norm": v} for i, v in enumerate(rng.random(n).tolist(), 1)
    ]
    rows[4321]["grad_norm"] = 50.0
    rows[7]["loss"] = None
    x, y = thinned(rows, "step", "loss")
    assert len(x) == len(y) == MAX_POINTS and x[0] == 1 and x[-1] > n - 5 and x == sorted(set(x))
    known = [row["loss"] for row in rows if row["loss"] is not None]
    assert min(known) < min(y) and np.mean(y) == pytest.approx(np.mean(known), rel=1e-3)
    assert y[0] == pytest.approx(np.mean(known[:3]))
    assert max(thinned(rows, "step", "grad_norm")[1]) == 50
    few = rows[:5]
    assert thinned(few, "step", "loss") == ([1, 2, 3, 4, 5], [row["loss"] for row in few])
    assert thinned(few, "step", "absent") == ([], [])


def test_the_same_numbers_are_the_same_drawing() -> None:
    rows = [{"step": i, "loss": math.sin(i)} for i in range(1, 30)]
    assert loss_figure(rows, []) == loss_figure(rows, [])
