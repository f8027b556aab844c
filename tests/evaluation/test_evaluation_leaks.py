"""Laws that every method keeps: the test part teaches nothing, the seed decides everything."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from bjepa.model.baselines.methods import METHODS
from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.fold import Method, Prediction
from bjepa.model.evaluation.protocol import fold_of
from bjepa.model.evaluation.scan_data import ScanData, load_scan_data
from bjepa.model.evaluation.splits import make_splits
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

N, N_ROIS, N_FRAMES = 26, 14, 64
SPOILT = 1e3  # a scaling, a mean or a basis fitted on all would feel it


def target() -> NDArray[np.float64]:
    return np.random.default_rng(11).uniform(20, 80, N)


def write_scans(folder: Path, *, spoilt: int | None = None) -> ScanData:
    """Shards of N participants, one scan each; of participant `spoilt`, other series at another level."""
    rng = np.random.default_rng(12)
    common = rng.normal(size=(N, N_FRAMES, 1)) * ((target() - 20) / 60)[:, None, None]
    x = rng.normal(size=(N, N_FRAMES, N_ROIS)) + common * (np.arange(N_ROIS) % 3)
    x += rng.normal(size=(N, 1, N_ROIS))
    if spoilt is not None:
        x[spoilt] = SPOILT * (x[spoilt][::-1] + 2 * x[spoilt][:, :1] + 5)  # regions go together
    scans = [
        ShardScan(
            entities=dict.fromkeys(("session", "task", "run"), "")
            | {"scan_id": f"sub-{i:02d}", "participant_id": f"{i:02d}"},
            t_r=2.0,
            t_r_out=2.0,
            valid=np.ones(N_ROIS, dtype=bool),
            phases=[series.astype(np.float32)],
        )
        for i, series in enumerate(x)
    ]
    rois: dict[str, Sequence[str]] = {
        column: [f"{column}{r}" for r in range(N_ROIS)] for column in ROI_COLUMNS
    }
    rois["network7"] = rois["network17"] = [f"net{r % 3}" for r in range(N_ROIS)]
    write_shard(
        folder / "shards" / "shard-00000.h5",
        scans,
        atlas="fourteen",
        atlas_sha256="b" * 64,
        rois=rois,
        median=np.zeros(N_ROIS),
        iqr=np.ones(N_ROIS),
        scaling="robust",
        target_t_r=2.0,
    )
    return load_scan_data(folder)


def cohort_of(values: NDArray[Any], classes: list[str]) -> Cohort:
    ids = [f"{i:02d}" for i in range(N)]
    return Cohort(
        participant_id=ids,
        written_id=ids,
        target=values,
        group=ids,
        task="classification" if classes else "regression",
        classes=classes,
        target_name="age",
    )


Predict = Callable[..., Prediction]


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """Predictions of a method for the first test part; with `spoil`, its last participant is someone else."""
    cohorts = {
        "regression": cohort_of(target(), []),
        "classification": cohort_of((target() > 50).astype(np.int64), ["young", "old"]),
    }
    splits = {task: next(iter(make_splits(cohort, seed=3))) for task, cohort in cohorts.items()}
    data: dict[int | None, ScanData] = {}

    def run(name: str | Method, task: str, *, spoil: bool = False, seed: int = 0) -> Prediction:
        cohort, split = cohorts[task], splits[task]
        method = METHODS[name] if isinstance(name, str) else name
        spoilt = int(split.test[-1]) if spoil else None
        if spoilt not in data:
            data[spoilt] = write_scans(tmp_path_factory.mktemp("scans"), spoilt=spoilt)
        inputs = method.inputs(data[spoilt], cohort.participant_id)
        fold, _ = fold_of(inputs, cohort, split, seed=seed, max_epochs=1)
        return method.fit_predict(fold)

    return run


EVERY = [(name, method.tasks[0]) for name, method in METHODS.items()]


@pytest.mark.parametrize("name, task", EVERY)
def test_law_a_test_participant_changes_no_other_prediction(predict: Predict, name: str, task: str) -> None:
    found, spoilt = (predict(name, task, spoil=spoil) for spoil in (False, True))
    assert_array_equal(found.values[:-1], spoilt.values[:-1])
    assert found.settings == spoilt.settings
    assert not np.array_equal(found.values[-1], spoilt.values[-1])  # the inputs of the test do arrive


def test_the_law_finds_a_planted_leak(predict: Predict) -> None:
    """A scaling fitted on all, which a method could only do in `inputs`, before the split."""
    honest = METHODS["static-mean"]

    def scaled_on_all(data: ScanData, participants: Sequence[str]) -> NDArray[np.float32]:
        x = honest.inputs(data, participants)
        return np.asarray((x - np.median(x)) / x.std(), dtype=np.float32) ** 3

    leaky = replace(honest, inputs=scaled_on_all)
    found, spoilt = (predict(leaky, "regression", spoil=spoil) for spoil in (False, True))
    assert not np.allclose(found.values[:-1], spoilt.values[:-1])


@pytest.mark.parametrize("name, task", EVERY)
def test_law_same_seed_same_bytes(predict: Predict, name: str, task: str) -> None:
    first, second = predict(name, task, seed=1), predict(name, task, seed=1)
    assert first.values.tobytes() == second.values.tobytes() and first.settings == second.settings


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if len(m.tasks) == 2])
def test_both_tasks_give_what_a_task_needs(predict: Predict, name: str) -> None:
    probability = predict(name, "classification").values
    assert probability.shape[1] == 2 and (probability >= 0).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    assert predict(name, "regression").values.ndim == 1
