"""Are these gradients reproducible? The participants are split at random into halves, many times.

Order of operations for each split (R regions, C components; "full" are the gradients of all participants):
  1. halves      mean connectivity of either half (halves.py); participants are split, never their scans
  2. gradients   of either half, with the options of the run                               recipe.py
  3. turn        both towards full (Procrustes), over the regions that all three have      alignment/
  4. agree       r of each component between the halves: aligned, and with the sign alone free, matched by
                 number; over all regions and over each structure
  5. chance      as 3 and 4 with the regions of one half permuted: what a turn alone can reach
  6. subspaces   smallest principal cosine between the first k components of the halves, centred, not turned
  7. displaced   distance between a region's two places in the first `n_position` aligned components, over the
                 root mean square distance of regions from their centre in full
Then medians over the splits, and the range of the middle 95 % of them.

What the ranges are: the spread over splits of *half* of the participants. They are no confidence interval of
the full group: its gradients are better than those of a half, and splits overlap, so they do not count as
independent.
Of the kind `tangent` both halves share the reference of all participants, and so agree a little more.
r_null knows nothing of spatial smoothness.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.bar import NO_BAR, Bar
from bjepa.gradients.connectivity.measure import Measure, Weights, participant_maps
from bjepa.gradients.quality.agreement import MIN_REGIONS, Agreement, agreement, subspace_sizes
from bjepa.gradients.quality.halves import HalfMeans, draw_halves, splits_at_once
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions
from bjepa.gradients.scans import Scans
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
MIN_PARTICIPANTS = 4
MIDDLE = (2.5, 97.5)  # percent
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Agreement between halves. Values are medians over the splits, `_low` and `_high` 2.5 and 97.5 %."""

    n_splits: int  # that were computed
    n_failed: int  # whose halves have no gradients
    n_participants: int
    seed: int
    table: "pd.DataFrame"  # stability.tsv: one row a structure and component
    subspaces: "pd.DataFrame"  # n_components cosine_min cosine_low cosine_high
    regions: "pd.DataFrame"  # index name structure network7 displacement displacement_low displacement_high
    r_splits: Array  # (n_splits, C) of all regions, aligned
    displacement_splits: Array  # (n_splits, R), NaN where a half has no gradients of the region


