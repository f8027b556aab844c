"""What a run is: six frozen tables, read from a TOML recipe, written back resolved.

    [model]      the network            [optimizer]  AdamW and its schedules
    [mask]       what is hidden         [train]      epochs, batches, seed, precision
    [objective]  loss and EMA           [data]       reading the shards

Every key has one type and a default (that of the released ViT-B, unless said otherwise); an unknown key is an
error that names the nearest known one. `n_rois` and `n_gradients` come from the data unless a recipe fixes
them.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomli_w

from bjepa.preproc.errors import InputError

Range = tuple[float, float]
Attention = Literal["sdpa", "flash_attn", "math"]
RegionPosition = Literal["gradient", "sinusoidal", "learned"]
TimePosition = Literal["patch", "seconds"]
Predicts = Literal["latent", "signal"]
Sampler = Literal["paper", "released", "random", "block"]
Window = Literal["random", "centered"]
Short = Literal["skip", "pad"]
Loss = Literal["paper", "smooth_l1", "smooth_l1_pooled"]
TargetNorm = Literal["layer", "none"]
Regularizer = Literal["none", "vicreg", "sigreg"]
EmaSchedule = Literal["linear", "released"]
Precision = Literal["auto", "fp32", "bf16"]
Parallel = Literal["ddp", "fsdp"]
NonFinite = Literal["stop", "skip"]
LrScaling = Literal["none", "linear", "sqrt"]
RECIPES = ("vit_small", "vit_base", "vit_large", "small", "demo")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Tokens: one per region and patch, N = n_rois * n_frames / patch_size, region by region."""

    n_rois: int = 450
    n_frames: int = 160
    patch_size: int = 16  # frames of one region in one token
    n_gradients: int = 30  # fewer than the table has: its first ones
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    predictor_embed_dim: int = 384
    predictor_depth: int = 6
    predictor_num_heads: int = 12
    attention: Attention = "sdpa"  # "flash_attn": that package; "math" writes it out: slow, for reference
    region_position: RegionPosition = "gradient"  # "sinusoidal" and "learned" do not use the gradients
    time_position: TimePosition = "patch"  # "seconds": one clock for scans of different repetition times
    predicts: Predicts = "latent"  # "signal": the frames themselves, a masked autoencoder
    init_std: float = 0.02  # of linear weights and the mask token
    patch_init_std: float = 0.02  # of the patch embedding; larger = less of a token is its position

    def __post_init__(self) -> None:
        problems = []
        for name in ("n_rois", "n_frames", "patch_size", "n_gradients", "embed_dim", "num_heads"):
            if getattr(self, name) < 1:
                problems.append(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if not problems and self.n_frames % self.patch_size:
            problems.append(
                f"model.patch_size must divide model.n_frames, got {self.patch_size} and {self.n_frames} "
                f"(left over: {self.n_frames % self.patch_size})"
            )
        for width, heads in (("embed_dim", "num_heads"), ("predictor_embed_dim", "predictor_num_heads")):
            wide, n = getattr(self, width), getattr(self, heads)
            if n < 1 or wide < 1 or wide % n or wide % 4:  # 4: halves for time and gradient, sine and cosine
                problems.append(
                    f"model.{width} must be a multiple of 4 and of model.{heads}, got {wide} and {n}"
                )
        if self.depth < 1 or self.predictor_depth < 1:
            problems.append(f"depths must be at least 1, got {self.depth} and {self.predictor_depth}")
        _refuse(problems)

    @property
    def n_patches(self) -> int:
        """Patches of one region (T in the comments)."""
        return self.n_frames // self.patch_size

    @property
    def n_tokens(self) -> int:
        """Tokens of one scan (N in the comments)."""
        return self.n_rois * self.n_patches

    @property
    def target_dim(self) -> int:
        """Features of what is predicted of a token."""
        return self.embed_dim if self.predicts == "latent" else self.patch_size


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What the context encoder sees and what is predicted. Ranges are shares, drawn uniformly per scan."""

    sampler: Sampler = "paper"  # "released" needs 10 patches; "random", "block": for comparison
    num_blocks: int = 1  # K, target blocks: of each of the three kinds ("paper"), in all ("block")
    observation_rois: Range = (0.84, 1.0)
    observation_time: Range = (0.84, 1.0)
    cross_roi_rois: Range = (0.45, 0.6)  # of all regions
    cross_roi_time: Range = (0.2, 0.6)  # of all patches
    cross_time_rois: Range = (0.15, 0.3)  # of the seen regions
    double_cross_rois: Range = (0.15, 0.3)  # of the unseen regions
    unseen_time: Range = (0.0, 0.4)  # of all patches, at least one
    hidden_share: float = 0.75  # "random": of all tokens
    block_area: Range = (0.15, 0.2)  # "block": of the grid, each target
    block_aspect: Range = (0.75, 1.5)  # "block": share of the regions / share of the patches
    context_area: Range = (0.85, 1.0)  # "block": of the grid, before the targets leave it

    def __post_init__(self) -> None:
        problems = []
        if self.num_blocks < 1:
            problems.append(f"mask.num_blocks must be at least 1, got {self.num_blocks}")
        if not 0 < self.hidden_share < 1:
            problems.append(f"mask.hidden_share must lie between 0 and 1, got {self.hidden_share}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "block_aspect":
                if not 0 < value[0] <= value[1]:
                    problems.append(f"mask.block_aspect must be 0 < low <= high, got {list(value)}")
            elif isinstance(value, tuple) and not 0 <= value[0] <= value[1] <= 1:
                problems.append(f"mask.{f.name} must be two shares, 0 <= low <= high <= 1, got {list(value)}")
            if f.name not in ("sampler", *_MASK_KEYS[self.sampler]) and value != f.default:
                problems.append(
                    f"mask.{f.name} has no effect with mask.sampler = {self.sampler!r}; leave it out"
                )
        _refuse(problems)


# The keys of [mask] that each sampler makes use of
_MASK_KEYS: dict[str, tuple[str, ...]] = {
    "paper": (
        "num_blocks",
        "observation_rois",
        "observation_time",
        "cross_roi_rois",
        "cross_roi_time",
        "cross_time_rois",
        "double_cross_rois",
        "unseen_time",
    ),
    "released": (),
    "random": ("hidden_share",),
    "block": ("num_blocks", "block_area", "block_aspect", "context_area"),
}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Loss, what keeps tokens from collapsing, and the share of the old target kept at each update."""

    loss: Loss = "paper"
    target_norm: TargetNorm = "layer"  # over the features of each target, as released
    regularizer: Regularizer = "none"  # of the context tokens without their place: model/regularizers.py
    regularizer_weight: float = 1.0  # in the loss
    covariance_weight: float = 0.04  # "vicreg": of the covariances, the variances have 1
    n_projections: int = 64  # "sigreg": random directions, others in every update
    ema_schedule: EmaSchedule = "linear"  # "released" ends short of ema_end when batches are accumulated
    ema_start: float = 0.996
    ema_end: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.ema_start <= self.ema_end <= 1:
            found = f"{self.ema_start} and {self.ema_end}"
            problems.append(f"objective: 0 <= ema_start <= ema_end <= 1 is needed, got {found}")
        for name in ("regularizer_weight", "covariance_weight"):
            if getattr(self, name) < 0:
                problems.append(f"objective.{name} must not be negative, got {getattr(self, name)}")
        if self.n_projections < 1:
            problems.append(f"objective.n_projections must be at least 1, got {self.n_projections}")
        for name, user in (
            ("regularizer_weight", ("vicreg", "sigreg")),
            ("covariance_weight", ("vicreg",)),
            ("n_projections", ("sigreg",)),
        ):
            default = getattr(ObjectiveConfig, name)
            if self.regularizer not in user and getattr(self, name) != default:
                problems.append(
                    f"objective.{name} has no effect with objective.regularizer = {self.regularizer!r}; "
                    "leave it out"
                )
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. The learning rate warms up linearly, then falls as a cosine; weight decay rises as a cosine."""

    start_lr: float = 5e-5
    lr: float = 1e-3  # after the warm-up
    final_lr: float = 1e-6
    warmup_epochs: float = 40.0
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    betas: Range = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 0.0  # 0 = gradients are not clipped
    lr_scaling: LrScaling = "none"  # of all three rates with series per update / lr_batch; "sqrt": its root
    lr_batch: int = 512  # series per update for which the rates are meant

    def __post_init__(self) -> None:
        problems = [
            f"optimizer.{f.name} must not be negative, got {getattr(self, f.name)}"
            for f in fields(self)
            if f.name not in ("betas", "lr_scaling") and getattr(self, f.name) < 0
        ]
        if self.lr_batch == 0:
            problems.append("optimizer.lr_batch must be at least 1, got 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"optimizer.betas must lie in [0, 1), got {list(self.betas)}")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what portions, from which seed."""

    epochs: int = 300
    batch_size: int = 16  # series at a time through the network of a process, at most
    accumulation: int = 1  # an update is batch_size * accumulation series, whatever the number of processes
    seed: int = 0
    precision: Precision = "auto"  # bf16 on CUDA, fp32 elsewhere
    parallel: Parallel = "ddp"  # with several processes; "fsdp" keeps shards of the model in each
    compile: bool = False  # the blocks by torch.compile
    activation_checkpointing: bool = False  # recompute instead of keep: less memory, a third more work
    nonfinite: NonFinite = "stop"  # a loss that is not finite; "skip" leaves the weights and goes on
    checkpoint_every: int = 10  # epochs between numbered checkpoints; last.pt is written after every epoch
    checkpoint_minutes: float = 10.0  # between writings of last.pt within an epoch; 0: none
    monitor_scans: int = 8  # scans, of different participants, that the epoch's monitors look at
    probe_column: str = ""  # of participants.tsv, that a cheap probe predicts now and then; "": none
    probe_every: int = 10  # epochs between probes; there is one at the end too
    wandb: bool = False  # the metrics to Weights & Biases as well

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "accumulation": 1, "seed": 0, "checkpoint_every": 1}
        least |= {"checkpoint_minutes": 0, "monitor_scans": 0, "probe_every": 1}
        problems = [
            f"train.{name} must be at least {n}, got {getattr(self, name)}"
            for name, n in least.items()
            if getattr(self, name) < n
        ]
        if not self.probe_column and self.probe_every != TrainConfig.probe_every:
            problems.append("train.probe_every has no effect without train.probe_column; leave it out")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Reading the shards, whom to learn from, and what is changed at random (nothing by default)."""

    num_workers: int = 0  # processes that read; a clip takes 0.06 ms, so 0 is often best
    window: Window = "random"  # another place in every epoch; "centered": the middle
    short: Short = "skip"  # series shorter than n_frames; "pad": used, what they lack has no tokens
    min_frames: int = 0  # "pad": shorter ones are still left out; 2 patches are the least
    participants_split: str = ""  # file that says who is in which part
    split: str = "train"  # the part to learn from; "train+val": both
    split_number: int = 0  # which split of a splits.tsv of bjepa-evaluate
    noise_std: float = 0.0  # of white noise that is added, in units of the scaled signal
    scale_std: float = 0.0  # of the log of a factor for each region
    drop_rois: float = 0.0  # share of a scan's regions that are taken as missing
    flip_time: bool = False  # half of the windows run backwards

    def __post_init__(self) -> None:
        problems = [
            f"data.{name} must not be negative, got {getattr(self, name)}"
            for name in ("num_workers", "min_frames", "split_number", "noise_std", "scale_std")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.drop_rois < 1:
            problems.append(f"data.drop_rois must be a share below 1, got {self.drop_rois}")
        if self.min_frames and self.short == "skip":
            problems.append("data.min_frames has no effect with data.short = 'skip'; leave it out")
        for name in ("split", "split_number"):
            default = getattr(DataConfig, name)
            if not self.participants_split and getattr(self, name) != default:
                problems.append(f"data.{name} has no effect without data.participants_split; leave it out")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        problems = []
        if self.mask.sampler == "released" and self.model.n_patches != 10:
            problems.append(
                f"mask.sampler = 'released' needs model.n_frames / model.patch_size = 10, "
                f"got {self.model.n_patches}"
            )
        for key, value, off in (
            ("short", self.data.short, "skip"),
            ("drop_rois", self.data.drop_rois, 0.0),
        ):
            if self.mask.sampler == "released" and value != off:
                problems.append(
                    f"data.{key} = {value!r} needs masks that know of missing tokens; "
                    "mask.sampler = 'released' does not"
                )
        if self.objective.regularizer != "none" and self.train.batch_size < 2:
            problems.append(
                f"objective.regularizer = {self.objective.regularizer!r} compares the scans of a batch: "
                f"train.batch_size must be at least 2, got {self.train.batch_size}"
            )
        if self.objective.target_norm == "none" and self.model.predicts == "signal":
            problems.append(
                "objective.target_norm has no effect with model.predicts = 'signal'; leave it out"
            )
        if self.data.min_frames > self.model.n_frames:
            problems.append(
                f"data.min_frames must be at most model.n_frames = {self.model.n_frames}, "
                f"got {self.data.min_frames}"
            )
        if self.model.n_patches < 2 or self.model.n_rois < 2:
            problems.append(
                "training hides regions and patches, so it needs at least 2 of each, "
                f"got {self.model.n_rois} regions and {self.model.n_patches} patches"
            )
        _refuse(problems)


SECTIONS: dict[str, type] = get_type_hints(Recipe)
Table = dict[str, dict[str, Any]]


def load_recipe(
    source: str | Path,
    *,
    settings: Sequence[str] = (),
    n_rois: int | None = None,
    n_gradients: int | None = None,
) -> Recipe:
    """Read a shipped recipe (by name) or a TOML file, apply `settings`, fill in what the data decide.

    Parameters
    ----------
    source
        One of RECIPES, or the path of a TOML file.
    settings
        `section.key=value`, later ones win; values as in TOML, bare words are strings.
    n_rois, n_gradients
        Of the data and of the gradient table. A recipe that names other regions, or more gradients, is
        refused; fewer gradients are the first ones of the table.

    Raises
    ------
    InputError
        Unknown recipe, section, key or type; values that cannot be; a recipe for other data.
    """
    table = read_table(source)
    for setting in settings:
        section, key, value = _parse_setting(setting)
        table.setdefault(section, {})[key] = value
    model = table.setdefault("model", {})
    if n_rois is not None and model.setdefault("n_rois", n_rois) != n_rois:
        raise InputError(
            f"The recipe says model.n_rois = {model['n_rois']}, but the data have {n_rois}.",
            hint="Leave model.n_rois out: it is taken from the data.",
        )
    if n_gradients is not None and model.setdefault("n_gradients", n_gradients) > n_gradients:
        raise InputError(
            f"The recipe says model.n_gradients = {model['n_gradients']}, but the table has {n_gradients}.",
            hint="Leave model.n_gradients out to use all; a smaller number uses the first ones.",
        )
    return recipe_from_table(table, origin=str(source))


def recipe_from_table(table: Mapping[str, Any], *, origin: str) -> Recipe:
    """Check sections, keys and types, and build the dataclasses. `origin` names the source in errors."""
    sections = {}
    for name, values in table.items():
        if name not in SECTIONS or not isinstance(values, dict):
            raise InputError(f"{origin}: {_unknown('section', name, SECTIONS)}")
        sections[name] = dataclass_from_table(SECTIONS[name], values, origin=f"{origin} [{name}]")
    return Recipe(**sections)


def dataclass_from_table(kind: type, values: Mapping[str, Any], *, origin: str) -> Any:
    """Build a config dataclass from a table; unknown keys and wrong types are refused."""
    types = get_type_hints(kind)
    for key in values:
        if key not in types:
            raise InputError(f"{origin}: {_unknown('key', key, types)}")
    return kind(**{key: _typed(value, types[key], f"{origin} {key}") for key, value in values.items()})


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every key written out."""
    table = {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        for section, values in asdict(recipe).items()
    }
    return tomli_w.dumps(table)


