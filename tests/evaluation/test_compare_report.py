"""The page of a comparison: what it says and warns of, numbers by hand, and that it can be read."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LinearRegression

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.comparison import Comparison, compare, comparison_tables, families_of
from bjepa.model.evaluation.confound_checks import check_confounds
from bjepa.model.evaluation.figures import cut, ordered, scores_figure
from bjepa.model.evaluation.findings import find
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.learning_curve import CurvePoint
from bjepa.model.evaluation.metrics import METRICS, bounds, score
from bjepa.model.evaluation.out_of_fold import out_of_fold
from bjepa.model.evaluation.paired import holm, p_of_interval
from bjepa.model.evaluation.pretrained_on import count_pretrained_on
from bjepa.model.evaluation.protocol import MethodResult
from bjepa.model.evaluation.quotable import quotable
from bjepa.model.evaluation.report import write_report
from bjepa.model.evaluation.scan_data import ScanData, load_scan_data
from bjepa.model.evaluation.splits import Splits, make_splits
from bjepa.model.evaluation.wording import format_estimate, format_p, short
from bjepa.model.page_figures import PAGE_COLOURS
from bjepa.preproc.files import sha256_of_file

N = 151


def a_cohort(n: int = N, classes: tuple[str, ...] = (), **columns: list[str]) -> Cohort:
    rng = np.random.default_rng(0)
    ids = [f"{i:03d}" for i in range(n)]
    age = rng.normal(40, 12, size=n)
    target: NDArray[Any] = rng.integers(0, len(classes), n) if classes else age
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=target,
        group=ids,
        task="classification" if classes else "regression",
        classes=list(classes),
        target_name="age",
        columns=columns,
    )


def a_result(name: str, noise: float, cohort: Cohort, splits: Splits, seed: int = 1) -> MethodResult:
    """Predictions that are off by `noise` standard deviations of the target; 9 or more is none at all."""
    rng = np.random.default_rng([seed, *name.encode()])
    shift, weight = rng.normal(size=len(cohort.target)), 1 / (1 + noise**2)
    if cohort.classes:
        logit = 3 * weight * (np.eye(len(cohort.classes))[cohort.target] - 0.5)
        logit += rng.normal(size=logit.shape) * noise * weight
        said = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    elif noise >= 9:
        said = 40 + 2 * shift
    else:
        said = 40 + weight * (cohort.target - 40 + noise * 12 * shift)  # shrunk as a good method would
    scores = [score(cohort.task, cohort.target[s.test], said[s.test]) for s in splits]
    n_test = float(np.mean([len(s.test) for s in splits]))
    estimates = {
        m: corrected_resampled_t(
            [s[m] for s in scores], n_test=n_test, n_fitted=len(said) - n_test, bounds=bounds(m)
        )
        for m in METRICS[cohort.task]
    }
    return MethodResult(
        name=name,
        scores=scores,
        estimates=estimates,
        prediction=[said[s.test] for s in splits],
        target=[cohort.target[s.test] for s in splits],
        settings=[{} for _ in splits],
    )


def compared(
    cohort: Cohort | None = None, options: dict[str, Any] | None = None, **noise: float
) -> Comparison:
    """A comparison of made-up results; `_` in a name stands for `-`."""
    cohort = cohort or a_cohort()
    splits = make_splits(cohort, n_splits=10)
    results = [a_result(name.replace("_", "-"), value, cohort, splits) for name, value in noise.items()]
    return compare(results, cohort, splits, **(options or {}))


def said(comparison: Comparison, *, warnings: bool | None = None) -> str:
    return "\n".join(f.text for f in find(comparison) if warnings in (None, f.warning))


def test_a_model_that_beats_all() -> None:
    found = compared(probe=0.3, fc_ridge=1.2, fc_krr=1.3, static_mean=9, random_encoder=1.5)
    text, warnings = said(found), said(found, warnings=True)
    assert "The embedding beats fc-ridge (+" in text and "random-encoder (+" in text
    assert "ahead of all 2 baselines, each with p < 0.05 by itself" in text
    assert "control static-mean is at chance: regional levels do not give age away" in text
    assert warnings == ""
    topics = list(dict.fromkeys(f.topic for f in find(found)))
    assert topics == ["probe", "Who finds the target", "Levels and confounds", "How far to trust it"]


def test_warns_of_a_model_that_is_no_more_than_connectivity_or_random_weights() -> None:
    warnings = said(compared(probe=1, fc_ridge=0.9, static_mean=9, random_encoder=1), warnings=True)
    assert "is not shown to know more of age than a correlation matrix" in warnings
    assert "not better than the same encoder with random weights (random-encoder)" in warnings
    assert "The embedding beats static means only" in warnings
    assert "is worse than fc-ridge" in said(compared(probe=9, fc_ridge=0.5), warnings=True)
    assert "was not run: whether the embedding is more" in said(
        compared(probe=1, static_mean=9), warnings=True
    )
    assert "No baseline was run beside the embedding" in said(compared(probe=1), warnings=True)


def test_warns_of_levels_confounds_and_pretraining() -> None:
    cohort = a_cohort(60, fd_mean=[str(i % 7) for i in range(60)])
    options = {"pretrained_on": {"probe": 13, "fc-ridge": 4}, "not_adjusted": ["bnt"]}
    found = compared(
        cohort,
        options,
        probe=0.6,
        probe_adjusted=9,
        fc_ridge=0.9,
        static_mean=0.7,
        confounds=0.6,
    )
    warnings = said(found, warnings=True)
    for words in (
        "control static-mean predicts age from regional levels alone",
        "only equals static-mean",
        "The confounds alone (fd_mean) predict age: R² 0.",
        "not shown to do better than the confounds alone",
        "probe is no longer shown to find age once the confounds are regressed out",
        "could not be regressed out of bnt",
        "pretrained on scans of 13 of these 60 participants, without their age",
        "60 participants are few",
    ):
        assert words in warnings, words
    unknown = compared(cohort, {"pretrained_on": {"probe": None}}, probe=1, fc_ridge=1)
    assert "pretrained on is not known" in said(unknown, warnings=False)
    none = compared(cohort, {"pretrained_on": {"probe": 0}}, probe=1, fc_ridge=1)
    assert "pretrained on none of these" in said(none, warnings=False)


def test_what_speaks_against_a_model_is_not_corrected_away() -> None:
    """One of many at p = 0.02: against the model it is told, for it it is not claimed."""
    many = {f"b{i}": 1.0 for i in range(12)}
    found = compared(None, None, probe=1, fc_ridge=1, **many)
    first, *rest = found.differences
    mean = abs(first.estimate.mean) + 0.1
    for sign, verdict in ((1, "does not beat"), (-1, "is worse than")):
        forged = replace(first, estimate=Estimate(sign * mean, sign * mean, sign * mean), p=0.02, p_holm=0.3)
        others = [replace(d, p=0.9, p_holm=1.0) for d in rest]
        text = said(replace(found, differences=[forged, *others]))
        (sentence,) = [line for line in text.split("\n") if verdict in line and "fc-ridge" in line]
        assert ("beats" not in sentence and "0.02" in sentence) or "* p < 0.05 by itself" in sentence


def test_families_are_those_of_a_model() -> None:
    assert families_of(["a", "fc-ridge", "b"], ["a", "b"]) == [
        [("a", "fc-ridge")],
        [("b", "fc-ridge")],
        [("a", "b")],
    ]
    assert families_of(["x", "fc-logistic", "static-mean"], []) == [
        [("x", "fc-logistic"), ("static-mean", "fc-logistic")]
    ]
    assert families_of(["x", "y"], []) == []
    found = compared(None, {"models": ["a", "b"]}, a=0.5, b=1, fc_ridge=1, static_mean=9)
    assert [found.n_corrected_for(d) for d in found.differences] == [2, 2, 2, 2, 1]
    for d in found.differences:
        assert_allclose(d.p, p_of_interval(d.estimate, 10))
    text = said(found)
    assert "a differs in R² from b by +" in text and "2 models are compared on the same test parts" in text
    alone = compared(None, {"models": []}, fc_ridge=1, fc_krr=0.9, static_mean=9)
    assert [(d.method, d.against) for d in alone.differences] == [
        ("fc-krr", "fc-ridge"),
        ("static-mean", "fc-ridge"),
    ]


def test_the_paragraph_has_the_numbers_of_the_tables() -> None:
    cohort = a_cohort(
        sex=["F", "M"] * 75 + ["F"], site=["a"] * 75 + ["b"] * 76
    )  # site was left out at a time
    options: dict[str, Any] = {
        "confounds": ["sex"],
        "n_permutations": 199,
        "summaries": {"probe": "mean tokens"},
        "grouped_by": "family",
    }
    found = compared(
        cohort,
        options,
        probe=0.8,
        probe_adjusted=0.9,
        fc_ridge=0.7,
        fc_krr=1.5,
        static_mean=9,
        random_encoder=1,
    )
    found.result("probe").p_values["r2"] = 0.005
    (text,) = quotable(found).split("\n\n")
    best, adjusted = found.difference("probe", "fc-ridge"), found.estimate("probe-adjusted")
    assert best is not None and found.best_baseline == "fc-ridge"
    for words in (
        "Age was predicted by probe (mean tokens) in cross-validation grouped by family (10 folds; n = 151 p",
        f"with R² {format_estimate(found.estimate('probe'))} (permutation p = 0.005, 199 permutations)",
        f"MAE {format_estimate(found.result('probe').estimates['mae'])} (in the units of age)",
        f"The best of 2 baselines, fc-ridge, reached R² {format_estimate(found.estimate('fc-ridge'))}",
        f"paired difference in R² was {format_estimate(best.estimate, signed=True)} ({format_p(best.p)}; ",
        "by Holm's correction for 4 differences",
        f"static regional means {format_estimate(found.estimate('static-mean'))}",
        f"With sex regressed out inside the folds, it was R² {format_estimate(adjusted)}",
        f"splits {found.splits.sha256[:12]}",
    ):
        assert words in text, words
    two = compared(a_cohort(90, ("no", "yes")), {"models": ["probe", "lora"]}, probe=1, lora=1, fc_logistic=1)
    paragraphs = quotable(two).split("\n\n")
    assert len(paragraphs) == 2 and "lora in" in paragraphs[1] and "balanced accuracy" in paragraphs[0]
    counts = np.bincount(two.cohort.target)
    assert f"90 participants: {counts[0]} no, {counts[1]} yes;" in paragraphs[0]
    assert "fc-krr" in quotable(compared(None, {"models": []}, fc_ridge=1.5, fc_krr=0.5)).split(" in ")[0]


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_partial_correlation_and_eta_squared_by_hand(task: str) -> None:
    rng = np.random.default_rng(2)
    n = 97
    motion = rng.gamma(2, 0.1, size=n)
    site = rng.integers(0, 3, size=n)
    cohort = a_cohort(
        n,
        ("no", "yes") if task == "classification" else (),
        fd_mean=[repr(float(m)) for m in motion],
        site=[f"s{s}" for s in site],
        same=["1"] * n,
    )
    splits = make_splits(cohort, n_splits=4)
    result = a_result("a", 1, cohort, splits)
    pairs = out_of_fold(result, cohort, splits)
    motion_check, site_check = check_confounds([("a", pairs)], cohort, ["fd_mean", "site", "same"])
    prediction = np.empty(n)
    prediction[pairs.row] = pairs.values if task == "regression" else pairs.values[:, 1]

    inverse = np.linalg.inv(np.cov([prediction, motion, cohort.target]))  # partial r from the precisions
    r = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert_allclose(motion_check.estimate.mean, r)
    half = 1.959964 / math.sqrt(n - 4)
    assert_allclose(motion_check.estimate[1:], np.tanh(np.arctanh(r) + np.array([-half, half])), rtol=1e-5)
    assert_allclose(motion_check.p, 2 * stats.t.sf(abs(r) * math.sqrt((n - 3) / (1 - r**2)), n - 3))

    design = np.column_stack([cohort.target, site == 1, site == 2])
    rss = [
        np.sum((prediction - LinearRegression().fit(x, prediction).predict(x)) ** 2)
        for x in (design[:, :1], design)
    ]
    f = (rss[0] - rss[1]) / 2 / (rss[1] / (n - 4))
    assert_allclose(site_check.estimate.mean, 1 - rss[1] / rss[0], rtol=1e-6)
    assert_allclose(site_check.p, stats.f.sf(f, 2, n - 4), rtol=1e-6)
    low, high = site_check.estimate[1:]
    assert_allclose(stats.ncf.cdf(f, 2, n - 4, high * (n - 1) / (1 - high)), 0.025, atol=1e-4)
    assert low == 0 or math.isclose(
        stats.ncf.cdf(f, 2, n - 4, low * (n - 1) / (1 - low)), 0.975, abs_tol=1e-4
    )
    assert [motion_check.p_holm, site_check.p_holm] == holm([motion_check.p, site_check.p])


def test_a_prediction_that_uses_the_site_is_found_out() -> None:
    n = 120
    cohort = a_cohort(n, site=[f"s{i % 3}" for i in range(n)], fd_mean=[str(i % 5) for i in range(n)])
    splits = make_splits(cohort, n_splits=10)
    honest, leaky = (a_result(name, 0.7, cohort, splits) for name in ("probe", "fc-ridge"))
    for split, values in zip(splits, leaky.prediction, strict=True):
        values += 5.0 * (split.test % 3)
    warnings = said(compare([honest, leaky], cohort, splits), warnings=True)
    (sentence,) = [line for line in warnings.split("\n") if "go with site beyond what age explains" in line]
    assert "fc-ridge 0." in sentence and "probe" not in sentence and "go with fd_mean" not in warnings


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.alternatives: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        if dict(attrs).get("role") == "img":
            self.alternatives.append(dict(attrs)["aria-label"])

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def a_page(folder: Path, comparison: Comparison) -> tuple[str, Page]:
    write_report(folder, comparison, facts={"data": "<out>"})
    html = (folder / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert not any(colour in html for colour in PAGE_COLOURS)  # all are names of the page
    return html, page


LONG = "finetune:/data/run-of-a-long-name-that-nobody-would-type-twice/seed-0"
MANY = [
    "fc-ridge",
    "fc-krr",
    "fc-svm",
    "tangent-ridge",
    "coskew-ridge",
    "brainnetcnn",
    "bnt",
    "braingnn",
    "<b>x</b>",
]


def test_page_of_many_methods(tmp_path: Path) -> None:
    cohort = a_cohort(80, fd_mean=[str(i % 9 / 10) for i in range(80)], site=["a", "b"] * 40)
    splits = make_splits(cohort)
    names = [
        "probe",
        LONG,
        *MANY,
        "static-mean",
        "random-encoder",
        "confounds",
        "probe-adjusted",
        "bnt-adjusted",
    ]
    results = [a_result(name, 0.5 + 0.2 * i, cohort, splits) for i, name in enumerate(names)]
    results[0].p_values["r2"] = 0.001
    one = CurvePoint(
        fraction=0.5, n_train=32, estimates={m: Estimate(0.1, -0.9, 0.4) for m in METRICS["regression"]}
    )
    curves = {name: [one, replace(one, n_train=64.0)] for name in names[:12]}
    found = compare(
        results,
        cohort,
        splits,
        models=["probe", LONG],
        curves=curves,
        n_permutations=999,
        not_adjusted=["fc-svm"],
    )
    html, page = a_page(tmp_path, found)
    assert html.count("<svg") == 3 + 14 == len(page.alternatives)  # scores, differences, curve; one a method
    assert "True age against its prediction by fc-krr" in " ".join(page.alternatives)
    assert "<b>x</b>" not in html and "&lt;b&gt;x&lt;/b&gt;" in html and LONG in html
    text = re.sub(r"\s+", " ", "".join(page.text))
    for words in (
        "permutation p",
        "fd_mean, partial r",
        "site, partial η²",
        "not possible: reads series",
        "set their errors beside each other, not beside the rest. Permutation",
        "Intercept and error are in the units of age",
        "MAE, in the units of age; less is better",
        "difference in R²; above 0 the model is better",
        "participants learnt from (mean over splits)",
        "always the mean, ",
        "chance, 0",
        "no difference",
        "age, predicted",
    ):
        assert words in text, words
    assert ordered(found).index("probe-adjusted") == ordered(found).index("probe") + 1
    for name in ("scores", "differences", "learning_curve"):
        svg = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert ElementTree.fromstring(svg).tag.endswith("svg") and "var(" not in svg
    assert (tmp_path / "summary.txt").read_text() == quotable(found) + "\n"


def test_page_of_classes_and_without_a_model(tmp_path: Path) -> None:
    cohort = a_cohort(90, ("control", "patient", "relative"), site=["a", "b", "c"] * 30)
    found = compared(cohort, {"models": []}, fc_logistic=1, bnt=1.5, static_mean=8)
    html, page = a_page(tmp_path, found)
    text = re.sub(r"\s+", " ", "".join(page.text))
    assert html.count("<svg") == 2 + 3 and "from 0 to 2" in text
    for words in ("the model in question", "Learning curve", "regressed out"):
        assert words not in text
    assert "above 0 it is better than fc-logistic" in text and "share that are a class" in text
    assert "all are in confound_checks.tsv" in text
    strongest = min((c for c in found.checks if c.method == "bnt"), key=lambda check: check.p)
    assert f"bnt{strongest.class_name}: {format_estimate(strongest.estimate)}, p = " in text
    tables = comparison_tables(found)
    assert set(tables) == {"differences", "calibration", "confound_checks"}
    assert len(tables["confound_checks"]) == 1 + 3 * 3
    two, page = a_page(tmp_path / "two", compared(a_cohort(90, ("no", "yes")), probe=1))
    assert two.count("<svg") == 1 + 1 and "predicted probability of yes" in "".join(page.text)


def test_law_same_page_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, compared(a_cohort(70, ("no", "yes")), probe=1, fc_logistic=2), facts={})
    for path in ("report.html", "summary.txt", "figures/scores.svg", "figures/differences.svg"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_a_method_far_below_chance_does_not_squeeze_the_figure(tmp_path: Path) -> None:
    found = compared(a_cohort(60), probe=0.5, fc_ridge=1)
    terrible = found.result("fc-ridge")
    terrible.estimates["r2"] = Estimate(-40.0, -90.0, 1.0)
    write_report(tmp_path, found, facts={})
    svg = (tmp_path / "figures" / "scores.svg").read_text()
    assert "−0.4" in svg and not re.search("−[1-9]", svg)


def test_errors_of_adjusted_results_are_not_drawn_beside_others() -> None:
    found = compared(a_cohort(60, sex=["F", "M"] * 30), probe=0.5, probe_adjusted=0.7, fc_ridge=1)
    before = scores_figure(found)
    for name, changes in (("probe-adjusted", False), ("probe", True)):
        estimates = found.result(name).estimates
        estimates["mae"] = Estimate(*(value + 1 for value in estimates["mae"]))
        assert (scores_figure(found) != before) == changes


def test_numbers_as_text() -> None:
    assert [short(x) for x in (-0.004, 0.126, 99.999, 123.4, 12345.6, math.nan)] == [
        *("0.00", "0.13", "100.00", "123", "12346", "n/a")
    ]
    assert short(0.25, signed=True) == "+0.25" and short(-0.25, signed=True) == "−0.25"
    assert [format_p(p) for p in (0.0002, 0.0304, 0.049, 0.2, math.nan)] == [
        *("p < 0.001", "p = 0.030", "p = 0.049", "p = 0.20", "p not defined")
    ]
    assert cut("a" * 30, 10) == "aaaa…aaaaa" and cut("short") == "short"


def test_who_was_pretrained_on(write_cohort: Any, tmp_path: Path) -> None:
    series = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    data = load_scan_data(write_cohort([[series]] * 4))
    assert data.reader is not None
    files = {str(p): sha256_of_file(p) for p in data.reader.paths}
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)

    def count(files: dict[str, str], participants: list[str] | None, model: Path = run) -> int | None:
        (run / "run.json").write_text(json.dumps({"files_sha256": files, "participants": participants}))
        return count_pretrained_on(model, data, ["00", "01", "03"])

    assert count(files, None) == 3 == count(files, None, run / "model")
    assert count(files, ["sub-01", "sub-02", "03"]) == 2
    assert count({"other.h5": "0" * 64}, None) is None  # "01" there is somebody else
    assert count(files, None, tmp_path / "owner" / "name") is None
    (run / "run.json").write_text("{")
    assert count_pretrained_on(run, data, ["00"]) is None
    connectomes = ScanData(
        source=run, participant_id=["00"], reader=None, edges=np.ones((1, 3), np.float32), sha256=""
    )
    assert count_pretrained_on(run, connectomes, ["00"]) is None
