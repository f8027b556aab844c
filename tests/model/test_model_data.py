"""model/dataset.py, augment.py: short series, missing regions, windows, augmentations, parts, processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.utils.data import DataLoader

from bjepa.cli.train import main
from bjepa.model.augment import augment
from bjepa.model.batch import Batch
from bjepa.model.config import DataConfig, ModelConfig, Recipe, recipe_from_table, recipe_to_toml
from bjepa.model.dataset import ClipKey, MaskingCollate, ShardDataset
from bjepa.model.inputs import TrainingInputs, learn_from_split
from bjepa.model.jepa import JEPA
from bjepa.model.monitors import Monitor
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ROI_COLUMNS, ShardReader, ShardScan, write_shard

R, PATCH, L = 7, 4, 20  # 5 patches
LENGTHS = (31, 20, 19, 13, 8, 7)  # of the series, one a scan; 13 is 3 patches and a frame
T_RS = (2.0, 0.8, 1.5, 2.0, 0.72, 2.0)
MISSING: dict[int, list[int]] = {1: [2], 3: [0, 6]}  # regions of scans


def write_scans(folder: Path) -> Path:
    """Six scans in three shards; values never 0 where a region is there."""
    rng = np.random.default_rng(0)
    scans = []
    for n, (length, t_r) in enumerate(zip(LENGTHS, T_RS, strict=True)):
        x = rng.uniform(1, 2, size=(length, R)).astype(np.float32)
        x[:, MISSING.get(n, [])] = 0
        entities = dict(scan_id=f"sub-{n}_x", participant_id=f"sub-{n}", session="", task="x", run="")
        valid = ~np.isin(np.arange(R), MISSING.get(n, []))
        scans.append(ShardScan(entities=entities, t_r=t_r, t_r_out=t_r, valid=valid, phases=[x]))
    for number in range(3):
        write_shard(
            folder / f"shards/shard-0000{number}.h5",
            scans[2 * number : 2 * number + 2],
            atlas="seven",
            atlas_sha256="ab" * 32,
            rois={column: [f"r{i}" for i in range(R)] for column in ROI_COLUMNS},
            median=np.zeros(R),
            iqr=np.ones(R),
            scaling="none",
            target_t_r=0.0,
        )
    return folder


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    return ShardReader(write_scans(tmp_path))


def recipe_with(mask: dict[str, Any] | None = None, **data: Any) -> Recipe:
    model = dict(n_rois=R, n_frames=L, patch_size=PATCH)
    return recipe_from_table({"model": model, "data": data, "mask": mask or {}}, origin="test")


def dataset_of(reader: ShardReader, recipe: Recipe, seed: int = 3) -> ShardDataset:
    return ShardDataset(reader, n_frames=L, patch_size=PATCH, config=recipe.data, seed=seed)


def batch_of(reader: ShardReader, recipe: Recipe, series: list[int], epoch: int = 1) -> Batch:
    dataset = dataset_of(reader, recipe)
    items = [dataset.series.tolist().index(s) for s in series]
    return MaskingCollate(recipe)([dataset[ClipKey(epoch, item)] for item in items])


def lists_of(index_BK: torch.Tensor) -> list[list[int]]:
    return [[t for t in row if t >= 0] for row in index_BK.tolist()]


def test_a_whole_batch_has_all_tokens(reader: ShardReader) -> None:
    batch = batch_of(reader, recipe_with(), [0])
    assert batch.masks.visible_index is None and batch.to(torch.device("cpu")).masks.visible_index is None


@pytest.mark.parametrize("sampler", ["paper", "random", "block"])
def test_what_does_not_exist_is_in_no_list(reader: ShardReader, sampler: str) -> None:
    recipe = recipe_with(mask=dict(sampler=sampler), short="pad")
    series = [0, 1, 2, 3, 4]
    for epoch in range(1, 6):
        batch = batch_of(reader, recipe, series, epoch)
        masks = batch.masks
        assert masks.visible_index is not None
        visible = lists_of(masks.visible_index)
        for row, n in enumerate(series):
            rois = [r for r in range(R) if r not in MISSING.get(n, [])]
            n_patches = min(LENGTHS[n], L) // PATCH
            assert visible[row] == [r * 5 + t for r in rois for t in range(n_patches)]
            context, target = (lists_of(i)[row] for i in (masks.context_index, masks.target_index))
            assert context and target and set(context) | set(target) <= set(visible[row])
            weight = masks.block_weight[row].sum(dim=1)
            assert_allclose(weight[weight > 0], 1, rtol=1e-5)
            exists = np.zeros((R, L), dtype=bool)
            exists[rois, : n_patches * PATCH] = True
            assert_array_equal(batch.x[row] != 0, exists)
    assert_allclose(batch.t_r, T_RS[:5])


def test_released_masks_know_nothing_of_missing_regions(reader: ShardReader) -> None:
    model = ModelConfig(n_rois=R, n_frames=20, patch_size=2)
    recipe = replace(recipe_with(), model=model, mask=replace(recipe_with().mask, sampler="released"))
    dataset = ShardDataset(reader, n_frames=20, patch_size=2)
    assert MaskingCollate(recipe)([dataset[1]]).masks.visible_index is None
    for setting in (dict(short="pad"), dict(drop_rois=0.2)):
        with pytest.raises(InputError, match=r"needs masks that know of missing tokens"):
            replace(recipe, data=DataConfig(**setting))


def test_short_series_are_left_out_or_padded(reader: ShardReader) -> None:
    for data, used, short in (
        (dict(), [0, 1], 4),
        (dict(short="pad"), [0, 1, 2, 3, 4], 1),
        (dict(short="pad", min_frames=13), [0, 1, 2, 3], 2),
    ):
        dataset = dataset_of(reader, recipe_with(**data))
        assert dataset.series.tolist() == used and len(dataset.too_short) == short
    padded = dataset_of(reader, recipe_with(short="pad"))
    starts = set()
    for epoch in range(30):
        clip = padded[ClipKey(epoch, 3)]  # 13 frames, of which 12 are whole patches: either end
        assert clip.n_frames == 12 and clip.x.shape == (R, L)
        starts |= {s for s in (0, 1) if np.array_equal(reader[3][s : s + 12].T, clip.x[:, :12])}
    assert starts == {0, 1}
    with pytest.raises(InputError, match=r"No series has 20 frames; .* has 13") as refused:
        ShardDataset(reader, n_frames=L, participants=["3", "4"])
    assert "data.short = 'pad'" in str(refused.value.hint)
    with pytest.raises(InputError, match=r"data.min_frames must be at most model.n_frames = 20, got 21"):
        recipe_with(short="pad", min_frames=21)


def test_scans_of_a_single_region_are_left_out(reader: ShardReader) -> None:
    reader.valid[0] = np.arange(R) == 4
    dataset = dataset_of(reader, recipe_with())
    assert dataset.series.tolist() == [1] and dataset.too_few_rois == ["sub-0_x"]
    reader.valid[1] = False
    with pytest.raises(InputError, match=r"No scan .* has 2 regions"):
        dataset_of(reader, recipe_with())


def test_monitors_look_at_what_all_of_their_scans_have(reader: ShardReader) -> None:
    recipe = recipe_with(short="pad")
    monitor = Monitor(dataset_of(reader, recipe), recipe)
    assert len(monitor.series) == 5 and monitor.mask is not None and monitor.mask.visible_index is not None
    # regions 1, 3, 4, 5, and the two patches of the shortest
    assert monitor.mask.visible_index.tolist() == [r * 5 + t for r in (1, 3, 4, 5) for t in (0, 1)]
    config = replace(recipe.model, embed_dim=8, depth=1, num_heads=1, n_gradients=2, time_position="seconds")
    config = replace(config, predictor_embed_dim=8, predictor_depth=1, predictor_num_heads=1)
    found = monitor(
        JEPA(config, np.random.default_rng(0).normal(size=(R, 2))),
        device=torch.device("cpu"),
        precision="fp32",
    )
    assert np.isfinite(list(found.values())).all()
    reader.valid[0, [1, 3, 4]] = False
    monitor = Monitor(dataset_of(reader, recipe), recipe)
    assert monitor.mask is None


def test_centered_windows_are_the_middle(reader: ShardReader) -> None:
    centered, random = (dataset_of(reader, recipe_with(window=w)) for w in ("centered", "random"))
    middle = reader[0][5:25].T  # 31 frames: 5 before, 6 after
    assert all(np.array_equal(centered[ClipKey(epoch, 0)].x, middle) for epoch in range(5))
    assert not all(np.array_equal(random[ClipKey(epoch, 0)].x, middle) for epoch in range(5))
    assert_array_equal(random.middle(0).x, middle)
    assert random.middle(0).n_frames == L


def changed(**data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A window before, after, and which regions are left; region 2 was missing."""
    x = np.random.default_rng(1).uniform(1, 2, size=(R, L)).astype(np.float32)
    valid = np.arange(R) != 2
    x[2] = 0
    after, left = augment(x, valid, config=DataConfig(**data), rng=np.random.default_rng(2))
    assert after.dtype == np.float32 and after.flags.c_contiguous and valid.sum() == 6
    assert (after[~left] == 0).all() and (after[left] != 0).all()
    return x, after, left


