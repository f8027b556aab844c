"""Whether a model can read the series of some shards: same atlas, windows that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA


def check_fits(model: JEPA, reader: ShardReader) -> None:
    """Refuse shards of other regions, of another atlas (if the model knows which), or of short scans.

    Raises InputError; the scans are named.
    """
    _refuse_another_atlas(model, reader)
    _refuse_short_scans(model, reader)


def _refuse_another_atlas(model: JEPA, reader: ShardReader) -> None:
    if reader.n_rois != model.config.n_rois:
        raise InputError(
            f"The model reads {model.config.n_rois} regions, the shards in {reader.paths[0].parent} hold "
            f"{reader.n_rois} ({reader.atlas}).",
            hint="Run bjepa-preprocess with the atlas of the model's training data.",
        )
    if model.atlas_sha256 is not None and model.atlas_sha256 != reader.atlas_sha256:
        raise InputError(
            f"The model was trained with the atlas {model.atlas_sha256[:12]}…, the shards in "
            f"{reader.paths[0].parent} were made with {reader.atlas} ({reader.atlas_sha256[:12]}…).",
            hint="Run bjepa-preprocess with the atlas of the model's training data: as many regions are not "
            "the same regions.",
        )


def _refuse_short_scans(model: JEPA, reader: ShardReader) -> None:
    short = np.flatnonzero(reader.series_length < model.config.n_frames)
    if len(short):
        shown = ", ".join(
            f"{reader.scans['scan_id'][reader.series_scan[i]]} ({reader.series_length[i]} frames)"
            for i in short[:5]
        )
        raise InputError(
            f"{len(short)} of {len(reader)} series are shorter than the model's window of "
            f"{model.config.n_frames} frames: {shown}{', …' if len(short) > 5 else ''}.",
            hint="Leave these scans out of the shards, or use a model with a smaller model.n_frames.",
        )
