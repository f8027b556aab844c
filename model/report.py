"""The page of a run: what the monitors say, the curves, the recipe."""

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bjepa.model.collapse import LEAST_SCAN_SHARE, LEAST_STD, MOST_DEAD, least_rank, signs, verdicts
from bjepa.model.config import SECTIONS, Recipe, load_recipe
from bjepa.model.report_figures import (
    MAX_POINTS,
    loss_figure,
    mask_figure,
    monitor_figure,
    probe_figure,
    schedule_figure,
    speed_figure,
)
from bjepa.model.runlog import read_metrics
from bjepa.preproc.html import write_page

TILES = {
    "target_scan_share": ("share between scans", ".2f"),
    "prediction_r2_over_position": ("R² over position", ".2f"),
    "effective_rank": ("effective rank", ".1f"),
    "samples_per_s": ("series a second", ".1f"),
    "memory_gb": ("GB of memory", ".1f"),
}  # of the last epoch


def write_report(folder: Path, *, facts: dict[str, str], notes: list[str]) -> None:
    """Write report.html of a run folder from its metrics.jsonl and config.toml.

    `facts` are shown as tiles (label -> value), `notes` as warnings after those of the monitors.
    """
    rows = read_metrics(folder)
    recipe = load_recipe(folder / "config.toml")
    steps = [row for row in rows if "step" in row]
    epochs = [row for row in rows if "step" not in row]
    n_features = recipe.model.target_dim
    figures = {
        "loss": loss_figure(steps, epochs),
        "monitors": monitor_figure(epochs, n_features=n_features),
        "schedules": schedule_figure(steps),
        "masks": mask_figure(epochs),
        "speed": speed_figure(steps, epochs),
        "probe": probe_figure(epochs),
    }
    write_page(
        folder / "report.html",
        "train.html",
        package="bjepa.model",
        facts=facts | _tiles(epochs),
        verdicts=verdicts(epochs, n_features=n_features),
        last=epochs[-1] if epochs else {},
        told_before=_told_before(epochs, n_features=n_features),
        notes=notes,
        figures=figures,
        updates_a_point=math.ceil(len(steps) / MAX_POINTS),
        limits={
            "share": LEAST_SCAN_SHARE,
            "std": LEAST_STD,
            "dead": MOST_DEAD,
            "rank": f"{least_rank(n_features):.3g}",
        },
        probe_column=recipe.train.probe_column,
        n_probed=next((row["probe_scans"] for row in reversed(epochs) if "probe_scans" in row), 0),
        epochs=epochs,
        recipe=_recipe_table(recipe),
    )


def _tiles(epochs: list[dict[str, Any]]) -> dict[str, str]:
    last = epochs[-1] if epochs else {}
    return {
        label: format(last[name], form) for name, (label, form) in TILES.items() if last.get(name) is not None
    }


def _told_before(epochs: list[dict[str, Any]], *, n_features: int) -> list[str]:
    """Warnings of earlier epochs whose reason the last epoch no longer shows."""
    still = signs(epochs[-1], n_features=n_features) if epochs else {}
    return [
        f"Told in epoch {row['epoch']}, and no longer so: {sentence}"
        for row in epochs
        for reason, sentence in row.get("warnings", {}).items()
        if reason not in still
    ]


def _recipe_table(recipe: Recipe) -> list[dict[str, Any]]:
    """Every key with its value; `default` where it has another one."""
    table = []
    for section, values in asdict(recipe).items():
        defaults = {f.name: f.default for f in fields(SECTIONS[section])}
        for key, value in values.items():
            default = defaults[key]
            table.append(
                {
                    "section": section,
                    "key": key,
                    "value": _plain(value),
                    "default": "" if value == default else _plain(default),
                }
            )
    return table


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return repr(value) if value == "" else f"{value:g}" if isinstance(value, float) else str(value)
