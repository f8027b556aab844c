"""Gradients of single participants, aligned to the group: several at once, in order.

Order of operations for one participant (R regions, C components):
  1. mean connectivity over the own scans, as of the group
  2. gradients with the same options, over the regions that the participant has     present.py
  3. Procrustes to the template, over the regions that both have                     alignment/procrustes.py
  4. numbers over the same regions, with G the aligned gradients and T the template:
       r                  (C,) Pearson r of each component
       variance_template  1 - |s G - T|^2 / |T|^2 at the best factor s = <G, T> / <G, G>, that is
                          <G, T>^2 / (|G|^2 |T|^2); sums over regions and components, not centred. s, because
                          one participant's components are shorter or longer
       variance_fc        share of the variance of the participant's own connectivity that all C explain

One participant is noisier than a group: with the same sparsity, more of the values kept are chance, and
components of nearly equal eigenvalue mix more. So r before alignment says little.

Memory does not grow with participants; numbers and order do not depend on the number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.procrustes import align_gradients, correlations
from bjepa.gradients.connectivity.measure import Measure, Progress, Weights
from bjepa.gradients.connectivity.parallel import in_order, read_in_processes
from bjepa.gradients.present import embed_present, mean_present
from bjepa.gradients.quality.variance import variance_explained
from bjepa.gradients.recipe import GradientOptions
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

Array = NDArray[np.float64]
BATCH = 8  # participants that a worker gets at a time
# Participants from which processes are worth their start (2 s). With two, 400 regions and 28 ms each, threads
# are 1.1 times as fast as one, processes 1.8 times: most steps are short, and threads wait for each other.
MANY = 200


@dataclass(frozen=True, kw_only=True)
class IndividualGradients:
    """One participant."""

    participant_id: str
    n_scans: int
    n_frames: int  # of all scans, all phases
    gradients: Array  # (R, C) aligned, NaN rows
    eigenvalues: Array  # (C,)
    r: Array  # (C,)
    variance_template: float
    variance_fc: float


@dataclass(frozen=True)
class Failure:
    """A participant without gradients."""

    participant_id: str
    error: str
    message: str
    hint: str


def embed_participants(
    scans: Scans,
    measure: Measure,
    template: Array,
    options: GradientOptions,
    *,
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Iterator[IndividualGradients | Failure]:
    """Each participant, in order of first appearance; scans without an id are one each.

    `progress` is called with the number of scans read since the last call (`tqdm.update` fits).
    """
    people: dict[str, list[int]] = {}
    for number, person in enumerate(scans.entities["participant_id"]):
        people.setdefault(f"sub-{person}" if person else f"scan-{number + 1}", []).append(number)
    batches = [list(people)[start : start + BATCH] for start in range(0, len(people), BATCH)]
    pieces = (scans.subset([n for person in batch for n in people[person]]) for batch in batches)
    embed = partial(_embed_batch, measure=measure, template=template, options=options, weights=weights)
    processes = read_in_processes(scans) or len(people) >= MANY
    for batch, found in zip(
        batches, in_order(embed, pieces, n_jobs=n_jobs, processes=processes), strict=True
    ):
        for person, one in zip(batch, found, strict=True):
            if progress is not None:
                progress(len(people[person]))
            yield replace(one, participant_id=person)


def _embed_batch(
    scans: Scans, measure: Measure, template: Array, options: GradientOptions, weights: Weights
) -> list[IndividualGradients | Failure]:
    """Of scans that stand together where they are one participant's; not named yet."""
    found: list[IndividualGradients | Failure] = []
    for numbers in _runs(scans.entities["participant_id"]):
        try:
            found.append(_embed(scans.subset(numbers), measure, template, options, weights))
        except InputError as error:
            found.append(Failure("", type(error).__name__, error.message, error.hint))
    return found


def _runs(people: list[str]) -> list[list[int]]:
    """Numbers of neighbours of the same name; without a name, each is alone."""
    runs: list[list[int]] = []
    for number, person in enumerate(people):
        if person and runs and people[runs[-1][-1]] == person:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _embed(
    scans: Scans, measure: Measure, template: Array, options: GradientOptions, weights: Weights
) -> IndividualGradients:
    fc, n_frames = _mean_fc(scans, measure, weights)  # (R, R)
    embedding = embed_present(fc, options)[1]
    rows = embedding.kept & np.isfinite(template).all(axis=1)
    aligned = align_gradients(embedding.gradients, template, rows=rows)  # (R, C)
    ours, theirs = aligned[rows], template[rows]
    return IndividualGradients(
        participant_id="",
        n_scans=len(scans),
        n_frames=n_frames,
        gradients=aligned,
        eigenvalues=embedding.eigenvalues,
        r=np.diag(correlations(ours, theirs)).copy(),
        variance_template=float((ours * theirs).sum() ** 2 / ((ours**2).sum() * (theirs**2).sum())),
        variance_fc=float(variance_explained(fc, aligned)[-1]),
    )


def _mean_fc(scans: Scans, measure: Measure, weights: Weights) -> tuple[Array, int]:
    """Connectivity (R, R) of a participant, NaN where no scan has the edge, and frames of all scans."""
    total, weight, n_frames = np.zeros(()), np.zeros(()), 0
    for number in range(len(scans)):
        phases = scans.phases(number)
        z = measure.of_scan(phases, where=scans.labels[number])
        own_frames = sum(map(len, phases))
        share = float(own_frames) if weights == "frames" else 1.0
        present = np.isfinite(z)
        total = total + share * np.where(present, z, 0.0)
        weight = weight + share * present
        n_frames += own_frames
    return mean_present(total, weight, measure), n_frames
