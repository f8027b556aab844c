"""From tokens to one vector a scan, in several ways, and how well a ridge finds a target in it.

    mean             over regions and patches                                  D
    region           over patches, region by region                            R D
    network          over patches and the regions of a network                 K D
    pairs            correlation of two regions' tokens over patches and features, Fisher z      R (R - 1) / 2
    network pairs    the same of the networks' mean tokens                     K (K - 1) / 2
    network log      matrix logarithm of the networks' covariance (log-Euclidean)     K (K + 1) / 2
    features         covariance of two features over regions and patches       D (D + 1) / 2

The place is taken out first: from each token the mean of other scans at the same token. The last four are
second-order: they see what fluctuates together.

S scans, R regions, K networks, T patches, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
SHRINKAGE = 0.05  # of the networks' covariance towards its diagonal, before the logarithm
PENALTIES = np.logspace(-1, 6, 22)
N_FOLDS, N_REPEATS, N_BOOTSTRAP = 5, 2, 1000


def readouts(tokens_SRTD: Array, networks: NDArray[np.str_], *, reference_RTD: Array) -> dict[str, Array]:
    """Name -> (S, features)."""
    tokens = tokens_SRTD - reference_RTD
    names = np.unique(networks)
    by_network = np.stack(
        [tokens[:, networks == name].mean(axis=1) for name in names], axis=1
    )  # (S, K, T, D)
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    covariance = np.einsum("snd,sne->sde", flat, flat) / flat.shape[1]
    upper = np.triu_indices(tokens.shape[-1])
    return {
        "mean": tokens.mean(axis=(1, 2)),
        "region": tokens.mean(axis=2).reshape(len(tokens), -1),
        "network": by_network.mean(axis=2).reshape(len(tokens), -1),
        "pairs": _pairs(tokens),
        "network pairs": _pairs(by_network),
        "network log": _log_euclidean(by_network),
        "features": covariance[:, upper[0], upper[1]],
    }


def connectivity(series_SRF: Array) -> Array:
    """Functional connectivity, Fisher z: (S, R (R - 1) / 2)."""
    return _pairs(series_SRF[..., None])


def _pairs(x_SRTD: Array) -> Array:
    rows = _fluctuations(x_SRTD)
    norm = np.linalg.norm(rows, axis=2, keepdims=True)
    rows = rows / np.where(norm > 0, norm, 1)  # a missing region is constant: correlated with none
    upper = np.triu_indices(rows.shape[1], 1)
    correlation = rows @ rows.transpose(0, 2, 1)
    z: Array = np.arctanh(np.clip(correlation[:, upper[0], upper[1]], -0.999, 0.999))
    return z


def _log_euclidean(x_SRTD: Array) -> Array:
    rows = _fluctuations(x_SRTD).astype(np.float64)
    covariance = rows @ rows.transpose(0, 2, 1) / rows.shape[2]
    diagonal = np.einsum("skk->sk", covariance)[..., None] * np.eye(rows.shape[1])
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal)
    logarithm = (vectors * np.log(values)[:, None]) @ vectors.transpose(0, 2, 1)
    upper = np.triu_indices(rows.shape[1])
    found: Array = logarithm[:, upper[0], upper[1]] * np.where(upper[0] == upper[1], 1, np.sqrt(2))
    return found


def _fluctuations(x_SRTD: Array) -> Array:
    """(S, R, T D) without the mean over patches."""
    centred: Array = x_SRTD - x_SRTD.mean(axis=2, keepdims=True)
    return centred.reshape(*x_SRTD.shape[:2], -1)


@dataclass(frozen=True)
class Score:
    """Predictions of scans that the ridge has not seen, and what they explain."""

    predicted: NDArray[np.float64]  # (repeats, S)
    target: NDArray[np.float64]  # (S,)

    @property
    def r2(self) -> float:
        """Mean over the repeats."""
        return _r2(self.predicted, self.target)


def score(features: Mapping[str, Array], target: NDArray[np.float64]) -> dict[str, Score]:
    """Each readout's, and `best`'s: in each fold the readout that is best inside the training part.

    5 folds x 2 repeats, the same for all. The penalty is chosen in the training part by leave-one-out errors,
    and so is the readout that counts as `best`: no test fold has a say in either. One scan a participant.
    """
    from sklearn.model_selection import KFold

    n = len(target)
    predicted = {name: np.zeros((N_REPEATS, n)) for name in [*features, "best"]}
    for repeat in range(N_REPEATS):
        for train, test in KFold(N_FOLDS, shuffle=True, random_state=repeat).split(target):
            inner = {}
            for name, values in features.items():
                found, inner[name] = _ridge(values[train], target[train], values[test])
                predicted[name][repeat, test] = found
            chosen = max(inner, key=lambda name: inner[name])
            predicted["best"][repeat, test] = predicted[chosen][repeat, test]
    return {name: Score(p, target) for name, p in predicted.items()}


def _ridge(
    features: Array, target: NDArray[np.float64], test_features: Array
) -> tuple[NDArray[np.float64], float]:
    """Predictions for the test part; minus the leave-one-out squared error in the training part."""
    from sklearn.linear_model import RidgeCV

    features, test_features = (np.asarray(f, dtype=np.float64) for f in (features, test_features))
    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std == 0] = 1
    u, s, vt = np.linalg.svd((features - mean) / std, full_matrices=False)  # all axes: ridge loses nothing
    model = RidgeCV(PENALTIES).fit(u * s, target)
    predicted: NDArray[np.float64] = model.predict((test_features - mean) / std @ vt.T)
    return predicted, float(model.best_score_)


def interval(scores: list[Score], minus: list[Score] | None = None) -> tuple[float, float, float]:
    """Mean R2 of several seeds, and its 95 % interval over participants (percentiles of a bootstrap).

    With `minus`, of the difference: the same participants are drawn for both.
    """
    rng, n = np.random.default_rng(0), len(scores[0].target)

    def value(rows: NDArray[np.int64]) -> float:
        def mean(of: list[Score]) -> float:
            return float(np.mean([_r2(s.predicted[:, rows], s.target[rows]) for s in of]))

        return mean(scores) - (mean(minus) if minus else 0.0)

    drawn = [value(rng.integers(0, n, n)) for _ in range(N_BOOTSTRAP)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value(np.arange(n)), float(low), float(high)


def _r2(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    errors = ((predicted - target) ** 2).sum(axis=1)
    return float(np.mean(1 - errors / ((target - target.mean()) ** 2).sum()))
