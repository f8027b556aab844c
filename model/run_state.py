"""What a run holds together while it trains, and how it goes to a checkpoint and comes back."""

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from bjepa.model.checkpoint import Checkpoint, Progress
from bjepa.model.config import OptimizerConfig, Recipe, recipe_to_toml
from bjepa.model.dataset import ShardDataset
from bjepa.model.distributed import World, host_copy, sharded_like, spread
from bjepa.model.hub import load_strictly
from bjepa.model.inputs import TrainingInputs
from bjepa.model.jepa import JEPA
from bjepa.model.sampling import n_updates_of_epoch
from bjepa.model.schedules import lr_factor
from bjepa.model.train_step import make_optimizer
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)


@dataclass
class Run:
    """One run, in one of its processes."""

    folder: Path
    recipe: Recipe
    inputs: TrainingInputs
    dataset: ShardDataset
    world: World
    precision: str
    jepa: JEPA
    network: nn.Module  # what is called for `jepa`
    optimizer: torch.optim.AdamW
    progress: Progress = field(default_factory=Progress)

    @property
    def series_per_update(self) -> int:
        """Series in an update; the last of an epoch may have fewer."""
        train = self.recipe.train
        return min(train.batch_size * train.accumulation, len(self.dataset))

    @property
    def updates_per_epoch(self) -> int:
        """Updates that use every series once."""
        train = self.recipe.train
        return n_updates_of_epoch(
            len(self.dataset), batch_size=train.batch_size, accumulation=train.accumulation
        )

    @property
    def n_updates(self) -> int:
        """Updates of the whole run."""
        return self.updates_per_epoch * self.recipe.train.epochs

    @property
    def lr_factor(self) -> float:
        """What the recipe's learning rates are multiplied with."""
        return lr_factor(self.recipe.optimizer, series_per_update=self.series_per_update)

    @property
    def scaled_optimizer(self) -> OptimizerConfig:
        """The recipe's, with the learning rates for this size of update."""
        config, factor = self.recipe.optimizer, self.lr_factor
        return replace(
            config,
            start_lr=config.start_lr * factor,
            lr=config.lr * factor,
            final_lr=config.final_lr * factor,
        )

    def checkpoint(self) -> Checkpoint | None:
        """The state, copied to the host; None but in the first process. To be called by all."""
        first = self.world.is_first
        jepa = host_copy(self.jepa.state_dict(), keep=first)
        optimizer = host_copy(self.optimizer.state_dict(), keep=first)
        if not first:
            return None
        return Checkpoint(
            progress=asdict(self.progress),
            config=recipe_to_toml(self.recipe),
            inputs_sha256=self.inputs.sha256,
            jepa=jepa,
            optimizer=optimizer,
        )


def new_jepa(recipe: Recipe, inputs: TrainingInputs) -> JEPA:
    """The network with the weights that it has before the first update, on the CPU."""
    generator = torch.Generator().manual_seed(recipe.train.seed)
    jepa = JEPA(recipe.model, inputs.gradients[:, : recipe.model.n_gradients], generator=generator)
    jepa.atlas_sha256 = inputs.reader.atlas_sha256
    jepa.normed_targets = recipe.objective.target_norm == "layer"
    return jepa


def make_run(
    folder: Path,
    recipe: Recipe,
    *,
    inputs: TrainingInputs,
    dataset: ShardDataset,
    world: World,
    precision: str,
    checkpoint: Checkpoint | None,
) -> Run:
    """Network and optimizer, new or as in the checkpoint, spread over the processes."""
    origin = folder / "checkpoints" / "last.pt"
    jepa = new_jepa(recipe, inputs)
    if checkpoint is not None:
        load_strictly(jepa, checkpoint.jepa, origin=str(origin))
    jepa.to(world.device)
    if recipe.train.activation_checkpointing:
        jepa.set_activation_checkpointing(True)
    if recipe.train.compile:
        jepa.compile_blocks()
    network = spread(jepa, world, parallel=recipe.train.parallel)
    optimizer = make_optimizer(jepa, recipe.optimizer)
    run = Run(folder, recipe, inputs, dataset, world, precision, jepa, network, optimizer)
    if checkpoint is not None:
        try:
            _restore(optimizer, checkpoint)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{origin}: the state of the optimizer does not fit: {error}.") from error
        run.progress = Progress(**checkpoint.progress)
    return run


def _restore(optimizer: torch.optim.AdamW, checkpoint: Checkpoint) -> None:
    """Moments and counts of the checkpoint; how they are computed stays that of this session."""
    groups = [
        loaded | {name: own[name] for name in ("fused", "foreach")}
        for loaded, own in zip(checkpoint.optimizer["param_groups"], optimizer.param_groups, strict=True)
    ]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for number, moments in checkpoint.optimizer["state"].items():
        for name, value in moments.items():
            if value.ndim and value.shape != params[number].shape:
                raise ValueError(f"{name} of parameter {number} is {tuple(value.shape)}")
    state = {
        number: {
            name: sharded_like(value, params[number]) if value.ndim else value
            for name, value in moments.items()
        }
        for number, moments in checkpoint.optimizer["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": groups})
