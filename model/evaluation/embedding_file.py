"""Embeddings of a whole output folder, one row per scan, and the file that keeps them.

/embedding        float32 (n_scans, D); NaN where a region that it needs is missing
/scan_id          UTF-8 strings (n_scans)
/participant_id   UTF-8 strings (n_scans)
attrs             format format_version bjepa_version model_sha256 atlas_sha256 n_frames pooling
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

import bjepa
from bjepa.model.evaluation.embedder import Embedder
from bjepa.model.evaluation.scan_data import mean_by_owner
from bjepa.model.readouts.model_scaling import as_the_model
from bjepa.model.readouts.pooling import BY_NETWORK, Pooling
from bjepa.model.readouts.suits import check_fits
from bjepa.preproc.files import sha256_of_json, write_aside
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

FORMAT, FORMAT_VERSION = "bjepa-embedding", 1


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Embeddings of scans and where they come from."""

    embedding: NDArray[np.float32]  # (n_scans, D)
    scan_id: list[str]
    participant_id: list[str]
    model_sha256: str  # of weights and configuration
    atlas_sha256: str  # of the shards
    n_frames: int
    pooling: str = "mean"


def embed_scans(
    model: JEPA,
    reader: ShardReader,
    *,
    pooling: Pooling = "mean",
    batch_size: int = 8,
    device: str | None = None,
) -> Embeddings:
    """One embedding per scan: the mean over the embeddings of its series (the phases of a strided scan).

    Series are scaled as the model's training data were (model/readouts/model_scaling.py), missing regions
    have no tokens. A value that is NaN in some series is averaged over the others.

    Raises InputError where the model was made for other regions, for another atlas (if it knows which), or
    for longer scans (they are named); where the scaling of the shards cannot be undone.
    """
    check_fits(model, reader)
    read = as_the_model(model, reader)
    embedder = Embedder(
        model,
        pooling=pooling,
        networks=reader.rois["network17"] if pooling in BY_NETWORK else None,
        batch_size=batch_size,
        device=device,
    ).fit([])
    of_series = embedder.transform(  # (n_series, D)
        (read(number) for number in range(len(reader))),
        t_r=[float(reader.scans["t_r_out"][scan]) for scan in reader.series_scan],
        valid=None if reader.valid.all() else reader.valid[reader.series_scan],
    )
    return Embeddings(
        embedding=mean_by_owner(of_series, reader.series_scan, len(reader.scans["scan_id"])),
        scan_id=list(reader.scans["scan_id"]),
        participant_id=list(reader.scans["participant_id"]),
        model_sha256=model_sha256(model),
        atlas_sha256=reader.atlas_sha256,
        n_frames=int(model.config.n_frames),
        pooling=pooling,
    )


def model_sha256(model: JEPA) -> str:
    """Hexadecimal SHA-256 of a model: configuration, weights and buffers (name, dtype, shape, bytes)."""
    digest = hashlib.sha256(sha256_of_json(asdict(model.config)).encode())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write the file described on top, whole or not at all."""
    with write_aside(path) as aside, h5py.File(aside, "w") as file:
        file.attrs.update(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            bjepa_version=bjepa.__version__,
            model_sha256=embeddings.model_sha256,
            atlas_sha256=embeddings.atlas_sha256,
            n_frames=embeddings.n_frames,
            pooling=embeddings.pooling,
        )
        file["embedding"] = embeddings.embedding
        for name, values in (
            ("scan_id", embeddings.scan_id),
            ("participant_id", embeddings.participant_id),
        ):
            file.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
