"""Changes to a window at random, all off by default; what they draw follows from (seed, epoch, series).

    flip_time   half of the windows run backwards
    scale_std   every region is multiplied by exp(scale_std * normal)
    noise_std   white noise is added
    drop_rois   that share of the regions that the scan has is taken as missing: zeros, no tokens

In this order. Regions that are missing stay 0 throughout. R regions, L frames.
"""

import numpy as np
from numpy.typing import NDArray

from bjepa.model.config import DataConfig

MIN_ROIS = 2  # that are left: one must be hidden, one shown


def augment(
    x_RL: NDArray[np.float32], valid_R: NDArray[np.bool_], *, config: DataConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Changed copies of a window and of which regions it has.

    Each part draws whether it is on or off, so that switching one changes nothing of the others, save the
    noise, which comes last.
    """
    n_rois = len(x_RL)
    backwards, log_scale, order = rng.random() < 0.5, rng.standard_normal(n_rois), rng.permutation(n_rois)
    x = x_RL[:, ::-1] if config.flip_time and backwards else x_RL
    if config.scale_std:
        x = x * np.exp(config.scale_std * log_scale)[:, None].astype(np.float32)
    if config.noise_std:
        x = x + np.float32(config.noise_std) * rng.standard_normal(x.shape, dtype=np.float32)
    valid = valid_R.copy()
    present = order[valid_R[order]]
    n_dropped = min(round(config.drop_rois * len(present)), len(present) - MIN_ROIS)
    valid[present[: max(0, n_dropped)]] = False
    return np.ascontiguousarray(np.where(valid[:, None], x, np.float32(0))), valid
