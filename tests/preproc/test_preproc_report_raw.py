"""report.html of raw runs: every measure, verdict and picture of the registration is there, and escaped."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bjepa.preproc.atlas import Atlas
from bjepa.preproc.group_stage import GroupOptions, GroupResult
from bjepa.preproc.report.cohort import CohortWatch
from bjepa.preproc.report.page import write_report
from bjepa.preproc.report.picture_store import PICTURES_A_BLOCK, PictureStore
from bjepa.preproc.scaling import Scaling

R, N = 5, 4
NASTY = "<img src=x onerror=alert(1)>"


def _raw(run: int, **changes: Any) -> dict[str, Any]:
    """As run.py writes it; all runs of one participant share the picture of the template."""
    figures = {name: f"sub-0{run}/figures/run {run}_desc-{name}_bold.webp" for name in ("mask", "motion")}
    return {
        "template": "MNI152NLin2009aSym",
        "template_error_mm": 1.55,
        "template_choice": "the one of nilearn: mismatch about 1.5 mm",
        "low_quality": False,
        "metrics": {"template_ncc": 0.81 + run / 100, "mi_ratio": 2.5, "own_measure": 12.3456789}
        | {"shift_mm": 3.25},
        "findings": [],
        "figures": figures | {"template": "sub-00/figures/T1w.webp"},
    } | changes


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("raw-report")
    found = {
        "measure": "mi_ratio",
        "value": 1.5,
        "limit": 1.7,
        "level": "warn",
        "sentence": f"Little. {NASTY}",
    }
    runs = [_raw(run) for run in range(N)]
    runs[2] = _raw(2, findings=[found], metrics={"template_ncc": 0.6, "mi_ratio": 1.5})
    runs[3] = _raw(
        3,
        low_quality=True,
        metrics={"template_ncc": float("nan")},
        template_error_mm=None,
        template_choice="",
    )
    atlas = Atlas(
        "names",
        "n/a",
        "n/a",
        None,
        pd.DataFrame(
            {
                "index": range(1, R + 1),
                "name": [f"r{k}" for k in range(R)],
                "structure": "cortex",
                "hemisphere": "LH",
                "network7": "n/a",
                "x": "n/a",
                "y": "n/a",
                "z": "n/a",
            }
        ),
        [],
        kind="table",
    )
    watch = CohortWatch(atlas.table)
    rng = np.random.default_rng(4)
    rows = []
    for run, raw in enumerate(runs):
        scan_id = f"sub-0{run}_task-rest_bold"
        facts = {"scan_id": scan_id, "t_r": 2.0, "fd_mean": 0.1, "qc": {}, "warnings": [], "raw": raw}
        series = rng.normal(size=(30, R)).astype(np.float32)
        watch.observe(series, facts)
        watch.observe_again(series, facts)
        rows.append(
            {"scan_id": scan_id, "participant_id": f"sub-0{run}", "source": f"/in/{run}.nii.gz", "t_r": 2.0}
            | {"t_r_out": 2.0, "stride": 1, "n_phases": 1, "n_frames_in": 30, "n_frames": 30}
            | {"fd_mean": 0.1, "tsnr_median": 60.0, "coverage_min": 1.0, "n_missing_rois": 0}
        )
        for number, place in enumerate(raw["figures"].values()):
            picture = Image.fromarray(np.full((40 + number, 60, 3), 20 * run + number, np.uint8))
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            picture.save(out / place)
    scans = [SimpleNamespace(path=out / f"sub-0{run}/func/x{run}.json") for run in range(N)]
    scaling = Scaling("none", np.zeros(R), np.ones(R))
    result = cast(GroupResult, SimpleNamespace(table=pd.DataFrame(rows), scaling=scaling, scans=scans))
    return SimpleNamespace(out=out, watch=watch, atlas=atlas, result=result, runs=runs)


def _write(cohort: SimpleNamespace, **changes: Any) -> str:
    write_report(
        cohort.out,
        cohort.atlas,
        cohort.result,
        GroupOptions(scaling="none"),
        cohort.watch.summary,
        **({"told_of_raw": cohort.watch.raw} | changes),
    )
    return Path(cohort.out, "report.html").read_text(encoding="utf-8")


def _block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}"[^>]*>(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_measures_verdicts_and_templates_are_told(cohort: SimpleNamespace) -> None:
    page = _write(cohort)
    raw = _block(page, "report-data")["raw"]
    assert [column["name"] for column in raw["columns"]] == ["template_ncc", "mi_ratio"]
    assert [other["title"] for other in raw["others"]] == ["BOLD moved to the T1w by (mm)", "own_measure"]
    assert [scan["row"] for scan in raw["scans"]] == [0, 1, 2, 3]
    assert raw["scans"][1]["values"] == [0.82, 2.5]
    assert raw["scans"][1]["other_values"] == [3.25, 12.3457]
    assert raw["scans"][2]["other_values"] == [None, None]
    assert raw["scans"][3]["values"] == [None, None]  # what could not be measured is no number
    assert raw["scans"][2]["findings"] == [["mi_ratio", "warn", f"Little. {NASTY}"]]
    assert [scan["low"] for scan in raw["scans"]] == [False, False, False, True]
    assert "4 runs were read raw" in page and "1 has a measure beyond a limit" in page
    assert "1 had no T1w image" in page
    assert "Template of 3 runs: the one of nilearn: mismatch about 1.5 mm." in page
    assert "Template of 1 run: MNI152NLin2009aSym (distance from the atlas&#39; template not known)." in page
    assert raw["scans"][0]["template"] == "MNI152NLin2009aSym (about 1.55 mm from the atlas' template)"
    assert NASTY not in page


def test_pictures_are_inside_once_and_doubtful_runs_first(cohort: SimpleNamespace) -> None:
    page = _write(cohort)
    scans = _block(page, "report-data")["raw"]["scans"]
    inside = _block(page, "pictures-0")
    for scan, raw in zip(scans, cohort.runs, strict=True):
        assert [name for name, _ in scan["pictures"]] == ["template", "mask", "motion"]
        for name, place in scan["pictures"]:
            assert base64.b64decode(inside[place]) == (cohort.out / raw["figures"][name]).read_bytes()
    assert len(inside) == 2 * N + 1  # the picture of the template is stored once
    assert [place for _, place in scans[2]["pictures"]] == [0, 1, 2]
    assert "loaded from the folders" not in page


def test_beyond_the_budget_are_links(cohort: SimpleNamespace) -> None:
    page = _write(cohort, picture_budget=1)
    scans = _block(page, "report-data")["raw"]["scans"]
    assert dict(scans[1]["pictures"])["mask"] == "sub-01/figures/run%201_desc-mask_bold.webp"
    assert f"{2 * N + 1} of these pictures are loaded from the folders" in page


def test_a_picture_that_is_gone_is_left_out(cohort: SimpleNamespace) -> None:
    told = {name: raw.replace("desc-mask", "desc-gone") for name, raw in cohort.watch.raw.items()}
    scans = _block(_write(cohort, told_of_raw=told), "report-data")["raw"]["scans"]
    assert [name for name, _ in scans[0]["pictures"]] == ["template", "motion"]


def test_without_raw_runs_there_is_no_section(cohort: SimpleNamespace) -> None:
    page = _write(cohort, told_of_raw={})
    assert 'id="registration"' not in page and _block(page, "report-data")["raw"] is None


def test_the_store_makes_blocks(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.webp" for i in range(PICTURES_A_BLOCK + 3)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 3)
    store = PictureStore(tmp_path, 4 * (PICTURES_A_BLOCK + 2))
    assert [store.put(path) for path in paths] == [*range(PICTURES_A_BLOCK + 2), f"{len(paths) - 1}.webp"]
    assert [len(block) for block in store.blocks] == [PICTURES_A_BLOCK, 2]
    assert store.put(paths[7]) == 7 and store.put(tmp_path / "gone.webp") is None


class _Texts(HTMLParser):
    """Cells of the table of registrations."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._depth = self._inside = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "div" and (self._inside or dict(attrs).get("id") == "registrations"):
            self._inside += 1
        if self._inside and tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._inside:
            self._inside -= 1

    def handle_data(self, data: str) -> None:
        if self._inside and self.cells:
            self.cells[-1] += data


def test_chromium_shows_the_table_without_a_complaint(
    cohort: SimpleNamespace, shown_in_chromium: Callable[[Path], str]
) -> None:
    _write(cohort)
    shown = shown_in_chromium(cohort.out / "report.html")
    texts = _Texts()
    texts.feed(shown)
    first = texts.cells[: 2 * 5]  # the doubtful run, then the one without T1w
    assert first[:5] == ["sub-02", "0.60", "1.50", "1 beyond a limit", "pictures"]
    assert first[5:] == ["sub-03", "–", "–", "no T1w image: low quality", "pictures"]
    assert texts.cells.count("within limits") == 2
