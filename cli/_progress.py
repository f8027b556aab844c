"""A progress bar for work in several passes, on stderr, quiet when that is not a terminal."""

import sys
from types import TracebackType
from typing import Any


class PhaseBar:
    """One bar a pass: `begin` names it and its length, `step` advances it. A context manager."""

    def __init__(self, unit: str = "scan") -> None:
        self._unit = unit
        self._bar: Any = None

    def begin(self, name: str, total: int) -> None:
        """End the bar of the pass before and start another."""
        from tqdm import tqdm

        self._end()
        self._bar = tqdm(total=total or None, desc=name, unit=self._unit, disable=None, file=sys.stderr)

    def step(self, n: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(n)

    def scan(self, scan_id: str) -> None:
        """One scan is done, which is named."""
        if self._bar is not None:
            self._bar.set_postfix_str(scan_id, refresh=False)
            self._bar.update()

    def __enter__(self) -> "PhaseBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
