"""The picture of a scan and report.html: right place and colour, same bytes; nothing fetched, all escaped."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.extract import MeanImage
from bjepa.preproc.group_stage import GroupOptions, GroupResult
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.report.atlas_view import label_plane, plane_positions, region_groups, region_order
from bjepa.preproc.report.cohort import CohortWatch, Outlier
from bjepa.preproc.report.figures import histogram, number
from bjepa.preproc.report.page import short_names, write_report
from bjepa.preproc.report.qc import METRICS, scan_qc
from bjepa.preproc.report.scan_picture import HEIGHT, WIDTH, draw_scan_picture
from bjepa.preproc.scaling import Scaling
from bjepa.preproc.scan_files import Failure

R, T = 9, 37
SHAPE = (13, 11, 12)
# "ALS" with three voxel sizes: no axis is where a careless look-up would have it
AFFINE = np.array([[0, -7.0, 0, 35], [6.5, 0, 0, -40], [0, 0, 8, -44], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """Nine blocks in a 3 x 3 pattern, thick along the third axis."""
    labels = np.zeros(SHAPE, np.int16)
    for region in range(R):
        a, b = 2 + 3 * (region // 3), 1 + 3 * (region % 3)
        labels[a : a + 3, b : b + 3, 2:10] = region + 1
    centres = [apply_affine(AFFINE, np.argwhere(labels == k).mean(axis=0)) for k in range(1, R + 1)]
    table = pd.DataFrame(centres, columns=list("xyz")).assign(
        index=range(1, R + 1),
        name=[f"r{k}" for k in range(R)],
        structure=["subcortex"] * 2 + ["cortex"] * 7,
        hemisphere="LH",
        network7=["Subcortex", "Subcortex", *["Vis", "Cont", "Vis", "Cont", "Vis", "Cont", "Vis"]],
    )
    return Atlas("nine", "as in test", "MNI", nib.Nifti1Image(labels, AFFINE), table, [])


def _scan(seed: int = 1, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    raw = (500 + rng.normal(0, 5, (T, R)) + rng.normal(0, 3, (T, 1))).astype(np.float32)
    return {
        "raw": raw,
        "cleaned": raw[2:],
        "coverage": np.ones(R),
        "missing": np.zeros(R, bool),
        "mean_image": None,
        "fd": np.r_[np.nan, np.full(T - 1, 0.1)],
        "dvars": None,
        "t_r": 1.5,
    } | changes


def _draw(folder: Path, atlas: Atlas, **scan: Any) -> NDArray[np.uint8]:
    draw_scan_picture(folder / "scan.webp", atlas=atlas, **scan)
    return np.asarray(Image.open(folder / "scan.webp").convert("RGB"))


# --- looking at the atlas -----------------------------------------------------------------------------------


def test_planes_show_the_label_at_each_position(atlas: Atlas) -> None:
    seen = set()
    for points, _ in plane_positions(atlas, 61, 47):
        plane = label_plane(atlas, points)
        assert plane.shape == (47, 61)
        labels, inverse = np.asarray(atlas.labels_img.dataobj), np.linalg.inv(AFFINE)
        for row, column in [(0, 0), (23, 30), (20, 25), (30, 41), (46, 60), (25, 36)]:
            voxel = np.rint(apply_affine(inverse, points[row, column])).astype(int)
            inside = bool(((voxel >= 0) & (voxel < SHAPE)).all())
            assert plane[row, column] == (labels[tuple(voxel)] if inside else 0)
            seen.add(int(plane[row, column]))
        # equal steps in both directions; up is up and right is right
        across, down = points[0, 1] - points[0, 0], points[1, 0] - points[0, 0]
        assert_allclose(np.linalg.norm(across), np.linalg.norm(down))
        assert across.sum() > 0 > down.sum()
    assert len(seen) > 3 and 0 in seen
    full = replace(atlas, labels_img=nib.Nifti1Image(np.full(SHAPE, 4, np.int16), AFFINE))
    corner, out = apply_affine(AFFINE, [[0, 0, 0], [-1, 0, 0]])
    assert label_plane(full, np.array([[corner, out]])).tolist() == [[4, 0]]


def test_regions_are_sorted_by_network(atlas: Atlas) -> None:
    order = region_order(atlas)
    assert order.tolist() == [3, 5, 7, 2, 4, 6, 8, 0, 1]
    assert region_groups(atlas, order) == [("Cont", 0, 3), ("Vis", 3, 7), ("Subcortex", 7, 9)]


# --- the picture --------------------------------------------------------------------------------------------


def test_same_scan_same_bytes_and_small(atlas: Atlas, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_scan_picture(tmp_path / f"{name}.webp", atlas=atlas, **_scan())
    first = (tmp_path / "a.webp").read_bytes()
    assert first == (tmp_path / "b.webp").read_bytes() and len(first) < 40_000
    assert Image.open(tmp_path / "a.webp").size == (WIDTH, HEIGHT)
    draw_scan_picture(tmp_path / "a.webp", atlas=atlas, **_scan(seed=2))
    assert first != (tmp_path / "a.webp").read_bytes()


def _tile(picture: NDArray[np.uint8], number: int, second: bool = False) -> NDArray[np.int64]:
    """One plane of the slices as 0 to 255, without its frame and letters."""
    top, left = 18 + (142 if second else 0), 10 + 106 * number
    return picture[top + 16 : top + 120, left + 2 : left + 102].astype(np.int64)


def test_mean_image_on_another_grid_lies_under_the_borders(atlas: Atlas, tmp_path: Path) -> None:
    """An image that is bright where the atlas is, on a grid with other axes, voxels and origin."""
    affine = np.array([[-4.0, 0, 0, 60], [0, 0, 5, -70], [0, 4.5, 0, -60], [0, 0, 0, 1]])
    shape = (31, 28, 29)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    inside = label_plane(atlas, apply_affine(affine, voxels)) > 0
    image = np.where(inside, 800, 100).astype(np.float32)

    def misfit(given: MeanImage) -> float:
        picture = _draw(tmp_path, atlas, **_scan(mean_image=given))
        wrong = []
        for tile, (points, _) in enumerate(plane_positions(atlas, 104, 122)):
            there = label_plane(atlas, points)[16:120, 2:102] > 0
            bright = _tile(picture, tile).mean(axis=-1) > 120
            wrong.append((there != bright).mean())
        return float(np.mean(wrong))

    assert misfit(MeanImage(image, affine)) < 0.08
    shifted = affine.copy()
    shifted[0, 3] += 25
    assert misfit(MeanImage(image, shifted)) > 0.15


def test_missing_regions_are_red(atlas: Atlas, tmp_path: Path) -> None:
    def n_red(picture: NDArray[Any]) -> int:
        red, green, blue = (picture[..., c].astype(int) for c in range(3))
        return int(((red > 150) & (green < 110) & (blue < 110)).sum())

    missing = np.zeros(R, bool)
    missing[3] = True  # the first row of the carpet
    scan = _scan()
    hidden = scan["cleaned"].copy()
    hidden[:, missing] = np.nan
    whole = _draw(tmp_path, atlas, **scan)
    picture = _draw(tmp_path, atlas, **(scan | {"missing": missing, "cleaned": hidden}))
    assert n_red(_tile(whole, 2, second=True)) == 0 and n_red(_tile(picture, 2, second=True)) > 50
    assert n_red(whole[70:90, 400:700]) == 0 and n_red(picture[70:90, 400:700]) > 3000
    assert n_red(whole[200:270, 400:700]) == n_red(picture[200:270, 400:700]) == 0


def test_carpet_shows_an_event_where_it_happened(atlas: Atlas, tmp_path: Path) -> None:
    scan = _scan(fd=None)
    event = scan["cleaned"].copy()
    event[10:13] += 60
    picture = _draw(tmp_path, atlas, **(scan | {"cleaned": event}))[80:260, 398:708].mean(axis=(0, 2))
    bright = np.flatnonzero(picture > picture.mean() + 60)
    first, after = 10 / 35 * 310, 13 / 35 * 310
    assert abs(bright.min() - first) < 5 and abs(bright.max() - after) < 5


def test_atlas_without_volume_leaves_the_slices_out(atlas: Atlas, tmp_path: Path) -> None:
    table = atlas.table.assign(x=np.nan, y=np.nan, z=np.nan, network7="n/a")
    named = Atlas("names", "n/a", "n/a", None, table, [], kind="table")
    picture = _draw(tmp_path, named, **_scan())
    whole = _draw(tmp_path, atlas, **_scan())
    # the carpet reaches into the place of the slices
    assert picture[120:240, 100:300].std() > 30 > whole[160:165, 120:300].std()


# --- figures ------------------------------------------------------------------------------------------------


def test_histogram_counts_all_and_names_the_worst() -> None:
    values = np.r_[np.linspace(0, 1, 30), 5.0, 4.0, 3.0, 2.5, np.nan]
    outliers = [Outlier(f"s{v}", "fd_mean", v, 0.5, 2.0) for v in (2.5, 4.0, 5.0, 3.0)]
    found = histogram(METRICS[0], values, outliers)
    assert found is not None and found.named == ["s5.0", "s4.0", "s3.0"] and found.n_outliers == 4
    share = np.array([height for _, _, height in found.bars]) ** 2  # square roots were drawn
    assert_allclose(share.sum() / share.max(), 34 / np.histogram(values[:-1], bins=32)[0].max(), rtol=0.02)
    assert found.dots[0][0] == 260 and (found.low, found.high) == ("0.00", "5.00")
    assert histogram(METRICS[0], np.array([2.0, 2.0, np.nan]), []) is None


def test_numbers_are_told_with_their_sign() -> None:
    assert [number(v, 2) for v in (0.004, -0.25, 0.0, 3.14159)] == ["0.004", "−0.25", "0.00", "3.14"]


# --- the report ---------------------------------------------------------------------------------------------

N = 14
NASTY = "sub-03_task-</script><img src=x onerror=alert(1)>\"&'_bold"


@pytest.fixture(scope="module")
def cohort(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("out")
    watch, rows, scans, all_facts = CohortWatch(atlas.table), [], [], []
    for i in range(N):
        scan_id = NASTY if i == 3 else f"sub-{i:02d}_task-rest_bold"
        motion = 3.0 if i == 8 else 0.1 + 0.01 * (i % 5)
        scan = _scan(seed=i, fd=np.r_[np.nan, np.full(T - 1, motion)])
        keys = ("raw", "cleaned", "fd", "dvars", "coverage", "missing", "t_r")
        qc = scan_qc(**{k: scan[k] for k in keys}, censored=None)
        path = out / f"sub-{i:02d}" / "func" / f"scan {i}_seg-nine_timeseries.json"
        if i != 5:
            draw_scan_picture(scan_files.picture_path(path.with_suffix("")), atlas=atlas, **scan)
        facts = {"scan_id": scan_id, "t_r": 1.5, "fd_mean": qc["fd_mean"], "qc": qc}
        rows.append(
            {"scan_id": scan_id, "participant_id": f"sub-{i:02d}", "source": f"/in/<{i}>.nii", "t_r": 1.5}
            | {"stride": 1, "t_r_out": 1.5, "n_frames_in": T, "n_frames": T - 2, "n_phases": 1}
            | {"fd_mean": qc["fd_mean"], "tsnr_median": qc["tsnr_median"], "coverage_min": 1.0}
            | {"n_missing_rois": int(i == 2)}
        )
        scans.append(SimpleNamespace(path=path))
        all_facts.append((scan["cleaned"], facts))
    for series, facts in all_facts:
        watch.observe(series, facts)
    for series, facts in all_facts:
        watch.observe_again(series, facts)
    for k, why in enumerate(["has 3 frames", "has 17 frames", "is <damaged>"]):
        source = ScanSource(path=Path(f"/in/bad{k}.nii"), scan_id=f"bad{k}", participant_id="sub-99")
        failure = Failure(str(source.path), "participant", "InputError", f"{source.path}: {why}", "Mend it.")
        scan_files.write_failure(out, source, failure)
    scaling = Scaling("robust", np.linspace(400, 600, R), np.linspace(5, 9, R))
    result = SimpleNamespace(table=pd.DataFrame(rows), scaling=scaling, scans=scans)
    return SimpleNamespace(out=out, watch=watch, result=cast(GroupResult, result))


def _write(cohort: SimpleNamespace, atlas: Atlas, **changes: Any) -> str:
    given = {"summary": cohort.watch.summary, "qc_table": cohort.watch.qc_table()} | changes
    write_report(cohort.out, atlas, cohort.result, GroupOptions(target_t_r=2.0), **given)
    return Path(cohort.out, "report.html").read_text(encoding="utf-8")


def _block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}"[^>]*>(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_page_holds_every_scan_and_fetches_nothing(cohort: SimpleNamespace, atlas: Atlas) -> None:
    page = _write(cohort, atlas)
    data = _block(page, "report-data")
    table = cohort.result.table
    assert data["scan_id"] == table["scan_id"].tolist() and data["source"] == table["source"].tolist()
    names = [field["name"] for field in data["fields"]]
    assert_allclose(data["columns"][names.index("tsnr_median")], table["tsnr_median"], rtol=1e-5)
    assert_allclose(data["columns"][names.index("fd_mean")], table["fd_mean"], rtol=1e-5)
    assert "typicality" in names and "dvars_mean" not in names
    flagged = {(data["scan_id"][row], metric) for row, metric, *_ in data["outliers"]}
    assert ("sub-08_task-rest_bold", "fd_mean") in flagged

    tags = _Tags()
    tags.feed(page)
    for tag, attributes in tags.seen:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("data:", "#")), (tag, target)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "url(" not in page and "@import" not in page


def test_pictures_are_inside_up_to_the_budget_flagged_first(cohort: SimpleNamespace, atlas: Atlas) -> None:
    page = _write(cohort, atlas)
    places = _block(page, "report-data")["pictures"]
    assert places[5] is None and places[8] == 0  # no picture; the one that stands out comes first
    assert sorted(p for p in places if p is not None) == list(range(N - 1))
    inside = _block(page, "pictures-0")
    for row, place in enumerate(places):
        if place is not None:
            path = scan_files.picture_path(cohort.result.scans[row].path.with_suffix(""))
            assert base64.b64decode(inside[place]) == path.read_bytes()

    size = len(inside[0])
    page = _write(cohort, atlas, picture_budget=size + 10)
    places = _block(page, "report-data")["pictures"]
    assert places[8] == 0 and places[5] is None and places[0] == "sub-00/figures/scan%200_seg-nine_qc.webp"
    assert sum(isinstance(p, str) for p in places) == N - 2
    assert "1 pictures are inside this file" in page and f"{N - 2} are loaded" in page


def test_names_cannot_break_out(cohort: SimpleNamespace, atlas: Atlas) -> None:
    page = _write(cohort, atlas)
    assert "<img src=x" not in page and "/in/<" not in page and "is <damaged>" not in page
    assert NASTY in _block(page, "report-data")["scan_id"]


def test_failures_are_grouped_by_reason(cohort: SimpleNamespace, atlas: Atlas) -> None:
    page = _write(cohort, atlas)
    rows = re.findall(r'<tr><td class="number">(\d+)</td><td class="wrap">(.*?)</td>', page)
    assert rows == [("2", "has 3 frames"), ("1", "is &lt;damaged&gt;")]
    assert [row[0] for row in _block(page, "report-data")["failures"]] == [
        f"/in/bad{k}.nii" for k in range(3)
    ]


def test_warnings_say_what_is_unusual(cohort: SimpleNamespace, atlas: Atlas) -> None:
    page = _write(cohort, atlas)
    assert f"{N} of {N} scans are stored at another TR than the target of 2 s: {N} at 1.5 s as 1.5 s." in page
    assert "1 of 14 scans have missing regions" in page and "Scans with missing regions" in page
    assert "have no framewise displacement" not in page and "dominate" not in page
    assert "across 14 scans, the correlation of every edge" in page
    plain = _write(cohort, atlas, summary=None, qc_table=None)
    assert (
        "across 14 scans" not in plain
        and "FD, mean" in plain
        and "Not known for these scans: FD, largest" in plain
    )


def test_static_offsets_are_told(cohort: SimpleNamespace, atlas: Atlas) -> None:
    watch = CohortWatch(atlas.table)
    for i in range(3):
        watch.observe((_scan(i)["cleaned"] * (1 + 0.2 * i)).astype(np.float32), {"fd_mean": None})
    ratio = np.nanmedian(watch.summary.between_to_within())
    assert f"is {ratio:.1f} times the variance within scans" in _write(cohort, atlas, summary=watch.summary)


def test_short_names_stay_different() -> None:
    names = ["sub-1_ses-a_task-rest", "sub-1_ses-b_task-rest", "sub-2_task-rest"]
    assert short_names(names) == ["sub-1_ses-a", "sub-1_ses-b", "sub-2"]
    assert short_names(["sub-1_bold"]) == ["sub-1_bold"]


def test_report_of_names_only_and_of_one_scan(cohort: SimpleNamespace, atlas: Atlas, tmp_path: Path) -> None:
    named = Atlas("names", "n/a", "n/a", None, atlas.table.assign(x="n/a", network7="n/a"), [], kind="table")
    one = SimpleNamespace(
        table=cohort.result.table[:1],
        scaling=Scaling("none", np.zeros(R), np.ones(R)),
        scans=cohort.result.scans[:1],
    )
    watch = CohortWatch(named.table)
    watch.observe(_scan()["cleaned"], {"fd_mean": 0.1})
    write_report(cohort.out, named, cast(GroupResult, one), GroupOptions(scaling="none"), watch.summary, None)
    page = (cohort.out / "report.html").read_text(encoding="utf-8")
    assert "This atlas has no volume to show" in page and "stored in the units of the scans" in page
    assert "Fewer than 10 scans" in page


def test_chromium_shows_the_scans_without_a_complaint(
    cohort: SimpleNamespace, atlas: Atlas, shown_in_chromium: Callable[[Path], str]
) -> None:
    _write(cohort, atlas)
    shown = shown_in_chromium(cohort.out / "report.html")
    tags = _Tags()
    tags.feed(shown)
    cards = [a for tag, a in tags.seen if tag == "article"]
    assert len(cards) == N and sum("flagged" in (a["class"] or "") for a in cards) >= 1
    sources = [a["src"] or "" for tag, a in tags.seen if tag == "img" and a.get("loading") == "lazy"]
    files = [scan_files.picture_path(scan.path.with_suffix("")) for scan in cohort.result.scans]
    inside = [base64.b64encode(path.read_bytes()).decode() for path in files if path.is_file()]
    assert sources == [f"data:image/webp;base64,{picture}" for picture in inside]
