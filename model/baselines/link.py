"""From decision values to probabilities: one slope and an offset for each class, fitted on held-out values.

    p(class c) = softmax_c(t f_c + b_c), t > 0; of two classes with one value f: logistic(t f + b)

Targets of the fit are softened, (n_c + 1) / (n_c + C) for one's own class, so that t stays finite when the
classes can be told apart. Differs from Platt: t is kept positive. Out-of-fold values of a method that has
found nothing tend to point the wrong way (the held-out class is the one that was rarer in training), and a
negative slope would turn the order of the test values round, and their AUC with it.
Sources: Platt 1999, "Probabilistic outputs for support vector machines" (two classes, softened targets);
Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599 (one slope for all classes).

B fits at once, n held-out values each, O = 1 (two classes) or C outputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MIN_SLOPE = 1e-3  # per standard deviation of the values
MAX_STEPS = 100
TOLERANCE = 1e-12  # of the mean log loss


def fit_link(values: Array, target: NDArray[np.int64], n_classes: int) -> tuple[Array, Array]:
    """Slopes (B,) and offsets (B, C), the first 0, from held-out values (B, n, O) and classes (B, n)."""
    f = _one_value_a_class(values)
    spread = f.std(axis=(1, 2))
    spread[spread == 0] = 1
    f = f / spread[:, None, None]
    soft = _softened(target, n_classes)
    slope, offset = np.zeros(len(f)), np.zeros((len(f), n_classes))
    slope, offset = _minimise(f, soft, slope, offset, slope_too=True)
    wrong = slope < MIN_SLOPE
    if wrong.any():  # a convex loss: with t bounded below, the best t is the bound
        slope[wrong] = MIN_SLOPE
        offset[wrong] = _minimise(
            f[wrong], soft[wrong], slope[wrong], np.zeros_like(offset[wrong]), slope_too=False
        )[1]
    return slope / spread, offset


def apply_link(values: Array, slope: Array, offset: Array) -> Array:
    """Probabilities (B, m, C) of values (B, m, O)."""
    return _softmax(slope[:, None, None] * _one_value_a_class(values) + offset[:, None, :])


def _one_value_a_class(values: Array) -> Array:
    if values.shape[2] > 1:
        return values
    return np.concatenate([np.zeros_like(values), values], axis=2)


def _softened(target: NDArray[np.int64], n_classes: int) -> Array:
    """What the link is fitted to, (B, n, C): rows sum to 1."""
    own = np.eye(n_classes)[target]  # (B, n, C)
    count = own.sum(axis=1)  # (B, C)
    high, low = (count + 1) / (count + n_classes), 1 / (count + n_classes)
    high_of_own = np.einsum("bnc,bc->bn", own, high)[:, :, None]
    low_of_own = np.einsum("bnc,bc->bn", own, low)[:, :, None]
    soft: Array = own * high_of_own + (1 - own) * low_of_own
    return soft


def _minimise(f: Array, soft: Array, slope: Array, offset: Array, *, slope_too: bool) -> tuple[Array, Array]:
    """Newton's method on all B at once; a step that does not lower a loss is halved."""
    n_fits, n, n_classes = f.shape
    # derivative of the C logits by (t, b_1, …, b_(C - 1))
    by_offset = np.broadcast_to(np.eye(n_classes)[:, 1:], (n_fits, n, n_classes, n_classes - 1))
    design = np.concatenate([f[..., None], by_offset], axis=3) if slope_too else by_offset
    theta = np.concatenate([slope[:, None], offset[:, 1:]], axis=1)
    free = slice(None) if slope_too else slice(1, None)

    def logits(at: Array) -> Array:
        offsets = np.concatenate([np.zeros((n_fits, 1)), at[:, 1:]], axis=1)  # (B, C)
        linear: Array = at[:, :1, None] * f + offsets[:, None, :]
        return linear

    loss = _loss(logits(theta), soft)
    for _ in range(MAX_STEPS):
        p = _softmax(logits(theta))
        gradient = np.einsum("bnc,bncj->bj", p - soft, design) / n
        weighted = p[..., None] * design
        mean = weighted.sum(axis=2)
        hessian = np.einsum("bncj,bnck->bjk", weighted, design) - np.einsum("bnj,bnk->bjk", mean, mean)
        ridge = 1e-12 * np.eye(gradient.shape[1])
        step = np.linalg.solve(hessian / n + ridge, gradient[:, :, None])[:, :, 0]
        size = np.ones(n_fits)
        for _ in range(30):
            tried = theta.copy()
            tried[:, free] -= size[:, None] * step
            new_loss = _loss(logits(tried), soft)
            worse = new_loss > loss
            if not worse.any():
                break
            size[worse] /= 2
        better = new_loss <= loss
        theta = np.where(better[:, None], tried, theta)
        done = loss - np.minimum(new_loss, loss) <= TOLERANCE
        loss = np.minimum(new_loss, loss)
        if done.all():
            break
    return theta[:, 0], np.concatenate([np.zeros((n_fits, 1)), theta[:, 1:]], axis=1)


def _loss(logits: Array, soft: Array) -> Array:
    top = logits.max(axis=2)
    log_sum = top + np.log(np.exp(logits - top[:, :, None]).sum(axis=2))
    loss: Array = (log_sum - np.einsum("bnc,bnc->bn", logits, soft)).mean(axis=1)
    return loss


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability: Array = e / e.sum(axis=-1, keepdims=True)
    return probability
