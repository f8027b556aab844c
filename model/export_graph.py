"""The target encoder as a graph that runs without bjepa: torch.export (`.pt2`) or ONNX (`.onnx`).

    scaled series (B, R, L) float32  ->  tokens (B, N, D) float32, any B

All N tokens of every scan, so nothing is packed; the mathematics is that of model/encoder.py. A model that
counts time in seconds has a second input, `t_r` (B,) float32, seconds between frames.

B scans, R regions, L frames, T patches of a region, N = R * T tokens, D embed_dim, H heads.
"""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bjepa.model.blocks import Block
from bjepa.model.encoder import Encoder
from bjepa.model.jepa import JEPA
from bjepa.model.positions import REFERENCE_T_R, sinusoids
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside

INPUTS, OUTPUT = ("series", "t_r"), "tokens"


def export_encoder(jepa: JEPA, path: str | Path) -> None:
    """Write the target encoder as a graph for any number of scans at a time.

    Parameters
    ----------
    jepa
        Stays as it is.
    path
        `.pt2`: read by torch.export.load. `.onnx`: read by onnxruntime and others; to write it, the packages
        of `bjepa[onnx]` are needed. Both carry the description of the network (`bjepa.json`, and the
        metadata `bjepa`).

    Raises
    ------
    InputError
        Another ending; no packages for ONNX.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise InputError(f"{path} must end in .pt2 (torch.export) or .onnx.")
    if path.suffix == ".onnx":
        _need_onnx()
    encoder = jepa.target_encoder
    graph = WholeScans(encoder).eval()
    config = encoder.config
    inputs = [torch.zeros(2, config.n_rois, config.n_frames), torch.full((2,), REFERENCE_T_R)]
    inputs = inputs[: 2 if graph.in_seconds else 1]
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    with torch.no_grad():
        program = torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes)
    told = json.dumps({"model": asdict(config), "atlas_sha256": jepa.atlas_sha256})
    with write_aside(path) as aside:
        if path.suffix == ".pt2":
            torch.export.save(program, aside, extra_files={"bjepa.json": told})
        else:
            _write_onnx(program, aside, n_inputs=len(inputs), told=told)


class WholeScans(nn.Module):
    """The encoder on all tokens of each scan, with a copy of its weights; positions are constants."""

    position: Tensor  # (N, D); in seconds (R, D / 2), of the regions alone

    def __init__(self, source: Encoder) -> None:
        super().__init__()
        config, positions = source.config, source.positions
        encoder = Encoder(config, positions.gradients.cpu())
        encoder.load_state_dict({name: t.cpu() for name, t in source.state_dict().items()})
        self.patch_embed, self.blocks, self.norm = encoder.patch_embed, encoder.blocks, encoder.norm
        self.n_rois, self.n_patches, self.patch_size = config.n_rois, config.n_patches, config.patch_size
        self.in_seconds = config.time_position == "seconds"
        with torch.no_grad():
            table = encoder.positions().view(config.n_rois, config.n_patches, config.embed_dim)
        half = config.embed_dim // 2
        self.register_buffer(
            "position", table[:, 0, half:].clone() if self.in_seconds else table.flatten(0, 1)
        )

    def forward(self, series: Tensor, t_r: Tensor | None = None) -> Tensor:
        """(B, R, L), and (B,) where time is in seconds -> (B, N, D)."""
        B = series.shape[0]
        pieces = series.reshape(B, self.n_rois * self.n_patches, self.patch_size)
        x_BND = self.patch_embed(pieces) + self._positions(B, t_r)
        for block in self.blocks:
            assert isinstance(block, Block)
            x_BND = _block(block, x_BND)
        out: Tensor = self.norm(x_BND)
        return out

    def _positions(self, B: int, t_r: Tensor | None) -> Tensor:
        """(N, D), or (B, N, D) where time is in seconds."""
        if t_r is None:
            return self.position
        half = self.position.shape[1]
        u_BT = (t_r.double() / REFERENCE_T_R)[:, None] * torch.arange(self.n_patches)
        time_BTH = sinusoids(u_BT.flatten(), half).view(B, 1, self.n_patches, half)
        region_RH = self.position[None, :, None, :]
        shape = (B, self.n_rois, self.n_patches, half)
        return torch.cat([time_BTH.expand(shape), region_RH.expand(shape)], dim=3).flatten(1, 2)


def _block(block: Block, x_BND: Tensor) -> Tensor:
    """As Block.forward, on scans of one length."""
    n_heads = block.attn.num_heads
    qkv = block.attn.qkv(block.norm1(x_BND)).unflatten(2, (3, n_heads, -1))  # (B, N, 3, H, d)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x_BND = x_BND + block.attn.proj(mixed)
    out: Tensor = x_BND + block.mlp(block.norm2(x_BND))
    return out


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise InputError(
                f"To write ONNX the package {name} is needed, which is not installed.",
                hint="pip install 'bjepa[onnx]', or write a .pt2 for torch.export.",
            )


def _write_onnx(program: Any, path: Path, *, n_inputs: int, told: str) -> None:
    graph: Any = torch.onnx.export(
        program, input_names=list(INPUTS[:n_inputs]), output_names=[OUTPUT], dynamo=True, verbose=False
    )
    graph.model.metadata_props["bjepa"] = told
    graph.save(path, external_data=False)
