"""Columns of a foreign table, found by the names of their regions.

A table of regional series names its columns as the atlas did that it was made with: Schaefer names of 7 or of
17 networks, of release 0.14.3 or older, with or without "7Networks_" in front (XCP-D's 4S atlases:
"LH_Vis_1"), and Tian names ("HIP-head-m-rh", the same region in every scale that has the name). One Schaefer
name can mean different parcels in two releases and in two sizes ("7Networks_LH_Vis_4" exists in all ten), so
a single name proves nothing: the naming is taken that explains all Schaefer names of the table together, and
where none does no parcel is matched.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.atlas.published import SCHAEFER_SIZES, schaefer_names

_PREFIX = re.compile(r"^(7|17)networks_")
_NETWORKS = "vis|sommot|dorsattn|salventattn|limbic|cont|default|temppar"
_SCHAEFER = re.compile(rf"^[lr]h_({_NETWORKS})(cent|peri|[abc])?_")
# A table that holds this share of a size's names is one of that size, whatever others its names fit as well.
_NEARLY_COMPLETE = 0.9


@dataclass(frozen=True, eq=False)
class RegionNumbers:
    """Where each region of an atlas is among foreign names.

    numbers : (n_rois,) position in the names, -1 where there is none
    naming : whose Schaefer names the table uses, e.g. "schaefer-400 7networks"; "" where it has none
    absent : regions that the names lack
    ambiguous : regions that could be more than one column
    problem : why no parcel was matched although there are names of parcels; "" if all is well
    """

    numbers: NDArray[np.int64]
    naming: str
    absent: list[str]
    ambiguous: list[str]
    problem: str


@dataclass(frozen=True, eq=False)
class _Naming:
    n_parcels: int
    name: str
    keys: list[str]  # of the parcels in 17-network order

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}


def region_numbers(names: Sequence[str], table: pd.DataFrame) -> RegionNumbers:
    """Find the regions of an atlas among the column names of a foreign table.

    Parameters
    ----------
    names : column names in any order; those of other regions may be among them
    table : the atlas' table (column `name`)

    Case and the characters between words do not matter. A region that two columns name, or that two namings
    put in two columns, is ambiguous and has no number.
    """
    columns: dict[str, list[int]] = {}  # key -> positions of the columns
    for position, name in enumerate(names):
        columns.setdefault(_key(name), []).append(position)
    regions = table["name"].astype(str).tolist()
    own = _own_naming(regions)
    foreign, problem = _foreign_namings(names, own) if own is not None else ([], "")

    numbers = np.full(len(regions), -1, dtype=np.int64)
    absent, ambiguous = [], []
    for row, region in enumerate(regions):
        aliases = [_key(region)]
        if own is not None and aliases[0] in own.row_of:
            aliases = [naming.keys[own.row_of[aliases[0]]] for naming in foreign]
        found = {tuple(columns.get(alias, ())) for alias in aliases}  # one entry where the namings agree
        if found <= {()}:
            absent.append(region)
        elif len(found) == 1 and len(min(found)) == 1:
            numbers[row] = min(found)[0]
        else:
            ambiguous.append(region)
    naming = f"schaefer-{foreign[0].n_parcels} {foreign[0].name}" if foreign else ""
    return RegionNumbers(numbers, naming, absent, ambiguous, problem)


def _own_naming(regions: list[str]) -> _Naming | None:
    """The naming of the atlas' own parcels; None if it has none, or not the published ones."""
    parcels, prefixes = _parcels(regions)
    for naming in _namings():
        if parcels == naming.row_of.keys() and _fits(naming, prefixes):
            return naming
    return None


def _foreign_namings(names: Sequence[str], own: _Naming) -> tuple[list[_Naming], str]:
    """The namings of the atlas' size that explain all parcels of the table, or why there is none."""
    parcels, prefixes = _parcels(names)
    if not parcels:
        return [], ""
    possible = [naming for naming in _namings() if _fits(naming, prefixes)]
    explaining = [naming for naming in possible if parcels <= naming.row_of.keys()]
    if not explaining:
        closest = max(possible or _namings(), key=lambda naming: len(parcels & naming.row_of.keys()))
        unknown = sorted(parcels - closest.row_of.keys())
        return [], (
            f"{len(unknown)} of {len(parcels)} Schaefer names are of no one known release, for instance "
            f"{unknown[:3]} (closest: schaefer-{closest.n_parcels} {closest.name})"
        )
    of_size = [naming for naming in explaining if naming.n_parcels == own.n_parcels]
    smallest = min(explaining, key=lambda naming: naming.n_parcels)
    complete = len(parcels) >= _NEARLY_COMPLETE * smallest.n_parcels
    if not of_size or (complete and smallest.n_parcels != own.n_parcels):
        return [], f"the names are those of schaefer-{smallest.n_parcels}, not of schaefer-{own.n_parcels}"
    return of_size, ""


def _parcels(names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Keys of the Schaefer names, and the prefixes that they come with ("7networks_", "17networks_")."""
    keys = {_key(name) for name in names}
    prefixes = {match[0] for name in names if (match := _PREFIX.match(_words(name)))}
    return {key for key in keys if _SCHAEFER.match(key)}, prefixes


def _fits(naming: _Naming, prefixes: set[str]) -> bool:
    """Names that say how many networks they belong to belong to no other."""
    return all(naming.name.startswith(prefix[:-1]) for prefix in prefixes)


@functools.cache
def _namings() -> tuple[_Naming, ...]:
    return tuple(
        _Naming(size, name, [_key(parcel) for parcel in parcels])
        for size in SCHAEFER_SIZES
        for name, parcels in schaefer_names("17networks", size).items()
    )


def _key(name: str) -> str:
    """One spelling of a name: lower case, words joined by "_", without "7Networks_"."""
    return _PREFIX.sub("", _words(name))


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")
