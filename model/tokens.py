"""Lists of token numbers: -1 is padding, so that scans with different counts share one tensor.

B scans, K places, D features. Padding never influences a result: no token attends to it, no loss counts it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = -1


def pad(indices: Sequence[Tensor]) -> Tensor:
    """Lists of token numbers -> (B, K) int64, K the longest, the rest PADDING at the end."""
    return torch.nn.utils.rnn.pad_sequence(list(indices), batch_first=True, padding_value=PADDING)


def is_present(index_BK: Tensor) -> Tensor | None:
    """(B, K) bool, False at padding; None where nothing is padded (kernels are faster without a mask)."""
    present_BK = index_BK >= 0
    return None if bool(present_BK.all()) else present_BK


def gather_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Tokens by number, in the order of the list, duplicates kept: (B, K, D). Padding gives token 0."""
    where = index_BK.clamp(min=0)[:, :, None].expand(-1, -1, tokens_BND.shape[2])
    return tokens_BND.gather(1, where)


def gather_positions(positions_NW: Tensor, index_BK: Tensor) -> Tensor:
    """Rows of the position table by token number: (B, K, W). Padding gives row 0."""
    # embedding, not indexing: the gradient of indexing adds in no fixed order on several CPU threads
    return F.embedding(index_BK.clamp(min=0), positions_NW)


def clear_padding(tokens_BKD: Tensor, present_BK: Tensor | None) -> Tensor:
    """Zeros at padding."""
    return tokens_BKD if present_BK is None else tokens_BKD * present_BK[:, :, None]
