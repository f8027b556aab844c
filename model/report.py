"""The page of a run: curves of loss, schedules and monitors, and in words what they say."""

from pathlib import Path
from typing import Any

from bjepa.model.collapse import LEAST_SCAN_SHARE, verdicts
from bjepa.model.masking import KINDS
from bjepa.model.runlog import read_metrics
from bjepa.preproc.html import figure_uri, write_page


def write_report(folder: Path, *, facts: dict[str, str], notes: list[str]) -> None:
    """Write report.html of a run folder from its metrics.jsonl.

    `facts` are shown as tiles (label -> value), `notes` as warnings after those of the monitors.
    """
    rows = read_metrics(folder)
    steps = [row for row in rows if "step" in row]
    epochs = [row for row in rows if "step" not in row]
    write_page(
        folder / "report.html",
        "train.html",
        package="bjepa.model",
        facts=facts,
        warnings=verdicts(epochs) + notes,
        loss_figure=_loss_figure(steps, epochs),
        schedule_figure=_schedule_figure(steps),
        monitor_figure=_monitor_figure(epochs),
        epochs=epochs,
    )


def _loss_figure(steps: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> str:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3.6))
    for kind in KINDS:
        _line(axis, steps, "step", f"loss_{kind}", label=kind.replace("_", " "), linewidth=0.7, alpha=0.7)
    _line(axis, steps, "step", "loss", label="loss", color="black", linewidth=1.2)
    _line(
        axis, epochs, "last_step", "loss", label="mean of an epoch", color="black", marker="o", linestyle=""
    )
    axis.set(xlabel="update", ylabel="loss")
    axis.legend(frameon=False, ncols=5, fontsize=8)
    return figure_uri(figure)


def _schedule_figure(steps: list[dict[str, Any]]) -> str:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(11, 2.4), gridspec_kw={"wspace": 0.45})
    for axis, name in zip(axes, ("lr", "weight_decay", "ema", "grad_norm"), strict=True):
        _line(axis, steps, "step", name)
        axis.set(xlabel="update", title=name)
    return figure_uri(figure)


def _monitor_figure(epochs: list[dict[str, Any]]) -> str:
    import matplotlib.pyplot as plt

    names = (
        "target_scan_share",
        "prediction_r2_over_position",
        "effective_rank",
        "target_std",
        "prediction_std",
    )
    figure, axes = plt.subplots(1, 5, figsize=(13, 2.4), gridspec_kw={"wspace": 0.45})
    for axis, name in zip(axes, names, strict=True):
        _line(axis, epochs, "epoch", name, marker="o", markersize=3)
        axis.set(xlabel="epoch", title=name)
        axis.title.set_fontsize(9)
    axes[0].axhline(LEAST_SCAN_SHARE, linestyle=":", color="gray")
    axes[1].axhline(0, linestyle=":", color="gray")
    return figure_uri(figure)


def _line(axis: Any, rows: list[dict[str, Any]], x: str, y: str, **style: Any) -> None:
    known = [row for row in rows if row.get(y) is not None]
    axis.plot([row[x] for row in known], [row[y] for row in known], **style)
