"""How the head moved in a run: translations, rotations, framewise displacement, DVARS over time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.files import write_aside
from bjepa.preproc.raw.confounds import FD_LIMIT, STD_DVARS_LIMIT
from bjepa.preproc.raw.mosaic import FAINT, GROUND, INK, encoded

F = NDArray[np.float64]

_COLOURS = ("#ff6a50", "#7bd88f", "#60c8ff")  # x, y, z: the colours of many viewers
_FD, _DVARS = "#f0a03c", "#6eb4f0"  # as the pictures of scans have them
_PIXELS = (1208, 620)
_DPI = 100
_LEAST = {"trans": 0.5, "rot": 0.5, "fd": 1.0, "dvars": 3.0}  # mm, degrees, mm, 1: less looks like stillness


def draw_motion(path: Path, params: F, fd: F, dvars: F, n_non_steady: int, t_r: float) -> None:
    """Four strips over one axis of time, as WebP; written whole or not at all.

    params : (T, 6) trans_x, y, z in mm and rot_x, y, z in rad; fd : (T,) mm; dvars : (T,) standardised;
    t_r : s. Frames that are not steady are shaded and may leave the strip: its scale is that of the others,
    the first step among them aside. Frames above a limit are ticked on top.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    minutes = np.arange(len(params)) * t_r / 60
    with style.context("default", after_reset=True):  # whatever the user's settings are
        figure = Figure(figsize=(_PIXELS[0] / _DPI, _PIXELS[1] / _DPI), dpi=_DPI, facecolor=_css(GROUND))
        canvas: Any = FigureCanvasAgg(figure)
        strips = figure.subplots(4, 1, sharex=True)
        figure.subplots_adjust(left=0.075, right=0.9, top=0.965, bottom=0.085, hspace=0.16)
        for strip in strips:
            _dress(strip, minutes, n_non_steady, t_r)
        _three(strips[0], minutes, params[:, :3], "translation\n(mm)", "trans", _LEAST["trans"])
        _three(strips[1], minutes, np.degrees(params[:, 3:]), "rotation\n(degrees)", "rot", _LEAST["rot"])
        scaled = slice(n_non_steady + 1, None)
        tops = [max(_LEAST[name], _largest(of[scaled])) for name, of in (("fd", fd), ("dvars", dvars))]
        _one(strips[2], minutes, fd, "FD\n(mm)", _FD, FD_LIMIT, "mm", tops[0])
        _one(strips[3], minutes, dvars, "std DVARS", _DVARS, STD_DVARS_LIMIT, "", tops[1])
        strips[3].set_xlabel(f"time (minutes); {len(params)} frames of {t_r:g} s", color=_css(FAINT))
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
    with write_aside(path) as aside:
        aside.write_bytes(encoded(Image.fromarray(np.ascontiguousarray(picture))))


def _dress(strip: Any, minutes: F, n_non_steady: int, t_r: float) -> None:
    """Ground, axes and the frames that are not steady."""
    strip.set_facecolor((32 / 255, 37 / 255, 45 / 255))
    strip.tick_params(colors=_css(FAINT), labelsize=9)
    strip.yaxis.label.set_color(_css(INK))
    for spine in strip.spines.values():
        spine.set_visible(False)
    strip.grid(axis="x", color=_css(FAINT), alpha=0.15, linewidth=0.8)
    half = t_r / 120  # minutes: half a frame
    strip.set_xlim(-half, minutes[-1] + half)
    if n_non_steady:
        strip.axvspan(-half, minutes[n_non_steady - 1] + half, color=_css(FAINT), alpha=0.35, linewidth=0)


def _three(strip: Any, minutes: F, values: F, label: str, name: str, least: float) -> None:
    """Lines of x, y and z; the axis spans at least -least to +least."""
    for number, colour in enumerate(_COLOURS):
        strip.plot(minutes, values[:, number], color=colour, linewidth=1.2, label=f"{name}_{'xyz'[number]}")
    strip.axhline(0, color=_css(FAINT), alpha=0.4, linewidth=0.8)
    reach = max(least, _largest(np.abs(values)))
    strip.set_ylim(-reach, reach)
    strip.set_ylabel(label)
    _legend(strip)


def _one(
    strip: Any, minutes: F, values: F, label: str, colour: str, limit: float, unit: str, top: float
) -> None:
    """One line with its limit; frames above it are ticked on top."""
    strip.plot(minutes, values, color=colour, linewidth=1.2)
    with np.errstate(invalid="ignore"):
        above = values > limit
    told = f"limit {limit:g}{' ' + unit if unit else ''}"
    strip.axhline(limit, color=_css(INK), linewidth=0.9, linestyle="--", label=told)
    finite = values[np.isfinite(values)]
    strip.set_ylim(0, top)
    marks = np.full(int(above.sum()), 0.96 * top)
    strip.plot(minutes[above], marks, "|", color=_COLOURS[0], markersize=7, label=f"{above.sum()} above")
    if len(finite):
        strip.plot([], [], " ", label=f"mean {finite.mean():.2f}")
    strip.set_ylabel(label)
    _legend(strip)


def _largest(values: F) -> float:
    """Of the finite ones, and a tenth more."""
    return 1.1 * float(values[np.isfinite(values)].max(initial=0))


def _legend(strip: Any) -> None:
    strip.legend(
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        fontsize=9,
        labelcolor=_css(FAINT),
        handlelength=1.1,
        borderaxespad=0,
    )


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
