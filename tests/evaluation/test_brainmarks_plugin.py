"""Our encoder as a model of the public suite `brainmarks`: its own smoke test, and what its samples become.

The suite's pins do not go with ours, so `make` installs it without its dependencies; `make brainmarks` runs
this file where those that its test imports are there too.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model import JEPA, ModelConfig
from bjepa.model.about import SCALING_COLUMNS
from bjepa.model.evaluation.brainmarks_model import MODEL_VARIABLE, open_model, space_names
from bjepa.model.evaluation.embedder import Embedder
from bjepa.model.hub import load_model, save_model
from bjepa.preproc.atlas.region_names import region_numbers
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


@pytest.mark.parametrize("scaling", ["robust", "robust-dynamic", "robust-means", "zscore-scan", "none"])
def test_the_benchmarks_training_scans_fit_the_scaling(tmp_path: Path, scaling: str) -> None:
    """Each method against its definition in NumPy; of frames every 1 s every second is read."""
    names = names_of("schaefer400")
    model = str(write_model(tmp_path, names, scaling=scaling))
    transform, _ = open_model(model, scaled_by="benchmark", t_r=None)
    train = [sample(400, n_frames, seed=n_frames) for n_frames in (31, 44, 52, 37)]
    transform.fit(train)
    columns = [space_names()["schaefer400"].index(name) for name in names]

    def kept(one: dict[str, Any]) -> NDArray[np.float64]:
        series = (one["bold"] * one["std"] + one["mean"]).numpy().astype(np.float64)[::2, columns]
        if scaling in ("robust-dynamic", "zscore-scan"):
            series -= series.mean(axis=0)
        scaled: NDArray[np.float64] = series / series.std(axis=0) if scaling == "zscore-scan" else series
        return scaled

    pooled = np.concatenate([kept(one) for one in train])
    if scaling == "robust-means":
        pooled = np.array([kept(one).mean(axis=0) for one in train])
    low, middle, high = np.percentile(pooled, [25, 50, 75], axis=0)
    if scaling in ("zscore-scan", "none"):
        low, middle, high = (np.full(len(names), value) for value in (0.0, 0.0, 1.0))
    test = sample(400, 66, seed=9)
    expected = ((kept(test) - middle) / (high - low))[:N_FRAMES]
    assert_allclose(transform(test)["bold"].numpy(), expected, rtol=1e-4, atol=2e-4)


def test_a_fitted_transform_goes_to_the_processes_of_a_loader(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path, names_of("schaefer400")))
    one, other = (open_model(folder, scaled_by="benchmark", t_r=None)[0] for _ in range(2))
    with pytest.raises(InputError, match="not fitted"):
        one(sample(400))
    one.fit([sample(400, seed=seed) for seed in range(3)])
    other.fit(sample(400, seed=seed) for seed in range(3))  # can be read once only
    again = pickle.loads(pickle.dumps(one))
    expected = one(sample(400, seed=7))["bold"]
    assert_array_equal(other(sample(400, seed=7))["bold"], expected)
    assert_array_equal(again(sample(400, seed=7))["bold"], expected)


def test_columns_are_in_the_label_order_of_the_published_file(shared: Path) -> None:
    """The suite averages over the labels of this file, in the order of their numbers."""
    name = "Schaefer2018_400Parcels_17Networks_order_Tian_Subcortex_S3.dlabel.nii"
    label_table = nib.load(shared / "data/atlas/combined" / name).header.get_axis(0).label[0]
    names = [label_table[key][0] for key in sorted(label_table) if key > 0]
    table = pd.DataFrame({"name": space_names()["schaefer400_tians3"]})
    assert_array_equal(region_numbers(names, table).numbers, np.arange(450))


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


def test_the_mean_over_tokens_is_that_of_the_embedder(tmp_path: Path) -> None:
    """In a batch of a whole scan and one without a region."""
    names = names_of("schaefer400")
    folder = write_model(tmp_path, names)
    transform, encoder = open_model(str(folder), scaled_by="model", t_r=None)
    scans = [sample(400, seed=seed) for seed in (1, 2)]
    scans[1]["bold"][:, space_names()["schaefer400"].index(names[2])] = 0.0
    batch = torch.utils.data.default_collate([transform(one) for one in scans])
    valid = np.ones((2, len(names)), dtype=bool)
    valid[1, 2] = False
    embedder = Embedder(load_model(folder)).fit([])
    expected = embedder.transform(batch["bold"].numpy(), valid=valid)
    assert_allclose(encoder(batch).patch_embeds.mean(dim=1).detach().numpy(), expected, atol=1e-5)


def test_frames_that_a_short_scan_lacks_change_no_token(tmp_path: Path) -> None:
    transform, encoder = open_model(
        str(write_model(tmp_path, names_of("schaefer400"))), scaled_by="model", t_r=None
    )
    batch = torch.utils.data.default_collate([transform(sample(400, n_frames=20, t_r=2.0))])
    before = encoder(batch).patch_embeds.detach()
    batch["bold"][:, 2 * PATCH :] = 1e4
    assert_allclose(encoder(batch).patch_embeds.detach(), before, atol=1e-6)


def test_seconds_reach_a_model_that_counts_them(tmp_path: Path) -> None:
    """The same frames, 2 s and 1.6 s apart."""
    for seconds in (True, False):
        folder = write_model(tmp_path / str(seconds), names_of("schaefer400"), seconds=seconds)
        transform, encoder = open_model(str(folder), scaled_by="model", t_r=None)
        batch = torch.utils.data.default_collate([transform(sample(400, t_r=t_r)) for t_r in (1.0, 0.8)])
        assert_array_equal(batch["bold"][0], batch["bold"][1])
        assert_allclose(batch["t_r"], [2.0, 1.6])
        tokens = encoder(batch).patch_embeds
        assert torch.allclose(tokens[0], tokens[1]) is not seconds


def test_the_control_has_fresh_weights(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path, names_of("schaefer400")))

    def weights(seed: int | None) -> Tensor:
        _, encoder = open_model(folder, scaled_by="model", t_r=None, untrained_seed=seed)
        return torch.cat([p.flatten() for p in encoder.parameters()]).detach()

    trained = torch.cat([p.flatten() for p in load_model(folder).target_encoder.parameters()])
    assert_array_equal(weights(None), trained)
    assert_array_equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(None)) and not torch.equal(weights(5), weights(6))


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"nor {MODEL_VARIABLE} is given"):
        open_model(None, scaled_by="benchmark", t_r=None)
    folder = write_model(tmp_path, ["Nowhere", *names_of("schaefer400")])
    with pytest.raises(InputError, match=r"No space of brainmarks has the regions"):
        open_model(str(folder), scaled_by="benchmark", t_r=None)


# Their test file as it is. It takes the sizes of its samples from `brainmarks.readers`, which imports
# pycortex and templateflow; no sample goes through them, so where they are missing empty modules stand in.
SMOKE = """
import importlib.util, sys, types
import pytest
for name in ("cortex", "templateflow"):
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].api = None
path = importlib.util.find_spec("brainmarks.models.test_models").origin
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", ".", "-k", "bjepa", path]))
"""


def _suite_is_there() -> bool:
    """Our own module makes the namespace; theirs are in it only where brainmarks is installed."""
    return importlib.util.find_spec("brainmarks.models.test_models") is not None


@pytest.mark.skipif(
    not _suite_is_there(), reason="brainmarks is not installed: pip install --no-deps brainmarks==0.1.1"
)
@pytest.mark.parametrize("space", [pytest.param("schaefer400", marks=pytest.mark.slow), "schaefer400_tians3"])
def test_the_suites_own_smoke_test(tmp_path: Path, space: str) -> None:
    model = write_model(tmp_path, names_of(space, every=1), seconds=space == "schaefer400")
    env = os.environ | {MODEL_VARIABLE: str(model)}
    words = [sys.executable, "-c", SMOKE]
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout  # trained and untrained, 16 and 160 frames
