"""Our encoder as a model of `brainmarks`, a public evaluation suite for fMRI foundation models.

A sample there is a dict with `bold` (T, P), each region with mean 0 and SD 1 over the scan; `mean` and `std`
(1, P), which lead back to the scan's own units; and `tr` in s. What becomes of it, in this order:
  1. own units: bold * std + mean; the model's regions, by name, in the model's order; a region that does not
     vary or is not finite is missing
  2. every s-th frame, s as in bjepa-preprocess, to the repetition time of the training data
  3. scaled by the model's method: with the median and IQR of the benchmark's training scans, or the model's
  4. the first n_frames; of a shorter scan, its whole patches. Less than one patch is continued by reflection
Tokens of missing regions and of patches that are not there do not go through the encoder. The suite wants
equally many from each scan, and averages over them: their place is taken by the mean of the scan's tokens,
which leaves that average what it is.

T frames, P regions of the benchmark's space, R of the model, B scans, N tokens, D embed_dim.
Interface: brainmarks 0.1.1, https://pypi.org/project/brainmarks (Lane et al. 2025, arXiv:2510.13768).
"""

import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.about import About
from bjepa.model.hub import load_model
from bjepa.model.jepa import JEPA
from bjepa.model.tokens import PADDING
from bjepa.preproc.atlas.published import schaefer_table, tian_table
from bjepa.preproc.atlas.region_names import region_numbers
from bjepa.preproc.errors import InputError
from bjepa.preproc.resample import ResampleOptions, plan_resampling, split_phases
from bjepa.preproc.scaling import FITS_NOTHING, SCALING_METHODS, Scaling, ScalingFit, ScalingMethod, scan_part

log = logging.getLogger(__name__)

MODEL_VARIABLE = "BJEPA_MODEL"
ScaledBy = Literal["benchmark", "model"]
FLAT = 1e-6  # a region's range over a scan below this, in its SD, is no signal


class Embeddings(NamedTuple):
    """What the suite unpacks. There is no class token and no register: the first two are None."""

    cls_embeds: None
    reg_embeds: None
    patch_embeds: Tensor  # (B, N, D)


def open_model(
    model: str | None, *, scaled_by: ScaledBy, t_r: float | None, untrained_seed: int | None = None
) -> "tuple[BrainmarksTransform, BrainmarksEncoder]":
    """Transform and encoder of a model folder.

    Parameters
    ----------
    model : run folder, model folder or hub name; None: the environment variable BJEPA_MODEL
    scaled_by : `benchmark`: median and IQR of the benchmark's training scans; `model`: of the model's own
    t_r : s between frames that the model expects; None: what its folder says
    untrained_seed : draw fresh weights of the same sizes instead of the trained ones

    Raises
    ------
    InputError
        No model; one that does not tell its regions, scaling or repetition time; regions of no space there.
    """
    source = model or os.environ.get(MODEL_VARIABLE)
    if not source:
        raise InputError(
            f"bjepa needs a model: neither the argument `model` nor {MODEL_VARIABLE} is given.",
            hint=f"export {MODEL_VARIABLE}=RUN, or --overrides model_kwargs.model=RUN (of bjepa-train).",
        )
    jepa = load_model(source)
    about = jepa.about or About()
    if untrained_seed is not None:
        jepa = JEPA(jepa.config, jepa.gradients, generator=torch.Generator().manual_seed(untrained_seed))
    space, columns, names = find_space(about)
    transform = BrainmarksTransform(
        about,
        columns,
        names,
        n_frames=jepa.config.n_frames,
        patch_size=jepa.config.patch_size,
        target_t_r=repetition_time(about) if t_r is None else t_r,
        scaled_by=scaled_by,
    )
    return transform, BrainmarksEncoder(jepa, space)


def space_names() -> dict[str, list[str]]:
    """Columns of the suite's spaces that hold our regions, in the label order of the published files."""
    cortex, subcortex = schaefer_table()["name"].tolist(), tian_table()["name"].tolist()
    return {"schaefer400": cortex, "schaefer400_tians3": [*subcortex, *cortex]}


def find_space(about: About) -> tuple[str, NDArray[np.int64], list[str]]:
    """The first space that has all regions of the model, their columns in it (R,), and their names."""
    if about.atlas_table is None:
        raise InputError("The model does not name its regions (no atlas.tsv in its folder).")
    table = pd.read_csv(io.StringIO(about.atlas_table), sep="\t", keep_default_na=False, dtype=str)
    told = []
    for space, names in space_names().items():
        found = region_numbers(names, table)
        if (found.numbers >= 0).all():
            return space, found.numbers, table["name"].tolist()
        lost = [*found.absent, *found.ambiguous]
        told.append(f"{space}: {found.problem or f'lacks {len(lost)} of {len(table)}, such as {lost[0]}'}")
    raise InputError(
        f"No space of brainmarks has the regions of this model ({'; '.join(told)}).",
        hint="Models of tian-s3+schaefer-400, of schaefer-400, or of some of their regions can be measured.",
    )


def repetition_time(about: About) -> float:
    """s between the frames that the model was trained on."""
    seconds = about.origin.get("target_t_r")
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise InputError(
            f"The model does not say its repetition time (origin.target_t_r is {seconds!r}).",
            hint="Give it in s: --overrides model_kwargs.t_r=2.0",
        )
    return float(seconds)


