"""Gradients of groups of scans: of men and women, of patients and controls, of sessions.

Order of operations (R regions, C components):
  1. mean connectivity of each group, over its own scans; all groups together read every scan once
  2. gradients as of the whole (recipe.py), over the regions that the group has
  3. alignment to the template, the gradients of all scans as written:
       procrustes  each group by its own orthogonal turn, over the regions that both have
       joint       all groups embedded together, then one turn for all of them
       none        as they come: components of two groups may be exchanged, and differ in sign
  4. r of each component with the template, and the variance of the group's connectivity that it explains

A smaller group is noisier: its r with the template is lower for that alone, and the template holds more of a
larger group. So numbers of scans and participants stand beside r; compare groups at equal size.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.procrustes import align_gradients, correlations, turn_towards
from bjepa.gradients.atlas_io import FORMAT, TABLES, Parameters, write_gradients
from bjepa.gradients.connectivity.measure import Measure, Progress, Weights, participant_maps
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.participants_table import natural_order, safe_names
from bjepa.gradients.present import embed_present, mean_present
from bjepa.gradients.quality.variance import variance_explained
from bjepa.gradients.recipe import GradientOptions
from bjepa.gradients.regions import Regions
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_tsv

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Alignment = Literal["procrustes", "joint", "none"]
FEW = 2  # participants; fewer are no group
_UNEQUAL = 2  # times as many participants in one group as in another: r cannot be compared


@dataclass(frozen=True, kw_only=True)
class GroupGradients:
    """One group."""

    name: str
    n_scans: int
    n_participants: int
    fc: Array  # (R, R), NaN at edges that no scan of the group has
    affinity: Array | None  # (R, R); None: joint, where there is one for all groups
    embedding: Embedding  # aligned to the template
    r: Array  # (C,) with the template, over the regions that both have
    variance: Array  # (C,) cumulative share of the variance of `fc`


@dataclass(frozen=True, kw_only=True)
class Groups:
    """All groups of a column."""

    column: str
    alignment: str
    groups: list[GroupGradients]


def group_gradients(
    scans: Scans,
    labels: Sequence[str],
    measure: Measure,
    template: Array,
    options: GradientOptions,
    *,
    column: str,
    alignment: Alignment = "procrustes",
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Groups:
    """Gradients of each group of scans.

    Parameters
    ----------
    labels
        (n,) group of each scan, "" for none (`group_labels`).
    template
        (R, C) gradients of all scans, as written; NaN rows have none.
    column
        What the groups are called together.
    progress
        Called with the number of scans read since the last call (`tqdm.update` fits); those without a group
        are not read.

    Raises
    ------
    InputError
        A group without scans that can be embedded, named; joint alignment as `joint_embedding`.
    """
    names = natural_order(set(labels) - {""})
    members = {name: [n for n, label in enumerate(labels) if label == name] for name in names}
    n_participants = {name: _n_participants(scans, members[name]) for name in names}
    _warn_small(column, n_participants)
    fcs = []
    for name in names:
        with _naming(name):
            fcs.append(_mean_fc(scans.subset(members[name]), measure, weights, n_jobs, progress))
    embedded = _embed(names, fcs, template, options, alignment)

    groups = []
    for name, fc, (affinity, embedding) in zip(names, fcs, embedded, strict=True):
        rows = np.isfinite(embedding.gradients).all(axis=1) & np.isfinite(template).all(axis=1)
        groups.append(
            GroupGradients(
                name=name,
                n_scans=len(members[name]),
                n_participants=n_participants[name],
                fc=fc,
                affinity=affinity,
                embedding=embedding,
                r=np.diag(correlations(embedding.gradients[rows], template[rows])).copy(),
                variance=variance_explained(fc, embedding.gradients),
            )
        )
        log.info(
            "group %s = %s: %d scans of %d participants, r with all scans %s",
            *(column, name, groups[-1].n_scans, groups[-1].n_participants),
            " ".join(f"{r:.2f}" for r in groups[-1].r[:3]),
        )
    return Groups(column=column, alignment=alignment, groups=groups)


def _n_participants(scans: Scans, members: list[int]) -> int:
    people = [scans.entities["participant_id"][number] for number in members]
    return len(set(people) - {""}) + people.count("")  # without an id, each scan is somebody


def _warn_small(column: str, n_participants: dict[str, int]) -> None:
    if small := [f"{name} ({n})" for name, n in n_participants.items() if n < FEW]:
        log.warning("--group-by %s: groups of fewer than %d participants: %s", column, FEW, ", ".join(small))
    least, most = min(n_participants.values()), max(n_participants.values())
    if most >= _UNEQUAL * least:
        log.warning(
            "--group-by %s: groups of %d to %d participants: the smaller ones are noisier, and agree "
            "less with all scans for that alone",
            *(column, least, most),
        )


def _mean_fc(
    scans: Scans, measure: Measure, weights: Weights, n_jobs: int, progress: Progress | None
) -> Array:
    total, weight = np.zeros(()), np.zeros(())
    for found in participant_maps(scans, measure, weights=weights, n_jobs=n_jobs, progress=progress):
        total, weight = total + found.total, weight + found.weight
    return mean_present(total, weight, measure)


@contextmanager
def _naming(group: str) -> Iterator[None]:
    """An error within says which group it is of."""
    try:
        yield
    except InputError as error:
        raise InputError(f"group {group!r}: {error.message}", hint=error.hint) from error


def _embed(
    names: list[str], fcs: list[Array], template: Array, options: GradientOptions, alignment: Alignment
) -> list[tuple[Array | None, Embedding]]:
    if alignment == "joint":
        from bjepa.gradients.alignment.joint import joint_embedding

        parts = joint_embedding(fcs, options)
        # one turn for all: they share their coordinates already
        mean = np.mean([part.gradients for part in parts], axis=0)  # NaN where one of them has no region
        rows = np.isfinite(mean).all(axis=1) & np.isfinite(template).all(axis=1)
        turn = turn_towards(mean, template, rows=rows)
        return [(None, replace(part, gradients=part.gradients @ turn)) for part in parts]
    found: list[tuple[Array | None, Embedding]] = []
    for name, fc in zip(names, fcs, strict=True):
        with _naming(name):
            affinity, embedding = embed_present(fc, options)
            if alignment == "procrustes":
                rows = embedding.kept & np.isfinite(template).all(axis=1)
                aligned = align_gradients(embedding.gradients, template, rows=rows)
                embedding = replace(embedding, gradients=aligned)
        found.append((affinity, embedding))
    return found


# --- files --------------------------------------------------------------------------------------------------


def write_groups(folder: Path, found: Groups, regions: Regions, *, parameters: Parameters) -> None:
    """`groups/<column>-<group>/gradients.*` and, last, `groups.tsv`; an earlier run's are removed first.

    `parameters` as in `write_gradients`; column, group and counts are added.
    """
    import pandas as pd

    remove_groups(folder)
    places = safe_names(found.column, [group.name for group in found.groups])
    rows = []
    for group in found.groups:
        counts = {"n_scans": group.n_scans, "n_participants": group.n_participants}
        write_gradients(
            folder / "groups" / places[group.name],
            group.embedding,
            replace(regions, labels_img=None, dlabel=None),
            affinity=group.affinity,
            fc_mean=group.fc,
            variance=group.variance,
            parameters={
                **parameters,
                **counts,
                "group_column": found.column,
                "group": group.name,
                "alignment": found.alignment,
            },
        )
        r = {f"r_{number}": value for number, value in enumerate(group.r, start=1)}
        rows.append({"group": group.name, **counts, **r, "variance_fc": group.variance[-1]})
    write_tsv(folder / "groups.tsv", pd.DataFrame(rows), float_format="%.6g")


def remove_groups(folder: Path) -> None:
    """Delete what `write_groups` wrote here before, and nothing else."""
    (folder / "groups.tsv").unlink(missing_ok=True)
    for h5 in sorted((folder / "groups").glob("*/gradients.h5")):
        if _is_of_a_group(h5):
            for name in TABLES:
                (h5.parent / name).unlink(missing_ok=True)
            _remove_if_empty(h5.parent)
    _remove_if_empty(folder / "groups")


def _is_of_a_group(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("format") == FORMAT and "group_column" in file.attrs
    except OSError:
        log.warning("%s is not a readable HDF5 file; it is left there", path)
        return False


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
