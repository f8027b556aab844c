"""What is explained: the windows of each participant's scans, scaled as the model's training data were.

A participant is one row of every table. Its windows are consecutive, `n_frames` long; frames left over at
the end of a series are not used. Each has a share: windows of a series count alike, then the phases of a
scan, then the scans of the participant, as in `Embedder`; shares of a participant add up to 1.

L frames of a window, R regions, T patches, N tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.jepa import JEPA
from bjepa.model.readouts.model_scaling import ReadSeries, as_the_model
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of one participant."""

    x_RL: NDArray[np.float32]  # in the model's scale
    valid_R: NDArray[np.bool_]  # False where a region is missing
    t_r: float  # s between frames
    share: float  # of the participant

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """What an output network takes: (1, R, L), present (1, R), t_r (1,)."""
        return (
            torch.from_numpy(self.x_RL)[None].to(device),
            torch.from_numpy(self.valid_R)[None].to(device),
            torch.tensor([self.t_r], device=device),
        )


@dataclass(frozen=True, kw_only=True)
class Participants:
    """Participants in the order of their ids; `participants[i]` gives the windows of one."""

    reader: ShardReader
    read: ReadSeries  # number of a series -> (T, R)
    participant_id: list[str]  # without "sub-"
    n_frames: int  # of a window
    first_window: bool = False  # the first one of each participant alone

    def __len__(self) -> int:
        return len(self.participant_id)

    def of(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Participants":
        """Some of them, by number."""
        return replace(self, participant_id=[self.participant_id[int(i)] for i in numbers])

    def __getitem__(self, number: int) -> Iterator[Window]:
        reader, wanted = self.reader, self.participant_id[number]
        scans = [i for i, p in enumerate(reader.scans["participant_id"]) if bare_id(p) == wanted]
        for scan in scans:
            phases = np.flatnonzero(reader.series_scan == scan)
            for phase in phases:
                series = self.read(int(phase))
                n_windows = len(series) // self.n_frames
                for start in range(0, n_windows * self.n_frames, self.n_frames):
                    yield Window(
                        x_RL=np.ascontiguousarray(series[start : start + self.n_frames].T, dtype=np.float32),
                        valid_R=reader.valid[scan],
                        t_r=float(reader.scans["t_r_out"][scan]),
                        share=1.0 if self.first_window else 1 / (len(scans) * len(phases) * n_windows),
                    )
                    if self.first_window:
                        return


def participants_of(model: JEPA, reader: ShardReader, wanted: Sequence[str] | None) -> Participants:
    """Those of `wanted` (ids without "sub-"; None: all) that have a scan, in the order of their ids.

    Raises
    ------
    InputError
        Nobody of `wanted` has a scan; a scaling of the shards that cannot be undone.
    """
    scanned = sorted({bare_id(p) for p in reader.scans["participant_id"]})
    kept = scanned if wanted is None else [p for p in scanned if p in set(wanted)]
    if not kept:
        raise InputError(
            f"None of the {len(wanted or [])} participants asked for has a scan in {reader.paths[0].parent}.",
            hint="Ids must agree (the prefix 'sub-' does not matter).",
        )
    return Participants(
        reader=reader,
        read=as_the_model(model, reader),
        participant_id=kept,
        n_frames=model.config.n_frames,
    )
