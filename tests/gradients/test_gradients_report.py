"""gradients/report*.py: one page that says what matters, and shows only what was computed."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from bjepa.gradients.connectivity.measure import Measure
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.inputs import GroupConnectivity
from bjepa.gradients.pipeline import GradientRun
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions, unnamed_regions
from bjepa.gradients.report import PICTURES, write_report
from bjepa.gradients.report_findings import cortex_and_subcortex, findings, moved_of_structures, tiles
from bjepa.gradients.report_methods import citations, files, methods
from bjepa.gradients.report_warnings import listed, ranges, warnings

N_ROIS, N_COMPONENTS = 24, 5
OPTIONS = GradientOptions(n_components=N_COMPONENTS, sparsity=0.5)


def toy(**parts: Any) -> GradientRun:
    """24 regions on a ring, the last four subcortical; names that HTML must not take for its own."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, N_ROIS, endpoint=False)
    fc = 0.8 * np.cos(angle[:, None] - 1.01 * angle) + 0.1 * rng.normal(size=(N_ROIS, N_ROIS))
    fc = (fc + fc.T) / 2
    affinity, result = embed_connectivity(fc, OPTIONS)
    deep = np.arange(N_ROIS) >= 20
    table = pd.DataFrame(
        {
            "name": [f"<i>region</i> {n} & co" for n in range(N_ROIS)],
            "structure": np.where(deep, "subcortex", "cortex"),
            "network7": np.where(deep, "Subcortex", np.repeat(["Vis", "Default", "Cont"], 8)),
        }
    )
    group = GroupConnectivity(
        fc=fc, regions=Regions(table=table, atlas="ring"), n_scans=9, n_participants=8, measure=Measure()
    )
    run = GradientRun(source=Path("study"), options=OPTIONS, group=group, affinity=affinity, result=result)
    return replace(run, **parts)


def stability(*, low: float = 0.6) -> Any:
    table = pd.DataFrame(
        [(s, k, 0.9 - 0.1 * k) for s in ("all", "cortex", "subcortex") for k in range(1, N_COMPONENTS + 1)],
        columns=["structure", "component", "r"],
    ).assign(r_low=0.6, r_high=0.95, r_unaligned=0.5, r_unaligned_low=0.1, r_unaligned_high=0.7)
    table.loc[table["component"].isin([2, 3, 5]) & (table["structure"] == "all"), "r_low"] = low
    table = table.assign(r_null=0.35, n_regions=20, n_splits=50)
    k = np.arange(1, N_COMPONENTS + 1)
    regions = pd.DataFrame({"index": range(1, N_ROIS + 1), "name": [f"r{n}" for n in range(N_ROIS)]}).assign(
        structure=["cortex"] * 20 + ["subcortex"] * 4, displacement=[0.3] * 20 + [0.75] * 4
    )
    regions = regions.assign(network7="Vis", displacement_low=0.2, displacement_high=0.5)
    return SimpleNamespace(
        n_splits=50,
        n_participants=8,
        seed=3,
        table=table,
        subspaces=pd.DataFrame({"n_components": k, "cosine_min": 0.8, "cosine_low": 0.7, "cosine_high": 0.9}),
        regions=regions,
        displacement_splits=np.outer([1.0, 1.2], regions["displacement"]) + 0.0,
    )


