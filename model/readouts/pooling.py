"""From a model's tokens to one vector a window, in several ways.

    mean            over regions and patches: the paper's readout                         D
    network         over patches and the regions of a network                             K D
    region          over patches, region by region                                        R D
    region_pairs    correlation of two regions' tokens over patches and features, Fisher z     R (R - 1) / 2
    network_pairs   the same of the networks' mean tokens                                 K (K - 1) / 2
    network_log     matrix logarithm of the networks' covariance (log-Euclidean)          K (K + 1) / 2

The last three are second-order: they see which regions fluctuate together. Of each region (or network) and
feature the mean over patches is taken off first, which also takes off all of a token's place that does not
change with time. What is left of the place, the clock of the patches, can be taken off before (`place`).
A missing region has no part in a mean; what is known of it alone (its features, its pairs, a network without
regions) is NaN, which linear methods fill with the training participants' mean.

Source of `mean`: Dong et al. 2024, "Brain-JEPA", arXiv:2409.19407, section 4. Of the logarithm: Arsigny et
al. 2006, "Log-Euclidean metrics", doi:10.1002/mrm.20965.

B windows, R regions, K networks, T patches, D features of a token, F of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.preproc.errors import InputError

Pooling = Literal["mean", "network", "region", "region_pairs", "network_pairs", "network_log"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
BY_NETWORK = ("network", "network_pairs", "network_log")  # need the networks' names
SECOND_ORDER = ("region_pairs", "network_pairs", "network_log")  # need two patches or more
LARGEST_R = 0.999  # before Fisher's z
SHRINKAGE = 0.05  # of the networks' covariance towards its diagonal, before the logarithm


def check_pooling(pooling: str, *, n_patches: int) -> None:
    """Refuse a name that is none, and a correlation over a single patch (InputError)."""
    if pooling not in POOLINGS:
        raise InputError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
    if pooling in SECOND_ORDER and n_patches < 2:
        raise InputError(
            f"pooling {pooling!r} correlates tokens over patches, but the model's windows have one patch.",
            hint="Take mean, network or region.",
        )


def pool(
    tokens_BRTD: Tensor,
    pooling: Pooling,
    *,
    present_BR: Tensor | None = None,
    network_R: Tensor | None = None,
    place_RTD: Tensor | None = None,
) -> Tensor:
    """(B, F) of the dtype of the tokens, F as `n_features` says.

    Parameters
    ----------
    tokens_BRTD
    present_BR : bool, optional
        False where a region is missing; what its tokens hold does not matter. Default: all are there.
    network_R : int64, optional
        Number of each region's network, 0 .. K - 1. Needed by BY_NETWORK.
    place_RTD : optional
        Taken off each token first: what a token holds whatever the scan.
    """
    B, R = tokens_BRTD.shape[:2]
    if place_RTD is not None:
        tokens_BRTD = tokens_BRTD - place_RTD
    if present_BR is None:
        present_BR = torch.ones(B, R, dtype=torch.bool, device=tokens_BRTD.device)
    tokens_BRTD = torch.where(present_BR[:, :, None, None], tokens_BRTD, 0.0)
    if pooling == "mean":
        return tokens_BRTD.mean(dim=2).sum(dim=1) / present_BR.sum(dim=1, keepdim=True)
    known, x = present_BR, tokens_BRTD
    if pooling in BY_NETWORK:
        if network_R is None:
            raise ValueError(f"pooling {pooling!r} needs network_R, got None.")
        x, known = _network_means(tokens_BRTD, present_BR, network_R)
    if pooling in ("region", "network"):
        return torch.where(known[:, :, None], x.mean(dim=2), torch.nan).flatten(1)
    return _log_covariance(x, known) if pooling == "network_log" else _pairs(x, known)


def n_features(pooling: Pooling, *, n_rois: int, embed_dim: int, n_networks: int = 0) -> int:
    """F, the length of a vector."""
    n = n_networks if pooling in BY_NETWORK else n_rois
    return {
        "mean": embed_dim,
        "network": n * embed_dim,
        "region": n * embed_dim,
        "network_log": n * (n + 1) // 2,
    }.get(pooling, n * (n - 1) // 2)


def network_numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """(R,) of the regions' networks by name, 0 .. K - 1 in the order of the sorted names.

    Raises InputError where all regions have the same name: there is nothing to pool by.
    """
    found, numbers = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    if len(found) < 2:
        raise InputError(
            f"Pooling by networks needs two or more; the regions all have the network {found.tolist()}.",
            hint="Take mean, region or region_pairs, or an atlas with networks.",
        )
    return numbers.astype(np.int64)


def _network_means(x_BRTD: Tensor, present_BR: Tensor, network_R: Tensor) -> tuple[Tensor, Tensor]:
    """Mean token of each network and patch, (B, K, T, D), and whether it has any region, (B, K)."""
    member_RK = torch.nn.functional.one_hot(network_R).to(x_BRTD.dtype)
    count_BK = present_BR.to(x_BRTD.dtype) @ member_RK
    total = torch.einsum("brtd,rk->bktd", x_BRTD, member_RK)
    return total / count_BK.clamp(min=1)[:, :, None, None], count_BK > 0


def _pairs(x_BRTD: Tensor, known_BR: Tensor) -> Tensor:
    """A region that does not vary correlates 0 with all; one that is not known, NaN."""
    rows = _fluctuations(x_BRTD)
    tiny = torch.finfo(rows.dtype).tiny ** 0.5
    rows = rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp(min=tiny)
    first, second = torch.triu_indices(rows.shape[1], rows.shape[1], 1, device=rows.device)
    r = (rows @ rows.transpose(1, 2))[:, first, second]
    z = torch.atanh(r.clamp(-LARGEST_R, LARGEST_R))
    return torch.where(known_BR[:, first] & known_BR[:, second], z, torch.nan)


def _log_covariance(x_BKTD: Tensor, known_BK: Tensor) -> Tensor:
    """In float64. A scan that lacks a network is NaN throughout: the logarithm mixes all."""
    rows = _fluctuations(x_BKTD).double()
    covariance = rows @ rows.transpose(1, 2) / rows.shape[2]
    diagonal = torch.diagonal(covariance, dim1=1, dim2=2)
    whole = (known_BK & (diagonal > 0)).all(dim=1)  # (B,)
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * torch.diag_embed(diagonal)
    values, vectors = torch.linalg.eigh(torch.where(whole[:, None, None], shrunk, eye))
    logarithm = (vectors * values.log()[:, None]) @ vectors.transpose(1, 2)
    first, second = torch.triu_indices(rows.shape[1], rows.shape[1], device=rows.device)
    weight = torch.where(first == second, 1.0, 2.0**0.5)  # so that lengths are those of the matrices
    found = torch.where(whole[:, None], logarithm[:, first, second] * weight, torch.nan)
    return found.to(x_BKTD.dtype)


def _fluctuations(x_BRTD: Tensor) -> Tensor:
    """(B, R, T D) without the mean over patches."""
    return (x_BRTD - x_BRTD.mean(dim=2, keepdim=True)).flatten(2)