def test_augmentations() -> None:
    x, after, left = changed()
    assert_array_equal(after, x)
    x, after, _ = changed(noise_std=0.1)
    noise = (after - x)[np.arange(R) != 2]
    assert 0.08 < noise.std() < 0.12 and abs(noise.mean()) < 0.03
    x, after, left = changed(scale_std=0.3)
    factor = after[left] / x[left]
    assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-5)
    assert 0.1 < np.log(factor[:, 0]).std() < 0.6
    *_, left = changed(drop_rois=0.5)
    assert left.sum() == 3 and not left[2]
    *_, left = changed(drop_rois=0.99)
    assert left.sum() == 2
    flips = []
    for seed in range(200):
        config, rng = DataConfig(flip_time=True), np.random.default_rng(seed)
        after, _ = augment(x, np.arange(R) != 2, config=config, rng=rng)
        flips.append(bool(np.array_equal(after, x[:, ::-1])))
        assert flips[-1] or np.array_equal(after, x)
    assert 70 < sum(flips) < 130


def test_augmentations_follow_from_seed_epoch_and_series(reader: ShardReader) -> None:
    recipe = recipe_with(short="pad", noise_std=0.1, drop_rois=0.3, window="centered")
    dataset = dataset_of(reader, recipe)
    one, again, later = dataset[ClipKey(1, 2)], dataset[ClipKey(1, 2, batch=9)], dataset[ClipKey(2, 2)]
    assert torch.equal(one.x, again.x) and not torch.equal(one.x, later.x)
    assert (one.x[:, one.n_frames :] == 0).all()  # no noise beyond the end
    batch = batch_of(reader, recipe, [0, 2])
    assert batch.masks.visible_index is not None
    for row, visible in enumerate(lists_of(batch.masks.visible_index)):
        assert {t // 5 for t in visible} == set(np.flatnonzero(batch.x[row].any(dim=1)).tolist())
        assert len({t // 5 for t in visible}) == 5  # 2 of 7 dropped
    other = dataset_of(reader, recipe, seed=4)
    assert not torch.equal(one.x, other[ClipKey(1, 2)].x)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_that_read_change_nothing(reader: ShardReader, context: str) -> None:
    recipe = recipe_with(short="pad", noise_std=0.1, drop_rois=0.3)
    dataset = dataset_of(reader, recipe)
    dataset[0]  # a file is open when the processes start
    keys = [[ClipKey(1, i) for i in items] for items in ((4, 0), (2, 1, 3))]
    alone, together = (
        list(
            DataLoader(
                dataset,
                batch_sampler=keys,
                collate_fn=MaskingCollate(recipe),
                num_workers=n,
                multiprocessing_context=context if n else None,
            )
        )
        for n in (0, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.series == other.series and torch.equal(one.x, other.x) and torch.equal(one.t_r, other.t_r)
        for name in ("context_index", "target_index", "block_weight", "visible_index"):
            assert torch.equal(getattr(one.masks, name), getattr(other.masks, name))


def inputs_of(reader: ShardReader, participants: list[str] | None = None) -> TrainingInputs:
    return TrainingInputs(
        reader=reader, gradients=np.zeros((R, 2)), participants=participants, files={}, sha256="x"
    )


def test_a_part_of_the_participants(reader: ShardReader, tmp_path: Path) -> None:
    plain = tmp_path / "parts.tsv"
    rows = ["participant_id\tsplit\tage", "sub-0\ttrain\t4", "1\ttest\t5", "sub-2\tval\t6", "3\ttrain\t7"]
    plain.write_text("\n".join(rows) + "\n")
    config = DataConfig(participants_split=str(plain))
    found = learn_from_split(inputs_of(reader), config)
    assert found.participants == ["sub-0", "sub-3"]
    assert list(found.files) == [str(plain)] and found.sha256 != "x"
    dataset = ShardDataset(reader, n_frames=8, participants=found.participants)
    assert {dataset.scan_id(int(s)) for s in dataset.series} == {"sub-0_x", "sub-3_x"}
    both = learn_from_split(inputs_of(reader), replace(config, split="train+val"))
    assert both.participants == ["sub-0", "sub-2", "sub-3"] and both.sha256 != found.sha256
    everybody = inputs_of(reader)
    assert learn_from_split(everybody, DataConfig()) is everybody

    evaluation = tmp_path / "splits.tsv"
    lines = ["split\tparticipant_id\tfold\trole"]
    for split in range(3):
        lines += [f"{split}\tsub-{p}\t{p}\t{('test', 'val', 'train')[(p - split) % 3]}" for p in range(3)]
    evaluation.write_text("\n".join(lines) + "\n")
    config = DataConfig(participants_split=str(evaluation), split_number=1)
    assert learn_from_split(inputs_of(reader), config).participants == ["sub-0"]


@pytest.mark.parametrize(
    "text, data, says",
    [
        ("participant_id\tpart\n0\ttrain\n", {}, "no column split; it has"),
        ("participant_id\tsplit\n0\tTrain\n1\ttest\n", {}, "nobody in 'train'; its parts are Train, test"),
        ("participant_id\tsplit\n0\ttrain\nsub-0\ttest\n", {}, "sub-0 in two parts, 'train' and 'test'"),
        ("participant_id\tsplit\n0\ttrain\n", dict(split_number=1), "is for a splits.tsv of bjepa-evaluate"),
        ("split\tparticipant_id\tfold\trole\n0\t0\t0\ttest\n", dict(split_number=2), "no split 2; it has 0"),
    ],
)
def test_files_of_parts_that_do_not_fit_are_refused(
    reader: ShardReader, tmp_path: Path, text: str, data: dict[str, Any], says: str
) -> None:
    path = tmp_path / "parts.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        learn_from_split(inputs_of(reader), DataConfig(participants_split=str(path), **data))


def test_keys_without_effect_or_sense_are_refused(reader: ShardReader) -> None:
    with pytest.raises(InputError, match=r"Both --participants and data.participants_split"):
        learn_from_split(inputs_of(reader, ["sub-0"]), DataConfig(participants_split="x.tsv"))
    for setting, says in (
        (dict(split="test"), "data.split has no effect without data.participants_split"),
        (dict(split_number=1), "data.split_number has no effect without"),
        (dict(min_frames=8), "data.min_frames has no effect with data.short = 'skip'"),
        (dict(drop_rois=1.0), "data.drop_rois must be a share below 1"),
        (dict(noise_std=-0.1), "data.noise_std must not be negative"),
    ):
        with pytest.raises(InputError, match=says):
            DataConfig(**setting)
    with pytest.raises(InputError, match="flip_time must be true or false, got 1"):
        recipe_with(flip_time=1)
    with pytest.raises(InputError, match=r"participants_split must be text, got 3"):
        recipe_with(participants_split=3)


def test_a_run_on_short_scans_that_lack_regions(
    reader: ShardReader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parts.tsv").write_text(
        "participant_id\tsplit\n" + "".join(f"{p}\t{'test' if p == 2 else 'train'}\n" for p in range(6))
    )
    np.savetxt(tmp_path / "gradients.csv", np.random.default_rng(0).normal(size=(R, 2)), delimiter=",")
    recipe = recipe_with(mask=dict(num_blocks=2), short="pad", drop_rois=0.2, flip_time=True)
    sizes: dict[str, Any] = dict(embed_dim=8, depth=1, num_heads=1, n_gradients=2)
    sizes |= dict(predictor_embed_dim=8, predictor_depth=1, predictor_num_heads=1)
    recipe = replace(
        recipe,
        model=replace(recipe.model, **sizes),
        train=replace(recipe.train, epochs=1, batch_size=2),
        data=replace(recipe.data, participants_split=str(tmp_path / "parts.tsv")),
    )
    (tmp_path / "recipe.toml").write_text(recipe_to_toml(recipe))
    command = [str(tmp_path / "recipe.toml"), "--data", str(tmp_path), "--device", "cpu"]
    command += ["--gradients", str(tmp_path / "gradients.csv"), "--output", str(tmp_path / "run")]
    assert main(command) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert told["n_series"] == 4 and told["too_short"] == ["sub-5_x"] and "sub-2" not in told["participants"]
    assert str(tmp_path / "parts.tsv") in told["files_sha256"]
    assert "not used: shorter than 8 frames (sub-5_x)" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows) and rows[-1]["samples"] == 4
