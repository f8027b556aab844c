"""Confounds and filters, through nilearn, keeping each region's mean.

Order of operations, at the scan's own t_r and before any resampling:
  1. drop the initial frames (`--drop-initial`; `auto` = fMRIPrep's non-steady-state frames)
  2. detrend (linear) and filter series and confounds alike (Butterworth), regress the confounds out
     (nilearn.signal.clean, so that filter and regression stay orthogonal: Lindquist et al. 2019)
  3. add the mean of each region back: cleaning removes variance, not the mean
With neither confounds nor filter, step 2 does nothing at all: no detrending either.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

# arguments of nilearn.interfaces.fmriprep.load_confounds; the first two as its load_confounds_strategy has
# them
STRATEGIES: dict[str, dict[str, Any]] = {
    "simple": {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"},
    "compcor": {
        "strategy": ("high_pass", "motion", "compcor"),
        "motion": "full",
        "n_compcor": "all",
        "compcor": "anat_combined",
    },
    "24p": {"strategy": ("high_pass", "motion"), "motion": "full"},
    "36p": {
        "strategy": ("high_pass", "motion", "wm_csf", "global_signal"),
        "motion": "full",
        "wm_csf": "full",
        "global_signal": "full",
    },
}


@dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """confounds: "none" or a key of STRATEGIES; high_pass, low_pass: Hz; drop_initial: frames or "auto"."""

    confounds: str = "none"
    high_pass: float | None = None
    low_pass: float | None = None
    drop_initial: int | str = 0


@dataclass(frozen=True)
class Confounds:
    """values: (n_frames, n_confounds) or None; n_non_steady: initial frames; fd_mean: mm or None."""

    values: pd.DataFrame | None
    n_non_steady: int
    fd_mean: float | None


def load_confounds(img: Path, table: Path | None, strategy: str) -> Confounds:
    """The confounds that fMRIPrep wrote beside `img`, or the columns of `table` as they are.

    Raises InputError where a strategy is asked for and its table is missing or lacks columns.
    """
    if table is not None:
        values = _read_table(table)
        return Confounds(None if strategy == "none" else values.fillna(0.0), *_known_columns(values))
    beside = confounds_beside(img)
    n_non_steady, fd_mean = _known_columns(_read_table(beside)) if beside is not None else (0, None)
    if strategy == "none":
        return Confounds(None, n_non_steady, fd_mean)
    from nilearn.interfaces import fmriprep

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of nilearn's own options
        try:
            values, _ = fmriprep.load_confounds(str(img), demean=True, **STRATEGIES[strategy])
        except (OSError, ValueError) as error:
            raise InputError(
                f"confounds {strategy!r} of {img} cannot be loaded: {error}",
                hint="Keep fMRIPrep's *_desc-confounds_timeseries.{tsv,json} beside it, or --confounds none.",
            ) from error
    return Confounds(values, n_non_steady, fd_mean)


def confounds_beside(img: Path) -> Path | None:
    """fMRIPrep's confounds of a BOLD file: the same entities without space, res and desc."""
    entities = [part for part in img.name.split("_")[:-1] if not part.startswith(("space-", "res-", "desc-"))]
    for ending in ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv"):
        if (path := img.with_name("_".join([*entities, ending]))).is_file():
            return path
    return None


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", na_values="n/a").astype(np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"confounds {path} cannot be read as a table of numbers ({error}).") from error


def _known_columns(table: pd.DataFrame) -> tuple[int, float | None]:
    """Number of initial non-steady-state frames, and mean framewise displacement in mm."""
    n_non_steady = sum(c.startswith("non_steady_state_outlier") for c in table.columns)
    fd = table.get("framewise_displacement")
    return n_non_steady, None if fd is None or fd.isna().all() else float(fd.mean())


def _rank_with_trend(confounds: NDArray[np.float64]) -> int:
    """Dimensions that regression on confounds (n_frames, n_confounds), mean and linear trend removes."""
    n_frames = len(confounds)
    scale = confounds.std(axis=0)
    varying = confounds[:, scale > 0] / scale[scale > 0]
    design = np.column_stack(
        [np.ones(n_frames), np.linspace(-1, 1, n_frames), varying - varying.mean(axis=0)]
    )
    return int(np.linalg.matrix_rank(design))


def clean_timeseries(
    timeseries: NDArray[np.float32], confounds: Confounds, options: CleaningOptions, *, t_r: float
) -> NDArray[np.float32]:
    """Cleaned series (n_frames - dropped, n_rois) float32; columns that hold NaN stay NaN.

    `timeseries` is (n_frames, n_rois), `t_r` in s.
    """
    dropped = confounds.n_non_steady if options.drop_initial == "auto" else int(options.drop_initial)
    n_frames = len(timeseries)
    if n_frames - dropped < 2:
        raise InputError(f"--drop-initial {dropped} leaves {n_frames - dropped} of {n_frames} frames.")
    values = None if confounds.values is None else confounds.values.to_numpy()  # (n_frames, n_confounds)
    if values is not None and len(values) != n_frames:
        raise InputError(
            f"the confounds have {len(values)} rows, the image {n_frames} frames.",
            hint="Give the confounds of the same run.",
        )
    kept = timeseries[dropped:]
    if values is not None and _rank_with_trend(values[dropped:]) >= len(kept):
        raise InputError(
            f"{values.shape[1]} confounds, mean and trend explain all of {len(kept)} frames: "
            "cleaning would leave nothing but rounding.",
            hint="Choose fewer confounds (--confounds), or a longer run.",
        )
    if values is None and options.high_pass is None and options.low_pass is None:
        return kept
    nyquist = 0.5 / t_r
    for name, edge in (("--high-pass", options.high_pass), ("--low-pass", options.low_pass)):
        if edge is not None and not 0 < edge < nyquist:
            raise InputError(f"{name} must be in (0, {nyquist:.4g}) Hz at t_r {t_r:g} s, got {edge:g}.")
    from nilearn.signal import clean

    present = np.isfinite(kept).all(axis=0)  # (n_rois,)
    signals = kept[:, present].astype(np.float64)
    cleaned = np.full(kept.shape, np.nan, dtype=np.float32)
    residual = clean(
        signals,
        confounds=None if values is None else values[dropped:],
        detrend=True,
        standardize=None,
        high_pass=options.high_pass,
        low_pass=options.low_pass,
        t_r=t_r,
    )
    cleaned[:, present] = residual - residual.mean(axis=0) + signals.mean(axis=0)
    return cleaned
