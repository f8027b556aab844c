"""Lists of token numbers: padded at the borders, packed inside.

Scans of a batch have different counts of tokens. At the borders a batch is one tensor (B, K) in which -1 is
padding; inside, the padding is left out and the scans lie back to back, so that nothing is computed for it:

    padded  (B, K)    [3 7 9 .]      packed  (n,)  [3 7 9 | 0 2 4 8]      lengths (3, 4)
                      [0 2 4 8]

B scans, K places of a list, n tokens of all scans, N tokens of a whole scan, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = -1


def pad(indices: Sequence[Tensor]) -> Tensor:
    """Lists of token numbers -> (B, K) int64, K the longest, the rest PADDING at the end."""
    return torch.nn.utils.rnn.pad_sequence(list(indices), batch_first=True, padding_value=PADDING)


@dataclass(frozen=True)
class TokenList:
    """The tokens of a batch, scan after scan, in the order of the lists; duplicates are kept."""

    token_n: Tensor  # (n,) int64, numbers within their scan
    scan_n: Tensor  # (n,) int64, rising
    place_n: Tensor | None  # (n,) int64, where in the padded tensor, B * K flattened; None: nothing is padded
    lengths: tuple[int, ...]  # of each scan
    n_places: int  # K

    @staticmethod
    def of(index_BK: "Tensor | TokenList") -> "TokenList":
        """Of a padded tensor of token numbers; a TokenList is returned as it is."""
        if isinstance(index_BK, TokenList):
            return index_BK
        B, K = index_BK.shape
        present_BK = index_BK >= 0
        lengths = tuple(present_BK.sum(dim=1).tolist())
        place = None if min(lengths, default=K) == K else present_BK.flatten().nonzero().flatten()
        token = index_BK.flatten() if place is None else index_BK.flatten().index_select(0, place)
        scan = torch.arange(B, device=token.device).repeat_interleave(
            torch.tensor(lengths, device=token.device), output_size=sum(lengths)
        )
        return TokenList(token, scan, place, lengths, K)

    @staticmethod
    def all_of(n_scans: int, n_tokens: int, *, device: torch.device) -> "TokenList":
        """Every token of every scan."""
        token = torch.arange(n_tokens, device=device).repeat(n_scans)
        scan = torch.arange(n_scans, device=device).repeat_interleave(n_tokens)
        return TokenList(token, scan, None, (n_tokens,) * n_scans, n_tokens)

    def pack(self, x_BKD: Tensor) -> Tensor:
        """(B, K, D) -> (n, D): leave the padding out."""
        flat = x_BKD.flatten(0, 1)
        return flat if self.place_n is None else flat.index_select(0, self.place_n)

    def unpack(self, x_nD: Tensor) -> Tensor:
        """(n, D) -> (B, K, D), zeros at padding."""
        shape = (len(self.lengths), self.n_places, x_nD.shape[1])
        if self.place_n is None:
            return x_nD.view(shape)
        flat = x_nD.new_zeros(shape[0] * shape[1], shape[2])
        return flat.index_copy(0, self.place_n, x_nD).view(shape)

    def number(self, n_tokens: int) -> Tensor:
        """(n,) int64 numbers that differ between scans: scan * n_tokens + token."""
        return self.scan_n * n_tokens + self.token_n


def find_tokens(wanted: TokenList, among: TokenList, *, n_tokens: int) -> Tensor:
    """Where the tokens of `wanted` lie in the packed `among`: (n of wanted,) int64.

    `among` must be sorted within each scan and hold all of `wanted`.
    """
    numbers = wanted.number(n_tokens)
    if len(among.token_n) == n_tokens * len(among.lengths):
        return numbers
    return torch.searchsorted(among.number(n_tokens), numbers)


def gather_positions(positions_NW: Tensor, token_n: Tensor) -> Tensor:
    """Rows of the position table by token number: (n, W)."""
    # embedding, not indexing: the gradient of indexing adds in no fixed order on several CPU threads
    return F.embedding(token_n, positions_NW)
