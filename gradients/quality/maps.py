"""Are the gradients related to maps of other properties, more than smoothness explains?

Order of operations for every map and component (R regions, C components, n random maps):
  1. regions   that have a value in both
  2. r         Pearson, and Spearman (without p)
  3. null      r of n random maps that are as smooth as the map, with the component            map_nulls.py
  4. p         (1 + number of |r_null| >= |r|) / (1 + n); two-sided, at least 1 / (1 + n)
  5. p_fdr     Benjamini & Hochberg's correction over all maps and components

Two smooth maps that have nothing to do with each other correlate. The usual p-value, for which regions are
independent, calls up to half of such pairs significant (p < 0.05, 400 regions), so it is not given.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bjepa.gradients.bar import NO_BAR, Bar
from bjepa.gradients.quality.map_nulls import MIN_REGIONS, Sphere, sphere_of, spun_rows, variogram_surrogates
from bjepa.gradients.quality.map_tables import read_maps
from bjepa.gradients.regions import Regions
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NULLS", "Maps", "Null", "correlate_maps", "read_maps"]

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Null = Literal["auto", "spin", "variogram"]
NULLS: tuple[Null, ...] = get_args(Null)
MIN_SHARE = 0.5  # of the cortex with values, for spin: a turned map still meets its component in many parcels


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Correlation of the gradients with maps."""

    file: str  # name, "" for maps that came from no file
    null: str  # "spin", "variogram", or "spin and variogram"
    n_permutations: int
    table: "pd.DataFrame"  # one row a map and component: map component r spearman n_regions p p_fdr null
    values: "pd.DataFrame"  # (R rows), one column a map


