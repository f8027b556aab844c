"""Figures as SVG inside a page: their colours are names of the page, for light and for dark.

A figure is drawn in the place-holders INK, MUTED, …; its SVG then says `var(--text)`, … A page that shows one
defines those of `--curve-1` … and `--shade` that it uses, beside the colours of page.html. `standalone` gives
the figure as a file of its own, in the light page's colours.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bjepa.gradients.figures.style import agg, tidy

# What is drawn in these is replaced by a colour of the page
INK, MUTED, LINE, SHADE = "#000001", "#000002", "#000003", "#000004"
CURVES = ("#000005", "#000006", "#000007")
EIGHT_CURVES = (*CURVES, "#000008", "#000009", "#00000a", "#00000b", "#00000c")
PAGE_COLOURS = {
    INK: "--text",
    MUTED: "--muted",
    LINE: "--line",
    SHADE: "--shade",
    **{colour: f"--curve-{number}" for number, colour in enumerate(EIGHT_CURVES, 1)},
}
LIGHT = {"--text": "#1c2430", "--muted": "#5c6877", "--line": "#d9dfe7", "--shade": "#eef2f7"}
LIGHT |= {"--curve-1": "#1f5fa8", "--curve-2": "#c8641a", "--curve-3": "#2f8f5b", "--curve-4": "#a8201f"}
LIGHT |= {"--curve-5": "#7a4fb0", "--curve-6": "#8a7a1e", "--curve-7": "#c0458c", "--curve-8": "#4a8fa3"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bjepa",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "lines.linewidth": 1.4,
    "path.simplify": True,
}


@contextmanager
def panels(
    n_columns: int, *, n_rows: int = 1, width: float = 10.4, height: float
) -> Iterator[tuple[list[Any], list[str]]]:
    """Axes to draw on, and a list that holds the SVG afterwards. Sizes in inches, of all panels."""
    import matplotlib
    from matplotlib.figure import Figure

    done: list[str] = []
    with agg(), matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
        tidy(*axes)
        yield axes, done
        done.append(_svg(figure))


def _svg(figure: Any) -> str:
    """The drawing as an element of a page, in the page's colours, with no names that clash with others'."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[A-Za-z0-9_.]+_\d+">', "<g>", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for colour, name in PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    return svg


def standalone(svg: str) -> str:
    """The text of an .svg file: the colours are numbers, the ground is white, letters stay letters."""
    for name, colour in LIGHT.items():
        svg = svg.replace(f"var({name})", colour)
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}<rect width="100%" height="100%" fill="#ffffff"/>{svg[start:]}'
