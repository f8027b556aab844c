"""The one exception that a user's input can cause, and how it is told."""


class InputError(ValueError):
    """Input or usage that cannot be worked with.

    The message names the file or argument, what was found and what is allowed; `hint` says what to do.
    Commands print both as one sentence each and exit with status 2 (or note the scan as failed).
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments are lost by the default pickling
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[InputError], message: str, hint: str) -> InputError:
    return kind(message, hint=hint)
