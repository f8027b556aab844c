"""What MODEL may be: a released checkpoint with its gradients is read as the reference says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bjepa.model.official import HEADS, settings_of_released
from bjepa.model.readouts.load import load_evaluated_model
from bjepa.preproc.errors import InputError


@pytest.fixture
def released(shared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny reference checkpoint (24 regions, 40 frames, patches of 4, 2 heads), and its gradients."""
    with np.load(shared / "reference" / "reference_tiny.npz") as arrays:
        np.savetxt(tmp_path / "gradients.csv", arrays["gradient"], delimiter=",", fmt="%.9g")
    return shared / "reference" / "reference_tiny.pth.tar", tmp_path / "gradients.csv"


def test_a_released_checkpoint_gives_the_tokens_of_its_weights(
    shared: Path, released: tuple[Path, Path]
) -> None:
    checkpoint, gradients = released
    jepa = load_evaluated_model(checkpoint, gradients=gradients, num_heads=2)
    assert (jepa.config.n_rois, jepa.config.n_frames, jepa.config.patch_size) == (24, 40, 4)
    assert jepa.config.num_heads == json.loads(
        (shared / "reference" / "reference_tiny.json").read_text()
    ).get("num_heads", 2)
    with np.load(shared / "reference" / "reference_tiny.npz") as arrays:
        for name, key in (("patch_embed.proj.bias", "patch_embed.proj.bias"), ("norm.weight", "norm.weight")):
            after = arrays[f"after/target_encoder/{key}"]
            np.testing.assert_array_equal(jepa.target_encoder.state_dict()[name].numpy(), after)
        x = torch.from_numpy(arrays["x"][:, 0])
    assert jepa.target_encoder(x).shape == (2, 240, 32)


def test_refusals_say_what_is_missing(released: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, gradients = released
    with pytest.raises(InputError, match=r"does not hold the gradients.*--gradients FILE"):
        load_evaluated_model(checkpoint)
    with pytest.raises(InputError, match=r"32 features wide.*cannot be seen.*--num-heads"):
        load_evaluated_model(checkpoint, gradients=gradients)
    with pytest.raises(InputError, match=r"cannot be 5"):
        load_evaluated_model(checkpoint, gradients=gradients, num_heads=5)
    np.savetxt(tmp_path / "other.csv", np.ones((23, 6)), delimiter=",")
    with pytest.raises(InputError, match=r"240 tokens, which are no whole number of patches of 23 regions"):
        load_evaluated_model(checkpoint, gradients=tmp_path / "other.csv", num_heads=2)
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"--gradients was given, but .*run brings its own"):
        load_evaluated_model(tmp_path / "run", gradients=gradients)
    with pytest.raises(InputError, match=r"--num-heads was given, but"):
        load_evaluated_model(tmp_path / "run", num_heads=3)
    shutil.copy(gradients, tmp_path / "text.pth")
    with pytest.raises(InputError):
        load_evaluated_model(tmp_path / "text.pth", gradients=gradients, num_heads=2)


def test_heads_of_the_published_sizes() -> None:
    assert HEADS == {384: 6, 768: 12, 1024: 16}


def test_window_and_heads_come_from_the_weights(released: tuple[Path, Path]) -> None:
    found = settings_of_released(released[0], n_rois=24, num_heads=4)
    assert found == {"n_frames": 40, "patch_size": 4, "num_heads": 4, "predictor_num_heads": 4}
