"""Children and adults, 104 real connectomes: as good as scikit-learn written out by hand, on the same splits.

Richardson et al. 2018, doi:10.1038/s41467-018-03399-2 (OpenNeuro ds000228), 64 regions. Clinical change that
connectivity does not predict: test_evaluation_real_null.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bjepa.model.baselines.methods import METHODS
from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.permutation import permutation_test
from bjepa.model.evaluation.protocol import MethodResult, evaluate_method
from bjepa.model.evaluation.scan_data import ScanData, load_scan_data
from bjepa.model.evaluation.splits import Splits, make_splits

ALPHAS = np.logspace(1, 6, 11)  # the grid of whoever writes it by hand; ours is in other units
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "connectomes" / "ds000228_basc064"


@pytest.fixture(scope="module")
def scans(folder: Path) -> ScanData:
    return load_scan_data(folder / "ds000228_basc064_connectivity.npz")


def cohort_of(folder: Path, scans: ScanData, target: str) -> tuple[Cohort, Splits]:
    cohort = load_cohort(folder / "participants.tsv", target=target, with_scan=set(scans.participant_id))
    assert len(cohort.participant_id) == 104
    return cohort, make_splits(cohort, seed=0)


def ours(name: str, scans: ScanData, cohort: Cohort, splits: Splits) -> tuple[MethodResult, dict[str, float]]:
    method = METHODS[name]
    inputs = method.inputs(scans, cohort.participant_id)
    result = evaluate_method(name, method, inputs, cohort, splits)
    return result, permutation_test(method, inputs, cohort, splits, n_permutations=99)


def parts(folder: Path, cohort: Cohort, splits: Splits) -> Iterator[tuple[Array, Any, Array, Any, Any]]:
    """Features and targets of both parts as a script would read them, and the inner folds."""
    with np.load(folder / "ds000228_basc064_connectivity.npz") as arrays:
        row = {p.removeprefix("sub-"): i for i, p in enumerate(arrays["participant_id"].tolist())}
        x = arrays["features"].astype(np.float64)[[row[p] for p in cohort.participant_id]]
    for split in splits:
        test = split.test
        fit = np.setdiff1d(np.arange(len(x)), test)
        yield x[fit], cohort.target[fit], x[test], cohort.target[test], PredefinedSplit(split.fold[fit])


def test_age_by_ridge(folder: Path, scans: ScanData) -> None:
    cohort, splits = cohort_of(folder, scans, "Age")
    found, p = ours("fc-ridge", scans, cohort, splits)
    r, r2 = found.estimates["r"], found.estimates["r2"]
    assert r.mean >= 0.60 and r.low > 0 and r2.low > 0
    assert p == {"r2": 0.01, "r": 0.01}

    by_hand = []
    for x, y, x_test, y_test, inner in parts(folder, cohort, splits):
        pipeline = make_pipeline(StandardScaler(), Ridge())
        search = GridSearchCV(pipeline, {"ridge__alpha": ALPHAS}, cv=inner, scoring="neg_mean_squared_error")
        by_hand.append(np.corrcoef(search.fit(x, y).predict(x_test), y_test)[0, 1])
    assert r.mean == pytest.approx(np.mean(by_hand), abs=0.03)


def test_adult_or_child_by_logistic_regression(folder: Path, scans: ScanData) -> None:
    cohort, splits = cohort_of(folder, scans, "Child_Adult")
    found, p = ours("fc-logistic", scans, cohort, splits)
    auc = found.estimates["auc"]
    assert auc.mean >= 0.93 and auc.low > 0.5
    assert p == {"auc": 0.01}

    by_hand = []
    for x, y, x_test, y_test, inner in parts(folder, cohort, splits):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        search = GridSearchCV(
            pipeline, {"logisticregression__C": 1 / ALPHAS}, cv=inner, scoring="neg_log_loss"
        )
        by_hand.append(roc_auc_score(y_test, search.fit(x, y).predict_proba(x_test)[:, 1]))
    assert auc.mean == pytest.approx(np.mean(by_hand), abs=0.03)


def test_kernels(folder: Path, scans: ScanData) -> None:
    age, age_splits = cohort_of(folder, scans, "Age")
    krr, _ = ours("fc-krr", scans, age, age_splits)
    by_hand = []
    for x, y, x_test, y_test, inner in parts(folder, age, age_splits):
        kernel, mean = np.corrcoef(np.concatenate([x, x_test])), y.mean()
        own, test = kernel[: len(y), : len(y)], kernel[len(y) :, : len(y)]
        search = GridSearchCV(
            KernelRidge(kernel="precomputed"),
            {"alpha": np.logspace(-3, 2, 11)},
            cv=inner,
            scoring="neg_mean_squared_error",
        )
        by_hand.append(np.corrcoef(search.fit(own, y - mean).predict(test), y_test)[0, 1])
    assert krr.estimates["r"].mean >= 0.60
    assert krr.estimates["r"].mean == pytest.approx(np.mean(by_hand), abs=0.03)

    group, group_splits = cohort_of(folder, scans, "Child_Adult")
    svm = evaluate_method(
        "fc-svm",
        METHODS["fc-svm"],
        METHODS["fc-svm"].inputs(scans, group.participant_id),
        group,
        group_splits,
    )
    by_hand = []
    for x, y, x_test, y_test, inner in parts(folder, group, group_splits):
        pipeline = make_pipeline(StandardScaler(), SVC(kernel="linear"))
        search = GridSearchCV(pipeline, {"svc__C": np.logspace(-6, -2, 5)}, cv=inner, scoring="roc_auc")
        by_hand.append(roc_auc_score(y_test, search.fit(x, y).decision_function(x_test)))
    assert svm.estimates["auc"].mean >= 0.93
    assert svm.estimates["auc"].mean == pytest.approx(np.mean(by_hand), abs=0.03)


def test_sex_of_children_and_adults_is_not_found(folder: Path, scans: ScanData) -> None:
    """A target that these 64 regions do not hold: chance is inside the interval, and p is large."""
    cohort, splits = cohort_of(folder, scans, "Gender")
    for name in ("fc-ridge", "fc-logistic", "fc-krr"):
        found, p = ours(name, scans, cohort, splits)
        assert found.estimates["auc"].covers(0.5) and p["auc"] > 0.1
