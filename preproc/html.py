"""Self-contained HTML pages: one frame for all reports, figures inside the file, nothing fetched."""

import base64
import io
from pathlib import Path
from typing import Any

import bjepa
from bjepa.preproc.files import write_text


def write_page(path: Path, template: str, *, package: str, **content: Any) -> None:
    """Fill `template` (in the folder `templates` of `package`) and write it, whole or not at all.

    Templates extend `page.html` of this package: blocks `title`, `lead` and `content`. Text is escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package), jinja2.PackageLoader("bjepa.preproc")],
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(version=bjepa.__version__, **content))


def figure_uri(figure: Any, *, dpi: int = 110) -> str:
    """A matplotlib figure as a PNG data URI, for `<img src=...>`. The figure is closed."""
    import matplotlib.pyplot as plt

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    return png_uri(png.getvalue())


def png_uri(png: bytes) -> str:
    """The bytes of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
