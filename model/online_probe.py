"""Does the embedding tell anything of the participants yet? A cheap look every few epochs.

  1. who     scans of the run's own participants with a value of train.probe_column, at most MAX_SCANS
  2. tokens  of the target encoder on the middle window, all that exist: mean, and mean of each network
  3. fit     ridge or logistic regression on four of N_FOLDS parts of the participants, score on the fifth

A participant is never in the fit and in the test. Still these scans are those that the model learns from, and
no choice is nested: it is a sign of life, not an evaluation (that is bjepa-evaluate).
D features of a token, n scans, p participants.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.config import Recipe
from bjepa.model.dataset import Clip, ShardDataset
from bjepa.model.evaluation.cohort import load_cohort
from bjepa.model.jepa import JEPA
from bjepa.model.mask_samplers import tokens_of
from bjepa.model.train_step import autocast
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id

MAX_SCANS = 200
N_FOLDS = 5
ALPHAS = np.logspace(-2, 4, 7)  # of ridge, times the number of features
SCORES = {"regression": "r2", "classification": "balanced_accuracy"}


class OnlineProbe:
    """Scans, values and folds of the probe, fixed for the run.

    Parameters
    ----------
    dataset
        What the run learns from.
    data
        Output folder of bjepa-preprocess. participants.tsv is looked for in it, beside it, and beside the
        folder `derivatives` that it lies in.

    Attributes
    ----------
    task : "regression" or "classification"
    series : n numbers in the reader · target : (n,) · participants : n ids
    folds : of (fit, test), rows
    score : name of the score, whose value without any knowledge is `chance`

    Raises
    ------
    InputError
        No participants.tsv; no such column; too few participants, in all or of a class.
    """

    def __init__(self, dataset: ShardDataset, recipe: Recipe, *, data: Path) -> None:
        self.dataset, self.model = dataset, recipe.model
        column, scans = recipe.train.probe_column, dataset.reader.scans["participant_id"]
        person_of = {int(s): bare_id(scans[dataset.reader.series_scan[s]]) for s in dataset.series}
        cohort = load_cohort(_table(data, column), target=column, with_scan=set(person_of.values()))
        value = dict(zip(cohort.participant_id, cohort.target, strict=True))
        self.task, self.classes = cohort.task, cohort.classes
        self.series = _chosen(dataset, {s: p for s, p in person_of.items() if p in value})
        self.participants = [person_of[s] for s in self.series]
        self.target = np.array([value[p] for p in self.participants])
        self.score = SCORES[self.task]
        self.chance = 1 / len(self.classes) if self.classes else 0.0
        self._refuse_few(column)
        self.folds = self._make_folds(recipe.train.seed)
        networks = dataset.reader.rois["network7"]
        names = sorted(set(networks))
        self.network = torch.tensor([names.index(name) for name in networks])  # (R,)

    def __call__(
        self, jepa: JEPA, *, device: torch.device, precision: str, fit: bool = True
    ) -> dict[str, float]:
        """`probe_<score>` of mean tokens, `probe_networks_<score>` of networks' means, `probe_scans` = n,
        `probe_chance`.

        Without `fit` only the network runs: weights that lie in shards need all processes. NaN where tokens
        are not finite.
        """
        pooled, by_network = self.embed(jepa, device=device, precision=precision)
        if not fit:
            return {}
        found = {
            f"probe_{self.score}": self.held_out(pooled),
            "probe_scans": len(self.series),
            "probe_chance": self.chance,
        }
        if by_network.shape[1] > pooled.shape[1]:
            found[f"probe_networks_{self.score}"] = self.held_out(by_network)
        return found

    @torch.no_grad()
    def embed(
        self, jepa: JEPA, *, device: torch.device, precision: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, D) mean tokens, and (n, networks * D); a network that a scan lacks has its mean token."""
        pooled, by_network = [], []
        for series in self.series:
            clip = self.dataset.middle(series)
            number, region = self._existing(clip)
            t_r = torch.tensor([clip.t_r], device=device)
            with autocast(device, precision):
                tokens = jepa.target_encoder(clip.x[None].to(device), number[None].to(device), t_r=t_r)
            tokens_nD = tokens[0].double().cpu()
            mean_D = tokens_nD.mean(dim=0)
            pooled.append(mean_D)
            by_network.append(_means(tokens_nD, self.network[region], mean_D, int(self.network.max()) + 1))
        return torch.stack(pooled).numpy(), torch.stack(by_network).numpy()

    def held_out(self, features: NDArray[np.float64]) -> float:
        """The score of predictions of participants who were not in their fit."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if not np.isfinite(features).all():
            return float("nan")
        alpha = features.shape[1]  # of standardised features the penalty grows with their number
        model = (
            RidgeCV(alphas=ALPHAS * alpha)
            if self.task == "regression"
            else LogisticRegression(C=1 / alpha, class_weight="balanced", solver="newton-cg")
        )
        predicted, baseline = np.empty(len(features)), np.empty(len(features))
        for fit, test in self.folds:
            # the rotation changes nothing but the time: fewer scans than features
            probe = make_pipeline(StandardScaler(), PCA(svd_solver="full"), model)
            predicted[test] = probe.fit(features[fit], self.target[fit]).predict(features[test])
            baseline[test] = self.target[fit].mean()
        if self.task == "classification":
            return float(balanced_accuracy_score(self.target, predicted))
        error, by_mean = ((self.target - p) ** 2 for p in (predicted, baseline))
        return float(1 - error.sum() / by_mean.sum())

    def _existing(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Numbers of the tokens that the scan has, and the region of each."""
        n_patches = self.model.n_patches
        patches = np.arange(clip.n_frames // self.model.patch_size)
        number = torch.from_numpy(tokens_of(np.flatnonzero(clip.valid), patches, n_patches))
        return number, number // n_patches

    def _make_folds(self, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        kind = GroupKFold if self.task == "regression" else StratifiedGroupKFold
        folds = kind(N_FOLDS, shuffle=True, random_state=seed)
        return list(folds.split(np.zeros((len(self.series), 1)), self.target, self.participants))

    def _refuse_few(self, column: str) -> None:
        people = dict(zip(self.participants, self.target.tolist(), strict=True))
        least = 2 * N_FOLDS
        if len(people) < least:
            raise InputError(
                f"train.probe_column = {column!r}: {len(people)} participants of this run have a value, the "
                f"probe needs {least}.",
                hint="Leave train.probe_column out.",
            )
        counts = Counter(people.values())
        for number, name in enumerate(self.classes):
            if counts[number] < N_FOLDS:
                raise InputError(
                    f"train.probe_column = {column!r}: {counts[number]} participants are {name!r}, the probe "
                    f"needs {N_FOLDS} of each class.",
                    hint="Name another column, or write n/a for rare classes.",
                )


def _means(tokens_nD: Tensor, group: Tensor, otherwise_D: Tensor, n_groups: int) -> Tensor:
    """(n_groups * D,): the mean of each group of tokens."""
    total = torch.zeros(n_groups, tokens_nD.shape[1], dtype=tokens_nD.dtype).index_add_(0, group, tokens_nD)
    count = torch.bincount(group, minlength=n_groups)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), otherwise_D).flatten()


