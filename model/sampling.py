"""Which series make an update of the weights, and which process takes which of them.

    epoch   every series once, in an order that follows from (seed, epoch)
    update  the next batch_size * accumulation of them, however many processes there are; the last update of
            an epoch may have fewer
    share   what one process (rank) takes of an update; shares differ by one series at most
    batch   at most batch_size series of a share: what passes through the network at a time

All ranks have as many batches in an update, for they meet after each. One that would lack a batch repeats the
first series of the update, and that batch counts nothing. No process-wide random state is read or written.
"""

import math
from typing import NamedTuple

import numpy as np

from bjepa.model.dataset import ClipKey

ORDER = 2  # the seed's stream, beside those of the dataset


class PlannedBatch(NamedTuple):
    """Clips to be read together, and their share in the update's mean."""

    keys: list[ClipKey]
    weight: float  # number of its series / number of the update's; 0: a filler


def epoch_order(n_items: int, *, epoch: int, seed: int) -> list[int]:
    """Items in the order of an epoch (from 1)."""
    order: list[int] = np.random.default_rng((ORDER, seed, epoch)).permutation(n_items).tolist()
    return order


def n_updates_of_epoch(n_items: int, *, batch_size: int, accumulation: int) -> int:
    """Updates that use every item once."""
    return math.ceil(n_items / (batch_size * accumulation))


def plan_epoch(
    n_items: int,
    *,
    epoch: int,
    seed: int,
    batch_size: int,
    accumulation: int,
    rank: int = 0,
    n_ranks: int = 1,
) -> list[list[PlannedBatch]]:
    """The batches of one rank, update by update.

    Parameters
    ----------
    n_items
        Series in the dataset.
    epoch
        From 1.
    batch_size, accumulation
        An update is the product of both, the last one of an epoch perhaps less.
    rank, n_ranks
        This process, and how many share the work.
    """
    order = epoch_order(n_items, epoch=epoch, seed=seed)
    per_update = batch_size * accumulation
    portions = [order[i : i + per_update] for i in range(0, n_items, per_update)]
    n_batches = [math.ceil(math.ceil(len(p) / n_ranks) / batch_size) for p in portions]  # of each rank
    number = (epoch - 1) * sum(n_batches) * n_ranks  # of all ranks' batches before
    planned = []
    for portion, n in zip(portions, n_batches, strict=True):
        share = _share(portion, rank, n_ranks)
        batches = []
        for k in range(n):
            items = share[k * batch_size : (k + 1) * batch_size]
            batches.append(
                PlannedBatch(
                    [ClipKey(epoch, item, number + k * n_ranks + rank) for item in items or portion[:1]],
                    len(items) / len(portion),
                )
            )
        planned.append(batches)
        number += n * n_ranks
    return planned


def _share(items: list[int], rank: int, n_ranks: int) -> list[int]:
    """A run of `items`; the first ranks have one more where they cannot be shared evenly."""
    least, more = divmod(len(items), n_ranks)
    start = rank * least + min(rank, more)
    return items[start : start + least + (rank < more)]
