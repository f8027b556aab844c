"""Maps of participants: every measure of every participant, (n, R), mean over its windows by their shares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.model.explain.attention_maps import attention_maps
from bjepa.model.explain.attribution import attribute
from bjepa.model.explain.measures import SIGNED
from bjepa.model.explain.output_network import Subject
from bjepa.model.explain.windows import Participants

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AttributionSettings:
    """How predictions are attributed."""

    methods: tuple[str, ...]
    baselines: list[tuple[str, NDArray[np.float32]]]  # whose ("": nobody's), (R, L)
    n_baselines: int  # used for each participant: the first ones that are not its own
    n_steps: int
    batch_size: int


@dataclass(frozen=True)
class Completeness:
    """How well integrated gradients add up to the change of the output, over all windows."""

    gap: float  # root mean square of (sum of the attribution - change of the output)
    change: float  # root mean square of the change


class RegionMean:
    """Mean of maps (R,) by shares; a region missing in some windows takes its mean over the others."""

    def __init__(self, n_rois: int) -> None:
        self.total, self.share = np.zeros(n_rois), np.zeros(n_rois)

    def add(self, values_R: Array, share: float) -> None:
        known = np.isfinite(values_R)
        self.total[known] += share * values_R[known]
        self.share[known] += share

    @property
    def mean(self) -> Array:
        """(R,), NaN where there is no window."""
        found: Array = np.where(self.share > 0, self.total / np.where(self.share > 0, self.share, 1), np.nan)
        return found


def attention_over(
    subject: Subject, participants: Participants, *, layers: Iterable[int], rollout: bool
) -> dict[str, Array]:
    """`attention_layer_<l>` of each layer (from 1), and `rollout`: (n, R) each, × uniform attention."""
    layers = list(layers)
    names = [f"attention_layer_{layer}" for layer in layers] + ["rollout"] * rollout
    maps: dict[str, list[Array]] = {name: [] for name in names}
    for number in range(len(participants)):
        means = {name: RegionMean(participants.reader.n_rois) for name in names}
        for window in participants[number]:
            found = attention_maps(subject.encoder(number), window, layers=layers, rollout=rollout)
            for layer, values in found.received.items():
                means[f"attention_layer_{layer}"].add(values, window.share)
            if found.rollout is not None:
                means["rollout"].add(found.rollout, window.share)
        for name in names:
            maps[name].append(means[name].mean)
    return {name: np.stack(rows) for name, rows in maps.items()}


def attribution_over(
    subject: Subject, participants: Participants, settings: AttributionSettings
) -> tuple[dict[str, Array], Completeness]:
    """Magnitude (× the participant's mean region) and signed sum of each method, (n, R) each."""
    names = [name.replace("-", "_") for name in settings.methods]
    maps: dict[str, list[Array]] = {name + suffix: [] for name in names for suffix in ("", SIGNED)}
    gaps, changes = [], []
    for number, participant in enumerate(participants.participant_id):
        others = [values for owner, values in settings.baselines if owner != participant]
        means = {name: RegionMean(participants.reader.n_rois) for name in maps}
        for window in participants[number]:
            for method, name in zip(settings.methods, names, strict=True):
                found = attribute(
                    subject.output(number),
                    window,
                    method=method,
                    baselines=others[: settings.n_baselines],
                    n_steps=settings.n_steps,
                    batch_size=settings.batch_size,
                )
                means[name].add(found.magnitude, window.share)
                means[name + SIGNED].add(found.signed, window.share)
                if method == "integrated-gradients":
                    gaps.append(found.gap)
                    changes.append(found.change)
        for name in maps:
            values = means[name].mean
            maps[name].append(values if name.endswith(SIGNED) else _over_mean_region(values))
    completeness = Completeness(_root_mean_square(gaps), _root_mean_square(changes))
    return {name: np.stack(rows) for name, rows in maps.items()}, completeness


def input_map(participants: Participants) -> Array:
    """Mean |x| of each region, × the participant's mean region: (n, R). What the input alone would show."""
    rows = []
    for number in range(len(participants)):
        mean = RegionMean(participants.reader.n_rois)
        for window in participants[number]:
            size = np.abs(window.x_RL).mean(axis=1, dtype=np.float64)
            mean.add(np.where(window.valid_R, size, np.nan), window.share)
        rows.append(_over_mean_region(mean.mean))
    return np.stack(rows)


def _over_mean_region(values_R: Array) -> Array:
    """Multiples of the mean over regions; all 1 where nothing is above 0."""
    mean = float(np.nanmean(values_R))
    if mean > 0:
        return values_R / mean
    return np.where(np.isfinite(values_R), 1.0, np.nan)


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")
