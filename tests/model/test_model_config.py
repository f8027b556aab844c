"""model/config.py and the shipped recipes: types, unknown keys, settings, the way back to TOML."""

from pathlib import Path

import pytest

from bjepa.model.config import RECIPES, Recipe, differing_keys, load_recipe, recipe_to_toml
from bjepa.preproc.errors import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_the_way_through_toml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "r.toml").write_text(recipe_to_toml(recipe))
    again = load_recipe(tmp_path / "r.toml")
    assert again == recipe and differing_keys(again, recipe) == {}


def test_settings_are_typed_and_the_last_wins() -> None:
    settings = [
        "train.epochs=7",
        "optimizer.lr=2",
        "train.epochs=9",
        "mask.observation_rois=[0.5, 1]",
        "objective.loss=smooth_l1_pooled",
        'train.precision = "bf16"',
    ]
    recipe = load_recipe("demo", settings=settings, n_rois=61, n_gradients=4)
    assert (recipe.train.epochs, recipe.optimizer.lr, recipe.mask.observation_rois) == (9, 2.0, (0.5, 1.0))
    assert (recipe.objective.loss, recipe.train.precision) == ("smooth_l1_pooled", "bf16")
    assert (recipe.model.n_rois, recipe.model.n_gradients) == (61, 4)
    fewer = load_recipe("demo", settings=["model.n_gradients=3"], n_gradients=30)
    assert fewer.model.n_gradients == 3
    changed = differing_keys(load_recipe("demo"), recipe)
    assert changed["train.epochs"][1] == 9 and len(changed) == 7


def test_short_scans_fit_the_demo() -> None:
    assert load_recipe("demo", settings=["model.n_frames=48"]).model.n_patches == 3


@pytest.mark.parametrize(
    "settings, says",
    [
        (["train.epoch=3"], "Did you mean 'epochs'"),
        (["trian.epochs=3"], "Did you mean 'train'"),
        (["train.epochs=many"], "must be a whole number, got 'many'"),
        (["train.epochs=2.5"], "must be a whole number, got 2.5"),
        (["train.epochs=true"], "must be a whole number, got True"),
        (["optimizer.lr=fast"], "must be a number"),
        (["train.precision=fp16"], "one of 'auto', 'fp32', 'bf16', got 'fp16'"),
        (["mask.observation_rois=0.5"], "two numbers"),
        (["mask.observation_rois=[0.9, 0.5]"], "0 <= low <= high <= 1"),
        (["mask.num_blocks=0"], "at least 1"),
        (["epochs=3"], "takes section.key=value"),
        (["train.epochs"], "takes section.key=value"),
        (["model.patch_size=7"], "must divide model.n_frames"),
        (["model.n_frames=16"], "at least 2 of each"),
        (["model.n_frames=0"], "at least 1, got 0"),
        (["model.embed_dim=66"], "multiple of 4 and of model.num_heads"),
        (["model.depth=0"], "depths must be at least 1"),
        (["mask.sampler=released"], "= 10, got 5"),
        (["mask.sampler=released", "mask.num_blocks=2"], "mask.num_blocks has no effect"),
        (["objective.ema_start=1.5"], "0 <= ema_start"),
        (["optimizer.lr=-1"], "optimizer.lr must not be negative"),
        (["optimizer.betas=[0.9, 1.0]"], "must lie in"),
        (["train.batch_size=0"], "train.batch_size must be at least 1"),
        (["data.num_workers=-1"], "must not be negative"),
        (["model.n_rois=400"], "the data have 450"),
        (["model.n_gradients=31"], "the table has 30"),
    ],
)
def test_refuses_settings(settings: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_recipe("demo", settings=settings, n_rois=450, n_gradients=30)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[train]\nepoch = 3", "unknown key 'epoch'. Did you mean 'epochs'"),
        ("[training]\n", "unknown section 'training'. Did you mean 'train'"),
        ("epochs = 3", "unknown section 'epochs'"),
        ("[train\n", "not valid TOML"),
    ],
)
def test_refuses_files(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        load_recipe(tmp_path / "r.toml")


def test_refuses_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'vit_small'"):
        load_recipe("vit_smal")
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_recipe(tmp_path / "r.toml")


def test_defaults_are_a_recipe() -> None:
    assert Recipe().model.n_tokens == 4500
