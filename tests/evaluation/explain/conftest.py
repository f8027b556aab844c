"""For the tests of explain: shards of 40 regions in lopsided networks, and an encoder with a planted network.

Every region has its own level in every participant, all of the same size (about -1 or 1), so that the input
favours no region. The target is the mean level of the regions of `Cont`. The planted encoder attends to these
regions alone, reads their level, and writes it into every token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bjepa.model import JEPA, ModelConfig
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

N_ROIS, N_FRAMES, PATCH = 40, 24, 12
NETWORK7 = ["Subcortex"] * 6 + ["Vis"] * 13 + ["Cont"] * 5 + ["Default"] * 9 + ["SomMot"] * 7
NETWORK17 = [name if name == "Subcortex" else name + "AB"[i % 2] for i, name in enumerate(NETWORK7)]
PLANTED = np.array([name == "Cont" for name in NETWORK7])
LEVEL = 14  # the feature of a token that holds the level of its region
READ = 15  # the one that holds the level of the planted regions, after attention


def rois(network7: Sequence[str] = NETWORK7, network17: Sequence[str] = NETWORK17) -> dict[str, list[str]]:
    columns = {column: [f"{column}{r}" for r in range(N_ROIS)] for column in ROI_COLUMNS}
    structure = ["subcortex" if name == "Subcortex" else "cortex" for name in NETWORK7]
    return columns | {"network7": list(network7), "network17": list(network17), "structure": structure}


def write_levels(
    folder: Path,
    *,
    n: int = 60,
    seed: int = 0,
    missing: dict[int, int] | None = None,
    regions: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Path, Path]:
    """Shards of n participants and their participants.tsv (level, group); `missing`: participant -> region.

    Participants with odd numbers have two phases, the last one two windows.
    """
    rng = np.random.default_rng(seed)
    level = rng.choice([-1.0, 1.0], size=(n, N_ROIS)) * rng.uniform(0.9, 1.1, size=(n, N_ROIS))
    scans = []
    for i in range(n):
        lengths = [N_FRAMES + i % 3] * (1 + i % 2) if i < n - 1 else [2 * N_FRAMES + 1]
        valid = np.ones(N_ROIS, bool)
        valid[[(missing or {})[i]] if missing and i in missing else []] = False
        phases = [(level[i] + 0.1 * rng.normal(size=(m, N_ROIS))).astype(np.float32) for m in lengths]
        for phase in phases:
            phase[:, ~valid] = 0
        entities = {
            "scan_id": f"s{i}",
            "participant_id": f"{i:02d}",
            "session": "",
            "task": "rest",
            "run": "",
        }
        scans.append(ShardScan(entities=entities, t_r=1.0, t_r_out=2.0, valid=valid, phases=phases))
    write_shard(
        folder / "shards" / "shard-00000.h5",
        scans,
        atlas="forty",
        atlas_sha256="c" * 64,
        rois=dict(regions or rois()),
        median=np.zeros(N_ROIS),
        iqr=np.ones(N_ROIS),
        scaling="robust",
        target_t_r=2.0,
    )
    score = level[:, PLANTED].mean(axis=1)
    lines = ["participant_id\tlevel\tgroup\tthirds"]
    for i, value in enumerate(score):
        third = "abc"[int(np.digitize(value, np.quantile(score, [1 / 3, 2 / 3])))]
        lines.append(f"sub-{i:02d}\t{value:.6f}\t{'high' if value > np.median(score) else 'low'}\t{third}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return folder, folder / "participants.tsv"


def plain_jepa(*, seed: int = 0, depth: int = 2, **config: Any) -> JEPA:
    """Fresh weights, wide enough that attention is not uniform."""
    settings: dict[str, Any] = {
        "n_rois": N_ROIS, "n_frames": N_FRAMES, "patch_size": PATCH, "n_gradients": 2, "embed_dim": 16,
        "depth": depth, "num_heads": 2, "predictor_embed_dim": 8, "predictor_depth": 1,
        "predictor_num_heads": 1, "init_std": 0.3, "patch_init_std": 0.3,
    }  # fmt: skip
    # the planted network is known by the first gradient; both signs, so that tokens are equally long
    gradients = np.stack([np.where(PLANTED, 1.0, -1.0), np.random.default_rng(7).uniform(-1, 1, N_ROIS)], 1)
    made = JEPA(ModelConfig(**settings | config), gradients, generator=torch.Generator().manual_seed(seed))
    return made.eval()


@torch.no_grad()
def planted_jepa() -> JEPA:
    """Layer 1 looks at the planted regions and writes their level into READ; layer 2 adds nothing.

    Regions have learned places, so that weights drawn anew know nothing of networks.
    """
    jepa = plain_jepa(region_position="learned")
    encoder = jepa.target_encoder
    encoder.patch_embed.proj.weight.zero_()
    encoder.patch_embed.proj.weight[LEVEL] = 1 / PATCH
    sign = torch.from_numpy(np.where(PLANTED, 1.0, -1.0))
    encoder.positions.region[:, 0], encoder.positions.region[:, 1] = sign, -sign  # features 8 and 9
    encoder.positions.region[:, 2:].zero_()
    blocks: Any = encoder.blocks
    for block in blocks:
        block.mlp.fc2.weight.zero_()
        block.attn.proj.weight.zero_()
        block.attn.qkv.weight.zero_()
    attention = blocks[0].attn
    d = 8  # features of a head
    attention.qkv.bias[0] = attention.qkv.bias[d] = 1  # queries: every token asks the same
    for head in (0, 1):
        attention.qkv.weight[16 + head * d, 8] = 2 * d**0.5  # keys: is this the planted network?
        attention.qkv.weight[16 + head * d, 9] = -2 * d**0.5
        attention.qkv.weight[32 + head * d, LEVEL] = 1  # values: the level
        attention.proj.weight[READ, head * d] = 1
    jepa.context_encoder.load_state_dict(encoder.state_dict())
    return jepa


@dataclass(frozen=True)
class Planted:
    """What tests take from here."""

    n_rois: int = N_ROIS
    n_frames: int = N_FRAMES
    regions: NDArray[np.bool_] = field(default_factory=lambda: PLANTED)
    rois: Callable[..., dict[str, list[str]]] = rois
    write: Callable[..., tuple[Path, Path]] = write_levels
    plain: Callable[..., JEPA] = plain_jepa
    jepa: Callable[[], JEPA] = planted_jepa


@pytest.fixture(scope="session")
def planted() -> Planted:
    return Planted()
