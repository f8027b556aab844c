"""From tokens to one vector a scan, in several ways, and how well a ridge finds a target in it.

The ways are those of bjepa.model.readouts.pooling, and `features`: the covariance of two features over
regions and patches, D (D + 1) / 2. The place is taken out first: from each token the mean of other scans at
the same token.

S scans, R regions, K networks, T patches, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model.readouts.pooling import Pooling, network_numbers, pool

Array = NDArray[np.floating]
PENALTIES = np.logspace(-1, 6, 22)
N_FOLDS, N_REPEATS, N_BOOTSTRAP = 5, 2, 1000
POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "region": "region",
    "network": "network",
    "pairs": "region_pairs",
    "network pairs": "network_pairs",
    "network log": "network_log",
}


def readouts(tokens_SRTD: Array, networks: NDArray[np.str_], *, reference_RTD: Array) -> dict[str, Array]:
    """Name -> (S, features)."""
    tokens = torch.from_numpy(tokens_SRTD - reference_RTD)
    network = torch.from_numpy(network_numbers(networks.tolist()))
    found = {name: pool(tokens, pooling, network_R=network).numpy() for name, pooling in POOLINGS.items()}
    flat = tokens.flatten(1, 2).numpy()
    covariance = np.einsum("snd,sne->sde", flat, flat) / flat.shape[1]
    upper = np.triu_indices(flat.shape[2])
    return {**found, "features": covariance[:, upper[0], upper[1]]}


def connectivity(series_SRF: Array) -> Array:
    """Functional connectivity, Fisher z: (S, R (R - 1) / 2)."""
    z: Array = pool(torch.from_numpy(series_SRF)[..., None], "region_pairs").numpy()
    return z


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
