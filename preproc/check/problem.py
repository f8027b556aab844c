"""One thing that is wrong with an output folder."""

from dataclasses import dataclass
from pathlib import Path

RUN_GROUP = "Run bjepa-preprocess again with the stage 'group'."
RUN_PARTICIPANT = "Delete this scan's .json and .h5 and run the same bjepa-preprocess command again."
RUN_ALL = "Run the same bjepa-preprocess command again; finished scans are kept."


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file, and what to do about it."""

    path: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what} {self.fix}"
