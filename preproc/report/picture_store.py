"""Pictures of a page: inside it, as blocks of base64, until a budget is spent; the others links beside it."""

import base64
from pathlib import Path
from urllib.parse import quote

PICTURES_A_BLOCK = 100  # the script decodes only the blocks that it shows


class PictureStore:
    """Give it the pictures that matter most first. A picture that is given twice is stored once."""

    def __init__(self, output: Path, budget: int) -> None:
        """`budget` in bytes of base64; links are relative to `output`, where the page lies."""
        self._output, self._budget = output, budget
        self._places: dict[Path, int | str | None] = {}
        self._inside: list[str] = []

    def put(self, path: Path) -> int | str | None:
        """The number of a picture inside the page, a link to its file, or None where there is no file."""
        if path not in self._places:
            self._places[path] = self._put(path) if path.is_file() else None
        return self._places[path]

    def _put(self, path: Path) -> int | str:
        if self._budget > 0 and (size := 4 * -(-path.stat().st_size // 3)) <= self._budget:
            self._budget -= size
            self._inside.append(base64.b64encode(path.read_bytes()).decode())
            return len(self._inside) - 1
        self._budget = 0  # those after it are links too: which are inside can be told in a sentence
        return quote(path.relative_to(self._output).as_posix())

    @property
    def blocks(self) -> list[list[str]]:
        """The pictures inside, in base64, PICTURES_A_BLOCK together."""
        n = PICTURES_A_BLOCK
        return [self._inside[i : i + n] for i in range(0, len(self._inside), n)]
