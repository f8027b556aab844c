"""The model card: README.md of a model folder, written from what is known and from nothing else.

Facts come from the description of the network, the origin of the data, and of a run: run.json, the recipe and
the last epoch's monitors, whose warnings stand at the top. No participant and no path is named. The licence
is left to whoever shares the model.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bjepa.model.collapse import verdicts
from bjepa.model.config import ModelConfig, Recipe, load_recipe
from bjepa.model.runlog import read_metrics

# Of an epoch's row, and what each says
MONITORS = {
    "loss": "mean over the epoch",
    "target_scan_share": "share of the targets' variance that lies between scans, at a fixed place",
    "prediction_r2_over_position": "of the predictions, over the other scans' mean target at the same place",
    "effective_rank": "directions that the targets use",
    "target_std": "spread of the targets' features",
    "prediction_std": "spread of the predictions' features",
}
CITATIONS = """\
- Dong et al. 2024, "Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal
  Masking", NeurIPS, arXiv:2409.19407: the method.
- Vos de Wael et al. 2020, "BrainSpace", Communications Biology, doi:10.1038/s42003-020-0794-7: the gradients.
- The atlas named above, and the study that the scans are of."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is known of the run."""

    recipe: Recipe
    run: Mapping[str, Any]  # run.json
    epochs: list[dict[str, Any]]  # rows of metrics.jsonl, one an epoch


def read_training(folder: Path) -> Training:
    """Of a run folder, as it is now."""
    return Training(
        recipe=load_recipe(folder / "config.toml"),
        run=json.loads((folder / "run.json").read_text(encoding="utf-8")),
        epochs=[row for row in read_metrics(folder) if "step" not in row],
    )


def model_card(config: ModelConfig, *, origin: Mapping[str, Any], training: Training | None = None) -> str:
    """The text of README.md. What is not known is not told."""
    atlas = origin.get("atlas")
    parts = [
        _front_matter(),
        f"# Brain-JEPA encoder: {config.n_rois} regions x {config.n_frames} frames\n",
        "It turns regional fMRI series into tokens, one a region and piece of time, and was trained to "
        "predict the tokens of hidden regions and times from the others, without labels. Made with bjepa.\n",
        *_warnings(training, config),
        _section("Trained on", _table(_data(origin, training))),
        _section("Network", _table(_network(config))),
    ]
    if training is not None:
        parts.append(_section("Training", _table(_how(training))))
        parts.append(_section("Monitors of the last epoch", _monitors(training)))
    parts += [
        _section("Use", _use(config, origin)),
        _section("Limits", _limits(config, atlas)),
        _section("Cite", CITATIONS + "\n"),
    ]
    return "\n".join(parts)


def _front_matter() -> str:
    return (
        "---\n"
        "library_name: bjepa\n"
        "tags:\n- fmri\n- neuroimaging\n- brain-jepa\n- self-supervised\n"
        "# license: to be filled in by whoever shares the model; think of the terms of the data\n"
        "---\n"
    )


def _warnings(training: Training | None, config: ModelConfig) -> list[str]:
    if training is None:
        return []
    found = verdicts(training.epochs, n_features=config.target_dim)
    return [f"> **Warning.** {sentence}\n" for sentence in found]


def _data(origin: Mapping[str, Any], training: Training | None) -> Iterable[tuple[str, Any]]:
    run: Mapping[str, Any] = training.run if training else {}
    yield "scans", origin.get("n_scans")
    yield "participants", origin.get("n_participants")
    yield "series", run.get("n_series")
    yield "atlas", origin.get("atlas")
    yield "SHA-256 of the atlas", run.get("atlas_sha256")
    if times := origin.get("t_r_out"):
        yield "seconds between frames", ", ".join(f"{t:g}" for t in times)
    yield "scaling", origin.get("scaling")


