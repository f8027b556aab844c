"""The curves of a run's page, as SVG inside it (`page_figures.py`).

A curve has at most MAX_POINTS points: of a long run each is the mean of some updates, of grad_norm the
largest, so that no jump is hidden. Shaded is where a monitor is a worry (model/collapse.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bjepa.gradients.figures.style import legend_above
from bjepa.model.collapse import LEAST_SCAN_SHARE, LEAST_STD, MOST_DEAD, least_rank
from bjepa.model.masking import KINDS
from bjepa.model.page_figures import CURVES, INK, SHADE, panels

Rows = Sequence[dict[str, Any]]
MAX_POINTS = 2000
MANY_EPOCHS = 40  # more have no dots
R2, LOWEST_R2 = "prediction_r2_over_position", -1.0  # drawn no lower: the first epochs may be at -20
SPIKES = ("grad_norm",)  # whose largest is shown


def thinned(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    """Points of the rows that know `y`, at most MAX_POINTS: means of equal runs of them, or their largest."""
    known = [row for row in rows if row.get(y) is not None]
    places, values = (np.array([row[name] for row in known], dtype=float) for name in (x, y))
    if len(known) > MAX_POINTS:
        starts = np.linspace(0, len(known), MAX_POINTS, endpoint=False).astype(int)
        counts = np.diff([*starts, len(known)])
        values = (
            np.maximum.reduceat(values, starts) if y in SPIKES else np.add.reduceat(values, starts) / counts
        )
        places = places[starts]
    return places.tolist(), values.tolist()


def loss_figure(steps: Rows, epochs: Rows) -> str:
    """Loss over updates: in all, within each kind, and the mean of each epoch."""
    with panels(1, height=2.9) as ((axis,), done):
        for kind, colour in zip(KINDS, CURVES, strict=True):
            _curve(axis, steps, "step", f"loss_{kind}", label=kind.replace("_", " "), color=colour, lw=0.9)
        _curve(axis, steps, "step", "loss", label="all (what is minimised)", color=INK, lw=1.2)
        if len(epochs) <= MANY_EPOCHS:
            ends = [0, *(row["last_step"] for row in epochs)]
            middles = [row | {"at": (a + b) / 2} for row, a, b in zip(epochs, ends, ends[1:], strict=False)]
            _curve(axis, middles, "at", "loss", label="mean of an epoch", color=INK, marker="o", ls="")
        axis.set_xlabel("update")
        legend_above(axis, 5)
    return done[0]


def monitor_figure(epochs: Rows, *, n_features: int) -> str:
    """Six panels over epochs, worries shaded."""
    with panels(3, n_rows=2, height=4.8) as (axes, done):
        share, r2, rank, std, dead, alike = axes
        _epochs(share, epochs, "target_scan_share", title="share between scans")
        _epochs(r2, [_floored(row) for row in epochs], R2, title="R² over position")
        pair = {"effective_rank": "targets", "context_effective_rank": "context"}
        _epochs(rank, epochs, *pair, labels=pair, title="effective rank")
        pair = {"target_std": "targets", "prediction_std": "predictions"}
        _epochs(std, epochs, *pair, labels=pair, title="spread (std)")
        pair = {"target_dead_share": "targets", "prediction_dead_share": "predictions"}
        _epochs(dead, epochs, *pair, labels=pair, title="dead features, share")
        _epochs(alike, epochs, "scan_similarity", title="likeness of scans (cosine)")
        share.set_ylim(0, 1)
        r2.set_ylim(min(r2.get_ylim()[0], -0.05), max(r2.get_ylim()[1], 0.1))
        rank.set_ylim(0, max(rank.get_ylim()[1], 1.5 * least_rank(n_features)))
        std.set_ylim(0, None)
        dead.set_ylim(-0.02, 1)
        alike.set_ylim(min(alike.get_ylim()[0], 0.5), 1.02)
        for axis, limit in ((share, LEAST_SCAN_SHARE), (r2, 0.0), (rank, least_rank(n_features))):
            _shade(axis, below=limit)
        _shade(std, below=LEAST_STD)
        _shade(dead, above=MOST_DEAD)
    return done[0]


def schedule_figure(steps: Rows) -> str:
    """Learning rate, weight decay, EMA and the gradient's norm over updates."""
    titles = {
        "lr": "learning rate",
        "weight_decay": "weight decay",
        "ema": "EMA: old target kept",
        "grad_norm": "norm of the gradient",
    }
    with panels(4, height=2.2) as (axes, done):
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            _curve(axis, steps, "step", name, color=CURVES[0])
            axis.set(xlabel="update", title=title)
        axes[3].set_ylim(0, None)
    return done[0]


