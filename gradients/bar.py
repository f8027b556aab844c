"""What long work tells of its progress: the name and length of each step, and what is done of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Bar(Protocol):
    """One bar after the other. A command shows it; without one nothing is shown."""

    def begin(self, name: str, total: int) -> None:
        """End the step before and begin one of `total` parts, 0 where that is not known."""
        ...

    def step(self, n: int = 1) -> None:
        """So many more parts are done."""
        ...


class _NoBar:
    def begin(self, name: str, total: int) -> None:
        """Nothing to show."""

    def step(self, n: int = 1) -> None:
        """Nothing to show."""


NO_BAR: Bar = _NoBar()


def over(bar: Bar, name: str) -> Callable[[Iterable[Any], int], Iterator[Any]]:
    """What wraps so many steps and tells the bar of each, as `tqdm(steps, total=n)` does."""

    def wrap(steps: Iterable[Any], total: int) -> Iterator[Any]:
        bar.begin(name, total)
        for step in steps:
            yield step
            bar.step()

    return wrap
