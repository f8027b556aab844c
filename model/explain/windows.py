"""What is explained: the windows of each participant's scans, as the model reads them.

A participant is one row of every table. Its windows are consecutive, `n_frames` long; frames left over at
the end of a series are not used. Each has a share: windows of a series count alike, then the phases of a
scan, then the scans of the participant, as in `Embedder`; shares of a participant add up to 1.

L frames of a window, R regions, T patches, N tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of one participant."""

    x_RL: NDArray[np.float32]  # scaled as in the shards
    valid_R: NDArray[np.bool_]  # False where a region is missing
    t_r: float  # s between frames
    share: float  # of the participant

    def tensors(self, n_patches: int, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
        """What an encoder takes: (1, R, L), the tokens that exist (1, K) or None for all, t_r (1,)."""
        x = torch.from_numpy(self.x_RL)[None].to(device)
        seconds = torch.tensor([self.t_r], device=device)
        if self.valid_R.all():
            return x, None, seconds
        tokens = np.flatnonzero(np.repeat(self.valid_R, n_patches))
        return x, torch.from_numpy(tokens)[None].to(device), seconds


@dataclass(frozen=True)
class Participants:
    """Participants in the order of their ids; `participants[i]` gives the windows of one."""

    reader: ShardReader
    participant_id: list[str]  # without "sub-"
    n_frames: int  # of a window

    def __len__(self) -> int:
        return len(self.participant_id)

    def of(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Participants":
        """Some of them, by number."""
        return Participants(self.reader, [self.participant_id[int(i)] for i in numbers], self.n_frames)

    def __getitem__(self, number: int) -> Iterator[Window]:
        reader, wanted = self.reader, self.participant_id[number]
        scans = [i for i, p in enumerate(reader.scans["participant_id"]) if bare_id(p) == wanted]
        for scan in scans:
            phases = np.flatnonzero(reader.series_scan == scan)
            for series in phases:
                n_windows = int(reader.series_length[series]) // self.n_frames
                for window in range(n_windows):
                    frames = reader.read(int(series), window * self.n_frames, self.n_frames)
                    yield Window(
                        x_RL=np.ascontiguousarray(frames.T, dtype=np.float32),
                        valid_R=reader.valid[scan],
                        t_r=float(reader.scans["t_r_out"][scan]),
                        share=1 / (len(scans) * len(phases) * n_windows),
                    )


def participants_of(reader: ShardReader, wanted: Sequence[str] | None, *, n_frames: int) -> Participants:
    """Those of `wanted` (ids without "sub-"; None: all) that have a scan, in the order of their ids.

    Raises
    ------
    InputError
        Nobody of `wanted` has a scan.
    """
    scanned = sorted({bare_id(p) for p in reader.scans["participant_id"]})
    kept = scanned if wanted is None else [p for p in scanned if p in set(wanted)]
    if not kept:
        raise InputError(
            f"None of the {len(wanted or [])} participants asked for has a scan in {reader.paths[0].parent}.",
            hint="Ids must agree (the prefix 'sub-' does not matter).",
        )
    return Participants(reader, kept, n_frames)