class BrainmarksTransform:
    """A sample of the suite to one that the encoder reads; picklable, for its loader's processes."""

    def __init__(
        self,
        about: About,
        columns: NDArray[np.int64],
        names: Sequence[str],
        *,
        n_frames: int,
        patch_size: int,
        target_t_r: float,
        scaled_by: ScaledBy = "benchmark",
    ) -> None:
        if scaled_by not in get_args(ScaledBy):
            raise InputError(f"scaled_by must be one of {get_args(ScaledBy)}, got {scaled_by!r}.")
        method = about.origin.get("scaling")
        if method not in SCALING_METHODS:
            raise InputError(
                f"The model's origin.scaling is {method!r}; known are {', '.join(SCALING_METHODS)}."
            )
        self.method = cast(ScalingMethod, method)
        self.columns, self.names = columns, list(names)
        self.n_frames, self.patch_size, self.target_t_r = n_frames, patch_size, target_t_r
        self.scaled_by = scaled_by
        if scaled_by == "model":
            self.scaling: Scaling | None = about.scaling
        else:
            self.scaling = ScalingFit(self.method, names).result() if method in FITS_NOTHING else None
        self._warned = False

    def fit(self, train_dataset: Iterable[Mapping[str, Any]]) -> None:
        """Learn median and IQR of each region from the benchmark's training scans, read twice at most.

        Nothing is learned with scaled_by = "model", nor for `zscore-scan` and `none`. A participant is what
        `sub` says (robust-means averages over participants), else each sample is one.
        """
        if self.scaled_by == "model" or self.method in FITS_NOTHING:
            return
        samples = train_dataset if hasattr(train_dataset, "__getitem__") else list(train_dataset)
        fit = ScalingFit(self.method, self.names)
        while fit.wants_pass:
            for number, sample in enumerate(samples):
                frames, _ = self.frames_of(sample)
                fit.add(frames, str(sample.get("sub", number)))
            fit.end_pass()
        self.scaling = fit.result()

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """`bold` (n_frames, R) float32 scaled, `token_there` (N,) bool, `t_r` s; other fields stay."""
        if self.scaling is None:
            raise InputError("The transform is not fitted.", hint="Call transform.fit(train_dataset) first.")
        frames, t_r = self.frames_of(sample)
        there_R = ~np.isnan(frames).any(axis=0)
        if not there_R.any():
            raise InputError(f"No region of scan {sample.get('sub', '')} varies over its frames.")
        part = scan_part(self.method, frames, self.names, f"scan {sample.get('sub', '')}".strip())
        scaled = self.scaling.apply(frames, part)
        scaled[:, ~there_R] = 0
        series, n_patches = self._whole_patches(scaled)
        there_RT = np.outer(there_R, np.arange(self.n_frames // self.patch_size) < n_patches)
        kept = {name: value for name, value in sample.items() if name not in ("bold", "mean", "std", "tr")}
        return kept | {
            "bold": torch.from_numpy(series),
            "token_there": torch.from_numpy(there_RT.ravel()),  # region by region
            "t_r": torch.tensor(t_r, dtype=torch.float32),
        }

    def frames_of(self, sample: Mapping[str, Any]) -> tuple[NDArray[np.float32], float]:
        """(T', R) in the scan's own units, NaN in missing regions; s between these frames."""
        bold, mean, std = (
            np.asarray(sample[name], dtype=np.float32)[:, self.columns] for name in ("bold", "mean", "std")
        )
        series = bold * std + mean
        known = np.isfinite(series).all(axis=0)
        series[:, ~known | (np.ptp(np.where(known, bold, 0), axis=0) < FLAT)] = np.nan
        t_r = float(sample["tr"])
        options = ResampleOptions(target_t_r=self.target_t_r, phases="first")
        plan = plan_resampling(t_r, len(series), options)
        if plan.warning and not self._warned:
            log.warning("Frames every %g s; the model learnt from %g s.", plan.t_r_out, self.target_t_r)
            self._warned = True
        return split_phases(series, plan.stride, "first")[0], plan.t_r_out

    def _whole_patches(self, series: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """(n_frames, R), zeros after the last whole patch; how many patches there are."""
        n_patches = min(len(series) // self.patch_size, self.n_frames // self.patch_size)
        if n_patches == 0:
            missing = self.patch_size - len(series)
            series, n_patches = np.pad(series, ((0, missing), (0, 0)), mode="reflect"), 1
        out = np.zeros((self.n_frames, series.shape[1]), dtype=np.float32)
        n_kept = n_patches * self.patch_size
        out[:n_kept] = series[:n_kept]
        return out, n_patches


class BrainmarksEncoder(nn.Module):
    """The target encoder in the suite's interface; `__space__` names the regions it wants."""

    def __init__(self, jepa: JEPA, space: str) -> None:
        super().__init__()
        self.__space__ = space
        self.encoder = jepa.target_encoder
        self.counts_seconds = jepa.config.time_position == "seconds"

    def forward(self, batch: Mapping[str, Tensor]) -> Embeddings:
        """Batch of transformed samples -> tokens (B, N, D) float32, region by region."""
        x_BRL = batch["bold"].float().transpose(1, 2).contiguous()
        there_BN = batch["token_there"]
        t_r = batch["t_r"] if self.counts_seconds else None
        if bool(there_BN.all()):
            return Embeddings(None, None, self.encoder(x_BRL, t_r=t_r))
        number_N = torch.arange(there_BN.shape[1], device=there_BN.device)
        index_BN = torch.where(there_BN, number_N, PADDING)
        tokens_BND = self.encoder(x_BRL, index_BN, t_r=t_r)  # 0 where nothing went through
        mean_B1D = tokens_BND.sum(dim=1, keepdim=True) / there_BN.sum(dim=1)[:, None, None]
        return Embeddings(None, None, torch.where(there_BN[..., None], tokens_BND, mean_B1D))