def _network(config: ModelConfig) -> Iterable[tuple[str, Any]]:
    yield "input", f"{config.n_rois} regions x {config.n_frames} frames"
    patches = f"{config.n_patches} pieces of {config.patch_size} frames"
    yield "tokens", f"{config.n_tokens:,}: {config.n_rois} regions x {patches}"
    yield "encoder", f"width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads"
    yield (
        "predictor",
        f"width {config.predictor_embed_dim}, {config.predictor_depth} blocks, "
        f"{config.predictor_num_heads} heads",
    )
    place = {"gradient": f"{config.n_gradients} gradients"}.get(config.region_position, "")
    yield "place of a region", place or config.region_position
    yield "time", "seconds" if config.time_position == "seconds" else "number of the piece"
    latent = "tokens of the target encoder" if config.predicts == "latent" else "the signal itself"
    yield "predicts", latent


def _how(training: Training) -> Iterable[tuple[str, Any]]:
    recipe, run = training.recipe, training.run
    done = training.epochs[-1]["epoch"] if training.epochs else run.get("epochs_done")
    yield "epochs", f"{done} of {recipe.train.epochs}"
    if training.epochs:
        yield "updates", training.epochs[-1].get("last_step")
    yield "series an update", run.get("series_per_update")
    yield "peak learning rate", run.get("lr")
    yield "loss", recipe.objective.loss
    yield "regularizer", recipe.objective.regularizer
    yield "target encoder's average", f"{recipe.objective.ema_start:g} to {recipe.objective.ema_end:g}"
    yield "masks", recipe.mask.sampler
    yield "seed", run.get("seed")
    yield "precision", run.get("precision")
    versions = run.get("versions", {})
    yield "software", ", ".join(f"{name} {number}" for name, number in versions.items()) or None


def _monitors(training: Training) -> str:
    last = training.epochs[-1] if training.epochs else {}
    rows = ((name, last.get(name), what) for name, what in MONITORS.items())
    lines = [f"| {name} | {value:.4g} | {what} |" for name, value, what in rows if value is not None]
    if not lines:
        return "None were recorded.\n"
    return "\n".join(["| monitor | value | what it says |", "|---|---|---|", *lines]) + "\n"


def _use(config: ModelConfig, origin: Mapping[str, Any]) -> str:
    times = origin.get("t_r_out") or []
    every = f", one frame every {times[0]:g} s" if len(times) == 1 else ""
    seconds = config.time_position == "seconds"
    given = f", t_r=[{times[0] if times else 2.0:g}]" if seconds else ""
    scaled = "jepa.about.scale(series)  # as the training data were" if origin.get("scaling") else "series"
    return (
        f"`series` is a scan as an array (frames, {config.n_rois} regions) in its own units{every}, of "
        f"{config.n_frames} frames or more; the regions are those of `atlas.tsv`, in that order.\n\n"
        "```python\n"
        "from bjepa.model import JEPA, Embedder\n\n"
        'jepa = JEPA.from_pretrained("MODEL")  # this folder, or its owner/name on the Hugging Face Hub\n'
        f"scaled = {scaled}\n"
        f"vector = Embedder(jepa).fit([scaled]).transform([scaled]{given})  # (1, {config.embed_dim})\n"
        "```\n"
    )


def _limits(config: ModelConfig, atlas: str | None) -> str:
    of = f" ({_plain(atlas)})" if atlas else ""
    return (
        f"- It knows the {config.n_rois} regions of its atlas{of}, in their order, and no others.\n"
        f"- Scans with fewer than {config.n_frames} frames have to be left out.\n"
        "- Series must be cleaned, resampled in time and scaled as the training data were; motion and "
        "scanner differences pass through.\n"
        "- What the embedding knows of a person was not measured here: compare it with functional "
        "connectivity by `bjepa-evaluate probe` before relying on it.\n"
        "- It is for research, not for diagnosis.\n"
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_plain(value)} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n" if lines else "Not recorded.\n"


def _plain(value: Any) -> str:
    """Text that stays within its cell."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
