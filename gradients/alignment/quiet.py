"""Matrices that are not the user's: no warning about ties among their values."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_AFFINITY = logging.getLogger("bjepa.gradients.affinity")


@contextmanager
def without_tie_warnings() -> Iterator[None]:
    """Warnings of the affinity (equal values at the cut) are not shown."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    _AFFINITY.addFilter(is_error)
    try:
        yield
    finally:
        _AFFINITY.removeFilter(is_error)
