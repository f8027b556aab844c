"""model/{sampling,loading}.py: the same updates for any number of processes; reading ahead."""

import random
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from bjepa.model.config import Recipe, load_recipe
from bjepa.model.dataset import ShardDataset
from bjepa.model.loading import read_portions
from bjepa.model.sampling import epoch_order, n_updates_of_epoch, plan_epoch
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

R = 5


@pytest.mark.parametrize("n_items", [1, 7, 23])
@pytest.mark.parametrize("batch_size, accumulation", [(1, 1), (3, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_law_ranks_share_the_same_updates(
    n_items: int, batch_size: int, accumulation: int, n_ranks: int
) -> None:
    per_update = batch_size * accumulation
    plans = [
        plan_epoch(
            n_items,
            epoch=2,
            seed=1,
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            n_ranks=n_ranks,
        )
        for rank in range(n_ranks)
    ]
    n_updates = n_updates_of_epoch(n_items, batch_size=batch_size, accumulation=accumulation)
    assert all(len(plan) == n_updates for plan in plans)
    order, numbers = epoch_order(n_items, epoch=2, seed=1), []
    assert sorted(order) == list(range(n_items))
    for update in range(n_updates):
        batches = [plan[update] for plan in plans]
        assert len({len(b) for b in batches}) == 1  # all ranks meet as often
        counted = [[key.item for b in of_rank for key in b.keys if b.weight] for of_rank in batches]
        expected = order[update * per_update : (update + 1) * per_update]
        assert [item for share in counted for item in share] == expected
        sizes = [len(share) for share in counted]
        assert max(sizes) - min(sizes) <= 1
        planned = [b for of_rank in batches for b in of_rank]
        assert sum(b.weight for b in planned) == pytest.approx(1)
        assert all(1 <= len(b.keys) <= batch_size for b in planned)
        assert all(b.weight in (0, pytest.approx(len(b.keys) / len(expected))) for b in planned)
        assert all({key.item for key in b.keys} <= set(expected) for b in planned)  # fillers too
        numbers += [b.keys[0].batch for b in planned]
    assert len(set(numbers)) == len(numbers) and min(numbers) == len(numbers)  # those of epoch 1 come before


def test_one_process_cuts_the_epoch_as_it_lies() -> None:
    plans = [plan_epoch(7, epoch=e, seed=0, batch_size=3, accumulation=2) for e in (1, 2)]
    keys = [[[k for b in update for k in b.keys] for update in plan] for plan in plans]
    orders = [[k.item for update in epoch for k in update] for epoch in keys]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert [[len(b.keys) for b in update] for update in plans[0]] == [[3, 3], [1]]
    assert [b.keys[0].batch for plan in plans for update in plan for b in update] == [0, 1, 2, 3, 4, 5]
    assert keys[1][0][0].epoch == 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    scans = [
        ShardScan(
            entities={"scan_id": f"sub-{n}", "participant_id": f"sub-{n}"}
            | dict.fromkeys(("session", "task", "run"), ""),
            t_r=2.0,
            t_r_out=2.0,
            valid=np.ones(R, dtype=bool),
            phases=[rng.normal(size=(14 + n, R)).astype(np.float32)],
        )
        for n in range(7)
    ]
    write_shard(
        folder / "shards/shard-00000.h5",
        scans,
        atlas="tiny",
        atlas_sha256="0" * 64,
        rois={c: [f"{c}{i}" for i in range(R)] for c in ROI_COLUMNS},
        median=np.zeros(R),
        iqr=np.ones(R),
        scaling="robust",
        target_t_r=2.0,
    )
    return ShardDataset(folder, n_frames=12, seed=3)


def recipe(*settings: str) -> Recipe:
    model = ["n_frames=12", "patch_size=3", "embed_dim=16", "num_heads=2", "predictor_embed_dim=16"]
    both = [*(f"model.{m}" for m in model), "model.predictor_num_heads=2", *settings]
    return load_recipe("demo", settings=both, n_rois=R, n_gradients=3)


def test_reading_ahead_leaves_global_random_state_and_order_alone(dataset: ShardDataset) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    plan = plan_epoch(len(dataset), epoch=1, seed=3, batch_size=2, accumulation=2)
    runs = []
    for n_workers in (0, 2):
        portions = list(read_portions(dataset, recipe(f"data.num_workers={n_workers}"), plan))
        assert [p.weights for p in portions] == [[b.weight for b in update] for update in plan]
        runs.append([batch for p in portions for batch in p.batches])
    expected = [dataset[key].series for update in plan for planned in update for key in planned.keys]
    assert [s for batch in runs[0] for s in batch.series] == expected
    assert Counter(expected) == Counter(range(7))
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one.x, other.x) and one.series == other.series
        assert torch.equal(one.masks.target_index, other.masks.target_index)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]


def test_an_error_of_the_reader_surfaces_and_leaving_early_ends_it(
    dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_epoch(len(dataset), epoch=1, seed=3, batch_size=1, accumulation=1)
    portions = read_portions(dataset, recipe(), plan)
    next(portions)
    assert any(t.name == "bjepa-reader" for t in threading.enumerate())
    portions.close()
    assert not any(t.name == "bjepa-reader" for t in threading.enumerate())

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(dataset.reader, "read", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(read_portions(dataset, recipe(), plan))
