"""Several processes, one model: who they are, how the network is spread over them, what they tell each other.

torchrun starts the processes and says to each who it is. In every one the same program runs, reads its own
share of each update (sampling.py) and meets the others in the sum of the gradients.

    ddp    each process holds the whole model; gradients are averaged, once an update
    fsdp   parameters, gradients, moments and target encoder lie in shards, one a process; a block's weights
           are gathered while it computes. For models that do not fit on one device

Both average over processes, so a loss is multiplied by their number: what comes out is the sum over the
series of an update, divided by the number of these series, however unevenly they are shared.
"""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bjepa.model.blocks import Block
from bjepa.model.config import Parallel
from bjepa.model.device import choose_device
from bjepa.model.jepa import JEPA
from bjepa.preproc.errors import InputError

Value = TypeVar("Value")
CPU = torch.device("cpu")
PARTING = 0.2  # s
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run. All its methods but the property must be called by all of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def union(self, numbers: list[int]) -> list[int]:
        """All numbers that any process has, sorted."""
        found: list[list[int]] = [numbers]
        if self.size > 1:
            found = [[] for _ in range(self.size)]
            dist.all_gather_object(found, numbers)
        return sorted({number for some in found for number in some})

    def as_first(self, value: Value) -> Value:
        """The value that the first process has."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Meet the other processes that torchrun started, if any; part when the block ends without error.

    Where the caller has made torch's process group, that is used and left alone.

    Parameters
    ----------
    device : "auto", "cpu", "cuda" or "mps"
        Of several CUDA devices each process takes the one with the number of its place on the machine.

    Raises
    ------
    InputError
        WORLD_SIZE says that there are several, but they cannot find each other; too few devices.
    """
    chosen = choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=chosen)
        return
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise InputError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: they cannot find each other.",
            hint="Start them with torchrun, or unset WORLD_SIZE for a single process.",
        )
    if chosen.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise InputError(
                f"Process {local + 1} of this machine has no device: it has {there}.",
                hint="Start as many processes a machine as it has GPUs: torchrun --nproc-per-node=gpu.",
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise InputError(f"--device {chosen.type} cannot be used by several processes; use cpu or cuda.")
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=chosen)
        if ours:
            dist.barrier()  # none leaves while another still listens to it
    finally:
        # A thread of gloo lets go of its last tensor under Python's lock. If the group is torn down before,
        # which happens under that lock, each waits for the other for ever (1 run of 6). Sleep gives it away.
        time.sleep(PARTING)
    if ours:
        dist.destroy_process_group()


def spread(jepa: JEPA, world: World, *, parallel: Parallel) -> nn.Module:
    """What is to be called instead of `jepa`, whose weights are the same on all processes.

    With "fsdp" the parameters of `jepa` itself become shards; make the optimizer after it.
    """
    if world.size == 1:
        return jepa
    if parallel == "ddp":
        return DistributedDataParallel(
            jepa,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            broadcast_buffers=False,  # they never change
            gradient_as_bucket_view=True,
        )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise InputError(
            f'train.parallel = "fsdp" needs torch 2.6 or later, this is {torch.__version__}.',
            hint='Update torch, or use "ddp".',
        ) from error

    mesh = init_device_mesh(world.device.type, (world.size,))
    blocks = [part for part in jepa.modules() if isinstance(part, Block)]
    for part in (*blocks, jepa.context_encoder, jepa.predictor, jepa.target_encoder, jepa):
        fully_shard(part, mesh=mesh)
    return jepa


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Gradients made inside stay in the process; they join the next that are averaged.

    Shards are averaged at once all the same: whole gradients would need the memory that sharding saves.
    """
    if isinstance(network, DistributedDataParallel):
        return cast(AbstractContextManager[None], network.no_sync())
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shards; any other as it is. To be called by all processes."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else cast(Tensor, gather())


def host_copy(state: Any, *, keep: bool) -> Any:
    """A state dict with its tensors whole and copied to the host; to be called by all processes.

    Without `keep` the tensors are put together, for the others need this one's shards, and dropped.
    """
    if isinstance(state, Tensor):
        tensor = whole(state.detach())
        return tensor.to("cpu", copy=True).contiguous() if keep else None
    if isinstance(state, dict):
        return {name: host_copy(value, keep=keep) for name, value in state.items()}
    return state


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut into shards as `like` is; as it is, where that is not sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