def everything(run: GradientRun) -> GradientRun:
    """The run with every part that a report can show."""
    rng, k = np.random.default_rng(1), np.arange(1, N_COMPONENTS + 1)
    r = np.linspace(0.95, 0.55, N_COMPONENTS)
    alignment = SimpleNamespace(
        reference="HCP <main>", method="procrustes", n_components=N_COMPONENTS, rotation=None,
        rows=np.arange(N_ROIS) < 20, gradients=run.result.gradients, r_before=r - 0.5, r=r,
        r_null=np.full(N_COMPONENTS, 0.3), reference_values=rng.normal(size=(N_ROIS, N_COMPONENTS)), doubt="",
    )  # fmt: skip
    comparison = SimpleNamespace(
        file="theirs.csv",
        n_components=N_COMPONENTS,
        doubt="",
        table=pd.DataFrame(
            {"component": k, "r": -r, "best_match": k, "r_best": r, "r_aligned": r, "r_null": 0.3}
        ),
        subspaces=pd.DataFrame({"n_components": k, "cosine_min": 0.9, "cosine_mean": 0.95}),
    )
    group = SimpleNamespace(name="F", n_scans=4, n_participants=4, embedding=run.result, r=r, variance=r / 2)
    people = pd.DataFrame({"participant_id": ["a", "b", "c"], "n_scans": 1, "n_frames": [90, 120, 150]})
    people = people.assign(n_regions=24, r_1=0.8, r_2=0.7, r_3=0.6, r_mean=[0.5, 0.4, 0.6])
    people = people.assign(variance_template=0.5, variance_fc=0.6)
    maps = pd.DataFrame([("myelin", c, 0.1 * c) for c in k], columns=["map", "component", "r"])
    maps = maps.assign(spearman=0.1, n_regions=24, p=0.01, p_fdr=0.02, null="spin")
    check = {
        "agrees": False, "affinity_max_abs_diff": 1e-9, "subspace_cosine_min": 0.9, "abs_r": r.tolist(),
        "abs_r_min_over_seeds": (r - 0.1).tolist(), "residual": [1e-15] * 5,
        "residual_brainspace": [0.1] * 5, "versions": {"brainspace": "0.3.0"},
    }  # fmt: skip
    parts: dict[str, Any] = {
        "alignment": alignment,
        "comparison": comparison,
        "variance": np.linspace(0.3, 0.7, N_COMPONENTS),
        "stability": stability(low=0.2),
        "groups": SimpleNamespace(column="sex", alignment="procrustes", groups=[group, group]),
        "individuals": SimpleNamespace(
            table=people, n_components=N_COMPONENTS, failures=pd.DataFrame({"source": ["sub-x"]})
        ),
        "maps": SimpleNamespace(
            file="maps.tsv",
            null="spin",
            n_permutations=99,
            table=maps,
            values=pd.DataFrame({"myelin": rng.normal(size=N_ROIS)}),
        ),
        "check": check,
    }
    return replace(run, **parts)


