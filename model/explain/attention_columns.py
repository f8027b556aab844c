"""How much attention each key receives, without ever holding the matrix of scores.

    A = mean over heads of softmax(q k^T / sqrt(d))        (m, n), every row adds up to 1
    w A                                                    (n,): rows weighed by w, summed

With w = 1/m these are the column means of A. Scores are computed for some queries at a time and thrown away:
4,500 tokens and 12 heads would be 1 GB in float32, 256 queries of them are 55 MB.

m queries, n keys, H heads, d features of a head, W weightings at once.
"""

import torch
from torch import Tensor

CHUNK = 256  # queries at a time


def weighted_columns(q_mHd: Tensor, k_nHd: Tensor, weights_Wm: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """`weights @ A`, (W, n) float64, on the device of the queries."""
    q_HmD = q_mHd.transpose(0, 1).float() * q_mHd.shape[-1] ** -0.5
    k_HDn = k_nHd.permute(1, 2, 0).float()
    weights = weights_Wm.to(q_mHd.device, torch.float32)
    total = torch.zeros(len(weights), len(k_nHd), device=q_mHd.device, dtype=torch.float64)
    for start in range(0, len(q_mHd), chunk):
        rows = (q_HmD[:, start : start + chunk] @ k_HDn).softmax(dim=-1).mean(dim=0)  # (c, n)
        total += (weights[:, start : start + chunk] @ rows).double()
    return total