def mask_figure(epochs: Rows) -> str:
    """Tokens of a scan's mask, and the kinds of its targets, over epochs."""
    with panels(2, height=2.3) as ((tokens, kinds), done):
        pair = {"context_tokens": "context", "target_tokens": "targets"}
        _epochs(tokens, epochs, *pair, labels=pair, title="tokens of a scan, mean")
        tokens.set_ylim(0, None)
        names = {f"share_{kind}": kind.replace("_", " ") for kind in KINDS}
        _epochs(kinds, epochs, *names, labels=names, title="share of the targets")
        kinds.set_ylim(0, 1)
    return done[0]


def speed_figure(steps: Rows, epochs: Rows) -> str:
    """Series and tokens a second, and memory."""
    from matplotlib.ticker import EngFormatter

    with panels(3, height=2.3) as ((series, tokens, memory), done):
        _curve(series, steps, "step", "samples_per_s", color=CURVES[0], lw=0.9)
        series.set(xlabel="update", title="series a second")
        _epochs(tokens, epochs, "tokens_per_s", title="tokens a second")
        _epochs(memory, epochs, "memory_gb", title="memory, GB at most so far")
        for axis in (series, tokens, memory):
            axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        tokens.yaxis.set_major_formatter(EngFormatter(sep=""))
    return done[0]


def probe_figure(epochs: Rows) -> str | None:
    """Scores of the probe, shaded up to what is scored without any knowledge; None without a probe."""
    probed = [row for row in epochs if "probe_scans" in row]
    if not probed:
        return None
    names = {
        name: "networks' means" if "networks" in name else "mean of all tokens"
        for name in probed[-1]
        if name.startswith("probe_") and name not in ("probe_scans", "probe_chance")
    }
    score = next(iter(names)).removeprefix("probe_").replace("_", " ").replace("r2", "R²")
    with panels(2, height=2.5) as ((axis, empty), done):
        _epochs(axis, probed, *names, labels=names, title=f"{score}, participants not in the fit")
        chance = probed[-1]["probe_chance"]
        low, high = axis.get_ylim()
        axis.set_ylim(max(min(low, chance - 0.1), LOWEST_R2), max(high, chance + 0.1))
        _shade(axis, below=chance)
        empty.set_visible(False)
    return done[0]


def _epochs(axis: Any, rows: Rows, *names: str, title: str, labels: dict[str, str] | None = None) -> None:
    for name, colour in zip(names, CURVES, strict=False):
        dots = "o" if len(rows) <= MANY_EPOCHS else ""
        _curve(axis, rows, "epoch", name, color=colour, marker=dots, label=(labels or {}).get(name))
    axis.set(xlabel="epoch", title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if labels:
        axis.legend(frameon=False, fontsize=8, loc="best", handlelength=1.4)


def _floored(row: dict[str, Any]) -> dict[str, Any]:
    value = row.get(R2)
    return row if value is None else row | {R2: max(value, LOWEST_R2)}


def _curve(axis: Any, rows: Rows, x: str, y: str, **style: Any) -> None:
    axis.plot(*thinned(rows, x, y), markersize=3, **style)


def _shade(axis: Any, *, below: float = -math.inf, above: float = math.inf) -> None:
    low, high = axis.get_ylim()
    if below > low:
        axis.axhspan(low, min(below, high), color=SHADE, linewidth=0, zorder=0)
    if above < high:
        axis.axhspan(max(above, low), high, color=SHADE, linewidth=0, zorder=0)
    axis.set_ylim(low, high)