def differing_keys(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """`section.key` -> (value in one, value in the other), where they differ."""
    flat_one, flat_other = _flat(one), _flat(other)
    return {key: (flat_one[key], flat_other[key]) for key in flat_one if flat_one[key] != flat_other[key]}


def read_table(source: str | Path) -> Table:
    """The raw table of a shipped recipe or of a TOML file; keys are not checked yet."""
    if str(source) in RECIPES:
        text = (resources.files("bjepa.model") / "configs" / f"{source}.toml").read_text(encoding="utf-8")
    else:
        path = Path(source)
        if not path.is_file():
            close = difflib.get_close_matches(str(source), RECIPES, n=1)
            hint = (
                f"Did you mean '{close[0]}'?"
                if close
                else "Give one of these names, or the path of a TOML file."
            )
            raise InputError(f"No recipe {str(source)!r}; shipped ones are {', '.join(RECIPES)}.", hint=hint)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as text: {error}.") from error
    try:
        table: Table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not valid TOML: {error}.") from error
    return table


def _parse_setting(setting: str) -> tuple[str, str, Any]:
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot and section and key):
        raise InputError(
            f"--set takes section.key=value, got {setting!r}.", hint="For example: --set train.epochs=2"
        )
    if section not in SECTIONS:
        raise InputError(f"--set {setting}: {_unknown('section', section, SECTIONS)}")
    if key not in (known := get_type_hints(SECTIONS[section])):
        raise InputError(f"--set {setting}: {_unknown('key', key, known)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    return section, key, _typed(value, known[key], f"--set {section}.{key}")


def _typed(value: Any, kind: Any, name: str) -> Any:
    """`value` as `kind` (int, float, bool, str, a Literal of strings, or a pair of floats), or InputError."""
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind == Range and isinstance(value, list | tuple) and len(value) == 2:
        return tuple(_typed(v, float, name) for v in value)
    if get_origin(kind) is Literal:
        allowed = f"one of {', '.join(map(repr, get_args(kind)))}"
    else:
        allowed = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
            kind, "two numbers [low, high]"
        )
    raise InputError(f"{name} must be {allowed}, got {value!r}.")


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}.{meant} Known: {', '.join(known)}."


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {f"{s}.{k}": v for s, values in asdict(recipe).items() for k, v in values.items()}


def _refuse(problems: list[str]) -> None:
    if problems:
        raise InputError("; ".join(problems) + ".")