def _chosen(dataset: ShardDataset, person_of: dict[int, str]) -> list[int]:
    """At most MAX_SCANS series, one a scan: every participant's first, then every one's second, ..."""
    seen_scans: set[int] = set()
    n_of: Counter[str] = Counter()
    turns = []
    for series, person in person_of.items():
        scan = int(dataset.reader.series_scan[series])
        if scan not in seen_scans:
            seen_scans.add(scan)
            turns.append((n_of[person], series))
            n_of[person] += 1
    first = [series for turn, series in turns if turn == 0]
    if len(first) > MAX_SCANS:  # spread over the data
        first = [first[i] for i in np.linspace(0, len(first) - 1, MAX_SCANS).astype(int)]
    rest = [series for turn, series in sorted(turns) if turn > 0]
    return [*first, *rest][:MAX_SCANS]


def _table(data: Path, column: str) -> Path:
    folder = data.resolve()
    folders = [folder, folder.parent]
    if folder.parent.name == "derivatives":
        folders.append(folder.parent.parent)
    for where in folders:
        if (path := where / "participants.tsv").is_file():
            return path
    raise InputError(
        f"train.probe_column = {column!r} needs participants.tsv in {data} or beside it; there is none.",
        hint="Copy the data set's participants.tsv there, or leave train.probe_column out.",
    )
