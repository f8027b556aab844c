"""The batches of a plan, read ahead on a background thread while the device computes."""

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bjepa.model.batch import Batch
from bjepa.model.config import Recipe
from bjepa.model.dataset import MaskingCollate, ShardDataset
from bjepa.model.sampling import PlannedBatch

AHEAD = 2  # batches that wait to be used, beside the one in use
PATIENCE = 0.1  # s between looks whether the reader is still wanted


class Portion(NamedTuple):
    """What one process passes through its network for one update."""

    batches: list[Batch]
    weights: list[float]  # of each batch in the mean over the update's series


def read_portions(
    dataset: ShardDataset, recipe: Recipe, plan: Sequence[Sequence[PlannedBatch]], *, pin_memory: bool = False
) -> Generator[Portion, None, None]:
    """The planned updates, read in this order.

    `data.num_workers` processes read, or a thread of this one. With `pin_memory` the batches lie in memory
    from which a CUDA device copies while it computes. What is drawn does not depend on any of it. Close the
    iterator if it is left early.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # the collate turns clips into a Batch
        batch_sampler=[batch.keys for update in plan for batch in update],
        collate_fn=MaskingCollate(recipe),
        num_workers=recipe.data.num_workers,
        generator=torch.Generator(),  # without one the loader draws from the process-wide one
    )
    with closing(_ahead(loader, pin_memory=pin_memory)) as batches:
        for update in plan:
            yield Portion([next(batches) for _ in update], [planned.weight for planned in update])


def _ahead(loader: DataLoader[Batch], *, pin_memory: bool) -> Generator[Batch, None, None]:
    """The loader's batches, up to AHEAD of them read before they are asked for."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=PATIENCE)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for batch in loader:
                if stop.is_set():
                    return
                put(pinned(batch) if pin_memory else batch)
            put(None)
        except BaseException as error:  # raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=read, name="bjepa-reader", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def pinned(batch: Batch) -> Batch:
    """The same in page-locked memory."""

    def pin(value: Any) -> Any:
        return value.pin_memory() if isinstance(value, Tensor) else value

    masks = replace(batch.masks, **{f.name: pin(getattr(batch.masks, f.name)) for f in fields(batch.masks)})
    return batch._replace(x=pin(batch.x), t_r=pin(batch.t_r), masks=masks)
