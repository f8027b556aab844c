"""What passes through the network in an epoch: tokens of the masks, how fast, in how much memory.

context_tokens, target_tokens      mean of a scan
share_cross_roi, …                 of the targets, that are of this kind
samples_per_s, tokens_per_s        series, and tokens that the two encoders and the predictor take in
memory_gb                          the largest so far: allocated on the GPU, else of the process
"""

import math
import sys
from collections.abc import Sequence

import torch

from bjepa.model.batch import Batch
from bjepa.model.masking import KINDS


class EpochTally:
    """Counts of the batches of this process; batches of weight 0 are fillers.

    `counts` holds those of the masks and is added to, so that a resumed epoch tells of all its updates.
    Speed is that since the tally was made. `n_tokens` are those of a scan that lacks none.
    """

    def __init__(self, counts: dict[str, int], *, n_tokens: int) -> None:
        self.counts, self.n_tokens = counts, n_tokens
        for name in ("scans", "context", "target", "visible", *KINDS):
            counts.setdefault(name, 0)
        self.n_series, self.seconds = 0, 0.0

    def add(
        self, batches: Sequence[Batch], weights: Sequence[float], *, n_series: int, seconds: float
    ) -> None:
        """Count one update: this process's batches, and the series of all processes."""
        self.n_series += n_series
        self.seconds += seconds
        for batch, weight in zip(batches, weights, strict=True):
            if weight == 0:
                continue
            masks, n, counts = batch.masks, len(batch.series), self.counts
            counts["scans"] += n
            counts["context"] += int((masks.context_index >= 0).sum())
            counts["target"] += int((masks.target_index >= 0).sum())
            visible = masks.visible_index
            counts["visible"] += n * self.n_tokens if visible is None else int((visible >= 0).sum())
            for kind, count in zip(KINDS, (masks.block_weight > 0).sum(dim=(0, 2)).tolist(), strict=True):
                counts[kind] += count

    def row(self, device: torch.device) -> dict[str, float]:
        """Name -> value, for the epoch's row; NaN where nothing was counted."""
        counts = self.counts
        n, in_kinds = counts["scans"] or math.nan, sum(counts[kind] for kind in KINDS) or math.nan
        speed = self.n_series / self.seconds if self.seconds else math.nan
        # context encoder; predictor (context and targets); target encoder
        tokens = (2 * counts["context"] + counts["target"] + counts["visible"]) / n
        return {
            "context_tokens": counts["context"] / n,
            "target_tokens": counts["target"] / n,
            **{f"share_{kind}": counts[kind] / in_kinds for kind in KINDS},
            "samples_per_s": speed,
            "tokens_per_s": speed * tokens,
            "memory_gb": peak_memory_gb(device),
        }


def peak_memory_gb(device: torch.device) -> float:
    """GB that the GPU's tensors took at most so far; else the process; NaN where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
