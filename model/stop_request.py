"""SIGTERM is a request: a scheduler sends it some seconds before it kills."""

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Notes SIGTERM instead of dying of it. Use as a context; outside the main thread it hears nothing."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "StopRequest":
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
