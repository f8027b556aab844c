"""A picture as files (PNG to look at, SVG for a paper) and inside the page."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bjepa.preproc.files import write_aside
from bjepa.preproc.html import png_uri

DPI = 130
# text stays text; the same picture is the same file
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "bjepa"}


def save_picture(folder: Path, name: str, figure: Figure | None) -> str | None:
    """Write NAME.png and NAME.svg into `folder`, each whole; returns the PNG as a data URI.

    Without a figure both files are removed, if an earlier run left them, and None is returned.
    """
    import matplotlib

    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    if figure is None:
        for path in paths:
            path.unlink(missing_ok=True)
        return None
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, bbox_inches="tight")
    with write_aside(paths[0]) as aside:
        aside.write_bytes(png.getvalue())
    with write_aside(paths[1]) as aside, matplotlib.rc_context(_SVG):
        figure.savefig(aside, format="svg", dpi=DPI, bbox_inches="tight", metadata={"Date": None})
    return png_uri(png.getvalue())
