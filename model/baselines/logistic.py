"""Logistic regression with an L2 penalty, for many targets and penalties at once.

    minimise over w, b    sum_i log loss(y_i, w z_i + b)  +  alpha / 2 |w|²        (b is not penalised)

One weight vector for two classes (logistic function), one for each of more (softmax), as scikit-learn's
LogisticRegression with C = 1 / alpha, which the tests compare with. Here because a permutation test fits
10,000 of them to the same rows: all advance together, so each step is a few matrix products.
Method: Newton's, each step solved by conjugate gradients. On principal axes (rows at right angles, `Part`)
the Hessian is nearly diagonal, squared * mean p(1 - p) + alpha, which is the preconditioner; a step that does
not lower a loss is halved.
Source: Nocedal & Wright 2006, "Numerical Optimization", algorithm 7.1.

B fits at once, n rows, k axes, O outputs: 1 of two classes, C of C > 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.prepared import Part

Array = NDArray[np.float64]
MAX_STEPS = 100
MAX_CG = 60
CG_RESIDUAL = 1e-2  # of the gradient, squared lengths measured by the preconditioner: 1e-4
TOLERANCE = 1e-14  # Newton decrement of a row: twice its distance from the least loss


def fit_logistic(part: Part, target: NDArray[np.int64], alpha: Array, n_classes: int) -> tuple[Array, Array]:
    """Weights (k, B, O) and offsets (B, O) for class numbers (B, n) and penalties (B,)."""
    n_fits, k, n = len(target), part.train.shape[1], len(part.train)
    n_outputs = 1 if n_classes == 2 else n_classes
    y = (target.T == 1)[..., None] if n_outputs == 1 else target.T[..., None] == np.arange(n_classes)
    y = y.astype(np.float64)  # (n, B, O)
    weight, offset = np.zeros((k, n_fits, n_outputs)), np.zeros((n_fits, n_outputs))
    active = np.arange(n_fits)
    logits = np.zeros((n, n_fits, n_outputs))
    loss = _loss(logits, y, weight, alpha)
    for _ in range(MAX_STEPS):
        w, b, a, own = weight[:, active], offset[active], alpha[active], y[:, active]
        p = probabilities(logits)
        gradient = _times(part.train.T, p - own) + a[:, None] * w, (p - own).sum(axis=0)
        variance = (p * (1 - p)).mean(axis=0)  # (B, O)
        variance = np.maximum(variance, 1e-12)
        inverse = 1 / (part.squared[:, None, None] * variance + a[:, None]), 1 / (n * variance)
        decrement = _dot(gradient, (inverse[0] * gradient[0], inverse[1] * gradient[1]))
        going = decrement > TOLERANCE * n
        if not going.any():
            break
        active, w, b, a, own, p = active[going], w[:, going], b[going], a[going], own[:, going], p[:, going]
        gradient = gradient[0][:, going], gradient[1][going]
        inverse = inverse[0][:, going], inverse[1][going]
        step = _newton_step(part.train, p, a, gradient, inverse)
        old = loss[active]
        size = np.ones(len(active))
        for _ in range(30):
            new_w, new_b = w - size[:, None] * step[0], b - size[:, None] * step[1]
            logits = _times(part.train, new_w) + new_b
            new = _loss(logits, own, new_w, a)
            worse = new > old + 1e-13 * np.abs(old)
            if not worse.any():
                break
            size[worse] /= 2
        weight[:, active], offset[active], loss[active] = new_w, new_b, new
    return weight, offset


def probabilities(logits: Array) -> Array:
    """Of logits (…, O): of class 1 where O = 1, else of each class."""
    if logits.shape[-1] == 1:
        with np.errstate(over="ignore"):
            p: Array = 1 / (1 + np.exp(-logits))
        return p
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax: Array = e / e.sum(axis=-1, keepdims=True)
    return softmax


Pair = tuple[Array, Array]  # of weights (k, B, O) and offsets (B, O)


def _newton_step(z: Array, p: Array, alpha: Array, gradient: Pair, inverse: Pair) -> Pair:
    """Solve Hessian step = gradient for each of B, by preconditioned conjugate gradients."""

    def hessian(v: Pair) -> Pair:
        u = _times(z, v[0]) + v[1]
        h = p * (u - (p * u).sum(axis=-1, keepdims=True))  # with O = 1 this is p (1 - p) u
        return _times(z.T, h) + alpha[:, None] * v[0], h.sum(axis=0)

    step = np.zeros_like(gradient[0]), np.zeros_like(gradient[1])
    residual = gradient[0].copy(), gradient[1].copy()
    direction = inverse[0] * residual[0], inverse[1] * residual[1]
    size = first = _dot(residual, direction)
    for _ in range(MAX_CG):
        image = hessian(direction)
        curvature = _dot(direction, image)
        rate = np.where(curvature > 0, size / np.where(curvature > 0, curvature, 1), 0)[:, None]
        for i in range(2):
            step[i][...] += rate * direction[i]
            residual[i][...] -= rate * image[i]
        conditioned = inverse[0] * residual[0], inverse[1] * residual[1]
        new_size = _dot(residual, conditioned)
        if (new_size <= CG_RESIDUAL**2 * first).all():
            break
        ratio = np.where(size > 0, new_size / np.where(size > 0, size, 1), 0)[:, None]
        direction = conditioned[0] + ratio * direction[0], conditioned[1] + ratio * direction[1]
        size = new_size
    return step


def _times(matrix: Array, tensor: Array) -> Array:
    """(a, b) times (b, B, O): one product of matrices."""
    return (matrix @ tensor.reshape(len(tensor), -1)).reshape(-1, *tensor.shape[1:])


def _dot(one: Pair, other: Pair) -> Array:
    """(B,) inner products over weights and offsets."""
    product: Array = np.einsum("kbo,kbo->b", one[0], other[0]) + np.einsum("bo,bo->b", one[1], other[1])
    return product


def _loss(logits: Array, y: Array, weight: Array, alpha: Array) -> Array:
    """(B,) what is minimised."""
    if logits.shape[-1] == 1:
        log_loss = (np.logaddexp(0, logits) - y * logits).sum(axis=(0, 2))
    else:
        top = logits.max(axis=-1)
        log_sum = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
        log_loss = (log_sum - (y * logits).sum(axis=-1)).sum(axis=0)
    loss: Array = log_loss + alpha / 2 * np.einsum("kbo,kbo->b", weight, weight)
    return loss