class Page(HTMLParser):
    """Every element closed in its order; what is loaded; the headings."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.loaded += [given[name] for name in ("src", "href") if name in given]
        self.ids |= {given["id"]} if "id" in given else set()
        self.anchors |= {given["href"][1:]} if given.get("href", "").startswith("#") else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_whole_report(tmp_path: Path) -> None:
    write_report(tmp_path, everything(toy()))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.anchors <= page.ids and len(page.anchors) == 13
    assert all(load.startswith(("data:", "#")) for load in page.loaded)
    assert not re.search(r"https?://|url\(|@import|<script", text)
    absent = {"surface", "brain", "maps_overview"}  # not asked for; no places; one map
    made = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert made == sorted(f"{name}.{kind}" for name in set(PICTURES) - absent for kind in ("png", "svg"))
    assert text.count("data:image/png;base64,") == len(PICTURES) - len(absent)
    assert "<i>" not in text and re.search(r"&lt;i&gt;region&lt;/i&gt; \d+ &amp; co", text)
    assert "HCP &lt;main&gt;" in text and "{{" not in text
    for path in (tmp_path / "figures").glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert svg.rstrip().endswith("</svg>") and len(svg) < 2e6
        assert "<image" not in svg or "data:image/png" in svg
        assert not re.search(r"(href|src)=\"(https?:|file:)", svg)


def test_a_bare_run_has_no_sections_of_what_was_not_asked(tmp_path: Path) -> None:
    run = toy()
    (tmp_path / "figures").mkdir()
    for name in (*PICTURES, "mine"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"of an earlier run, or of the user")
        (tmp_path / "figures" / f"{name}.svg").write_bytes(b"of an earlier run, or of the user")
    group = replace(run.group, regions=unnamed_regions(N_ROIS), n_scans=0, n_participants=0)
    bare = GradientRun(
        source=Path("fc.csv"), options=OPTIONS, group=group, affinity=run.affinity, result=run.result
    )
    write_report(tmp_path, bare)
    kept = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert kept == {"plane", "eigenvalues", "connectivity", "mine"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.ids == page.anchors == {"regions", "components", "connectivity", "method", "files"}


def test_thousands_of_vertices_make_no_matrix_and_no_list(tmp_path: Path) -> None:
    n, k = 10242, 3
    rng = np.random.default_rng(0)
    result = Embedding(
        gradients=rng.normal(size=(n, k)), eigenvalues=np.array([0.5, 0.3, 0.1]), multipliers=np.ones(k),
        residuals=np.full(k, 1e-12), next_eigenvalue=0.05, solver="iterative", kept=np.arange(n) != 7,
    )  # fmt: skip
    result.gradients[7] = np.nan
    group = GroupConnectivity(fc=None, regions=unnamed_regions(n), n_scans=2, n_participants=1)
    run = GradientRun(
        source=Path("hemisphere"), options=OPTIONS, group=group, affinity=csr_array((n, n)), result=result,
        n_neighbors=30, surface=True,
    )  # fmt: skip
    write_report(tmp_path, run)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"plane", "surface", "eigenvalues"}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    assert len(re.sub(r"base64,[^\"]*", "", text)) < 20_000 and "lowest regions" not in text
    assert (
        "10,242" in text
        and "vertices" in text
        and "fsaverage5" in text
        and "1 of 10,242 vertices have no gradients" in text
        and "region-8" not in text
    )
    assert max(path.stat().st_size for path in (tmp_path / "figures").glob("*.svg")) < 2e6


def test_warnings_come_with_their_reason() -> None:
    run = everything(toy())
    kept = np.arange(N_ROIS) != 5
    values = np.array([0.5, 0.49, 0.3, 0.2, 0.1])
    result = replace(run.result, kept=kept, eigenvalues=values, next_eigenvalue=0.0999)
    told = warnings(replace(run, result=result))
    assert len(told) == 6
    check, lost, halves, pairs, cut, failed = told
    assert "does not agree" in check and "1 of 24 regions" in lost and "region</i> 5" in lost
    assert "2 to 3, 5 (lower end" in halves
    assert "5 %): 1 and 2. Of such" in pairs and "0.1 % from the first one left out" in cut
    assert "sub-x" in failed
    exact = replace(result, eigenvalues=values[[0, 2, 3, 4, 4]] * [1, 1, 1, 1, 0.1], next_eigenvalue=0.0)
    assert warnings(replace(toy(), result=replace(exact, kept=kept | True))) == []


@pytest.mark.parametrize("part", ["comparison", "alignment"])
def test_rows_in_another_order_are_warned_of(part: str) -> None:
    run = everything(toy())
    assert not any("another order" in text for text in warnings(run))
    getattr(run, part).doubt = "its rows are probably in another order"
    told = [text for text in warnings(run) if "another order" in text]
    assert len(told) == 1
    assert ("theirs.csv" if part == "comparison" else "HCP <main>") in told[0]


def test_findings_are_the_numbers() -> None:
    told = " ".join(findings(everything(toy())))
    for text in (
        "Components 1 to 3 explain 50 % of the variance of connectivity, all 5 70 %",
        "8 participants (50 splits) gradients 1 to 3 correlate 0.80 [0.60, 0.95], 0.70 [0.20, 0.95]",
        "After alignment to HCP <main> gradients 1 to 3 correlate with it 0.95, 0.85, 0.75",
        "With theirs.csv gradients 1 to 3 correlate 0.95, 0.85, 0.75 as they are",
        "5 of 5 correlations with maps",
        "the largest is myelin with gradient 5, r = 0.50",
    ):
        assert text in told
    assert dict((label, value) for value, label in tiles(everything(toy())))["participants"] == "8"


def test_cortex_against_subcortex_in_one_sentence() -> None:
    run = toy()
    values = np.tile(np.random.default_rng(5).normal(size=(N_ROIS, 1)), (1, N_COMPONENTS))
    values[:, 2] = np.arange(N_ROIS)  # 20 to 23 are subcortical: all above every cortical one
    told = cortex_and_subcortex(replace(run, result=replace(run.result, gradients=values)))
    deep = np.arange(N_ROIS) >= 20
    within = values[deep, 2].var() * 4 + values[~deep, 2].var() * 20
    share = 1 - within / (24 * values[:, 2].var())
    assert f"gradient 3 separates the subcortex from the cortex most: {100 * share:.0f} %" in told
    assert "beyond 100 % of cortical ones" in told
    values[:, 2] = np.tile([0.0, 1.0], 12)
    values[:, :2] = values[:, 3:] = values[:, [2]]
    assert "No one" in cortex_and_subcortex(replace(run, result=replace(run.result, gradients=values)))
    regions = unnamed_regions(N_ROIS)
    assert cortex_and_subcortex(replace(run, group=replace(run.group, regions=regions))) == ""


def test_the_method_names_every_parameter() -> None:
    run = everything(toy())
    text = methods(run)
    for part in (
        *(
            "24 regions (ring)",
            "9 scans of 8 participants",
            "equal weights",
            "largest 12 of 24",
            "sparsity 0.5",
        ),
        *("normalized angle", "5 components", "diffusion map, α = 0.5, diffusion time 0", "bjepa "),
        *("HCP <main>", "50 random splits", "seed 3", "each group of sex (F, F)", "3 participants"),
        *("maps.tsv", "99 rotations", "Benjamini-Hochberg"),
    ):
        assert part in text
    assert any("Schönemann" in text for text in citations(run)) and not any(
        "Belkin" in c for c in citations(run)
    )
    other = replace(
        toy(),
        options=replace(OPTIONS, approach="le", kernel="cosine", sparsity=0.8),
        group=replace(run.group, measure=Measure("ledoit-wolf")),
        weights="frames",
    )
    text = methods(other)
    assert "Laplacian eigenmaps (" in text and "Ledoit-Wolf" in text and "number of frames" in text
    assert "largest 4 of 24" in text and "cosine similarity" in text and "α" not in text
    assert {"Alexander-Bloch", "Burt"} & {line.split()[0] for line in citations(run)} == {"Alexander-Bloch"}
    assert {"Belkin", "Ledoit"} <= {line.split()[0] for line in citations(other)}
    names = [name for name, _ in files(run, ["plane"])]
    assert "gradients.nii.gz" not in names and {"stability.tsv", "maps.tsv", "cross_check.json"} <= set(names)


def test_lists_in_words() -> None:
    assert ranges([1, 4, 5, 6, 9]) == "1, 4 to 6, 9" and ranges([2]) == "2" and ranges([]) == ""
    pairs = [(1, 2), (4, 5), (5, 6), (8, 9), (12, 13), (13, 14)]
    run = toy()
    values = [9, 8.9, 7, 6, 5.9, 5.8, 5, 4, 3.9, 3, 2, 1, 0.99, 0.98]
    result = replace(run.result, eigenvalues=np.array(values), next_eigenvalue=0.5)
    assert result.near_degenerate_pairs() == pairs
    (told,) = warnings(replace(run, result=result))
    assert "5 %): 1 and 2; 4 to 6; 8 and 9, and 2 more pairs beyond component 10. Of" in told
    assert listed(list("abc"), 2) == "a, b and 1 more" and listed(["a"]) == "a"


def test_places_of_cortex_and_subcortex_are_compared() -> None:
    run = everything(toy())
    told = moved_of_structures(run)
    assert "subcortical regions (4) move 2.5 times [2.5, 2.5] as far as cortical ones (20; p = 0.0" in told
    assert told in findings(run)
    assert moved_of_structures(toy()) == ""
