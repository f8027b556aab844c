"""Numbers as text: a mean with its interval, p-values, sizes, names in a list, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bjepa.model.evaluation.intervals import Estimate

MINUS = "−"


def format_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """`0.41 [0.22, 0.60]`: mean and 95 % interval, two decimals or three significant digits."""
    if not np.isfinite(estimate.mean):
        return "undefined (equal predictions)"
    return f"{short(estimate.mean, signed=signed)} [{short(estimate.low)}, {short(estimate.high)}]"


def short(value: float, *, signed: bool = False) -> str:
    """Two decimals; three significant digits above 100; a true minus sign."""
    if not math.isfinite(value):
        return "n/a"
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if float(text) == 0:
        text = text.lstrip("-")
    text = f"+{text}" if signed and float(text) > 0 else text
    return text.replace("-", MINUS)


def format_p(p: float, *, name: str = "p") -> str:
    """`p = 0.032`, `p < 0.001`; without a name the number alone."""
    if not math.isfinite(p):
        return "n/a" if not name else f"{name} not defined"
    number = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    if not name:
        return number
    return f"{name} {number}" if number.startswith("<") else f"{name} = {number}"


def and_list(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def as_tsv(rows: Sequence[Sequence[Any]]) -> str:
    """A table as text, header first."""
    return "\n".join("\t".join(_cell(value) for value in row) for row in rows) + "\n"


def _cell(value: Any) -> str:
    """Six significant digits; NaN is n/a (BIDS)."""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if math.isfinite(value) else "n/a"
    return str(value)
