"""Checkpoints of the released Brain-JEPA, read strictly and without executing anything in them.

Two layouts: the container `.pth.tar` (dictionaries `encoder`, `predictor`, `target_encoder`, names with the
prefix `module.`) and a safetensors file (names with the prefixes `encoder. predictor. target_encoder.`).
Neither holds the configuration, the gradient table or the number of heads, so those are arguments. Written
by `model/official_export.py`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from bjepa.model.checkpoint import load_tensors
from bjepa.model.config import ModelConfig
from bjepa.model.hub import load_strictly
from bjepa.model.jepa import JEPA
from bjepa.model.weights import check_sizes, check_tensors, depth_of, read_weights
from bjepa.preproc.errors import InputError

PARTS = {"encoder": "context_encoder", "predictor": "predictor", "target_encoder": "target_encoder"}
# their names -> ours, within a part; the names of blocks, norms and the patch projection are the same
RENAMED = {
    "encoder": (
        ("pos_embed_proj.emb_h", "positions.time"),
        ("pos_embed_proj.predictor_pos_embed_proj.", "positions.gradient."),
    ),
    "predictor": (
        ("predictor_2dpe_proj.emb_h", "positions.time"),
        ("predictor_2dpe_proj.predictor_pos_embed_proj.", "positions.gradient."),
        ("predictor_embed.", "embed."),
        ("predictor_blocks.", "blocks."),
        ("predictor_norm.", "norm."),
        ("predictor_proj.", "proj."),
    ),
}

HEADS = {384: 6, 768: 12, 1024: 16}  # embed_dim -> num_heads of ViT-S, ViT-B, ViT-L


def load_official_checkpoint(
    path: str | Path,
    *,
    gradients: ArrayLike | Tensor,
    n_frames: int = 160,
    patch_size: int = 16,
    num_heads: int = 12,
    predictor_num_heads: int = 12,
) -> JEPA:
    """Read a released checkpoint into a JEPA in eval mode.

    Parameters
    ----------
    path
        `.pth.tar` in the released container, or `.safetensors`.
    gradients : (n_rois, n_gradients) array
        The table the model was trained with. It is not in the checkpoint: another one gives other tokens.
    n_frames, patch_size
        Of one input.
    num_heads, predictor_num_heads
        Cannot be seen in the weights; the defaults are those of ViT-B.

    Raises
    ------
    InputError
        Missing, damaged, foreign or malicious file; weights that do not fit the arguments.
    """
    path = Path(path)
    state = _released_state(path)
    config = _config_from_shapes(
        state,
        path=path,
        n_frames=n_frames,
        patch_size=patch_size,
        num_heads=num_heads,
        predictor_num_heads=predictor_num_heads,
    )
    check_sizes(config, {name: tuple(t.shape) for name, t in state.items()}, origin=str(path))
    jepa = JEPA(config, gradients)
    load_strictly(jepa, state, origin=str(path))
    return jepa.eval()


def settings_of_released(path: str | Path, *, n_rois: int, num_heads: int | None = None) -> dict[str, int]:
    """What `load_official_checkpoint` must be told: from a checkpoint's weights and the number of regions.

    Heads cannot be seen in the weights: None takes those of the released sizes (HEADS); the predictor has as
    many. Raises InputError where the weights do not fit `n_rois`, or are of another size and heads not given.
    """
    state = _released_state(Path(path))
    try:
        embed_dim, patch_size = state["context_encoder.patch_embed.proj.weight"].shape
        n_tokens = len(state["context_encoder.positions.time"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is not a released checkpoint: {error} is missing or misshapen.") from error
    if n_tokens % n_rois:
        raise InputError(
            f"{path} has {n_tokens} tokens, which are no whole number of patches of {n_rois} regions.",
            hint="Give the gradients of the atlas it was trained with, one row a region.",
        )
    heads = num_heads or HEADS.get(embed_dim)
    if heads is None or embed_dim % heads:
        raise InputError(
            f"{path} is {embed_dim} features wide; its attention heads "
            + ("cannot be seen in the weights." if heads is None else f"cannot be {heads}."),
            hint="Give --num-heads, the number it was trained with.",
        )
    return {
        "n_frames": n_tokens // n_rois * patch_size,
        "patch_size": patch_size,
        "num_heads": heads,
        "predictor_num_heads": heads,
    }


def from_official(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of one of PARTS (without `module.`) to the names of our JEPA."""
    ours = {}
    for name, tensor in state.items():
        renamed = with_prefix_changed(name, names_of(part))
        # the patch embedding is a convolution (D, 1, 1, p) there and a linear layer (D, p) here: the same map
        is_patch = renamed == "patch_embed.proj.weight" and tensor.ndim > 1
        ours[f"{PARTS[part]}.{renamed}"] = tensor.flatten(1) if is_patch else tensor
    return ours


