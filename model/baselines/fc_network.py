"""Networks on functional connectivity: what all of them read, and how they are fitted to a fold.

Order of operations, in each fold:
  1. edges of a participant, mean over its scans: Fisher z of shards, or the values of given connectomes;
     the same numbers that `fc-ridge` reads
  2. missing edges (NaN) become the edge's mean; then all edges are divided by one number, the root mean
     square of all edges; both of the training participants alone
  3. symmetric matrices (R, R) with `DIAGONAL`, built a batch at a time
  4. the weights are drawn from the fold's seed, and the shared loop fits them (readouts/fit_network.py);
     the split's validation part stops it

The papers give Pearson r as it is, with 1 on the diagonal. One number keeps that pattern, and makes the
result independent of the connectomes' unit. Standardising each edge, as the linear methods do, is worse: it
takes the pattern away by which these networks know a region (docs/baselines.md has the numbers).

B scans of a batch, R regions, E = R (R - 1) / 2 edges.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.evaluation.fold import Fold, Prediction
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.fit_network import fit_network, predict_network
from bjepa.model.readouts.fit_settings import FitSettings
from bjepa.preproc.errors import InputError

DIAGONAL = 1.0  # of scaled matrices: as large as a typical edge

Build = Callable[[int, int], nn.Module]  # (n_rois, n_outputs) -> network
MoreInputs = Callable[[NDArray[np.float32], NDArray[Any] | None], tuple[Tensor, ...]]


def n_rois_of(n_edges: int) -> int:
    """R of E = R (R - 1) / 2 edges. Raises InputError where no R has so many."""
    n_rois = (1 + isqrt(1 + 8 * n_edges)) // 2
    if n_rois < 2 or n_rois * (n_rois - 1) // 2 != n_edges:
        below = n_rois * (n_rois - 1) // 2
        raise InputError(
            f"A connectome has {n_edges} edges; the upper triangle of {n_rois} regions has {below}, of "
            f"{n_rois + 1} it has {below + n_rois}.",
            hint="Networks need whole matrices: give `fc` (n, R, R), or all edges above the diagonal.",
        )
    return n_rois


def edge_matrices(edges_BE: NDArray[np.float32], *, diagonal: float = 0.0) -> NDArray[np.float32]:
    """Symmetric matrices (B, R, R) float32 of edges row by row above the diagonal."""
    n_rois = n_rois_of(edges_BE.shape[1])
    row, column = np.triu_indices(n_rois, k=1)
    matrices = np.full((len(edges_BE), n_rois, n_rois), diagonal, dtype=np.float32)
    matrices[:, row, column] = matrices[:, column, row] = edges_BE
    return matrices


@dataclass(frozen=True)
class EdgeScaling:
    """What is learned of the edges of the participants that train: their means, and one scale for all."""

    mean: NDArray[np.float32]  # (E,), 0 where an edge is known of nobody
    scale: float  # root mean square over all edges; 1 where all are 0

    @classmethod
    def of(cls, edges: NDArray[np.float32]) -> "EdgeScaling":
        """From edges (n, E); NaN is left out."""
        known = np.isfinite(edges)
        values = np.where(known, edges, 0)
        mean = values.sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
        mean_square = np.square(values, dtype=np.float64).sum() / max(known.sum(), 1)
        return cls(mean.astype(np.float32), float(np.sqrt(mean_square)) or 1.0)

    def __call__(self, edges: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled edges (n, E), without NaN."""
        filled = np.where(np.isfinite(edges), edges, self.mean)
        return (filled / self.scale).astype(np.float32)


def fc_samples(
    edges: NDArray[np.float32],
    scaling: EdgeScaling,
    *,
    target: NDArray[Any] | None = None,
    more_inputs: MoreInputs | None = None,
    tell_target: bool = False,
) -> Samples:
    """One sample a participant: the scaled matrix (B, R, R), then what `more_inputs` makes.

    `more_inputs(edges, target)` is given the batch's edges (B, E) as they are, NaN included, and with
    `tell_target` (of training samples alone) its targets (B,).
    """

    def read(numbers: NDArray[np.int64]) -> tuple[Tensor, ...]:
        own = edges[numbers]
        inputs = (torch.from_numpy(edge_matrices(scaling(own), diagonal=DIAGONAL)),)
        if more_inputs is None:
            return inputs
        return inputs + more_inputs(own, target[numbers] if tell_target and target is not None else None)

    return Samples(read=read, participant=np.arange(len(edges)), n_participants=len(edges), target=target)


def fit_fc_network(
    fold: Fold,
    build: Build,
    settings: FitSettings,
    *,
    more_inputs: MoreInputs | None = None,
    loss_extra: Callable[[nn.Module], Tensor] | None = None,
) -> Prediction:
    """Fit a network to the training part of a fold, stop by its validation part, predict its test part.

    The network's inputs are those of `fc_samples`; `fold.inputs` are edges (n, E).
    """
    edges, is_val = fold.inputs, fold.is_val
    scaling = EdgeScaling.of(edges[~is_val])
    train = fc_samples(
        edges[~is_val], scaling, target=fold.target[~is_val], more_inputs=more_inputs, tell_target=True
    )
    val = fc_samples(edges[is_val], scaling, target=fold.target[is_val], more_inputs=more_inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold.seed)
        network = build(n_rois_of(edges.shape[1]), fold.n_outputs)
    fitted = fit_network(
        network,
        train,
        val,
        task=fold.task,
        settings=settings,
        seed=fold.seed,
        device=fold.device,
        max_epochs=fold.max_epochs,
        loss_extra=loss_extra,
    )
    test = fc_samples(fold.test_inputs, scaling, more_inputs=more_inputs)
    values = predict_network(fitted, test, task=fold.task, device=fold.device)
    return Prediction(
        values,
        {
            "n_parameters": n_parameters(network),
            "best_epoch": fitted.best_epoch,
            "epochs_run": len(fitted.history),
            "val_loss": round(min(epoch["val_loss"] for epoch in fitted.history), 6),
            **asdict(settings),
        },
    )


def n_parameters(network: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
