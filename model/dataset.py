"""Clips for training: a window of fixed length from every series, with its masks.

What is drawn for a series in an epoch follows from (seed, epoch, series) alone: not from the batch it is in,
the worker that reads it, or what was drawn before. So a resumed run draws the same as an uninterrupted one.

R regions, L = n_frames, B series in a batch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bjepa.model.batch import Batch
from bjepa.model.config import Recipe
from bjepa.model.masking import collate_masks, released_masks, sample_mask
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

# What a seed is for: independent streams; 2 is for the order of an epoch (sampling.py)
WINDOW, MASK = 0, 1


class ClipKey(NamedTuple):
    """Which clip: item `item` of the dataset as drawn in `epoch`, for the `batch`-th batch of the run."""

    epoch: int
    item: int
    batch: int = 0


class Clip(NamedTuple):
    """One window of one series."""

    x: Tensor  # (R, L) float32, scaled
    series: int  # number in the ShardReader
    key: ClipKey
    t_r: float  # seconds between its frames


class ShardDataset(Dataset[Clip]):
    """Random windows of the series in an output folder of bjepa-preprocess; files are read when asked.

    Parameters
    ----------
    data
        A ShardReader, or what it takes.
    n_frames : int
        Length of a window. Series that are shorter are left out and listed in `too_short`.
    seed : int
    participants : ids, optional
        Keep only these, with or without their `sub-`.

    Attributes
    ----------
    series : (n_items,) int64, numbers of the series kept
    too_short : scan_ids with a series of fewer than n_frames frames

    `dataset[i]` is item i as drawn in epoch 0; `dataset[ClipKey(epoch, i)]` in another. Columns of regions
    that are missing in a scan hold 0, the median: they stay tokens like others.

    Raises
    ------
    InputError
        No series is long enough; none of the participants is there.
    """

    def __init__(
        self,
        data: ShardReader | str | Path,
        *,
        n_frames: int,
        seed: int = 0,
        participants: Collection[str] | None = None,
    ) -> None:
        self.reader = data if isinstance(data, ShardReader) else ShardReader(data)
        self.n_frames, self.seed = n_frames, seed
        reader = self.reader
        wanted = np.ones(len(reader), dtype=bool)
        if participants is not None:
            bare = {bare_id(p) for p in participants}
            found = [bare_id(p) for p in reader.scans["participant_id"]]
            wanted = np.isin(reader.series_scan, np.flatnonzero([p in bare for p in found]))
            if not wanted.any():
                raise InputError(
                    f"None of the {len(bare)} participants asked for is in the data "
                    f"(which has e.g. {', '.join(sorted(set(found))[:3])})."
                )
        long_enough = reader.series_length >= n_frames
        self.series = np.flatnonzero(wanted & long_enough)
        short_scans = np.unique(reader.series_scan[wanted & ~long_enough])
        self.too_short = [str(reader.scans["scan_id"][i]) for i in short_scans]
        if not len(self.series):
            longest = int(reader.series_length[wanted].max())
            raise InputError(
                f"No series has {n_frames} frames; the longest of {int(wanted.sum())} has {longest}.",
                hint=f"Lower model.n_frames to at most {longest} (a multiple of model.patch_size).",
            )

    def __len__(self) -> int:
        """Number of items: one a series, each with one window an epoch."""
        return len(self.series)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """One clip, (R, L) float32 and where it is from."""
        key = key if isinstance(key, ClipKey) else ClipKey(0, range(len(self))[key])
        series = int(self.series[key.item])
        spare = int(self.reader.series_length[series]) - self.n_frames
        start = int(_generator(WINDOW, self.seed, key.epoch, series).integers(spare + 1))
        clip = self.reader.read(series, start, self.n_frames)  # (L, R)
        t_r = float(self.reader.scans["t_r_out"][self.reader.series_scan[series]])
        return Clip(torch.from_numpy(np.ascontiguousarray(clip.T)), series, key, t_r)

    def scan_id(self, series: int) -> str:
        """Name of the scan that a series is from."""
        return str(self.reader.scans["scan_id"][self.reader.series_scan[series]])


class MaskingCollate:
    """Clips to a Batch: stack them and draw their masks. Runs where the clips are read."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, clips: Sequence[Clip]) -> Batch:
        model, seed = self.recipe.model, self.recipe.train.seed
        if self.recipe.mask.sampler == "released":
            batch = clips[0].key.batch
            masks = released_masks(
                len(clips),
                model.n_rois,
                model.n_patches,
                counter=batch,
                # there one stream for the whole process; here one a batch, so that a run can be resumed
                generator=torch_generator(MASK, seed, batch),
            )
        else:
            masks = collate_masks(
                [
                    sample_mask(
                        model.n_rois,
                        model.n_patches,
                        config=self.recipe.mask,
                        generator=torch_generator(MASK, seed, clip.key.epoch, clip.series),
                    )
                    for clip in clips
                ]
            )
        t_r = torch.tensor([clip.t_r for clip in clips], dtype=torch.float32)
        return Batch(torch.stack([clip.x for clip in clips]), masks, [clip.series for clip in clips], t_r)


def _generator(*stream: int) -> np.random.Generator:
    return np.random.default_rng(stream)


def torch_generator(*stream: int) -> torch.Generator:
    """A generator for these numbers, independent of those for others."""
    seed = np.random.SeedSequence(stream).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))