def names_of(part: str) -> tuple[tuple[str, str], ...]:
    """(their prefix, our prefix) of what is named differently in one of PARTS."""
    return RENAMED["predictor" if part == "predictor" else "encoder"]


def with_prefix_changed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """`name` with the first old prefix that it has replaced by the new one; as it is where it has none."""
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _released_state(path: Path) -> dict[str, Tensor]:
    """All tensors of the three parts, under our names."""
    if path.suffix == ".safetensors":
        flat = read_weights(path)
        parts: dict[str, Any] = {part: {} for part in PARTS}
        for name, tensor in flat.items():
            part, _, rest = name.partition(".")
            if part not in parts:
                raise InputError(f"{path} has {name!r}; names must begin with {', '.join(PARTS)}.")
            parts[part][rest] = tensor
    else:
        parts = load_tensors(path)
    state: dict[str, Tensor] = {}
    for part in PARTS:
        content = parts.get(part)
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(t, Tensor) for name, t in content.items()
        ):
            raise InputError(
                f"{path} has no weights under {part!r}; a released checkpoint has {', '.join(PARTS)}.",
                hint="A run of bjepa-train is read with load_model.",
            )
        check_tensors(content, origin=f"{path} [{part}]")
        state |= from_official(part, {name.removeprefix("module."): t for name, t in content.items()})
    return state


def _config_from_shapes(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    n_frames: int,
    patch_size: int,
    num_heads: int,
    predictor_num_heads: int,
) -> ModelConfig:
    """Widths, depths and counts as the weights have them."""
    try:
        embed_dim, found_patch = state["context_encoder.patch_embed.proj.weight"].shape
        n_tokens = len(state["context_encoder.positions.time"])
        n_gradients = state["context_encoder.positions.gradient.weight"].shape[1]
        hidden = len(state["context_encoder.blocks.0.mlp.fc1.weight"])
        predictor_embed_dim = len(state["predictor.embed.weight"])
        mlp_ratio = hidden / embed_dim
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{path} is not a released checkpoint: {error} is missing or misshapen.") from error
    n_patches = n_frames // patch_size if patch_size > 0 else 0
    if found_patch != patch_size or not n_patches or n_tokens % n_patches:
        raise InputError(
            f"{path} has patches of {found_patch} frames and {n_tokens} tokens; "
            f"n_frames={n_frames} and patch_size={patch_size} do not fit.",
            hint="Tokens are regions x n_frames / patch_size.",
        )
    return ModelConfig(
        n_rois=n_tokens // n_patches,
        n_frames=n_patches * patch_size,  # samples beyond the last whole patch were ignored
        patch_size=patch_size,
        n_gradients=n_gradients,
        embed_dim=embed_dim,
        depth=depth_of(state, "context_encoder"),
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        predictor_embed_dim=predictor_embed_dim,
        predictor_depth=depth_of(state, "predictor"),
        predictor_num_heads=predictor_num_heads,
    )
