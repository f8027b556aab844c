"""The prediction that is attributed: encoder, readout of a window, and one number out.

A linear head is cross-fitted: for each split, ridge or logistic regression on the participants' embeddings,
fitted on the development part (penalty chosen inside it), explains the test part. So each participant is
explained once, by a head that never saw them, and the score of the same heads on the same participants tells
whether there is anything to explain.

    output of a window = w . embedding + b        regression: in units of the target
                                                  two classes: log-odds of the last
                                                  more: the class asked for, minus the mean over classes
An embedding is the mean over windows and the head is linear, so the output of a participant is the mean of
the outputs of the windows: what is attributed in windows adds up.

B windows, D features, n participants.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.baselines.linear import linear_readout
from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.cohort import Cohort, Task
from bjepa.model.evaluation.intervals import Estimate, corrected_resampled_t
from bjepa.model.evaluation.metrics import MAIN_METRIC, bounds, score
from bjepa.model.evaluation.splits import Splits
from bjepa.model.explain.windows import Participants

Array = NDArray[np.float64]


class WindowNetwork(nn.Module):
    """Encoder and linear head as one network: a window to one number."""

    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: Encoder, weight_D: Array, bias: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("weight", torch.as_tensor(weight_D, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))

    def forward(self, x_BRL: Tensor, index_BK: Tensor | None, t_r_B: Tensor) -> Tensor:
        """(B,)."""
        out: Tensor = pool(self.encoder, x_BRL, index_BK, t_r_B) @ self.weight + self.bias
        return out


def pool(encoder: Encoder, x_BRL: Tensor, index_BK: Tensor | None, t_r_B: Tensor) -> Tensor:
    """Embedding of windows that have the same regions: mean over their tokens, (B, D)."""
    mean: Tensor = encoder(x_BRL, index_BK, t_r=t_r_B).mean(dim=1)
    return mean


@torch.no_grad()
def embed_participants(encoder: Encoder, participants: Participants) -> NDArray[np.float32]:
    """(n, D) mean over the windows of each participant, by their shares."""
    device = next(encoder.parameters()).device
    embedded = []
    for number in range(len(participants)):
        total: Array | float = 0.0
        for window in participants[number]:
            x, index, t_r = window.tensors(encoder.config.n_patches, device)
            total = total + window.share * pool(encoder, x, index, t_r)[0].double().cpu().numpy()
        embedded.append(np.asarray(total, dtype=np.float32))
    return np.stack(embedded)


@dataclass(frozen=True)
class LinearHead:
    """On embeddings as they are: `embedding @ weight + bias`."""

    weight: Array  # (D,)
    bias: float


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """A head per split, and what the heads are worth."""

    heads: list[LinearHead]
    head_of: NDArray[np.int64]  # (n,) number of the head that did not see the participant
    metric: str
    estimate: Estimate  # of the metric, over splits
    penalties: list[float]  # per feature, of each head


def cross_fit(
    embedding: NDArray[np.float32], cohort: Cohort, splits: Splits, *, target_class: str | None = None
) -> CrossFitted:
    """Fit a head per split. `target_class`: of more than two classes the one to explain; None: the last."""
    metric = MAIN_METRIC[cohort.task]
    heads, penalties, scores = [], [], []
    head_of = np.full(len(embedding), -1, dtype=np.int64)
    for split in splits:
        inside = split.development
        readout = linear_readout(
            embedding[inside],
            cohort.target[inside],
            split.fold[inside],
            embedding[split.test],
            task=cohort.task,
        )
        number = len(cohort.classes) - 1 if target_class is None else cohort.classes.index(target_class)
        heads.append(
            fit_head(
                embedding[inside],
                cohort.target[inside],
                readout.penalty,
                task=cohort.task,
                class_number=number,
            )
        )
        head_of[split.test] = split.number
        penalties.append(readout.penalty)
        scores.append(score(cohort.task, cohort.target[split.test], readout.prediction)[metric])
    sizes = [len(split.test) for split in splits]
    n_test = float(np.mean(sizes))
    estimate = corrected_resampled_t(
        scores, n_test=n_test, n_fitted=len(embedding) - n_test, bounds=bounds(metric)
    )
    return CrossFitted(heads=heads, head_of=head_of, metric=metric, estimate=estimate, penalties=penalties)


def fit_head(
    embedding: NDArray[np.float32],
    target: NDArray[Any],
    penalty: float,
    *,
    task: Task,
    class_number: int,
) -> LinearHead:
    """Standardise, ridge or logistic regression with `penalty` per feature, and all of it as one linear map.

    The same model as `linear_readout` fits (its rotation changes nothing that an L2 penalty sees).
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(embedding.astype(np.float64))
    standard, alpha = scaler.transform(embedding.astype(np.float64)), penalty * embedding.shape[1]
    if task == "regression":
        fitted = Ridge(alpha=alpha).fit(standard, target)
        weight, bias = fitted.coef_, float(fitted.intercept_)
    else:
        fitted = LogisticRegression(C=1 / alpha, solver="newton-cg", tol=1e-6).fit(standard, target)
        if len(fitted.classes_) == 2:
            sign = 1 if fitted.classes_[1] == class_number else -1
            weight, bias = sign * fitted.coef_[0], float(sign * fitted.intercept_[0])
        else:
            row = int(np.flatnonzero(fitted.classes_ == class_number)[0])
            weight = fitted.coef_[row] - fitted.coef_.mean(axis=0)
            bias = float(fitted.intercept_[row] - fitted.intercept_.mean())
    weight = weight / scaler.scale_
    return LinearHead(weight, bias - float(weight @ scaler.mean_))
