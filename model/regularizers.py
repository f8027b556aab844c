"""Against collapse: what context tokens must look like as a cloud of points, whatever is predicted.

A target encoder that answers with places instead of scans makes the prediction easy and the tokens useless
(docs/decisions/0014). These terms look at what is left of the tokens without their place,

    c = (z - mean of the batch's z at that token number) * sqrt(n / (n - 1)),   n scans hold that token,

so a cloud in which scans do not differ has no spread, however far apart the places are.

    vicreg    mean over features of max(0, 1 - std)  +  w * sum of squared covariances / D
              Bardes et al. 2022, arXiv 2105.04906
    sigreg    mean over random directions a of the Epps-Pulley statistic of y = c . a against N(0, 1),
              integral over t of |mean exp(i t y) - exp(-t² / 2)|² N(t; 0, 1), without its factor n
              Balestriero & LeCun 2025 (LeJEPA), arXiv 2511.08544

Both see the tokens of one passage through the network (train.batch_size series, at least two), so larger
batches, not more accumulated ones, make them more exact. B scans, K places, n tokens, D features.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TERMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "vicreg": ("variance", "covariance"),
    "sigreg": ("normality",),
}  # of each regularizer, as they are reported
VARIANCE_EPS = 1e-4  # under the root, as in VICReg
T_MAX, N_KNOTS = 4.0, 33  # of the integral over t, by trapezoids: beyond 4 the weight is 6e-5


def without_position(tokens_BKD: Tensor, index_BK: Tensor) -> Tensor:
    """(n, D) float32: tokens minus the mean of their number over the batch, without bias in the variance.

    Tokens whose number no other scan lists are left out. `index_BK` (B, K) int64 has -1 at padding.
    """
    present_BK = index_BK >= 0
    z_nD, number = tokens_BKD[present_BK].float(), index_BK[present_BK]
    size = int(number.max()) + 1 if len(number) else 0
    count = z_nD.new_zeros(size).index_add(0, number, torch.ones_like(number, dtype=z_nD.dtype))
    total = z_nD.new_zeros(size, z_nD.shape[1]).index_add(0, number, z_nD)
    n = count[number]
    shared = n > 1
    n_1 = n[shared, None]
    centred = z_nD[shared] - total[number[shared]] / n_1
    return centred * (n_1 / (n_1 - 1)).sqrt()


def variance_hinge(centred_nD: Tensor) -> Tensor:
    """Mean over features of max(0, 1 - std): 0 where every feature spreads by at least 1."""
    std = (centred_nD.square().mean(dim=0) + VARIANCE_EPS).sqrt()
    return F.relu(1 - std).mean()


def covariance_penalty(centred_nD: Tensor) -> Tensor:
    """Sum of the squared covariances of different features / D: 0 where they are uncorrelated."""
    covariance = centred_nD.T @ centred_nD / len(centred_nD)
    return (covariance - covariance.diag().diag()).square().sum() / len(covariance)


def sketched_normality(centred_nD: Tensor, *, n_projections: int, seed: int) -> Tensor:
    """Mean Epps-Pulley distance to N(0, 1) over random unit directions; 0 for an isotropic Gaussian.

    The directions follow from `seed` alone and are drawn on the CPU: the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(centred_nD.shape[1], n_projections, generator=generator)
    y_nA = centred_nD @ F.normalize(drawn, dim=0).to(centred_nD.device)
    t, step = torch.linspace(0, T_MAX, N_KNOTS), T_MAX / (N_KNOTS - 1)
    # even in t: twice the half line; exp(-t²/2) is what N(0, 1) has and, over sqrt(2 pi), the weight too
    normal = (-t.square() / 2).exp()
    weight = 2 * step * normal / math.sqrt(2 * math.pi)
    weight[0] /= 2
    weight[-1] /= 2
    distance = y_nA.new_zeros(())
    for at, expected, share in zip(t.tolist(), normal.tolist(), weight.tolist(), strict=True):
        angle = at * y_nA  # a knot at a time: (knots, n, A) would not fit
        missed = (angle.cos().mean(dim=0) - expected).square() + angle.sin().mean(dim=0).square()
        distance = distance + share * missed.mean()
    return distance


@contextmanager
def listening(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `encoder` returns while it is called by another module, with its graph."""
    heard: list[Tensor] = []
    handle = encoder.register_forward_hook(lambda _module, _inputs, output: heard.append(output))
    try:
        yield heard
    finally:
        handle.remove()