def split_half(
    scans: Scans,
    measure: Measure,
    full: Array,
    options: GradientOptions,
    *,
    regions: Regions,
    weights: Weights = "equal",
    n_splits: int = 100,
    seed: int = 0,
    n_position: int = 3,
    n_jobs: int = 1,
    max_memory_gb: float = 1.0,
    bar: Bar = NO_BAR,
) -> Stability:
    """Stability of `full` (R, C), the gradients of all scans as written, between halves of the participants.

    Parameters
    ----------
    measure, weights
        Connectivity of a scan, and the weight of a scan in the mean, as of the group.
    n_splits
        Where there are fewer different ones (of 4 participants 3), all of them are taken.
    n_position
        Components in which regions have their places.
    n_jobs
        Threads, -1 for all cores. The numbers do not depend on it.
    max_memory_gb
        For the sums of the halves; where it is too little the scans are read several times.

    Raises
    ------
    InputError
        Scans without a participant's id; fewer than 4 participants; more than half of the splits without
        gradients of both halves.
    """
    if n_splits < 1:
        raise InputError(f"n_splits must be 1 or more, got {n_splits}.")
    people = _participants(scans)
    halves = draw_halves(len(people), n_splits, seed=seed)
    if len(halves) < n_splits:
        log.info("split-half: %d participants have %d different halves", len(people), len(halves))
    structures = _structures(regions, full)
    compare = partial(
        _compare,
        measure=measure,
        full=full,
        options=options,
        structures=structures,
        n_position=n_position,
        names=regions.names,
    )
    at_once = splits_at_once(len(halves), len(full), max_memory_gb=max_memory_gb)
    n_passes = -(-len(halves) // at_once)
    if n_passes > 1:
        log.info("split-half: the scans are read %d times, to stay within %g GB", n_passes, max_memory_gb)
    found: list[Agreement | str] = []
    for start in range(0, len(halves), at_once):
        some = halves[start : start + at_once]
        bar.begin("split-half: connectivity", len(people))
        means = HalfMeans(some, len(full))
        for one in participant_maps(scans, measure, weights=weights, n_jobs=n_jobs):
            means.add(one)
            bar.step()
        bar.begin("split-half: gradients", len(some))
        tasks = ((*means.means(split), (seed, start + split)) for split in range(len(some)))
        for result in _in_threads(compare, tasks, n_jobs):
            found.append(result)
            bar.step()
        del means, tasks  # before the sums of the next pass are made
    good = _good(found)
    return _summary(
        good, structures, regions, seed=seed, n_failed=len(found) - len(good), n_people=len(people)
    )


# --- one split ----------------------------------------------------------------------------------------------


def _compare(
    task: tuple[Array, Array, tuple[int, int]],
    *,
    measure: Measure,
    full: Array,
    options: GradientOptions,
    structures: dict[str, NDArray[np.bool_]],
    n_position: int,
    names: list[str],
) -> Agreement | str:
    """Steps 2 to 7 of a split; or why it has none."""
    mean_a, mean_b, seed = task
    for mean in (mean_a, mean_b):
        if np.isnan(mean).any():
            return _lacks(mean, names)
    try:
        a, b = (embed_connectivity(measure.group(mean), options)[1].gradients for mean in (mean_a, mean_b))
        return agreement(a, b, full, structures, n_position=n_position, rng=np.random.default_rng(seed))
    except InputError as error:
        return str(error)


def _lacks(mean: Array, names: list[str]) -> str:
    alone = np.flatnonzero(np.isnan(np.diag(mean)))
    if len(alone):
        return f"in one half no scan has region {alone[0] + 1} ({names[alone[0]]})."
    pair = [f"{region + 1} ({names[region]})" for region in np.argwhere(np.isnan(mean))[0]]
    return f"in one half no scan has regions {' and '.join(pair)} together."


def _in_threads(compare: Any, tasks: Iterator[Any], n_jobs: int) -> Iterator[Agreement | str]:
    """Results in order. Eigenvectors and matrix products let other threads run: 1.4 times faster with two."""
    import scipy.linalg  # noqa: F401  its BLAS must be loaded when the limit is set
    from joblib import effective_n_jobs
    from threadpoolctl import threadpool_limits

    n_workers = effective_n_jobs(n_jobs)
    with threadpool_limits(1, user_api="blas"), _quiet_embedding():
        if n_workers == 1:
            yield from map(compare, tasks)
            return
        with ThreadPoolExecutor(n_workers) as threads:
            waiting: list[Any] = []
            for task in tasks:
                waiting.append(threads.submit(compare, task))
                if len(waiting) == 2 * n_workers:
                    yield waiting.pop(0).result()
            yield from (one.result() for one in waiting)


@contextmanager
def _quiet_embedding() -> Iterator[None]:
    """What the gradients of a half are warned of, the full group's were warned of before."""
    loggers = [logging.getLogger(f"bjepa.gradients.{name}") for name in ("affinity", "embedding")]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


# --- before and after ---------------------------------------------------------------------------------------


def _participants(scans: Scans) -> list[str]:
    """Ids, in order of first appearance."""
    ids = scans.entities["participant_id"]
    if "" in ids:
        raise InputError(
            f"--split-half splits participants, but {ids.count('')} of {len(ids)} scans do not say whose "
            f"they are, as {scans.labels[ids.index('')]}.",
            hint="Give an output folder of bjepa-preprocess, or files named sub-<id>_..._timeseries.",
        )
    people = list(dict.fromkeys(ids))
    if len(people) < MIN_PARTICIPANTS:
        raise InputError(
            f"--split-half needs {MIN_PARTICIPANTS} participants or more, got {len(people)} "
            f"({', '.join(people)}).",
            hint="Leave --split-half out: halves of so few would tell about persons, not about the group.",
        )
    return people


def _structures(regions: Regions, full: Array) -> dict[str, NDArray[np.bool_]]:
    """Regions (R,) of each structure, `all` first; structures only where several have enough regions."""
    every = {ALL: np.ones(len(regions.table), dtype=np.bool_)}
    cells = regions.column("structure")
    if cells is None or len(set(cells)) < 2:
        return every  # of one structure, that is all
    there = np.isfinite(full).all(axis=1)
    some = {name: np.array(cells) == name for name in sorted(set(cells) - {"", "n/a", ALL})}
    return every | {name: within for name, within in some.items() if (within & there).sum() >= MIN_REGIONS}


def _good(found: list[Agreement | str]) -> list[Agreement]:
    good = [one for one in found if isinstance(one, Agreement)]
    failed = [one for one in found if isinstance(one, str)]
    if len(failed) > len(good):
        raise InputError(
            f"--split-half: in {len(failed)} of {len(found)} splits a half has no gradients; the first: "
            f"{failed[0]}",
            hint="Half of the participants are too few for these options: lower --sparsity, use the kernel "
            "normalized_angle or --keep-largest, leave regions that are often missing out, or leave "
            "--split-half out.",
        )
    if failed:
        log.warning(
            "--split-half: %d of %d splits are left out, a half of them has no gradients; the first: %s",
            *(len(failed), len(found), failed[0]),
        )
    return good


def _summary(
    splits: list[Agreement],
    structures: dict[str, NDArray[np.bool_]],
    regions: Regions,
    *,
    seed: int,
    n_failed: int,
    n_people: int,
) -> Stability:
    import pandas as pd

    r = np.array([one.r for one in splits])  # (n_splits, structures, C)
    displacement = np.array([one.displacement for one in splits])  # (n_splits, R)
    n_components = r.shape[2]
    known = np.isfinite(displacement).any(axis=0)  # (R,)
    columns = {
        **_median_and_range("r", r),
        **_median_and_range("r_unaligned", np.array([one.r_unaligned for one in splits])),
        "r_null": np.nanpercentile(np.concatenate([one.r_permuted for one in splits]), 95, axis=0),
    }
    table = pd.DataFrame(
        {
            "structure": np.repeat(list(structures), n_components),
            "component": np.tile(np.arange(1, n_components + 1), len(structures)),
            **{name: values.ravel() for name, values in columns.items()},
            "n_regions": np.repeat([int((known & some).sum()) for some in structures.values()], n_components),
            "n_splits": len(splits),
        }
    )
    cosines = _median_and_range("cosine", np.array([one.cosines for one in splits]))
    subspaces = pd.DataFrame(
        {"n_components": subspace_sizes(n_components), "cosine_min": cosines.pop("cosine"), **cosines}
    )
    places = pd.DataFrame({"index": np.arange(1, len(known) + 1), "name": regions.names})
    for name, cells in (("structure", regions.column("structure")), ("network7", regions.networks())):
        places[name] = [""] * len(known) if cells is None else cells
    for name, values in _median_and_range("displacement", displacement[:, known]).items():
        places[name] = np.nan
        places.loc[known, name] = values
    return Stability(
        n_splits=len(splits),
        n_failed=n_failed,
        n_participants=n_people,
        seed=seed,
        table=table,
        subspaces=subspaces,
        regions=places,
        r_splits=r[:, 0],
        displacement_splits=displacement,
    )


def _median_and_range(name: str, values: Array) -> dict[str, Array]:
    """Over the first axis, without NaN."""
    low, median, high = np.nanpercentile(values, (MIDDLE[0], 50, MIDDLE[1]), axis=0)
    return {name: median, f"{name}_low": low, f"{name}_high": high}
