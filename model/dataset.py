"""Clips for training: a window of fixed length from every series, with its masks.

What is drawn for a series in an epoch follows from (seed, epoch, series) alone: not from the batch it is in,
the worker that reads it, or what was drawn before. So a resumed run draws the same as an uninterrupted one.

    series   at least n_frames        a window of it, random or in the middle
             shorter                  left out, or (data.short = "pad") its whole patches and then zeros
    regions  missing in the scan      zeros; neither they nor what lies beyond a short series' end has tokens

R regions, L = n_frames, B series in a batch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bjepa.model.augment import MIN_ROIS, augment
from bjepa.model.batch import Batch
from bjepa.model.config import DataConfig, Recipe
from bjepa.model.mask_samplers_released import released_masks
from bjepa.model.masking import collate_masks, sample_mask
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

# What a seed is for: independent streams; 2 is for the order of an epoch (sampling.py), 3 for the monitors
WINDOW, MASK, AUGMENT = 0, 1, 4
MIN_PATCHES = 2  # of a scan, as MIN_ROIS of its regions: one must be hidden, one shown


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
    valid: NDArray[np.bool_]  # (R,) regions that it has
    n_frames: int  # of L; zeros follow


class ShardDataset(Dataset[Clip]):
    """Windows of the series in an output folder of bjepa-preprocess; files are read when asked.

    Parameters
    ----------
    data
        A ShardReader, or what it takes.
    n_frames : int
        Length of a window.
    seed : int
    participants : ids, optional
        Keep only these, with or without their `sub-`.
    config : DataConfig
        Place of the windows, what becomes of short series, augmentations.
    patch_size : int
        Series that are padded are used up to their last whole patch.

    Attributes
    ----------
    series : (n_items,) int64, numbers of the series kept
    least_frames : what a series needs: n_frames or, if they are padded, config.min_frames, at least 2 patches
    too_short : scan_ids with a series that is left out for having fewer
    too_few_rois : scan_ids that are left out for having a single region or none

    `dataset[i]` is item i as drawn in epoch 0; `dataset[ClipKey(epoch, i)]` in another. Columns of regions
    that are missing in a scan hold 0, the median.

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
        config: DataConfig | None = None,
        patch_size: int = 1,
    ) -> None:
        self.reader = data if isinstance(data, ShardReader) else ShardReader(data)
        self.n_frames, self.seed, self.patch_size = n_frames, seed, patch_size
        self.config = config or DataConfig()
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
        least = n_frames
        if self.config.short == "pad":
            least = min(n_frames, max(self.config.min_frames, MIN_PATCHES * patch_size))
        self.least_frames = least
        long_enough = reader.series_length >= least
        has_rois = (reader.valid.sum(axis=1) >= MIN_ROIS)[reader.series_scan]
        self.series = np.flatnonzero(wanted & long_enough & has_rois)
        self.too_short = self._scan_ids(wanted & ~long_enough)
        self.too_few_rois = self._scan_ids(wanted & ~has_rois)
        if not len(self.series):
            longest = int(reader.series_length[wanted].max())
            if longest >= least:
                raise InputError(f"No scan with a series of {least} frames has {MIN_ROIS} regions.")
            raise InputError(
                f"No series has {least} frames; the longest of {int(wanted.sum())} has {longest}.",
                hint=f"Lower model.n_frames to at most {longest} (a multiple of model.patch_size)"
                + (", or use short ones with data.short = 'pad'." if self.config.short == "skip" else "."),
            )

    def __len__(self) -> int:
        """Number of items: one a series, each with one window an epoch."""
        return len(self.series)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """One clip, (R, L) float32 and where it is from."""
        key = key if isinstance(key, ClipKey) else ClipKey(0, range(len(self))[key])
        series, config = int(self.series[key.item]), self.config
        used = self._used_frames(series)
        spare = int(self.reader.series_length[series]) - used
        start = spare // 2
        if config.window == "random":
            start = int(_generator(WINDOW, self.seed, key.epoch, series).integers(spare + 1))
        x, valid = self._read(series, start, used)
        if config.noise_std or config.scale_std or config.drop_rois or config.flip_time:
            x, valid = augment(x, valid, config=config, rng=_generator(AUGMENT, self.seed, key.epoch, series))
        return self._clip(x, valid, series, key)

    def middle(self, series: int) -> Clip:
        """The middle window of a series (its number in the reader), as it is: what monitors look at."""
        used = self._used_frames(series)
        x, valid = self._read(series, (int(self.reader.series_length[series]) - used) // 2, used)
        return self._clip(x, valid, series, ClipKey(0, int(np.searchsorted(self.series, series))))

    def scan_id(self, series: int) -> str:
        """Name of the scan that a series is from."""
        return str(self.reader.scans["scan_id"][self.reader.series_scan[series]])

    def _used_frames(self, series: int) -> int:
        length = int(self.reader.series_length[series])
        return self.n_frames if length >= self.n_frames else length - length % self.patch_size

    def _read(self, series: int, start: int, n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(R, n) frames, and (R,) which regions are there."""
        valid = self.reader.valid[self.reader.series_scan[series]]
        return np.ascontiguousarray(self.reader.read(series, start, n).T), valid

    def _clip(self, x: NDArray[np.float32], valid: NDArray[np.bool_], series: int, key: ClipKey) -> Clip:
        """Pad at the end."""
        n_rois, n = x.shape
        if n < self.n_frames:
            x = np.concatenate([x, np.zeros((n_rois, self.n_frames - n), dtype=np.float32)], axis=1)
        t_r = float(self.reader.scans["t_r_out"][self.reader.series_scan[series]])
        return Clip(torch.from_numpy(x), series, key, t_r, valid, n)

    def _scan_ids(self, of_series: NDArray[np.bool_]) -> list[str]:
        return [str(self.reader.scans["scan_id"][i]) for i in np.unique(self.reader.series_scan[of_series])]


class MaskingCollate:
    """Clips to a Batch: stack them and draw their masks. Runs where the clips are read.

    With `mask.sampler = "released"` regions that are missing stay tokens like others, as there.
    """

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
                        generator=_generator(MASK, seed, clip.key.epoch, clip.series),
                        valid_rois=clip.valid,
                        n_existing=clip.n_frames // model.patch_size,
                    )
                    for clip in clips
                ],
                n_tokens=model.n_tokens,
            )
        t_r = torch.tensor([clip.t_r for clip in clips], dtype=torch.float32)
        # by numpy: torch would wake its threads for this copy, which the step beside it needs
        x_BRL = torch.from_numpy(np.stack([clip.x.numpy() for clip in clips]))
        return Batch(x_BRL, masks, [clip.series for clip in clips], t_r)


def _generator(*stream: int) -> np.random.Generator:
    return np.random.default_rng(stream)


def torch_generator(*stream: int) -> torch.Generator:
    """A generator for these numbers, independent of those for others."""
    seed = np.random.SeedSequence(stream).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))
