"""Our encoder as a model of the public suite `brainmarks`: its own smoke test, and what its samples become.

The suite's pins do not go with ours, so its own test runs where it is installed (`make brainmarks`); what it
hands over and wants back is tested here without it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from bjepa.model import JEPA, ModelConfig
from bjepa.model.about import SCALING_COLUMNS
from bjepa.model.evaluation.brainmarks_model import MODEL_VARIABLE, open_model, space_names
from bjepa.model.hub import load_model, save_model
from bjepa.preproc.errors import InputError

N_FRAMES, PATCH, EVERY = 32, 8, 50  # 9 of the 450 regions


def write_model(folder: Path, names: list[str], *, scaling: str = "robust", seconds: bool = False) -> Path:
    """An untrained model of these regions, trained on frames every 2 s, if it had been."""
    config = ModelConfig(
        n_rois=len(names),
        n_frames=N_FRAMES,
        patch_size=PATCH,
        n_gradients=3,
        embed_dim=8,
        depth=1,
        num_heads=2,
        predictor_embed_dim=8,
        predictor_depth=1,
        predictor_num_heads=2,
        patch_init_std=0.5,
        time_position="seconds" if seconds else "patch",
    )
    gradients = np.random.default_rng(0).normal(size=(len(names), 3))
    rows = ["index\tname", *(f"{i}\t{name}" for i, name in enumerate(names, 1))]
    scales = ["\t".join(SCALING_COLUMNS), *(f"{i}\t{name}\t5\t2" for i, name in enumerate(names, 1))]
    save_model(
        JEPA(config, gradients, generator=torch.Generator().manual_seed(0)),
        folder / "model",
        atlas_table="\n".join(rows) + "\n",
        scaling_table="\n".join(scales) + "\n",
        origin={"scaling": scaling, "target_t_r": 2.0},
    )
    return folder


def sample(n_regions: int, n_frames: int = 70, t_r: float = 1.0, seed: int = 1) -> dict[str, Any]:
    """As the suite gives it: z-scored frames, and what leads back to the scan's units."""
    rng = np.random.default_rng(seed)
    bold = rng.normal(size=(n_frames, n_regions))
    bold = (bold - bold.mean(axis=0)) / bold.std(axis=0)
    values = {"bold": bold, "mean": rng.normal(size=(1, n_regions)), "std": rng.uniform(1, 2, (1, n_regions))}
    found: dict[str, Any] = {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}
    return found | {"tr": t_r, "sub": f"s{seed}"}


def names_of(space: str, *, every: int = EVERY) -> list[str]:
    return space_names()[space][every // 2 :: every]


def test_regions_go_by_name_to_the_models_order(tmp_path: Path) -> None:
    names = names_of("schaefer400_tians3")[::-1]
    transform, encoder = open_model(str(write_model(tmp_path, names)), scaled_by="model", t_r=None)
    assert encoder.__space__ == "schaefer400_tians3"
    one = sample(450)
    found = transform(one)
    column = space_names()["schaefer400_tians3"].index(names[2])
    own_units = one["bold"][:, column] * one["std"][0, column] + one["mean"][0, column]
    assert_allclose(found["bold"][:, 2], (own_units[::2][:N_FRAMES] - 5) / 2, rtol=1e-5)  # 1 s to 2 s
    assert found["bold"].shape == (N_FRAMES, len(names)) and found["sub"] == "s1" and found["t_r"] == 2.0


def test_cortex_alone_is_its_own_space(tmp_path: Path) -> None:
    _, encoder = open_model(str(write_model(tmp_path, names_of("schaefer400"))), scaled_by="model", t_r=None)
    assert encoder.__space__ == "schaefer400"


def test_scaling_of_the_benchmarks_training_scans(tmp_path: Path) -> None:
    names = names_of("schaefer400")
    transform, _ = open_model(str(write_model(tmp_path, names)), scaled_by="benchmark", t_r=None)
    with pytest.raises(InputError, match="not fitted"):
        transform(sample(400))
    scans = [sample(400, seed=seed, t_r=2.0, n_frames=N_FRAMES) for seed in range(5)]
    transform.fit(scans)
    scaled = np.concatenate([transform(one)["bold"].numpy() for one in scans])
    assert_allclose(np.median(scaled, axis=0), 0, atol=0.05)
    assert_allclose(np.subtract(*np.percentile(scaled, [75, 25], axis=0)), 1, atol=0.05)


def test_tokens_are_those_of_the_model_and_what_is_missing_changes_nothing(tmp_path: Path) -> None:
    names = names_of("schaefer400")
    folder = write_model(tmp_path, names)
    transform, encoder = open_model(str(folder), scaled_by="model", t_r=None)
    whole = transform(sample(400, t_r=2.0))
    batch = {name: value[None] for name, value in whole.items() if isinstance(value, Tensor)}
    cls_embeds, reg_embeds, tokens = encoder(batch)
    assert cls_embeds is None and reg_embeds is None
    with torch.no_grad():
        expected = load_model(folder).target_encoder(whole["bold"].T[None].contiguous())
    assert_allclose(tokens.detach().numpy(), expected.numpy(), atol=1e-6)

    flat = sample(400, n_frames=20, t_r=2.0)  # two whole patches and a rest
    flat["bold"][:, space_names()["schaefer400"].index(names[3])] = 0.0
    short = transform(flat)
    there = short["token_there"].reshape(len(names), -1)
    assert_array_equal(there.sum(dim=1), [0 if r == 3 else 2 for r in range(len(names))])
    batch = {name: value[None] for name, value in short.items() if isinstance(value, Tensor)}
    tokens = encoder(batch).patch_embeds[0].detach()
    mean = tokens[short["token_there"]].mean(dim=0)
    assert_allclose(tokens.mean(dim=0).numpy(), mean.numpy(), atol=1e-6)  # the suite averages over all
    tiny = transform(sample(400, n_frames=5, t_r=2.0))  # less than a patch
    assert int(tiny["token_there"].sum()) == len(names)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"nor {MODEL_VARIABLE} is given"):
        open_model(None, scaled_by="benchmark", t_r=None)
    folder = write_model(tmp_path, ["Nowhere", *names_of("schaefer400")])
    with pytest.raises(InputError, match=r"No space of brainmarks has the regions"):
        open_model(str(folder), scaled_by="benchmark", t_r=None)


def _suite_is_there() -> bool:
    needed = ("brainmarks", "cortex", "templateflow")  # its test imports all of them
    return all(importlib.util.find_spec(name) is not None for name in needed)


@pytest.mark.skipif(
    not _suite_is_there(),
    reason="brainmarks is not installed (its pins differ from ours); `make brainmarks` runs this",
)
@pytest.mark.parametrize("space", ["schaefer400", "schaefer400_tians3"])
def test_the_suites_own_smoke_test(tmp_path: Path, space: str) -> None:
    model = write_model(tmp_path, names_of(space, every=1), seconds=space == "schaefer400")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    words += ["-c", os.devnull, "--rootdir", str(tmp_path), "-k", "bjepa"]
    words += ["--pyargs", "brainmarks.models.test_models"]
    env = os.environ | {MODEL_VARIABLE: str(model)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout  # trained and untrained, 16 and 160 frames