def correlate_maps(
    maps: "pd.DataFrame",
    gradients: ArrayLike,
    regions: Regions,
    *,
    null: Null = "auto",
    n_permutations: int = 1000,
    seed: int = 0,
    n_components: int = 3,
    bar: Bar = NO_BAR,
) -> Maps:
    """Correlate every map with the first `n_components` gradients.

    Parameters
    ----------
    maps
        One row a region, one column a map, NaN where it has no value (`read_maps`).
    gradients
        (R, C); NaN rows are regions without gradients.
    null
        "spin" for the cortex: Schaefer parcels (100, 200, 300, 400, 1000), labels of a CIFTI file, vertices
        of fs_LR 32k; regions without a place on the sphere are then left out. "variogram" for regions
        anywhere that have centres x, y, z (mm). "auto": spin for a map of which every region has a place on
        the sphere (and that covers at least half of them), else variogram.

    Raises
    ------
    InputError
        Other regions; a constant map, or fewer than 10 values; a null model that these regions cannot have.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control, spearmanr

    gradients = np.asarray(gradients, dtype=np.float64)
    if null not in NULLS or n_permutations < 1:
        raise InputError(
            f"null must be one of {NULLS}, n_permutations 1 or more; got {null!r}, {n_permutations}."
        )
    if not len(maps) == len(gradients) == len(regions.table):
        raise InputError(
            f"maps have {len(maps)} rows, gradients {len(gradients)}, there are {len(regions.table)} regions."
        )
    gradients = gradients[:, :n_components]
    values = maps.to_numpy(dtype=np.float64).T.copy()  # (maps, R)
    values[:, ~np.isfinite(gradients).all(axis=1)] = np.nan
    names = [str(name) for name in maps.columns]
    sphere = None if null == "variogram" else sphere_of(regions)
    chosen = [_null_of(one, name, null, sphere) for one, name in zip(values, names, strict=True)]
    if null == "spin" and sphere is not None:
        values[:, ~sphere.holds(len(regions.table))] = np.nan
    for one, name in zip(values, names, strict=True):
        _check(one, name)

    bar.begin("maps: null model", len(names))
    p: dict[str, Array] = {}
    for name, found in _p_values(values, names, chosen, gradients, regions, sphere, n_permutations, seed):
        p[name] = found
        bar.step()
    rows: list[dict[str, Any]] = []
    for one, name, model in zip(values, names, chosen, strict=True):
        there = np.isfinite(one)
        r = correlations_present(one[None], gradients)[0]
        for component, gradient in enumerate(gradients.T):
            rows.append(
                {
                    "map": name,
                    "component": component + 1,
                    "r": r[component],
                    "spearman": float(spearmanr(one[there], gradient[there]).statistic),
                    "n_regions": int(there.sum()),
                    "p": p[name][component],
                    "p_fdr": np.nan,
                    "null": model,
                }
            )
    table = pd.DataFrame(rows)
    table["p_fdr"] = false_discovery_control(table["p"])
    return Maps(
        file=str(maps.attrs.get("file", "")),
        null=" and ".join(sorted(set(chosen))),
        n_permutations=n_permutations,
        table=table,
        values=maps,
    )


def correlations_present(maps: Array, gradients: Array) -> Array:
    """(n, C) Pearson r of maps (n, R) with gradients (R, C), each over the regions that both have."""
    has_gradient = np.asarray(np.isfinite(gradients).all(axis=1))  # (R,)
    g = np.where(has_gradient[:, None], gradients, 0.0)
    g = np.where(has_gradient[:, None], g - g[has_gradient].mean(axis=0), 0.0)  # sums stay small
    there = np.isfinite(maps) & has_gradient
    x = np.where(there, maps, 0.0)
    x = np.where(there, x - (x.sum(axis=1) / there.sum(axis=1))[:, None], 0.0)
    weight = there.astype(np.float64)
    count = weight.sum(axis=1)[:, None]  # (n, 1)
    g_mean = weight @ g / count  # (n, C) over the regions of each map
    g_square = weight @ g**2 - count * g_mean**2
    x_square = np.square(x).sum(axis=1)[:, None]
    length = np.sqrt(x_square * np.maximum(g_square, 0.0))
    # a turned map can lose the few parcels that differ; a constant is related to nothing
    r: Array = np.divide(x @ g, length, out=np.zeros(length.shape), where=length > 0)
    return r


# --- null models --------------------------------------------------------------------------------------------


def _p_values(
    values: Array,
    names: list[str],
    chosen: list[str],
    gradients: Array,
    regions: Regions,
    sphere: Sphere | None,
    n_permutations: int,
    seed: int,
) -> Iterator[tuple[str, Array]]:
    """(C,) p-values of each map. Rotations are shared by the maps; spun maps come last."""
    for one, name, model in zip(values, names, chosen, strict=True):
        if model == "variogram":
            there = np.isfinite(one)
            random = np.full((n_permutations, len(one)), np.nan)
            centres = _centres(regions, there, name)
            random[:, there] = variogram_surrogates(
                one[there], centres, n_permutations=n_permutations, seed=seed
            )
            yield name, (1 + _n_beyond(one, random, gradients)) / (1 + n_permutations)
    spun = {name: one for one, name, model in zip(values, names, chosen, strict=True) if model == "spin"}
    if not spun or sphere is None:
        return
    rows = np.concatenate(sphere.rows)
    beyond = {name: np.zeros(gradients.shape[1]) for name in spun}
    for source in spun_rows(sphere, n_permutations=n_permutations, seed=seed):
        for name, one in spun.items():
            random = np.full((len(source), len(one)), np.nan)
            random[:, rows] = one[source]
            beyond[name] += _n_beyond(one, random, gradients)
    for name, count in beyond.items():
        yield name, (1 + count) / (1 + n_permutations)


def _n_beyond(one: Array, random: Array, gradients: Array) -> Array:
    """(C,) how many random maps correlate at least as strongly, either way."""
    r = np.abs(correlations_present(one[None], gradients)[0])
    r_null = np.abs(correlations_present(random, gradients))
    return np.asarray((r_null >= r * (1 - 1e-12)).sum(axis=0), dtype=np.float64)


def _null_of(one: Array, name: str, null: Null, sphere: Sphere | None) -> str:
    there = np.isfinite(one)
    if null == "variogram":
        return "variogram"
    if sphere is None:
        if null == "spin":
            raise InputError(
                "--null spin needs places on the sphere of the cortex, known for Schaefer parcels (100, 200, "
                "300, 400, 1000), labels of a CIFTI file and vertices of fs_LR 32k. The regions are none of "
                "these.",
                hint="Use --null variogram.",
            )
        return "variogram"
    cortex = sphere.holds(len(one))
    n_here, n_elsewhere = np.count_nonzero(there & cortex), np.count_nonzero(there & ~cortex)
    covers = n_here >= MIN_SHARE * np.count_nonzero(cortex)
    if null == "spin":
        if not covers:
            raise InputError(
                f"--null spin: map {name!r} has values in {n_here} of {np.count_nonzero(cortex)} cortical "
                f"regions; {MIN_SHARE:.0%} are needed.",
                hint="Use --null variogram.",
            )
        if n_elsewhere:
            log.warning(
                "--null spin: %d regions of map %r are not on the cortex, left out", n_elsewhere, name
            )
        return "spin"
    return "spin" if covers and not n_elsewhere else "variogram"


def _check(one: Array, name: str) -> None:
    there = np.isfinite(one)
    if there.sum() < MIN_REGIONS:
        raise InputError(
            f"map {name!r} has values in {there.sum()} regions with gradients; {MIN_REGIONS} are needed."
        )
    if np.ptp(one[there]) == 0:
        raise InputError(f"map {name!r} has the same value in all regions.", hint="Leave it out.")


def _centres(regions: Regions, there: NDArray[np.bool_], name: str) -> Array:
    """(regions, 3) mm of the regions that the map has."""
    cells = [regions.column(axis) for axis in "xyz"]
    if any(one is None for one in cells):
        raise InputError(
            f"the null model variogram of map {name!r} needs the centres of the regions (columns x, y, z of "
            "atlas.tsv), and INPUT says nothing of them.",
            hint="Give an output folder of bjepa-preprocess, or maps of Schaefer parcels with --null spin.",
        )
    text = np.array(cells).T[there]  # (regions, 3)
    try:
        centres = text.astype(np.float64)
    except ValueError as error:
        raise InputError(
            f"map {name!r}: centres x, y, z of its regions must be numbers ({error})."
        ) from error
    if not np.isfinite(centres).all():
        raise InputError(f"map {name!r}: regions with values must have centres x, y, z.")
    return centres
