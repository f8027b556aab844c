"""The cross-check with BrainSpace: agreement of single components, and how exact either side is."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bjepa.gradients.figures.style import BLUE, ORANGE, RED, component_axis, tidy


def cross_check_figure(check: dict[str, Any]) -> Figure:
    """`check`: the content of cross_check.json."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    number = np.arange(1, len(check["abs_r"]) + 1)
    left.vlines(number, check["abs_r_min_over_seeds"], check["abs_r"], color="#c0cad6", linewidth=4)
    left.plot(number, check["abs_r"], "o", color=BLUE, markersize=5, label="seed 0")
    left.plot(
        number, check["abs_r_min_over_seeds"], "_", color=RED, markersize=9, label="lowest of seeds 0-4"
    )
    left.set_ylabel("|r| with BrainSpace's component")
    span = max(1 - min(check["abs_r_min_over_seeds"]), 1e-3)
    left.set_ylim(1 - 1.15 * span, 1 + 0.1 * span)
    right.semilogy(number, check["residual_brainspace"], "o-", color=ORANGE, label="BrainSpace", markersize=4)
    right.semilogy(number, check["residual"], "o-", color=BLUE, label="bjepa", markersize=4)
    right.set_ylabel("relative residual of the eigenpair")
    for axes in (left, right):
        component_axis(axes, len(number))
        axes.legend(frameon=False, fontsize=9)
        tidy(axes)
    return figure
