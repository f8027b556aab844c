"""The simulated cohort as shards: same bytes, the planted connectivity, levels that know nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bjepa.preproc.demo.series_cohort import LEVEL, N_FRAMES, write_series_cohort
from bjepa.preproc.demo.simulate import draw_participant, make_population
from bjepa.preproc.shards import ShardReader

EVERY, N = 30, 11


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_series_cohort(folder, n_participants=N, seed=2, every=EVERY, first=4)
    return folder


def test_same_seed_same_bytes_and_participants_are_their_numbers(cohort: Path, tmp_path: Path) -> None:
    write_series_cohort(tmp_path, n_participants=N, seed=2, every=EVERY, first=4)
    for name in ("participants.tsv", "shards/shard-00000.h5"):
        assert (tmp_path / name).read_bytes() == (cohort / name).read_bytes()
    table = pd.read_csv(cohort / "participants.tsv", sep="\t")
    first = draw_participant(make_population(2), 4)
    assert table.loc[0, "age"] == first.age and table.loc[0, "sex"] == first.sex and len(table) == N


def test_series_carry_the_population_connectivity_at_a_level(cohort: Path) -> None:
    reader = ShardReader(cohort)
    assert reader.n_rois == 15 and len(reader) == N and reader[0].shape == (N_FRAMES, 15)
    series = [reader.unscale(reader[i], i) for i in range(N)]
    assert abs(np.mean(series) - LEVEL) < 10
    scaled = np.concatenate([reader[i] for i in range(N)])
    np.testing.assert_allclose(np.median(scaled, axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.subtract(*np.percentile(scaled, [75, 25], axis=0)), 1, atol=1e-3)
    upper = np.triu_indices(15, 1)
    found = np.mean([np.atleast_2d(np.corrcoef(x.T))[upper] for x in series], axis=0)
    truth = make_population(2).fc[np.ix_(range(15, 450, EVERY), range(15, 450, EVERY))][upper]
    assert np.corrcoef(found, truth)[0, 1] > 0.8  # noise shrinks them all alike
