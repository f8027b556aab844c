"""Messages that say the same of many scans, counted once each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Something that is so for `n` scans; `example` says which the first was, and what was said of it."""

    example: str
    n: int


def reason_of(message: str) -> str:
    """A message without what differs from scan to scan: paths and numbers."""
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r"\S*/\S+", "…", message))


class Reasons:
    """Counts messages by reason as they come."""

    def __init__(self) -> None:
        self._counts: dict[str, Reason] = {}

    def add(self, scan_id: str, messages: Iterable[str]) -> None:
        """What was said of one scan."""
        for reason, message in {reason_of(m): m for m in messages}.items():
            known = self._counts.get(reason, Reason(f"{scan_id}: {message}", 0))
            self._counts[reason] = Reason(known.example, known.n + 1)

    def most_common(self) -> list[Reason]:
        """The most frequent first."""
        return sorted(self._counts.values(), key=lambda reason: -reason.n)
